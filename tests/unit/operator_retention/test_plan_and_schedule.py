"""What a pass may touch and when it runs; pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionCursor, RetentionPolicy
from bubu_operator.retention.cycle import Stage, StageKind
from bubu_operator.retention.plan import (
    MAX_SCOPES,
    PassPlan,
    PlanProblem,
    plan_cluster_pass,
    plan_pass,
    resume_cursor,
    store_prefix,
)
from bubu_operator.retention.schedule import DueReason, decide_due
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.spec import RetentionRule

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
    assert (made.reason, made.quiet) == (Reason.PREFIX_OUTSIDE_STORE, False)
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


@pytest.mark.parametrize(
    ("orphans", "grace"),
    [({}, None), ({"action": "Report", "grace": "9h"}, None), ({"action": "Delete", "grace": "9h"}, 32400.0)],
)
def test_orphans_are_the_business_of_rules_that_count(orphans, grace):
    """A rule by age judges all runs by their age; one that counts keeps orphans unless told otherwise."""
    rules = [
        {"prefix": "inputs/", "keep": {"within": "1d"}},
        {"prefix": "outputs/", "keep": {"lastRuns": 5}},
        {"prefix": "outputs/run-1/", "keep": {"within": "2d", "lastRuns": 3}},
    ]

    made = plan(policy(rules=rules, orphans=orphans))

    assert made.spec.rules == (
        RetentionRule("inputs/team-a/", 86400.0),
        RetentionRule("outputs/team-a/", None, keep_last_runs=5, orphan_grace_seconds=grace),
        RetentionRule("outputs/team-a/run-1/", 172800.0, keep_last_runs=3, orphan_grace_seconds=grace),
    )


# --- cluster-wide --------------------------------------------------------------------------------


def cluster_plan(parsed, *namespaces, **about):
    """Plan a pass of a cluster-wide policy."""
    about = {"output_prefix": "outputs", "input_prefix": "in/puts", "store": "s"} | about
    return plan_cluster_pass(parsed.spec, namespaces=namespaces, **about)


def test_a_cluster_policy_is_placed_in_every_namespace():
    """One scope a namespace and prefix, in any order of the namespaces."""
    rules = [
        {"prefix": "outputs/", "keep": {"within": "1d"}},
        {"prefix": "outputs/run-1/", "keep": {"lastRuns": 2}},
        {"prefix": "in/puts/", "keep": {"within": "2d"}},
    ]

    made = cluster_plan(policy(rules=rules), "b", "a", "a")

    assert made.namespaces == ("a", "b")
    assert made.spec.scopes == ("in/puts/a/", "in/puts/b/", "outputs/a/", "outputs/b/")
    assert made.scope_namespaces == ("a", "b", "a", "b")
    assert {rule.prefix for rule in made.spec.rules} == {
        f"{prefix}{inner}"
        for namespace in "ab"
        for prefix, inner in (
            (f"outputs/{namespace}/", ""),
            (f"outputs/{namespace}/", "run-1/"),
            (f"in/puts/{namespace}/", ""),
        )
    }


def test_namespaces_that_come_and_go_leave_a_cluster_policys_fingerprint_alone():
    """Else no cycle would ever end; everything that decides changes it."""
    base = cluster_plan(policy(), "a")
    assert isinstance(base, PassPlan)

    assert cluster_plan(policy(), "b", "c").fingerprint == base.fingerprint
    assert cluster_plan(policy(mode="Enforce", interval="9m"), "a").fingerprint == base.fingerprint
    for other in (
        cluster_plan(policy(), "a", store="t"),
        cluster_plan(policy(), "a", input_prefix="inputs"),
        cluster_plan(policy(rules=[{"prefix": "outputs/", "keep": {"within": "29d"}}]), "a"),
        cluster_plan(policy(), "a", owner_kinds=["StoryRun.v1alpha1.runs.bubustack.io"]),
    ):
        assert other.fingerprint != base.fingerprint


def test_a_cluster_plan_can_be_narrowed():
    """To some of its namespaces, with their rules; to all of them it is itself."""
    made = cluster_plan(policy(), "a", "b", "c")

    narrow = made.within(["c", "a", "z"])

    assert made.within("abc") is made
    assert (narrow.namespaces, narrow.scope_namespaces) == (("a", "c"), ("a", "c"))
    assert narrow.spec.scopes == ("outputs/a/", "outputs/c/")
    assert [rule.prefix for rule in narrow.spec.rules] == ["outputs/a/", "outputs/c/"]
    assert narrow.fingerprint == made.fingerprint


def test_a_cluster_policy_without_namespaces_waits_quietly():
    """A selector that matches nothing yet is no mistake."""
    made = cluster_plan(policy())

    assert isinstance(made, PlanProblem)
    assert (made.reason, made.quiet) == (Reason.NO_NAMESPACES, True)


@pytest.mark.parametrize("count", [MAX_SCOPES // 2 + 1, MAX_SCOPES + 1])
def test_too_many_namespaces_are_refused_with_a_way_out(count):
    """By parts, not by namespaces: two prefixes make two parts of each."""
    rules = [{"prefix": prefix, "keep": {"within": "1d"}} for prefix in ("outputs/", "in/puts/")]

    made = cluster_plan(policy(rules=rules), *(f"n{number}" for number in range(count)))

    assert isinstance(made, PlanProblem)
    assert made.reason is Reason.TOO_MANY_NAMESPACES
    assert str(MAX_SCOPES) in made.message
    assert "namespaceSelector" in made.message


def test_as_many_parts_as_may_be_are_planned():
    """The documented bound itself is within it."""
    made = cluster_plan(policy(), *(f"n{number}" for number in range(10_000)))

    assert isinstance(made, PassPlan)
    assert len(made.spec.scopes) == MAX_SCOPES == 10_000


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


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        (StageKind.APPROVAL_REQUIRED, {}, DueReason.APPROVAL_REQUIRED),
        (StageKind.DRY_RUN, {}, DueReason.INTERVAL),
        (StageKind.DRY_RUN, {"completeCycle": True, "mode": "DryRun"}, DueReason.INTERVAL),
        (StageKind.ENFORCE, {"completeCycle": True, "mode": "DryRun"}, DueReason.REHEARSED),
        (StageKind.ENFORCE, {"completeCycle": True, "mode": "Enforce"}, DueReason.INTERVAL),
        (StageKind.ENFORCE, {"completeCycle": False, "mode": "DryRun"}, DueReason.INTERVAL),
    ],
)
def test_what_comes_next_decides_when(kind, status, reason):
    """An approval is waited for without end; only what deletes after a whole rehearsal is due at once."""
    due = decide_due(policy(status=last_pass(**status)), NOW, Stage(kind, ""))

    assert due.reason is reason
    assert (due.at is None) is (reason is DueReason.APPROVAL_REQUIRED)


def test_a_last_pass_that_never_began_is_none():
    """A status that somebody cut down is no reason to wait."""
    assert decide_due(policy(status=last_pass(startTime=None)), NOW).reason is DueReason.FIRST


def test_a_pass_that_ended_this_very_moment_keeps_its_interval():
    """The clock is not behind."""
    parsed = policy(status=last_pass(finishTime="2026-01-02T12:00:00Z"), interval="5m")

    assert decide_due(parsed, NOW).at == NOW + timedelta(minutes=5)
