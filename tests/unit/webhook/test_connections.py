"""Limits on connections, over real sockets: what hangs is given up, what works is not disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from bubu_operator.webhook import connections
from bubu_operator.webhook.certs import server_context
from bubu_operator.webhook.connections import BoundedProtocol, ServerLoop

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
PATIENCE_SECONDS = 10.0


class Server:
    """A listener on loopback in front of an application; connections are opened by `connect`."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.state = ServerState()
        self._config = uvicorn.Config(app, http=BoundedProtocol, lifespan="off", log_config=None, **options)
        self._config.load()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: BoundedProtocol(self._config, self.state, {}), "127.0.0.1", 0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        for task in self.state.tasks:
            task.cancel()
        await until(lambda: not self.state.connections)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open one; it is closed with the server."""
        port = self._listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        return reader, writer


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with an end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the state under test has no event
            await asyncio.sleep(0.005)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server ends the connection; it must do so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body."""
    del scope
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": body})


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in an event loop of its own."""

    async def inside() -> None:
        await test()

    asyncio.run(inside())


def hurry(monkeypatch: pytest.MonkeyPatch, **phases: float) -> None:
    """Shorten deadlines, by phase."""
    for name, seconds in phases.items():
        monkeypatch.setitem(connections._SECONDS, connections._Phase[name.upper()], seconds)


def test_a_head_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """One header line at a time does not prolong it."""
    hurry(monkeypatch, head=0.1)

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(b"POST / HTTP/1.1\r\n")
            over = asyncio.ensure_future(ended(reader))
            for _ in range(1000):
                with suppress(ConnectionError):
                    writer.write(b"X: y\r\n")
                await asyncio.sleep(0.01)
                if over.done():
                    break
            assert over.done()
            assert await over == b""

    run(test)


def test_a_request_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """A body that stalls, or an answer that nobody takes."""
    hurry(monkeypatch, request=0.1)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(HEAD + b"o")
            assert await ended(reader) == b""
        async with Server(large) as server:
            _, writer = await server.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: bool(server.state.tasks))
            await until(lambda: not server.state.connections and not server.state.tasks)

    run(test)


def test_a_connection_that_is_never_used_is_closed():
    """After the time that used ones may idle."""

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=0.05) as server:
            reader, _ = await server.connect()
            assert await ended(reader) == b""

    run(test)


def test_a_connection_serves_many_requests(monkeypatch: pytest.MonkeyPatch):
    """The deadlines start anew with each request, also with those that come in one piece."""
    hurry(monkeypatch, head=0.2, request=0.2)

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            for _ in range(3):
                for part in (HEAD[:20], HEAD[20:], b"o", b"k"):
                    writer.write(part)
                    await asyncio.sleep(0.03)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.3)  # idle for longer than either deadline
            writer.write((HEAD + b"ok") * 3)
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(3):
                    await reader.readuntil(b"\r\n\r\nok")
            (connection,) = server.state.connections
            assert connection.is_waiting

    run(test)


def test_requests_in_one_piece_have_their_own_time(monkeypatch: pytest.MonkeyPatch):
    """Five that take a third of the time each; together they take longer than one may."""
    hurry(monkeypatch, request=0.6)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await echo(scope, receive, send)

    async def test() -> None:
        async with Server(slow) as server:
            reader, writer = await server.connect()
            writer.write((HEAD + b"ok") * 5)
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(5):
                    await reader.readuntil(b"\r\n\r\nok")

    run(test)


def test_at_the_limit_the_longest_idle_connection_gives_way(monkeypatch: pytest.MonkeyPatch):
    """The newcomer is served; what is being answered is never cut off."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)

    async def test() -> None:
        async with Server(echo) as server:
            busy = await server.connect()
            busy[1].write(HEAD)
            await until(lambda: any(not item.is_waiting for item in server.state.connections))
            oldest, newer = await server.connect(), await server.connect()
            await until(lambda: len(server.state.connections) == 3)
            newest = await server.connect()
            assert await ended(oldest[0]) == b""
            assert len(server.state.connections) == 3
            for reader, writer, rest in ((*newer, HEAD + b"ok"), (*newest, HEAD + b"ok"), (*busy, b"ok")):
                writer.write(rest)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await reader.readuntil(b"\r\n\r\nok")

    run(test)


def test_where_all_are_busy_the_newcomer_is_turned_away(monkeypatch: pytest.MonkeyPatch):
    """The API server then creates the pod without us."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(HEAD)
            await until(lambda: any(not item.is_waiting for item in server.state.connections))
            newcomer, _ = await server.connect()
            assert await ended(newcomer) == b""
            writer.write(b"ok")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"\r\n\r\nok")

    run(test)


def test_a_handshake_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """A client that connects and stays silent is cut off after the time for a handshake."""
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.3)

    async def silent() -> bytes:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_context())
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            try:
                return await asyncio.wait_for(reader.read(), 5)
            except ConnectionError:
                return b""
            finally:
                writer.transport.abort()

    with asyncio.Runner(loop_factory=ServerLoop) as runner:
        assert runner.run(silent()) == b""


@pytest.mark.parametrize("body", [b"ok", b""])
def test_the_head_of_an_answer_leaves_with_its_body(body: bytes):
    """In one piece, an empty body included; an interim answer is not held back."""
    connection = connections._Connection(h11.SERVER)
    connection.receive_data(HEAD.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    assert isinstance(connection.next_event(), h11.Request)

    interim = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
    length = str(len(body)).encode()
    held = connection.send(h11.Response(status_code=200, headers=[(b"content-length", length)]))
    sent = connection.send(h11.Data(data=body))
    rest = connection.send(h11.EndOfMessage())

    assert interim is not None
    assert interim.startswith(b"HTTP/1.1 100 ")
    assert (held, rest) == (b"", b"")
    assert sent is not None
    assert sent.startswith(b"HTTP/1.1 200 ")
    assert sent.endswith(b"\r\n\r\n" + body)
