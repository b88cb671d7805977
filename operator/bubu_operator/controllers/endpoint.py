"""Whether a tenant's endpoint may be called from here: a first look, before anything is opened.

Whoever writes a config makes the controller send requests. What decides is the address that a
connection is really made to, and the library judges that at connect time
(`bubu_storage.backend.s3_guard`); this look says the same earlier, in words about the endpoint,
and catches what a proxy would hide: behind one, names are resolved elsewhere.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from bubu_operator.errors import EndpointRefusedError
from bubu_storage.backend.addresses import address_refusal

__all__ = ["LOOPBACK_FLAG", "Resolve", "address_policy", "addresses_of", "check_endpoint"]

Resolve: TypeAlias = Callable[[str], list[str]]

LOOPBACK_FLAG: Final = "--allow-loopback-endpoints"


def address_policy(*, allow_loopback: bool) -> str:
    """Return the policy for stores that tenants name; see `bubu_storage.settings.S3Settings`."""
    return "remote-or-loopback" if allow_loopback else "remote"


def addresses_of(host: str) -> list[str]:
    """Return what a name resolves to; nothing where it does not: the SDK says that better."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def check_endpoint(endpoint: str, policy: str, resolve: Resolve = addresses_of) -> None:
    """Look at where an endpoint leads; may take as long as the resolver does.

    Args:
        endpoint: URL; "" for AWS's own, which is fine.
        policy: see `address_policy`.
        resolve: from a host to its addresses.

    Raises:
        EndpointRefusedError: one of its addresses must not be called.
    """
    host = urlsplit(endpoint).hostname if endpoint else None
    if not host:
        return
    for address in resolve(host):
        reason = address_refusal(address, policy)
        if reason:
            is_local = not address_refusal(address, "remote-or-loopback")
            way_out = f"allow it by {LOOPBACK_FLAG}" if is_local else "name the store's own address"
            raise EndpointRefusedError(
                f"endpoint {endpoint} leads to {address} and that is {reason}; nothing was sent. To go on, "
                f"{way_out}"
            )
