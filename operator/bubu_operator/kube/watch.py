"""One open watch of the API server: an iterator of events that another thread can end.

A stream ends quietly when the server closes it at its time; silence, a break or an error
event raise. After `WatchStream.close` the iterator ends whatever it was waiting for.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, cast

import urllib3

from bubu_operator.errors import KubeApiError, KubeTimeoutError, KubeUnreachableError, kube_error
from bubu_operator.kube.resources import JsonObject

__all__ = ["WatchEvent", "WatchStream"]

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch.

    Attributes:
        type: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``.
        object: the object (a bookmark's holds nothing but metadata.resourceVersion).
    """

    type: str
    object: JsonObject

    @property
    def resource_version(self) -> str:
        """Where to go on from after this event."""
        metadata: JsonObject = self.object.get("metadata") or {}
        return str(metadata.get("resourceVersion") or "")


class WatchStream:
    """Iterate for `WatchEvent`; use as a context manager, or call `close`."""

    def __init__(self, response: urllib3.HTTPResponse, *, what: str) -> None:
        self._response = response
        self._what = what
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[WatchEvent]:
        """Yield events until the server or `close` ends the stream.

        Raises:
            KubeGoneError: the version watched from is forgotten; list again.
            KubeTimeoutError: no byte for the inactivity time.
            KubeApiError: any other error event, or a broken connection.
        """
        buffered = b""
        try:
            for chunk in self._response.stream(_CHUNK_BYTES):
                buffered += chunk
                *lines, buffered = buffered.split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._event(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: the socket was shut under a reading thread.
            if self._closed.is_set():
                return
            if isinstance(error, KubeApiError):
                raise
            if isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
                raise KubeTimeoutError(f"watch {self._what}: silent for too long") from error
            if isinstance(error, (urllib3.exceptions.HTTPError, OSError)):
                raise KubeUnreachableError(
                    f"watch {self._what}: broken off: {type(error).__name__}"
                ) from error
            raise

    def _event(self, line: bytes) -> WatchEvent:
        try:
            read: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise KubeUnreachableError(f"watch {self._what}: a line is no JSON") from error
        parsed = cast("JsonObject", read) if isinstance(read, dict) else {}
        obj: Any = parsed.get("object") or {}
        if not parsed or not isinstance(obj, dict):
            raise KubeUnreachableError(f"watch {self._what}: a line is no event")
        body = cast("JsonObject", obj)
        kind = str(parsed.get("type") or "")
        if kind == "ERROR":
            raise kube_error(
                f"watch {self._what}: {body.get('message') or 'error'}",
                status=int(body.get("code") or 0),
                reason=str(body.get("reason") or ""),
            )
        return WatchEvent(kind, body)

    def close(self) -> None:
        """End the stream; may be called from any thread, and twice."""
        self._closed.set()
        # Wakes a thread that blocks in recv; closing alone does not on Linux.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, ValueError):
            self._response.close()
