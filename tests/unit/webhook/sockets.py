"""A server on loopback for tests of connections: the protocol as in production, clients at will."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import pytest
import uvicorn
from uvicorn.server import ServerState

from bubu_operator.webhook import connections
from bubu_operator.webhook.connections import BoundedProtocol
from bubu_operator.webhook.server_loop import ServerLoop

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
PATIENCE_SECONDS = 25.0
IDLE_SECONDS = 300
"""What a connection may idle where a test says nothing of it: a machine that stalls ends none."""


@dataclass
class Timer:
    """What `Clock.call_at` returns."""

    due: float
    callback: Callable[[], None] | None

    def when(self) -> float:
        """As of asyncio's handles."""
        return self.due

    def cancel(self) -> None:
        """As of asyncio's handles."""
        self.callback = None


class Clock:
    """An event loop as connections see it, whose time passes only when a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now = 1000.0
        self._timers: list[Timer] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        """Seconds, from any beginning."""
        return self._now

    def call_at(self, due: float, callback: Callable[[], None]) -> Timer:
        """Set a timer; `advance` runs it."""
        self._timers.append(timer := Timer(due, callback))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what is due."""
        self._now += seconds
        while due := [timer for timer in self._timers if timer.due <= self._now]:
            timer = min(due, key=Timer.when)
            self._timers.remove(timer)
            if timer.callback is not None:
                timer.callback()


class Server:
    """A listener on loopback in front of an application; connections are opened by `connect`.

    With ``stands_still`` the time of its connections is that of `clock`.
    """

    clock: Clock

    def __init__(self, app: Any, *, stands_still: bool = False, **options: Any) -> None:
        self._stands_still = stands_still
        self.state = ServerState()
        options = {"timeout_keep_alive": IDLE_SECONDS, **options}
        self._config = uvicorn.Config(app, http=BoundedProtocol, lifespan="off", log_config=None, **options)
        self._config.load()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.clock = Clock(loop)
        self._listener = await loop.create_server(self.protocol, "127.0.0.1", 0)
        return self

    def protocol(self) -> BoundedProtocol:
        """The server's side of a new connection."""
        return BoundedProtocol(self._config, self.state, {}, self.clock if self._stands_still else None)

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

    with asyncio.Runner(loop_factory=ServerLoop) as runner:
        runner.run(inside())


def hurry(monkeypatch: pytest.MonkeyPatch, **phases: float) -> None:
    """Shorten deadlines, by phase."""
    for name, seconds in phases.items():
        monkeypatch.setitem(connections._SECONDS, connections._Phase[name.upper()], seconds)
