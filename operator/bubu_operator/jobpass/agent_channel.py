"""The channel to an agent: requests go out, answers come in any order, each finds its caller.

Knows frames, times and threads, and nothing of stores; `bubu_operator.jobpass.remote_backend` makes
a store of it.

Invariants: every call ends, with an answer, a timeout, or `UnavailableError` once the channel is
lost, which it then is for all calls; a request is executed within `START_SECONDS` of its call or not
at all, by the agent's own clock, however long it was on its way; what the agent says is read as
something from outside.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from bubu_operator.jobpass.frames import Frame, FrameError, FrameReader, encode_frame
from bubu_operator.jobpass.wire import field_of, read_error
from bubu_operator.kube.lease_fence import boot_seconds
from bubu_operator.kube.resources import JsonObject
from bubu_storage.errors import (
    LimitExceededError,
    StorageTimeoutError,
    ThrottledError,
    TransientError,
    UnavailableError,
)

__all__ = ["MAX_IN_FLIGHT", "START_SECONDS", "AgentChannel", "object_of", "ok_of"]

T = TypeVar("T")

MAX_IN_FLIGHT: Final = 48
"""Requests that the agent has at a time; it has threads for more."""

START_SECONDS: Final = 5.0
"""A request that the agent has not begun so long after its call is not executed any more."""

ANSWER_SECONDS: Final = 120.0
"""For an answer: the store's own timeout, several times, with pauses."""

READ_PAUSES_SECONDS: Final = (0.5, 1.0)
"""Before another try of what changes nothing. What deletes or writes is tried once: whether it still may
be sent is the engine's to say."""

_READ_BYTES: Final = 1 << 18


@dataclass(slots=True)
class _Call:
    """A request under way."""

    done: threading.Event = field(default_factory=threading.Event)
    answer: Frame | None = None


class AgentChannel:
    """Requests to one agent; thread-safe.

    Args:
        channel: a connected stream socket; closed with this object.
        name: of the store behind it, for messages.
        clock: seconds that never go back.
        answer_seconds: how long an answer may take.
        sleep: waits before another try.

    Attributes:
        name: as given.

    Raises:
        StorageError: the agent does not answer.
    """

    def __init__(
        self,
        channel: socket.socket,
        name: str,
        *,
        clock: Callable[[], float] = boot_seconds,
        answer_seconds: float = ANSWER_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._socket = channel
        self.name = name
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._sleep = sleep
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_IN_FLIGHT)
        self._next_number = 1
        self._calls: dict[int, _Call] = {}
        self._given_up: set[int] = set()
        self._lost = ""
        self._ahead = float("-inf")
        # For sending: an agent that reads nothing must not hold anybody up for ever.
        channel.settimeout(answer_seconds)
        self._reader = threading.Thread(target=self._read, name="agent-answers", daemon=True)
        self._reader.start()
        try:
            self.call("hello", {})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the channel: calls under way fail; twice is fine."""
        self._end("it was closed")
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._socket.close()

    def parse(self, read: Callable[[], T]) -> T:
        """Read a part of an answer; an agent that answers nonsense is of no use for anything.

        Args:
            read: reads it; a `FrameError` of it ends the channel.

        Raises:
            UnavailableError: it cannot be read.
        """
        try:
            return read()
        except FrameError as error:
            self._end(f"the agent answered nonsense ({error})")
            raise self._unavailable() from error

    def ask(self, op: str, fields: JsonObject) -> Frame:
        """Ask for something that changes nothing; a store that fails for a moment is asked again.

        Args:
            op: name of the operation.
            fields: its own fields of the header.

        Returns:
            The answer, which tells no error.

        Raises:
            StorageError: the agent's, a timeout, or `UnavailableError` when the channel is lost.
        """
        for pause in READ_PAUSES_SECONDS:
            try:
                return self.call(op, fields)
            except ThrottledError:
                raise
            except TransientError:
                with self._lock:
                    if self._lost:
                        raise
                self._sleep(pause)
        return self.call(op, fields)

    def call(
        self, op: str, fields: JsonObject, body: bytes = b"", *, look: Callable[[], None] = lambda: None
    ) -> Frame:
        """Send a request unless ``look`` forbids it, wait for its answer, raise the error that it is.

        Args:
            op: name of the operation.
            fields: its own fields of the header.
            body: bytes behind the header.
            look: called right before the request leaves; what it raises stops the request.

        Raises:
            LimitExceededError: no frame can hold the request.
            StorageError: the agent's, a timeout, or `UnavailableError` when the channel is lost.
        """
        until = self._ahead + self._clock() + START_SECONDS
        call = _Call()
        with self._slots:
            number = self._enter(call)
            try:
                header: JsonObject = {"id": number, "op": op, **fields}
                if op != "hello":
                    header["until"] = until
                self._send(encode_frame(Frame(header, body)), look)
                if not call.done.wait(self._answer_seconds):
                    raise StorageTimeoutError(
                        f"the agent of {self.name} did not answer within {self._answer_seconds:g} s"
                    )
            except FrameError as error:
                raise LimitExceededError(f"a request that no frame can hold: {error}") from error
            finally:
                with self._lock:
                    if self._calls.pop(number, None) is not None:
                        self._given_up.add(number)
        if call.answer is None:
            raise self._unavailable()
        wire = call.answer.header.get("error")
        if wire is not None:
            raise self.parse(lambda: read_error(object_of(wire)))
        return call.answer

    def _enter(self, call: _Call) -> int:
        with self._lock:
            if self._lost:
                raise self._unavailable()
            number = self._next_number
            self._next_number += 1
            self._calls[number] = call
            return number

    def _send(self, data: bytes, look: Callable[[], None]) -> None:
        with self._sending:
            look()  # waiting for one's turn may take long
            try:
                self._socket.sendall(data)
            except OSError as error:
                self._end(f"it broke ({error.strerror or type(error).__name__})")
                raise self._unavailable() from error

    def _read(self) -> None:
        reader = FrameReader()
        why = "the agent is gone"
        try:
            while data := self._receive():
                for frame in reader.feed(data):
                    self._take(frame)
        except FrameError as error:
            why = f"the agent answered nonsense ({error})"
        except OSError as error:
            why = f"it broke ({error.strerror or type(error).__name__})"
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody must wait for an answer any more
            why = f"its answers cannot be read ({type(error).__name__})"
        self._end(why)

    def _receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(_READ_BYTES)
            except TimeoutError:
                continue  # nothing was asked for so long

    def _take(self, frame: Frame) -> None:
        number = field_of(frame.header, "id", int)
        # The agent's clock is at least this far ahead of ours: its answer took some time to come.
        ahead = field_of(frame.header, "clock", float) - self._clock()
        with self._lock:
            call = self._calls.pop(number, None)
            if call is None and number not in self._given_up:
                raise FrameError("an answer to nothing")
            self._given_up.discard(number)
            self._ahead = max(self._ahead, ahead)
            if call is not None:
                call.answer = frame
                call.done.set()

    def _end(self, why: str) -> None:
        """Fail all calls, now and later."""
        with self._lock:
            self._lost = self._lost or why
            calls = list(self._calls.values())
            self._calls.clear()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for call in calls:
            call.done.set()

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(f"the channel to the agent of {self.name} is lost: {self._lost}")


def ok_of(answer: Frame) -> JsonObject:
    """Return what an answer says that is no error.

    Raises:
        FrameError: it says nothing.
    """
    return object_of(answer.header.get("ok"))


def object_of(value: object) -> JsonObject:
    """Return a part of an answer that must be an object.

    Raises:
        FrameError: it is none.
    """
    if not isinstance(value, dict):
        raise FrameError("an answer that is none")
    return cast("JsonObject", value)
