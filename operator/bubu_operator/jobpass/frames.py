"""Frames: how requests and answers travel between the engine and an agent; pure.

A frame is two lengths (32 bits each, network order), a header (a JSON object) and a body (bytes).
Both sides read what the other one wrote as something from outside: lengths are judged before
anything of that size is held, and what is no frame ends the channel.

Invariants: `FrameReader` never holds more than one frame's limits and one chunk, and what it makes of
a header is not much larger; a frame is given out whole or not at all; no message quotes what was read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_operator.kube.resources import JsonObject

__all__ = [
    "FIRST_FRAME_LIMITS",
    "FRAME_LIMITS",
    "MAX_BODY_BYTES",
    "Frame",
    "FrameError",
    "FrameReader",
    "Limits",
    "encode_frame",
]

MAX_HEADER_BYTES: Final = 8 << 20
"""A page of 1,000 keys of 1,024 bytes each, at six bytes a character, and what belongs to them."""

MAX_BODY_BYTES: Final = 1 << 20
MAX_VALUES: Final = 20_000
"""In a header, about: a page has 5,000. Small values take twenty times as much memory as text."""

MAX_FIRST_HEADER_BYTES: Final = 16 << 10
"""A token is one or two kilobytes; nobody has shown who they are yet."""

_LENGTHS: Final = struct.Struct("!II")


class FrameError(ValueError):
    """The other side does not speak as agreed; the channel is of no more use."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a frame may be.

    Attributes:
        header_bytes: of its JSON.
        body_bytes: of what follows.
    """

    header_bytes: int
    body_bytes: int


FRAME_LIMITS: Final = Limits(MAX_HEADER_BYTES, MAX_BODY_BYTES)
FIRST_FRAME_LIMITS: Final = Limits(MAX_FIRST_HEADER_BYTES, 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """One request or answer.

    Attributes:
        header: what is asked or answered.
        body: bytes of an object, or of a part of it.
    """

    header: JsonObject
    body: bytes = b""


def encode_frame(frame: Frame, limits: Limits = FRAME_LIMITS) -> bytes:
    """Return a frame's bytes.

    Raises:
        FrameError: it is too large, or its header has no JSON form.
    """
    try:
        header = json.dumps(frame.header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"a header that has no JSON form ({type(error).__name__})") from None
    _check_lengths(len(header), len(frame.body), limits)
    return b"".join((_LENGTHS.pack(len(header), len(frame.body)), header, frame.body))


class FrameReader:
    """Cuts a stream of bytes into frames.

    Args:
        limits: of each frame.
    """

    def __init__(self, limits: Limits = FRAME_LIMITS) -> None:
        self._limits = limits
        self._held = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Nothing of a frame has come that is not whole."""
        return not self._held

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take the next bytes in; yield the frames that are whole by now.

        Raises:
            FrameError: these are no frames.
        """
        self._held += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        held = self._held
        if len(held) < _LENGTHS.size:
            return None
        header_bytes, body_bytes = _LENGTHS.unpack_from(held)
        _check_lengths(header_bytes, body_bytes, self._limits)
        begin = _LENGTHS.size + header_bytes
        end = begin + body_bytes
        if len(held) < end:
            return None
        header, body = bytes(held[_LENGTHS.size : begin]), bytes(held[begin:end])
        del held[:end]
        return Frame(_parse(header), body)


def _check_lengths(header_bytes: int, body_bytes: int, limits: Limits) -> None:
    if header_bytes > limits.header_bytes or body_bytes > limits.body_bytes:
        raise FrameError(
            f"a frame of {header_bytes} and {body_bytes} bytes; at most {limits.header_bytes} and "
            f"{limits.body_bytes} are agreed"
        )
    if header_bytes == 0:
        raise FrameError("a frame without a header")


def _parse(header: bytes) -> JsonObject:
    if _has_many_values(header):
        raise FrameError(f"a header of more than {MAX_VALUES} values")
    try:
        value: Any = json.loads(header, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a header that is no JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise FrameError("a header that is no JSON object")
    return cast("JsonObject", value)


def _has_many_values(header: bytes) -> bool:
    """Tell whether JSON text holds more values than are agreed, before anything is made of it."""
    if _marks(header) <= MAX_VALUES:
        return False
    # Keys may hold such characters, too: what stands in texts does not count.
    plain = header.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * MAX_VALUES:
        return True
    return sum(map(_marks, plain.split(b'"')[::2])) > MAX_VALUES


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _refuse(_name: str) -> float:
    raise ValueError("no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number
