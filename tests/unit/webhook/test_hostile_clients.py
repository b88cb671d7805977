"""Clients that want to do harm, over real sockets: what they may hold, how long, whom they disturb."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bubu_operator.webhook import connections, main
from bubu_operator.webhook.connections import BoundedProtocol
from bubu_operator.webhook.exchange import Exchange
from bubu_operator.webhook.main import listen, make_server
from tests.cluster.certs import write_serving_files
from tests.unit.webhook.sockets import CHUNKED, HEAD, PATIENCE_SECONDS, Server, echo, ended, hurry, run, until

Json = dict[str, Any]

LONG_SECONDS = 300
"""An idle connection's time in tests of other deadlines: longer than any test."""


def only(server: Server) -> BoundedProtocol:
    """The server's side of the one connection."""
    (connection,) = server.state.connections
    assert isinstance(connection, BoundedProtocol)
    return connection


async def answers(reader: asyncio.StreamReader, count: int) -> None:
    """Read some answers of `echo`."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(count):
            await reader.readuntil(b"\r\n\r\nok")


def at_once(connection: BoundedProtocol) -> None:
    """Have the time of what a connection waits for end now."""
    connection._set_due(asyncio.get_running_loop().time())


async def never(scope: Any, receive: Any, send: Any) -> None:
    """An application that does not answer."""
    del scope, receive, send
    await asyncio.Event().wait()


async def hasty(scope: Any, receive: Any, send: Any) -> None:
    """Answer before the body is there."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def flood(size: int) -> Callable[..., Any]:
    """An application whose answer is large, and that gives it at once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        length = str(size).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    return app


def tls(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A listener's context with a certificate, and that of a client who trusts it."""
    files = write_serving_files(folder, ["localhost"], ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context, ssl.create_default_context(cafile=str(files.ca))


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
MUCH = 32 * 1024 * 1024
"""More than the kernel keeps for a connection."""

ENDLESS = {
    "headers": b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 10_000,
    "a header": b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000,
    "a target": b"GET /" + b"a" * 40_000,
}


@pytest.mark.parametrize("rest", list(ENDLESS.values()), ids=list(ENDLESS))
def test_a_head_is_bounded_also_right_behind_a_request(rest: bytes):
    """What comes in one piece with the end of another request counts like what comes alone."""

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=LONG_SECONDS) as server:
            reader, writer = await server.connect()
            writer.write(HEAD + b"ok" + rest)
            said = await ended(reader)
            assert [part[:4] for part in said.split(b"HTTP/1.1 ")] == [b"", b"200 ", b"400 "]

    run(test)


def test_what_surrounds_chunks_is_bounded_also_right_behind_one():
    """An extension that follows a piece of the body in the same packet."""

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=LONG_SECONDS) as server:
            reader, writer = await server.connect()
            writer.write(CHUNKED + b"\r\n1\r\no\r\n1;" + b"a" * 40_000)
            assert (await ended(reader)).startswith(b"HTTP/1.1 400 ")

    run(test)


def test_waiting_heads_are_bounded_together():
    """Each header takes several times its bytes: the requests behind one hold no more than one may."""
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 400 + b"\r\n"

    async def test() -> None:
        async with Server(never, timeout_keep_alive=LONG_SECONDS) as server:
            _, writer = await server.connect()
            writer.write(HEAD + b"ok" + head * 10)
            await until(lambda: bool(server.state.connections) and only(server)._ignores_rest)
            held = [header for exchange in only(server)._waiting for header in exchange._scope["headers"]]
            assert 0 < len(held) < 1000

    run(test)


def test_requests_that_wait_are_forgotten_when_they_had_their_turn():
    """What is held behind one request does not count against those behind the next."""

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=LONG_SECONDS) as server:
            reader, writer = await server.connect()
            for _ in range(10):
                writer.write((HEAD + b"ok") * 40)
                await answers(reader, 40)

    run(test)


def test_the_time_of_a_request_runs_also_where_garbage_follows(monkeypatch: pytest.MonkeyPatch):
    """The garbage comes in the same packet, so that nothing else arrives afterwards."""
    hurry(monkeypatch, request=0.1)

    async def test() -> None:
        for rest in (b"garbage\r\n\r\n", CHUNKED + b"\r\nxyz\r\n", b"GET /" + b"a" * 40_000):
            async with Server(never, timeout_keep_alive=LONG_SECONDS) as server:
                reader, writer = await server.connect()
                writer.write(HEAD + b"ok" + rest)
                assert await ended(reader) == b""

    run(test)


def test_a_refusal_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """Behind an answer that is not read, it cannot leave."""
    hurry(monkeypatch, head=0.1)

    async def test() -> None:
        async with Server(flood(MUCH), timeout_keep_alive=LONG_SECONDS) as server:
            _, writer = await server.connect()
            writer.write(GET + b"garbage\r\n\r\n")
            await until(lambda: bool(server.state.connections) and only(server).flow.write_paused)
            assert only(server)._phase is connections._Phase.REQUEST
            at_once(only(server))
            await until(lambda: not server.state.connections and not server.state.tasks)

    run(test)


def test_an_answer_in_one_piece_that_nobody_takes_is_given_up():
    """It is under way, and no connection at rest, until the client has taken it."""

    async def test() -> None:
        async with Server(flood(MUCH), timeout_keep_alive=LONG_SECONDS) as server:
            _, writer = await server.connect()
            writer.write(GET)
            await until(lambda: bool(server.state.tasks) and only(server).flow.write_paused)
            assert not only(server).is_waiting
            assert only(server)._phase is connections._Phase.REQUEST
            at_once(only(server))
            await until(lambda: not server.state.connections and not server.state.tasks)

    run(test)


def test_a_large_answer_arrives_whole_however_slowly_it_is_read():
    """Its pieces wait for room, and the connection goes on afterwards."""

    async def test() -> None:
        async with Server(flood(MUCH)) as server:
            reader, writer = await server.connect()
            for _ in range(2):
                writer.write(GET)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await reader.readuntil(b"\r\n\r\n")
                    assert await reader.readexactly(MUCH) == bytes(MUCH)

    run(test)


def test_few_may_leave_their_answers_untaken(monkeypatch: pytest.MonkeyPatch):
    """Where there are too many of them, the one that has had the longest time to read is given up."""
    monkeypatch.setattr(connections, "MAX_STALLED", 1)

    async def test() -> None:
        async with Server(flood(MUCH), timeout_keep_alive=LONG_SECONDS) as server:
            _, first = await server.connect()
            first.write(GET)
            await until(lambda: bool(server.state.connections) and only(server).flow.write_paused)
            early = only(server)
            _, second = await server.connect()
            second.write(GET)
            await until(lambda: early not in server.state.connections)
            await until(lambda: only(server).flow.write_paused)

    run(test)


def test_an_idle_connection_whose_buffer_never_empties_is_ended(monkeypatch: pytest.MonkeyPatch):
    """Closing waits for what is still to be sent; that has an end, too."""
    hurry(monkeypatch, head=0.1)

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=LONG_SECONDS) as server:
            await server.connect()
            await until(lambda: bool(server.state.connections))
            only(server).transport.write(bytes(MUCH))
            at_once(only(server))
            await until(lambda: not server.state.connections)

    run(test)


def test_a_connection_rests_again_when_the_rest_of_a_request_is_read_away(monkeypatch: pytest.MonkeyPatch):
    """The time for the rest of an answered request is not that for the next one."""
    hurry(monkeypatch, head=60.0)

    async def test() -> None:
        async with Server(hasty, timeout_keep_alive=LONG_SECONDS) as server:
            reader, writer = await server.connect()
            for rest in (HEAD, CHUNKED + b"\r\n2\r\nok\r\n"):
                writer.write(rest)
                await answers(reader, 1)
                loop = asyncio.get_running_loop()
                await until(lambda now=loop.time: only(server)._due < now() + 100)
                writer.write(b"0\r\n\r\n" if rest is not HEAD else b"ok")
                await until(lambda now=loop.time: only(server)._due > now() + 100)

    run(test)


def test_every_application_is_told_that_the_client_has_gone(monkeypatch: pytest.MonkeyPatch):
    """Also the one whose request is neither the latest nor waiting."""
    hurry(monkeypatch, request=0.1)
    seen: list[str] = []

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        del scope
        while (message := await receive())["type"] != "http.disconnect":
            pass
        seen.append(message["type"])
        await hasty(None, receive, send)

    async def test() -> None:
        async with Server(patient, timeout_keep_alive=LONG_SECONDS) as server:
            _, writer = await server.connect()
            writer.write((HEAD + b"ok") * 3)
            await until(lambda: bool(seen))
            await until(lambda: not server.state.connections and not server.state.tasks)

    run(test)
    assert seen == ["http.disconnect"]


def test_an_answer_that_has_just_been_given_is_not_cut_off(monkeypatch: pytest.MonkeyPatch):
    """Room is not made by those whose answer may still be on its way out."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
    newcomers: list[BoundedProtocol] = []

    async def test() -> None:
        async with Server(echo, timeout_keep_alive=LONG_SECONDS) as other, Server(echo) as server:
            await other.connect()
            await until(lambda: bool(other.state.connections))

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await flood(MUCH)(scope, receive, send)
                newcomer = only(other)
                newcomer.connections = server.state.connections
                newcomer._make_room()
                newcomer.connections = other.state.connections
                newcomers.append(newcomer)

            reader, writer = await server.connect()
            await until(lambda: bool(server.state.connections))
            only(server)._app = app
            writer.write(GET)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(MUCH) == bytes(MUCH)
            assert newcomers
            await until(lambda: not other.state.connections)

    run(test)


def test_nobody_asks_an_old_client_to_go_on():
    """HTTP/1.0 has no interim answers: it would be taken for the answer."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write(HEAD.replace(b"1.1", b"1.0").replace(b"Host", b"Expect: 100-continue\r\nHost"))
            await until(lambda: bool(server.state.tasks))
            writer.write(b"ok")
            assert (await ended(reader)).startswith(b"HTTP/1.1 200 ")

    run(test)


def test_a_client_is_asked_to_go_on_once():
    """Where its body is wanted; the answer comes afterwards, and the connection goes on."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            for _ in range(2):
                writer.write(HEAD.replace(b"Host", b"Expect: 100-Continue\r\nHost"))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"ok")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 ")

    run(test)


@contextmanager
def no_collector() -> Generator[None]:
    """Collect what there is, and then nothing: only what nobody refers to goes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def exchanges() -> int:
    """How many there are in the process; other tests may have left some."""
    return sum(type(item) is Exchange for item in gc.get_objects())


@pytest.mark.parametrize("how", ["closed", "reset", "refused", "in the middle of a body"])
def test_a_connection_that_has_ended_leaves_nothing_behind(how: str):
    """Nothing waits for the collector, which comes rarely: neither the connection nor its exchanges."""
    left: list[weakref.ref[Any]] = []

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write((HEAD + b"ok") * 3)
            await answers(reader, 3)
            left.append(weakref.ref(only(server)))
            if how == "refused":
                writer.write(b"garbage\r\n\r\n")
                await ended(reader)
            elif how == "in the middle of a body":
                writer.write(HEAD + b"o")
                await until(lambda: not only(server).is_waiting)
            if how == "reset":
                writer.transport.abort()
            else:
                writer.close()
            await until(lambda: not server.state.connections and not server.state.tasks)
            await asyncio.sleep(0)
            assert left[0]() is None
            assert exchanges() == before

    with no_collector():
        before = exchanges()
        run(test)


def test_a_request_leaves_nothing_behind_on_a_connection_that_stays():
    """Only the latest is known."""

    async def test() -> None:
        async with Server(echo) as server:
            reader, writer = await server.connect()
            writer.write((HEAD + b"ok") * 20)
            await answers(reader, 20)
            await until(lambda: not server.state.tasks)
            assert exchanges() == before + 1

    with no_collector():
        before = exchanges()
        run(test)


def test_a_handshake_that_fails_leaves_nothing_behind(tmp_path: Path):
    """The server makes its side when a client connects, and is not told that nothing comes of it."""
    made: list[weakref.ref[Any]] = []

    async def test() -> None:
        async with Server(echo) as server:

            def factory() -> BoundedProtocol:
                made.append(weakref.ref(protocol := server.protocol()))
                return protocol

            listener = await asyncio.get_running_loop().create_server(
                factory, "127.0.0.1", 0, ssl=tls(tmp_path)[0]
            )
            async with listener:
                reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
                writer.write(b"no handshake\r\n\r\n")
                await ended(reader)
                writer.close()
                await until(lambda: [item() for item in made] == [None])

    with no_collector():
        run(test)


def test_an_answer_over_tls_that_nobody_takes_is_given_up(tmp_path: Path):
    """Also there it is known that the client does not read; and an ended connection leaves nothing behind."""
    left: list[weakref.ref[Any]] = []

    async def test() -> None:
        context, trusting = tls(tmp_path)
        async with Server(flood(MUCH), timeout_keep_alive=LONG_SECONDS) as server:
            listener = await asyncio.get_running_loop().create_server(
                server.protocol, "127.0.0.1", 0, ssl=context
            )
            async with listener:
                _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname(), ssl=trusting)
                writer.write(GET)
                await until(lambda: bool(server.state.tasks) and only(server).flow.write_paused)
                assert not only(server).is_waiting
                assert only(server)._phase is connections._Phase.REQUEST
                at_once(only(server))
                left.append(weakref.ref(only(server)))
                await until(lambda: not server.state.connections and not server.state.tasks)
                writer.transport.abort()
                await until(lambda: left[0]() is None)

    with no_collector():
        run(test)


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    """Send without end, until the client has gone."""
    del scope
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
        if (await receive())["type"] == "http.disconnect":
            return


@pytest.mark.parametrize("how", ["garbage", "reset", "half-closed", "closed"])
def test_an_end_in_the_middle_is_no_fault(how: str, caplog: pytest.LogCaptureFixture):
    """The application is told, whatever the client does while both speak; nothing is written any more."""

    async def test() -> None:
        async with Server(streaming) as server:
            reader, writer = await server.connect()
            writer.write(CHUNKED + b"\r\n")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
            for _ in range(20):
                writer.write(b"1\r\nx\r\n")
                await reader.read(1000)
            match how:
                case "garbage":
                    writer.write(b"xyz\r\n" * 100)
                case "reset":
                    writer.transport.abort()
                case "half-closed":
                    writer.write_eof()
                case _:
                    writer.close()
            await until(lambda: not server.state.connections and not server.state.tasks)

    with caplog.at_level(logging.ERROR):
        run(test)
    assert caplog.records == []


def test_a_shutdown_answers_what_has_come_in_its_order(tmp_path: Path):
    """Requests behind one another, while idle connections and half a head end at once; over TLS."""
    order: list[str] = []
    free = asyncio.Event()

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        order.append(scope["path"])
        await free.wait()
        await echo(scope, receive, send)

    async def test() -> None:
        context, trusting = tls(tmp_path)
        server = make_server(patient, context)
        listener = listen("127.0.0.1", 0)
        address = listener.getsockname()
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        connect = partial(asyncio.open_connection, *address, ssl=trusting)
        (busy, to_busy), (idle, _), (begun, to_begun) = [await connect() for _ in range(3)]
        await until(lambda: len(server.server_state.connections) == 3)
        to_begun.write(b"POST / HTTP/1.1\r\n")
        to_busy.write(b"".join(HEAD.replace(b"POST /", b"POST /%d" % turn) + b"ok" for turn in range(3)))
        await until(lambda: bool(order))
        server.should_exit = True
        assert (await ended(idle), await ended(begun)) == (b"", b"")
        free.set()
        said = await ended(busy)
        assert said.count(b"HTTP/1.1 200 ") == 3
        assert said.count(b"\r\nconnection: close\r\n") == 1
        assert said.endswith(b"\r\nconnection: close\r\n\r\nok")
        for writer in (to_busy, to_begun):
            writer.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await serving
        assert server.server_state.tasks == set()

    run(test)
    assert order == ["/0", "/1", "/2"]


def test_a_shutdown_does_not_wait_long_for_who_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor for an application that does not answer."""
    monkeypatch.setattr(main, "IN_FLIGHT_SECONDS", 1)

    async def test() -> None:
        async def either(scope: Any, receive: Any, send: Any) -> None:
            await (never if scope["path"] == "/never" else flood(MUCH))(scope, receive, send)

        context, trusting = tls(tmp_path)
        server = make_server(either, context)
        listener = listen("127.0.0.1", 0)
        address = listener.getsockname()
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        connect = partial(asyncio.open_connection, *address, ssl=trusting)
        writers = [(await connect())[1] for _ in range(2)]
        writers[0].write(GET)
        writers[1].write(GET.replace(b"GET /", b"GET /never"))
        await until(lambda: len(server.server_state.tasks) == 2)
        server.should_exit = True
        async with asyncio.timeout(PATIENCE_SECONDS):
            await serving
        await until(lambda: not server.server_state.tasks and not server.server_state.connections)
        for writer in writers:
            writer.transport.abort()

    run(test)


def with_headers(*lines: bytes, body: bytes = b"ok") -> bytes:
    """A POST with headers of one's own."""
    return b"\r\n".join((b"POST / HTTP/1.1", b"Host: x", *lines, b"", body))


def in_chunks(body: bytes) -> bytes:
    """A POST with a body in chunks."""
    return CHUNKED + b"\r\n" + body


AMBIGUOUS = {
    "the same length twice": with_headers(b"Content-Length: 2", b"Content-Length: 2"),
    "a list of lengths": with_headers(b"Content-Length: 2, 2"),
    "a signed length": with_headers(b"Content-Length: +2"),
    "a hexadecimal length": with_headers(b"Content-Length: 0x2"),
    "an empty length": with_headers(b"Content-Length:"),
    "a length with a space": with_headers(b"Content-Length: 1 2"),
    "a length beyond all numbers": with_headers(b"Content-Length: 99999999999999999999999"),
    "no coding": with_headers(b"Transfer-Encoding: identity"),
    "chunked is not the last coding": with_headers(b"Transfer-Encoding: chunked, identity"),
    "chunked twice": with_headers(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "almost chunked": with_headers(b"Transfer-Encoding: xchunked"),
    "chunked in quotes": with_headers(b'Transfer-Encoding: "chunked"'),
    "chunked behind a control character": with_headers(b"Transfer-Encoding: \x0bchunked"),
    "chunked on a line of its own": with_headers(b"Transfer-Encoding:", b" chunked"),
    "an empty coding": with_headers(b"Transfer-Encoding:"),
    "a bare line feed": b"POST / HTTP/1.1\nHost: x\nContent-Length: 2\n\nok",
    "a bare line feed behind a header": b"POST / HTTP/1.1\r\nHost: x\nContent-Length: 2\r\n\r\nok",
    "a bare carriage return": b"POST / HTTP/1.1\r\nHost: x\rContent-Length: 2\r\n\r\nok",
    "a null in a header": with_headers(b"X: a\0b", b"Content-Length: 2"),
    "a null in a name": with_headers(b"X\0: a", b"Content-Length: 2"),
    "a header without a colon": with_headers(b"abc", b"Content-Length: 2"),
    "a folded line before all headers": b"GET / HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n",
    "a size in another notation": in_chunks(b"0x2\r\nok\r\n0\r\n\r\n"),
    "a signed size": in_chunks(b"+2\r\nok\r\n0\r\n\r\n"),
    "a size and a space": in_chunks(b"2 \r\nok\r\n0\r\n\r\n"),
    "a size beyond all numbers": in_chunks(b"10000000000000002\r\nok\r\n0\r\n\r\n"),
    "a bare line feed behind a size": in_chunks(b"2\nok\r\n0\r\n\r\n"),
    "a bare line feed in an extension": in_chunks(b"2;a\nok\r\n0\r\n\r\n"),
    "a bare carriage return in an extension": in_chunks(b"2;a\rb\r\nok\r\n0\r\n\r\n"),
    "more data than the size says": in_chunks(b"2\r\nokXX0\r\n\r\n"),
    "a bare line feed behind data": in_chunks(b"2\r\nok\n0\r\n\r\n"),
    "a length as a trailer": in_chunks(b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "a coding as a trailer": in_chunks(b"2\r\nok\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "no version": b"GET /\r\n\r\n",
    "a tab for a space": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", list(AMBIGUOUS.values()), ids=list(AMBIGUOUS))
@pytest.mark.parametrize("step", [1, 10_000], ids=["byte by byte", "at once"])
def test_what_can_be_read_in_two_ways_is_refused(request_bytes: bytes, step: int):
    """However it arrives; nothing behind it is taken for another request."""
    seen: list[bytes] = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        with suppress(RuntimeError):
            while (message := await receive())["type"] == "http.request" and message["more_body"]:
                pass
            if message["type"] == "http.request":
                seen.append(scope["path"])
                await hasty(scope, receive, send)

    async def test() -> None:
        async with Server(reading) as server:
            reader, writer = await server.connect()
            whole = request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
            for start in range(0, len(whole), step):
                with suppress(RuntimeError):  # the server has closed it
                    writer.write(whole[start : start + step])
                if step == 1:
                    await asyncio.sleep(0)
            said = await ended(reader)
            assert said == b"" or (said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1") == 1)
            assert said or step == 1  # what still comes may reset the connection before the answer is read
            await until(lambda: not server.state.tasks)

    run(test)
    assert seen == []
