"""One retention pass over a store: scan, decide, sweep, report.

The caller owns everything around it: when passes run, where cursors and reports are kept
(one cursor a mode), that no two enforcing passes run on one store at a time.

Invariants (the safety contract; each has tests):

* at most ``max_scan`` list entries and ``max_delete`` deletions; no request after the time
  budget or after ``should_stop`` said so; never more than ``requests_per_second``;
* nothing outside the scopes is ever listed, nothing in the reserved area ever deleted;
* ages are reckoned by the store's clock, read once at the start of the pass, so that what
  is written meanwhile is younger than anything that can be due;
* the process may be killed at any moment: a later pass from any checkpoint's cursor (or
  from none) deletes nothing that must be kept, and from the last one scans at most one page
  again;
* every due run goes within a bounded number of passes, also when some keys cannot be
  deleted, and also when a run is larger than the limits of a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from bubu_storage.backend.types import ListedObject, ObjectBackend
from bubu_storage.errors import StorageError, ThrottledError
from bubu_storage.retention.actor import Actor, DryRun
from bubu_storage.retention.approval import DueBound
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.gate import Gate, PassStoppedError, Permit
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.marks import MarkBook
from bubu_storage.retention.owners import OwnerSource, boot_seconds
from bubu_storage.retention.references import Follower, ReferenceCache
from bubu_storage.retention.report import PassReport, RunOutcome, StoppedBy
from bubu_storage.retention.rules import Reason, decide_loose
from bubu_storage.retention.scan import MAX_PAGE_SIZE, Listing, OpenRun
from bubu_storage.retention.spec import PassSpec, run_prefix_of
from bubu_storage.retention.sweep import Sweeper

__all__ = ["boot_seconds", "run_pass"]
_LIMITS: Final = frozenset({StoppedBy.MAX_SCAN, StoppedBy.MAX_DELETE, StoppedBy.APPROVAL_REQUIRED})
"""Ends of a pass after which marks may still be written: the store is well and there is time."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _never() -> bool:
    return False


def run_pass(
    backend: ObjectBackend,
    spec: PassSpec,
    cursor: Cursor | None = None,
    *,
    monotonic: Callable[[], float] = boot_seconds,
    sleep: Callable[[float], None] = time.sleep,
    wall_clock: Callable[[], datetime] = _utc_now,
    on_checkpoint: Callable[[PassReport], None] | None = None,
    on_run: Callable[[RunOutcome], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    owners: OwnerSource | None = None,
    permits: Sequence[Permit] = (),
    shared_store: bool = False,
    reference_cache: ReferenceCache | None = None,
) -> PassReport:
    """Run one pass and return what it did; errors of the store end it, they are not raised.

    Args:
        backend: the store.
        spec: what may be seen, kept and deleted, and the limits.
        cursor: where the last pass of this mode ended; None or empty starts a cycle.
        monotonic: seconds for budget, pace and freshness.
        sleep: waits, for pace and back-off.
        wall_clock: local time, for the report only: ages go by the store's clock.
        on_checkpoint: given the report so far after every page and every batch of
            deletions; its cursor may be stored then.
        on_run: given each run when it has been dealt with (what a plan lists).
        should_stop: asked before each request; True ends the pass in good order.
        owners: who owns runs; None where nobody knows, and rules that need it keep.
        permits: what must hold whenever a deletion is sent.
        shared_store: other clusters use the store too, so a run without an owner here is none.
        reference_cache: what is known from earlier passes of documents that live runs refer
            to; None where nothing is to be kept.

    Returns:
        The report. ``stopped_by`` says why the pass ended, ``cursor`` where to go on.

    Raises:
        Exception: only what a callback raises, or a fault of the backend outside its
            contract; the last checkpoint's cursor is good then.
    """
    run = _Pass(
        backend,
        spec,
        cursor or Cursor(),
        monotonic=monotonic,
        sleep=sleep,
        wall_clock=wall_clock,
        on_checkpoint=on_checkpoint,
        on_run=on_run,
        should_stop=should_stop,
        owners=owners,
        permits=permits,
        shared_store=shared_store,
        reference_cache=ReferenceCache() if reference_cache is None else reference_cache,
    )
    return run.execute()


class _Pass:
    """The wiring of one pass."""

    def __init__(
        self,
        backend: ObjectBackend,
        spec: PassSpec,
        cursor: Cursor,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        wall_clock: Callable[[], datetime],
        on_checkpoint: Callable[[PassReport], None] | None,
        on_run: Callable[[RunOutcome], None] | None,
        should_stop: Callable[[], bool] | None,
        owners: OwnerSource | None,
        permits: Sequence[Permit],
        shared_store: bool,
        reference_cache: ReferenceCache,
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._cursor = cursor
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._on_checkpoint = on_checkpoint
        self._owners = owners
        self._shared_store = shared_store
        self._reference_cache = reference_cache
        self._gate = Gate(
            monotonic=monotonic,
            sleep=sleep,
            should_stop=should_stop or _never,
            budget_seconds=spec.budget_seconds,
            requests_per_second=spec.requests_per_second,
            permits=permits,
        )
        self._on_run = on_run
        self._ledger = Ledger(spec, cursor, started_at=wall_clock(), on_run=self._note_outcome)
        # Marks are of use only where owners are known, and in a dry run only to judge orphans by.
        is_marking = not spec.dry_run or any(rule.orphan_grace_seconds for rule in spec.rules)
        self._marks = (
            MarkBook(backend, self._gate, spec, self._ledger) if owners is not None and is_marking else None
        )
        self._due_bound = DueBound(spec, cursor.cycle)
        self._run: OpenRun | None = None
        self._tail_prefix = ""
        self._listed_at = 0.0

    def execute(self) -> PassReport:
        """Run to the end or to a stop."""
        stop: PassStoppedError | None = None
        try:
            judge = Judge(
                self._spec,
                self._server_time(),
                owners=self._owners,
                follower=Follower(self._backend, self._gate, self._reference_cache),
                marks=self._marks,
                is_shared_store=self._shared_store,
                clock=self._monotonic,
            )
            judge.refresh()
            self._cycle(judge)
        except PassStoppedError as reason:
            stop = reason
        if stop is not None and stop.reason in _LIMITS:
            with suppress(PassStoppedError):
                self._settle_marks()
        self._ledger.close(stop)
        return self._ledger.report(
            requests=self._gate.requests,
            duration_seconds=self._gate.elapsed_seconds,
            finished_at=self._wall_clock(),
            stopped_by=StoppedBy.END_OF_CYCLE if stop is None else stop.reason,
            message="everything in the scopes was decided" if stop is None else stop.message,
        )

    def _server_time(self) -> datetime:
        """Ask the store for its clock and note how far ours is off."""
        while True:
            self._gate.turn()
            try:
                now = self._backend.server_time()
            except ThrottledError as error:
                self._gate.back_off(error)
                continue
            except StorageError as error:
                raise PassStoppedError(
                    StoppedBy.STORE_ERROR, f"the store does not tell its time: {error}", error
                ) from error
            self._gate.succeeded()
            self._ledger.server_time = now
            self._ledger.clock_skew_seconds = (now - self._wall_clock()).total_seconds()
            return now

    def _cycle(self, judge: Judge) -> None:
        """Decide everything from the cursor to the end of the last scope."""
        spec, ledger = self._spec, self._ledger
        actor: Actor
        if spec.dry_run:
            actor = DryRun(ledger)
        else:
            actor = Sweeper(self._backend, self._gate, spec, ledger, judge=judge, checkpoint=self._checkpoint)
            if (sweeping := self._resumable(Phase.SWEEPING)) is not None:
                if not self._due_bound.fits(sweeping.facts):
                    ledger.run = sweeping
                    raise self._due_bound.exceeded_by(sweeping.facts)
                self._due_bound.take(sweeping.facts)
                actor.resume(sweeping)
                self._checkpoint()
        after = ledger.after
        if (scanning := self._resumable(Phase.SCANNING)) is not None:
            ledger.run = scanning
            after = scanning.position
            self._run = OpenRun.resumed(scanning.facts, scanning.position, at=self._gate.now)
        # Of the run that the cursor stands in, only the rest would be seen: it is not judged by that.
        scope = spec.scope_of(ledger.after)
        self._tail_prefix = run_prefix_of(ledger.after, scope) if scope is not None else ""
        for scope in spec.scopes:
            if after.startswith(scope) or after < scope:
                self._scan(scope, after if after.startswith(scope) else "", actor, judge)

    def _resumable(self, phase: Phase) -> RunProgress | None:
        """Return the cursor's run if it is in this phase and still a run by the present scopes."""
        run = self._cursor.run
        if run is None or run.phase is not phase or (phase is Phase.SCANNING and not run.position):
            return None
        scope = self._spec.scope_of(run.prefix)
        return run if scope is not None and run_prefix_of(run.prefix, scope) == run.prefix else None

    def _scan(self, scope: str, start_after: str, actor: Actor, judge: Judge) -> None:
        """Stream one scope, page by page, and hand every decision to the actor."""
        ledger = self._ledger
        listing = Listing(self._backend, self._gate, scope, start_after, scans=ledger.scans)
        try:
            while True:
                if ledger.scan_left == 0:
                    raise PassStoppedError(
                        StoppedBy.MAX_SCAN, f"all {self._spec.max_scan} list entries of the pass are used"
                    )
                page = listing.next_page(min(ledger.scan_left, MAX_PAGE_SIZE))
                if page is None:
                    break
                self._listed_at = self._gate.now
                for entry in page:
                    self._take(entry, scope, actor, judge)
                actor.settle()
                self._settle_marks()
                if self._run is not None:
                    facts = self._run.facts(complete=False)
                    ledger.run = RunProgress(facts, Phase.SCANNING, self._run.last_key)
                self._checkpoint()
        finally:
            listing.close()
        self._close_run(actor, judge)
        actor.settle()
        if self._marks is not None:
            self._marks.end_scope(scope)
        self._settle_marks()
        self._checkpoint()

    def _take(self, entry: ListedObject, scope: str, actor: Actor, judge: Judge) -> None:
        """Sort one entry into its run; a new run closes the one before."""
        key = entry.key
        if self._run is not None:
            if key.startswith(self._run.prefix):
                self._run.add(entry)
                return
            self._close_run(actor, judge)
        prefix = run_prefix_of(key, scope)
        if not prefix:
            actor.keep_object(key, entry.size_bytes, decide_loose(key))
        elif prefix == self._tail_prefix:
            actor.keep_object(key, entry.size_bytes, Reason.KEPT_RUN_TAIL)
        else:
            self._run = OpenRun(prefix, at=self._listed_at, hold=not self._spec.dry_run)
            self._run.add(entry)

    def _close_run(self, actor: Actor, judge: Judge) -> None:
        """Judge the run whose last member has been seen."""
        run, self._run = self._run, None
        if run is None:
            return
        facts = run.facts(complete=True)
        decision = judge.decide(facts)
        if not decision.is_due:
            actor.keep_run(run, decision)
        elif self._due_bound.fits(facts):
            self._due_bound.take(facts)
            actor.delete_run(run, decision)
        else:
            actor.settle()
            self._ledger.defer(facts, decision)
            raise self._due_bound.exceeded_by(facts)

    def _settle_marks(self) -> None:
        if self._marks is not None:
            self._marks.settle()

    def _note_outcome(self, outcome: RunOutcome) -> None:
        if self._marks is not None:
            self._marks.close(outcome)
        if self._on_run is not None:
            self._on_run(outcome)

    def _checkpoint(self) -> None:
        if self._on_checkpoint is not None:
            self._on_checkpoint(
                self._ledger.report(requests=self._gate.requests, duration_seconds=self._gate.elapsed_seconds)
            )
