"""Addresses as options have them."""

from __future__ import annotations

__all__ = ["split_address"]


def split_address(text: str) -> tuple[str, int | None]:
    """Return host and port of ``HOST:PORT``, ``[ADDRESS]:PORT`` or one without a port.

    Raises:
        ValueError: it is none of these.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no address: write HOST:PORT, or [ADDRESS]:PORT for IPv6")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and int(port) <= 65535)):  # noqa: PLR2004 - the last port
        raise ValueError(f"{text!r} is no address: write HOST:PORT")
    return host, int(port) if port else None
