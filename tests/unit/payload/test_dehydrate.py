"""What is offloaded, decided before anything is written; beyond what the vectors show."""

from __future__ import annotations

import copy
import json

import pytest

from bubu_storage.errors import DepthError, EncodeError, InvalidKeyError
from bubu_storage.payload.codec import encode
from bubu_storage.payload.dehydrate import PlanOptions, measure_document, plan_dehydrate, plan_inputs

REF = "$bubuStorageRef"


def options(limit=10, depth=10, **changes):
    """Options of a run with a small limit."""
    return PlanOptions("outputs", "ns/run", limit, depth, changes.pop("ref_search_depth", 10), **changes)


def paths(plan):
    """Paths of what will be written, without those that nothing refers to."""
    return [item.path.removeprefix("outputs/ns/run/") for item in plan.objects if not item.superseded]


@pytest.mark.parametrize("other", [{}, {"e": (1, 2)}], ids=["plain", "to be converted"])
def test_the_input_stays_untouched_and_the_result_shares_nothing(other):
    """A caller may change either without changing the other."""
    data = {"a": [{"b": "x" * 20}, {"$bubuStorageRef": "r"}], "c": {"d": [1]}, **other}
    before = copy.deepcopy(data)

    plan = plan_dehydrate(data, options(limit=1000))
    assert data == before
    plan.result["a"][1][REF] = "changed"
    plan.result["c"]["d"].append(2)
    assert data == before


def test_lengths_are_those_of_the_result():
    """With references, escapes, floats and other types inside."""
    for data in ({"a": "é<" * 9, "b": [1.0, None, True]}, [b"abc", ("x",)], "<", {REF: "r"}, {}, [[]], 1e21):
        plan = plan_dehydrate(data, options(limit=30))
        assert plan.length == len(encode(plan.result))


def test_order_of_keys_does_not_matter():
    """The same document filled in another order gives the same result and the same objects."""
    first = {"a.b": "x" * 20, "a": {"b": "y" * 20}, "z/w": "1" * 20, "z//w": "2" * 20}
    second = {key: first[key] for key in reversed(first)}
    one, two = plan_dehydrate(first, options()), plan_dehydrate(second, options())

    assert encode(one.result) == encode(two.result)
    assert {item.path: item.body() for item in one.objects} == {
        item.path: item.body() for item in two.objects
    }


def test_three_way_collisions():
    """Every value has a path of its own, whatever the number that want one name."""
    data = {"a.b.c": "1" * 20, "a.b": {"c": "2" * 20}, "a": {"b.c": "3" * 20, "b": {"c": "4" * 20}}}
    plan = plan_dehydrate(data, options())

    assert len(set(paths(plan))) == 4
    assert "a.b.c.json" in paths(plan)


def test_a_key_that_looks_like_a_suffixed_name():
    """A key may spell the very name that a collision would choose."""
    taken = plan_dehydrate({"a.b": "x" * 20, "a": {"b": "y" * 20}}, options())
    (suffixed,) = (path for path in paths(taken) if "~" in path)
    data = {"a.b": "x" * 20, "a": {"b": "y" * 20}, suffixed.removesuffix(".json"): "z" * 20}

    assert len(set(paths(plan_dehydrate(data, options())))) == 3


def test_no_object_lies_below_another_ones_path():
    """A file store cannot hold both ``x.json`` and ``x.json/y.json``."""
    plan = plan_dehydrate({"x": "1" * 20, "x.json/y": "2" * 20}, options())

    first, second = sorted(paths(plan))
    assert {first, second} & {"x.json", "x.json/y.json"}
    assert not second.startswith(first + "/")


def test_no_object_has_the_path_of_a_directory():
    """Also where the object inside has been named first."""
    plan = plan_dehydrate({"p": {"q.r.json/x": "1" * 20}, "p.q": {"r": "2" * 20}}, options())

    inner, outer = paths(plan)
    assert inner == "p.q.r.json/x.json"
    assert outer.startswith("p.q.r~")
    assert [plan.result["p"]["q.r.json/x"][REF], plan.result["p.q"]["r"][REF]] == [
        f"outputs/ns/run/{name}" for name in (inner, outer)
    ]


def test_bulk_offload_marks_what_nothing_refers_to():
    """A container that is too long even with references is offloaded whole, its parts beside it."""
    plan = plan_dehydrate({"big": "z" * 50, "l": ["a" * 8] * 9}, options(limit=40, max_bulk_size_bytes=120))

    assert [(item.path.rpartition("/")[2], item.superseded) for item in plan.objects] == [
        ("big.json", True),
        ("l.json", True),
        ("output.json", False),
    ]
    assert json.loads(plan.objects[-1].body())["data"] == {"big": "z" * 50, "l": ["a" * 8] * 9}


def test_a_superseded_object_gives_way():
    """It is not written where it would replace an object that is referred to."""
    plan = plan_dehydrate({"": "z" * 50, "l": "a" * 30}, options(limit=40, max_bulk_size_bytes=60))

    assert [item.path for item in plan.objects] == ["outputs/ns/run/output.json"]
    assert not plan.objects[0].superseded


def test_references_too_deep_to_be_seen():
    """With a raised budget a reference may lie deeper than the Go SDK looks for it.

    Then the original's length decides, and the original is stored.
    """
    data = {"k": {"k": {"k": {"k": "x" * 20}}}, "t": "y" * 9}
    seen = plan_dehydrate(data, options(limit=10, depth=10, ref_search_depth=3))
    unseen = plan_dehydrate(data, options(limit=10, depth=10, ref_search_depth=2))

    assert paths(seen) == ["k.k.k.k.json"]
    assert paths(unseen) == ["output.json"]
    assert json.loads(unseen.objects[-1].body())["data"] == data


def test_a_reference_with_an_odd_selector_counts():
    """Hydrate takes it for data; dehydrate, like the Go SDK, does not offload around it."""
    data = {"r": {REF: "o/a.json", "$bubuStoragePath": 5}, "t": "x" * 60, "u": "y" * 60}
    plan = plan_dehydrate(data, options(limit=100))

    assert plan.objects == []
    assert plan.result == data


def test_an_unseen_reference_in_a_short_original_stays():
    """Nothing is offloaded again when the original is within the limit."""
    data = {"k": {"k": {"k": 1}}}
    plan = plan_dehydrate(data, options(limit=100, depth=2, ref_search_depth=0))

    assert paths(plan) == ["k.k.k.json"]
    assert encode(plan.result["k"]["k"]).startswith(b'{"k":{"$bubuStorageContentType"')


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_depth_overflow_offloads_whole_values(depth):
    """Whatever is nested deeper is stored as json, strings and references included."""
    plan = plan_dehydrate([[["s", {REF: "r"}]]], options(limit=1000, depth=depth))

    assert [item.body().startswith(b'{"contentType":"json"') for item in plan.objects] == [True] * len(
        plan.objects
    )
    assert paths(plan) == {0: ["0.json"], 1: ["0.0.json"], 2: ["0.0.0.json", "0.0.1.json"]}[depth]


def test_values_of_other_types():
    """Converted before they are measured; the result has their JSON form."""
    plan = plan_dehydrate({"t": ("a", b"\x00"), "d": {1}}, options(limit=100), default=list)

    assert plan.result == {"t": ["a", "AA=="], "d": [1]}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"a": [float("nan")]}, "$.a[0]"),
        ({"a": {"b": [1, [2, [3, float("inf")]]]}}, "$.a.b[1][1][1]"),
        ({"a": {3: 1}}, "$.a"),
        ({"a": {"x": {1}}}, "$.a.x"),
        ([{REF: "r", "$bubuStorageSchema": float("nan")}], "$[0].$bubuStorageSchema"),
    ],
)
@pytest.mark.parametrize("depth", [1, 10])
def test_encode_errors_name_the_place(data, path, depth):
    """Above and below the depth limit alike."""
    with pytest.raises(EncodeError) as caught:
        plan_dehydrate(data, options(depth=depth))

    assert caught.value.json_path.replace('["$bubuStorageSchema"]', ".$bubuStorageSchema") == path
    assert str(caught.value).startswith(caught.value.json_path)


def test_path_errors_name_the_place():
    """A key that leads out of the store is found by its path in the document."""
    with pytest.raises(InvalidKeyError, match=r'^\$\["/\.\./\.\./\.\./\.\./x"\]\.a cannot be'):
        plan_dehydrate({"/../../../../x": {"a": "y" * 20}}, options())


def test_endless_and_too_deep_documents():
    """Are errors, with storage and without."""
    endless = {}
    endless["self"] = endless
    deep = []
    for _ in range(20_000):
        deep = [deep]
    for data in (endless, deep):
        with pytest.raises(DepthError):
            plan_dehydrate(data, options())
        with pytest.raises(DepthError):
            measure_document(data)


def test_deep_documents_are_planned():
    """Up to the format's limit, whatever the interpreter's."""
    deep = 1
    for _ in range(9_000):
        deep = [deep]
    assert paths(plan_dehydrate(deep, options())) == [".".join("0" * 11) + ".json"]
    assert len(plan_dehydrate(deep, options(limit=10**6, depth=10**6)).objects) == 0
    assert measure_document(deep).length == 18_001


def test_inputs_within_the_limit_are_like_outputs():
    """The second stage only happens when it is needed."""
    plan = plan_inputs({"a": "x" * 20}, options(limit=15, schema="s"))
    assert plan.objects[-1].path == "outputs/ns/run/input.json"
    assert plan.result["$bubuStorageSchema"] == "s"

    plan = plan_inputs({"input": "x" * 300}, options(limit=200))
    assert paths(plan) == ["input.json"]


def test_inputs_of_exactly_the_limit_stay_inline():
    """One byte more, and the document as a whole goes to input.json."""
    data = ["x", {REF: "r"}]
    limit = len(encode(data))

    assert plan_inputs(data, options(limit=limit)).result == data
    assert plan_inputs(data, options(limit=limit - 1)).result[REF] == "outputs/ns/run/input.json"


def test_floats_inside_references_are_written_as_go_writes_them():
    """The informative fields of a reference may hold anything; 1.0 is written as 1 in all stored bytes."""
    data = [{REF: "r", "$bubuStorageContentType": 1.0}, "x"]

    (whole,) = plan_inputs(data, options(limit=5)).objects

    assert whole.body() == b'{"contentType":"json","data":' + encode(data) + b"}"
    assert b":1," in whole.body()


def test_nested_fields_named_input_keep_their_names():
    """Only the one whose object would be overwritten moves."""
    data = {"input": "x" * 300, "a": {"input": "y" * 300}, "t": "z" * 150}
    plan = plan_inputs(data, options(limit=200))

    names = paths(plan)
    assert names[-1] == "input.json"
    assert "a.input.json" in names
    assert sum(name.startswith("input~") for name in names) == 1


def test_stored_bodies_are_made_when_asked_for():
    """A plan of many large values holds no encoded copies of them."""
    value = ["x" * 20]
    plan = plan_dehydrate({"a": value}, options(depth=0))
    value.append("later")

    assert b"later" in plan.objects[0].body()
