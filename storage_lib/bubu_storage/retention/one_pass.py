"""How the parts of one pass work together: pages come in, runs are judged, decisions are acted on.

`bubu_storage.retention.runner` says what a pass promises. Here is the order of things: what an earlier
pass began comes first, a run is judged when the listing has passed its end, and a checkpoint is told
only when nothing before its cursor is still under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
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
from bubu_storage.retention.owners import OwnerSource
from bubu_storage.retention.pipeline import Pipeline
from bubu_storage.retention.prefetch import OnDemand, Page, Pages, ReadAhead, Start, pages_ahead
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.references import Follower, ReferenceCache
from bubu_storage.retention.report import PassReport, RunOutcome, StoppedBy
from bubu_storage.retention.rules import decide_loose
from bubu_storage.retention.scan import OpenRun
from bubu_storage.retention.spec import PassSpec, run_prefix_of
from bubu_storage.retention.store_clock import stamped_time
from bubu_storage.retention.sweep import Sweeper

__all__ = ["OnePass"]

_LIMITS: Final = frozenset({StoppedBy.MAX_SCAN, StoppedBy.MAX_DELETE, StoppedBy.APPROVAL_REQUIRED})
"""Ends of a pass after which marks may still be written: the store is well and there is time."""

_STOPS_OF_LISTING: Final = frozenset({StoppedBy.MAX_SCAN, StoppedBy.STORE_ERROR, StoppedBy.THROTTLED})
"""Ends of a listing before which what was decided is still acted on."""


def _never() -> bool:
    return False


class OnePass:
    """The wiring of one pass; the arguments are those of `bubu_storage.retention.runner.run_pass`."""

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
        concurrency: int,
        conditional_batches: bool,
        stamps_clock: bool,
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
        self._concurrency = concurrency
        self._is_conditional = conditional_batches
        self._stamps_clock = stamps_clock
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
                if self._stamps_clock:
                    now = min(now, self._stamped_time())
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

    def _stamped_time(self) -> datetime:
        """Return the date of an object written now; in three requests."""
        for turn in (self._gate.turn_to_delete, self._gate.turn, self._gate.turn):
            turn()
        return stamped_time(self._backend)

    def _cycle(self, judge: Judge) -> None:
        """Decide everything from the cursor to the end of the last scope."""
        actor = self._open_actor(judge)
        pages: Pages | None = None
        try:
            starts = self._begin(actor)
            pages = self._open_pages(starts)
            for index, start in enumerate(starts):
                self._scan(index, start.scope, actor, judge, pages)
            if not actor.is_settled:
                actor.finish()
                self._settle_marks()
                self._checkpoint()
        finally:
            # Whoever waits in a thread for a turn hears of the end now.
            self._gate.shut()
            try:
                if pages is not None:
                    pages.close()
            finally:
                actor.close()
            # Where one more interrupt came meanwhile, it stays shut: somebody may still be in flight.
            self._gate.reopen()
            self._note_open_run(actor)

    def _open_actor(self, judge: Judge) -> Actor:
        """Return what becomes of decisions."""
        if self._spec.dry_run:
            return DryRun(self._ledger)
        if self._concurrency == 1:
            return Sweeper(
                self._backend,
                self._gate,
                self._spec,
                self._ledger,
                judge=judge,
                checkpoint=self._checkpoint,
                is_conditional=self._is_conditional,
            )
        return Pipeline(
            self._backend,
            self._gate,
            self._spec,
            self._ledger,
            judge=judge,
            checkpoint=self._checkpoint,
            concurrency=self._concurrency,
            is_conditional=self._is_conditional,
        )

    def _open_pages(self, starts: Sequence[Start]) -> Pages:
        """Return what lists."""
        scans = self._ledger.scans
        most_pages = pages_ahead(self._spec.max_scan)
        if self._concurrency == 1 or not most_pages:
            return OnDemand(self._backend, self._gate, scans, starts, adapts=self._concurrency > 1)
        return ReadAhead(
            self._backend,
            self._gate,
            scans,
            starts,
            most_pages=most_pages,
            keeps_old=self._spec.dry_run,
        )

    def _begin(self, actor: Actor) -> list[Start]:
        """Go on with what an earlier pass began; return what is to be listed after that."""
        spec, ledger = self._spec, self._ledger
        if isinstance(actor, Sweeper) and (sweeping := self._resumable(Phase.SWEEPING)) is not None:
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
        return [
            Start(scope, after if after.startswith(scope) else "")
            for scope in spec.scopes
            if after.startswith(scope) or after < scope
        ]

    def _resumable(self, phase: Phase) -> RunProgress | None:
        """Return the cursor's run if it is in this phase and still a run by the present scopes."""
        run = self._cursor.run
        if run is None or run.phase is not phase or (phase is Phase.SCANNING and not run.position):
            return None
        scope = self._spec.scope_of(run.prefix)
        if scope is None or run_prefix_of(run.prefix, scope) != run.prefix:
            return None
        # No listing gives such a run: somebody has written the cursor, and a directory would lead elsewhere.
        return None if run.prefix[len(scope) : -1] in {".", ".."} else run

    def _scan(self, index: int, scope: str, actor: Actor, judge: Judge, pages: Pages) -> None:
        """Stream one scope, page by page, and hand every decision to the actor."""
        while (page := self._next_page(index, actor, pages)) is not None:
            self._listed_at = page.listed_at
            for entry in page.objects:
                self._take(entry, scope, actor, judge)
            actor.settle()
            self._settle_marks()
            self._note_open_run(actor)
            self._checkpoint()
        self._close_run(actor, judge)
        actor.settle()
        if self._marks is not None:
            self._marks.end_scope(scope)
        self._settle_marks()
        self._checkpoint()

    def _next_page(self, index: int, actor: Actor, pages: Pages) -> Page | None:
        """Return the next page of a scope; before a stop that leaves time for it, act on what was decided."""
        try:
            return pages.next_page(index)
        except PassStoppedError as stop:
            if stop.reason in _STOPS_OF_LISTING:
                actor.finish()
            raise

    def _note_open_run(self, actor: Actor) -> None:
        """Let the cursor tell of the run whose members are streaming by, once it stands before that run."""
        if self._run is not None and actor.is_settled:
            facts = self._run.facts(complete=False)
            self._ledger.run = RunProgress(facts, Phase.SCANNING, self._run.last_key)

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
        try:
            decision = judge.decide(facts)
        except PassStoppedError as stop:
            if stop.reason in _STOPS_OF_LISTING:
                actor.finish()
            raise
        if not decision.is_due:
            actor.keep_run(run, decision)
        elif self._due_bound.fits(facts):
            self._due_bound.take(facts)
            actor.delete_run(run, decision)
        else:
            actor.finish()
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
