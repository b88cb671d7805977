"""What a finished pass tells about its whole cycle, as the status keeps it; pure.

Invariants: only a cycle that was followed from its beginning to its end is remembered; a dry
cycle that ends makes the enforcing one begin anew, so that its tally is of one cycle; what is
kept of cycles is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, cast

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.retention_facts import MAX_RECENT_CYCLES, CycleSample, CycleSummary
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.resources import JsonObject, section
from bubu_operator.retention.cycle import due_percent, plan_hash
from bubu_operator.retention.pass_start import PassStart
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.tally import CycleTally

__all__ = [
    "MAX_COUNT",
    "cycle_cursor",
    "estimated_cycle_seconds",
    "is_backlog_growing",
    "judge_cycle",
    "parsed_samples",
]

MAX_COUNT: Final = 1 << 53
"""Beyond this a sum stands still: the API's numbers end, and a status that is refused is never written."""

GROWTHS: Final = 3
"""So many cycles in a row must have found more due than the one before."""

_LIMITED: Final = frozenset({StoppedBy.MAX_SCAN, StoppedBy.MAX_DELETE, StoppedBy.BUDGET_SECONDS})


def cycle_cursor(start: PassStart, report: PassReport) -> JsonObject:
    """Return what a cursor in a status holds beside the engine's own fields.

    Args:
        start: of the pass.
        report: of the pass, or of a checkpoint.
    """
    extra: JsonObject = {"fingerprint": start.fingerprint}
    if report.cursor.is_start:
        return extra
    if start.cycle_start:
        extra["cycleStartTime"] = start.cycle_start
    if start.covered:
        extra["covered"] = start.covered
    return extra


def judge_cycle(
    status: JsonObject, start: PassStart, report: PassReport, *, now: datetime, interval_seconds: int
) -> JsonObject:
    """Return a status with what a finished pass says about its cycle.

    Args:
        status: with the cursors and totals of the pass's end.
        start: of the pass.
        report: at its end.
        now: wall clock.
        interval_seconds: between two passes.
    """
    new = dict(status)
    if report.complete_cycle and start.cycle_start:
        new["orphans"] = {
            "objects": min(MAX_COUNT, report.cycle.orphans),
            "bytes": min(MAX_COUNT, report.cycle.orphan_bytes),
        }
        summary = _summary(start, report.cycle, now)
        if start.mode is RetentionMode.DRY_RUN:
            _rehearsed(new, summary)
        else:
            new["cycle"] = {key: value for key, value in summary.items() if key != "planHash"}
            new["recentCycles"] = _with_sample(new.get("recentCycles"), summary, now)
    elif report.stopped_by is StoppedBy.APPROVAL_REQUIRED:
        # What is due has grown beyond the share: a dry cycle has to show all of it first.
        for field in ("rehearsal", "cycle", "planHash", "cursor"):
            new.pop(field, None)
    seconds = estimated_cycle_seconds(new, start, report, interval_seconds)
    if seconds is None:
        new.pop("estimatedCycleSeconds", None)
    else:
        new["estimatedCycleSeconds"] = seconds
    return new


def _rehearsed(new: JsonObject, summary: JsonObject) -> None:
    if section(new, "rehearsal").get("fingerprint") != summary["fingerprint"]:
        new.pop("recentCycles", None)  # cycles by other rules are nothing to compare with
    new["rehearsal"] = summary
    new["planHash"] = summary["planHash"]
    for field in ("cycle", "cursor"):
        new.pop(field, None)


def _summary(start: PassStart, tally: CycleTally, now: datetime) -> JsonObject:
    summary: JsonObject = {
        "fingerprint": start.fingerprint,
        "startTime": start.cycle_start,
        "completeTime": format_time(now),
        "decidedObjects": min(MAX_COUNT, tally.decided),
        "dueObjects": min(MAX_COUNT, tally.due),
        "dueBytes": min(MAX_COUNT, tally.due_bytes),
        "duePercent": due_percent(tally.due, tally.decided),
        "planHash": plan_hash(start.fingerprint, tally),
    }
    return summary | ({"covered": start.covered} if start.covered else {})


def _with_sample(samples: object, summary: JsonObject, now: datetime) -> list[JsonObject]:
    """Return the last cycles with one more."""
    kept = cast("list[JsonObject]", samples) if isinstance(samples, list) else []
    began = datetime.fromisoformat(str(summary["startTime"]))
    sample: JsonObject = {
        "completeTime": summary["completeTime"],
        "seconds": min(MAX_COUNT, max(0, round((now - began).total_seconds()))),
        "decidedObjects": summary["decidedObjects"],
        "dueObjects": summary["dueObjects"],
    }
    return [*kept, sample][-MAX_RECENT_CYCLES:]


def estimated_cycle_seconds(
    status: JsonObject, start: PassStart, report: PassReport, interval_seconds: int
) -> int | None:
    """Return how long a whole cycle takes at the pace of a pass; None while its size is unknown.

    Args:
        status: with the last complete cycles.
        start: of the pass.
        report: at its end.
        interval_seconds: between two passes.
    """
    size = _size(status)
    if size is None:
        return None
    scanned = report.scanned - report.relisted
    at_a_time = scanned if report.stopped_by in _LIMITED and scanned > 0 else start.max_scan
    passes = max(1, -(-size // max(1, at_a_time)))
    seconds = passes * max(report.duration_seconds, 0.0) + (passes - 1) * interval_seconds
    return min(MAX_COUNT, -(-int(seconds * 1000) // 1000))


def _size(status: JsonObject) -> int | None:
    """Return the objects of the last complete cycle, whichever mode."""
    for field in ("cycle", "rehearsal"):
        summary = section(status, field)
        if summary:
            try:
                return CycleSummary.model_validate(summary).decided_objects
            except ValidationError:
                continue  # edited by hand; the next complete cycle writes it anew
    return None


def is_backlog_growing(samples: Sequence[CycleSample], *, max_delete: int, seconds_a_pass: float) -> bool:
    """Tell whether more becomes due than the limits let go.

    What a cycle finds due has become so during the one before. So it is growing when each of the last
    cycles found more due than the one before, and the last one more than could be deleted in the time
    in which it became due.

    Args:
        samples: complete cycles that deleted, oldest first.
        max_delete: most deletions a pass; 0 where that is not known.
        seconds_a_pass: from the start of one pass to that of the next.
    """
    if len(samples) <= GROWTHS or max_delete <= 0:
        return False
    last = samples[-GROWTHS - 1 :]
    if any(later.due_objects <= earlier.due_objects for earlier, later in pairwise(last)):
        return False
    became_due_in = max(1, last[-2].seconds)
    return last[-1].due_objects > max_delete * became_due_in / max(1.0, seconds_a_pass)


def parsed_samples(samples: Any) -> tuple[CycleSample, ...]:
    """Return the cycles that a status holds; none where they cannot be read."""
    try:
        return tuple(CycleSample.model_validate(item) for item in samples or ())
    except (ValidationError, TypeError):
        return ()
