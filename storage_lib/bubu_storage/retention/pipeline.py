"""Acts on decisions as `Sweeper` does, with many requests in flight.

Everything is decided, judged and booked in the calling thread, by one answer after the other; threads
only send (`courier`). What is added to the sweeper's invariants:

* deletions count against ``maxDelete`` when they are sent, those of unknown outcome once;
* answers may come in any order, but the cursor passes a decision only when everything before it has
  been acted on;
* a store that throttles gets fewer requests at a time; one that refuses large batches gets smaller ones;
* what waits and what is in flight is bounded, and when the pass ends nothing is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, cast

from bubu_storage.backend.bulk_requests import FATAL, Answer, Split
from bubu_storage.errors import (
    NotSentError,
    ObjectNotFoundError,
    PermissionDeniedError,
    StorageError,
    ThrottledError,
    TransientError,
    UnsupportedOperationError,
)
from bubu_storage.retention.courier import SINGLES_AT_A_TIME, Parcel, TooLateError
from bubu_storage.retention.cursor import RunProgress
from bubu_storage.retention.dispatch import Dispatcher, owned_by
from bubu_storage.retention.gate import PassStoppedError, stop_of
from bubu_storage.retention.pending import Pending, Sent, instalment_of
from bubu_storage.retention.relist import View
from bubu_storage.retention.report import StoppedBy

__all__ = ["DEFAULT_CONCURRENCY", "MAX_CONCURRENCY", "Pipeline"]

DEFAULT_CONCURRENCY: Final = 16
"""Deletions in flight of a pass that is to be fast."""

MAX_CONCURRENCY: Final = 256
"""More are of no use to anybody."""

_SMALLER: Final = (500, 100)
"""Sizes to try where a batch as a whole is refused, before single deletions."""

_MAX_FAILED_IN_A_ROW: Final = 16
"""Failures of whole requests, not of those sent together and with no success in between, after which the
store counts as down."""


class Pipeline(Dispatcher):
    """Deletes due runs, many requests at a time; see `Dispatcher` for the arguments."""

    def settle(self) -> None:
        """See `Actor`: send what can be sent, and wait only while too much is waiting."""
        self._work(lambda: self._is_roomy and not self._abandoned)

    def finish(self) -> None:
        """See `Actor`: send everything, and wait for it."""
        self._work(lambda: not self._queue, everything=True)

    def close(self) -> None:
        """See `Actor`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._courier.end()
        faults: list[BaseException] = []
        try:
            self._drain(faults)
        finally:
            self._courier.close()
        self._advance()
        self._leave_queue()
        self._queue.clear()
        if faults:
            raise faults[0]

    def _drain(self, faults: list[BaseException]) -> None:
        """Wait for what is in flight and book it."""
        while (answer := self._courier.receive(None)) is not None:
            try:
                self._take(answer)
            except PassStoppedError:
                pass  # the pass is ending already
            except Exception as fault:  # noqa: BLE001 - raised when nothing is in flight any more
                faults.append(fault)

    def _leave_queue(self) -> None:
        if self._queue or self._is_held:
            super()._leave_queue()

    # ---- the loop

    def _work(self, is_enough: Callable[[], bool], *, everything: bool = False) -> None:
        """Receive answers, send, and look again at what has become too old, until it is enough.

        Args:
            is_enough: asked when all that can be done without waiting was done.
            everything: also send batches that are not full.
        """
        while True:
            self._receive_all()
            self._advance()
            head = self._queue[0] if self._queue else None
            if head is not None and head.is_abandoned and not self._courier.in_flight:
                self._abandoned -= 1
                self._queue.popleft()
                if not head.is_instalment:
                    self._look_again(head)
                continue
            self._dispatch(everything=everything)
            if is_enough() and not (everything and self._courier.in_flight):
                return
            self._wait()

    def _look_again(self, pending: Pending) -> None:
        """See `Sweeper`; nothing is in flight now, and what waits goes on waiting."""
        self._let_go(pending)
        self._is_held = True
        super()._look_again(pending)
        self._is_held = False

    def _advance(self) -> None:
        # A run that a stop ended the sweep of is in the queue no more, and nothing may pass it.
        if self._is_held:
            return
        if not self._queue or not self._queue[0].is_instalment:
            super()._advance()
            return
        part = self._queue[0]
        if part.is_begun:
            self._ledger.run = part.progress
        if part.is_settled:
            self._queue.popleft()

    def _receive_all(self) -> None:
        """Book the answers that are there."""
        while (answer := self._courier.receive(0)) is not None:
            self._take(answer)
            self._checkpoint()

    def _wait(self) -> None:
        """Wait for an answer, or for the store to be ready for requests again."""
        pause = self._pacer.resume_at - self._gate.now
        if self._courier.in_flight:
            answer = self._courier.receive(max(pause, 0.001) if pause > 0 else None)
            if answer is not None:
                self._take(answer)
                self._checkpoint()
        elif pause > 0:
            self._gate.rest(pause)

    # ---- judging answers

    def _take(self, answer: Answer) -> None:
        """Book an answer and decide what becomes of the rest.

        Raises:
            PassStoppedError: the pass must end.
            BaseException: what the backend raised outside its contract.
        """
        parcel = cast("Parcel", answer.batch)
        again = (
            [
                index
                for index, item in enumerate(parcel.items[: answer.done])
                if isinstance(answer.failed.get(item.key), (ThrottledError, NotSentError))
            ]
            if answer.failed
            else []
        )
        gone = self._book_done(parcel, answer, frozenset(again))
        rest = parcel.cut(answer.done, len(parcel.items))
        if gone:
            self._failed_in_a_row = 0
            self._pacer.succeeded()
            self._gate.succeeded()
        for pending, _, _ in parcel.parts:
            if pending.is_instalment and pending.newer[0]:
                self._abandon(pending)
        for index in reversed(again):
            self._put_back(parcel.cut(index, index + 1))
        self._advance()
        if again:
            error = answer.failed[parcel.items[again[0]].key]
            if not isinstance(error, ThrottledError):
                raise stop_of(error)
            self._slow_down(error, answer.generation)
        if answer.error is not None:
            self._take_error(answer.error, rest, answer)
        elif parcel.split is not None and not again:
            self._learn(parcel.split)

    def _book_done(self, parcel: Parcel, answer: Answer, again: frozenset[int]) -> int:
        """Book what the store has answered for; return how many objects are gone."""
        failed = {
            key: error for key, error in answer.failed.items() if not isinstance(error, ObjectNotFoundError)
        }
        gone = 0
        done = parcel.cut(0, answer.done) if answer.done < len(parcel.items) else parcel
        if not again:
            for pending, start, stop in done.parts:
                gone += self._book(pending, start, stop, failed)
            return gone
        for index, (_, pending) in enumerate(owned_by(done)):
            if index not in again:
                position = done.items[index].position
                gone += self._book(pending, position, position + 1, failed)
        return gone

    def _take_error(self, error: BaseException, rest: Parcel, answer: Answer) -> None:
        """Decide about members that a request did not get to, or failed for as a whole."""
        if isinstance(error, TooLateError):
            self._put_back(rest)
        elif isinstance(error, ThrottledError):
            self._put_back(rest)
            self._slow_down(error, answer.generation)
        elif isinstance(error, (PassStoppedError, *FATAL)):
            self._put_back(rest)
            raise error if isinstance(error, PassStoppedError) else stop_of(error)
        elif not isinstance(error, StorageError):
            raise error
        elif isinstance(error, UnsupportedOperationError) and not rest.singly:
            self._courier.has_batches = False
            self._size = SINGLES_AT_A_TIME
            self._put_back(rest)
        elif rest.singly:
            # Several single deletions failed one after the other: the store is down.
            self._put_back(rest)
            raise stop_of(error)
        else:
            rest.is_unknown = True
            self._note_failure(error, answer.generation)
            self._divide(rest, error)

    def _divide(self, parcel: Parcel, error: StorageError) -> None:
        """Try smaller batches instead of one that failed as a whole."""
        count = len(parcel.items)
        size = next((size for size in _SMALLER if size < count), 0)
        if not size or isinstance(error, PermissionDeniedError):
            parcel.singly = True
            parcel.split = None
            self._ready.appendleft(parcel)
            return
        split = Split(-(-count // size), size)
        pieces = [parcel.cut(start, start + size) for start in range(0, count, size)]
        for piece in pieces:
            piece.split = split
        self._ready.extendleft(reversed(pieces))

    def _learn(self, split: Split) -> None:
        """Send smaller batches from now on if it was the size that the store refused."""
        split.left -= 1
        if not split.left and self._courier.has_batches:
            self._size = min(self._size, split.piece_size)

    def _slow_down(self, error: ThrottledError, generation: int) -> None:
        """Send fewer requests at a time, later."""
        self._gate.check_wait(error.retry_after_seconds or 0.0, error)
        if not self._pacer.throttled(generation, self._gate.now, error.retry_after_seconds):
            raise PassStoppedError(
                StoppedBy.THROTTLED, "the store asked many times in a row for fewer requests", error
            )

    def _note_failure(self, error: StorageError, generation: int) -> None:
        """Take note of a request that failed as a whole, for a reason that may be the store's."""
        if isinstance(error, TransientError) and self._pacer.reduce(generation):
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= _MAX_FAILED_IN_A_ROW:
                raise stop_of(error)

    # ---- instalments

    def _send(self, run: RunProgress, view: View, version: int) -> Sent:
        """See `Sweeper`; nothing else is in flight, and what waits goes on waiting."""
        if len(view.candidates) <= self._size or not self._looker.is_fresh(view.candidates_at):
            return super()._send(run, view, version)
        part = instalment_of(run, view)
        part.version, part.judged = version, view.facts
        waiting = self._queue, self._unsent, self._ready, self._unsent_count, self._abandoned, self._is_held
        self._queue, self._unsent, self._ready = deque([part]), deque([part]), deque()
        self._unsent_count, self._abandoned, self._is_held = part.end, 0, False
        self._ledger.set_aside += part.uncharged
        try:
            self._work(lambda: not self._queue, everything=True)
        except BaseException:
            self._courier.end()
            self._drain([])
            raise
        finally:
            self._let_go(part)
            self._book_rest(part)
            self._ledger.run = part.progress
            self._queue, self._unsent, self._ready, self._unsent_count, self._abandoned, self._is_held = (
                waiting
            )
        if not part.is_begun:
            # However slow the store: one request is sent by each listing.
            return super()._send(run, view, version)
        return Sent(part.progress, part.failed[0], part.newer[0], not part.left)
