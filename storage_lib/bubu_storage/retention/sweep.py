"""Acts on decisions: deletes due runs from fresh listings, in order, within the limits.

Invariants:

* objects are deleted by exact key, which was listed at most `FRESH_SECONDS` ago (plus the
  waits that a request rate or a slow store imposes) when the request is made, and whose
  whole run had then just been listed; past that, the run is listed and judged anew. So what
  is written in the meantime is never deleted, and a young member saves its run;
* right before each request, when it has had its turn, the judge is refreshed, and runs that it has
  learnt something about are judged again: one that it protects now keeps what is left of it;
* a run is deleted whole: one that fits in ``maxDelete`` is left to the next pass if it does
  not fit in what is left of it. Only a run larger than that is deleted in instalments, each
  after looking at as much of the rest as the limits allow;
* the cursor passes a decision only when everything before it has been acted on.

`Sweeper` does one thing after the other in the calling thread; `pipeline.Pipeline` is the same with
many requests in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.retention.booking import Booking
from bubu_storage.retention.cursor import Phase, RunProgress
from bubu_storage.retention.delete import MAX_BATCH_SIZE, Deleter
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.pending import Part, Pending, Sent, instalment_of, members_of, outcome_of
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.relist import Looker, View
from bubu_storage.retention.rules import Decision
from bubu_storage.retention.scan import OpenRun
from bubu_storage.retention.spec import PassSpec

__all__ = ["Sweeper"]


class Sweeper(Booking):
    """Deletes due runs.

    Args:
        backend: the store.
        gate: lets each request through.
        spec: rules and limits.
        ledger: the books.
        judge: judges runs again.
        checkpoint: called after each batch, when the ledger's cursor may be stored.
        is_conditional: delete only what still has the ETag that was listed.
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
        is_conditional: bool = False,
    ) -> None:
        super().__init__(spec, ledger, Looker(backend, gate, spec, ledger, judge))
        self._gate = gate
        self._judge = judge
        self._checkpoint = checkpoint
        self._deleter = Deleter(backend, gate, self._charge, is_conditional=is_conditional)
        self._queue: deque[Pending] = deque()
        self._has_left = False

    @property
    def is_settled(self) -> bool:
        """See `Actor`."""
        return not self._queue and not self._has_left

    def keep_object(self, key: str, size_bytes: int, reason: Reason) -> None:
        """See `Actor`."""
        if self._queue:
            self._queue.append(Pending(key, reason, size_bytes))
        else:
            self._ledger.pass_object(key, size_bytes, reason)

    def keep_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`."""
        facts = run.facts(complete=True)
        pending = Pending(run.last_key, decision.reason, facts.size_bytes, facts, decision)
        if self._queue:
            self._queue.append(pending)
        else:
            self._pass(pending)

    def delete_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`: queue the run if it fits, else act on the queue and then on the run."""
        facts = run.facts(complete=True)
        if run.members is not None and facts.objects <= self._ledger.delete_left:
            self._take_on(
                Pending(
                    run.last_key,
                    Reason.DELETED,
                    facts.size_bytes,
                    facts,
                    decision,
                    run.members,
                    listed_at=run.seen_since,
                    version=self._judge.version,
                )
            )
            return
        self.finish()
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
        try:
            while True:
                self._advance()
                # What a batch of unknown outcome was charged for counts twice here, so the limit holds.
                self._ledger.set_aside = sum(one.left for one in self._queue if one.members is not None)
                if not self._queue:
                    return
                head = self._queue[0]
                if self._looker.is_fresh(head.listed_at):
                    self._send_batch()
                else:
                    self._queue.popleft()
                    self._ledger.set_aside -= head.left
                    self._look_again(head)
        except PassStoppedError:
            self._leave_queue()
            raise
        finally:
            self._queue.clear()
            self._ledger.set_aside = 0

    def finish(self) -> None:
        """See `Actor`."""
        self.settle()

    def close(self) -> None:
        """See `Actor`: nothing is ever under way."""

    def _take_on(self, pending: Pending) -> None:
        """Queue a due run that fits."""
        self._queue.append(pending)
        self._ledger.set_aside += pending.uncharged

    def _send_batch(self) -> None:
        """Send the first batch of the queue, which may hold members of many runs."""
        self._judge.refresh()
        parts = self._gather(self._queue, MAX_BATCH_SIZE)
        if not parts:
            return
        members = [member for part in parts for member in members_of(part)]
        result = self._deleter.delete(
            [member[0] for member in members],
            # Later runs were listed later: if the first is fresh, all are.
            valid_until=parts[0].pending.listed_at + self._looker.fresh_seconds,
            etags={key: etag for key, _, etag in members},
            may_go_on=lambda: self._are_still_due(parts),
        )
        left = result.done
        for pending, start, stop in parts:
            end = min(stop, start + left)
            if end > start:
                left -= end - start
                pending.sent = end
                self._book(pending, start, end, result.failed)
        self._advance()
        if result.done:
            self._checkpoint()
        if result.stop is not None:
            raise result.stop

    def _are_still_due(self, parts: Sequence[Part]) -> bool:
        """Tell whether nothing that is known by now protects a run of a batch."""
        self._judge.refresh()
        version = self._judge.version
        for pending in {id(part.pending): part.pending for part in parts}.values():
            if pending.version != version and pending.judged is not None:
                if not self._looker.decide(pending.judged).is_due:
                    return False
                pending.version = version
        return True

    def _gather(self, queue: Iterable[Pending], size: int) -> list[Part]:
        """Return members of leading runs that may be sent together now; spare what is protected now."""
        parts: list[Part] = []
        taken = 0
        for pending in queue:
            if taken >= size:
                break
            if pending.sent >= pending.end or self._is_spared(pending):
                continue
            count = min(pending.end - pending.sent, size - taken)
            parts.append(Part(pending, pending.sent, pending.sent + count))
            taken += count
        return parts

    def _is_spared(self, pending: Pending) -> bool:
        """Judge a run again if something new is known; tell whether the rest of it is kept."""
        version = self._judge.version
        if pending.version == version or pending.judged is None:
            return False
        decision = self._looker.decide(pending.judged)
        if decision.is_due:
            pending.version = version
            return False
        self._spare_rest(pending, decision)
        return True

    def _advance(self) -> None:
        """Move the cursor over what has been acted on."""
        queue = self._queue
        while queue and queue[0].is_settled:
            self._pass(queue.popleft())
        if queue and queue[0].is_begun:
            self._ledger.run = queue[0].progress

    def _look_again(self, pending: Pending) -> None:
        """Sweep a queued run whose listing has become too old."""
        self._book_rest(pending)
        self._sweep(
            pending.progress,
            pending.verdict,
            last_key=pending.last_key,
            was_seen=True,
            failed=pending.failed[0],
        )

    def _leave_queue(self) -> None:
        """Book what a stop leaves in the queue; the cursor stands before it."""
        ledger = self._ledger
        self._has_left = True
        for pending in self._queue:
            if pending.members is None:
                continue
            progress = pending.progress
            self._book_rest(pending)
            ledger.note_overdue(progress.prefix, pending.verdict, still_there=True)
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
        newer = 0
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
                version = self._judge.version
                if view.facts.objects and not self._looker.decide(view.facts).is_due:
                    self._spare(run, view, last_key, was_seen=was_seen)
                    return
                if not (view.ended or is_collecting or is_first):
                    raise self._out_of_scans()
                if not is_begun and ledger.delete_left < view.facts.objects <= limit:
                    raise self._out_of_deletions(view.facts)
                if not is_collecting:
                    looked_at = self._gate.now
                sent = self._send(run, view, version)
                run, failed, newer = sent.run, failed + sent.failed, newer + sent.newer
                if sent.is_all and view.ended and not view.has_more:
                    reason = outcome_of(failed=failed, newer=newer)
                    ledger.pass_run(view.facts, decision, max(last_key, run.prefix), reason)
                    return
        except PassStoppedError:
            ledger.note_overdue(run.prefix, decision, still_there=True)
            raise

    def _send(self, run: RunProgress, view: View, version: int) -> Sent:
        """Delete the candidates while they are fresh and nothing new is known of the run.

        Args:
            run: how far the run has got.
            view: the candidates.
            version: of the judge, when the run was judged by this view.
        """
        part = instalment_of(run, view)
        # Candidates that were only just collected are not collected again, however slow the store.
        is_wanted = view.is_collecting or self._looker.is_fresh(view.candidates_at)
        try:
            while part.sent < part.end and is_wanted and self._is_still_due(view, version):
                members = view.candidates[part.sent : part.sent + MAX_BATCH_SIZE]
                result = self._deleter.delete(
                    [key for key, *_ in members],
                    valid_until=view.candidates_at + self._looker.fresh_seconds,
                    etags={key: etag for key, _, etag in members},
                    may_go_on=partial(self._is_still_due, view, version),
                )
                if result.done:
                    start, part.sent = part.sent, part.sent + result.done
                    self._book(part, start, part.sent, result.failed)
                    self._ledger.run = part.progress
                    self._checkpoint()
                if result.stop is not None:
                    raise result.stop
                is_wanted = self._looker.is_fresh(view.candidates_at) and not part.newer[0]
        finally:
            self._book_rest(part)
        return Sent(part.progress, part.failed[0], part.newer[0], not part.left)

    def _is_still_due(self, view: View, version: int) -> bool:
        """Tell whether nothing new protects a run that was judged at this version of the judge."""
        self._judge.refresh()
        return self._judge.version == version or self._looker.decide(view.facts).is_due
