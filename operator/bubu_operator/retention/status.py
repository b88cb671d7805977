"""What the status of a retention policy says; pure functions from reports to JSON.

Totals are the sum at the start of the pass plus the pass's own count, written again at
every checkpoint: a controller that dies may leave them too low, never too high.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode
from bubu_operator.kube.conditions import ConditionStatus, format_time, set_condition
from bubu_operator.kube.resources import JsonObject, section
from bubu_operator.kube.scrub import Redactor, shorten
from bubu_operator.retention.plan import CURSOR_FIELDS
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
MAX_TOTAL: Final = 1 << 53
"""Beyond this a sum stands still: the API's numbers end, and a status that is refused is never written."""


_FAILURES: Final = frozenset({StoppedBy.STORE_ERROR, StoppedBy.BAD_LISTING, StoppedBy.THROTTLED})


@dataclass(frozen=True, slots=True)
class PassStart:
    """What is known when a pass starts and holds until it ends.

    Attributes:
        started: wall clock.
        mode: of this pass.
        generation: of the spec that it follows.
        fingerprint: kept with the cursor, see `plan.PassPlan`.
        passes, deleted_objects, deleted_bytes: totals before this pass.
        run_now: value of the annotation that it acts on.
    """

    started: datetime
    mode: RetentionMode
    generation: int
    fingerprint: str
    passes: int
    deleted_objects: int
    deleted_bytes: int
    run_now: str | None

    @property
    def start_time(self) -> str:
        """As it is in the status; tells whose pass ``lastPass`` is."""
        return format_time(self.started)


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
    if report.stopped_by in _FAILURES:
        return Verdict(False, Reason.PASS_FAILED, text)
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
    return new


def progress_status(old: JsonObject, start: PassStart, report: PassReport, redactor: Redactor) -> JsonObject:
    """Return the status at a checkpoint: counts so far, cursor, totals."""
    cursor: JsonObject = {**report.cursor.to_dict(), "fingerprint": start.fingerprint}
    if run := section(cursor, "run"):
        # A merge patch cannot write null; absent reads back as null.
        cursor["run"] = {key: value for key, value in run.items() if value is not None}
    return {
        **old,
        "lastPass": _last_pass(start, report, redactor),
        CURSOR_FIELDS[start.mode]: cursor,
        "totals": {
            **section(old, "totals"),
            "passes": start.passes,
            "deletedObjects": min(MAX_TOTAL, start.deleted_objects + report.deleted.objects),
            "deletedBytes": min(MAX_TOTAL, start.deleted_bytes + report.deleted.size_bytes),
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
) -> JsonObject:
    """Return the status after a pass; ``verdict.message`` must be scrubbed already.

    Without a report (the process died) counts, cursor and totals stay those of the last
    checkpoint.
    """
    new = dict(old) if report is None else progress_status(old, start, report, redactor)
    last = dict(section(new, "lastPass"))
    last["finishTime"] = format_time(now)
    last["message"] = verdict.message
    if report is None:
        last["stoppedBy"] = Reason.PASS_FAILED.value
    new["lastPass"] = last
    totals = {
        "deletedObjects": 0,
        "deletedBytes": 0,
        **section(new, "totals"),
        "passes": min(MAX_TOTAL, start.passes + 1),
    }
    new["totals"] = totals
    new["nextPassTime"] = format_time(now + timedelta(seconds=interval_seconds))
    for field in ("oldestOverdueSeconds", "oldestOverdueSince"):
        new.pop(field, None)
    if report is not None and report.oldest_overdue_seconds is not None:
        new["oldestOverdueSeconds"] = max(0, round(report.oldest_overdue_seconds))
        new["oldestOverdueSince"] = format_time(now - timedelta(seconds=report.oldest_overdue_seconds))
    degraded = verdict.reason is Reason.PASS_PARTIAL
    new["conditions"] = conditions_with(
        old,
        [
            (ConditionType.RECONCILED, verdict.good, verdict.reason, verdict.message),
            (
                ConditionType.DEGRADED,
                degraded,
                Reason.PASS_PARTIAL if degraded else Reason.AS_EXPECTED,
                verdict.message if degraded else "nothing is missing",
            ),
        ],
        generation=start.generation,
        now=now,
    )
    return new


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
