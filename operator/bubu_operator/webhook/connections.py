"""Limits on connections, which uvicorn does not set: how many, and how long each may take.

Anybody who reaches the port could otherwise hold connections for ever: uvicorn waits without
end for the rest of a head, and for a client that does not read its answer. Each TLS
connection costs about 370 KiB (measured), so many of them are a matter of memory, too.

Invariants: a head that has begun is complete within `HEAD_SECONDS`; a request is answered, and
the answer taken, within `REQUEST_SECONDS`; there are at most `MAX_CONNECTIONS`. At the limit the
connection that has waited longest for a request gives way to the new one; requests that are
being answered never do.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any, Final, cast

import h11
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["MAX_CONNECTIONS", "BoundedProtocol", "ServerLoop"]

MAX_CONNECTIONS: Final = 512
"""An API server has at most some hundreds of requests that write under way."""

MAX_HEAD_BYTES: Final = 16 * 1024
HEAD_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 30.0
HANDSHAKE_SECONDS: Final = 10.0


class _Phase(Enum):
    """What a connection is waiting for."""

    IDLE = auto()
    HEAD = auto()
    REQUEST = auto()


_SECONDS: Final = {_Phase.HEAD: HEAD_SECONDS, _Phase.REQUEST: REQUEST_SECONDS}


class _Connection(h11.Connection):
    """Gives out the head of an answer with what follows it: one TLS record and one packet, not two.

    Every answer of ours is there as a whole when its head is; one that broke off between the two
    would be worth nothing without its head either.
    """

    _head: bytes = b""

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]
        data = super().send(event)
        if isinstance(event, h11.Response):
            self._head = data or b""
            return b""
        if self._head and data is not None:
            data, self._head = self._head + data, b""
        return data


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines and a limit."""

    _phase: _Phase = _Phase.IDLE
    _deadline: asyncio.TimerHandle | None = None
    waiting_since: float = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Connection(h11.SERVER, self.config.h11_max_incomplete_event_size or MAX_HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; make room if there are too many."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._arm_keep_alive()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; no timer outlives its connection."""
        self._enter(_Phase.IDLE)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, and see what is awaited now."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """An answer is out; the next request may be in the buffer already."""
        self._enter(_Phase.IDLE)
        self.waiting_since = self.loop.time()
        super().on_response_complete()
        self._look()

    @property
    def is_waiting(self) -> bool:
        """No request is being answered."""
        cycle = cast("Any", self.cycle)
        return cycle is None or bool(cycle.response_complete)

    def _look(self) -> None:
        if self.transport.is_closing():
            self._enter(_Phase.IDLE)
        elif not self.is_waiting:
            self._enter(_Phase.REQUEST)
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._enter(_Phase.HEAD)
        else:
            self._enter(_Phase.IDLE)
            self._arm_keep_alive()

    def _enter(self, phase: _Phase) -> None:
        """Start the time of a phase; more of the same phase does not prolong it."""
        if phase is self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if phase in _SECONDS:
            self._deadline = self.loop.call_later(_SECONDS[phase], self.transport.abort)

    def _arm_keep_alive(self) -> None:
        """Unlike uvicorn, which does it after an answer only: one that is never used would stay."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _make_room(self) -> None:
        others = [
            other
            for other in cast("set[BoundedProtocol]", self.connections)
            if other is not self and other.is_waiting and not other.transport.is_closing()
        ]
        victim = min(others, key=lambda other: other.waiting_since, default=self)
        victim.transport.abort()


class ServerLoop(uvloop.Loop):
    """An event loop whose TLS listeners do not wait long for a handshake, or for a farewell.

    uvloop's, because a pod waits: the standard library's TLS and transports are Python, and take more
    of the core for each answer (a fifth of a handler that does nothing).
    """

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """As the parent, with shorter times where TLS is spoken."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
            options.setdefault("ssl_shutdown_timeout", HANDSHAKE_SECONDS)
        return cast("asyncio.Server", await super().create_server(*args, **options))
