"""What the status of a retention policy says; pure functions from reports to JSON.

Totals are the sum at the start of the pass plus the pass's own count, written again at
every checkpoint: a controller that dies may leave them too low, never too high.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode
from bubu_operator.kube.conditions import ConditionStatus, format_time, set_condition
from bubu_operator.kube.resources import JsonObject, section
from bubu_operator.kube.scrub import Redactor, shorten
from bubu_operator.retention.cycle_status import (
    MAX_COUNT,
    cycle_cursor,
    is_backlog_growing,
    judge_cycle,
    parsed_samples,
)
from bubu_operator.retention.pass_start import PassStart
from bubu_operator.retention.plan import CURSOR_FIELDS
from bubu_storage.retention.reasons import Reason as Kept
from bubu_storage.retention.report import PassReport, StoppedBy, Tally

__all__ = [
    "PassStart",
    "Verdict",
    "conditions_with",
    "finished_status",
    "judge_report",
    "progress_status",
    "started_status",
]

MAX_MESSAGE_CHARACTERS: Final = 1000
MAX_SAMPLE_CHARACTERS: Final = 500

_FAILURES: Final = {
    StoppedBy.STORE_ERROR: Reason.PASS_FAILED,
    StoppedBy.BAD_LISTING: Reason.PASS_FAILED,
    StoppedBy.THROTTLED: Reason.PASS_FAILED,
    StoppedBy.OWNERS_UNKNOWN: Reason.OWNERS_UNKNOWN,
    StoppedBy.REFERENCES_UNREADABLE: Reason.REFERENCES_UNREADABLE,
    StoppedBy.CLAIM_LOST: Reason.STORE_CLAIMED,
    StoppedBy.APPROVAL_REQUIRED: Reason.APPROVAL_REQUIRED,
}
"""Ends of a pass that did not do what it should."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a pass went.

    Attributes:
        good: it did what it should.
        reason, message: for Reconciled.
    """

    good: bool
    reason: Reason
    message: str


def judge_report(report: PassReport) -> Verdict:
    """Say how a pass that came to its report went."""
    failed, due, deleted = report.failed.objects, report.due.objects, report.deleted.objects
    done = (
        f"{deleted} deleted"
        if report.mode.value == RetentionMode.ENFORCE.value
        else "nothing deleted (DryRun)"
    )
    text = f"{report.scanned} scanned, {due} due, {done}, {report.kept.objects} kept; {report.message}"
    if report.stopped_by is not None and (failure := _FAILURES.get(report.stopped_by)) is not None:
        return Verdict(False, failure, text)
    if failed:
        return Verdict(False, Reason.PASS_PARTIAL, f"{failed} could not be deleted; {text}")
    return Verdict(True, Reason.PASS_SUCCEEDED, text)


def conditions_with(
    old: JsonObject,
    entries: list[tuple[ConditionType, ConditionStatus | bool, Reason, str]],
    *,
    generation: int,
    now: datetime,
) -> list[JsonObject]:
    """Return a status's conditions with some of them set."""
    conditions: Any = old.get("conditions")
    for type_, status, reason, message in entries:
        conditions = set_condition(
            conditions, type_, status, reason=reason, message=message, generation=generation, now=now
        )
    return conditions


def started_status(old: JsonObject, start: PassStart) -> JsonObject:
    """Return the status at the start of a pass: whose it is, and nothing counted yet."""
    new: JsonObject = {
        **old,
        "observedGeneration": start.generation,
        "lastPass": {
            "startTime": start.start_time,
            "mode": start.mode.value,
            "observedGeneration": start.generation,
        },
    }
    if start.run_now is not None:
        new["lastRunNow"] = start.run_now
    if start.approved_plan is not None:
        new["approvedPlan"] = start.approved_plan
    return new


def progress_status(old: JsonObject, start: PassStart, report: PassReport, redactor: Redactor) -> JsonObject:
    """Return the status at a checkpoint: counts so far, cursor, totals."""
    cursor: JsonObject = {**report.cursor.to_dict(), **cycle_cursor(start, report)}
    if run := section(cursor, "run"):
        # A merge patch cannot write null; absent reads back as null.
        cursor["run"] = {key: value for key, value in run.items() if value is not None}
    return {
        **old,
        "lastPass": _bounded(_last_pass(start, report, redactor)),
        CURSOR_FIELDS[start.mode]: _bounded(cursor),
        "totals": {
            **section(old, "totals"),
            "passes": start.passes,
            "deletedObjects": min(MAX_COUNT, start.deleted_objects + report.deleted.objects),
            "deletedBytes": min(MAX_COUNT, start.deleted_bytes + report.deleted.size_bytes),
        },
    }


def finished_status(
    old: JsonObject,
    start: PassStart,
    report: PassReport | None,
    verdict: Verdict,
    *,
    now: datetime,
    interval_seconds: int,
    redactor: Redactor,
    missing: str = "",
) -> JsonObject:
    """Return the status after a pass; ``verdict.message`` and ``missing`` must be scrubbed already.

    ``missing`` says what the pass left undone because a neighbour's owners are unknown.

    Without a report (the process died) counts, cursor and totals stay those of the last
    checkpoint.
    """
    new = dict(old) if report is None else progress_status(old, start, report, redactor)
    last = dict(section(new, "lastPass"))
    last["finishTime"] = format_time(now)
    last["message"] = verdict.message
    if report is None:
        # A store that somebody else has is the one end that is known without a report.
        claimed = verdict.reason is Reason.STORE_CLAIMED
        last["stoppedBy"] = verdict.reason.value if claimed else Reason.PASS_FAILED.value
    new["lastPass"] = last
    totals = {
        "deletedObjects": 0,
        "deletedBytes": 0,
        **section(new, "totals"),
        "passes": min(MAX_COUNT, start.passes + 1),
    }
    new["totals"] = totals
    new["nextPassTime"] = format_time(now + timedelta(seconds=interval_seconds))
    overdue_seconds = None if report is None else report.oldest_overdue_seconds
    # A pass that broke off before it saw anything overdue does not know that nothing is.
    if overdue_seconds is not None or (report is not None and verdict.good):
        for field in ("oldestOverdueSeconds", "oldestOverdueSince"):
            new.pop(field, None)
    if overdue_seconds is not None:
        new["oldestOverdueSeconds"] = max(0, round(overdue_seconds))
        new["oldestOverdueSince"] = format_time(now - timedelta(seconds=overdue_seconds))
    if report is not None:
        new = judge_cycle(new, start, report, now=now, interval_seconds=interval_seconds)
    degraded = _degraded(new, start, report, verdict, interval_seconds)
    if missing and (degraded is None or degraded[0] is not Reason.PASS_PARTIAL):
        degraded = Reason.OWNERS_UNKNOWN, missing
    reason, message = degraded or (Reason.AS_EXPECTED, "nothing is missing")
    new["conditions"] = conditions_with(
        old,
        [
            (ConditionType.RECONCILED, verdict.good, verdict.reason, verdict.message),
            (ConditionType.DEGRADED, degraded is not None, reason, message),
        ],
        generation=start.generation,
        now=now,
    )
    return new


def _degraded(
    status: JsonObject,
    start: PassStart,
    report: PassReport | None,
    verdict: Verdict,
    interval_seconds: int,
) -> tuple[Reason, str] | None:
    """Return what is missing although passes run; the first of several."""
    if verdict.reason is Reason.PASS_PARTIAL:
        return Reason.PASS_PARTIAL, verdict.message
    if report is None:
        return None
    kept = report.by_reason.get(Kept.KEPT_SHARED_STORE)
    if kept is not None:
        message = (
            f"{kept.objects} objects of runs without an owner are kept: other clusters use this store, and "
            "may own them; see status.sharedWith"
        )
        return Reason.SHARED_STORE, message
    samples = parsed_samples(status.get("recentCycles"))
    a_pass = interval_seconds + max(0.0, report.duration_seconds)
    if is_backlog_growing(samples, max_delete=start.max_delete, seconds_a_pass=a_pass):
        message = (
            f"the last cycle found {samples[-1].due_objects} objects due, after {samples[-2].due_objects} in "
            f"the one before, and limits.maxDelete of {start.max_delete} every {round(a_pass)} s cannot keep "
            "up: raise it, or shorten interval"
        )
        return Reason.BACKLOG_GROWING, message
    return None


def _last_pass(start: PassStart, report: PassReport, redactor: Redactor) -> JsonObject:
    last: JsonObject = {
        "startTime": start.start_time,
        "mode": start.mode.value,
        "observedGeneration": start.generation,
        "scanned": report.scanned,
        "byReason": {reason.value: _count(tally) for reason, tally in report.by_reason.items()},
        "completeCycle": report.complete_cycle,
        "kept": report.kept.objects,
        "keptBytes": report.kept.size_bytes,
        "due": report.due.objects,
        "dueBytes": report.due.size_bytes,
        "deleted": report.deleted.objects,
        "deletedBytes": report.deleted.size_bytes,
        "failed": report.failed.objects,
        "requests": report.requests,
        "relisted": report.relisted,
        "durationSeconds": max(0, round(report.duration_seconds)),
    }
    if report.stopped_by is not None:
        last["stoppedBy"] = report.stopped_by.value
    if report.message:
        last["message"] = shorten(redactor.scrub(report.message), MAX_MESSAGE_CHARACTERS)
    samples = [
        shorten(redactor.scrub(f"{sample.key}: {sample.error}: {sample.message}"), MAX_SAMPLE_CHARACTERS)
        for sample in report.errors
    ]
    if samples:
        last["errorSamples"] = samples
    return last


def _count(tally: Tally) -> JsonObject:
    return {"objects": tally.objects, "bytes": tally.size_bytes}


def _bounded(value: Any) -> Any:
    """Keep counts within what the API server takes: whoever answers for a store may say anything."""
    if isinstance(value, dict):
        return {key: _bounded(item) for key, item in cast("JsonObject", value).items()}
    return min(MAX_COUNT, value) if type(value) is int else value
