"""Which lists of owners are believed, which kinds are asked for, and what must be approved."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.owners.census import NO_CENSUS, Census, OwnersProblem, compare, key_of_name, missing_kinds
from bubu_operator.owners.kinds import DEFAULT_KINDS, STEP_RUN, STORY_RUN, KindKey, OwnerKind, wanted_kinds

JOB = OwnerKind.named("batch", "v1", "Job", "", [])
POD = OwnerKind.named("", "v1", "Pod", "status.phase", ["Succeeded"])
counts = st.integers(0, 1_000)


def census(live, ended=0, kinds=DEFAULT_KINDS):
    """Make a census."""
    return Census(live, live + ended, frozenset(kind.name for kind in kinds))


@pytest.mark.parametrize(
    ("before", "now", "is_odd"),
    [
        (census(0), census(0), False),
        (census(10), census(5), False),
        (census(10), census(4), True),
        (census(1), census(0), True),
        (census(10), census(0, ended=5), False),
        (census(10), census(0, ended=4), True),
        (census(10, ended=100), census(0, ended=104), True),
        (census(10, ended=100), census(0, ended=105), False),
        (census(10, ended=100), census(5, ended=0), False),
        (census(0, ended=100), census(0), False),
        (NO_CENSUS, census(3), False),
    ],
)
def test_a_drop_by_more_than_half_is_odd(before, now, is_odd):
    """Unless owners that ended, and are still there, account for it."""
    anomaly = compare(before, now)

    assert (anomaly is not None) == is_odd
    assert anomaly is None or anomaly.problem is OwnersProblem.LIVE_DROPPED


@given(counts, counts, counts, counts)
def test_no_drop_that_nobody_saw_goes_unnoticed(live, ended, live_now, ended_now):
    """If more than half of the live owners are neither live nor newly ended, it is odd."""
    unseen = live - live_now - max(0, ended_now - ended)

    assert (compare(census(live, ended), census(live_now, ended_now)) is not None) == (2 * unseen > live)


def test_approving_one_finding_does_not_approve_a_worse_one():
    """While counts that move a little leave it the same finding."""
    before = census(1_000)
    tokens = [compare(before, census(live)).token for live in (300, 290, 100, 0)]

    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3
    assert compare(census(900), census(300)).token != tokens[0]


def test_a_kind_that_vanished_is_told_by_name():
    """A kind that is listed in another version now has not vanished."""
    newer = OwnerKind("runs.bubustack.io", "v1", "StoryRun")

    assert missing_kinds(census(0), DEFAULT_KINDS) is None
    assert missing_kinds(census(0), [newer, STEP_RUN, JOB]) is None
    assert missing_kinds(NO_CENSUS, []) is None
    anomaly = missing_kinds(census(0), [STORY_RUN])
    assert anomaly.problem is OwnersProblem.KIND_VANISHED
    assert "StepRun.v1alpha1.runs.bubustack.io" in anomaly.message
    assert anomaly.token != missing_kinds(census(0), []).token


@pytest.mark.parametrize("kind", [STORY_RUN, JOB, POD])
def test_names_lead_back_to_kinds(kind):
    """Also of the core group, which has no name."""
    assert key_of_name(kind.name) == kind.key


def test_the_usual_kinds_count_besides_those_that_are_named():
    """They need not be served; what is named must be."""
    assert wanted_kinds([]) == ((), DEFAULT_KINDS)
    assert wanted_kinds([JOB]) == ((JOB,), DEFAULT_KINDS)


def test_one_of_the_usual_kinds_brings_the_other():
    """In its own version: neither can be judged without the other."""
    story = OwnerKind("runs.bubustack.io", "v1", "StoryRun", ("status", "state"), frozenset({"Done"}))
    step = OwnerKind("runs.bubustack.io", "v1", "StepRun", ("status", "state"), frozenset({"Done"}))

    newer_step = replace(STEP_RUN, version="v1")

    assert wanted_kinds([JOB, story]) == ((JOB, story, newer_step), ())
    assert {kind.key for kind in wanted_kinds([step])[0]} == {STORY_RUN.key, STEP_RUN.key}
    assert wanted_kinds([step, story]) == ((step, story), ())


def test_how_kinds_are_called():
    """In statuses with the version, in messages as objects have it."""
    assert (POD.name, str(POD), str(POD.key)) == ("Pod.v1", "v1 Pod", "Pod")
    assert (JOB.name, str(JOB), str(JOB.key)) == ("Job.v1.batch", "batch/v1 Job", "Job.batch")
    assert KindKey("a", "B") < KindKey("b", "A")
