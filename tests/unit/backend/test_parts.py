"""The small parts that backends share: ranges, bodies, limits, the memory backend's clock, the factory."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.backend import (
    bodies,
    breaker,
    breaker_bodies,
    circuit,
    circuit_events,
    config,
    copying,
    factory,
    failures,
    file,
    memory,
    probe,
    ranges,
    recovery,
    types,
)
from bubu_storage.backend.bodies import CHUNK_BYTES, chunks
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.ranges import ByteRange, resolve_range
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.errors import (
    ConfigurationError,
    InvalidKeyError,
    ObjectNotFoundError,
    RangeNotSatisfiableError,
)
from bubu_storage.settings import FileSettings, S3Settings
from bubu_storage.testing.acceptance import keys_of

if TYPE_CHECKING:
    from pathlib import Path


# ---- ranges


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=5-5", 5, 1),
        ("bytes=900-", 900, 100),
        ("bytes=-100", 900, 100),
        ("bytes=-1000", 0, 1000),
        ("bytes=-9999", 0, 1000),
        ("bytes=0-9999", 0, 1000),
        (" bytes=0-0 ", 0, 1),
        ("bytes=0-99999999999999999999999", 0, 1000),
        (f"bytes=0-{'9' * 9000}", 0, 1000),
        (f"bytes={'0' * 9000}1-2", 1, 2),
        (f"bytes=-{'9' * 9000}", 0, 1000),
    ],
)
def test_ranges_that_count(header: str, start: int, length: int) -> None:
    """One range of bytes gives that part, cut off at the end of the object."""
    expected = ByteRange(start, length, f"bytes {start}-{start + length - 1}/1000")
    assert expected == resolve_range(header, size_bytes=1000, key="k")


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "bytes=0-1,3-4", "items=0-1", "0-1"),
        *("bytes=1-2-3", "bytes= 0-1", "Bytes=0-1", "bytes=+1-2", "bytes=1.5-2", "bytes=0-1\n2"),
        "bytes=\u0660-\u0661",  # digits, but not ASCII
    ],
)
@pytest.mark.parametrize("size", [0, 1000])
def test_ranges_that_are_ignored(header: str, size: int) -> None:
    """Other units, several ranges and malformed text give the whole object."""
    assert ByteRange(0, size, "") == resolve_range(header, size_bytes=size, key="k")


@pytest.mark.parametrize(
    ("header", "size"),
    [("bytes=1000-", 1000), ("bytes=1000-2000", 1000), ("bytes=-0", 1000), ("bytes=0-", 0), ("bytes=0-0", 0),
     ("bytes=-1", 0), (f"bytes={'9' * 9000}-", 1000)],
)  # fmt: skip
def test_ranges_outside(header: str, size: int) -> None:
    """A range with nothing in it is an error of its own; any range is, on an empty object."""
    with pytest.raises(RangeNotSatisfiableError) as caught:
        resolve_range(header, size_bytes=size, key="k")
    assert (416, "InvalidRange", "k") == (caught.value.status, caught.value.code, caught.value.key)
    assert len(str(caught.value)) < 200


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_ranges_are_like_slices(size: int, first: int, last: int) -> None:
    """For any numbers the part is what a slice would be."""
    data = bytes(range(size))
    try:
        part = resolve_range(f"bytes={first}-{last}", size_bytes=size, key="k")
    except RangeNotSatisfiableError:
        assert first >= size
        assert first <= last
    else:
        got = data[part.start : part.start + part.length]
        assert (data if last < first else data[first : last + 1]) == got


# ---- bodies


@pytest.mark.parametrize(
    "body",
    [b"abcdef", bytearray(b"abcdef"), memoryview(b"abcdef"), io.BytesIO(b"abcdef"), [b"ab", b"", b"cdef"],
     iter((b"abc", memoryview(b"def"))), memoryview(b"abcdef").cast("H")],
)  # fmt: skip
def test_every_body_becomes_bytes(body: Any) -> None:
    """Pieces are flat bytes, none of them empty."""
    pieces = list(chunks(body))
    assert b"abcdef" == b"".join(pieces)
    assert all(len(piece) and piece.format == "B" for piece in pieces)


def test_files_are_read_in_pieces() -> None:
    """Never all at once, whatever their length."""
    sizes: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    assert [CHUNK_BYTES, CHUNK_BYTES, 1] == [len(piece) for piece in chunks(File(bytes(2 * CHUNK_BYTES + 1)))]
    assert {CHUNK_BYTES} == set(sizes)


@pytest.mark.parametrize("body", ["text", ["text"], [None], [1], io.StringIO("text"), {"a": 1}, None, 7])
def test_what_is_no_bytes_is_refused(body: Any) -> None:
    """With the name of the type, or the advice to encode."""
    with pytest.raises(TypeError, match="bytes"):
        list(chunks(body))


@pytest.mark.parametrize(
    "bad", ["/", "../", "\x00", "\ud800", "k"], ids=["slash", "dots", "nul", "half", "long"]
)
def test_a_message_quotes_only_the_beginning_of_a_bad_key(bad: str) -> None:
    """However long the key, and whatever is wrong with it, the message stays readable."""
    with pytest.raises(InvalidKeyError) as caught:
        types.check_key(bad + "x" * 1_000_000)
    assert 200 > len(str(caught.value))


# ---- memory


def test_memory_uses_the_clock_it_is_given() -> None:
    """Objects are stamped by it, in UTC; so is the store's own time."""
    now = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    store = MemoryBackend(clock=lambda: now)
    store.put_object("a", b"x")
    assert datetime(2026, 1, 1, 10, tzinfo=UTC) == store.head_object("a").last_modified == store.server_time()
    assert timedelta(0) == store.server_time().utcoffset()


def test_memory_can_age_objects() -> None:
    """For tests of retention; only an object that is there has an age."""
    store = MemoryBackend()
    etag = store.put_object("a", b"x", metadata={"k": "v"})
    then = datetime(2020, 1, 1, tzinfo=UTC)
    store.set_last_modified("a", then)
    assert then == store.head_object("a").last_modified == next(store.list_objects()).objects[0].last_modified
    assert (etag, {"k": "v"}) == (store.head_object("a").etag, store.head_object("a").metadata)
    with pytest.raises(ObjectNotFoundError):
        store.set_last_modified("b", then)


@given(st.lists(st.tuples(st.booleans(), st.text("abé😀/", min_size=1, max_size=4)), max_size=40))
def test_memory_is_a_sorted_map(steps: list[tuple[bool, str]]) -> None:
    """After any puts and deletions it lists what a dictionary holds, by UTF-8 bytes."""
    store, model = MemoryBackend(), cast("dict[str, bytes]", {})
    for is_put, key in steps:
        if key.startswith("/"):
            continue
        if is_put:
            store.put_object(key, key.encode())
            model[key] = key.encode()
        else:
            store.delete_object(key)
            model.pop(key, None)
    assert sorted(model, key=str.encode) == keys_of(store.list_objects(page_size=3))


# ---- factory


def test_factory_opens_files(tmp_path: Path) -> None:
    """File settings give a file backend on that directory."""
    backend = open_backend(FileSettings(str(tmp_path / "new")))
    assert isinstance(backend, FileBackend)
    assert (tmp_path / "new").is_dir()


def test_factory_opens_buckets() -> None:
    """S3 settings give an S3 backend; nothing is contacted."""
    backend = open_backend(S3Settings(bucket="b", endpoint="http://127.0.0.1:1", anonymous=True))
    try:
        assert isinstance(backend, S3Backend)
        assert "s3://b" == backend.name
    finally:
        backend.close()


def test_factory_passes_faults_on() -> None:
    """What is wrong with settings is said when they are opened."""
    for settings in (FileSettings(" "), S3Settings(bucket="")):
        with pytest.raises(ConfigurationError):
            open_backend(settings)


def test_factory_refuses_what_it_does_not_know() -> None:
    """A new kind of settings must not fall through silently."""

    @dataclass
    class Tape:
        reel: int = 1

    with pytest.raises(AssertionError):
        open_backend(cast("FileSettings", Tape()))


@pytest.mark.parametrize(
    "code",
    [
        "import bubu_storage.backend.factory",
        "import bubu_storage.backend.probe, bubu_storage.testing.fakes, bubu_storage.backend.memory",
        "import bubu_storage.backend.config, bubu_storage.backend.copying, bubu_storage.backend.breaker",
        "from bubu_storage.backend import factory as f, file; f.open_backend(f.FileSettings({directory!r}))",
    ],
)
def test_boto3_is_loaded_for_buckets_only(code: str, tmp_path: Path) -> None:
    """A pod with a file store does not pay for the SDK."""
    check = "; import sys; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    command = code.format(directory=str(tmp_path)) + check
    assert 0 == subprocess.run([sys.executable, "-c", command], check=False, timeout=60).returncode


@pytest.mark.parametrize(
    "module",
    [
        *(bodies, breaker, breaker_bodies, circuit, circuit_events, config, copying, factory, failures, file),
        *(memory, probe, ranges, recovery, types),
    ],
)
def test_public_names_exist(module: Any) -> None:
    """What ``__all__`` promises is there."""
    assert module.__all__
    for name in importlib.import_module(module.__name__).__all__:
        assert hasattr(module, name), name
