"""What ``retention`` prints: runs as they are decided, the sums of a plan, and how it ended.

Invariant: what comes from a store is made fit for a terminal; with -o json, standard output has documents
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from bubu_storage.cli.failures import Failure, PartialFailure, Refusal, complain
from bubu_storage.cli.options import GlobalOptions
from bubu_storage.cli.progress import Progress
from bubu_storage.cli.show import Out, human_bytes, iso_time, plural, printable

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend
    from bubu_storage.cli.retention_cycle import CycleTotals
    from bubu_storage.cli.retention_policy import RetentionPlan
    from bubu_storage.retention.report import PassReport, RunOutcome

__all__ = ["ShownRuns", "counter_of", "print_plan", "tell_end", "why"]

_WHOLE: Final = 100


class ShownRuns:
    """Prints runs as they are decided.

    Args:
        options: table or JSON.
        wanted: which.
        progress: to make room for, where it is drawn.
    """

    def __init__(
        self,
        options: GlobalOptions,
        wanted: Callable[[RunOutcome], bool],
        progress: Progress | None = None,
    ) -> None:
        self._options = options
        self._wanted = wanted
        self._progress = progress
        self._out = Out()

    def run(self, outcome: RunOutcome) -> None:
        """Print one run."""
        if not self._wanted(outcome):
            return
        newest = "" if outcome.newest is None else iso_time(outcome.newest)
        if self._options.as_json:
            self._out.json(
                {
                    "run": outcome.prefix,
                    "reason": outcome.reason.value,
                    "objects": outcome.objects,
                    "size_bytes": outcome.size_bytes,
                    "newest": newest or None,
                    "overdue_seconds": round(outcome.overdue_seconds),
                }
            )
            return
        if self._progress is not None and sys.stdout.isatty():
            self._progress.clear()
        size = human_bytes(outcome.size_bytes)
        self._out.line(
            f"{outcome.reason:<18} {outcome.objects:>10,}  {size:>9}  {newest or '-':<20}  "
            f"{printable(outcome.prefix)}"
        )


def counter_of(
    progress: Progress, number: Callable[[PassReport], int] = lambda report: report.scanned
) -> Callable[[PassReport], None]:
    """Return what shows how many objects were looked at, or another number of a pass that only grows.

    A pass begins anew with 0; what the ones before it counted stays.
    """
    seen = 0

    def count(report: PassReport) -> None:
        nonlocal seen
        now = number(report)
        progress.add(objects=now - seen if now >= seen else now)
        seen = now

    return count


def print_plan(
    options: GlobalOptions, backend: ObjectBackend, plan: RetentionPlan, totals: CycleTotals
) -> None:
    """Print the sums of a complete plan and its hash."""
    from bubu_storage.backend.probe import VERSIONED_MEANING, is_versioned  # noqa: PLC0415 - likewise
    from bubu_storage.cli.retention_cycle import fingerprint_of, hash_of_plan  # noqa: PLC0415 - loads the library

    assert totals.last is not None  # noqa: S101 - the cycle is complete
    cycle = totals.last.cycle
    plan_hash = hash_of_plan(fingerprint_of(plan.spec, backend.name), totals.last)
    percent = cycle.due * _WHOLE / cycle.decided if cycle.decided else 0.0
    versioned = is_versioned(backend)
    out = Out()
    if options.as_json:
        out.json(
            {
                "plan": plan_hash,
                "store": backend.name,
                "server_time": None if totals.last.server_time is None else iso_time(totals.last.server_time),
                "runs": totals.runs,
                "decided": cycle.decided,
                "due": cycle.due,
                "due_bytes": cycle.due_bytes,
                "due_percent": round(percent, 3),
                "max_due_percent": plan.max_due_percent,
                "versioned": versioned,
                "by_reason": {
                    reason.value: {"objects": tally.objects, "size_bytes": tally.size_bytes}
                    for reason, tally in sorted(totals.by_reason.items())
                },
            }
        )
        return
    out.line("")
    for reason, tally in sorted(totals.by_reason.items()):
        out.line(f"{reason:<18} {tally.objects:>10,}  {human_bytes(tally.size_bytes):>9}")
    over = (
        f", over maxDuePercent {plan.max_due_percent}: apply needs --approve"
        if cycle.due * _WHOLE > plan.max_due_percent * cycle.decided
        else ""
    )
    out.line(f"due: {cycle.due:,} of {plural(cycle.decided, 'object')} ({percent:.1f} %){over}")
    if versioned:
        out.line(f"note: the store {VERSIONED_MEANING}")
    out.line(f"plan: {plan_hash}")


def tell_end(totals: CycleTotals, *, interrupted: bool, quiet: bool) -> None:
    """Say how it ended, by a line and the exit code."""
    from bubu_storage.retention.reasons import Reason  # noqa: PLC0415 - likewise
    from bubu_storage.retention.report import StoppedBy  # noqa: PLC0415 - loads the library

    deleted, failed = totals.tally(Reason.DELETED), totals.tally(Reason.DELETE_FAILED)
    summary = f"deleted {plural(deleted.objects, 'object')} ({human_bytes(deleted.size_bytes)})"
    for text in totals.errors:
        complain(text)
    last = totals.last
    if interrupted:
        complain(summary)
        raise KeyboardInterrupt
    if not totals.is_complete and not totals.at_limit:
        text = f"{summary}, then ended: {why(totals)}"
        if last is not None and last.stopped_by is StoppedBy.APPROVAL_REQUIRED:
            raise PartialFailure(text) if deleted.objects else Refusal(text)
        raise PartialFailure(text) if deleted.objects else Failure(text)
    if failed.objects:
        text = f"{summary}; {plural(failed.objects, 'object')} could not be deleted"
        raise PartialFailure(text) if deleted.objects else Failure(text)
    if not quiet:
        complain(f"{summary}; {'all that was planned' if totals.is_complete else 'more is left'}")


def why(totals: CycleTotals) -> str:
    """Say why the last pass ended."""
    last = totals.last
    if last is None:
        return "nothing was done"
    reason = f" ({last.stopped_by})" if last.stopped_by is not None else ""
    return f"{last.message}{reason}"
