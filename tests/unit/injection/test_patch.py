"""JSON Patch: small, escaped, and refused where it does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from bubu_operator.injection import apply_patch, make_patch
from bubu_operator.injection.patch import PatchError


def test_entries_put_in_front_cost_one_operation_each():
    """The rest of the list is not rewritten."""
    assert make_patch({"env": [3, 4]}, {"env": [1, 2, 3, 4]}) == [
        {"op": "add", "path": "/env/0", "value": 1},
        {"op": "add", "path": "/env/1", "value": 2},
    ]


def test_removals_run_from_the_end():
    """So that earlier ones do not move later ones."""
    assert make_patch([1, 2, 3, 4], [1, 4]) == [
        {"op": "remove", "path": "/2"},
        {"op": "remove", "path": "/1"},
    ]


def test_keys_are_escaped():
    """Annotations have slashes, and may have tildes."""
    patch = make_patch({}, {"storage.bubustack.io/x~y": 1})

    assert patch == [{"op": "add", "path": "/storage.bubustack.io~1x~0y", "value": 1}]
    assert apply_patch({}, patch) == {"storage.bubustack.io/x~y": 1}


def test_true_is_not_one():
    """Python says they are equal; JSON does not."""
    assert make_patch({"a": 1}, {"a": True}) == [{"op": "replace", "path": "/a", "value": True}]
    assert make_patch([1], [True]) == [{"op": "replace", "path": "/0", "value": True}]


def test_other_types_are_replaced_whole():
    """At the root too."""
    assert make_patch([], {}) == [{"op": "replace", "path": "", "value": {}}]
    assert apply_patch([], make_patch([], {"a": 1})) == {"a": 1}


def test_applying_leaves_the_document_and_the_patch_alone():
    """The result is a copy."""
    document: dict[str, Any] = {"a": [1]}
    patch = make_patch(document, {"a": [1, {"b": []}]})

    result = apply_patch(document, patch)
    result["a"][1]["b"].append(1)

    assert document == {"a": [1]}
    assert patch[0]["value"] == {"b": []}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/a/2", "value": 1},
        {"op": "add", "path": "/a/x", "value": 1},
        {"op": "remove", "path": "/a/-1"},
        {"op": "remove", "path": "/a/-"},
        {"op": "add", "path": "/n/x", "value": 1},
        {"op": "remove", "path": ""},
        {"op": "move", "path": "/a"},
    ],
)
def test_what_does_not_fit_is_refused(operation: dict[str, Any]):
    """One error class, whatever is wrong."""
    with pytest.raises(PatchError):
        apply_patch({"a": [1], "n": 3}, [operation])


def test_the_end_of_a_list_may_be_named():
    """RFC 6902's ``-``."""
    assert apply_patch([1], [{"op": "add", "path": "/-", "value": 2}]) == [1, 2]


def test_an_object_that_stands_twice_in_a_document_is_changed_in_one_place():
    """Injection puts the same entries into all containers."""
    shared = {"name": "A", "value": "old"}
    document = {"first": [shared], "second": [shared]}
    wanted = {"first": [shared], "second": [{"name": "A", "value": "new"}]}

    assert apply_patch(document, make_patch(document, wanted)) == wanted
    assert shared["value"] == "old"
