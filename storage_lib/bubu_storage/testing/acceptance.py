"""The acceptance suite of storage backends: what every `ObjectBackend` must be seen to do.

A backend proves itself by a subclass in a test module, which pytest collects::

    class TestMyBackend(BackendAcceptance):
        @pytest.fixture
        def backend(self) -> Iterator[ObjectBackend]:
            yield MyBackend(...)          # empty, a fresh one for each test

Class attributes say what a store cannot know or keep; everything else is required. The parts
about listings, ranges, conditional requests and copies are in modules of their own. The suite
needs pytest and nothing else; for failures in full detail, a ``conftest.py`` first says
``pytest.register_assert_rewrite("bubu_storage.testing")``.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar, Final, TypeAlias

import pytest

from bubu_storage.backend.types import BatchDeleter, Body, ListedObject, ObjectBackend
from bubu_storage.errors import (
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    StorageError,
    is_not_found,
)
from bubu_storage.testing.acceptance_conditions import ConditionAcceptance
from bubu_storage.testing.acceptance_copy import CopyAcceptance
from bubu_storage.testing.acceptance_listing import NASTY_KEYS, ListingAcceptance, keys_of, read_all, utf8
from bubu_storage.testing.acceptance_ranges import RANGES, RangeAcceptance

__all__ = ["NASTY_KEYS", "RANGES", "REFUSED_KEYS", "BackendAcceptance", "keys_of"]

REFUSED_KEYS: Final = (
    "",
    "/absolute",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "a\\..\\b",
    "nul\x00byte",
    "lone\ud800surrogate",
    "k" * 1025,
    "é" * 513,
)
"""Keys that every backend refuses before it does anything."""

Make: TypeAlias = Callable[[bytes], Body]


def _slice(data: bytes) -> Body:
    return memoryview(data + data)[: len(data)]


def _iterator(data: bytes) -> Body:
    return iter([data[:1], b"", data[1:1000], data[1000:]])


def _list(data: bytes) -> Body:
    return [data[:500], bytes(data[500:])]


_BODIES: Final[dict[str, Make]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "slice": _slice,
    "file": io.BytesIO,
    "iterator": _iterator,
    "list": _list,
}
_SIZED: Final = ("bytes", "file", "iterator")

_BIG_BYTES: Final = 5 * 1024 * 1024 + 1


class BackendAcceptance(ConditionAcceptance, CopyAcceptance, RangeAcceptance, ListingAcceptance):
    """Subclass it, provide the fixture ``backend``, and set what differs.

    There are more attributes in `ConditionAcceptance`, `CopyAcceptance` and `RangeAcceptance`.

    Attributes:
        keeps_content_type: head and get return what put was given.
        keeps_metadata: likewise for user metadata.
        nasty_keys: keys to try; leave out only what the store itself cannot have.
        big_bytes: length of the "large" object.
        writers: threads of the concurrency tests.
    """

    keeps_content_type: ClassVar[bool] = True
    keeps_metadata: ClassVar[bool] = True
    big_bytes: ClassVar[int] = _BIG_BYTES
    writers: ClassVar[int] = 8

    # ---- put, get, head

    def test_round_trip(self, backend: ObjectBackend) -> None:
        """What is put can be looked up, read and listed, with the same facts everywhere."""
        etag = backend.put_object("dir/a.json", b'{"a":1}', size_bytes=7, content_type="application/json")
        info = backend.head_object("dir/a.json")
        with backend.get_object("dir/a.json") as found:
            assert found.read() == b'{"a":1}'
            assert found.read() == b""
            assert found.info == info
            assert found.content_range == ""
        (listed,) = [one for page in backend.list_objects() for one in page.objects]
        assert listed == ListedObject("dir/a.json", 7, info.etag, listed.last_modified)
        assert (info.key, info.size_bytes, info.etag) == ("dir/a.json", 7, etag)
        # A listing may be more exact than a header, which has whole seconds.
        assert abs(listed.last_modified - info.last_modified) < timedelta(seconds=1)
        if self.keeps_content_type:
            assert info.content_type == "application/json"

    def test_metadata_comes_back_in_lower_case(self, backend: ObjectBackend) -> None:
        """User metadata is kept with the object, names in lower case."""
        if not self.keeps_metadata:
            pytest.skip("this store keeps no metadata")
        backend.put_object("m", b"x", metadata={"Story": "s-1", "run": "r 2"})
        assert dict(backend.head_object("m").metadata) == {"story": "s-1", "run": "r 2"}

    def test_default_content_type(self, backend: ObjectBackend) -> None:
        """Without a content type an object is a stream of bytes."""
        backend.put_object("plain", b"x")
        backend.put_object("untyped", b"x", content_type="")
        for key in ("plain", "untyped"):
            assert backend.head_object(key).content_type in {
                "application/octet-stream",
                "binary/octet-stream",
            }

    @pytest.mark.parametrize("form", _BODIES)
    def test_every_form_of_body(self, backend: ObjectBackend, form: str) -> None:
        """Bytes, files and chunks are stored alike, with and without an announced size."""
        make = _BODIES[form]
        data = random.Random(1).randbytes(3000)
        backend.put_object("announced", make(data), size_bytes=len(data))
        backend.put_object("not-announced", make(data))
        assert read_all(backend, "announced") == data
        assert read_all(backend, "not-announced") == data

    def test_file_is_read_from_its_position(self, backend: ObjectBackend) -> None:
        """A file is stored from where it stands, not from its beginning."""
        file = io.BytesIO(b"headerpayload")
        file.seek(6)
        backend.put_object("rest", file)
        assert read_all(backend, "rest") == b"payload"

    @pytest.mark.parametrize("body", ["text", ["text"], [1]], ids=["str", "list of str", "list of int"])
    def test_text_is_refused(self, backend: ObjectBackend, body: Any) -> None:
        """A body that is not bytes is the caller's mistake and stores nothing."""
        with pytest.raises(TypeError, match="bytes"):
            backend.put_object("text", body)
        assert keys_of(backend.list_objects()) == []

    def test_empty_object(self, backend: ObjectBackend) -> None:
        """An object may be empty."""
        for key, body in (("bytes", b""), ("file", io.BytesIO()), ("iterator", iter([]))):
            backend.put_object(key, body)
            assert backend.head_object(key).size_bytes == 0
            assert read_all(backend, key) == b""

    def test_large_object(self, backend: ObjectBackend) -> None:
        """Objects above S3's smallest part come back whole, read at once or in pieces."""
        data = random.Random(2).randbytes(self.big_bytes)
        backend.put_object("big/at-once", data)
        backend.put_object("big/streamed", (data[at : at + 999_983] for at in range(0, len(data), 999_983)))
        assert backend.head_object("big/at-once").size_bytes == len(data)
        assert read_all(backend, "big/at-once") == data
        with backend.get_object("big/streamed") as found:
            assert b"".join(found) == data

    def test_overwrite(self, backend: ObjectBackend) -> None:
        """A second put replaces the object, its length and its ETag."""
        first = backend.put_object("same", b"a longer first version")
        second = backend.put_object("same", b"second")
        assert read_all(backend, "same") == b"second"
        assert backend.head_object("same").etag == second != first
        assert keys_of(backend.list_objects()) == ["same"]

    def test_open_body_survives_replacement(self, backend: ObjectBackend) -> None:
        """Who has opened an object reads that version, whatever happens to the key."""
        backend.put_object("moving", b"old" * 100)
        with backend.get_object("moving") as found:
            backend.put_object("moving", b"new" * 200)
            assert found.read() == b"old" * 100

    # ---- refusals

    @pytest.mark.parametrize("announced", [0, 9, 11, 10_000])
    @pytest.mark.parametrize("form", _SIZED)
    def test_wrong_size_is_refused(self, backend: ObjectBackend, form: str, announced: int) -> None:
        """A body of another length than announced leaves the old object as it was."""
        backend.put_object("kept", b"old")
        with pytest.raises(StorageError, match="announced"):
            backend.put_object("kept", _BODIES[form](b"0123456789"), size_bytes=announced)
        assert read_all(backend, "kept") == b"old"
        assert keys_of(backend.list_objects()) == ["kept"]

    def test_wrong_size_of_a_large_body_is_refused(self, backend: ObjectBackend) -> None:
        """Also when the first parts are on their way already."""
        size = 3 * self.big_bytes
        with pytest.raises(StorageError, match="announced"):
            backend.put_object("late", iter([bytes(self.big_bytes)] * 2), size_bytes=size)
        assert keys_of(backend.list_objects()) == []

    @pytest.mark.parametrize("before", [10, 2 * _BIG_BYTES])
    def test_failing_source_stores_nothing(self, backend: ObjectBackend, before: int) -> None:
        """An error of the caller's own source reaches the caller unchanged; the old object stays."""
        failure = OSError(5, "the source broke")

        def source() -> Iterator[bytes]:
            yield bytes(before)
            raise failure

        backend.put_object("kept", b"old")
        with pytest.raises(OSError, match="the source broke") as caught:
            backend.put_object("kept", source())
        assert caught.value is failure
        assert read_all(backend, "kept") == b"old"

    def test_missing_object(self, backend: ObjectBackend) -> None:
        """Getting or looking up a missing object is "not found", and only that."""
        backend.put_object("there", b"x")
        for act in (backend.get_object, backend.head_object):
            with pytest.raises(ObjectNotFoundError) as caught:
                act("not-there")
            assert is_not_found(caught.value)
            assert caught.value.key == "not-there"
            with pytest.raises(ObjectNotFoundError):
                act("not/there/either")

    @pytest.mark.parametrize("key", REFUSED_KEYS, ids=lambda key: repr(key[:20]))
    def test_refused_keys(self, backend: ObjectBackend, key: str) -> None:
        """A key that could leave the store, or that no store can have, is refused everywhere."""
        acts: tuple[Callable[[], object], ...] = (
            lambda: backend.put_object(key, b"x"),
            lambda: backend.get_object(key),
            lambda: backend.head_object(key),
            lambda: backend.delete_object(key),
        )
        for act in acts:
            with pytest.raises(InvalidKeyError):
                act()
        if key:
            with pytest.raises(InvalidKeyError):
                backend.list_objects(key)
        assert keys_of(backend.list_objects()) == []

    def test_longest_key(self, backend: ObjectBackend) -> None:
        """1,024 bytes are allowed."""
        key = "/".join(["s" * 100] * 10) + "/" + "t" * 14
        assert len(utf8(key)) == 1024
        backend.put_object(key, b"x")
        assert keys_of(backend.list_objects(key)) == [key]
        assert read_all(backend, key) == b"x"

    # ---- delete

    def test_delete(self, backend: ObjectBackend) -> None:
        """A deleted object is gone; its neighbours are not; a second deletion is fine."""
        for key in ("d/a", "d/ab", "d/b/c"):
            backend.put_object(key, b"x")
        backend.delete_object("d/a")
        backend.delete_object("d/a")
        backend.delete_object("never/was")
        assert keys_of(backend.list_objects()) == ["d/ab", "d/b/c"]
        with pytest.raises(ObjectNotFoundError):
            backend.head_object("d/a")
        backend.put_object("d/a", b"again")
        assert read_all(backend, "d/a") == b"again"

    def test_batch_delete(self, backend: ObjectBackend) -> None:
        """A batch deletes what is there, takes what is not as done, and names what it refused."""
        if not isinstance(backend, BatchDeleter):
            pytest.skip("this backend has no batches")
        keys = [f"batch/{number % 7}/{number}" for number in range(60)]
        for key in [*keys, *self.nasty_keys, "kept"]:
            backend.put_object(key, b"x")
        failed = backend.delete_objects([*keys, *self.nasty_keys, "never/was", "../refused", ""])
        assert sorted(failed) == ["", "../refused"]
        assert all(isinstance(error, InvalidKeyError) for error in failed.values())
        assert keys_of(backend.list_objects()) == ["kept"]
        assert backend.delete_objects([]) == {}

    def test_batch_limit(self, backend: ObjectBackend) -> None:
        """More than 1,000 keys are refused, and so is one key in place of a sequence."""
        if not isinstance(backend, BatchDeleter):
            pytest.skip("this backend has no batches")
        backend.put_object("k/0", b"x")
        with pytest.raises(LimitExceededError, match="1000"):
            backend.delete_objects([f"k/{number}" for number in range(1001)])
        with pytest.raises(TypeError):
            backend.delete_objects("k/0")
        assert keys_of(backend.list_objects()) == ["k/0"]
        assert backend.delete_objects([f"k/{number}" for number in range(1000)]) == {}
        assert keys_of(backend.list_objects()) == []

    # ---- threads

    def test_racing_writers(self, backend: ObjectBackend) -> None:
        """Of many writers of one key one wins, and readers only ever see a whole body."""
        size = 40_000
        stop = threading.Event()
        backend.put_object("race", bytes(size))

        def write(mark: int) -> None:
            for _ in range(5):
                backend.put_object("race", bytes([mark]) * size)

        def read() -> int:
            reads = 0
            while not stop.is_set() or not reads:
                body = read_all(backend, "race")
                assert len(body) == size
                assert len(set(body)) == 1
                reads += 1
            return reads

        with ThreadPoolExecutor(self.writers + 2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                for writer in [pool.submit(write, mark) for mark in range(1, self.writers + 1)]:
                    writer.result()
            finally:
                stop.set()
            assert all(reader.result() > 0 for reader in readers)
        assert keys_of(backend.list_objects()) == ["race"]

    def test_writers_and_deleters_side_by_side(self, backend: ObjectBackend) -> None:
        """Objects come and go in shared directories without a failure, and none is lost."""

        def churn(worker: int) -> None:
            for number in range(10):
                backend.put_object(f"shared/dir/{worker}-{number}", b"x")
                backend.delete_object(f"shared/dir/{worker}-{number}")
            backend.put_object(f"shared/dir/{worker}-kept", b"x")

        with ThreadPoolExecutor(self.writers) as pool:
            for future in [pool.submit(churn, worker) for worker in range(self.writers)]:
                future.result()
        assert keys_of(backend.list_objects()) == sorted(f"shared/dir/{w}-kept" for w in range(self.writers))

    def test_close_twice(self, backend: ObjectBackend) -> None:
        """Closing again does nothing."""
        backend.close()
        backend.close()
