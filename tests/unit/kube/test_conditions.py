"""Conditions: the transition time is the point of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.kube.conditions import (
    ConditionStatus,
    find_condition,
    format_time,
    parse_time,
    remove_condition,
    set_condition,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def put(conditions, status, *, now=NOW, type_="Ready", reason="Why", message="text", generation=1):
    """Set a condition with defaults."""
    return set_condition(
        conditions, type_, status, reason=reason, message=message, generation=generation, now=now
    )


def test_a_new_condition_is_complete():
    """All fields of the API are there."""
    assert put(None, True) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Why",
            "message": "text",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }
    ]


def test_the_transition_time_stays_while_the_status_does():
    """Another reason, message or generation is no transition."""
    changed = put(put(None, False), False, now=LATER, reason="Other", message="more", generation=2)

    assert changed[0]["lastTransitionTime"] == format_time(NOW)
    assert (changed[0]["reason"], changed[0]["observedGeneration"]) == ("Other", 2)


def test_the_transition_time_moves_with_the_status():
    """True to False to Unknown are transitions."""
    first = put(None, True)
    second = put(first, False, now=LATER)

    assert second[0]["lastTransitionTime"] == format_time(LATER)
    assert put(second, ConditionStatus.UNKNOWN, now=NOW)[0]["lastTransitionTime"] == format_time(NOW)


@given(st.lists(st.sampled_from(["Ready", "Degraded", "Reconciled"]), max_size=12), st.booleans())
def test_types_stay_unique_and_the_input_untouched(types, status):
    """Whatever is set in whatever order, each type occurs once, and setting again changes nothing."""
    conditions = None
    for type_ in types:
        before = None if conditions is None else [dict(item) for item in conditions]
        conditions_after = put(conditions, status, type_=type_)
        assert conditions == before
        assert put(conditions_after, status, type_=type_, now=LATER) == conditions_after
        conditions = conditions_after
    found = [item["type"] for item in conditions or []]
    assert sorted(found) == sorted(set(types))


def test_garbage_in_a_status_does_no_harm():
    """A status that somebody else wrote badly is replaced, not stumbled over."""
    assert find_condition("text", "Ready") is None
    assert find_condition([None, 3, {"type": "Ready", "status": "True"}], "Ready")["status"] == "True"
    assert len(put([None, {"type": "Other"}], True)) == 2


def test_long_messages_are_cut():
    """The API refuses messages without end."""
    assert len(put(None, True, message="x" * 5000)[0]["message"]) == 2048


def test_removing():
    """Removing takes out one type and nothing else."""
    both = put(put(None, True), True, type_="NotShared")

    assert [item["type"] for item in remove_condition(both, "NotShared")] == ["Ready"]


def test_times_round_trip():
    """Times are UTC seconds; what is no time is None."""
    assert parse_time(format_time(NOW)) == NOW.replace(microsecond=0)
    assert parse_time(None) is None
    assert parse_time("yesterday") is None
