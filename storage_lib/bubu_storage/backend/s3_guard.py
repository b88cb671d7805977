"""Connections that are made to permitted addresses only, judged at the moment they are made.

Invariants: a name is resolved once a connection, every address that it has is judged, and the
connection goes to one of exactly those addresses; so a name that changes its mind between a look
and a call (DNS rebinding) leads nowhere. Where the SDK cannot be guarded, no client is built.

Behind a proxy it is the proxy that resolves names: its own address is the administrator's choice
and not judged, and what it may reach is for its rules to say. A numeric endpoint is judged all the
same.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from bubu_storage.backend.addresses import ADDRESS_POLICIES, address_refusal
from bubu_storage.errors import AddressNotAllowedError, ConfigurationError

__all__ = ["guard_connections"]

SocketAddress: TypeAlias = tuple[Any, ...]
MOST_TRIED: Final = 8
"""Each address may take the whole connect timeout, and a name can have thousands."""

_FOUND: Final = 4
"""Where ``getaddrinfo`` keeps the socket address."""


def guard_connections(client: Any, policy: str) -> None:
    """Let a client of the SDK connect to permitted addresses only.

    Args:
        client: a fresh one; its pools are made when the first request goes out.
        policy: one of `ADDRESS_POLICIES`.

    Raises:
        ConfigurationError: an unknown policy, or an SDK that keeps its connections elsewhere.
    """
    if policy not in ADDRESS_POLICIES:
        raise ConfigurationError(
            f"address policy is {policy!r}; it must be one of {', '.join(ADDRESS_POLICIES)}"
        )
    if policy == "any":
        return
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    kinds: dict[str, Any] | None = getattr(session, "_pool_classes_by_scheme", None)
    if not kinds or any(not hasattr(kind, "ConnectionCls") for kind in kinds.values()):
        raise ConfigurationError(
            "this version of the SDK keeps its connections where they cannot be guarded, and the address "
            f"policy is {policy!r}: install another botocore"
        )
    for scheme, kind in tuple(kinds.items()):
        guarded = type(
            f"Guarded{kind.ConnectionCls.__name__}",
            (_GuardedConnection, kind.ConnectionCls),
            {"address_policy": policy},
        )
        kinds[scheme] = type(f"Guarded{kind.__name__}", (kind,), {"ConnectionCls": guarded})
    client.meta.events.register("before-send.s3", functools.partial(_judge_number, policy))


def _judge_number(policy: str, request: Any, **_: Any) -> None:
    """Refuse a numeric host whose address must not be called, however it is written.

    Raises:
        AddressNotAllowedError: see there; nothing was sent, neither to it nor to a proxy.
    """
    host: str = urlsplit(cast("str", request.url)).hostname or ""
    address = _as_number(host.rstrip("."))
    # A name is judged when it is connected to, by us or by a proxy.
    if address:
        _check(host, address, policy)


def _as_number(host: str) -> str:
    """Return a numeric host as people write it, ``0xa9fea9fe`` and the like included; "" for a name."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        pass
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


class _GuardedConnection(HTTPConnection):
    """Resolves, judges and connects in one step."""

    address_policy = "remote"

    def _new_conn(self) -> socket.socket:
        """Connect to a permitted address.

        Raises:
            AddressNotAllowedError: one of the name's addresses must not be called; nothing was sent.
        """
        if self.proxy is not None:
            return super()._new_conn()
        host = cast("str", cast("Any", self)._dns_host).strip("[]")  # noqa: SLF001 - `host` lacks the final dot
        try:
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, f"the name cannot be resolved: {error}") from error
        for entry in found:
            _check(host, str(entry[_FOUND][0]), self.address_policy)
        return self._connect_first(found)

    def _connect_first(self, found: list[Any]) -> socket.socket:
        last: OSError | None = None
        for family, kind, protocol, _, address in found[:MOST_TRIED]:
            try:
                return self._connect_one(lambda: socket.socket(family, kind, protocol), address)  # noqa: B023 - called at once
            except OSError as error:
                last = error
        if isinstance(last, TimeoutError):
            raise ConnectTimeoutError(
                self, f"Connection to {self.host} timed out. (connect timeout={self.timeout})"
            ) from last
        raise NewConnectionError(self, f"Failed to establish a new connection: {last}") from last

    def _connect_one(self, make: Callable[[], socket.socket], address: SocketAddress) -> socket.socket:
        sock = make()
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            if isinstance(self.timeout, (int, float)):
                sock.settimeout(self.timeout)
            if self.source_address:
                sock.bind(self.source_address)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock


def _check(host: str, address: str, policy: str) -> None:
    reason = address_refusal(address, policy)
    if reason:
        where = address if address == host else f"{host}, which is {address},"
        raise AddressNotAllowedError(
            f"the endpoint leads to {where} and that is {reason}; nothing was sent. Name the store's own "
            "address"
        )
