"""Behind a prefix: nobody gets out, and nobody meets the prefix; see also the acceptance matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.prefix import PrefixBackend
from bubu_storage.backend.types import BackendCopier, BatchDeleter, ListedObject, ListPage
from bubu_storage.errors import (
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)
from bubu_storage.testing.acceptance import keys_of
from bubu_storage.testing.fakes import Fault, FaultBackend, Operation, Timing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRONG = '"0"'


def test_where_objects_are() -> None:
    """Below the prefix in the wrapped store, with or without a slash at its end."""
    inner = MemoryBackend()
    for prefix in ("team-a/runs", "team-a/runs/"):
        store = PrefixBackend(inner, prefix)
        assert ("team-a/runs/", "memory://team-a/runs") == (store.prefix, store.name)
        store.put_object("x/y", b"1", metadata={"a": "b"})
        assert ["team-a/runs/x/y"] == keys_of(inner.list_objects())
        assert "x/y" == store.head_object("x/y").key
        with store.get_object("x/y", range_header="bytes=0-0") as found:
            assert ("x/y", b"1", "bytes 0-0/1") == (found.info.key, found.read(), found.content_range)


def test_name_of_a_bucket_and_a_directory(tmp_path: Path) -> None:
    """A prefix shows in the name as the path that it is."""
    assert f"file://{tmp_path}/a/b" == PrefixBackend(FileBackend(tmp_path), "a/b/").name
    assert "memory://a/b" == PrefixBackend(PrefixBackend(MemoryBackend(), "a"), "b").name


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "/a", "a//b", "//", "a/./b", ".", "./", "..", "a/../b", "a\\..\\b", "a//", "a\x00", "k" * 1023],
)
def test_refused_prefixes(prefix: str) -> None:
    """A prefix is whole segments that no store reads in another way, and leaves room for a key."""
    with pytest.raises(InvalidKeyError):
        PrefixBackend(MemoryBackend(), prefix)


def test_a_neighbour_of_a_similar_name() -> None:
    """A prefix is not plain text: ``a`` has nothing of ``ab``."""
    inner = MemoryBackend()
    for key in ("a", "a/x", "ab/x", "a.json", "b"):
        inner.put_object(key, b"")
    assert ["x"] == keys_of(PrefixBackend(inner, "a").list_objects())


@given(key=st.text(st.sampled_from("a./\\\x00é"), max_size=12))
def test_no_key_leads_out(key: str) -> None:
    """Whatever the key, what is written is below the prefix, and comes back under that very key."""
    inner = MemoryBackend()
    store = PrefixBackend(inner, "p")
    try:
        store.put_object(key, b"")
    except InvalidKeyError:
        assert [] == keys_of(inner.list_objects())
    else:
        assert [f"p/{key}"] == keys_of(inner.list_objects())
        assert [key] == keys_of(store.list_objects()) == keys_of(store.list_objects(key))
        store.delete_object(key)
        assert [] == keys_of(inner.list_objects())


def test_listing_resumes() -> None:
    """``start_after`` is a key of this store, not of the wrapped one."""
    inner = MemoryBackend()
    store = PrefixBackend(inner, "p")
    for key in ("a", "b/c", "b/d", "p/x"):
        store.put_object(key, b"")
    inner.put_object("z", b"")
    assert ["b/d", "p/x"] == keys_of(store.list_objects(start_after="b/c", page_size=1))
    assert ["b/d"] == keys_of(store.list_objects("b/", start_after="b/c"))
    assert [] == keys_of(store.list_objects(start_after="z"))


def test_errors_name_the_key_as_given() -> None:
    """Of every operation that has one, also of a body that breaks off."""
    inner = MemoryBackend()
    store = PrefixBackend(inner, "p")
    assert isinstance(store, BackendCopier)
    store.put_object("there", b"12345678")
    for act in (
        lambda: store.get_object("missing"),
        lambda: store.head_object("missing"),
        lambda: store.copy_object("missing", "there"),
    ):
        with pytest.raises(ObjectNotFoundError, match=r"'p/missing'") as caught:
            act()
        assert "missing" == caught.value.key
    for act in (
        lambda: store.put_object("there", b"", if_match=WRONG),
        lambda: store.delete_object("there", if_match=WRONG),
        lambda: store.get_object("there", if_match=WRONG),
    ):
        with pytest.raises(PreconditionFailedError) as caught:
            act()
        assert "there" == caught.value.key
    breaking = Fault(timing=Timing.HALFWAY, error=lambda: UnavailableError("broke off", key="p/there"))
    with (
        PrefixBackend(FaultBackend(inner, breaking), "p").get_object("there") as found,
        pytest.raises(UnavailableError) as broken,
    ):
        found.read()
    assert "there" == broken.value.key


def test_batches_are_mapped_both_ways() -> None:
    """Keys, conditions, answers and their errors; refused keys stay out of the request."""
    inner = MemoryBackend()
    store = PrefixBackend(inner, "p")
    assert isinstance(store, BatchDeleter)
    etags = {key: store.put_object(key, key.encode()) for key in ("same", "changed", "p/same")}
    inner.put_object("same", b"outside")
    failed = store.delete_objects(
        ["same", "changed", "p/same", "../same", "é" * 512],
        if_match={"same": etags["same"], "changed": WRONG},
    )
    assert {"changed": PreconditionFailedError, "../same": InvalidKeyError, "é" * 512: InvalidKeyError} == {
        key: type(error) for key, error in failed.items()
    }
    assert list(failed) == [error.key for error in failed.values()]
    assert ["p/changed", "same"] == keys_of(inner.list_objects())
    with pytest.raises(LimitExceededError):
        store.delete_objects(["k"] * 1001)
    with pytest.raises(TypeError):
        store.delete_objects("same")


def test_a_batch_that_fails_as_a_whole() -> None:
    """The error comes out as it is."""
    fault = Fault(operations=frozenset({Operation.DELETE_MANY}))
    store = PrefixBackend(FaultBackend(MemoryBackend(), fault), "p")
    with pytest.raises(UnavailableError):
        store.delete_objects(["a"])


def test_copies_stay_inside() -> None:
    """Both ends are below the prefix."""
    inner = MemoryBackend()
    store = PrefixBackend(inner, "p")
    store.put_object("a", b"x")
    store.copy_object("a", "b/c")
    assert ["p/a", "p/b/c"] == keys_of(inner.list_objects())
    for source, destination in (("../p/a", "d"), ("a", "../d")):
        with pytest.raises(InvalidKeyError):
            store.copy_object(source, destination)


def test_a_store_that_lists_too_much() -> None:
    """A key without the prefix is an error, not a key cut at the wrong place."""

    class Careless(MemoryBackend):
        def list_objects(self, *_: object, **__: object) -> Iterator[ListPage]:
            when = self.server_time()
            yield ListPage((ListedObject("p/a", 0, "", when), ListedObject("other", 0, "", when)))

    with pytest.raises(StorageError, match="'other'") as caught:
        list(PrefixBackend(Careless(), "p").list_objects())
    assert "ListingPrefix" == caught.value.code


def test_arguments_of_a_put_arrive() -> None:
    """Nothing is lost on the way."""
    seen: list[tuple[object, ...]] = []

    class Recorder(MemoryBackend):
        def put_object(self, key: str, body: object, **options: object) -> str:
            seen.append((key, body, options))
            return '"etag"'

    options: Mapping[str, object] = {
        "size_bytes": 1,
        "content_type": "text/plain",
        "metadata": {"a": "b"},
        "if_match": '"e"',
        "if_none_match": "",
    }
    assert '"etag"' == PrefixBackend(Recorder(), "p").put_object("k", b"x", **options)
    assert [("p/k", b"x", options)] == seen
