"""Limits on connections, over real sockets: what hangs is given up, what works is not disturbed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from bubu_operator.webhook import connections, server_loop
from bubu_operator.webhook.certs import server_context
from bubu_operator.webhook.server_loop import ServerLoop
from tests.unit.webhook.sockets import (
    CHUNKED,
    HEAD,
    IDLE_SECONDS,
    PATIENCE_SECONDS,
    Server,
    echo,
    ended,
    hurry,
    run,
    until,
)


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
    asked: list[str] = []

    async def large(scope: Any, receive: Any, send: Any) -> None:
        del receive
        asked.append(scope["path"])
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
            await until(lambda: bool(asked))
            await until(lambda: not server.state.connections and not server.state.tasks)

    run(test)


def test_a_connection_that_is_never_used_is_closed():
    """After the time that used ones may idle."""

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=0.05) as server:
            reader, _ = await server.connect()
            assert await ended(reader) == b""

    run(test)


def test_a_connection_serves_many_requests():
    """The deadlines start anew with each request, also with those that come in one piece."""

    async def test() -> None:
        async with Server(echo, stands_still=True) as server:
            reader, writer = await server.connect()
            for _ in range(3):
                for part, phase in ((HEAD[:20], "HEAD"), (HEAD[20:] + b"o", "REQUEST")):
                    writer.write(part)
                    await until(
                        lambda phase=phase: any(c._phase.name == phase for c in server.state.connections)
                    )
                    server.clock.advance(connections._SECONDS[connections._Phase[phase]] - 1)
                writer.write(b"k")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
            server.clock.advance(IDLE_SECONDS - 1)  # longer than either deadline
            writer.write((HEAD + b"ok") * 3)
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(3):
                    await reader.readuntil(b"\r\n\r\nok")
            (connection,) = server.state.connections
            assert connection.is_waiting

    run(test)


def test_requests_in_one_piece_have_their_own_time():
    """Five that take almost all of the time each; together they take longer than one may."""
    servers: list[Server] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        servers[0].clock.advance(connections.REQUEST_SECONDS - 1)
        await echo(scope, receive, send)

    async def test() -> None:
        async with Server(slow, stands_still=True) as server:
            servers.append(server)
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
            oldest = await server.connect()
            await until(lambda: len(server.state.connections) == 2)
            now = asyncio.get_running_loop().time()
            await until(lambda: asyncio.get_running_loop().time() > now)  # uvloop counts milliseconds
            newer = await server.connect()
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
    monkeypatch.setattr(server_loop, "HANDSHAKE_SECONDS", 0.3)

    async def silent() -> bytes:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_context())
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            try:
                return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
            except ConnectionError:
                return b""
            finally:
                writer.transport.abort()

    with asyncio.Runner(loop_factory=ServerLoop) as runner:
        assert runner.run(silent()) == b""


BEGINNINGS = {
    "header": b"POST / HTTP/1.1\r\nHost: x\r\nX: ",
    "target": b"POST /",
    "chunk extension": CHUNKED + b"\r\n2;",
    "trailer": CHUNKED + b"\r\n2\r\nok\r\n0\r\nX: ",
}


@pytest.mark.parametrize("beginning", list(BEGINNINGS.values()), ids=list(BEGINNINGS))
def test_what_is_no_body_is_bounded(beginning: bytes):
    """However slowly it drips, what would have to be kept is refused long before the time is over."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(beginning)
            over = asyncio.ensure_future(ended(reader))
            sent = len(beginning)
            while not over.done() and sent < 4 * connections.MAX_HEAD_BYTES:
                writer.write(b"a" * 512)
                sent += 512
                await asyncio.sleep(0.001)
            assert (await over).startswith(b"HTTP/1.1 400 ")
            assert sent > connections.MAX_HEAD_BYTES

    run(test)


def test_many_small_headers_are_refused():
    """Each takes more memory than its bytes say."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 1000 + b"\r\n")
            assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")

    run(test)


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "a TLS record": b"\x16\x03\x01\x00\x05hello",
    "two meanings of the length": CHUNKED + b"Content-Length: 2\r\n\r\nok",
    "two meanings, the other way": HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD[:-2] + b"Content-Length: 3\r\n\r\nok",
    "a negative length": HEAD.replace(b"2", b"-2"),
    "an unknown coding": CHUNKED.replace(b"chunked", b"gzip") + b"\r\n",
    "no host": HEAD.replace(b"Host: x\r\n", b""),
    "two hosts": HEAD.replace(b"Host: x\r\n", b"Host: x\r\nHost: y\r\n"),
    "another version": HEAD.replace(b"1.1", b"2.0"),
    "a folded header": HEAD.replace(b"Host: x", b"Host: x\r\n folded"),
    "a space before the colon": HEAD.replace(b"Host:", b"Host :"),
    "a target with other letters": HEAD.replace(b"POST /", b"POST /\xff"),
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "WebSockets": HEAD.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost"),
    "HTTP/2": HEAD.replace(b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHost"),
    "a chunk without a size": CHUNKED + b"\r\nok\r\n",
}


@pytest.mark.parametrize("request_bytes", list(MALFORMED.values()), ids=list(MALFORMED))
def test_a_malformed_request_is_refused(request_bytes: bytes):
    """With 400, and the connection is closed: nobody knows where the next request begins."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(request_bytes)
            answer = await ended(reader)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.count(b"HTTP/1.1") == 1
            await until(lambda: not server.state.tasks)

    run(test)


@pytest.mark.parametrize("rest", [b"hello\r\n\r\n", CHUNKED + b"\r\nxyz\r\n"])
def test_requests_before_a_malformed_one_are_answered_first(rest: bytes):
    """Otherwise its refusal would be taken for their answer."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write((HEAD + b"ok") * 2 + rest)
            answers = await ended(reader)
            assert [part[:4] for part in answers.split(b"HTTP/1.1 ")] == [b"", b"200 ", b"200 ", b"400 "]

    run(test)


def test_a_malformed_end_of_an_answered_request_closes_the_connection():
    """There has been an answer; a second one would be taken for that of the next request."""

    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def test() -> None:
        async with Server(hasty) as server:
            reader, writer = await server.connect()
            writer.write(CHUNKED + b"\r\n2\r\nok\r\n")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"\r\n\r\nok")
            writer.write(b"xyz\r\n")
            assert await ended(reader) == b""

    run(test)


def test_the_rest_of_an_answered_request_is_read_away():
    """Within the time of a head; then the next request has its turn."""

    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def test() -> None:
        async with Server(hasty, stands_still=True) as server:
            reader, writer = await server.connect()
            for rest in (b"ok", b"ok", b""):
                writer.write(HEAD)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert b" 200 " in await reader.readuntil(b"\r\n\r\nok")
                server.clock.advance(connections.HEAD_SECONDS - 1)
                writer.write(rest)
            assert len(server.state.connections) == 1
            server.clock.advance(1)
            assert await ended(reader) == b""

    run(test)


def test_no_more_than_some_requests_wait_behind_one():
    """They are answered; the one too many is refused."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write((HEAD + b"ok") * (connections.MAX_PIPELINED + 10))
            answers = await ended(reader)
            assert answers.count(b"HTTP/1.1 200 ") == connections.MAX_PIPELINED + 1
            assert answers.count(b"HTTP/1.1 400 ") == 1

    run(test)


@pytest.mark.parametrize(
    "head",
    [HEAD.replace(b"Host", b"Connection: close\r\nHost"), HEAD.replace(b"1.1", b"1.0")],
)
def test_some_requests_are_answered_and_the_last_ones(head: bytes):
    """What follows a farewell is of no interest."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(head + b"ok" + b"\x81\x00hello")
            answer = await ended(reader)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nok")

    run(test)


def test_a_body_in_chunks_is_understood():
    """Extensions and trailers are passed over, and the connection goes on."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            for _ in range(2):
                for part in (CHUNKED + b"\r\n1;a=b\r\no", b"\r\n1\r\nk\r\n0\r\nHost: y\r\n", b"\r\n"):
                    writer.write(part)
                    await asyncio.sleep(0.01)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await reader.readuntil(b"\r\n\r\nok")

    run(test)


def test_the_application_sees_the_request():
    """Target, query, method and headers, the names in lower case."""
    seen: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async def test() -> None:
        async with Server(look) as server:
            reader, writer = await server.connect()
            writer.write(HEAD.replace(b"POST /", b"PUT /a%20b/?timeout=5s"))
            writer.write(b"ok")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"\r\n\r\nok")

    run(test)
    (scope,) = seen
    assert (scope["type"], scope["method"], scope["http_version"]) == ("http", "PUT", "1.1")
    assert (scope["path"], scope["raw_path"]) == ("/a b/", b"/a%20b/")
    assert (scope["query_string"], scope["scheme"]) == (b"timeout=5s", "http")
    assert scope["headers"] == [(b"host", b"x"), (b"content-length", b"2")]


def test_requests_set_no_timers_while_one_is_early_enough():
    """A timer that comes too early is set anew then; the deadline is what counts."""

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=300) as server:
            reader, writer = await server.connect()
            timers = set()
            for _ in range(3):
                writer.write(HEAD + b"ok")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await reader.readuntil(b"\r\n\r\nok")
                (connection,) = server.state.connections
                timers.add(connection._timer)
            assert len(timers) == 1
            before = connection._due
            connection._on_timer()
            assert not connection.transport.is_closing()
            assert connection._due == before
            assert connection._timer.when() == pytest.approx(before)

    run(test)


def test_shutdown_ends_idle_connections_and_lets_others_finish():
    """As the server does it before it waits for the answers under way."""

    async def test() -> None:
        async with Server(echo) as server:
            idle, busy = await server.connect(), await server.connect()
            busy[1].write(HEAD)
            await until(lambda: any(not item.is_waiting for item in server.state.connections))
            for connection in list(server.state.connections):
                connection.shutdown()
            assert await ended(idle[0]) == b""
            busy[1].write(b"ok")
            answer = await ended(busy[0])
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nok")

    run(test)
