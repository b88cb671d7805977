"""Whether an owner is restarted: only if that helps, and never for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.controllers.heal_decide import (
    BACKOFF_SECONDS,
    MAX_RESTARTS,
    Attempt,
    RestartAction,
    decide_restart,
    past_attempt,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HASH = "0123456789abcdef"
ATTEMPTS = st.builds(
    Attempt,
    st.integers(0, 10**8).map(lambda seconds: NOW - timedelta(seconds=seconds)),
    st.sampled_from([HASH, "other"]),
    st.integers(0, 9),
)


def workload(kind="Deployment", *, metadata=None, spec=None, template=None, status=None):
    """A workload whose roll-out is done."""
    return {
        "kind": kind,
        "metadata": {"name": "web", "generation": 1, **(metadata or {})},
        "spec": {"replicas": 1, "template": {"metadata": template or {}}, **(spec or {})},
        "status": {
            "observedGeneration": 1,
            **dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 1),
            **(status or {}),
        },
    }


def decide(obj=None, kind="Deployment", past=None, *, helped=False, labels=None, problem="", now=NOW):
    """Decide about a workload."""
    return decide_restart(
        obj or workload(kind),
        kind,
        namespace_labels=labels or {},
        template_problem=problem,
        hash_=HASH,
        past=past,
        helped=helped,
        now=now,
    )


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_an_owner_that_was_never_restarted_is(kind):
    """It is its first attempt."""
    decision = decide(kind=kind)

    assert decision.action is RestartAction.RESTART
    assert decision.attempt == Attempt(NOW, HASH, 1)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (workload(metadata={"labels": {"storage.bubustack.io/heal": "false"}}), "heal is false"),
        (workload(metadata={"annotations": {"storage.bubustack.io/heal": "false"}}), "heal is false"),
        (workload(metadata={"labels": {"storage.bubustack.io/inject": "false"}}), "inject is false"),
        (workload(metadata={"labels": {"storage.bubustack.io/inject": "true"}}), "operator's own"),
        (workload(template={"annotations": {"storage.bubustack.io/injection": "{}"}}), "operator's own"),
        (workload(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), "being deleted"),
        (workload(spec={"paused": True}), "paused"),
        (workload("DaemonSet", spec={"updateStrategy": {"type": "OnDelete"}}), "OnDelete"),
        (workload("StatefulSet", spec={"updateStrategy": {"rollingUpdate": {"partition": 1}}}), "partition"),
        (
            workload(status={"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
            "failed",
        ),
    ],
)
def test_owners_that_a_restart_would_not_help_or_that_refuse_it(obj, words):
    """They are left, and the reason is said."""
    decision = decide(obj, obj["kind"])

    assert decision.action is RestartAction.LEAVE
    assert words in decision.note


@pytest.mark.parametrize("name", ["heal", "inject"])
def test_a_namespace_may_refuse_for_all_of_its_owners(name):
    """By a label."""
    decision = decide(labels={f"storage.bubustack.io/{name}": "false"})

    assert decision.action is RestartAction.LEAVE
    assert "of its namespace" in decision.note


def test_a_template_that_would_not_get_the_config_is_left():
    """Its reason is handed on."""
    assert decide(problem="it does not ask").note == "it does not ask"


def test_an_owner_that_rolls_already_is_waited_for():
    """Its new pods may have what the old ones lack."""
    assert decide(workload(status={"updatedReplicas": 0})).action is RestartAction.ROLLING


@pytest.mark.parametrize(
    ("number", "seconds", "action"),
    [
        (1, BACKOFF_SECONDS - 1, RestartAction.WAIT),
        (1, BACKOFF_SECONDS, RestartAction.RESTART),
        (2, BACKOFF_SECONDS * 2 - 1, RestartAction.WAIT),
        (2, BACKOFF_SECONDS * 2, RestartAction.RESTART),
        (3, BACKOFF_SECONDS * 100, RestartAction.GIVE_UP),
    ],
)
def test_restarts_that_did_not_help_are_further_and_further_apart(number, seconds, action):
    """And come to an end."""
    past = Attempt(NOW - timedelta(seconds=seconds), HASH, number)

    decision = decide(past=past)

    assert decision.action is action
    if decision.attempt is not None:
        assert decision.attempt.number == number + 1


def test_one_that_helped_starts_the_count_anew_but_not_at_once():
    """The webhook may be away twice in a day; a flapping one must not restart pods all the time."""
    past = Attempt(NOW - timedelta(seconds=BACKOFF_SECONDS), HASH, 3)

    decision = decide(past=past, helped=True)

    assert decision.attempt is not None
    assert decision.attempt.number == 1
    assert decide(past=past, helped=True, now=NOW - timedelta(seconds=1)).action is RestartAction.WAIT


def test_a_time_in_the_future_holds_nothing_up_for_ever():
    """The number still counts."""
    past = Attempt(NOW + timedelta(days=900), HASH, 1)

    decision = decide(past=past)

    assert decision.attempt is not None
    assert decision.attempt.number == 2


@given(ATTEMPTS)
def test_what_is_written_is_what_is_read(attempt):
    """The annotation's form."""
    assert Attempt.parse(str(attempt)) == attempt


@given(st.text() | st.none())
def test_any_text_is_read_without_trouble(text):
    """Whoever wrote it."""
    Attempt.parse(text)


@given(st.datetimes(timezones=st.timezones()), st.integers(0, 9))
def test_any_time_is_read_without_trouble(when, number):
    """Of the first and the last day, too; one owner's annotation must not end the sweep of all."""
    attempt = Attempt.parse(f"{when.isoformat()} abc {number}")

    assert attempt is None or str(attempt).endswith(f" abc {number}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-31T12:00:00Z abc",
        "2026-01-31T12:00:00Z abc -1",
        "x abc 1",
        "0001-01-01T00:00:00+23:59 abc 3",
        "9999-12-31T23:59:59-23:59 abc 3",
    ],
)
def test_other_texts_are_no_attempts(text):
    """As that of another tool."""
    assert Attempt.parse(text) is None


def test_the_annotation_counts_before_memory_and_only_for_this_form():
    """Memory stands in where a tool has reset the template."""
    written, remembered = Attempt(NOW, HASH, 2), Attempt(NOW, HASH, 1)
    marked = workload(template={"annotations": {"storage.bubustack.io/restarted-at": str(written)}})

    assert past_attempt(marked, remembered, HASH) == written
    assert past_attempt(workload(), remembered, HASH) == remembered
    assert past_attempt(marked, remembered, "other") is None
    assert past_attempt(workload(), None, HASH) is None


@given(ATTEMPTS | st.none(), st.booleans(), st.integers(0, 100))
def test_an_owner_is_never_restarted_for_ever(past, helped, steps):
    """However often it is asked, at whatever pace: at most MAX_RESTARTS more of a form that do not help."""
    now, restarts = NOW, 0
    if past is not None and past.hash != HASH:
        past = None
    for _ in range(steps):
        decision = decide(past=past, helped=helped, now=now)
        if decision.attempt is not None:
            restarts += 1
            past, helped = decision.attempt, False
        now += timedelta(hours=1)

    assert restarts <= MAX_RESTARTS
