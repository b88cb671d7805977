"""The agent's loop: frames in, each executed in a thread, answers out.

Invariants: at most `MAX_WORKERS` requests are held at a time, and nothing more is read meanwhile;
the loop ends when the channel ends, when nothing has been asked for too long, or when the other side
sends what is no request. What is under way then is left to the caller, who ends the process.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final

from bubu_operator.jobpass.executor import Executor
from bubu_operator.jobpass.frames import Frame, FrameError, FrameReader, encode_frame
from bubu_operator.jobpass.wire import write_error

__all__ = ["ServingEnd", "serve"]

MAX_WORKERS: Final = 64
_READ_BYTES: Final = 1 << 18


class ServingEnd(StrEnum):
    """Why an agent ends."""

    CLOSED = "closed"
    """The controller ended the channel: the pass is over, or the controller is."""
    IDLE = "idle"
    """Nothing was asked for too long."""
    BROKEN = "broken"
    """The channel broke, or what came through it is no request."""


def serve(channel: socket.socket, executor: Executor, *, idle_seconds: float) -> ServingEnd:
    """Serve requests until one of the ends; the channel is left to the caller, shut down.

    Args:
        channel: a connected stream socket.
        executor: executes them.
        idle_seconds: without any request under way.
    """
    return _Serving(channel, executor, idle_seconds).run()


class _Serving:
    """One channel."""

    def __init__(self, channel: socket.socket, executor: Executor, idle_seconds: float) -> None:
        self._channel = channel
        self._executor = executor
        self._idle_seconds = idle_seconds
        self._sending = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_WORKERS)
        self._counting = threading.Lock()
        self._under_way = 0
        self._broken = False

    def run(self) -> ServingEnd:
        self._channel.settimeout(self._idle_seconds)
        pool = ThreadPoolExecutor(MAX_WORKERS, "request")
        try:
            end = self._read(pool)
        finally:
            self._shut()
            # Nobody waits for what is under way, and another pass may follow: the process is to end now.
            pool.shutdown(wait=False, cancel_futures=True)
            self._executor.close()
        return ServingEnd.BROKEN if self._broken else end

    def _read(self, pool: ThreadPoolExecutor) -> ServingEnd:
        reader = FrameReader()
        while True:
            try:
                data = self._channel.recv(_READ_BYTES)
            except TimeoutError:
                if self._is_busy:
                    continue
                return ServingEnd.IDLE
            except OSError:
                return ServingEnd.BROKEN
            if not data:
                return ServingEnd.CLOSED if reader.is_between_frames else ServingEnd.BROKEN
            try:
                for frame in reader.feed(data):
                    self._slots.acquire()
                    self._count(1)
                    pool.submit(self._execute, frame)
            except FrameError:
                return ServingEnd.BROKEN

    def _execute(self, request: Frame) -> None:
        try:
            self._send(self._executor.execute(request))
        except FrameError:
            self._broken = True
            self._shut()
        except OSError:
            self._shut()  # nobody waits for the answer any more
        finally:
            self._count(-1)
            self._slots.release()

    def _send(self, answer: Frame) -> None:
        try:
            data = encode_frame(answer)
        except FrameError as error:
            told = write_error(error, f"the store's answer cannot be sent: {error}")
            number, clock = answer.header["id"], answer.header["clock"]
            data = encode_frame(Frame({"id": number, "clock": clock, "error": told}))
        with self._sending:
            self._channel.sendall(data)

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def _count(self, change: int) -> None:
        with self._counting:
            self._under_way += change

    @property
    def _is_busy(self) -> bool:
        with self._counting:
            return self._under_way > 0
