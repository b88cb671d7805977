"""A store behind a descriptor: an `ObjectBackend` whose requests an agent executes elsewhere.

Many requests may be under way at once; answers come in any order. The engine sees a store like
any other, and nothing of Jobs, tokens or TLS.

Invariants: every call ends, with an answer, a timeout, or `UnavailableError` once the channel is
lost, which it then is for all calls; a request is executed within `START_SECONDS` of its call or not
at all, by the agent's own clock, however long it was on its way; what the agent says is read as
something from outside.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar, cast

from bubu_operator.jobpass.frames import MAX_BODY_BYTES, Frame, FrameError, FrameReader, encode_frame
from bubu_operator.jobpass.remote_stream import RemoteStream
from bubu_operator.jobpass.wire import (
    field_of,
    info_from_wire,
    list_from_wire,
    read_error,
    time_from_wire,
)
from bubu_operator.kube.lease_fence import boot_seconds
from bubu_operator.kube.resources import JsonObject
from bubu_storage.backend.bodies import check_size, chunks
from bubu_storage.backend.checks import (
    check_batch,
    check_conditions,
    check_key,
    check_page_size,
    check_prefix,
)
from bubu_storage.backend.last_look import LastLook
from bubu_storage.backend.types import Body, GetObjectResult, ListPage, ObjectInfo
from bubu_storage.errors import (
    InvalidKeyError,
    LimitExceededError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    TransientError,
    UnavailableError,
)
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["MAX_IN_FLIGHT", "START_SECONDS", "RemoteBackend"]

MAX_IN_FLIGHT: Final = 48
"""Requests that the agent has at a time; it has threads for more."""

START_SECONDS: Final = 5.0
"""A request that the agent has not begun so long after its call is not executed any more."""

ANSWER_SECONDS: Final = 120.0
"""For an answer: the store's own timeout, several times, with pauses."""

T = TypeVar("T")

READ_PAUSES_SECONDS: Final = (0.5, 1.0)
"""Before another try of what changes nothing. What deletes or writes is tried once: whether it still may
be sent is the engine's to say."""

_READ_BYTES: Final = 1 << 18


@dataclass(slots=True)
class _Call:
    """A request under way."""

    done: threading.Event = field(default_factory=threading.Event)
    answer: Frame | None = None


class RemoteBackend:
    """The store of an agent; thread-safe.

    Args:
        channel: a connected stream socket; closed with this object.
        name: of the store, for messages.
        clock: seconds that never go back.
        answer_seconds: how long an answer may take.
        chunk_bytes: most that is read of an object at a time.
        sleep: waits before another try.

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
        chunk_bytes: int = MAX_BODY_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._channel = channel
        self._name = name
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._chunk_bytes = chunk_bytes
        self._sleep = sleep
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_IN_FLIGHT)
        self._numbers = itertools.count(1)
        self._next_number = 1
        self._calls: dict[int, _Call] = {}
        self._given_up: set[int] = set()
        self._lost = ""
        self._last_look = LastLook()
        self._ahead = float("-inf")
        # For sending: an agent that reads nothing must not hold anybody up for ever.
        channel.settimeout(answer_seconds)
        self._reader = threading.Thread(target=self._read, name="agent-answers", daemon=True)
        self._reader.start()
        try:
            self._call("hello", {})
        except BaseException:
            self.close()
            raise

    # -- the store -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """As the controller calls the store."""
        return self._name

    def put_object(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None = None,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: str = "",
    ) -> str:
        """Store a small object; see `ObjectBackend.put_object`.

        Raises:
            LimitExceededError: the body is larger than a frame may be.
            StorageError: any other of the tree.
        """
        check_key(key)
        check_conditions(if_match, if_none_match)
        data = bytearray()
        for piece in chunks(body):
            data += piece
            if len(data) > MAX_BODY_BYTES or (size_bytes is not None and len(data) > size_bytes):
                break
        check_size(stored=len(data), expected=size_bytes, key=key)
        if len(data) > MAX_BODY_BYTES:
            raise LimitExceededError(
                f"{key!r} has more than {MAX_BODY_BYTES} bytes, the most that goes through an agent", key=key
            )
        fields: JsonObject = {
            "key": key,
            "type": content_type,
            "metadata": dict(metadata or {}),
            "if_match": if_match,
            "if_none_match": if_none_match,
        }
        return self._read_field(self._call("put", fields, bytes(data)), "etag")

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `ObjectBackend.get_object`.

        Raises:
            StorageError: any of the tree.
        """
        check_key(key)
        check_conditions(if_match)
        info, content_range, data = self._get(key, range_header, if_match)
        stream = RemoteStream(self._get, info, content_range, data)
        return GetObjectResult(info, io.BufferedReader(stream), content_range=content_range)

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object; see `ObjectBackend.head_object`.

        Raises:
            StorageError: any of the tree.
        """
        check_key(key)
        answer = self._ask("head", {"key": key})
        return self._parse(lambda: info_from_wire(_ok(answer).get("info")))

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object; see `ObjectBackend.delete_object`.

        Raises:
            StorageError: any of the tree.
        """
        check_key(key)
        check_conditions(if_match)
        self._call("delete", {"key": key, "if_match": if_match}, look=self._last_look.ask)

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects; see `BatchDeleter.delete_objects`.

        Raises:
            StorageError: any of the tree.
        """
        failed: dict[str, StorageError] = {}
        good: list[str] = []
        for key in check_batch(keys):
            try:
                good.append(check_key(key))
            except InvalidKeyError as error:
                failed[key] = error
        if not good:
            return failed
        conditions = {key: etag for key, etag in (if_match or {}).items() if etag}
        for etag in conditions.values():
            check_conditions(etag)
        answer = self._call("delete_many", {"keys": good, "if_match": conditions}, look=self._last_look.ask)
        return failed | self._parse(lambda: _failures(answer, set(good)))

    def guard_deletions(self, check: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Ask right before each deletion leaves for the agent; see `GuardsDeletions.guard_deletions`."""
        return self._last_look.guard(check)

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream a listing; see `ObjectBackend.list_objects`.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        return self._pages(prefix, start_after, page_size)

    def _pages(self, prefix: str, start_after: str, page_size: int) -> Iterator[ListPage]:
        listing, after = next(self._numbers), start_after
        while True:
            fields: JsonObject = {"prefix": prefix, "after": after, "size": page_size, "listing": listing}
            answer = self._ask("list", fields)
            found = self._parse(lambda answer=answer: list_from_wire(_ok(answer).get("page"), page_size))
            if not found:
                return
            yield ListPage(found)
            after = found[-1].key

    def server_time(self) -> datetime:
        """Return the store's own clock; see `ObjectBackend.server_time`.

        Raises:
            StorageError: any of the tree.
        """
        answer = self._ask("time", {})
        return self._parse(lambda: time_from_wire(_ok(answer).get("time")))

    def close(self) -> None:
        """End the channel: calls under way fail; twice is fine."""
        self._end("it was closed")
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._channel.close()

    # -- calls ---------------------------------------------------------------------------

    def _get(self, key: str, range_header: str, if_match: str) -> tuple[ObjectInfo, str, bytes]:
        fields: JsonObject = {
            "key": key,
            "range": range_header,
            "if_match": if_match,
            "most": self._chunk_bytes,
        }
        answer = self._ask("get", fields)
        info = self._parse(lambda: info_from_wire(_ok(answer).get("info")))
        return info, self._read_field(answer, "range"), answer.body

    def _ask(self, op: str, fields: JsonObject) -> Frame:
        """Ask for something that changes nothing; a store that fails for a moment is asked again."""
        for pause in READ_PAUSES_SECONDS:
            try:
                return self._call(op, fields)
            except ThrottledError:
                raise
            except TransientError:
                with self._lock:
                    if self._lost:
                        raise
                self._sleep(pause)
        return self._call(op, fields)

    def _call(
        self, op: str, fields: JsonObject, body: bytes = b"", *, look: Callable[[], None] = lambda: None
    ) -> Frame:
        """Send a request unless ``look`` forbids it, wait for its answer, raise the error that it is."""
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
                        f"the agent of {self._name} did not answer within {self._answer_seconds:g} s"
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
            raise self._parse(lambda: read_error(_object(wire)))
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
                self._channel.sendall(data)
            except OSError as error:
                self._end(f"it broke ({error.strerror or type(error).__name__})")
                raise self._unavailable() from error

    def _parse(self, read: Callable[[], T]) -> T:
        """Read a part of an answer; an agent that answers nonsense is of no use for anything."""
        try:
            return read()
        except FrameError as error:
            self._end(f"the agent answered nonsense ({error})")
            raise self._unavailable() from error

    def _read_field(self, answer: Frame, name: str) -> str:
        return cast("str", self._parse(lambda: field_of(_ok(answer), name, str)))

    # -- answers -------------------------------------------------------------------------

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
                return self._channel.recv(_READ_BYTES)
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
            self._channel.shutdown(socket.SHUT_RDWR)
        for call in calls:
            call.done.set()

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(f"the channel to the agent of {self._name} is lost: {self._lost}")


def _ok(answer: Frame) -> JsonObject:
    return _object(answer.header.get("ok"))


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise FrameError("an answer that is none")
    return cast("JsonObject", value)


def _failures(answer: Frame, asked: set[str]) -> dict[str, StorageError]:
    wire = _object(_ok(answer).get("failed"))
    if not wire.keys() <= asked:
        raise FrameError("failures of keys that nobody asked about")
    return {key: read_error(_object(error)) for key, error in wire.items()}
