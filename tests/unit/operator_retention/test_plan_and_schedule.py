"""What a pass may touch and when it runs; pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionCursor, RetentionPolicy
from bubu_operator.retention.plan import PassPlan, PlanProblem, plan_pass, resume_cursor, store_prefix
from bubu_operator.retention.schedule import DueReason, decide_due
from bubu_storage.retention.cursor import Cursor

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def policy(*, generation=1, annotations=None, status=None, **spec):
    """Parse a policy."""
    spec.setdefault("rules", [{"prefix": "outputs/", "keep": {"within": "30d"}}])
    return RetentionPolicy.model_validate(
        {
            "metadata": {
                "name": "tidy",
                "namespace": "team-a",
                "generation": generation,
                "annotations": annotations or {},
            },
            "spec": spec,
            "status": status or {},
        }
    )


def plan(parsed, *, namespace="team-a", output="outputs", input_="inputs", store="s3://aws/flows"):
    """Plan a pass."""
    return plan_pass(parsed.spec, namespace=namespace, output_prefix=output, input_prefix=input_, store=store)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("outputs/", ("outputs/team-a/", "outputs/team-a/")),
        ("outputs/run-1/", ("outputs/team-a/", "outputs/team-a/run-1/")),
        ("in/puts/", ("in/puts/team-a/", "in/puts/team-a/")),
        ("in/puts/x/", ("in/puts/team-a/", "in/puts/team-a/x/")),
        ("in/", None),
        ("outputs-old/", None),
        ("other/", None),
    ],
)
def test_the_namespace_is_inserted_after_the_stores_prefix(prefix, expected):
    """Whole segments only: `outputs-old/` is not below `outputs`."""
    assert store_prefix(prefix, "team-a", "outputs", "in/puts") == expected


SEGMENT = st.text("ab-.", min_size=1, max_size=3)


@given(st.lists(SEGMENT, min_size=1, max_size=4), SEGMENT)
def test_no_prefix_reaches_another_namespace(segments, namespace):
    """Whatever a tenant writes, what is covered lies below the tenant's own part."""
    placed = store_prefix("/".join(segments) + "/", namespace, "a", "b/a")

    if placed is not None:
        scope, whole = placed
        assert scope in {f"a/{namespace}/", f"b/a/{namespace}/"}
        assert whole.startswith(scope)


def test_a_plan_carries_every_limit():
    """Limits and safety of the spec arrive in the engine's terms."""
    made = plan(
        policy(
            mode="Enforce",
            limits={"maxScan": 7, "maxDelete": 3, "budgetSeconds": 9, "requestsPerSecond": 5},
            safety={"minAge": "2h"},
            rules=[
                {"prefix": "outputs/", "keep": {"within": "1d"}},
                {"prefix": "inputs/", "keep": {"within": "2d"}},
            ],
        )
    )

    assert isinstance(made, PassPlan)
    spec = made.spec
    assert (spec.max_scan, spec.max_delete, spec.budget_seconds, spec.requests_per_second) == (7, 3, 9.0, 5.0)
    assert (spec.min_age_seconds, spec.dry_run) == (7200.0, False)
    assert spec.scopes == ("inputs/team-a/", "outputs/team-a/")
    assert {rule.prefix: rule.keep_within_seconds for rule in spec.rules} == {
        "outputs/team-a/": 86400.0,
        "inputs/team-a/": 172800.0,
    }


def test_dry_run_is_the_default():
    """A policy that says nothing deletes nothing."""
    made = plan(policy())

    assert isinstance(made, PassPlan)
    assert made.spec.dry_run


def test_a_prefix_outside_is_refused_with_both_prefixes_named():
    """A rule that can never match is a mistake, not a quiet no-op."""
    made = plan(policy(rules=[{"prefix": "output/", "keep": {"within": "1d"}}]))

    assert isinstance(made, PlanProblem)
    assert made.reason is Reason.PREFIX_OUTSIDE_STORE
    assert "outputs/" in made.message
    assert "inputs/" in made.message


def test_a_rule_into_a_run_is_refused():
    """Runs go whole: a rule about a part of one is a misunderstanding."""
    made = plan(policy(rules=[{"prefix": "outputs/run-1/part/", "keep": {"within": "1d"}}]))

    assert isinstance(made, PlanProblem)
    assert made.reason is Reason.INVALID_SPEC


def test_the_fingerprint_follows_store_and_rules_only():
    """Limits, mode and interval keep the cursor; another store or other rules start anew."""
    base = plan(policy())
    assert isinstance(base, PassPlan)

    for same in (
        policy(mode="Enforce"),
        policy(limits={"maxScan": 9}),
        policy(interval="1h"),
        policy(suspend=True),
    ):
        assert plan(same).fingerprint == base.fingerprint
    for other in (
        plan(policy(), store="s3://aws/other"),
        plan(policy(rules=[{"prefix": "outputs/", "keep": {"within": "31d"}}])),
        plan(policy(safety={"minAge": "25h"})),
        plan(policy(), namespace="team-b"),
    ):
        assert other.fingerprint != base.fingerprint


def test_a_cursor_is_used_for_what_it_was_made_for():
    """Foreign or broken cursors cost a new start, never an error."""
    good = RetentionCursor.model_validate({"after": "outputs/team-a/r/k", "fingerprint": "f"})

    assert resume_cursor(good, "f") == Cursor(after="outputs/team-a/r/k")
    assert resume_cursor(good, "other") == Cursor()
    assert resume_cursor(None, "f") == Cursor()
    broken = RetentionCursor.model_validate(
        {"after": "x", "fingerprint": "f", "run": {"prefix": "r", "phase": "Odd"}}
    )
    assert resume_cursor(broken, "f") == Cursor()


def last_pass(**fields):
    """Make the status of a policy whose last pass ended a minute ago."""
    base = {
        "startTime": "2026-01-02T11:58:00Z",
        "finishTime": "2026-01-02T11:59:00Z",
        "observedGeneration": 1,
        "stoppedBy": "MaxScan",
    }
    return {"lastPass": {key: value for key, value in (base | fields).items() if value is not None}}


@pytest.mark.parametrize(
    ("parsed", "seconds", "reason"),
    [
        (policy(), 0, DueReason.FIRST),
        (policy(status=last_pass(), interval="5m"), 240, DueReason.INTERVAL),
        (policy(status=last_pass(), interval="30s"), -30, DueReason.INTERVAL),
        (policy(status=last_pass(), generation=2), 0, DueReason.SPEC_CHANGED),
        (policy(status=last_pass(finishTime=None)), 0, DueReason.INTERRUPTED),
        (policy(status=last_pass(stoppedBy="Stopped")), 0, DueReason.INTERRUPTED),
        (
            policy(status=last_pass(finishTime="2026-01-02T18:00:00Z"), interval="5m"),
            0,
            DueReason.CLOCK_SET_BACK,
        ),
        (
            policy(status=last_pass(), annotations={"storage.bubustack.io/run-now": "1"}),
            0,
            DueReason.RUN_NOW,
        ),
        (
            policy(
                status=last_pass() | {"lastRunNow": "1"},
                annotations={"storage.bubustack.io/run-now": "1"},
                interval="5m",
            ),
            240,
            DueReason.INTERVAL,
        ),
    ],
)
def test_when_a_pass_is_due(parsed, seconds, reason):
    """Each cause of a pass, and the time that it means."""
    due = decide_due(parsed, NOW)

    assert due.reason is reason
    assert due.at == NOW + timedelta(seconds=seconds)


def test_suspension_outranks_everything():
    """Neither a changed spec nor run-now starts a pass of a suspended policy."""
    due = decide_due(
        policy(suspend=True, generation=9, annotations={"storage.bubustack.io/run-now": "1"}), NOW
    )

    assert (due.at, due.reason) == (None, DueReason.SUSPENDED)


@given(st.integers(-(10**6), 10**6), st.sampled_from(["1s", "2m", "1h"]))
def test_no_clock_can_put_a_pass_off_for_ever(offset, interval):
    """Wherever the last finish lies: whoever waits until a pass is due finds it due then."""
    finish = (NOW + timedelta(seconds=offset)).strftime("%Y-%m-%dT%H:%M:%SZ")
    parsed = policy(status=last_pass(finishTime=finish), interval=interval)

    due = decide_due(parsed, NOW)

    assert due.at is not None
    assert due.at <= NOW + timedelta(seconds=parsed.spec.interval_seconds)
    later = max(due.at, NOW)
    assert decide_due(parsed, later).at <= later
