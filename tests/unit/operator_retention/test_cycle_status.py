"""What the end of a pass tells about its cycle: summaries, estimates, a growing backlog, owners."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_facts import MAX_RECENT_CYCLES, CycleSample, OwnersStatus
from bubu_operator.api.v1alpha1.retention_owners import ENDED_PHASES
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode
from bubu_operator.api.v1alpha1.retention_status import RetentionPolicyStatus
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.scrub import Redactor
from bubu_operator.owners import kinds
from bubu_operator.owners.census import NO_CENSUS, Anomaly, Census, OwnersProblem
from bubu_operator.retention.cycle_status import is_backlog_growing, parsed_samples
from bubu_operator.retention.owners_status import census_of, owners_status
from bubu_operator.retention.pass_start import PassStart
from bubu_operator.retention.status import finished_status, judge_report, progress_status
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import Reason as Decided
from bubu_storage.retention.report import Mode, PassReport, StoppedBy, Tally
from bubu_storage.retention.tally import CycleTally

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BEGUN = "2026-01-02T02:04:05Z"
TALLY = CycleTally(1000, 100, 5000, "a" * 64)


def start(mode=RetentionMode.ENFORCE, **fields):
    """Make the start of a pass in a cycle that began an hour ago."""
    defaults = {
        "started": NOW - timedelta(seconds=3),
        "mode": mode,
        "generation": 4,
        "fingerprint": "f",
        "passes": 9,
        "deleted_objects": 100,
        "deleted_bytes": 1000,
        "run_now": None,
        "max_scan": 200,
        "max_delete": 50,
        "cycle_start": BEGUN,
    }
    return PassStart(**(defaults | fields))


def report(*, complete=True, mode=Mode.ENFORCE, **fields):
    """Make the report of a pass that ended a cycle, or not."""
    defaults = {
        "mode": mode,
        "started_at": NOW,
        "duration_seconds": 3.0,
        "scanned": 120,
        "relisted": 20,
        "requests": 7,
        "cycle": TALLY,
        "complete_cycle": complete,
        "cursor": Cursor() if complete else Cursor("outputs/a/k", cycle=TALLY),
        "stopped_by": StoppedBy.END_OF_CYCLE if complete else StoppedBy.MAX_SCAN,
    }
    return PassReport(**(defaults | fields))


def finish(old, made, begun=None, *, interval_seconds=120):
    """Finish a pass."""
    return finished_status(
        old,
        begun or start(RetentionMode(made.mode.value)),
        made,
        judge_report(made),
        now=NOW,
        interval_seconds=interval_seconds,
        redactor=Redactor(),
    )


def degraded(status):
    """The reason of Degraded, and whether it is."""
    condition = find_condition(status["conditions"], "Degraded")
    return condition["reason"], condition["status"] == "True"


# --- cycles ----------------------------------------------------------------------------------------


def test_a_dry_cycle_is_summed_up_and_the_enforcing_one_begins_anew():
    """Its tally would be of another time; what the last one found is no measure any more."""
    old = {"cursor": {"after": "x", "fingerprint": "f"}, "cycle": {"fingerprint": "f"}}

    status = finish(old, report(mode=Mode.DRY_RUN))

    summary = status["rehearsal"]
    assert summary == {
        "fingerprint": "f",
        "startTime": BEGUN,
        "completeTime": "2026-01-02T03:04:05Z",
        "decidedObjects": 1000,
        "dueObjects": 100,
        "dueBytes": 5000,
        "duePercent": 10,
        "planHash": summary["planHash"],
    }
    assert status["planHash"] == summary["planHash"]
    assert "cursor" not in status
    assert "cycle" not in status
    assert status["dryRunCursor"] == {"after": "", "fingerprint": "f"}


def test_an_enforcing_cycle_is_summed_up_beside_the_rehearsal():
    """The proof that a dry cycle came first stays."""
    old = {"rehearsal": {"fingerprint": "f", "planHash": "p"}, "planHash": "p"}

    status = finish(old, report())

    assert status["rehearsal"] == old["rehearsal"]
    assert status["planHash"] == "p"
    assert (status["cycle"]["decidedObjects"], status["cycle"]["dueObjects"]) == (1000, 100)
    assert status["recentCycles"] == [
        {
            "completeTime": "2026-01-02T03:04:05Z",
            "seconds": 3600,
            "decidedObjects": 1000,
            "dueObjects": 100,
        }
    ]


def test_a_cycle_keeps_its_beginning_in_the_cursor():
    """Through checkpoints and passes, until it ends."""
    status = progress_status({}, start(covered="abcdef"), report(complete=False), Redactor())

    assert status["cursor"] == {
        "after": "outputs/a/k",
        "fingerprint": "f",
        "cycleStartTime": BEGUN,
        "covered": "abcdef",
        "cycle": TALLY.to_dict(),
    }
    parsed = RetentionPolicyStatus.model_validate(status)
    assert parsed.to_api()["cursor"] == status["cursor"]


def test_a_checkpoint_that_ends_the_cycle_loses_nothing_of_its_summary():
    """The last checkpoint has emptied the cursor before the pass is finished."""
    begun = start(RetentionMode.DRY_RUN, covered="abcdef")
    made = report(mode=Mode.DRY_RUN)

    status = finish(progress_status({}, begun, made, Redactor()), made, begun)

    assert (status["rehearsal"]["startTime"], status["rehearsal"]["covered"]) == (BEGUN, "abcdef")


def test_a_cycle_without_a_known_beginning_is_not_summed_up():
    """Half a tally would look like a small store."""
    status = finish({}, report(), start(cycle_start=""))

    assert not {"rehearsal", "cycle", "recentCycles"} & status.keys()


def test_a_cycle_beyond_its_share_needs_a_new_rehearsal():
    """What was due is out of date; the cursor's tally would stop the next pass at once."""
    old = {
        "rehearsal": {"fingerprint": "f"},
        "cycle": {"fingerprint": "f"},
        "planHash": "p",
        "cursor": {"after": "x"},
        "dryRunCursor": {"after": ""},
    }

    status = finish(old, report(complete=False, stopped_by=StoppedBy.APPROVAL_REQUIRED))

    assert not {"rehearsal", "cycle", "planHash", "cursor"} & status.keys()
    assert status["dryRunCursor"] == {"after": ""}
    assert find_condition(status["conditions"], "Reconciled")["reason"] == "ApprovalRequired"


@pytest.mark.parametrize(
    ("stopped_by", "reason"),
    [
        (StoppedBy.OWNERS_UNKNOWN, Reason.OWNERS_UNKNOWN),
        (StoppedBy.REFERENCES_UNREADABLE, Reason.REFERENCES_UNREADABLE),
        (StoppedBy.CLAIM_LOST, Reason.STORE_CLAIMED),
        (StoppedBy.APPROVAL_REQUIRED, Reason.APPROVAL_REQUIRED),
    ],
)
def test_ends_that_protect_are_told_apart(stopped_by, reason):
    """Each has the word that its cause has everywhere else."""
    verdict = judge_report(report(complete=False, stopped_by=stopped_by))

    assert (verdict.good, verdict.reason) == (False, reason)


def test_what_a_pass_took_is_in_the_status():
    """Requests, re-listings and seconds, for people who pay for them."""
    last = finish({}, report())["lastPass"]

    assert (last["requests"], last["relisted"], last["durationSeconds"]) == (7, 20, 3)


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.DRY_RUN])
def test_orphans_are_those_of_a_whole_cycle(mode):
    """A pass that saw a part of it changes nothing; not more than an API number can be."""
    whole = report(mode=mode, cycle=replace(TALLY, orphans=1 << 60, orphan_bytes=12), orphans=Tally(1, 1))
    status = finish({}, whole)
    assert status["orphans"] == {"objects": 1 << 53, "bytes": 12}

    part = finish(status, report(mode=mode, complete=False, orphans=Tally(3, 4)))
    assert part["orphans"] == status["orphans"]
    assert "orphans" not in finish({}, report(mode=mode, complete=False, orphans=Tally(3, 4)))

    assert finish(status, report(mode=mode))["orphans"] == {"objects": 0, "bytes": 0}


@pytest.mark.parametrize(
    ("made", "seconds"),
    [
        # 1,000 objects, 100 of them a pass of 3 s: ten passes with nine waits.
        (report(complete=False), 10 * 3 + 9 * 120),
        # A pass that came to the end says nothing about how much fits into one: the limit does.
        (report(), 5 * 3 + 4 * 120),
        (report(scanned=0, relisted=0, stopped_by=StoppedBy.STORE_ERROR, complete=False), 5 * 3 + 4 * 120),
        (report(scanned=9, relisted=9, stopped_by=StoppedBy.BUDGET_SECONDS, complete=False), 5 * 3 + 4 * 120),
    ],
)
def test_how_long_a_cycle_takes(made, seconds):
    """By the size of the last whole cycle and the pace of the last pass."""
    status = finish({"cycle": {"decidedObjects": 1000}}, made)

    assert status["estimatedCycleSeconds"] == seconds


def test_how_long_the_first_cycle_takes_is_not_known():
    """Nobody has counted the store yet; what was said of another is taken back."""
    assert "estimatedCycleSeconds" not in finish({"estimatedCycleSeconds": 9}, report(complete=False))


def test_a_clock_that_was_set_back_makes_no_cycle_shorter_than_nothing():
    """The API takes no negative number, and a status that is refused is never written."""
    status = finish({}, report(), start(cycle_start="2027-01-01T00:00:00Z"))

    assert status["recentCycles"][0]["seconds"] == 0


def test_only_the_last_cycles_are_remembered():
    """A status does not grow."""
    status = {}
    for _ in range(MAX_RECENT_CYCLES + 3):
        status = finish(status, report())

    assert len(status["recentCycles"]) == MAX_RECENT_CYCLES


def test_cycles_by_other_rules_are_nothing_to_compare_with():
    """A rehearsal of the same rules keeps them, one of others does not."""
    old = {"rehearsal": {"fingerprint": "f"}, "recentCycles": [{"dueObjects": 1}]}

    assert "recentCycles" in finish(old, report(mode=Mode.DRY_RUN))
    assert "recentCycles" not in finish(
        old, report(mode=Mode.DRY_RUN), start(RetentionMode.DRY_RUN, fingerprint="g")
    )


# --- degraded ----------------------------------------------------------------------------------------


def samples(*due, seconds=1200):
    """Make cycles that found so much due."""
    return tuple(CycleSample(seconds=seconds, due_objects=objects) for objects in due)


@pytest.mark.parametrize(
    ("due", "growing"),
    [
        # 50 every 120 s: 500 in the 1,200 s that a cycle takes.
        ((100, 200, 400, 600), True),
        ((100, 200, 400, 500), False),
        ((600, 700, 800), False),
        ((100, 200, 200, 600), False),
        ((900, 800, 700, 600), False),
        ((9, 1, 550, 560, 570), True),
        ((), False),
    ],
)
def test_a_backlog_grows_when_every_cycle_finds_more_than_the_limits_let_go(due, growing):
    """Three times in a row more than before, and at last more than can be deleted meanwhile."""
    assert is_backlog_growing(samples(*due), max_delete=50, seconds_a_pass=120) is growing


def test_a_growing_backlog_degrades_a_policy():
    """With the numbers, and what to raise."""
    old = {
        "recentCycles": [{"seconds": 1200, "dueObjects": due, "completeTime": BEGUN} for due in (10, 20, 30)]
    }

    status = finish(old, report(cycle=CycleTally(5000, 900, 1, "a" * 64)))

    condition = find_condition(status["conditions"], "Degraded")
    assert degraded(status) == ("BacklogGrowing", True)
    assert "limits.maxDelete of 50 every 123 s" in condition["message"]
    assert degraded(finish(old, report(cycle=CycleTally(5000, 29, 1, "a" * 64)))) == ("AsExpected", False)


@pytest.mark.parametrize("garbage", [7, ["x"], [{"seconds": -1}], None])
def test_cycles_that_were_edited_into_garbage_count_for_nothing(garbage):
    """And stop no pass."""
    assert parsed_samples(garbage) == ()
    assert len(finish({"recentCycles": garbage}, report())["recentCycles"]) >= 1


@pytest.mark.parametrize(
    ("by_reason", "expected"),
    [
        ({}, ("AsExpected", False)),
        ({Decided.KEPT_SHARED_STORE: Tally(3, 3)}, ("SharedStore", True)),
        ({Decided.KEPT_SHARED_STORE: Tally(3, 3), Decided.DELETE_FAILED: Tally(1, 1)}, ("PassPartial", True)),
        ({Decided.KEPT_ORPHAN: Tally(3, 3)}, ("AsExpected", False)),
    ],
)
def test_what_degrades_a_policy(by_reason, expected):
    """One reason at a time, the worst."""
    assert degraded(finish({}, report(by_reason=by_reason))) == expected


# --- owners ----------------------------------------------------------------------------------------

CENSUS = Census(live=3, existing=9, kinds=frozenset({"b.v1.g", "a.v1.g"}))
ODD = Anomaly(OwnersProblem.LIVE_DROPPED, "gone", "token")


def test_a_list_that_is_believed_is_remembered():
    """And compared with the next as it was."""
    status = owners_status({"problem": "old", "problemHash": "h"}, CENSUS, None, now=NOW)

    assert status == {
        "observedTime": "2026-01-02T03:04:05Z",
        "live": 3,
        "existing": 9,
        "kinds": ["a.v1.g", "b.v1.g"],
    }
    assert census_of(OwnersStatus.model_validate(status)) == CENSUS


def test_a_list_that_is_not_believed_leaves_the_last_one_and_says_why():
    """The same finding keeps its hash, however often it is made."""
    before = owners_status({}, CENSUS, None, now=NOW)

    first = owners_status(before, CENSUS, ODD, now=NOW)
    again = owners_status(first, CENSUS, ODD, now=NOW + timedelta(hours=1))

    assert first == again
    assert census_of(OwnersStatus.model_validate(first)) == CENSUS
    assert (first["problem"], first["reason"], first["problemToken"]) == ("gone", "LiveCountDropped", "token")


def test_an_acknowledgement_is_of_one_occurrence():
    """The same problem, when it comes again, has another hash: the old annotation does not release it."""
    first = owners_status(owners_status({}, CENSUS, None, now=NOW), CENSUS, ODD, now=NOW)
    later = owners_status({}, CENSUS, None, now=NOW + timedelta(days=1))

    assert owners_status(later, CENSUS, ODD, now=NOW)["problemHash"] != first["problemHash"]


def test_owners_that_were_never_listed():
    """Nothing is known, nothing is invented."""
    assert census_of(None) == NO_CENSUS
    assert owners_status({}, None, None, now=NOW) == {}


def test_reasons_of_problems_with_owners_are_reasons_of_conditions():
    """One word for one thing; and the phases that end a run are the same everywhere."""
    assert {problem.value for problem in OwnersProblem} <= {reason.value for reason in Reason}
    assert set(ENDED_PHASES) == kinds.ENDED_PHASES
