"""Acts on decisions: deletes due runs from fresh listings, in order, within the limits.

Invariants:

* objects are deleted by exact key, which was listed at most `FRESH_SECONDS` ago (plus the
  waits that a request rate or a slow store imposes) when the request is made, and whose
  whole run had then just been listed; past that, the run is listed and judged anew. So what
  is written in the meantime is never deleted, and a young member saves its run;
* a run is deleted whole: one that fits in ``maxDelete`` is left to the next pass if it does
  not fit in what is left of it. Only a run larger than that is deleted in instalments, each
  after looking at as much of the rest as the limits allow;
* the cursor passes a decision only when everything before it has been acted on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import StorageError
from bubu_storage.retention.cursor import Phase, RunProgress
from bubu_storage.retention.delete import MAX_BATCH_SIZE, Deleter
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.relist import Looker, View
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import Decision, Reason, RunFacts
from bubu_storage.retention.scan import Member, OpenRun
from bubu_storage.retention.spec import PassSpec

__all__ = ["Sweeper"]


@dataclass(slots=True)
class _Pending:
    """A decision in the queue, in key order.

    ``members`` are what is still to be sent of a due run, None for what is kept;
    ``progress`` says how far its deletion has got, None before its first batch.
    """

    last_key: str
    reason: Reason
    size_bytes: int
    facts: RunFacts | None = None
    decision: Decision | None = None
    members: Sequence[Member] | None = None
    listed_at: float = 0.0
    progress: RunProgress | None = None
    failed: int = 0


class Sweeper:
    """Deletes due runs.

    Args:
        backend: the store.
        gate: lets each request through.
        spec: rules and limits.
        ledger: the books.
        judge: judges runs again.
        checkpoint: called after each batch, when the ledger's cursor may be stored.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        spec: PassSpec,
        ledger: Ledger,
        *,
        judge: Judge,
        checkpoint: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._spec = spec
        self._ledger = ledger
        self._looker = Looker(backend, gate, spec, ledger, judge)
        self._checkpoint = checkpoint
        self._deleter = Deleter(backend, gate, self._charge)
        self._queue: deque[_Pending] = deque()
        self._queued_objects = 0

    def keep_object(self, key: str, size_bytes: int, reason: Reason) -> None:
        """See `Actor`."""
        if self._queue:
            self._queue.append(_Pending(key, reason, size_bytes))
        else:
            self._ledger.pass_object(key, size_bytes, reason)

    def keep_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`."""
        facts = run.facts(complete=True)
        pending = _Pending(run.last_key, decision.reason, facts.size_bytes, facts, decision)
        if self._queue:
            self._queue.append(pending)
        else:
            self._pass(pending)

    def delete_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`: queue the run if it fits, else act on the queue and then on the run."""
        facts = run.facts(complete=True)
        if run.members is not None and facts.objects <= self._ledger.delete_left - self._queued_objects:
            pending = _Pending(
                run.last_key,
                Reason.DELETED,
                facts.size_bytes,
                facts,
                decision,
                run.members,
                listed_at=run.seen_since,
            )
            self._queue.append(pending)
            self._queued_objects += facts.objects
            return
        self.settle()
        if run.members is not None and facts.objects <= self._spec.max_delete:
            # Scanned anew by the next pass, which has the whole of maxDelete for it.
            self._ledger.defer(facts, decision)
            raise self._out_of_deletions(facts)
        self._sweep(
            RunProgress(facts, Phase.SWEEPING),
            decision,
            last_key=run.last_key,
            was_seen=True,
            looked_at=self._gate.now if run.is_from_start else None,
        )

    def resume(self, run: RunProgress) -> None:
        """Go on with a run that an earlier pass found due.

        If it is no longer due by the present rules, it is left to the scan.

        Raises:
            PassStoppedError: a limit is reached, or the store failed.
        """
        decision = self._looker.decide(replace(run.facts, complete=True))
        if decision.is_due:
            self._sweep(run, decision, last_key=run.position, was_seen=False)

    def settle(self) -> None:
        """See `Actor`: send the queued runs and move the cursor over what has been dealt with."""
        queue = self._queue
        try:
            while queue:
                head = queue[0]
                if head.members is None:
                    self._pass(queue.popleft())
                elif not self._looker.is_fresh(head.listed_at):
                    queue.popleft()
                    self._look_again(head)
                else:
                    self._send_batch()
        except PassStoppedError:
            self._leave_queue()
            raise
        finally:
            queue.clear()
            self._queued_objects = 0

    def _send_batch(self) -> None:
        """Send the first batch of the queue, which may hold members of many runs."""
        keys: list[str] = []
        oldest = self._queue[0].listed_at
        for pending in self._queue:
            if pending.members is not None:
                if len(keys) >= MAX_BATCH_SIZE:
                    break
                # Later runs were listed later: if the first is fresh, all are.
                keys.extend(key for key, *_ in pending.members[: MAX_BATCH_SIZE - len(keys)])
        result = self._deleter.delete(keys, valid_until=oldest + self._looker.fresh_seconds)
        left = result.done
        while left:
            head = self._queue[0]
            if head.members is None:
                self._pass(self._queue.popleft())
                continue
            sent = head.members[:left]
            left -= len(sent)
            head.members = head.members[len(sent) :]
            head.failed += self._book(sent, result.failed)
            if head.members:
                self._ledger.run = head.progress = _less(_progress_of(head), sent)
            else:
                self._pass(self._queue.popleft())
        if result.done:
            self._checkpoint()
        if result.stop is not None:
            raise result.stop

    def _look_again(self, pending: _Pending) -> None:
        """Sweep a queued run whose listing has become too old."""
        self._sweep(
            _progress_of(pending),
            _decision_of(pending),
            last_key=pending.last_key,
            was_seen=True,
            failed=pending.failed,
        )

    def _leave_queue(self) -> None:
        """Book what a stop leaves in the queue; the cursor stands before it."""
        ledger = self._ledger
        for pending in self._queue:
            if pending.members is None:
                continue
            progress = _progress_of(pending)
            ledger.note_overdue(progress.prefix, _decision_of(pending), still_there=True)
            if ledger.run is not None and ledger.run.prefix == progress.prefix:
                # Begun by this pass or scanned by several: the next one need not scan it again.
                ledger.run = progress
            else:
                ledger.count(Reason.DUE_DEFERRED, progress.facts.objects, progress.facts.size_bytes)

    def _sweep(
        self,
        run: RunProgress,
        decision: Decision,
        *,
        last_key: str,
        was_seen: bool,
        looked_at: float | None = None,
        failed: int = 0,
    ) -> None:
        """Delete one due run from new listings of it.

        Args:
            run: facts and how far an earlier instalment got.
            decision: the verdict on what was seen before.
            last_key: the last member known.
            was_seen: this pass has scanned to the end of the run; else what it does not
                see here will still be met by the scan.
            looked_at: when this pass last finished looking at the whole run, if it did.
            failed: members that the store has refused to delete so far.
        """
        ledger, limit = self._ledger, self._spec.max_delete
        ledger.run = run
        # Nothing spent yet: if this pass cannot see the whole run, none can.
        is_first = ledger.scanned == 0
        try:
            while True:
                is_begun = bool(run.position)
                if ledger.delete_left == 0 or (
                    not is_begun and ledger.delete_left < run.facts.objects <= limit
                ):
                    raise self._out_of_deletions(run.facts)
                if ledger.scan_left == 0:
                    raise self._out_of_scans()
                is_collecting = looked_at is not None and self._looker.is_fresh(looked_at)
                view = self._looker.look(run, is_collecting=is_collecting, is_first=is_first)
                last_key = max(last_key, view.last_key)
                if view.facts.objects and not self._looker.decide(view.facts).is_due:
                    self._spare(run, view, last_key, was_seen=was_seen)
                    return
                if not (view.ended or is_collecting or is_first):
                    raise self._out_of_scans()
                if not is_begun and ledger.delete_left < view.facts.objects <= limit:
                    raise self._out_of_deletions(view.facts)
                if not is_collecting:
                    looked_at = self._gate.now
                run, newly_failed, sent_all = self._send(run, view)
                failed += newly_failed
                if sent_all and view.ended and not view.has_more:
                    reason = Reason.DELETE_FAILED if failed else Reason.DELETED
                    ledger.pass_run(view.facts, decision, max(last_key, run.prefix), reason)
                    return
        except PassStoppedError:
            ledger.note_overdue(run.prefix, decision, still_there=True)
            raise

    def _send(self, run: RunProgress, view: View) -> tuple[RunProgress, int, bool]:
        """Delete the candidates while they are fresh.

        Returns:
            The run's new state, how many failed, and whether all were dealt with.
        """
        members: Sequence[Member] = view.candidates
        failed = 0
        # Candidates that were only just collected are not collected again, however slow the store.
        is_wanted = view.is_collecting or self._looker.is_fresh(view.candidates_at)
        while members and is_wanted:
            result = self._deleter.delete(
                [key for key, *_ in members[:MAX_BATCH_SIZE]],
                valid_until=view.candidates_at + self._looker.fresh_seconds,
            )
            sent, members = members[: result.done], members[result.done :]
            if sent:
                failed += self._book(sent, result.failed)
                run = _less(run, sent)
                self._ledger.run = run
                self._checkpoint()
            if result.stop is not None:
                raise result.stop
            is_wanted = self._looker.is_fresh(view.candidates_at)
        return run, failed, not members

    def _spare(self, run: RunProgress, view: View, last_key: str, *, was_seen: bool) -> None:
        """Keep a run that was due and no longer is."""
        facts = run.facts if was_seen and not view.ended else view.facts
        decision = replace(self._looker.decide(view.facts), reason=Reason.KEPT_NEWER_MEMBER)
        self._ledger.count(decision.reason, facts.objects, facts.size_bytes)
        self._ledger.pass_run(
            replace(facts, newest=view.facts.newest), decision, max(last_key, run.prefix), decision.reason
        )

    def _pass(self, pending: _Pending) -> None:
        """Move the cursor past a decision that has been acted on."""
        if pending.facts is None or pending.decision is None:
            self._ledger.pass_object(pending.last_key, pending.size_bytes, pending.reason)
            return
        if pending.members is None:
            self._ledger.count(pending.reason, pending.facts.objects, pending.size_bytes)
        reason = Reason.DELETE_FAILED if pending.failed else pending.reason
        self._ledger.pass_run(pending.facts, pending.decision, pending.last_key, reason)

    def _book(self, sent: Sequence[Member], failed: Mapping[str, StorageError]) -> int:
        """Book members that were dealt with; return how many of them are still there."""
        deleted_bytes = failures = failed_bytes = 0
        for key, size_bytes, _ in sent:
            error = failed.get(key)
            if error is None:
                deleted_bytes += size_bytes
            else:
                failures += 1
                failed_bytes += size_bytes
                self._ledger.note_error(error, key)
        self._ledger.count(Reason.DELETED, len(sent) - failures, deleted_bytes)
        self._ledger.count(Reason.DELETE_FAILED, failures, failed_bytes)
        return failures

    def _charge(self, objects: int) -> None:
        self._ledger.attempted += objects

    def _out_of_deletions(self, facts: RunFacts) -> PassStoppedError:
        return PassStoppedError(
            StoppedBy.MAX_DELETE,
            f"{self._ledger.attempted} of {self._spec.max_delete} deletions are used; the next due run "
            f"{facts.prefix!r} has {facts.objects} objects",
        )

    def _out_of_scans(self) -> PassStoppedError:
        return PassStoppedError(
            StoppedBy.MAX_SCAN, f"all {self._spec.max_scan} list entries of the pass are used"
        )


def _progress_of(pending: _Pending) -> RunProgress:
    """Return how far the deletion of a queued run has got."""
    if pending.progress is not None:
        return pending.progress
    if pending.facts is None:
        raise ValueError(f"{pending.last_key!r} is no run")
    return RunProgress(pending.facts, Phase.SWEEPING)


def _decision_of(pending: _Pending) -> Decision:
    """Return the verdict on a queued run."""
    if pending.decision is None:
        raise ValueError(f"{pending.last_key!r} is no run")
    return pending.decision


def _less(run: RunProgress, sent: Sequence[Member]) -> RunProgress:
    """Return the run's state after some of its members were dealt with."""
    facts = replace(
        run.facts,
        objects=max(0, run.facts.objects - len(sent)),
        size_bytes=max(0, run.facts.size_bytes - sum(size for _, size, _ in sent)),
    )
    return RunProgress(facts, Phase.SWEEPING, sent[-1][0])
