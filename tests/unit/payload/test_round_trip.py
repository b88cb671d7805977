"""Whatever goes in comes out again, under any limits, and stays where it belongs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.errors import InvalidKeyError
from bubu_storage.payload.codec import encode, normalize
from bubu_storage.payload.context import max_recursion_depth

KEYS = st.one_of(
    st.sampled_from(
        ["a", "b", "a.b", "", ".", "..", "output", "input", "a/b", "a//b", "/a", "../x", "a/../b", "0"]
    ),
    st.sampled_from(["<k>", "é", "\ud800", "output~", "%2E%2E", "a.json", "a.json/b", ".bubu", "x\\y"]),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=4),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.text(alphabet="x<é", min_size=20, max_size=60),
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
LIMITS = st.sampled_from([0, 1, 5, 20, 50, 1024])
DEPTHS = st.sampled_from([1, 2, 3, 10])


def manager(limit):
    """A manager on a store of its own."""
    return StorageManager.in_memory(ManagerSettings(max_inline_size_bytes=limit))


def same(left, right):
    """Equal in JSON: an integral float is an integer there, a lone surrogate is U+FFFD."""
    return encode(left) == encode(right)


def offload(storage, data, *, inputs):
    """Dehydrate, or nothing where a key leads out of the store and is refused."""
    try:
        if inputs:
            return storage.dehydrate_inputs(data, run_id="ns/run")
        return storage.dehydrate(data, run_id="ns/run")
    except InvalidKeyError:
        return None


@given(DOCUMENTS, LIMITS, DEPTHS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_everything_comes_back(data, limit, depth, inputs):
    """Colliding keys, odd keys, tiny limits, any depth budget; the input is never changed."""
    with manager(limit) as storage, max_recursion_depth(depth):
        before = encode(data)
        small = offload(storage, data, inputs=inputs)
        if small is None:
            return

        assert same(storage.hydrate(small), data)
        assert encode(data) == before


@given(DOCUMENTS, LIMITS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_nothing_is_written_outside_the_run(data, limit, inputs):
    """Every object lies below prefix and run id, also when the call fails."""
    prefix = ("inputs" if inputs else "outputs") + "/ns/run/"
    with manager(limit) as storage:
        offload(storage, data, inputs=inputs)

        assert [item.key for item in storage.list_objects(".") if not item.key.startswith(prefix)] == []


@given(DOCUMENTS, st.sampled_from([5, 20, 50]))
@settings(max_examples=200, deadline=None)
def test_again_is_the_same(data, limit):
    """A repeated run writes the same objects with the same bytes."""
    with manager(limit) as storage:
        first = offload(storage, data, inputs=False)
        stored = {item.key: storage.read_blob(item.key) for item in storage.list_objects(".")}
        second = offload(storage, normalize(data), inputs=False)

        assert same(first, second)
        assert stored == {item.key: storage.read_blob(item.key) for item in storage.list_objects(".")}


@given(DOCUMENTS)
@settings(max_examples=100, deadline=None)
def test_a_second_dehydration_leaves_references_alone(data):
    """What is small already stays, and still leads back to the data."""
    with manager(150) as storage:
        small = offload(storage, data, inputs=False)
        if small is None:
            return
        again = storage.dehydrate(small, run_id="ns/other")

        assert same(storage.hydrate(again), data)


@pytest.mark.parametrize("inputs", [False, True])
def test_a_large_mixed_document(inputs):
    """Thousands of objects, bulk offload, and everything is found again."""
    data = {
        "rows": [{"id": i, "text": "x" * 1500, "note": f"<{i}>"} for i in range(3000)],
        "meta": {"total": 3000, "ratio": 0.1},
        "blob": "é" * 100_000,
    }
    with manager(1024) as storage:
        offload = storage.dehydrate_inputs if inputs else storage.dehydrate
        small = offload(data, run_id="ns/run")

        assert len(encode(small)) <= 1024 or not inputs
        assert storage.hydrate(small) == data
