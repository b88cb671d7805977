"""Packs decisions that wait into requests, and sends those that may be sent now.

Invariants: deletions count against ``maxDelete`` when they are sent, and no more when they come back unsent;
what goes out is judged and fresh at that moment; what waits is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bubu_storage.backend.bulk_pacing import Pacer
from bubu_storage.backend.bulk_source import Item
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.retention.courier import SINGLES_AT_A_TIME, Courier, Parcel
from bubu_storage.retention.delete import MAX_BATCH_SIZE
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.pending import Pending
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.rules import Decision
from bubu_storage.retention.scan import OpenRun
from bubu_storage.retention.spec import PassSpec
from bubu_storage.retention.sweep import Sweeper

__all__ = ["Dispatcher", "owned_by"]

_WAITING_BATCHES: Final = 4
"""Full batches that may wait for being sent."""

_MAX_QUEUE: Final = 20_000
"""Decisions that may wait for those before them."""

_PARTIAL_AFTER_SECONDS: Final = 1.0
"""Age of a listing after which its members no longer wait for a full batch."""


class Dispatcher(Sweeper):
    """The half of a pipeline that sends.

    Args:
        backend: the store.
        gate: lets each request through.
        spec: rules and limits.
        ledger: the books.
        judge: judges runs again.
        checkpoint: called after each answer, when the ledger's cursor may be stored.
        concurrency: most requests in flight.
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
        concurrency: int,
        is_conditional: bool = False,
    ) -> None:
        super().__init__(
            backend,
            gate,
            spec,
            ledger,
            judge=judge,
            checkpoint=checkpoint,
            is_conditional=is_conditional,
        )
        self._courier = Courier(backend, gate, judge, concurrency, is_conditional=is_conditional)
        self._pacer = Pacer(concurrency)
        self._size = MAX_BATCH_SIZE if self._courier.has_batches else SINGLES_AT_A_TIME
        # Runs with members that were not handed over yet, in order; parcels that go before those.
        self._unsent: deque[Pending] = deque()
        self._ready: deque[Parcel] = deque()
        self._unsent_count: int = 0
        self._abandoned: int = 0
        self._failed_in_a_row = 0
        self._is_held: bool = False
        self._is_closed = False

    def keep_object(self, key: str, size_bytes: int, reason: Reason) -> None:
        """See `Actor`."""
        super().keep_object(key, size_bytes, reason)
        self._hold_back()

    def keep_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`."""
        super().keep_run(run, decision)
        self._hold_back()

    # ---- what waits

    @property
    def _is_roomy(self) -> bool:
        return self._unsent_count <= _WAITING_BATCHES * self._size and len(self._queue) <= _MAX_QUEUE

    def _take_on(self, pending: Pending) -> None:
        super()._take_on(pending)
        self._unsent.append(pending)
        self._unsent_count += pending.end
        self._hold_back()

    def _hold_back(self) -> None:
        if not self._is_roomy:
            self.settle()

    def _spare_rest(self, pending: Pending, decision: Decision) -> None:
        if pending.is_instalment:
            # A new look tells the reason, and counts what is left.
            self._abandon(pending)
            return
        count = pending.spare_unsent(decision)
        self._unsent_count -= count
        self._uncharge_waiting(pending, count)

    def _uncharge_waiting(self, pending: Pending, count: int) -> None:
        """Let go of deletions that were set aside."""
        pending.uncharged -= count
        self._ledger.set_aside -= count

    def _abandon(self, pending: Pending) -> None:
        """Leave what is left of a run to a new look at it."""
        if pending.is_abandoned:
            return
        pending.is_abandoned = True
        self._unsent_count -= pending.end - pending.sent
        pending.end = pending.sent
        self._abandoned += 1

    def _let_go(self, pending: Pending) -> None:
        """Set no more deletions aside for a run; those of unknown outcome stay charged for."""
        self._uncharge_waiting(pending, pending.uncharged)
        self._deleter.note_charged(
            item.key
            for parcel in self._ready
            if parcel.is_unknown
            for item, owner in owned_by(parcel)
            if owner is pending
        )

    # ---- sending

    def _dispatch(self, *, everything: bool) -> None:
        """Send what may be sent now."""
        while self._pacer.has_room(self._courier.in_flight, self._gate.now):
            parcel = self._next_parcel(everything=everything)
            if parcel is None:
                return
            for pending, start, stop in parcel.parts:
                if not parcel.is_unknown:
                    self._uncharge_waiting(pending, stop - start)
                    self._charge(stop - start)
            self._courier.send(parcel, self._pacer.generation)

    def _next_parcel(self, *, everything: bool) -> Parcel | None:
        """Return what goes out next, judged and fresh at this moment; None if there is nothing."""
        while self._ready:
            self._judge.refresh()
            parcel = self._still_wanted(self._ready.popleft())
            if parcel is None:
                continue
            parcel.singly = parcel.singly or not self._courier.has_batches
            if parcel.singly and len(parcel.items) > SINGLES_AT_A_TIME:
                self._ready.appendleft(parcel.cut(SINGLES_AT_A_TIME, len(parcel.items)))
                parcel = parcel.cut(0, SINGLES_AT_A_TIME)
            return self._stamped(parcel)
        while self._unsent and self._unsent[0].sent >= self._unsent[0].end:
            self._unsent.popleft()
        if self._abandoned or not self._unsent:
            return None
        first = self._unsent[0]
        is_waiting = self._unsent_count < self._size and self._is_roomy and not everything
        if is_waiting and self._gate.now - first.listed_at < _PARTIAL_AFTER_SECONDS:
            return None
        if not self._looker.is_fresh(first.listed_at):
            self._abandon(first)
            return None
        self._judge.refresh()
        parts = self._gather(self._unsent, self._size)
        if not parts:
            return None
        for pending, start, stop in parts:
            pending.sent = stop
            self._unsent_count -= stop - start
        parcel = Parcel.of(parts)
        parcel.singly = not self._courier.has_batches
        return self._stamped(parcel)

    def _stamped(self, parcel: Parcel) -> Parcel:
        """Say until when it may be sent."""
        listed_at = min(part.pending.listed_at for part in parcel.parts)
        parcel.valid_until = listed_at + self._looker.fresh_seconds
        parcel.version = self._judge.version
        return parcel

    def _still_wanted(self, parcel: Parcel) -> Parcel | None:
        """Return what is still to be sent of a parcel that comes again."""
        offset = 0
        pieces: list[tuple[int, int]] = []
        for pending, start, stop in parcel.parts:
            count = stop - start
            if not pending.is_abandoned and not self._looker.is_fresh(pending.listed_at):
                self._abandon(pending)
            is_spared = not pending.is_abandoned and (
                self._is_spared(pending) or pending.reason is not Reason.DELETED
            )
            if pending.is_abandoned:
                if parcel.is_unknown:
                    self._deleter.note_charged(item.key for item in parcel.items[offset : offset + count])
            elif is_spared:
                pending.spare(start, stop)
                if not parcel.is_unknown:
                    self._uncharge_waiting(pending, count)
            else:
                pieces.append((offset, offset + count))
            offset += count
        self._advance()
        if len(pieces) == len(parcel.parts):
            return parcel
        wanted = [parcel.cut(*piece) for piece in pieces]
        if not wanted:
            return None
        return replace(
            parcel,
            items=[item for piece in wanted for item in piece.items],
            parts=[part for piece in wanted for part in piece.parts],
            split=None,
        )

    def _put_back(self, parcel: Parcel) -> None:
        """Send it once more, before what was not sent yet."""
        if not parcel.items:
            return
        if not parcel.is_unknown:
            for pending, start, stop in parcel.parts:
                self._uncharge_waiting(pending, start - stop)
                self._charge(start - stop)
        self._ready.appendleft(parcel)


def owned_by(parcel: Parcel) -> list[tuple[Item, Pending]]:
    """Return the items of a parcel, each with the run that it belongs to."""
    owners = [part.pending for part in parcel.parts for _ in range(part.stop - part.start)]
    return list(zip(parcel.items, owners, strict=True))
