"""The short way for what stays inline gives what the walk gives, or leaves it to the walk."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage.errors import StorageError
from bubu_storage.payload import inline
from bubu_storage.payload.codec import encode
from bubu_storage.payload.dehydrate import PlanOptions, plan_dehydrate, plan_inputs
from bubu_storage.payload.inline import InlineCopier, compact_encoder

FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -3.0, 1e-4, 9.99e-5, 1e15, 9999999999999998.0, 1e16, 1e21, 5e-324]),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**1023, -(2**1023), 2**1024 - 2**970, 10**400]),
    FLOATS,
    st.text(max_size=12),
    st.sampled_from(["<&>", "\u2028\u2029", "\ud800", "é", "\U0001f600", '"\\\x00'])
    | st.text("ab", min_size=30, max_size=60),
)
KEYS = st.text(max_size=3) | st.sampled_from(["$bubuStorageRef", "<", "\u2028"])
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def planned(plan, data, options):
    """All that a plan says, or how it fails."""
    try:
        made = plan(data, options)
    except StorageError as error:
        return type(error), str(error)
    return (
        encode(made.result),
        made.length,
        made.simple,
        [(item.path, bytes(item.body()), item.superseded) for item in made.objects],
    )


@given(
    DOCUMENTS,
    st.sampled_from([0, 2, 10, 40, 100, 1024, 1 << 62]),
    st.sampled_from([0, 1, 2, 3, 10, 1 << 62]),
    st.sampled_from([plan_dehydrate, plan_inputs]),
)
@settings(max_examples=600, deadline=None)
def test_it_decides_as_the_walk_does(data, limit, depth, plan):
    """Results, lengths, objects and errors, at every limit and depth."""
    options = PlanOptions("outputs", "ns/run", limit, depth, 10)
    short = planned(plan, data, options)
    with mock.patch.object(InlineCopier, "copy", return_value=None):
        assert short == planned(plan, data, options)


def test_copies_share_nothing():
    """Neither maps nor lists."""
    data = {"a": [{"b": [1]}], "c": {}}
    copied, length, simple = InlineCopier(100).copy(data, 10)
    assert (copied, length, simple) == (data, len(json.dumps(data, separators=(",", ":"))), True)
    assert copied["a"] is not data["a"]
    assert copied["a"][0]["b"] is not data["a"][0]["b"]
    assert copied["c"] is not data["c"]


class Text(str):
    """Not exactly text."""

    __slots__ = ()


@pytest.mark.parametrize(
    "data",
    [
        {1: "a"},
        {Text("k"): 1},
        [Text("x")],
        [(1,)],
        [b"x"],
        [float("nan")],
        [float("inf")],
        [1e16],
        [1e-5],
        [2**1023],
        ["\ud800"],
        {"$bubuStorageRef": "x"},
        ["x" * 99],
        [[[[1]]]],
        ["<" * 20],
    ],
)
def test_what_is_not_certain_is_left_to_the_walk(data):
    """Other types, numbers with another form, references, what is too long or too deep."""
    assert InlineCopier(100).copy(data, 3) is None


def test_the_work_for_nothing_is_limited():
    """A deep document that is too long is not copied again at each of its levels."""
    copier = InlineCopier(1000)
    wide = ["x" * 10] * 400
    for _ in range(40):
        assert copier.copy(wide, 10) is None
    assert copier.copy([1], 10) is None  # no credit is left
    assert InlineCopier(1000).copy([1], 10) == ([1], 3, True)


def test_the_encoder_is_the_standard_library_s():
    """Also where the interpreter does not offer its parts."""
    value = {"b": [1, 1.5, None, "é"], "a": {}}
    fast = compact_encoder(sort_keys=True)
    with mock.patch.object(inline.json.encoder, "c_make_encoder", None):
        slow = compact_encoder(sort_keys=True)
    assert fast(value) == slow(value) == '{"a":{},"b":[1,1.5,null,"é"]}'
    assert compact_encoder(sort_keys=False)(value) == '{"b":[1,1.5,null,"é"],"a":{}}'
    for encode_one in (fast, slow):
        with pytest.raises(ValueError, match="JSON compliant"):
            encode_one([float("nan")])
        with pytest.raises(TypeError, match="set"):
            encode_one([{1, 2}])
