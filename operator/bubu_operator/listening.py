"""Sockets to listen on: at one address, or at every one that the machine has.

`EVERYWHERE` is both families: clusters may give pods IPv4 addresses, IPv6 addresses, or both, and the kubelet
asks at the pod's own. An address, ``0.0.0.0`` and ``::`` too, is taken as it is.
"""

from __future__ import annotations

import errno
import socket

from bubu_operator.defaults import EVERYWHERE

__all__ = ["open_listener"]

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def open_listener(host: str, port: int, *, backlog: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: an address or a name, or `EVERYWHERE`.
        port: 0 picks a free one.
        backlog: how many connections may wait to be accepted.

    Raises:
        OSError: the address cannot be had.
    """
    if host != EVERYWHERE:
        return _open(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port, backlog)
    try:
        return _open(socket.AF_INET6, "::", port, backlog, both=True)
    except OSError as error:
        # A port that is taken is taken; only a machine without IPv6 is another matter.
        if error.errno not in _NO_IPV6:
            raise
    return _open(socket.AF_INET, "0.0.0.0", port, backlog)  # noqa: S104 - others call from outside the pod


def _open(
    family: socket.AddressFamily, host: str, port: int, backlog: int, *, both: bool = False
) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where a socket says that it speaks TCP, which one made by
    # socket.create_server does not: each answer then waits 40 ms for the client's delayed acknowledgement
    # (measured).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            # What a machine has as its default (net.ipv6.bindv6only) must not matter.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener
