"""Whether a tenant's endpoint may be called from here.

Whoever writes a config makes the controller send requests. Private addresses are where stores
are and stay allowed; link-local ones are where clouds keep their metadata services and never
hold a store, so they are refused before anything is sent. A name is judged by all that it
resolves to. A name that changes between this look and the connection is not caught here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from bubu_operator.errors import EndpointRefusedError

__all__ = ["Resolve", "addresses_of", "check_endpoint"]

Resolve: TypeAlias = Callable[[str], list[str]]

_METADATA: Final = frozenset({"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"})
"""Metadata services outside the link-local ranges: AWS and Google by IPv6, Alibaba, Azure."""


def addresses_of(host: str) -> list[str]:
    """Return what a name resolves to; nothing where it does not: the SDK says that better."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def check_endpoint(endpoint: str, resolve: Resolve = addresses_of) -> None:
    """Look at where an endpoint leads; may take as long as the resolver does.

    Args:
        endpoint: URL; "" for AWS's own, which is fine.
        resolve: from a host to its addresses.

    Raises:
        EndpointRefusedError: one of its addresses must not be called.
    """
    host = urlsplit(endpoint).hostname if endpoint else None
    if not host:
        return
    for text in resolve(host):
        address = ipaddress.ip_address(text.split("%", 1)[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if (
            address.is_link_local
            or address.is_multicast
            or address.is_unspecified
            or str(address) in _METADATA
        ):
            raise EndpointRefusedError(
                f"endpoint {endpoint} leads to {address}, where no store can be (link-local, multicast or a "
                "cloud's metadata service); nothing was sent. Name the store's own address"
            )
