"""Copies between stores and inside one: which side is at fault, and what is never sent twice."""

from __future__ import annotations

import logging
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from bubu_storage.backend.breaker import CircuitBreakerBackend
from bubu_storage.backend.copying import copy_object, materialised_copy, stream_copy
from bubu_storage.backend.decorator import BackendDecorator
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import (
    BackendUnavailableError,
    CopyError,
    CopyNotSupportedError,
    CopyPhase,
    InvalidKeyError,
    ObjectNotFoundError,
    StorageError,
    UnavailableError,
    is_copy_phase,
    is_not_found,
)
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, Operation, Timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from bubu_storage.backend.types import GetObjectResult, ObjectBackend

DATA = bytes(range(256)) * 8192  # 2 MiB


class Ticking:
    """A clock that goes on by a second each time it is asked, so that every write has a time of its own."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        self._now += timedelta(seconds=1)
        return self._now


@pytest.fixture
def source() -> MemoryBackend:
    """A store with one object."""
    store = MemoryBackend(clock=Ticking())
    store.put_object("k", DATA, content_type="text/x", metadata={"a": "1"})
    return store


@pytest.fixture
def destination() -> MemoryBackend:
    """An empty store."""
    return MemoryBackend(clock=Ticking())


def failing(inner: ObjectBackend, operation: Operation, timing: Timing = Timing.BEFORE) -> FaultBackend:
    """Let one kind of request fail always."""
    return FaultBackend(inner, Fault(times=0, operations=frozenset({operation}), timing=timing))


def seen(store: ObjectBackend, key: str) -> tuple[bytes, str, dict[str, str]]:
    """Return body, type and metadata."""
    with store.get_object(key) as found:
        return found.read(), found.info.content_type, dict(found.info.metadata)


class NoCopy(BackendDecorator):
    """Hides the capability to copy."""

    def __new__(cls, *_: object) -> Self:
        """Skip what the base adds."""
        return object.__new__(cls)


# ---- between two stores


@pytest.mark.parametrize("copy", [stream_copy, materialised_copy])
def test_a_copy_is_the_object(
    source: MemoryBackend, destination: MemoryBackend, copy: Callable[..., str]
) -> None:
    """Bytes, type and metadata arrive; the ETag is the copy's; each may be replaced."""
    etag = copy(source, destination, "k")
    assert (DATA, "text/x", {"a": "1"}) == seen(destination, "k")
    assert destination.head_object("k").etag == etag
    copy(source, destination, "k", destination_key="l", content_type="text/y", metadata={"b": "2"})
    assert (DATA, "text/y", {"b": "2"}) == seen(destination, "l")
    copy(source, destination, "k", destination_key="m", metadata={})
    assert (DATA, "text/x", {}) == seen(destination, "m")


@pytest.mark.parametrize("copy", [stream_copy, materialised_copy])
def test_a_source_that_fails_is_read(
    source: MemoryBackend, destination: MemoryBackend, copy: Callable[..., str]
) -> None:
    """Another source may serve; nothing was asked of the destination (resilience case 26)."""
    counting = CountingBackend(destination)
    with pytest.raises(CopyError, match=r"^read: ") as caught:
        copy(failing(source, Operation.GET), counting, "k")
    assert is_copy_phase(caught.value, CopyPhase.READ)
    assert not is_copy_phase(caught.value, CopyPhase.WRITE)
    assert isinstance(caught.value.__cause__, UnavailableError)
    assert 0 == counting.total
    with pytest.raises(CopyError) as missing:
        copy(source, destination, "nothing")
    assert is_not_found(missing.value)
    assert 404 == missing.value.status


@pytest.mark.parametrize("copy", [stream_copy, materialised_copy])
def test_a_destination_that_fails_is_write(
    source: MemoryBackend, destination: MemoryBackend, copy: Callable[..., str]
) -> None:
    """Another source would not help; the source's body is closed (resilience case 26)."""
    counting = CountingBackend(source)
    with pytest.raises(CopyError, match=r"^write: ") as caught:
        copy(counting, failing(destination, Operation.PUT), "k")
    assert is_copy_phase(caught.value, CopyPhase.WRITE)
    assert 0 == counting.open_bodies


class Ends(BackendDecorator):
    """A store whose bodies end too early, without an error."""

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object that is shorter than it says."""
        found = super().get_object(key, range_header=range_header, if_match=if_match)
        found._stream.seek(1000)
        return found


@pytest.mark.parametrize("copy", [stream_copy, materialised_copy])
@pytest.mark.parametrize("through", [lambda store: store, CircuitBreakerBackend, "file"])
@pytest.mark.parametrize("break_it", [lambda s: failing(s, Operation.GET, Timing.HALFWAY), Ends])
def test_a_source_that_breaks_in_the_middle_is_read(
    source: MemoryBackend,
    tmp_path: Path,
    copy: Callable[..., str],
    through: Any,
    break_it: Callable[[ObjectBackend], ObjectBackend],
) -> None:
    """Although it surfaces inside the put; the destination keeps what it had (resilience case 26)."""
    store: ObjectBackend = FileBackend(tmp_path) if through == "file" else MemoryBackend()
    store.put_object("k", b"old")
    target = store if through == "file" else through(store)
    with pytest.raises(CopyError) as caught:
        copy(break_it(source), target, "k")
    assert is_copy_phase(caught.value, CopyPhase.READ)
    assert isinstance(caught.value.__cause__, UnavailableError)
    assert b"old" == seen(store, "k")[0]
    if isinstance(target, CircuitBreakerBackend):
        assert 0 == target.circuit.failures


def test_a_stream_is_not_held(source: MemoryBackend) -> None:
    """The destination is handed pieces, one after the other, of a body whose length is announced."""
    lengths: list[int] = []

    class Sink(BackendDecorator):
        def put_object(self, _: str, body: Any, *, size_bytes: int | None = None, **__: Any) -> str:
            assert len(DATA) == size_bytes
            while piece := body.read(300_000):
                lengths.append(len(piece))
            return '"etag"'

    assert '"etag"' == stream_copy(source, Sink(MemoryBackend()), "k")
    assert (len(DATA), 300_000) == (sum(lengths), max(lengths))


def test_cancellation_passes_unchanged(source: MemoryBackend, destination: MemoryBackend) -> None:
    """It is nobody's fault."""
    fault = Fault(times=0, operations=frozenset({Operation.PUT}), error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        stream_copy(source, FaultBackend(destination, fault), "k")


# ---- spooling


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("spool_bytes", [len(DATA), 1024, 0])
def test_long_objects_go_through_a_file_that_vanishes(
    source: MemoryBackend, temporary: Path, monkeypatch: pytest.MonkeyPatch, spool_bytes: int, *, fails: bool
) -> None:
    """Short ones stay in memory; the destination gets a body that it can read twice."""
    files: list[bool] = []

    class Sink(BackendDecorator):
        def put_object(self, _: str, body: Any, **__: Any) -> str:
            assert DATA == body.read()
            body.seek(0)
            assert DATA == body.read()
            files.append(hasattr(body, "_rolled") and body._rolled)
            assert [] == list(temporary.iterdir())
            if fails:
                raise UnavailableError("down")
            return '"etag"'

    sink = Sink(MemoryBackend())
    if fails:
        with pytest.raises(CopyError):
            materialised_copy(source, sink, "k", spool_bytes=spool_bytes)
    else:
        materialised_copy(source, sink, "k", spool_bytes=spool_bytes)
    assert [spool_bytes < len(DATA)] == files
    assert [] == list(temporary.iterdir())


def test_a_full_disk_is_write(source: MemoryBackend, destination: MemoryBackend, monkeypatch: Any) -> None:
    """Another source would not help."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(CopyError) as caught:
        materialised_copy(source, destination, "k", spool_bytes=1)
    assert is_copy_phase(caught.value, CopyPhase.WRITE)
    assert isinstance(caught.value.__cause__, OSError)


# ---- inside one store


def puts(store: CountingBackend) -> int:
    """Return how many objects were written byte by byte."""
    return store.counts[Operation.PUT]


def test_the_store_copies_by_itself(source: MemoryBackend) -> None:
    """No byte moves."""
    counting = CountingBackend(source)
    etag = copy_object(counting, "k", "l", content_type="text/y")
    assert (DATA, "text/y", {"a": "1"}) == seen(source, "l")
    assert source.head_object("l").etag == etag
    assert {Operation.COPY: 1, Operation.HEAD: 1} == dict(counting.counts)


@pytest.mark.parametrize("says_late", [False, True])
def test_a_store_that_cannot_copy(
    source: MemoryBackend, caplog: pytest.LogCaptureFixture, *, says_late: bool
) -> None:
    """The bytes move, and nothing is logged as a failure."""
    caplog.set_level(logging.INFO)
    refusal = Fault(
        times=0, operations=frozenset({Operation.COPY}), error=lambda: CopyNotSupportedError("no", status=501)
    )
    counting = CountingBackend(FaultBackend(source, refusal) if says_late else NoCopy(source))
    for backend in (counting, CircuitBreakerBackend(counting)):
        copy_object(backend, "k", "l", metadata={"b": "2"})
        assert (DATA, "text/x", {"b": "2"}) == seen(source, "l")
    assert (2, "") == (puts(counting), caplog.text)


def lost_answer(store: ObjectBackend, timing: Timing) -> CountingBackend:
    """A store whose copy fails, before or after it was made."""
    return CountingBackend(failing(store, Operation.COPY, timing))


@pytest.mark.parametrize("existed", [False, True])
def test_a_copy_whose_answer_is_lost_is_found(source: MemoryBackend, *, existed: bool) -> None:
    """The destination changed and has the right size: nothing is sent a second time (resilience case 25)."""
    if existed:
        source.put_object("l", b"y" * len(DATA))
    store = lost_answer(source, Timing.AFTER)
    etag = copy_object(store, "k", "l")
    assert (source.head_object("k").etag, 0) == (etag, puts(store))
    assert DATA == seen(source, "l")[0]


@pytest.mark.parametrize("existing", [None, b"other", b"y" * len(DATA)], ids=["absent", "short", "same size"])
def test_a_copy_that_was_not_made_moves_the_bytes(
    source: MemoryBackend, existing: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Exactly one put, also where an object of the same length was there before (resilience case 25)."""
    if existing is not None:
        source.put_object("l", existing)
    store = lost_answer(source, Timing.BEFORE)
    copy_object(store, "k", "l")
    assert (DATA, 1) == (seen(source, "l")[0], puts(store))
    assert "moving the bytes instead" in caplog.text


def test_another_writer_is_no_copy(source: MemoryBackend) -> None:
    """The destination changed, but to something of another length: the bytes are moved."""

    def interrupted() -> StorageError:
        source.put_object("l", b"somebody else's")
        return UnavailableError("reset")

    fault = Fault(times=0, operations=frozenset({Operation.COPY}), error=interrupted)
    store = CountingBackend(FaultBackend(source, fault))
    copy_object(store, "k", "l")
    assert (DATA, 1) == (seen(source, "l")[0], puts(store))


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_destination_that_cannot_be_looked_at(source: MemoryBackend, first: int) -> None:
    """Before or after the copy: then nobody can tell, and the bytes are moved (resilience case 25)."""
    heads = Fault(nth=first, times=1, operations=frozenset({Operation.HEAD}))
    copies = Fault(times=0, operations=frozenset({Operation.COPY}), timing=Timing.AFTER)
    store = CountingBackend(FaultBackend(source, heads, copies))
    copy_object(store, "k", "l")
    assert (DATA, 1) == (seen(source, "l")[0], puts(store))


def test_a_missing_source_is_not_found(source: MemoryBackend) -> None:
    """Whoever copies finds out, and the destination stays."""
    source.put_object("l", b"old")
    with pytest.raises(CopyError) as caught:
        copy_object(source, "nothing", "l")
    assert is_not_found(caught.value)
    assert isinstance(caught.value.__cause__, ObjectNotFoundError)
    assert b"old" == seen(source, "l")[0]


def test_wrong_keys_are_refused(source: MemoryBackend) -> None:
    """Before anything is moved; onto itself only with something to change."""
    for pair in (("k", "../l"), ("/k", "l"), ("k", "k")):
        with pytest.raises(InvalidKeyError):
            copy_object(source, *pair)
    copy_object(source, "k", "k", metadata={"new": "1"})
    assert (DATA, "text/x", {"new": "1"}) == seen(source, "k")


def test_an_open_circuit_says_so(source: MemoryBackend) -> None:
    """Nothing is sent, nothing is moved."""
    fault = Fault(times=1)
    counting = CountingBackend(FaultBackend(source, fault))
    breaker = CircuitBreakerBackend(counting, threshold=1)
    with pytest.raises(BackendUnavailableError):
        breaker.head_object("k")
    with pytest.raises(BackendUnavailableError):
        copy_object(breaker, "k", "l")
    assert 1 == counting.total


def test_every_fault_ends_in_a_copy_or_an_error(source: MemoryBackend) -> None:
    """Whichever request fails, in whichever way: the copy is whole, or the error is of the tree."""
    counting = CountingBackend(failing(source, Operation.COPY))
    copy_object(counting, "k", "l")
    for nth in range(1, counting.total + 1):
        for timing in Timing:
            store = MemoryBackend(clock=Ticking())
            store.put_object("k", DATA)
            store.put_object("l", b"old")
            inner = failing(store, Operation.COPY)
            try:
                copy_object(FaultBackend(inner, Fault(nth=nth, timing=timing)), "k", "l")
            except StorageError:
                assert seen(store, "l")[0] in {b"old", DATA}
            else:
                assert DATA == seen(store, "l")[0]


def test_no_file_is_left_open(source: MemoryBackend, temporary: Path) -> None:
    """Copies that fail leave neither a descriptor nor a body behind."""
    counting = CountingBackend(source)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the folder itself is one of them
    broken = (
        (failing(counting, Operation.GET, Timing.HALFWAY), source),
        (counting, failing(source, Operation.PUT)),
    )
    for pair in broken:
        with pytest.raises(CopyError):
            materialised_copy(*pair, "k", "l", spool_bytes=1)
    assert (0, before) == (counting.open_bodies, len(os.listdir("/proc/self/fd")))  # noqa: PTH208
