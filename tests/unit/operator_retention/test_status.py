"""What the status of a policy says about its passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.api.reference import render_reference
from bubu_operator.api.v1alpha1.conditions import EventReason, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode, RetentionPolicyStatus
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.scrub import Redactor
from bubu_operator.retention.status import (
    PassStart,
    Verdict,
    finished_status,
    judge_report,
    progress_status,
    started_status,
)
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.reasons import Reason as Decided
from bubu_storage.retention.report import ErrorSample, Mode, PassReport, StoppedBy, Tally
from bubu_storage.retention.rules import RunFacts

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def start(mode=RetentionMode.ENFORCE, **fields):
    """Make the start of a pass of a policy that has deleted 100 objects before."""
    defaults = {
        "started": NOW,
        "mode": mode,
        "generation": 4,
        "fingerprint": "f",
        "passes": 9,
        "deleted_objects": 100,
        "deleted_bytes": 1000,
        "run_now": None,
    }
    return PassStart(**(defaults | fields))


def report(**fields):
    """Make a report: 7 deleted, 2 kept, 1 failed unless told otherwise."""
    defaults = {
        "mode": Mode.ENFORCE,
        "started_at": NOW,
        "scanned": 10,
        "by_reason": {Decided.DELETED: Tally(7, 70), Decided.KEPT_WITHIN: Tally(2, 20)},
        "cursor": Cursor(after="outputs/team-a/r/k"),
        "stopped_by": StoppedBy.MAX_SCAN,
        "message": "m",
    }
    return PassReport(**(defaults | fields))


def finish(old, made, verdict=None, begun=None):
    """Finish a pass."""
    return finished_status(
        old,
        begun or start(),
        made,
        verdict or Verdict(True, Reason.PASS_SUCCEEDED, "fine"),
        now=NOW + timedelta(seconds=3),
        interval_seconds=120,
        redactor=Redactor(),
    )


def test_a_start_wipes_the_last_pass_and_keeps_cursors_and_totals():
    """What the next controller needs survives; whose pass it is shows at once."""
    old = {"cursor": {"after": "x"}, "totals": {"passes": 9}, "lastPass": {"scanned": 5, "deleted": 5}}

    status = started_status(old, start(run_now="v"))

    assert status["lastPass"] == {
        "startTime": "2026-01-02T03:04:05Z",
        "mode": "Enforce",
        "observedGeneration": 4,
    }
    assert (status["cursor"], status["totals"], status["lastRunNow"]) == (
        old["cursor"],
        old["totals"],
        "v",
    )


def test_totals_are_base_plus_pass_however_often_written():
    """Writing a checkpoint twice counts nothing twice."""
    once = progress_status({}, start(), report(), Redactor())
    twice = progress_status(once, start(), report(), Redactor())

    assert once == twice
    assert once["totals"] == {"passes": 9, "deletedObjects": 107, "deletedBytes": 1070}


def test_sizes_beyond_all_measure_can_be_written():
    """Whoever answers for the store may say anything; the API server takes 64 bits, and refuses the rest."""
    huge = Tally(2, 2 << 62)
    facts = RunFacts(
        "outputs/team-a/r/", 2, size_bytes=2 << 62, newest=NOW, undated=0, reserved=0, complete=False
    )
    cursor = Cursor("outputs/team-a/r/k", RunProgress(facts, Phase.SCANNING, "outputs/team-a/r/k"))

    status = progress_status(
        {}, start(), report(by_reason={Decided.DELETED: huge}, cursor=cursor), Redactor()
    )

    assert status["lastPass"]["deletedBytes"] == status["cursor"]["run"]["bytes"] == 1 << 53
    assert status["lastPass"]["byReason"][Decided.DELETED.value] == {"objects": 2, "bytes": 1 << 53}
    assert status["lastPass"]["completeCycle"] is False


@pytest.mark.parametrize(
    ("mode", "field", "other"),
    [(RetentionMode.ENFORCE, "cursor", "dryRunCursor"), (RetentionMode.DRY_RUN, "dryRunCursor", "cursor")],
)
def test_each_mode_moves_its_own_cursor(mode, field, other):
    """A rehearsal does not move the real cursor, nor the other way round."""
    status = progress_status({other: {"after": "stays"}}, start(mode), report(), Redactor())

    assert status[field] == {"after": "outputs/team-a/r/k", "fingerprint": "f"}
    assert status[other] == {"after": "stays"}


def test_a_finished_status_fits_the_model():
    """Every field that is written is declared in the CRD."""
    status = finish({}, report(oldest_overdue_seconds=90.4))

    parsed = RetentionPolicyStatus.model_validate(status)
    assert parsed.to_api().keys() == status.keys()
    assert parsed.last_pass.by_reason["Deleted"].objects == 7
    assert (parsed.totals.passes, parsed.oldest_overdue_seconds) == (10, 90)
    assert parsed.next_pass_time == NOW + timedelta(seconds=123)


def test_overdue_fields_go_when_nothing_is_overdue():
    """The column must not show what is long gone."""
    old = finish({}, report(oldest_overdue_seconds=90.0))

    status = finish(old, report())

    assert "oldestOverdueSeconds" not in status
    assert "oldestOverdueSince" not in status


@pytest.mark.parametrize("made", [None, report(scanned=0, stopped_by=StoppedBy.STORE_ERROR)])
def test_what_was_overdue_stays_when_a_pass_breaks_off(made):
    """It saw nothing, so it does not know that nothing is; an alert on the lag must not end by it."""
    old = finish({}, report(oldest_overdue_seconds=90.0))

    status = finish(old, made, Verdict(False, Reason.PASS_FAILED, "the store does not answer"))

    assert (status["oldestOverdueSeconds"], status["oldestOverdueSince"]) == (
        old["oldestOverdueSeconds"],
        old["oldestOverdueSince"],
    )


def test_a_pass_that_died_keeps_its_last_checkpoint():
    """Counts, cursor and totals are those that were written; only the end is added."""
    old = progress_status({}, start(), report(stopped_by=None), Redactor())

    status = finish(old, None, Verdict(False, Reason.PASS_FAILED, "killed"))

    assert status["cursor"] == old["cursor"]
    assert status["totals"] == old["totals"] | {"passes": 10}
    assert status["lastPass"]["deleted"] == 7
    assert status["lastPass"]["finishTime"] == "2026-01-02T03:04:08Z"
    assert find_condition(status["conditions"], "Reconciled")["reason"] == "PassFailed"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (report(), Reason.PASS_SUCCEEDED),
        (report(stopped_by=StoppedBy.END_OF_CYCLE), Reason.PASS_SUCCEEDED),
        (report(stopped_by=StoppedBy.STOPPED), Reason.PASS_SUCCEEDED),
        (report(by_reason={Decided.DELETE_FAILED: Tally(1, 1)}), Reason.PASS_PARTIAL),
        (report(stopped_by=StoppedBy.STORE_ERROR), Reason.PASS_FAILED),
        (report(stopped_by=StoppedBy.BAD_LISTING), Reason.PASS_FAILED),
        (report(stopped_by=StoppedBy.THROTTLED), Reason.PASS_FAILED),
    ],
)
def test_how_a_pass_went(made, reason):
    """Limits are no failure; a store that fails is."""
    verdict = judge_report(made)

    assert verdict.reason is reason
    assert verdict.good is (reason is Reason.PASS_SUCCEEDED)


def test_secrets_of_the_store_stay_out_of_samples_and_messages():
    """Error texts of a store may quote what was sent."""
    redactor = Redactor()
    redactor.add(["planted-secret"])
    made = report(
        message="signed with planted-secret",
        errors=(ErrorSample("k", "StorageError", "https://h/b?X-Amz-Signature=deadbeef planted-secret"),),
    )

    status = progress_status({}, start(), made, redactor)

    assert "planted" not in str(status)
    assert "deadbeef" not in str(status)
    assert len(status["lastPass"]["errorSamples"]) == 1


def test_every_reason_of_a_pass_and_an_event_is_in_the_reference():
    """Each word that a status or an event can hold has a line with its meaning."""
    page = render_reference()["conditions.md"]

    for words in (Reason, EventReason, Decided, StoppedBy):
        for word in words:
            lines = [line for line in page.splitlines() if line.startswith(f"| `{word.value}` | ")]
            assert lines, f"{word.value} is not documented"
            assert all(len(line.split("|")[2].strip()) >= len("Deleted.") for line in lines)


@pytest.mark.parametrize(
    ("made", "stopped_by"),
    [(None, "StoreClaimed"), (report(stopped_by=StoppedBy.CLAIM_LOST), "ClaimLost")],
)
def test_a_pass_whose_store_somebody_else_has(made, stopped_by):
    """Refused at the claim or while it held it: the status says which, and both are StoreClaimed."""
    verdict = Verdict(False, Reason.STORE_CLAIMED, "claimed by cluster-b")
    status = finish(started_status({}, start()), made, verdict if made is None else judge_report(made))

    assert status["lastPass"]["stoppedBy"] == stopped_by
    assert find_condition(status["conditions"], "Reconciled")["reason"] == "StoreClaimed"


def test_what_a_pass_left_undone_for_a_neighbours_sake_is_said():
    """It is no failure of the pass; objects that could not be deleted are more urgent."""
    options = {"now": NOW, "interval_seconds": 120, "redactor": Redactor(), "missing": "kept for team-a"}
    good, bad = Verdict(True, Reason.PASS_SUCCEEDED, "fine"), Verdict(False, Reason.PASS_PARTIAL, "1 failed")

    status = finished_status({}, start(), report(), good, **options)
    degraded = find_condition(status["conditions"], "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "OwnersUnknown")
    assert degraded["message"] == "kept for team-a"
    assert find_condition(status["conditions"], "Reconciled")["status"] == "True"

    status = finished_status({}, start(), report(), bad, **options)
    assert find_condition(status["conditions"], "Degraded")["reason"] == "PassPartial"
