"""Why nobody was reached, in words for people.

The SDK says the same of a name that nobody knows and of a port that nobody listens on, and quotes the whole
URL of the request. What helps is the address, which is the caller's own setting, and which of the two it was.
Invariant: of a URL only scheme, host and port are shown; user, path and query may hold what is secret.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from urllib3 import exceptions as http

__all__ = ["not_reached"]


def not_reached(error: Exception) -> str:
    """Return what to say of a connection that did not come about, as "the store cannot be reached at …"."""
    said: dict[str, Any] = getattr(error, "kwargs", {})
    place = _address(str(said.get("endpoint_url", "")))
    where = f" at {place}" if place else ""
    return f"the store cannot be reached{where}: {_cause(said.get('error'))}"


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if not host:
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _cause(error: object) -> str:
    if isinstance(error, http.NameResolutionError):
        return "its name cannot be resolved; correct the endpoint, or look at DNS"
    cause = error.__cause__ if isinstance(error, BaseException) else None
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there; correct the endpoint, or start the store"
    return "no connection comes about; check the endpoint and the network"
