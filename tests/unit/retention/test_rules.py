"""The decision on one run: every keep branch on its own, their order, and keep wins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.retention.reasons import DUE_REASONS, KEPT_REASONS, PROVISIONAL_REASONS, Reason
from bubu_storage.retention.rules import (
    RetentionRule,
    RunFacts,
    decide_loose,
    decide_run,
    has_date,
    is_reserved,
)
from tests.unit.retention.world import DAY, START, spec_of

RUN = "outputs/a/run-1/"


def facts(age_seconds: float = 100 * DAY, **changes: object) -> RunFacts:
    """Return a wholly seen run, due unless something is changed."""
    fields = {
        "prefix": RUN,
        "objects": 3,
        "size_bytes": 30,
        "newest": START - timedelta(seconds=age_seconds),
        "complete": True,
    } | changes
    return RunFacts(**fields)


def test_an_old_whole_run_is_due():
    """Nothing keeps it: it is due, overdue since its keep ran out, allowed by the rule."""
    decision = decide_run(facts(31 * DAY), spec_of(), START)

    assert decision.reason is Reason.DUE
    assert decision.is_due
    assert decision.overdue_seconds == DAY
    assert decision.rule == RetentionRule("outputs/a/", 30 * DAY)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"complete": False}, Reason.KEPT_RUN_INCOMPLETE),
        ({"reserved": 1}, Reason.KEPT_RESERVED),
        ({"undated": 1}, Reason.KEPT_UNKNOWN_DATE),
        ({"newest": None}, Reason.KEPT_UNKNOWN_DATE),
        ({"age_seconds": -301}, Reason.KEPT_FUTURE_DATE),
        ({"prefix": "outputs/b/run-1/"}, Reason.KEPT_NO_RULE),
        ({"age_seconds": DAY}, Reason.KEPT_MIN_AGE),
        ({"age_seconds": 30 * DAY}, Reason.KEPT_WITHIN),
    ],
)
def test_each_reason_alone_keeps_a_run(changes, reason):
    """One reason is enough, and the decision names it."""
    decision = decide_run(facts(**changes), spec_of(), START)

    assert decision.reason is reason
    assert not decision.is_due
    assert decision.overdue_seconds == 0


@pytest.mark.parametrize(
    ("age_seconds", "reason"),
    [
        (-300, Reason.KEPT_MIN_AGE),
        (-300.001, Reason.KEPT_FUTURE_DATE),
        (0, Reason.KEPT_MIN_AGE),
        (DAY, Reason.KEPT_MIN_AGE),
        (DAY + 0.001, Reason.KEPT_WITHIN),
        (30 * DAY, Reason.KEPT_WITHIN),
        (30 * DAY + 0.001, Reason.DUE),
    ],
)
def test_boundaries_belong_to_keeping(age_seconds, reason):
    """At exactly the minimum age, or exactly the age that a rule keeps, a run stays."""
    assert decide_run(facts(age_seconds), spec_of(), START).reason is reason


def test_the_minimum_age_holds_against_short_rules():
    """A rule that keeps an hour does not shorten the minimum age; overdue counts from the later one."""
    spec = spec_of(rules=(RetentionRule("outputs/a/", 3600),))

    assert decide_run(facts(DAY), spec, START).reason is Reason.KEPT_MIN_AGE
    assert decide_run(facts(DAY + 60), spec, START).overdue_seconds == 60


def test_keep_wins_whatever_the_prefix_lengths():
    """Any matching keep keeps: the short prefix's longer keep, and the long prefix's longer keep."""
    short_keeps = spec_of(rules=(RetentionRule("outputs/a/", 30 * DAY), RetentionRule(RUN, 2 * DAY)))
    long_keeps = spec_of(rules=(RetentionRule("outputs/a/", 2 * DAY), RetentionRule(RUN, 30 * DAY)))

    for spec in (short_keeps, long_keeps):
        assert decide_run(facts(29 * DAY), spec, START).reason is Reason.KEPT_WITHIN
        assert decide_run(facts(31 * DAY), spec, START).overdue_seconds == DAY


def test_the_longest_prefix_is_named():
    """The rule that allows the deletion is the most specific one; of equals, the one that keeps longest."""
    rules = (
        RetentionRule(RUN, 2 * DAY),
        RetentionRule("outputs/a/", 30 * DAY),
        RetentionRule(RUN, 5 * DAY),
    )

    assert decide_run(facts(), spec_of(rules=rules), START).rule == RetentionRule(RUN, 5 * DAY)


def test_a_rule_for_one_run_does_not_cover_its_neighbours():
    """Prefixes are whole segments: run-1/ says nothing about run-10/."""
    spec = spec_of(rules=(RetentionRule(RUN, DAY),))

    assert decide_run(facts(prefix="outputs/a/run-10/"), spec, START).reason is Reason.KEPT_NO_RULE


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (START, True),
        (START.astimezone(timezone(timedelta(hours=5))), True),
        (START.replace(tzinfo=None), False),
        (datetime(1970, 1, 1, tzinfo=UTC), False),
        (datetime(1969, 12, 31, tzinfo=UTC), False),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), True),
    ],
)
def test_only_real_dates_count(when, expected):
    """Naive dates mean nothing, and the epoch is how stores spell "unknown"."""
    assert has_date(when) is expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (".bubu/claim", True),
        ("outputs/a/.bubu/x", True),
        ("outputs/a/run/.bubu/x/y", True),
        ("outputs/a/run/.bubu", False),
        ("outputs/a/run/x.bubu/y", False),
        ("outputs/a/.bubu-2/y", False),
    ],
)
def test_reserved_areas_are_recognised(key, expected):
    """The reserved folder counts at the top of the store and in every folder of it."""
    assert is_reserved(key) is expected


def test_loose_objects_are_kept_with_their_own_reasons():
    """What lies in no run is kept, and the reserved area is told apart."""
    assert decide_loose("outputs/a/readme") is Reason.KEPT_NOT_IN_RUN
    assert decide_loose(".bubu/claim") is Reason.KEPT_RESERVED


def test_every_reason_is_either_kept_or_due():
    """The sets that reports add up by cover all reasons and do not overlap."""
    assert KEPT_REASONS | DUE_REASONS == set(Reason)
    assert not KEPT_REASONS & DUE_REASONS
    assert {Reason.KEPT_RUN_INCOMPLETE, Reason.DUE_DEFERRED} == PROVISIONAL_REASONS


@given(
    age=st.floats(-100 * DAY, 100 * DAY),
    keeps=st.lists(st.floats(1, 90 * DAY), min_size=1, max_size=4),
    min_age=st.floats(300, 10 * DAY),
    undated=st.integers(0, 1),
    reserved=st.integers(0, 1),
    complete=st.booleans(),
)
def test_a_run_is_due_exactly_when_nothing_keeps_it(*, age, keeps, min_age, undated, reserved, complete):
    """The chain agrees with the sentence: whole, ours to judge, dated, and older than every keep."""
    spec = spec_of(rules=tuple(RetentionRule("outputs/a/", keep) for keep in keeps), min_age_seconds=min_age)
    run = facts(age, undated=undated, reserved=reserved, complete=complete)
    age = (START - run.newest).total_seconds()

    decision = decide_run(run, spec, START)

    expected = complete and not undated and not reserved and age > max(min_age, *keeps)
    assert decision.is_due is expected
    assert (decision.overdue_seconds > 0) is expected
