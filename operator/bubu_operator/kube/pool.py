"""The pool of connections to an API server: what it retries, and who is asked before a request goes out.

Invariants: nothing but a GET on a pooled connection that had been closed is sent twice; a guard is
asked when the connection stands, so that its answer is not used up by connecting.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import urllib3
from urllib3.connection import HTTPConnection

__all__ = ["Guard", "connection_pool", "stand_guard"]

POOL_CONNECTIONS: Final = 32

Guard: TypeAlias = Callable[[str], float]
"""Asked before each request that is no GET, and again when its connection stands and it is about to
go out: returns the seconds it may take, or raises `KubeApiError`."""


class _OnceOnClosed(urllib3.Retry):
    """Sends a GET again when its pooled connection turns out to be closed, not when the server is silent."""

    def _is_read_error(self, err: Exception) -> bool:
        return isinstance(err, urllib3.exceptions.ProtocolError)


# A connection that cannot be made must show at once: callers have their own back-off.
_RETRIES: Final = _OnceOnClosed(
    total=1,
    connect=0,
    read=1,
    redirect=0,
    status=0,
    other=0,
    allowed_methods=frozenset({"GET"}),
    respect_retry_after_header=False,
    raise_on_status=False,
)

# As client-go: a peer that vanished without a word is noticed, even on a connection that only waits.
_SOCKET_OPTIONS: Final[list[tuple[int, int, int]]] = [
    *cast("list[tuple[int, int, int]]", HTTPConnection.default_socket_options),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 9))
        if hasattr(socket, name)
    ),
]


class _GuardedConnection(HTTPConnection):
    """Asks the guard when nothing is left to do but to send."""

    def request(self, method: str, url: str, *args: Any, **options: Any) -> None:
        """Send a request.

        Raises:
            KubeApiError: the guard's; nothing was sent.
        """
        if method != "GET":
            # Names, connections and handshakes may take longer than the guard's answer is good for.
            if self.is_closed:
                self.connect()
            self.guard(f"{method} {url}")
        super().request(method, url, *args, **options)

    @staticmethod
    def guard(what: str) -> float:
        """Stand in for the guard of the pool that a connection belongs to."""
        raise NotImplementedError(what)


def stand_guard(pool: urllib3.PoolManager, guard: Guard) -> None:
    """Have a guard asked by every connection of a pool right before a request that is no GET goes out."""
    kinds: dict[str, Any] = dict(pool.pool_classes_by_scheme)
    for scheme, kind in kinds.items():
        bases = (_GuardedConnection, kind.ConnectionCls)
        connection = type(f"Guarded{kind.ConnectionCls.__name__}", bases, {"guard": staticmethod(guard)})
        kinds[scheme] = type(f"Guarded{kind.__name__}", (kind,), {"ConnectionCls": connection})
    pool.pool_classes_by_scheme = kinds


def connection_pool(config: Any) -> urllib3.PoolManager:
    """Return the connections to one server; connections are made by and by.

    Args:
        config: a `PlainIdentity` or the ``kubernetes`` package's configuration: what is read here has
            the same name in both.
    """
    if config.proxy:
        from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415 - see the module

        config.retries, config.connection_pool_maxsize, config.keep_alive = _RETRIES, POOL_CONNECTIONS, True
        return cast("Any", RESTClientObject)(config).pool_manager
    more: dict[str, Any] = {}
    for name, option in (
        ("ca_cert_data", "ca_cert_data"),
        ("tls_server_name", "server_hostname"),
        ("assert_hostname", "assert_hostname"),
    ):
        value = getattr(config, name, None)
        if value is not None:
            more[option] = value
    return urllib3.PoolManager(
        cert_reqs=ssl.CERT_REQUIRED if config.verify_ssl else ssl.CERT_NONE,
        ca_certs=config.ssl_ca_cert,
        cert_file=config.cert_file,
        key_file=config.key_file,
        retries=_RETRIES,
        maxsize=POOL_CONNECTIONS,
        socket_options=_SOCKET_OPTIONS,
        **more,
    )
