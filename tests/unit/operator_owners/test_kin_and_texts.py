"""Objects that lack what others have, and texts that hold a reference and are no JSON."""

from __future__ import annotations

import sys

import pytest

from bubu_operator.owners.extract import PARENT_LABEL, extract, references_in
from bubu_operator.owners.kinds import STEP_RUN, STORY_RUN, KindKey, OwnerKind
from bubu_operator.owners.relations import rank_story_runs
from tests.unit.operator_owners.world import step_run, story_run

JOB = OwnerKind.named("batch", "v1", "Job", "", [])
UNNAMED = [None, "", 7, ["nightly"], {"name": "nightly"}]


def created(name, at):
    """Make the record of a story run that was created at a time."""
    return extract(story_run(name, metadata={"creationTimestamp": at}), STORY_RUN)


@pytest.mark.parametrize("name", UNNAMED)
def test_a_story_run_whose_story_has_no_name_has_no_rank(name):
    """It is not ranked among all others of that sort: an unknown rank keeps."""
    records = [extract(story_run(run, spec={"storyRef": {"name": name}}), STORY_RUN) for run in "ab"]

    assert {(record.story, record.ranked_as) for record in records} == {("", "")}
    assert rank_story_runs({record.run: record for record in records}) == {}


@pytest.mark.parametrize("name", UNNAMED)
def test_a_step_whose_story_run_has_no_name_has_neither_rank_nor_parent(name):
    """Nobody can tell what it belongs to."""
    record = extract(step_run("a", "r", spec={"storyRunRef": {"name": name}}), STEP_RUN)

    assert (record.ranked_as, record.parents) == ("", ())


def test_an_owner_of_another_kind_is_never_ranked():
    """Whatever its spec looks like: the ranks of story runs are for story runs and their steps."""
    spec = {"storyRef": {"name": "nightly"}, "storyRunRef": {"name": "r1"}}

    record = extract({"metadata": {"name": "j", "namespace": "team-a"}, "spec": spec}, JOB)

    assert (record.story, record.ranked_as, record.parents) == ("", "", ())


@pytest.mark.parametrize("label", [None, "", 7, ["mother"]])
def test_a_label_that_names_nobody_makes_no_parent(label):
    """The API server lets no such thing but the empty text pass; another server may."""
    assert extract(story_run("r", metadata={"labels": {PARENT_LABEL: label}}), STORY_RUN).parents == ()


def test_an_owner_reference_without_kind_and_name_leads_to_nobody():
    """What is missing is empty, and not called None."""
    record = extract(story_run("r", metadata={"ownerReferences": [{"controller": True}]}), STORY_RUN)

    assert record.parents == ((KindKey("", ""), "team-a/"),)


@pytest.mark.parametrize(
    "metadata", [{"name": "j"}, {"name": "j", "namespace": None, "resourceVersion": None}]
)
def test_what_an_object_does_not_say_is_empty(metadata):
    """It owns no run of a namespace called None, and is read again as of no version."""
    record = extract({"metadata": metadata}, JOB)

    assert (record.run, record.version) == ("/j", "")


def test_the_time_of_creation_decides_who_is_newest():
    """Read in whatever zone it is written; names decide among those of one second."""
    records = [
        created("a", "2026-01-01T00:00:02Z"),
        created("b", "2026-01-01T01:00:01+01:00"),
        created("c", "2026-01-01T00:00:01Z"),
    ]

    assert [record.created for record in records] == [1_767_225_602, 1_767_225_601, 1_767_225_601]
    assert rank_story_runs({record.run: record for record in records}) == {
        "team-a/a": 1,
        "team-a/c": 2,
        "team-a/b": 3,
    }


@pytest.mark.parametrize("at", [None, "", "yesterday", 7])
def test_one_of_an_unknown_age_counts_as_the_newest(at):
    """It has the rank that keeps most."""
    old, known = created("a", at), created("b", "2026-01-01T00:00:00Z")

    assert old.created == sys.maxsize
    assert rank_story_runs({record.run: record for record in (old, known)})["team-a/a"] == 1


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"outputs/n/r/th\u00e9.json", "outputs/n/r/thé.json"),
        (r"outputs\/n\/r\/a.json", "outputs/n/r/a.json"),
        (r"outputs/n/r/th\\u00e9.json", "outputs/n/r/thé.json"),
        (r"outputs/n/r/th\\\\u00e9.json", "outputs/n/r/thé.json"),
    ],
)
def test_a_path_with_escapes_is_found_in_a_text_that_is_no_json(written, meant):
    """However often it was escaped: both as it is written and as it is meant."""
    found = references_in(f'cut off: {{"$bubuStorageRef": "{written}"')

    assert {written, meant} <= found


@pytest.mark.parametrize("written", [r"outputs/n/r/\x.json", r"outputs/n/r/\u12.json", "outputs/n/r/a\tb"])
def test_a_path_whose_escapes_cannot_be_read_is_taken_as_it_stands(written):
    """Half a text may hold anything, and nothing fails."""
    assert references_in(f'{{"$bubuStorageRef": "{written}"') == {written}
