"""The beginning of a channel: TLS, then one frame each way, all of it before one deadline.

The agent says which pass it is for and shows its pod's token; the controller answers when it has
had the token reviewed. Nothing else is said before that.

Invariants: a slow or silent other side costs no more than the deadline; nothing that comes with or
after the first frame is taken for something said later; no text here holds the token.
"""

from __future__ import annotations

import contextlib
import math
import select
import ssl
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

from bubu_operator.jobpass.frames import FIRST_FRAME_LIMITS, Frame, FrameError, FrameReader, encode_frame
from bubu_operator.jobpass.wire import field_of
from bubu_operator.kube.resources import JsonObject

__all__ = ["AUDIENCE", "VERSION", "Deadline", "Hello", "first_frame", "send_frame", "shake_hands", "welcome"]

AUDIENCE = "bubu-storage-retention"
"""Of the agents' tokens: good for nothing else, the API server included."""

VERSION = 1
_READ_BYTES = 4096


class Deadline:
    """One for all steps of a beginning.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def wait(self, connection: ssl.SSLSocket, *, to_write: bool) -> None:
        """Return when another try is worth it.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the other side took too long")
        poll = select.poll()
        poll.register(connection, select.POLLOUT if to_write else select.POLLIN)
        poll.poll(math.ceil(left * 1000))

    @contextlib.contextmanager
    def holding(self, lock: threading.Lock) -> Generator[None]:
        """Hold a lock.

        Raises:
            TimeoutError: others had it until the deadline.
        """
        if not lock.acquire(timeout=max(0.0, self._until - time.monotonic())):
            raise TimeoutError("others took too long")
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True, slots=True)
class Hello:
    """What an agent says first.

    Attributes:
        pass_id: of the pass that its Job was made for.
        token: of its pod, for our own audience.
    """

    pass_id: str
    token: str = field(repr=False)

    def to_frame(self) -> Frame:
        """Return its frame."""
        return Frame({"hello": VERSION, "pass": self.pass_id, "token": self.token})

    @classmethod
    def from_frame(cls, frame: Frame) -> Hello:
        """Read it.

        Raises:
            FrameError: this is none of this version.
        """
        if field_of(frame.header, "hello", int) != VERSION:
            raise FrameError("an agent of another version; is --job-image the image of this very version?")
        return cls(field_of(frame.header, "pass", str), field_of(frame.header, "token", str))


def welcome(problem: str = "") -> Frame:
    """Return the controller's answer; with a problem it is the last word."""
    header: JsonObject = {"welcome": VERSION}
    return Frame({**header, "problem": problem} if problem else header)


def shake_hands(connection: ssl.SSLSocket, deadline: Deadline) -> None:
    """Do the handshake of a connection that does not block.

    Raises:
        OSError: it failed; a TimeoutError where it took too long.
    """
    while True:
        try:
            return connection.do_handshake()
        except ssl.SSLWantReadError:
            deadline.wait(connection, to_write=False)
        except ssl.SSLWantWriteError:
            deadline.wait(connection, to_write=True)


def send_frame(connection: ssl.SSLSocket, frame: Frame, deadline: Deadline) -> None:
    """Send one frame.

    Raises:
        OSError: it failed; a TimeoutError where it took too long.
    """
    data = encode_frame(frame, FIRST_FRAME_LIMITS)
    while data:
        try:
            data = data[connection.send(data) :]
        except ssl.SSLWantReadError:
            deadline.wait(connection, to_write=False)
        except ssl.SSLWantWriteError:
            deadline.wait(connection, to_write=True)


def first_frame(connection: ssl.SSLSocket, deadline: Deadline) -> Frame:
    """Receive one frame, and nothing behind it.

    Raises:
        FrameError: it is none, or more came with it.
        OSError: the connection ended; a TimeoutError where it took too long.
    """
    reader = FrameReader(FIRST_FRAME_LIMITS)
    while True:
        try:
            data = connection.recv(_READ_BYTES)
        except ssl.SSLWantReadError:
            deadline.wait(connection, to_write=False)
            continue
        except ssl.SSLWantWriteError:
            deadline.wait(connection, to_write=True)
            continue
        if not data:
            raise ConnectionResetError("the other side ended the connection")
        found = list(reader.feed(data))
        if found:
            if len(found) > 1 or not reader.is_between_frames:
                raise FrameError("more than one frame at the beginning")
            return found[0]
