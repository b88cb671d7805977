"""The loop behind a bulk deletion: reads ahead, keeps requests in flight, judges the answers.

Threads only send and read: one reads what is to be deleted, the others delete. Everything is decided in
the calling thread, by one answer after the other, so there is no lock and no shared state.

Invariants: at most ``concurrency`` deletions are in flight, and a bounded number of objects is
in memory; an error that ends it is raised when nothing is in flight any more, and carries the
report of what had been deleted by then.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from queue import Empty, SimpleQueue
from typing import Final

from bubu_storage.backend.bulk_books import Books, BulkDeleteProgress, BulkDeleteReport, attach_report
from bubu_storage.backend.bulk_pacing import Pacer, pause_seconds
from bubu_storage.backend.bulk_reader import Reader
from bubu_storage.backend.bulk_requests import FATAL, Answer, Batch, Plan, Split, all_denied, delete_batch
from bubu_storage.backend.bulk_source import Item, Source
from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.types import BatchDeleter
from bubu_storage.errors import (
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    TransientError,
    UnsupportedOperationError,
)

__all__ = ["MAX_ATTEMPTS", "MAX_FAILED_IN_A_ROW", "SINGLES_AT_A_TIME", "Engine", "Timer"]

MAX_ATTEMPTS: Final = 4
"""How often a request is sent that fails with an error which may pass."""

_SMALLER: Final = (500, 100)
"""Sizes to try where a batch as a whole is refused, before single deletions."""

MAX_FAILED_IN_A_ROW: Final = MAX_ATTEMPTS * (len(_SMALLER) + 2)
"""Failures of whole requests, not of those sent together and with no success in between, after which
the store counts as down: one batch may have so many before it is known to be at fault itself."""

SINGLES_AT_A_TIME: Final = 16
"""Single deletions that one thread sends one after the other."""

_READ_AHEAD: Final = 8
"""Full batches that may wait for a thread."""

_STOP_POLL_SECONDS: Final = 0.1


class Timer:
    """The passing of time; tests replace it."""

    def now(self) -> float:
        """Return seconds since some start."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


class Engine:
    """One bulk deletion; `run` it once.

    Args:
        plan: what to do.
        source: what to delete.
        on_progress: told after each answer.
        stop: ends it when set.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        on_progress: Callable[[BulkDeleteProgress], object] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._plan = plan
        self._source = source
        self._on_progress = on_progress
        self._stop = stop
        self._timer = Timer()
        self._books = Books()
        self._pacer = Pacer(plan.concurrency)
        batches = plan.batch_size > 1 and isinstance(plan.backend, BatchDeleter)
        self._batcher: BatchDeleter | None = plan.backend if batches else None  # pyright: ignore[reportAttributeAccessIssue]
        self._size = plan.batch_size
        self._avoid_imitated_batches()
        self._pool = ThreadPoolExecutor(plan.concurrency, thread_name_prefix="bubu-bulk")
        # An answer stays here until it is in the books, which no interrupt between two steps prevents.
        self._answers: deque[Answer] = deque()
        self._arrivals: SimpleQueue[None] = SimpleQueue()
        self._reader = Reader(source, self._arrive)
        self._ending = threading.Event()
        self._in_flight = 0
        self._failed_in_a_row = 0
        # What is read and not sent yet; batches to send before that; batches to send later.
        self._items: list[Item] = []
        self._ready: deque[Batch] = deque()
        self._later: list[tuple[float, int, Batch]] = []
        self._serial = count()
        self._is_reading = False
        self._all_read = False
        self._read_attempts = 0
        self._read_after = float("-inf")

    def run(self) -> BulkDeleteReport:
        """Delete everything.

        Raises:
            StorageError: what ended it; see `bubu_storage.backend.bulk_books.partial_report`.
            BaseException: whatever else came up in the source, the backend or ``on_progress``.
        """
        try:
            try:
                completed = self._loop()
            finally:
                self._finish()
        except BaseException as error:
            attach_report(error, self._books.report(stopped=True))
            raise
        return self._books.report(stopped=not completed)

    def _loop(self) -> bool:
        """Return whether it came to its end."""
        while not self._is_done():
            if self._stop is not None and self._stop.is_set():
                return False
            self._start()
            if self._wait(busy=self._is_reading or self._in_flight > 0):
                self._settle_next()
                if self._on_progress is not None:
                    self._on_progress(self._books.progress())
        return True

    def _is_done(self) -> bool:
        waiting = self._ready or self._items or self._later
        return self._all_read and not (waiting or self._in_flight or self._is_reading)

    def _finish(self) -> None:
        """Wait for what is in flight and enter it into the books."""
        self._ending.set()
        self._reader.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.wait()
        while self._answers:
            self._settle_next()
        # Whatever it thinks of being closed, it has no objects to give any more.
        with contextlib.suppress(Exception):
            self._source.close()

    # ---- sending

    def _start(self) -> None:
        """Send what may be sent now."""
        now = self._timer.now()
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if self._may_read(now):
            self._is_reading = True
            self._reader.read(self._pacer.generation)
        while self._pacer.has_room(self._in_flight, now) and (batch := self._next_batch()) is not None:
            self._in_flight += 1
            self._pool.submit(self._delete, batch, self._batcher, self._pacer.generation)

    def _delete(self, batch: Batch, batcher: BatchDeleter | None, generation: int) -> None:
        """Send a batch; in a thread of the pool."""
        self._arrive(delete_batch(self._plan, batcher, batch, generation, self._ending))

    def _arrive(self, answer: Answer) -> None:
        """Hand over an answer; in any thread."""
        self._answers.append(answer)
        self._arrivals.put(None)

    def _may_read(self, now: float) -> bool:
        if self._all_read or self._is_reading or now < max(self._read_after, self._pacer.resume_at):
            return False
        waiting = sum(len(batch.items) for batch in self._ready)
        waiting += sum(len(batch.items) for _, _, batch in self._later)
        return len(self._items) + waiting < _READ_AHEAD * self._size

    def _next_batch(self) -> Batch | None:
        if self._ready:
            batch = self._ready.popleft()
            batch.singly = batch.singly or self._batcher is None
            if batch.singly and len(batch.items) > SINGLES_AT_A_TIME:
                rest = Batch(batch.items[SINGLES_AT_A_TIME:], batch.attempts, singly=True)
                self._ready.appendleft(rest)
                return Batch(batch.items[:SINGLES_AT_A_TIME], batch.attempts, singly=True)
            return batch
        if not self._items or (len(self._items) < self._size and not self._all_read):
            return None
        items = self._items[: self._size]
        del self._items[: self._size]
        return Batch(items, singly=self._batcher is None)

    def _wait(self, *, busy: bool) -> bool:
        """Wait for an answer, or until there is something to send again; False for the latter."""
        now = self._timer.now()
        times = [self._later[0][0]] if self._later else []
        times += [moment for moment in (self._pacer.resume_at, self._read_after) if moment > now]
        pause = max(0.0, min(times) - now) if times else None
        if self._stop is not None:
            pause = _STOP_POLL_SECONDS if pause is None else min(pause, _STOP_POLL_SECONDS)
        if not busy:
            self._timer.sleep(pause or 0.0)
            return False
        try:
            self._arrivals.get(timeout=pause)
        except Empty:
            return False
        return True

    # ---- judging

    def _settle_next(self) -> None:
        answer = self._answers[0]
        if not answer.is_settled:
            answer.is_settled = True
            self._settle(answer)
        self._answers.popleft()

    def _settle(self, answer: Answer) -> None:
        if answer.batch is None:
            self._settle_read(answer)
            return
        self._in_flight -= 1
        self._books.requests += answer.requests
        items = answer.batch.items
        self._settle_keys(answer, answer.batch, items[: answer.done])
        self._avoid_imitated_batches()
        rest = Batch(items[answer.done :], answer.batch.attempts, answer.batch.singly, answer.batch.split)
        if answer.error is not None:
            self._settle_error(answer.error, rest, answer.generation)
        elif answer.batch.split is not None:
            self._learn(answer.batch.split)

    def _settle_read(self, answer: Answer) -> None:
        self._is_reading = False
        error = answer.error
        if error is None:
            self._read_attempts = 0
            self._all_read = answer.read is None
            self._take(answer.read or [])
        elif not isinstance(error, TransientError) or not self._source.can_resume:
            self._give_up(error)
        elif isinstance(error, ThrottledError):
            self._slow_down(error, answer.generation)
        else:
            self._read_attempts += 1
            if self._read_attempts >= MAX_ATTEMPTS:
                self._give_up(error)
            self._read_after = self._timer.now() + pause_seconds(self._read_attempts)

    def _take(self, items: list[Item]) -> None:
        self._books.found += len(items)
        if self._plan.if_unchanged and not all(item.etag for item in items):
            for item in items:
                if not item.etag:
                    text = f"object {item.key!r} was listed without an ETag, so none can be compared"
                    self._books.add_failed(item, PreconditionFailedError(text, key=item.key))
            items = [item for item in items if item.etag]
        self._items += items

    def _settle_keys(self, answer: Answer, batch: Batch, items: list[Item]) -> None:
        """Enter what the store has answered for."""
        gone = items
        again: list[tuple[Item, StorageError]] = []
        fatal: StorageError | None = None
        if answer.failed:
            gone = list[Item]()
            for item in items:
                error = answer.failed.get(item.key)
                if error is None or isinstance(error, ObjectNotFoundError):
                    gone.append(item)
                elif isinstance(error, TransientError):
                    again.append((item, error))
                else:
                    self._books.add_failed(item, error)
                    fatal = fatal or (error if isinstance(error, FATAL) else None)
        self._books.add_deleted(gone)
        if gone:
            self._failed_in_a_row = 0
            self._pacer.succeeded()
        elif items and not self._books.deleted and fatal is None:
            fatal = all_denied(items, answer.failed)
        if again:
            self._try_again(batch, again, answer.generation)
        if fatal is not None:
            self._give_up(fatal)

    def _try_again(self, batch: Batch, again: list[tuple[Item, StorageError]], generation: int) -> None:
        """Plan another request for single keys whose error may pass."""
        throttled = [error for _, error in again if isinstance(error, ThrottledError)]
        # Where the store only throttles, the pacer decides how long that may go on.
        attempts = batch.attempts + (len(throttled) < len(again))
        if self._ending.is_set() or attempts >= MAX_ATTEMPTS:
            for item, error in again:
                self._books.add_failed(item, error)
            if len(again) == len(batch.items):
                self._note_failure(again[0][1], generation)
            return
        self._delay(Batch([item for item, _ in again], attempts, batch.singly))
        if throttled:
            self._slow_down(throttled[0], generation)

    def _settle_error(self, error: BaseException, rest: Batch, generation: int) -> None:
        """Decide about objects that a request did not get to, or failed for as a whole."""
        if isinstance(error, ThrottledError):
            self._ready.appendleft(rest)
            self._slow_down(error, generation)
        elif not isinstance(error, StorageError) or isinstance(error, (*FATAL, PermissionDeniedError)):
            self._give_up(error)
        elif isinstance(error, UnsupportedOperationError):
            if rest.singly:
                self._give_up(error)
            self._send_singly()
            self._ready.appendleft(Batch(rest.items, rest.attempts, singly=True))
        elif isinstance(error, TransientError):
            rest.attempts += not rest.singly  # of single deletions, these have not been sent yet
            if rest.singly:
                self._delay(rest)
            elif isinstance(error, StorageTimeoutError) or rest.attempts >= MAX_ATTEMPTS:
                # It may take the store too long to delete so many.
                self._divide(rest, error)
            else:
                self._delay(rest)
            self._note_failure(error, generation)
        else:
            # The store may accept fewer, or one key spoils the rest.
            self._divide(rest, error)

    def _divide(self, batch: Batch, error: StorageError) -> None:
        """Try smaller batches instead of one that failed as a whole."""
        if self._ending.is_set():
            for item in batch.items:
                self._books.add_failed(item, error)
            return
        size = next((size for size in _SMALLER if size < len(batch.items)), 0)
        if not size:
            self._ready.appendleft(Batch(batch.items, singly=True))
            return
        pieces = [batch.items[start : start + size] for start in range(0, len(batch.items), size)]
        split = Split(len(pieces), size)
        self._ready.extendleft(Batch(piece, split=split) for piece in reversed(pieces))

    def _send_singly(self) -> None:
        """Send no batches any more."""
        self._batcher = None
        self._size = SINGLES_AT_A_TIME

    def _avoid_imitated_batches(self) -> None:
        """Where a batch would be deleted one by one inside the call, do so side by side instead."""
        if self._batcher is None or getattr(innermost(self._plan.backend), "bulk_delete_is_emulated", False):
            self._send_singly()

    def _learn(self, split: Split) -> None:
        """Send smaller batches from now on if it was the size that a store refused."""
        split.left -= 1
        if not split.left and self._batcher is not None:
            self._size = min(self._size, split.piece_size)

    def _delay(self, batch: Batch) -> None:
        if batch.items:
            attempts = max(batch.attempts, min(self._failed_in_a_row, MAX_ATTEMPTS))
            due = self._timer.now() + pause_seconds(attempts)
            heapq.heappush(self._later, (due, next(self._serial), batch))

    def _slow_down(self, error: ThrottledError, generation: int) -> None:
        if not self._pacer.throttled(generation, self._timer.now(), error.retry_after_seconds):
            self._give_up(error)

    def _note_failure(self, error: StorageError, generation: int) -> None:
        """Take note of a request that failed as a whole, for a reason that may pass."""
        if self._pacer.reduce(generation):
            # What took the whole time limit is not tried often.
            self._failed_in_a_row += MAX_ATTEMPTS if isinstance(error, StorageTimeoutError) else 1
            if self._failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """End it with this error; only the first one counts."""
        if not self._ending.is_set():
            raise error
