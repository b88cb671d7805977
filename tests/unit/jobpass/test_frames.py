"""Frames are read from outside: whole frames in, the same out; anything else ends the channel."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.jobpass.frames import (
    FIRST_FRAME_LIMITS,
    FRAME_LIMITS,
    MAX_BODY_BYTES,
    Frame,
    FrameError,
    FrameReader,
    Limits,
    encode_frame,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
frames = st.builds(Frame, st.dictionaries(texts, values, max_size=5), st.binary(max_size=300))


def read(data: bytes, pieces: int = 7, limits: Limits = FRAME_LIMITS) -> list[Frame]:
    """Feed bytes piece by piece."""
    reader = FrameReader(limits)
    return [frame for at in range(0, len(data), pieces) for frame in reader.feed(data[at : at + pieces])]


@given(st.lists(frames, max_size=4), st.integers(1, 100))
def test_what_is_written_is_read(sent, pieces):
    """However the stream is cut."""
    assert read(b"".join(map(encode_frame, sent)), pieces) == sent


@given(frames, st.data())
def test_a_truncated_frame_is_none(frame, data):
    """Nothing is given out before the last byte, and the reader says that something is missing."""
    whole = encode_frame(frame)
    cut = data.draw(st.integers(1, len(whole) - 1))
    reader = FrameReader()

    assert list(reader.feed(whole[:cut])) == []
    assert not reader.is_between_frames
    assert list(reader.feed(whole[cut:])) == [frame]
    assert reader.is_between_frames


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_waited_for(data):
    """It never becomes anything but frames or a refusal."""
    try:
        found = read(data)
    except FrameError:
        return
    assert all(isinstance(frame.header, dict) for frame in found)


@pytest.mark.parametrize(
    ("header_bytes", "body_bytes", "limits"),
    [
        (2**32 - 1, 0, FRAME_LIMITS),
        (2, 2**32 - 1, FRAME_LIMITS),
        (2, MAX_BODY_BYTES + 1, FRAME_LIMITS),
        (0, 0, FRAME_LIMITS),
        (FIRST_FRAME_LIMITS.header_bytes + 1, 0, FIRST_FRAME_LIMITS),
        (2, 1, FIRST_FRAME_LIMITS),
    ],
)
def test_lengths_are_judged_before_anything_is_held(header_bytes, body_bytes, limits):
    """The eight bytes alone are refused."""
    with pytest.raises(FrameError):
        read(struct.pack("!II", header_bytes, body_bytes), limits=limits)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b"{}{}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 10_000 + b"}",
    ],
    ids=lambda header: repr(header[:12]),
)
def test_headers_that_are_none(header):
    """No JSON, no object, or numbers that are none."""
    with pytest.raises(FrameError):
        read(struct.pack("!II", len(header), 0) + header, 1 << 20)


@pytest.mark.parametrize(
    "frame",
    [
        Frame({}, bytes(MAX_BODY_BYTES + 1)),
        Frame({"a": "x" * FRAME_LIMITS.header_bytes}),
        Frame({"a": float("nan")}),
        Frame({"a": object()}),
        Frame({"a": "\ud800"}),
    ],
    ids=["body", "header", "nan", "object", "surrogate"],
)
def test_what_no_frame_can_hold_is_not_written(frame):
    """Better here than on the other side."""
    with pytest.raises(FrameError):
        encode_frame(frame)


def test_the_largest_page_of_keys_fits():
    """1,000 keys of 1,024 characters that JSON writes with six bytes each."""
    page = [["\x01" * 1024, 2**60, '"' + "f" * 64 + '"', 2**53] for _ in range(1000)]

    (frame,) = read(encode_frame(Frame({"id": 1, "ok": {"page": page}})), 1 << 16)

    assert frame.header["ok"]["page"] == json.loads(json.dumps(page))


@pytest.mark.parametrize("item", [b"{}", b"[]", b'""', b'{"a":1}', b"0", b'"\\\\"', b'"\\""', b'",["'])
def test_a_header_of_very_many_values(item):
    """Eight megabytes of small values would be hundreds of megabytes in memory."""
    header = b'{"a":[' + b",".join([item] * 50_000) + b"]}"

    with pytest.raises(FrameError, match="20000 values"):
        read(struct.pack("!II", len(header), 0) + header, 1 << 20)


@pytest.mark.parametrize("key", ["[" * 1024, ",{" * 512, '"' * 1024, "\\" * 1024, '\\",[' * 256])
def test_keys_that_look_like_many_values(key):
    """What stands in a text is no value."""
    page = [[key, 1, '"e"', 0]] * 1000

    (frame,) = read(encode_frame(Frame({"id": 1, "ok": {"page": page}})), 1 << 20)

    assert frame.header["ok"]["page"] == page
