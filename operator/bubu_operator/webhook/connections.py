"""HTTP/1.1 on a connection, with limits that uvicorn does not set: how many, how long, how large.

Anybody who reaches the port could otherwise hold connections for ever: uvicorn waits without
end for the rest of a head, and for a client that does not read its answer. Each TLS
connection costs about 370 KiB (measured), so many of them are a matter of memory, too.

Invariants: a head that has begun is complete within `HEAD_SECONDS`; a request is answered, and
the answer taken, within `REQUEST_SECONDS`; there are at most `MAX_CONNECTIONS`. At the limit the
connection that has waited longest for a request gives way to the new one; requests that are
being answered never do, nor do those whose answer may still be in the process; of clients that do not
read their answers, there are at most `MAX_STALLED`. What is no part of a body (heads, trailers, what
belongs to chunks) is at most `MAX_HEAD_BYTES` at a time, and at most `MAX_PIPELINED` requests with
`MAX_HEAD_BYTES` in all their heads wait for the answer to another.
What is no proper request is refused once all requests before it are answered, and nothing after it is read.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from enum import IntEnum, auto
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bubu_operator.webhook.exchange import WRITE_PIECE_BYTES, Exchange

__all__ = ["MAX_CONNECTIONS", "BoundedProtocol"]

MAX_CONNECTIONS: Final = 512
"""An API server has at most some hundreds of requests that write under way."""

MAX_HEAD_BYTES: Final = 16 * 1024
HEADER_BYTES: Final = 32
"""What a header counts beside its name and value: many small ones take memory, too."""

MAX_PIPELINED: Final = 64
MAX_STALLED: Final = 32
"""An answer may be 2 MB, and an API server reads it at once."""

HEAD_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 0.1
"""What was written is out of the process by then, where the client reads."""

_REFUSAL: Final = "Invalid HTTP request received."


class _Phase(IntEnum):
    """What a connection is waiting for; integers, because others are hashed by Python code."""

    IDLE = auto()
    HEAD = auto()
    REQUEST = auto()


_SECONDS: Final = {_Phase.HEAD: HEAD_SECONDS, _Phase.REQUEST: REQUEST_SECONDS}


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with deadlines and limits, and exchanges of our own.

    Of uvicorn's options it knows those that concern a plain HTTP server: neither WebSockets nor
    an access log, nor a limit of concurrency.
    """

    waiting_since: float = 0.0
    _exchange: Exchange | None = None
    """The latest; with pipelined requests others before it may be unanswered."""
    _answering: Exchange | None = None
    """The one whose turn it is, or was."""
    _answered_at: float = -math.inf
    _waiting_bytes: int = 0
    """In the heads of the exchanges that wait; what is taken away is not subtracted until all are."""
    _in_head: bool = False
    _head_bytes: int = 0
    _hosts: int = 0
    _known_url: bytes = b""
    """An API server asks for the same target again and again."""
    _target: tuple[str, bytes, bytes] = ("", b"", b"")
    _beside_body: int = 0
    """Bytes that came since anything of a body, or since the end of a head or a request; what came
    in the same piece of `MAX_HEAD_BYTES` as those does not count."""
    _ignores_rest: bool = False
    _owes_refusal: bool = False
    _phase: _Phase = _Phase.IDLE
    _due: float = math.inf
    _timer: asyncio.TimerHandle | None = None
    _timer_due: float = math.inf
    """Not after `_due`. A timer that comes too early is set anew then, so that requests move none."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # It refers to the connection, which may never be made: a failed handshake tells nobody.
        self.parser = None  # type: ignore[assignment]
        config: Any = self.config
        self._app: Callable[..., Any] = config.loaded_app
        self._waiting: deque[Exchange] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; make room if there are too many."""
        super().connection_made(transport)
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        # TLS would keep half a megabyte back before it says that the client does not read.
        transport.set_write_buffer_limits(WRITE_PIECE_BYTES)
        self._rest()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; no timer outlives its connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for exchange in (self._exchange, self._answering, *self._waiting):
            if exchange is not None:
                exchange.break_off()
        super().connection_lost(exc)
        # Each of these refers to the connection, too, and the collector comes rarely.
        self._exchange = self._answering = None
        self._waiting.clear()
        self.transport = None  # type: ignore[assignment]
        del self._parser

    def shutdown(self) -> None:
        """Finish what has begun, then close."""
        if self._exchange is None or self._exchange.is_complete:
            self._close()
        else:
            self._exchange.keep_alive = False

    @property
    def is_waiting(self) -> bool:
        """No request is being answered."""
        return self._exchange is None or self._exchange.is_complete

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, and see what is awaited now."""
        if self._ignores_rest or self.transport.is_closing():
            return
        if len(data) <= MAX_HEAD_BYTES:
            self._feed(data)
        else:
            pieces = memoryview(data)
            for start in range(0, len(data), MAX_HEAD_BYTES):
                if not self._ignores_rest:
                    self._feed(pieces[start : start + MAX_HEAD_BYTES])
        self._look()

    def pause_writing(self) -> None:
        """Note that the client does not read; end the connection that has waited longest where many wait."""
        super().pause_writing()
        stalled = [
            other
            for other in cast("set[BoundedProtocol]", self.connections)
            if other.flow.write_paused and not other.transport.is_closing()
        ]
        if len(stalled) > MAX_STALLED:
            victim = min(stalled, key=lambda other: other._due)  # noqa: SLF001 - of this class
            # This is called out of a transport's writing; it may be that very one.
            self.loop.call_soon(victim.transport.abort)

    def _feed(self, data: bytes | memoryview) -> None:
        self._beside_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse()
        else:
            if self._beside_body > MAX_HEAD_BYTES:
                self._refuse()

    # The parser calls these:

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        self._head_bytes = self._hosts = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which nobody needs.

        Raises:
            ValueError: there are too many.
        """
        if not self._in_head:
            return
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self._head_bytes += len(name) + len(value) + HEADER_BYTES
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("too large a head")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is complete.

        Raises:
            ValueError: it is not answered; the parser makes an error of its own of this.
        """
        self._in_head = False
        self._beside_body = 0
        parser = self._parser
        version = parser.get_http_version()
        if version != "1.0" and (version != "1.1" or self._hosts != 1):
            raise ValueError("neither HTTP/1.0 nor HTTP/1.1 with one Host")
        head_bytes = self._head_bytes + len(self.url)
        if head_bytes > MAX_HEAD_BYTES:
            raise ValueError("too large a head")
        if parser.should_upgrade():
            raise ValueError("no other protocol is spoken, and the parser reads no body of such a request")
        if len(self._waiting) >= MAX_PIPELINED or self._waiting_bytes + head_bytes > MAX_HEAD_BYTES:
            raise ValueError("too many requests at once")
        if self.url != self._known_url:
            self._target = self._split(self.url)
            self._known_url = self.url
        path, raw_path, query = self._target
        exchange = Exchange(
            {
                "type": "http",
                "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
                "http_version": version,
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme,
                "method": parser.get_method().decode("ascii"),
                "root_path": self.root_path,
                "path": path,
                "raw_path": raw_path,
                "query_string": query,
                "headers": self.headers,
                "state": self.app_state.copy(),
            },
            self.transport,
            self.flow,
            default_headers=self.server_state.default_headers,
            keep_alive=version == "1.1" and parser.should_keep_alive(),
            expects_continue=self.expect_100_continue and version == "1.1",
            on_complete=self.on_response_complete,
        )
        before, self._exchange = self._exchange, exchange
        if before is None or before.is_complete:
            self._answer(exchange)
        else:
            self.flow.pause_reading()
            self._waiting.append(exchange)
            self._waiting_bytes += head_bytes

    def _split(self, url: bytes) -> tuple[str, bytes, bytes]:
        """Path, raw path and query of a target.

        Raises:
            ValueError, httptools.HttpParserError: there is no path in it.
        """
        target = httptools.parse_url(url)
        path = target.path.decode("ascii")
        raw_path = self.root_path.encode("ascii") + target.path
        return self.root_path + (unquote(path) if "%" in path else path), raw_path, target.query or b""

    def on_body(self, body: bytes) -> None:
        """A piece of the latest request's body."""
        self._beside_body = 0
        if self._exchange is not None:
            self._exchange.take(body)

    def on_message_complete(self) -> None:
        """The latest request is there as a whole."""
        self._beside_body = 0
        if self._exchange is not None:
            self._exchange.end()

    # And exchanges this:

    def on_response_complete(self) -> None:
        """An answer is out; the next request may be there already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            # Its deadline stays: the answer has to be taken.
            return
        self._rest()
        self._answered_at = self.waiting_since
        if self._waiting:
            following = self._waiting.popleft()
            if not self._waiting:
                self._waiting_bytes = 0
            self._answer(following)
        elif self._owes_refusal:
            self._say_refusal()
        elif self.flow.read_paused:
            self.flow.resume_reading()
        self._look()

    def _answer(self, exchange: Exchange) -> None:
        if exchange.is_over:
            self._say_refusal()
            return
        self._answering = exchange
        task = self.loop.create_task(exchange.run(self._app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _refuse(self) -> None:
        """What has come last is no HTTP, or too much of it; what came before is answered."""
        self._ignores_rest = True
        self.logger.warning(_REFUSAL)
        exchange = self._exchange
        if exchange is None or (exchange.is_complete and not exchange.has_more):
            self._say_refusal()
        elif not exchange.has_more:
            self._owes_refusal = True
        elif exchange.is_complete or exchange.has_begun:
            # Its body is wrong, and its answer known: there is nothing more to say.
            self._close()
        else:
            exchange.break_off()
            if exchange not in self._waiting:
                self._say_refusal()

    def _say_refusal(self) -> None:
        self._enter(_Phase.HEAD)
        self.send_400_response(_REFUSAL)

    def _close(self) -> None:
        """Send what is written, within the time of a head."""
        self._enter(_Phase.HEAD)
        self.transport.close()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        exchange = self._exchange
        if exchange is not None and not exchange.is_complete:
            self._enter(_Phase.REQUEST)
        elif self._in_head or self._beside_body or (exchange is not None and exchange.has_more):
            self._enter(_Phase.HEAD)
        elif self._phase is not _Phase.IDLE:
            self._rest()

    def _rest(self) -> None:
        """Nothing is awaited but another request."""
        self._phase = _Phase.IDLE
        self.waiting_since = self.loop.time()
        self._set_due(self.waiting_since + self.timeout_keep_alive)

    def _enter(self, phase: _Phase) -> None:
        """Start the time of a phase; more of the same phase does not prolong it."""
        if phase is not self._phase:
            self._phase = phase
            self._set_due(self.loop.time() + _SECONDS[phase])

    def _set_due(self, due: float) -> None:
        self._due = due
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        is_early = self._timer_due < self._due
        self._timer, self._timer_due = None, math.inf
        if is_early:
            self._set_due(self._due)
        elif self._phase is _Phase.IDLE and not self.transport.is_closing():
            self._close()
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        settled = self.loop.time() - SETTLE_SECONDS
        others = [
            other
            for other in cast("set[BoundedProtocol]", self.connections)
            if other is not self
            and other.is_waiting
            and other._answered_at <= settled  # noqa: SLF001 - of this class
            and not other.transport.is_closing()
        ]
        victim = min(others, key=lambda other: other.waiting_since, default=self)
        victim.transport.abort()
