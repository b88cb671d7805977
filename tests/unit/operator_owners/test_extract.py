"""What retention needs of one owner: its phase, its kin, and every reference, however well it hides."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.owners.extract import PARENT_LABEL, extract, references_in
from bubu_operator.owners.kinds import ENDED_PHASES, STEP_RUN, STORY_RUN, KindKey, OwnerKind
from tests.unit.operator_owners.world import ref, step_run, story_run

names = st.text('abc/._- "\\é', min_size=1, max_size=12)


def test_a_story_run():
    """Its story is ranked within its namespace, and it is its own rank's holder."""
    record = extract(story_run("r1", "nightly", "Running", metadata={"resourceVersion": "7"}), STORY_RUN)

    assert (record.run, record.version, record.live) == ("team-a/r1", "7", True)
    assert (record.story, record.ranked_as) == ("team-a:team-a/nightly", "team-a/r1")
    assert record.parents == ()


def test_a_step_run():
    """It has the rank of its story run, and lives as long as that does."""
    record = extract(step_run("r1-a", "r1", "Succeeded"), STEP_RUN)

    assert record.live is False
    assert (record.story, record.ranked_as) == ("", "team-a/r1")
    assert record.parents == ((STORY_RUN.key, "team-a/r1"),)


@pytest.mark.parametrize("phase", sorted(ENDED_PHASES))
def test_ended_phases(phase):
    """What has come to its end is not live."""
    assert extract(story_run("r", phase=phase), STORY_RUN).live is False


@pytest.mark.parametrize(
    "status", [{}, {"phase": ""}, {"phase": "Succeeding"}, {"phase": "succeeded"}, {"phase": None}]
)
def test_any_other_phase_is_live(status):
    """Unknown, absent, or written otherwise: live."""
    assert extract(story_run("r", phase=None, status=status), STORY_RUN).live is True


@pytest.mark.parametrize(
    "status", [None, "Succeeded", ["Succeeded"], {"phase": ["Succeeded"]}, {"phase": {}}]
)
def test_a_status_of_another_form_is_live(status):
    """Whatever stands where the phase should be, nothing fails."""
    obj = story_run("r")
    obj["status"] = status

    assert extract(obj, STORY_RUN).live is True


def test_a_kind_without_a_phase_is_live_while_it_exists():
    """Nobody has said how such an owner ends."""
    kind = OwnerKind.named("batch", "v1", "Job", "", ["Complete"])

    record = extract({"metadata": {"name": "j", "namespace": "n"}, "status": {"phase": "Complete"}}, kind)

    assert record.live is True


def test_a_phase_may_stand_deeper():
    """The path of a policy leads through any number of maps."""
    kind = OwnerKind.named("x.io", "v1", "Flow", "status.result.state", ["Done"])
    flow = {"metadata": {"name": "f", "namespace": "n"}, "status": {"result": {"state": "Done"}}}

    assert extract(flow, kind).live is False
    assert extract({"metadata": {"name": "f", "namespace": "n"}, "status": {"result": 1}}, kind).live is True


def test_parents_by_label_and_by_controller():
    """Both lead to owners that keep it alive; other owner references do not."""
    metadata = {
        "labels": {PARENT_LABEL: "mother"},
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "controller": True},
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "controller": True},
            {"apiVersion": "batch/v1", "kind": "Job", "name": "other"},
            "nonsense",
        ],
    }

    record = extract(story_run("r", metadata=metadata), STORY_RUN)

    assert record.parents == (
        (STORY_RUN.key, "team-a/mother"),
        (KindKey("batch", "Job"), "team-a/j"),
        (KindKey("", "Pod"), "team-a/p"),
    )


def test_references_of_spec_and_status():
    """Anywhere in them, as clean keys, each once; what can be no key is left out."""
    obj = step_run(
        "a",
        "r",
        spec={
            "input": {
                "deep": [{"x": ref("outputs/team-a/r1/./a.json")}, ref("/absolute"), ref("../up"), ref("")]
            }
        },
        status={"output": ref("outputs/team-a/r1/a.json"), "more": [ref(".bubu/x"), ref("inputs//b.json")]},
    )

    assert extract(obj, STEP_RUN).references == ("inputs/b.json", "outputs/team-a/r1/a.json")


def test_a_map_with_other_keys_beside_the_reference_counts():
    """Hydrate would not resolve it. It is protected all the same."""
    assert references_in({"$bubuStorageRef": "a", "note": {"$bubuStorageRef": "b"}}) == {"a", "b"}


def test_a_reference_that_is_no_text_is_none():
    """Only its children may hold some."""
    assert references_in({"$bubuStorageRef": {"$bubuStorageRef": "b"}, "x": {"$bubuStorageRef": 7}}) == {"b"}


def wrapped(value, depth):
    """Write a value as JSON into a text of a map, so many times."""
    for _ in range(depth):
        value = {"text": json.dumps(value)}
    return value


@given(names, st.integers(0, 8))
def test_references_in_texts_of_texts(path, depth):
    """A text that is JSON that holds a text that is JSON …: it is read."""
    assert references_in(wrapped({"a": ref(path)}, depth)) == {path}


@pytest.mark.parametrize("depth", range(9, 14))
def test_references_in_texts_beyond_all_bounds(depth):
    """What is not read any more is searched."""
    assert references_in(wrapped({"a": ref("outputs/n/r/a.json")}, depth)) == {"outputs/n/r/a.json"}


@given(st.sampled_from(["{0}", "see {0}!", "{0}{0}", "[{0}", "\ufeff{0}", "{0} # trailing"]), st.booleans())
def test_references_in_texts_that_are_no_json(form, indent):
    """What was cut, joined or commented is searched as it stands."""
    text = form.format(json.dumps(ref("outputs/n/r/a.json"), indent=2 if indent else None))

    assert references_in([text]) == {"outputs/n/r/a.json"}


def test_deep_nesting_neither_fails_nor_hides():
    """Texts that no parser reads to the end."""
    text = "[" * 200_000 + json.dumps(ref("outputs/n/r/a.json"))

    assert "outputs/n/r/a.json" in references_in({"x": text})


def test_a_hostile_text_costs_no_more_than_its_length():
    """A megabyte of half references is searched in a moment."""
    text = '{"$bubuStorageRef' + "\\" * 1_000_000 + '"x": ' + '"$bubuStorageRef" : x' * 20_000
    began = time.monotonic()

    assert references_in(text) == set()
    assert time.monotonic() - began < 60


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.builds(ref, names),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "$bubuStorageRef", "b"]), inner, max_size=3)
        | st.builds(json.dumps, inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_extraction_agrees_with_a_plain_walk(value):
    """An oracle that walks by recursion finds nothing that was missed."""

    def walk(item):
        if isinstance(item, dict):
            path = item.get("$bubuStorageRef")
            yield from [path] if isinstance(path, str) else []
            for child in item.values():
                yield from walk(child)
        elif isinstance(item, list):
            for child in item:
                yield from walk(child)
        elif isinstance(item, str):
            try:
                yield from walk(json.loads(item))
            except ValueError:
                return

    assert set(walk(value)) <= references_in(value)


@given(json_values, json_values, json_values)
def test_no_object_makes_it_fail(metadata, spec, status):
    """The API server checks types; another one may not."""
    record = extract({"metadata": metadata, "spec": spec, "status": status}, STEP_RUN)

    assert record.run.count("/") >= 1
