"""Hydrate against a second, naive implementation that calls itself and loads one object after another."""

from __future__ import annotations

import copy
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage import ManagerSettings, StorageManager
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import DepthError, ObjectNotFoundError, RefCycleError, SelectorError, StorageError

REF, PATH, TYPE = "$bubuStorageRef", "$bubuStoragePath", "$bubuStorageContentType"
KEYS = [f"k{number}" for number in range(6)]
SELECTORS = ["a", "a.b", "[0]", "[*]", "[*].a", "a[0]", "a[*].b", ".", "", " a ", "b"]


class ExpectedError(Exception):
    """The error that hydrate has to raise."""


class Model:
    """What hydrate does, step by step as the specification has it.

    A reference costs one hop; one that leads back to an object on the way is a cycle; a selector
    loads only what it leads through, and what it selects is hydrated.
    """

    def __init__(self, documents, max_hops):
        self.documents = documents
        self.max_hops = max_hops

    def value(self, value, way=()):
        """Return the value with everything in it resolved."""
        if is_ref(value):
            document, way = self.follow(value, way)
            steps = steps_of(value)
            return self.select(document, steps, way, False) if steps else self.value(document, way)
        if isinstance(value, dict):
            return {key: self.value(item, way) for key, item in value.items()}
        return [self.value(item, way) for item in value] if isinstance(value, list) else value

    def follow(self, ref, way):
        """Return the object behind a reference and the way to it."""
        key = ref[REF]
        if key in way:
            raise ExpectedError(RefCycleError)
        if len(way) == self.max_hops:
            raise ExpectedError(DepthError)
        if key not in self.documents:
            raise ExpectedError(ObjectNotFoundError)
        return self.documents[key], (*way, key)

    def select(self, value, steps, way, below_wildcard):
        """Take the steps; ``way`` is None once the value has been hydrated."""
        for number, step in enumerate(steps):
            while way is not None and is_ref(value):
                inner = steps_of(value)
                value, way = self.follow(value, way)
                if inner:
                    value, way = self.select(value, inner, way, False), None
            if not isinstance(value, dict if isinstance(step, str) and step != "*" else list):
                raise ExpectedError(SelectorError)
            if step == "*":
                return [self.select(item, steps[number + 1 :], way, True) for item in value]
            if step not in (value if isinstance(value, dict) else range(len(value))):
                if below_wildcard:
                    return None
                raise ExpectedError(SelectorError)
            value = value[step]
        return value if way is None else self.value(value, way)


def is_ref(value):
    """Tell a reference from data."""
    return isinstance(value, dict) and REF in value and value.keys() <= {REF, PATH, TYPE}


def steps_of(ref):
    """Return field names, indices and ``*``."""
    found = re.findall(r"\[(.+?)\]|([^.\[]+)", ref.get(PATH, "").strip())
    return [(int(index) if index != "*" else "*") if index else name for index, name in found]


def documents(keys):
    """Documents that refer to these objects."""
    refs = st.builds(
        lambda key, more: {REF: key, **more},
        st.sampled_from(keys),
        st.sampled_from([{}, {}, {TYPE: "x"}, {"near": 1}, *({PATH: text} for text in SELECTORS)]),
    )
    leaves = st.sampled_from([1, "text", None, 2.5, [], {}])
    return st.recursive(
        leaves | refs | refs,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=6,
    )


def stores(acyclic):
    """Six objects, which refer to later ones only, or to any."""
    return st.fixed_dictionaries(
        {
            key: documents([*KEYS[number + 1 :] * 8, "gone"] if acyclic else KEYS)
            for number, key in enumerate(KEYS)
        }
    )


@given(
    data=documents(KEYS),
    objects=stores(acyclic=True) | stores(acyclic=False),
    hops=st.sampled_from([2, 3, 10]),
)
@settings(max_examples=400, deadline=None)
def test_hydrate_does_what_the_model_does(data, objects, hops):
    """Results, or the class of the first error in the documents' own order; near and far stores alike."""
    stored = json.loads(json.dumps(objects, sort_keys=True))
    try:
        expected = Model(stored, hops).value(data)
    except ExpectedError as error:
        expected = error.args[0]
    before = copy.deepcopy(data)
    limits = ManagerSettings(max_recursion_depth=hops, metrics_enabled=False)

    for manager in (StorageManager.in_memory(limits), StorageManager(limits, MemoryBackend())):
        with manager:
            for key, document in stored.items():
                manager.put(key, json.dumps({"contentType": "json", "data": document}).encode())
            try:
                found = manager.hydrate(data)
            except StorageError as error:
                found = type(error)
        assert expected == found
        assert before == data
