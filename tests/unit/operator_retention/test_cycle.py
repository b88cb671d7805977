"""Rehearse, ask, delete: the order in which a policy's passes come, over a real engine in fake time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.retention.cycle import (
    StageKind,
    acknowledged_owners,
    approval_of,
    covered_namespaces,
    covers,
    due_percent,
    is_approved,
    is_over_share,
    plan_hash,
    share_of,
)
from bubu_operator.retention.schedule import DueReason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.tally import CycleTally
from tests.unit.operator_retention.policy_life import Life

APPROVE, RUN_NOW = "storage.bubustack.io/approve", "storage.bubustack.io/run-now"
RULES = [{"prefix": "outputs/", "keep": {"within": "30d"}}]


def life(*, old=2, young=8, mode="Enforce", **spec):
    """Make a policy on a store with so many runs of one object each."""
    made = Life({"rules": RULES, "mode": mode, **spec})
    fill(made, old, young)
    return made


def fill(made, old, young, namespace="a"):
    """Store runs of one object each."""
    for number in range(old):
        made.world.put(f"outputs/{namespace}/old-{number:03}/o", 40)
    for number in range(young):
        made.world.put(f"outputs/{namespace}/young-{number:03}/o", 2)


def kinds(steps):
    """Name the stages of some looks."""
    return [step.stage.kind.value for step in steps]


# --- the dry cycle comes first -------------------------------------------------------------------


def test_the_first_deletion_follows_a_whole_dry_cycle():
    """However many passes the cycle takes, none of them deletes."""
    made = life(limits={"maxScan": 3})

    steps = made.until_quiet()

    first = kinds(steps).index("Enforce")
    assert first >= 4
    assert set(kinds(steps)[:first]) == {"Rehearse"}
    assert all(step.report.deleted.objects == 0 for step in steps[:first])
    assert made.world.all_keys() == [f"outputs/a/young-{n:03}/o" for n in range(8)]
    assert made.status["rehearsal"]["decidedObjects"] == 10
    assert made.status["rehearsal"]["dueObjects"] == 2


def test_a_policy_that_only_rehearses_never_leaves_that():
    """Mode DryRun: cycle after cycle, nothing is deleted."""
    made = life(mode="DryRun")

    assert {made.look().stage.kind for _ in range(3)} == {StageKind.DRY_RUN}
    assert made.world.backend.deletions == []


def test_the_dry_cycle_of_a_dry_run_policy_counts():
    """Who has watched a dry run and then enforces waits for no second one."""
    made = life(mode="DryRun")
    made.look()
    made.change(mode="Enforce")

    step = made.look()

    assert step.stage.kind is StageKind.ENFORCE
    assert step.report.deleted.objects == 2


def test_a_dry_cycle_that_was_begun_by_a_dry_run_policy_is_ended_by_the_rehearsal():
    """The rehearsal goes on where the dry run stopped."""
    made = life(mode="DryRun", limits={"maxScan": 4})
    made.look()
    made.change(mode="Enforce")

    steps = made.until_quiet()

    assert kinds(steps)[:2] == ["Rehearse", "Rehearse"]
    assert made.status["rehearsal"]["decidedObjects"] == 10


@pytest.mark.parametrize(
    "change",
    [
        {"rules": [{"prefix": "outputs/", "keep": {"within": "29d"}}]},
        {"rules": [*RULES, {"prefix": "inputs/", "keep": {"within": "30d"}}]},
        {"rules": [{"prefix": "outputs/", "keep": {"within": "30d", "lastRuns": 1}}]},
        {"safety": {"minAge": "2d"}},
        {"owners": [{"group": "batch", "version": "v1", "kind": "Job"}]},
    ],
    ids=["within", "rules", "lastRuns", "minAge", "owners"],
)
def test_a_change_of_what_decides_is_rehearsed_anew(change):
    """Nothing is deleted by rules that no whole dry cycle has shown."""
    made = life()
    made.until_quiet()
    made.world.put("outputs/a/another/o", 40)
    made.change(**change)

    step = made.look()

    assert step.stage.kind is StageKind.REHEARSE
    assert step.report.deleted.objects == 0


def test_orphans_are_rehearsed_anew_where_a_rule_counts():
    """Report to Delete lets go what was kept; the grace does, too."""
    rules = [{"prefix": "outputs/", "keep": {"lastRuns": 1}}]
    seen = {
        life(rules=rules, **extra).plan().fingerprint
        for extra in (
            {},
            {"orphans": {"action": "Delete"}},
            {"orphans": {"action": "Delete", "grace": "48h"}},
        )
    }

    assert len(seen) == 3


def test_another_store_and_other_kinds_of_owners_are_rehearsed_anew():
    """A kind that comes or goes changes what is live, and what is an orphan."""
    made = life()
    made.until_quiet()

    made.owner_kinds = ("StoryRun.v1alpha1.runs.bubustack.io",)
    assert made.look(run=False).stage.kind is StageKind.REHEARSE
    made.owner_kinds = ()
    assert made.look(run=False).stage.kind is StageKind.ENFORCE
    made.store = "another"
    assert made.look(run=False).stage.kind is StageKind.REHEARSE


@pytest.mark.parametrize(
    "change",
    [{"limits": {"maxScan": 9}}, {"interval": "1h"}, {"safety": {"maxDuePercent": 60}}, {"suspend": False}],
    ids=["limits", "interval", "maxDuePercent", "suspend"],
)
def test_what_does_not_decide_about_a_run_is_not_rehearsed(change):
    """How fast is no question of what."""
    made = life()
    made.until_quiet()
    made.change(**change)

    assert made.look().stage.kind is StageKind.ENFORCE


def test_a_cycle_that_nobody_saw_from_its_beginning_proves_nothing():
    """A cursor in the middle, as of an older operator: its cycle's end is no whole dry cycle."""
    made = life(mode="DryRun", limits={"maxScan": 4})
    made.look()
    del made.status["dryRunCursor"]["cycleStartTime"]
    made.change(mode="Enforce")

    steps = [made.look(), made.look()]

    assert steps[-1].report.complete_cycle
    assert "rehearsal" not in made.status
    assert made.look().stage.kind is StageKind.REHEARSE


def test_a_rehearsal_that_has_not_ended_is_none():
    """A status that somebody shortened: what has no end is no whole cycle."""
    made = life()
    made.look()
    del made.status["rehearsal"]["completeTime"]

    assert made.look(run=False).stage.kind is StageKind.REHEARSE


# --- the share -----------------------------------------------------------------------------------


def test_more_than_the_share_waits_for_an_approval():
    """Six of ten at 50 percent: no pass, and the message says what to do."""
    made = life(old=6, young=4)
    made.look()

    waiting = made.look()

    assert waiting.stage.kind is StageKind.APPROVAL_REQUIRED
    assert waiting.stage.reason is Reason.APPROVAL_REQUIRED
    assert waiting.due == replace(waiting.due, at=None, reason=DueReason.APPROVAL_REQUIRED)
    assert f"{APPROVE} to {made.status['planHash']}" in waiting.stage.message
    assert "6 of 10 objects are due (60 %)" in waiting.stage.message
    assert len(made.world.all_keys()) == 10


def test_the_approval_of_exactly_this_plan_releases_it():
    """And it holds without the annotation, until another plan comes."""
    made = life(old=6, young=4, limits={"maxDelete": 2})
    made.look()
    made.annotations[APPROVE] = made.status["planHash"]

    first = made.look()
    del made.annotations[APPROVE]
    made.until_quiet()

    assert first.report.deleted.objects == 2
    assert made.status["approvedPlan"] == made.status["planHash"]
    assert len(made.world.all_keys()) == 4


@pytest.mark.parametrize("value", ["yes", "0123456789abcdef", ""])
def test_any_other_approval_counts_for_nothing(value):
    """An old or invented hash is said to be one."""
    made = life(old=6, young=4)
    made.look()
    made.annotations[APPROVE] = value

    step = made.look()

    assert step.stage.kind is StageKind.APPROVAL_REQUIRED
    assert ("does not count" in step.stage.message) == bool(value)


@pytest.mark.parametrize(
    ("annotation", "status", "expected"),
    [
        ("now", {"planHash": "now", "approvedPlan": "before"}, "now"),
        ("now", {"planHash": "now"}, "now"),
        ("else", {"planHash": "now", "approvedPlan": "before"}, "before"),
        ("else", {"planHash": "now"}, None),
        ("", {"approvedPlan": "before"}, "before"),
        (None, {"approvedPlan": "before"}, "before"),
        ("", {}, None),
    ],
)
def test_the_status_keeps_the_approval_of_the_present_plan_or_the_one_before(annotation, status, expected):
    """An annotation that names another plan approves nothing, and takes no approval away."""
    made = life()
    made.status = status
    made.annotations = {} if annotation is None else {APPROVE: annotation}

    assert approval_of(made.policy) == expected


def test_a_rehearsal_without_a_name_is_never_approved():
    """Nobody can have meant it: no annotation and no approval from before are no approval of nothing."""
    made = life(old=6, young=4)
    made.look()
    rehearsal = made.policy.status.rehearsal.model_copy(update={"plan_hash": None})

    assert not is_approved(made.policy, rehearsal)


@pytest.mark.parametrize(
    ("cursor", "kind"),
    [
        (None, StageKind.APPROVAL_REQUIRED),
        ({"after": ""}, StageKind.APPROVAL_REQUIRED),
        ({"after": "outputs/a/old-001/o"}, StageKind.REHEARSE),
        ({"after": "", "run": {"prefix": "outputs/a/old-001/", "phase": "Scanning"}}, StageKind.REHEARSE),
        ({"after": "outputs/a/old-001/o", "fingerprint": "of other rules"}, StageKind.APPROVAL_REQUIRED),
    ],
    ids=["none", "at the start", "after a key", "in a run", "of other rules"],
)
def test_a_dry_cycle_under_way_is_ended_before_an_approval_is_waited_for(cursor, kind):
    """Only a cursor of these rules, in the middle of the store, is one under way."""
    made = life(old=6, young=4)
    made.look()
    if cursor is None:
        made.status.pop("dryRunCursor", None)
    else:
        made.status["dryRunCursor"] = {"fingerprint": made.plan().fingerprint, **cursor}

    assert made.look(run=False).stage.kind is kind


def test_an_approval_without_a_limit_is_no_bound():
    """Where everything may go, an approval from before brings no bound back."""
    made = life(old=6, young=4)
    made.look()
    made.annotations[APPROVE] = made.status["planHash"]
    made.change(safety={"maxDuePercent": 100})

    stage = made.look(run=False).stage

    assert stage.kind is StageKind.ENFORCE
    assert stage.max_due_objects is None


def test_an_approval_is_of_one_plan_only():
    """The same share of other runs is another plan."""
    made = life(old=6, young=4)
    made.look()
    approved = made.annotations[APPROVE] = made.status["planHash"]
    made.until_quiet()
    for number in range(8):
        made.world.put(f"outputs/a/later-{number}/o", 40)
    made.change(safety={"minAge": "25h"})

    steps = made.until_quiet()

    assert kinds(steps) == ["Rehearse", "ApprovalRequired"]
    assert made.status["planHash"] != approved
    assert "of another plan" in steps[-1].stage.message


def test_a_higher_share_releases_without_an_approval():
    """`maxDuePercent` is a limit: it decides nothing about a run."""
    made = life(old=6, young=4)
    made.look()
    made.change(safety={"maxDuePercent": 60})

    assert made.look().stage.kind is StageKind.ENFORCE


def test_a_lower_share_holds_at_once():
    """In the middle of the first cycle that deletes: the plan was never agreed to."""
    made = life(old=4, young=6, limits={"maxDelete": 1})
    made.look()
    assert made.look().report.deleted.objects == 1
    made.change(safety={"maxDuePercent": 10})

    assert made.look().stage.kind is StageKind.APPROVAL_REQUIRED


def test_a_bound_follows_what_the_last_cycle_left():
    """Half of what is there, not half of what there was."""
    made = life(old=4, young=6)

    steps = made.until_quiet()

    assert kinds(steps) == ["Rehearse", "Enforce", "Enforce"]
    assert [step.stage.max_due_objects for step in steps] == [None, 5, 3]


def test_a_new_rehearsal_can_be_asked_for():
    """run-now while an approval is awaited: look again, to the end of the cycle, then ask again."""
    made = life(old=6, young=4, limits={"maxScan": 6})
    made.until_quiet()
    old_plan = made.status["planHash"]
    made.world.put("outputs/a/new/o", 40)
    made.annotations[RUN_NOW] = "1"

    steps = made.until_quiet()

    assert kinds(steps) == ["Rehearse", "Rehearse", "ApprovalRequired"]
    assert steps[0].due.reason is DueReason.RUN_NOW
    assert made.status["planHash"] != old_plan


def test_an_approval_lets_go_what_it_was_given_for_and_no_more():
    """What becomes due after the approval is over the share again, and is shown first."""
    made = life(old=6, young=4)
    made.look()
    made.annotations[APPROVE] = made.status["planHash"]
    for number in range(3):
        made.world.put(f"outputs/a/zz-{number}/o", 40)

    step = made.look()

    assert step.stage.max_due_objects == 6
    assert step.report.deleted.objects == 6
    assert step.report.stopped_by is StoppedBy.APPROVAL_REQUIRED
    assert made.look().stage.kind is StageKind.REHEARSE
    made.until_quiet()
    assert len(made.world.all_keys()) == 4


def test_a_store_that_ages_at_once_is_not_emptied():
    """The store's clock jumps: at most the share goes, then somebody is asked."""
    made = life(old=1, young=19)
    made.until_quiet()
    for key in made.world.all_keys():
        made.world.store.set_last_modified(key, made.world.time.now().replace(year=2001))

    steps = made.until_quiet()

    assert kinds(steps) == ["Enforce", "Rehearse", "ApprovalRequired"]
    assert len(made.world.all_keys()) == 10


def test_everything_may_go_where_the_policy_says_so():
    """100 percent is no limit, on an empty store as well."""
    made = life(old=5, young=0, safety={"maxDuePercent": 100})

    steps = made.until_quiet()

    assert "ApprovalRequired" not in kinds(steps)
    assert all(step.stage.max_due_objects is None for step in steps)
    assert made.world.all_keys() == []


def test_an_approval_bounds_nothing_where_there_is_no_limit():
    """The share was raised to 100 after the plan had been approved."""
    made = life(old=6, young=4)
    made.look()
    made.annotations[APPROVE] = made.status["planHash"]
    made.change(safety={"maxDuePercent": 100})

    step = made.look()

    assert (step.stage.kind, step.stage.max_due_objects) == (StageKind.ENFORCE, None)


@settings(max_examples=60, deadline=None)
@given(
    rounds=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 9)), max_size=4),
    percent=st.sampled_from([1, 20, 50, 99]),
    max_scan=st.integers(1, 40),
    max_delete=st.integers(1, 9),
)
def test_no_cycle_goes_beyond_its_share_unapproved(rounds, percent, max_scan, max_delete):
    """Whatever comes into a store and whatever the limits: a cycle ends by its share or by a question."""
    limits = {"maxScan": max_scan, "maxDelete": max_delete}
    made = life(old=1, young=6, limits=limits, safety={"maxDuePercent": percent})
    for old, young, when in rounds:
        for number in range(old):
            made.world.put(f"outputs/a/{when}-o{number}/o", 40)
        for number in range(young):
            made.world.put(f"outputs/a/{when}-y{number}/o", 2)
        at_start, deleted = 0, 0
        for step in made.until_quiet(2000):
            if step.report is None:
                seen = made.status["rehearsal"]
                assert is_over_share(seen["dueObjects"], seen["decidedObjects"], percent)
            elif step.stage.kind is StageKind.REHEARSE:
                assert step.report.deleted.objects == 0
                at_start = 0
            else:
                if not at_start:
                    at_start, deleted = step.stored, 0
                deleted += step.report.deleted.objects
                assert deleted * 100 <= percent * at_start
                if step.report.complete_cycle:
                    at_start = 0


@pytest.mark.parametrize(
    ("due_of", "percent", "over", "share", "shown"),
    [
        ((0, 0), 50, False, 0, 0),
        ((1, 1), 50, True, 0, 100),
        ((1, 2), 50, False, 1, 50),
        ((501, 1000), 50, True, 500, 51),
        ((10, 10), 100, False, None, 100),
        ((1, 1000), 1, False, 10, 1),
    ],
)
def test_shares(due_of, percent, over, share, shown):
    """One object over the share is over it, and the number for people shows it."""
    due, decided = due_of

    assert is_over_share(due, decided, percent) is over
    assert share_of(decided, percent) == share
    assert due_percent(due, decided) == shown
    if share is not None:
        assert is_over_share(share + 1, decided, percent)
        assert not is_over_share(share, decided, percent)


def test_a_share_of_less_than_nothing_is_nothing():
    """What a last cycle found due may be more than what it decided."""
    assert share_of(-3, 50) == 0


def test_a_plan_is_named_by_all_that_it_says():
    """Another number, another run, another fingerprint: another name."""
    tally = CycleTally(10, 2, 20, "a" * 64)
    others = [
        replace(tally, decided=11),
        replace(tally, due=3),
        replace(tally, due_bytes=21),
        replace(tally, digest="b" * 64),
    ]

    names = {plan_hash("f", tally), plan_hash("g", tally), *(plan_hash("f", other) for other in others)}

    assert len(names) == 6
    assert {len(name) for name in names} == {16}
    assert plan_hash("f", tally) == plan_hash("f", replace(tally))


# --- when ------------------------------------------------------------------------------------------


def test_the_pass_after_a_rehearsal_is_due_at_once_and_those_of_the_rehearsal_are_not():
    """The limits are a promise; that the first deletion waits for one more interval is none."""
    made = life(limits={"maxScan": 6})
    made.look()
    ended = made.policy.status.last_pass.finish_time
    midway = made.look(run=False).due
    made.wait()
    made.look()
    after = made.look(run=False).due

    assert (midway.reason, midway.at) == (DueReason.INTERVAL, ended + timedelta(minutes=2))
    assert (after.reason, after.at) == (DueReason.REHEARSED, made.world.time.now())
    made.look()
    assert made.look(run=False).due.reason is DueReason.INTERVAL


def test_an_approved_plan_is_due_at_once():
    """Nobody who approves wants to wait."""
    made = life(old=6, young=4)
    made.look()
    made.annotations[APPROVE] = made.status["planHash"]

    assert made.look(run=False).due.at == made.world.time.now()


# --- owners ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "owners", "expected"),
    [
        ("h", {"problemHash": "h", "problemToken": "t"}, "t"),
        ("h", {"problemHash": "h"}, ""),
        ("t", {"problemHash": "h", "problemToken": "t"}, ""),
        ("", {"problemHash": "h", "problemToken": "t"}, ""),
        ("h", {"problemToken": "t"}, ""),
        (None, {"problemToken": "t"}, ""),
        ("h", {}, ""),
    ],
)
def test_a_problem_with_owners_is_acknowledged_by_its_hash_alone(annotation, owners, expected):
    """What the operator calls it inside is no approval."""
    made = life()
    made.status = {"owners": owners} if owners else {}
    made.annotations = {} if annotation is None else {APPROVE: annotation}

    assert acknowledged_owners(made.policy) == expected


# --- namespaces ------------------------------------------------------------------------------------


def shared(*namespaces, **spec):
    """Make a cluster-wide policy over some namespaces with one old run and four young ones each."""
    made = Life(
        {"rules": RULES, "mode": "Enforce", "storageRef": {"name": "shared"}, **spec},
        namespaces=list(namespaces),
    )
    for namespace in namespaces:
        fill(made, 1, 4, namespace)
    return made


def old_runs(made):
    """Namespaces that still have their old run."""
    return sorted({key.split("/")[1] for key in made.world.all_keys() if "/old-" in key})


def test_a_cluster_policy_cleans_every_namespace_and_no_other():
    """A namespace that the config does not select is not looked at."""
    made = shared("a", "b")
    fill(made, 1, 4, "c")

    steps = made.until_quiet()

    assert old_runs(made) == ["c"]
    assert steps[-1].plan.spec.scopes == ("outputs/a/", "outputs/b/")
    assert made.status["rehearsal"]["decidedObjects"] == 10


def test_a_namespace_that_comes_is_rehearsed_before_anything_is_deleted_there():
    """Its data may be years old; the other namespaces wait for one dry cycle at most."""
    made = shared("a", "b", limits={"maxScan": 4})
    while made.look().stage.kind is not StageKind.ENFORCE:
        made.wait()
    made.namespaces.append("aa")
    fill(made, 1, 4, "aa")

    seen = []
    for _ in range(40):
        step = made.look()
        made.wait()
        seen.append(step.stage.kind)
        if step.stage.kind is StageKind.ENFORCE and "aa" in old_runs(made):
            assert ("outputs/aa/" in step.plan.spec.scopes) == (StageKind.REHEARSE in seen)

    assert seen[0] is StageKind.ENFORCE
    assert StageKind.REHEARSE in seen
    assert old_runs(made) == []


def test_a_cycle_that_deletes_is_ended_before_a_new_namespace_is_rehearsed():
    """What it has done so far is not thrown away."""
    made = shared("a", "b", limits={"maxScan": 4})
    made.until_quiet()
    made.wait()
    made.look()
    made.namespaces.append("c")

    steps = []
    while not steps or steps[-1].stage.kind is StageKind.ENFORCE:
        steps.append(made.look())
        made.wait()

    assert len(steps) > 1
    assert steps[-2].report.complete_cycle


def test_namespaces_that_come_all_the_time_stop_nothing():
    """Dry cycles and enforcing ones take turns; old data goes everywhere in the end."""
    made = shared("a")
    for number in range(12):
        name = f"n{number:02}"
        made.namespaces.append(name)
        fill(made, 1, 4, name)
        made.look()
        made.wait()

    made.until_quiet()
    made.until_quiet()

    assert old_runs(made) == []


def test_a_namespace_that_came_in_the_middle_of_a_dry_cycle_was_not_covered_by_it():
    """Its keys may lie before the cursor."""
    made = shared("b", "c", limits={"maxScan": 4})
    made.look()
    made.namespaces.append("a")
    fill(made, 1, 4, "a")
    while "rehearsal" not in made.status:
        made.look()
        made.wait()

    step = made.look()

    assert step.stage.kind is StageKind.ENFORCE
    assert step.stage.namespaces == ("b", "c")


def test_namespaces_that_go_change_nothing_for_the_others():
    """No rehearsal, and nothing of theirs is looked at."""
    made = shared("a", "b", "c")
    made.until_quiet()
    made.namespaces.remove("b")

    step = made.look()

    assert step.stage.kind is StageKind.ENFORCE
    assert step.plan.spec.scopes == ("outputs/a/", "outputs/c/")


def test_when_all_namespaces_are_others_the_dry_cycle_comes_first():
    """None of those that were rehearsed is left."""
    made = shared("a")
    made.until_quiet()
    made.namespaces[:] = ["z"]
    fill(made, 1, 4, "z")

    assert made.look().stage.kind is StageKind.REHEARSE


@given(st.sets(st.text("abc-", min_size=1, max_size=5), max_size=20), st.sets(st.text("abc-", max_size=5)))
def test_covered_namespaces_are_known_again(covered, asked):
    """A digest of a set tells its members from others, whatever the order."""
    digest = covers(covered)

    assert covers(sorted(covered, reverse=True)) == digest
    assert len(digest) == 6 * len(covered)
    assert set(covered_namespaces(asked, digest)) == covered & asked
