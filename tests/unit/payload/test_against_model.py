"""The one-pass planner decides exactly as the rules say when they are followed to the letter.

The model below is the specification in its plainest form: it encodes every subtree again on
every level and looks for references each time. It is slow and obviously right; the planner
with its cached lengths must agree on every result and every byte.
"""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage.payload.codec import encode
from bubu_storage.payload.dehydrate import PlanOptions, plan_dehydrate, plan_inputs

REF, PATH, TYPE = "$bubuStorageRef", "$bubuStoragePath", "$bubuStorageContentType"
ALLOWED = {REF, PATH, TYPE, "$bubuStorageSchema", "$bubuStorageSchemaVersion"}


class Model:
    """Dehydrate, rule by rule; ``files`` is the store."""

    def __init__(self, options):
        self.options = options
        self.files = {}

    def run(self, data):
        """Stage one."""
        return self.value(data, "", 0)

    def run_inputs(self, data):
        """Both stages."""
        result = self.run(data)
        if len(encode(result)) > self.options.max_inline_size_bytes:
            return self.write("input.json", "json", result)
        return result

    def value(self, value, path, depth):
        """What stands for a value."""
        limit = self.options.max_inline_size_bytes
        if depth > self.options.max_depth:
            return self.offload(value, path)
        if isinstance(value, dict):
            if (
                isinstance(value.get(REF), str)
                and isinstance(value.get(PATH, ""), str)
                and value.keys() <= ALLOWED
            ):
                return value
            result = {key: self.value(item, self.below(path, key), depth + 1) for key, item in value.items()}
            return self.container(value, result, list(result.values()), path)
        if isinstance(value, list):
            result = [
                self.value(item, self.below(path, index), depth + 1) for index, item in enumerate(value)
            ]
            return self.container(value, result, result, path)
        if isinstance(value, str):
            if len(value.encode()) > limit:
                return self.write(self.name(path), "raw", value)
            return value
        return self.offload(value, path) if len(encode(value)) > limit else value

    def container(self, original, result, children, path):
        """Keep a visited container or offload it."""
        if any(self.contains(child, 0) for child in children):
            too_long = len(encode(result)) > self.options.max_bulk_size_bytes
        else:
            too_long = len(encode(original)) > self.options.max_inline_size_bytes
        return self.offload(original, path) if too_long else result

    def contains(self, value, depth):
        """Whether there is a reference in a value."""
        if depth > self.options.ref_search_depth:
            return False
        if isinstance(value, dict):
            if REF in value and value.keys() <= ALLOWED:
                return isinstance(value[REF], str)
            return any(self.contains(item, depth + 1) for item in value.values())
        return isinstance(value, list) and any(self.contains(item, depth + 1) for item in value)

    def offload(self, value, path):
        """Store a value as JSON."""
        return self.write(self.name(path), "json", value)

    def write(self, name, kind, value):
        """Store an object and return its reference."""
        path = f"outputs/ns/run/{name}"
        self.files[path] = b'{"contentType":"%s","data":%s}' % (kind.encode(), encode(value))
        ref = {TYPE: "text/plain" if kind == "raw" else "application/json", REF: path}
        if self.options.schema:
            ref["$bubuStorageSchema"] = self.options.schema
        return ref

    @staticmethod
    def below(path, key):
        """Extend a key path."""
        return f"{path}.{key}" if path else str(key)

    @staticmethod
    def name(path):
        """Name a file."""
        return f"{path or 'output'}.json"


# No two key paths of these make one name, and none is "output" or "input".
KEYS = st.sampled_from(["a", "b", "cc", "é", "<k>", "sp ace"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("x<é\u2028\n", max_size=40),
    st.sampled_from(
        [
            {REF: "o/a"},
            {REF: "o/a", PATH: "x"},
            {REF: "o/a", PATH: 5},
            {REF: 5},
            {REF: {REF: "o"}},
            {TYPE: "t"},
        ]
    ),
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)
OPTIONS = st.builds(
    PlanOptions,
    st.just("outputs"),
    st.just("ns/run"),
    max_inline_size_bytes=st.sampled_from([0, 3, 10, 25, 60, 120, 400]),
    max_depth=st.sampled_from([1, 2, 3, 4, 10]),
    ref_search_depth=st.sampled_from([0, 1, 2, 3, 10]),
    schema=st.sampled_from(["", "s"]),
    max_bulk_size_bytes=st.sampled_from([50, 150, 300, 262_144]),
)


def files_of(plan):
    """What the plan would write."""
    return {item.path: bytes(item.body()) for item in plan.objects}


@given(DOCUMENTS, OPTIONS)
@settings(max_examples=1500, deadline=None)
def test_outputs(data, options):
    """Results and all stored bytes, those of superseded values included."""
    model = Model(options)
    expected = model.run(data)
    plan = plan_dehydrate(data, options)

    assert encode(plan.result) == encode(expected)
    assert files_of(plan) == model.files
    assert plan.length == len(encode(expected))


@given(DOCUMENTS, OPTIONS)
@settings(max_examples=500, deadline=None)
def test_inputs(data, options):
    """Both stages."""
    model = Model(options)
    expected = model.run_inputs(data)
    plan = plan_inputs(data, options)

    assert encode(plan.result) == encode(expected)
    assert files_of(plan) == model.files


def test_the_model_itself_knows_the_rules():
    """A model that never offloads would agree with a planner that never does."""
    options = PlanOptions("outputs", "ns/run", 10, 10, 10)
    model = Model(options)
    assert model.run({"a": "x" * 11})["a"][REF] == "outputs/ns/run/a.json"
    assert model.run(["x" * 9])[REF] == "outputs/ns/run/output.json"
    shallow = Model(dataclasses.replace(options, max_depth=0))
    assert shallow.run([1])[0][TYPE] == "application/json"
