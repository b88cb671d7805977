"""The books of one pass: what was used of the limits, what was decided, how far it got.

The only mutable state that scan and sweep share. Invariant: at any moment `cursor` is safe
to persist: everything up to ``after`` is decided and, if due, was sent for deletion; what
came later has had no effect that starting again from there would not repeat harmlessly.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from bubu_storage.errors import StorageError
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.reasons import DUE_REASONS, PROVISIONAL_REASONS, Reason
from bubu_storage.retention.report import (
    MAX_ERROR_SAMPLES,
    ErrorSample,
    Mode,
    PassReport,
    RunOutcome,
    StoppedBy,
    Tally,
)
from bubu_storage.retention.rules import Decision, RunFacts
from bubu_storage.retention.scan import MAX_PAGE_SIZE, ScanBudget
from bubu_storage.retention.spec import PassSpec

__all__ = ["Ledger"]


class Ledger:
    """Counts and position of one pass.

    Args:
        spec: the limits.
        cursor: where the pass begins.
        started_at: local wall clock.
        on_run: told about each run when it has been dealt with.

    Attributes:
        after: the last decided key.
        run: the run directory that the pass is in the middle of, as a cursor stores it.
        scans: list entries asked for and received, re-listings included.
        relisted: those of them that came from re-listings.
        attempted: objects sent for deletion.
        set_aside: objects that were taken on for deletion and not sent yet.
        cycle: what the cycle has decided up to the cursor.
        complete_cycle: the end of the last scope was reached.
    """

    def __init__(
        self,
        spec: PassSpec,
        cursor: Cursor,
        *,
        started_at: datetime,
        on_run: Callable[[RunOutcome], None] | None,
    ) -> None:
        self._spec = spec
        self._started_at = started_at
        self._on_run = on_run
        self._began_after = cursor.after
        self.after = cursor.after
        self.run: RunProgress | None = None
        self.scans = ScanBudget(spec.max_scan)
        self.relisted = 0
        self.attempted = 0
        self.set_aside = 0
        self.cycle = cursor.cycle
        self.complete_cycle = False
        self.server_time: datetime | None = None
        self.clock_skew_seconds: float | None = None
        self._runs_scanned = 0
        self._by_reason: dict[Reason, Tally] = {}
        self._orphans = Tally()
        self._oldest_overdue: tuple[float, str] | None = None
        self._worst_lag_seconds: float | None = None
        self._error_count = 0
        self._last_error: StorageError | None = None
        self._errors: list[ErrorSample] = []

    @property
    def scanned(self) -> int:
        """List entries received, re-listings included."""
        return self.scans.received

    @property
    def scan_left(self) -> int:
        """List entries that may still be asked for."""
        return self.scans.left

    @property
    def delete_left(self) -> int:
        """Objects that may still be taken on for deletion."""
        return self._spec.max_delete - self.attempted - self.set_aside

    @property
    def cursor(self) -> Cursor:
        """Where the next pass goes on."""
        return Cursor() if self.complete_cycle else Cursor(self.after, self.run, self.cycle)

    def count(self, reason: Reason, objects: int, size_bytes: int) -> None:
        """Book objects under a reason.

        But for provisional reasons this is done only when no later pass can meet the objects again in
        this cycle: the cursor has passed them, or they are gone. So the cycle's tally counts each once.
        """
        if objects:
            self._by_reason[reason] = self._by_reason.get(reason, Tally()) + Tally(objects, size_bytes)
            if reason not in PROVISIONAL_REASONS:
                self.cycle = self.cycle.with_objects(objects, size_bytes, is_due=reason in DUE_REASONS)

    def pass_object(self, key: str, size_bytes: int, reason: Reason) -> None:
        """Decide an object that is judged on its own, and move the cursor past it."""
        self.count(reason, 1, size_bytes)
        self._move_past(key)

    def pass_run(self, facts: RunFacts, decision: Decision, last_key: str, reason: Reason) -> None:
        """Close a run and move the cursor past it. Its objects are booked by the caller.

        Args:
            facts: the objects that the outcome is about.
            decision: the verdict.
            last_key: the last member that was seen.
            reason: what became of the run.
        """
        self._runs_scanned += 1
        if decision.is_orphan:
            self._orphans += Tally(facts.objects, facts.size_bytes)
            self.cycle = self.cycle.with_orphan(facts.objects, facts.size_bytes)
        if reason in DUE_REASONS:
            self.cycle = self.cycle.with_due_run(facts.prefix)
        if decision.is_due:
            self.note_overdue(facts.prefix, decision, still_there=reason is not Reason.DELETED)
        self._move_past(last_key)
        if self._on_run is not None:
            self._on_run(
                RunOutcome(
                    facts.prefix,
                    reason,
                    facts.objects,
                    facts.size_bytes,
                    facts.newest,
                    decision.overdue_seconds,
                )
            )

    def defer(self, facts: RunFacts, decision: Decision) -> None:
        """Book a due run that is left to the next pass, which scans it again."""
        self.run = None
        self.count(Reason.DUE_DEFERRED, facts.objects, facts.size_bytes)
        self.note_overdue(facts.prefix, decision, still_there=True)

    def note_overdue(self, prefix: str, decision: Decision, *, still_there: bool) -> None:
        """Remember how long a due run has been due."""
        seconds = decision.overdue_seconds
        if self._worst_lag_seconds is None or seconds > self._worst_lag_seconds:
            self._worst_lag_seconds = seconds
        if still_there and (self._oldest_overdue is None or seconds > self._oldest_overdue[0]):
            self._oldest_overdue = (seconds, prefix)

    def note_error(self, error: StorageError, key: str = "") -> None:
        """Count an error and keep it as a sample while there is room."""
        self._last_error = error
        self._error_count += 1
        if len(self._errors) < MAX_ERROR_SAMPLES:
            self._errors.append(ErrorSample.of(error, key))

    def close(self, stop: PassStoppedError | None) -> None:
        """Book what the end of the pass leaves open.

        Args:
            stop: why the pass ended; None at the end of the cycle.
        """
        if stop is None:
            self.complete_cycle = True
            return
        # A failed key may also be what ends the pass; it is counted already.
        if stop.error is not None and stop.error is not self._last_error:
            self.note_error(stop.error)
        if self.run is not None:
            incomplete = self.run.phase is Phase.SCANNING
            reason = Reason.KEPT_RUN_INCOMPLETE if incomplete else Reason.DUE_DEFERRED
            self.count(reason, self.run.facts.objects, self.run.facts.size_bytes)
            if incomplete and self._is_cheaper_anew(self.run.facts):
                self.run = None

    def report(
        self,
        *,
        requests: int,
        duration_seconds: float,
        finished_at: datetime | None = None,
        stopped_by: StoppedBy | None = None,
        message: str = "",
    ) -> PassReport:
        """Return an immutable copy of the books."""
        overdue_seconds, overdue_key = self._oldest_overdue or (None, "")
        return PassReport(
            mode=Mode.DRY_RUN if self._spec.dry_run else Mode.ENFORCE,
            started_at=self._started_at,
            finished_at=finished_at,
            duration_seconds=duration_seconds,
            server_time=self.server_time,
            clock_skew_seconds=self.clock_skew_seconds,
            scanned=self.scanned,
            relisted=self.relisted,
            requests=requests,
            attempted=self.attempted,
            runs_scanned=self._runs_scanned,
            by_reason=dict(self._by_reason),
            oldest_overdue_seconds=overdue_seconds,
            oldest_overdue_key=overdue_key,
            worst_lag_seconds=self._worst_lag_seconds,
            orphans=self._orphans,
            cycle=self.cycle,
            cursor=self.cursor,
            complete_cycle=self.complete_cycle,
            stopped_by=stopped_by,
            message=message,
            error_count=self._error_count,
            errors=tuple(self._errors),
        )

    def _is_cheaper_anew(self, facts: RunFacts) -> bool:
        """Tell whether the next pass should scan an unfinished run from its start.

        Then it has the keys and need not list the run a second time to delete it. Never the
        run that this pass began with: it would begin with it for ever.
        """
        if self._spec.dry_run or self.after == self._began_after:
            return False
        return facts.objects <= min(MAX_PAGE_SIZE, self._spec.max_scan // 2)

    def _move_past(self, key: str) -> None:
        self.after = max(self.after, key)
        self.run = None
