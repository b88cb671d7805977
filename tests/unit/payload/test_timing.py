"""Whatever arrives first, hydrate gives what it gives where one object is loaded after another."""

from __future__ import annotations

import json
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.backend.delay import DelayBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import StorageError
from bubu_storage.testing.fakes import CountingBackend

REF, PATH = "$bubuStorageRef", "$bubuStoragePath"
NAMES = [f"p/{n}" for n in range(8)]
ODD_PATHS = ["p/gone", "./p/7", "q/other", "../p/0", ".bubu/x", "p/../p/7", "p/0"]
SELECTORS = [None] * 20 + ["", "a", "a.b", "[0]", "[*]", "a[*].b", "[*].a", "b[1]", "a["]
LEAVES = st.sampled_from([None, True, 1, "x" * 50])


def values(first):
    """Documents that refer to the objects from this number on, now and then to anything else."""
    paths = [*NAMES[first:] * 5, *ODD_PATHS] if first < len(NAMES) else ODD_PATHS[1:2]
    refs = st.builds(
        lambda path, selector: {REF: path} if selector is None else {REF: path, PATH: selector},
        st.sampled_from(paths),
        st.sampled_from(SELECTORS),
    )
    return st.recursive(
        st.one_of(LEAVES, refs, refs),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=6,
    )


def bodies(number):
    """What an object holds: nearly always a document."""
    broken = st.sampled_from([b"", b"{", b'{"contentType":"raw","data":"text"}', b'{"contentType":"raw"}'])
    whole = values(number + 1).map(lambda value: json.dumps({"contentType": "json", "data": value}).encode())
    return st.one_of(*[whole] * 15, broken)


STORES = st.fixed_dictionaries({name: bodies(number) for number, name in enumerate(NAMES)})


def outcome(storage, data, prefixes):
    """The result, or all that a caller sees of an error."""
    try:
        return storage.hydrate(data, allowed_prefixes=prefixes)
    except StorageError as error:
        return type(error), str(error), getattr(error, "__notes__", []), error.key


@given(
    data=st.lists(values(0), min_size=1, max_size=6),
    objects=STORES,
    workers=st.integers(1, 8),
    depth=st.sampled_from([1, 3, 10]),
    limit=st.sampled_from([200, 400, 1000, 1 << 30, 1 << 30]),
    prefixes=st.sampled_from([None, ("p",), ("p/0", "p/1", "p/2", "q")]),
    chance=st.randoms(use_true_random=False),
)
@settings(max_examples=250, deadline=None)
def test_timing_changes_nothing(*, data, objects, workers, depth, limit, prefixes, chance):
    """Random documents, nested references, selectors, missing and broken objects, tight limits."""
    memory = MemoryBackend()
    for key, body in objects.items():
        memory.put_object(key, body)
    limits = ManagerSettings(max_recursion_depth=depth, max_hydrated_size_bytes=limit)
    wait = random.Random(chance.random())
    counting = CountingBackend(memory)
    slow = DelayBackend(counting, 0.0005, sleep=lambda most: time.sleep(wait.random() * most))
    with (
        StorageManager.in_memory(limits) as serial,
        StorageManager(limits, slow, max_workers=workers) as ours,
    ):
        for key, body in objects.items():
            serial.backend.put_object(key, body)

        expected = outcome(serial, data, prefixes)
        assert outcome(ours, data, prefixes) == expected
    asked = [call.key for call in counting.calls]
    assert set(asked) <= {*NAMES, "p/gone", "q/other"}
    if prefixes == ("p",):
        assert "q/other" not in asked
    if limit == 1 << 30:
        assert len(asked) == len(set(asked))
