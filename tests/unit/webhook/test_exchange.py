"""One request and its answer, without a socket: what leaves, in which pieces, and what a failure says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from bubu_operator.webhook.body import WHOLE_BODY
from bubu_operator.webhook.exchange import Exchange

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY = {"type": "http.response.body", "body": b"ok"}


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return not {"close", "abort"}.isdisjoint(self.calls)

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class Case:
    """An exchange on a transport of paper."""

    def __init__(
        self, method: str = "POST", *, keep_alive: bool = True, expects_continue: bool = False
    ) -> None:
        self.transport = Transport()
        self.completed = 0
        transport: Any = self.transport
        self.flow = FlowControl(transport)
        self.scope: dict[str, Any] = {"type": "http", "method": method}
        self.exchange = Exchange(
            self.scope,
            transport,
            self.flow,
            default_headers=[(b"date", b"today")],
            keep_alive=keep_alive,
            expects_continue=expects_continue,
            on_complete=self._complete,
        )

    def _complete(self) -> None:
        self.completed += 1

    def run(self, *messages: Any) -> list[bytes]:
        """Send messages, or raise an exception among them; returns what was written."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            del scope, receive
            for message in messages:
                if isinstance(message, Exception):
                    raise message
                await send(message)

        asyncio.run(self.exchange.run(app))
        return self.transport.written


@pytest.mark.parametrize("body", [b"ok", b""])
def test_the_head_of_an_answer_leaves_with_its_body(body: bytes):
    """In one piece, an empty body included; an interim answer is not held back."""
    case = Case(expects_continue=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        case.exchange.end()
        await waiting
        length = str(len(body)).encode()
        await send({**START, "headers": [(b"content-length", length)]})
        await send({**BODY, "body": body})

    asyncio.run(case.exchange.run(app))

    interim, sent = case.transport.written
    assert interim.startswith(b"HTTP/1.1 100 ")
    assert sent.startswith(b"HTTP/1.1 200 ")
    assert sent.endswith(b"\r\n\r\n" + body)
    assert b"\r\ndate: today\r\n" in sent
    assert case.exchange.is_complete
    assert case.completed == 1
    assert case.transport.calls == []


def test_an_answer_of_unknown_length_goes_in_chunks():
    """The first with the head, the last with the end; nothing in between is empty."""
    case = Case()
    pieces = [{**BODY, "body": text, "more_body": text != b""} for text in (b"one", b"three", b"")]

    written = case.run({"type": "http.response.start", "status": 200}, *pieces)

    head, _, first = written[0].partition(b"\r\n\r\n")
    assert head.endswith(b"\r\ntransfer-encoding: chunked")
    assert [first, *written[1:]] == [b"3\r\none\r\n", b"5\r\nthree\r\n", b"0\r\n\r\n"]


def test_an_answer_to_head_has_no_body():
    """Its head is that of the answer to GET."""
    (sent,) = Case("HEAD").run(START, BODY)
    assert sent.endswith(b"\r\ncontent-length: 2\r\n\r\n")


@pytest.mark.parametrize("says_so", [True, False])
def test_a_last_answer_says_so_and_closes(says_so: bool):
    """Once, whoever wants it: the client or the application."""
    case = Case(keep_alive=says_so)
    headers = [*START["headers"], *([(b"connection", b"close")] if says_so else [])]
    case.exchange.keep_alive = says_so
    (sent,) = case.run({**START, "headers": headers}, BODY)
    assert sent.count(b"connection: close\r\n") == 1
    assert case.transport.calls == ["close"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [ValueError("a fault")],
        [START],
        [START, ValueError("a fault")],
        [BODY],
        [START, START],
        [START, {**BODY, "body": b"too long"}],
        [START, {**BODY, "body": b"s"}],
        [{**START, "headers": [(b"x", b"y\r\nset-cookie: z")]}],
        [{**START, "headers": [(b"x", b"y\n\rset-cookie: z")]}],
    ],
)
def test_a_failure_before_anything_has_left_is_told(messages: list[Any], caplog: pytest.LogCaptureFixture):
    """With 500 in place of what was held back."""
    case = Case()
    (sent,) = case.run(*messages)
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert sent.endswith(b"\r\nconnection: close\r\n\r\nInternal Server Error")
    assert case.transport.calls == ["close"]
    assert len(caplog.records) == 1


def test_a_failure_in_the_middle_ends_the_connection(caplog: pytest.LogCaptureFixture):
    """The client must not take half of an answer for the whole."""
    case = Case()
    written = case.run(START, {**BODY, "body": b"o", "more_body": True}, ValueError("a fault"))
    assert len(written) == 1
    assert case.transport.calls == ["close"]
    assert not case.completed
    assert len(caplog.records) == 1


def test_what_follows_a_whole_answer_is_a_fault_that_harms_nobody(caplog: pytest.LogCaptureFixture):
    """The answer has left, and the connection goes on."""
    case = Case()
    assert len(case.run(START, BODY, BODY)) == 1
    assert case.completed == 1
    assert case.transport.calls == []
    assert len(caplog.records) == 1


def test_a_cancelled_answer_ends_the_connection():
    """As the server does with what takes too long at the end."""
    case = Case()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, send
        await receive()

    async def test() -> None:
        task = asyncio.ensure_future(case.exchange.run(app))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())
    assert case.transport.calls == ["abort"]


def test_a_body_comes_in_the_pieces_in_which_it_came():
    """What has come together is handed on together; after its end there is nothing until the answer."""
    case = Case()
    seen: list[Any] = []

    async def test() -> None:
        case.exchange.take(b"o")
        case.exchange.take(b"n")
        seen.append(await case.exchange.receive())
        later = asyncio.ensure_future(case.exchange.receive())
        await asyncio.sleep(0)
        assert not later.done()
        case.exchange.take(b"e")
        seen.append(await later)
        case.exchange.end()
        seen.append(await case.exchange.receive())
        last = asyncio.ensure_future(case.exchange.receive())
        await asyncio.sleep(0)
        assert not last.done()
        await case.exchange.send(START)
        await case.exchange.send(BODY)
        seen.append(await last)

    asyncio.run(test())
    assert [(item.get("body"), item.get("more_body")) for item in seen[:3]] == [
        (b"on", True),
        (b"e", True),
        (b"", False),
    ]
    assert seen[3] == {"type": "http.disconnect"}


def test_a_reader_that_gave_up_may_come_again():
    """A wait that was cancelled loses nothing."""
    case = Case()

    async def test() -> Any:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await case.exchange.receive()
        case.exchange.take(b"ok")
        case.exchange.end()
        return await case.exchange.receive()

    assert asyncio.run(test()) == {"type": "http.request", "body": b"ok", "more_body": False}


def test_a_connection_that_is_over_is_told_and_not_written_to():
    """The application sees it in what it receives, and what it sends goes nowhere."""
    case = Case()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        case.exchange.break_off()
        seen.append(await receive())
        await send(START)
        await send(BODY)

    asyncio.run(case.exchange.run(app))
    assert seen == [{"type": "http.disconnect"}]
    assert case.transport.written == []
    assert not case.completed


def test_a_large_body_waits_for_the_application():
    """Reading goes on when what has come is taken, and more is asked for."""
    case = Case()

    async def test() -> None:
        case.exchange.take(b"x" * (HIGH_WATER_LIMIT + 1))
        assert case.transport.calls == ["pause_reading"]
        await case.exchange.receive()
        waiting = asyncio.ensure_future(case.exchange.receive())
        await asyncio.sleep(0)
        assert case.transport.calls == ["pause_reading", "resume_reading"]
        case.exchange.end()
        await waiting

    asyncio.run(test())


def test_a_body_after_the_answer_is_not_kept():
    """Nor does it stop the reading."""
    case = Case()
    case.run(START, BODY)
    case.exchange.take(b"x" * (HIGH_WATER_LIMIT + 1))
    assert case.transport.calls == []


def test_a_whole_body_can_be_had_at_once():
    """Once, within the limit, and by the extension that the application finds in its scope."""
    case = Case()
    whole = case.scope["extensions"][WHOLE_BODY]
    case.exchange.take(b"ok")
    assert whole(2) is None
    case.exchange.end()
    assert whole(1) is None
    assert whole(2) == b"ok"
    assert whole(2) is None


def test_a_body_that_is_too_large_for_at_once_is_received():
    """Asking for the whole of it takes nothing away; nor is there one where the client has gone."""
    case = Case()
    case.exchange.take(b"ok")
    case.exchange.end()
    assert case.exchange.whole_body(1) is None
    message = asyncio.run(case.exchange.receive())
    assert message == {"type": "http.request", "body": b"ok", "more_body": False}
    gone = Case()
    gone.exchange.end()
    gone.exchange.break_off()
    assert gone.exchange.whole_body(1) is None
