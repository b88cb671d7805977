"""A TCP relay on loopback whose connections a test can cut or hold, for networks that misbehave.

It runs in an event loop on a thread of its own and passes bytes on unread, so TLS stays end to
end. A cut is a reset on both sides; a pause keeps connections open and moves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, Self

__all__ = ["Address", "CutProxy", "TcpRelay"]

Address = tuple[str, int]
T = TypeVar("T")

CHUNK_BYTES = 1 << 16
CALL_SECONDS = 30.0


class TcpRelay:
    """Listens on a loopback port and relays each connection to what `choose` names.

    Attributes:
        port: where it listens, once entered.
        accepted: connections that were accepted so far.
        refused: connections that were reset at once, for want of a target that answers.
    """

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self.refused = 0
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.WriteTransport] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def choose(self) -> Address | None:
        """Where the next connection goes; None refuses it. Called in the loop's thread."""
        raise NotImplementedError

    @property
    def connections(self) -> int:
        """How many relayed connections are open."""
        return len(self._open) // 2

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._abort_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _abort_all(self) -> None:
        for transport in list(self._open):
            transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Tests end while connections are open: that is no error of the relay's.
            with contextlib.suppress(asyncio.CancelledError):
                await self._relay(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        target = self.choose()
        if target is None:
            self.refused += 1
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*target)
        except OSError:
            self.refused += 1
            return
        ends: set[asyncio.WriteTransport] = {writer.transport, up_writer.transport}
        self._open |= ends
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer)),
            asyncio.create_task(self._pump(up_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._open -= ends
            up_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
            # What was written must leave before the caller ends the connection.
            writer.close()
            await writer.wait_closed()


class CutProxy(TcpRelay):
    """A relay to one address, with scissors."""

    def __init__(self, target: Address) -> None:
        super().__init__()
        self._target = target

    def choose(self) -> Address:
        """Always the one target."""
        return self._target

    def cut(self) -> int:
        """Reset every open connection, with what a pause holds back; returns how many there were."""
        before = self.connections
        self._call(self._abort_all())
        return before

    def pause(self) -> None:
        """Move no more bytes; connections stay open, and new ones are accepted and hang."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Move what was held back, and go on."""
        self._loop.call_soon_threadsafe(self._flowing.set)
