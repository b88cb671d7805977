"""How the SDK's client uses connections: never more than it may, and without headers of its own.

Left alone, the SDK opens as many connections as there are threads and throws those above its
number away after each request. Here the number is a bound: a request without a connection
waits for one, at most as long as it would wait for an answer. A process that is forked gets
connections of its own.

The SDK has no setting for this, so `bound_connections` reaches into its session. Should a later
SDK keep its pools elsewhere, connections are unbounded again, and nothing else changes.
"""

from __future__ import annotations

import logging
import os
import threading
from queue import LifoQueue
from typing import Any, Final

from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, EmptyPoolError
from urllib3.response import HTTPResponse
from urllib3.util import SKIP_HEADER

__all__ = ["bound_connections", "strip_sdk_headers"]

_log: Final = logging.getLogger(__name__)
_SDK_HEADERS: Final = ("amz-sdk-invocation-id", "amz-sdk-request", "Accept-Encoding")


class _ReleasingResponse(HTTPResponse):
    """An answer that gives its place in the pool back when it is closed, not only at its end."""

    def close(self) -> None:
        """Close the connection, maybe in the middle of a body; the place is free for another one."""
        super().close()
        self.release_conn()


class _BoundedPool(HTTPConnectionPool):
    """A pool that never has more connections than its size, and shares none with another process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "block": True})
        self._owner_pid = os.getpid()
        self._renewing = threading.Lock()

    def _get_conn(self, timeout: float | None = None) -> Any:
        if self._owner_pid != os.getpid():
            self._renew()
        return super()._get_conn(timeout)

    def _renew(self) -> None:
        """Begin anew in a forked process.

        The idle connections are the parent's as well: two processes that talk on one of them read
        each other's answers.
        """
        with self._renewing:
            if self._owner_pid == os.getpid() or self.pool is None:
                return
            places: LifoQueue[Any] = LifoQueue(self.pool.maxsize)
            for _ in range(self.pool.maxsize):
                places.put(None)
            self.pool = places
            self._owner_pid = os.getpid()

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request when there is a connection for it."""
        kwargs.setdefault("pool_timeout", self.timeout.read_timeout)
        # The SDK knows which redirects of a store to obey; the HTTP library stumbles over a 303.
        kwargs["redirect"] = False
        try:
            response = super().urlopen(*args, **kwargs)
        except EmptyPoolError as error:
            _log.warning(
                "all connections to %s are in use and none became free in time: close bodies that are no "
                "longer read, or raise max_connections",
                self.host,
            )
            raise ConnectTimeoutError(f"no free connection to {self.host}") from error
        if type(response) is HTTPResponse:
            response.__class__ = _ReleasingResponse
        return response


def bound_connections(client: Any) -> None:
    """Let a client of the SDK never open more connections to a host than its configuration says.

    Args:
        client: a fresh one; its pools are made when the first request goes out.
    """
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    kinds: dict[str, type] | None = getattr(session, "_pool_classes_by_scheme", None)
    if kinds is None:
        _log.debug("this version of the SDK keeps its pools elsewhere; connections are not bounded")
        return
    for scheme, kind in tuple(kinds.items()):
        kinds[scheme] = type(f"Bounded{kind.__name__}", (_BoundedPool, kind), {})


def strip_sdk_headers(client: Any) -> None:
    """Leave the SDK's own headers out of every request, for stores that sign them differently (GCS).

    Some are added before the signature and some after it. What is signed must not vanish later,
    so they are removed at both places.

    Args:
        client: of the SDK.
    """
    client.meta.events.register("before-sign.s3", _strip)
    client.meta.events.register("before-send.s3", _strip_all)


def _strip(request: Any, **_: Any) -> None:
    for name in _SDK_HEADERS:
        if name in request.headers:
            del request.headers[name]


def _strip_all(request: Any, **_: Any) -> None:
    _strip(request)
    request.headers["Accept-Encoding"] = SKIP_HEADER  # else the HTTP library adds one
