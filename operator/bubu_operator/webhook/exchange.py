"""One request and its answer: what an ASGI application sees of a connection.

uvicorn's own does the same in more steps, which a review that comes after a pause pays for three
times over: the core has slept, and has forgotten them.

Invariants: the head of an answer leaves together with what follows it, as one TLS record and one
packet; while it is held back, nothing of the answer has left, so a failure can still be told. A
body is handed on in the pieces in which it came. Nothing is written to a connection that is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, MutableMapping
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from bubu_operator.webhook.body import WHOLE_BODY

__all__ = ["WRITE_PIECE_BYTES", "Exchange", "Message"]

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]

WRITE_PIECE_BYTES: Final = 64 * 1024
"""A longer answer goes in pieces, each when the client has taken most of those before it: until then it is
not complete, and its time runs."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILURE: Final = b"Internal Server Error"
_FAILURE_HEADERS: Final = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", str(len(_FAILURE)).encode("ascii")),
    (b"connection", b"close"),
)
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class _Answer(Enum):
    """How far an answer is."""

    AWAITED = auto()
    HELD = auto()
    """There is a head, and nothing of it has left."""
    UNDER_WAY = auto()
    COMPLETE = auto()


class Exchange:
    """One request and its answer; made when the head of the request is there.

    Args:
        scope: of the ASGI application.
        transport: of the connection.
        flow: of the connection.
        default_headers: of every answer.
        keep_alive: the connection may serve another request.
        expects_continue: the client waits to be asked for the body.
        on_complete: called once, when the answer is written.

    Attributes:
        keep_alive: False closes the connection after the answer.
        has_more: the body is not complete yet.
        is_complete: the answer is written.
        is_over: it broke off: nobody waits for the answer.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_default_headers",
        "_expects_continue",
        "_flow",
        "_has_body",
        "_head",
        "_is_head",
        "_is_told",
        "_on_complete",
        "_remaining",
        "_scope",
        "_transport",
        "_waiter",
        "has_more",
        "is_complete",
        "is_over",
        "keep_alive",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        default_headers: list[tuple[bytes, bytes]],
        keep_alive: bool,
        expects_continue: bool,
        on_complete: Callable[[], None],
    ) -> None:
        scope["extensions"] = {WHOLE_BODY: self.whole_body}
        self._scope: dict[str, Any] | None = scope
        self._is_head = scope["method"] == "HEAD"
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._expects_continue = expects_continue
        self._on_complete = on_complete
        self.keep_alive = keep_alive
        self.has_more = True
        self.is_complete = False
        self._body: bytes | bytearray = b""
        self._waiter: asyncio.Future[None] | None = None
        self._answer = _Answer.AWAITED
        self._head = b""
        self._has_body = True
        self._remaining: int | None = None
        self._is_told = False
        self.is_over = False

    @property
    def has_begun(self) -> bool:
        """Something of the answer is on its way to the client."""
        return self.is_complete or self._answer is _Answer.UNDER_WAY

    def take(self, data: bytes) -> None:
        """Take a piece of the body; one that comes after the answer is of no interest any more."""
        if self.is_complete:
            return
        if self._body:
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += data
        else:
            self._body = data
        if len(self._body) > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        if self._waiter is not None:
            self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.has_more = False
        if self._waiter is not None:
            self._wake()

    def break_off(self) -> None:
        """The connection is over."""
        self.is_over = True
        if self._waiter is not None:
            self._wake()

    async def run(self, app: Callable[..., Any]) -> None:
        """Have the application answer; if it does not, say so, or close what it has begun."""
        # The scope refers to the exchange: without this, each request would wait for the collector.
        scope, self._scope = self._scope, None
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        except Exception:
            logger.exception("the application failed")
            self._fail()
        else:
            if not self.is_complete and not self.is_over:
                logger.error("the application returned without a complete answer")
                self._fail()

    async def receive(self) -> Message:
        """ASGI: the next piece of the body, or that nobody waits any more; one call at a time."""
        if self._expects_continue:
            self._expects_continue = False
            if self._answer is _Answer.AWAITED and not self._transport.is_closing():
                self._transport.write(_CONTINUE)
        while not self.is_over and not self.is_complete:
            more = self.has_more
            if self._body or not (more or self._is_told):
                body, self._body = bytes(self._body), b""
                self._is_told = not more
                return {"type": "http.request", "body": body, "more_body": more}
            if more:
                self._flow.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return {"type": "http.disconnect"}

    def whole_body(self, limit: int) -> bytes | None:
        """`WHOLE_BODY` of ASGI's extensions: the body at once, where nothing of it is awaited.

        Returns:
            What is left of it; None where more is to come, or it is larger than the limit, or nobody
            waits for an answer: `receive` has it then.
        """
        if self.has_more or self._is_told or self.is_over or len(self._body) > limit:
            return None
        self._is_told = True
        body, self._body = bytes(self._body), b""
        return body

    async def send(self, message: Message) -> None:
        """ASGI: the head of the answer, then its body in one or more pieces.

        Raises:
            RuntimeError: the application does not keep to ASGI, or to the length that it announced.
        """
        if self._flow.write_paused and not self.is_over:
            await self._flow.drain()
        if self.is_over:
            return
        kind, answer = message["type"], self._answer
        if kind == "http.response.start" and answer is _Answer.AWAITED:
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and answer in (_Answer.HELD, _Answer.UNDER_WAY):
            body, more = message.get("body", b""), message.get("more_body", False)
            if len(body) > WRITE_PIECE_BYTES and self._has_body:
                body = await self._in_pieces(body, more=more)
                if self.is_over:
                    return
            self._continue(body, more=more)
        else:
            raise RuntimeError(f"ASGI message {kind!r} does not belong here ({answer.name})")

    async def _in_pieces(self, body: bytes, *, more: bool) -> memoryview:
        """Write all of a large body but its last piece, as the client takes it; that one is returned."""
        rest = memoryview(body)
        self._check_length(len(rest), more=more)
        while len(rest) > WRITE_PIECE_BYTES and not self.is_over:
            self._continue(rest[:WRITE_PIECE_BYTES], more=True)
            rest = rest[WRITE_PIECE_BYTES:]
            if self._flow.write_paused:
                await self._flow.drain()
        return rest

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Prepare the head; names are in lower case, as ASGI has them."""
        lines = [STATUS_LINE[status]]
        length: int | None = None
        says_close = False
        for name, value in (*self._default_headers, *headers):
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and value == b"close":
                says_close = True
            lines.append(b"%b: %b\r\n" % (name, value))
        if says_close:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self._has_body = not self._is_head and status not in _WITHOUT_BODY
        self._remaining = length
        if length is None and self._has_body:
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a header of the answer holds a line break")
        self._head = head + b"\r\n"
        self._answer = _Answer.HELD

    def _continue(self, body: bytes | memoryview, *, more: bool) -> None:
        """Write what there is, with the head if that is still here."""
        if not self._has_body:
            data = b""
        elif self._remaining is None:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data = data if more else data + b"0\r\n\r\n"
        else:
            self._check_length(len(body), more=more)
            self._remaining -= len(body)
            data = body
        self._transport.write(self._head + data if self._head else data)
        self._head = b""
        if more:
            self._answer = _Answer.UNDER_WAY
            return
        self._answer = _Answer.COMPLETE
        self.is_complete = True
        if self._waiter is not None:
            self._wake()
        if not self.keep_alive:
            self._transport.close()
        self._on_complete()

    def _check_length(self, size: int, *, more: bool) -> None:
        left = self._remaining
        if left is not None and (size > left or (size < left and not more)):
            raise RuntimeError("the body of the answer is not as long as its head says")

    def _fail(self) -> None:
        """Say that there is no answer, or break off the one that has begun."""
        if self.is_over or self.is_complete:
            return
        if self._answer is _Answer.UNDER_WAY:
            self._transport.close()
            return
        self._start(HTTPStatus.INTERNAL_SERVER_ERROR, _FAILURE_HEADERS)
        self._continue(_FAILURE, more=False)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
