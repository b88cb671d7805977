"""Which addresses a store may have, where somebody else chooses the endpoint.

A program that opens stores on behalf of others (the operator's controller, a shared service)
sends requests wherever they say. Private networks are where stores are; link-local addresses and
a few others are where clouds keep their metadata services, and never hold a store.

Pure, and judged on the address itself: a name may lead elsewhere a moment later, so what matters
is the address that a connection is really made to (`bubu_storage.backend.s3_guard`).
"""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

__all__ = ["ADDRESS_POLICIES", "address_refusal"]

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

ADDRESS_POLICIES: Final = ("any", "remote", "remote-or-loopback")
"""``any``: no guard. ``remote``: neither special addresses nor this machine. ``remote-or-loopback``:
this machine as well."""

_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "fd00:a9fe:a9fe::1",  # Akamai
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle
    )
)
"""Metadata services outside the link-local ranges."""

_METADATA_NETWORK: Final = ipaddress.ip_network("fd00:ec2::/32")
"""AWS keeps its services for machines there, those that hand out credentials (::254, ::23) among them."""

_IPV4_AT_THE_END: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of one's own; its other forms end in zeros, and are refused as 0.0.0.0
        "::ffff:0:0:0/96",  # translated
        "::/96",  # compatible
    )
)
_IPV4_BITS: Final = 0xFFFFFFFF


def address_refusal(address: str, policy: str) -> str:
    """Return why an address must not be called, as "a link-local address"; "" when it may.

    Args:
        address: a numeric address; an IPv6 zone is ignored.
        policy: one of `ADDRESS_POLICIES`.

    Raises:
        ValueError: it is no address.
    """
    if policy == "any":
        return ""
    outer = ipaddress.ip_address(address.split("%", 1)[0])
    # Whatever is wrapped counts as well: an IPv6 socket reaches IPv4 by several ways of writing it.
    for inner in (outer, *_wrapped(outer)):
        reason = _refusal_of(inner, allow_loopback=policy == "remote-or-loopback")
        if reason:
            return reason
    return ""


def _wrapped(address: IpAddress) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour]
    if address.teredo is not None:
        found.append(address.teredo[1])
    # "::" and "::1" are themselves, and no IPv4 addresses in disguise.
    if any(address in network for network in _IPV4_AT_THE_END) and int(address) > 1:
        found.append(ipaddress.IPv4Address(int(address) & _IPV4_BITS))
    return [inner for inner in found if inner is not None]


def _refusal_of(address: IpAddress, *, allow_loopback: bool) -> str:
    if address in _METADATA or address in _METADATA_NETWORK:
        return "the address of a cloud's metadata service"
    if address.is_link_local:
        return "a link-local address, where clouds keep their metadata services"
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):  # noqa: PLR2004 - IP's own number
        return "no address of another machine"
    if address.is_multicast or address == _BROADCAST:
        return "an address of many machines"
    if address.is_loopback and not allow_loopback:
        return "this machine itself"
    return ""


_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_BROADCAST: Final = ipaddress.ip_address("255.255.255.255")
