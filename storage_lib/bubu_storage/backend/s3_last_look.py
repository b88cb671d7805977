"""Connections of the SDK that look before they send a deletion; see `bubu_storage.backend.last_look`.

The look comes after the connection stands, which may take long, and again between the pieces of a longer
request. Where the SDK keeps its connections elsewhere there is none, and nothing else changes.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from urllib3.connection import HTTPConnection

from bubu_storage.backend.last_look import LastLook

__all__ = ["is_deletion", "watch_connections"]

_PIECE_BYTES: Final = 16_384
"""A record of TLS; a request to delete 1,000 objects has some ten of them."""


def watch_connections(client: Any) -> LastLook | None:
    """Let the connections of an SDK's client look before they send deletions.

    Args:
        client: a fresh one; its pools are made when the first request goes out.

    Returns:
        Where checks can be installed; None if this version of the SDK keeps its connections elsewhere.
    """
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    kinds: dict[str, Any] | None = getattr(session, "_pool_classes_by_scheme", None)
    if not kinds or any(not hasattr(kind, "ConnectionCls") for kind in kinds.values()):
        return None
    look = LastLook()
    for scheme, kind in tuple(kinds.items()):
        watched = type(
            f"Watched{kind.ConnectionCls.__name__}",
            (_WatchedConnection, kind.ConnectionCls),
            {"last_look": look},
        )
        kinds[scheme] = type(f"Watched{kind.__name__}", (kind,), {"ConnectionCls": watched})
    return look


def is_deletion(method: str, url: str) -> bool:
    """Tell whether a request deletes objects: one, or many by a POST."""
    if method == "POST":
        return "delete" in parse_qs(urlsplit(url).query, keep_blank_values=True)
    return method == "DELETE"


class _WatchedConnection(HTTPConnection):
    """Asks before the bytes of a deletion go out."""

    last_look: LastLook
    _deletes = False

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        """Note what the request is."""
        self._deletes = is_deletion(method, url)
        super().putrequest(method, url, *args, **kwargs)

    def send(self, data: Any) -> None:
        """Send a part of a request, looking before each piece of it."""
        if not (self._deletes and self.last_look.is_wanted and isinstance(data, bytes)):
            super().send(data)
            return
        if self.sock is None:
            self.connect()  # it may take long: the look comes after it
        for start in range(0, len(data), _PIECE_BYTES):
            self.last_look.ask()
            super().send(data[start : start + _PIECE_BYTES])
