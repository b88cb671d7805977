"""Our own work queue: Kopf's events say *that* something changed, this decides *when* it is looked at.

Invariants: a key is worked on by at most one thread at a time; a key that is offered while
it is worked on is looked at once more afterwards, never twice; delays hold until something
earlier asks for the same key; a worker that raises is tried again later with exponential
back-off and jitter, and never ends its thread. Kinds have lanes of their own, so that slow
probes cannot hold up pod templates.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bubu_operator.errors import OperatorError
from bubu_operator.kube.informer import backoff_seconds
from bubu_operator.kube.resources import ObjectKey

__all__ = ["Lane", "Reconcile", "StoreSlots"]

logger = logging.getLogger(__name__)

BACKOFF_BASE_SECONDS: Final = 1.0
BACKOFF_MAX_SECONDS: Final = 60.0

Reconcile: TypeAlias = Callable[[ObjectKey], "float | None"]
"""Looks at one object; returns after how many seconds to look again, or None for never."""


@dataclass(slots=True)
class _Entry:
    """One key: when it is due (None = not queued), and whether a thread has it."""

    due: float | None = None
    ticket: int = 0
    running: bool = False
    failures: int = 0


@dataclass(slots=True)
class _Board:
    entries: dict[ObjectKey, _Entry] = field(default_factory=dict[ObjectKey, _Entry])
    heap: list[tuple[float, int, ObjectKey]] = field(default_factory=list[tuple[float, int, ObjectKey]])


class Lane:
    """Bounded workers that call one reconcile function, earliest due key first."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._condition = threading.Condition()
        self._board = _Board()
        self._tickets = itertools.count()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    # -- offering work -------------------------------------------------------------------

    def offer(self, key: ObjectKey, after_seconds: float = 0.0) -> None:
        """Ask for a look at ``key`` at the latest ``after_seconds`` from now."""
        due = self._monotonic() + max(0.0, after_seconds)
        with self._condition:
            if self._stopping:
                return
            entry = self._board.entries.setdefault(key, _Entry())
            if entry.due is None or due < entry.due:
                self._queue(key, entry, due)

    def _queue(self, key: ObjectKey, entry: _Entry, due: float) -> None:
        entry.due = due
        entry.ticket = next(self._tickets)
        heapq.heappush(self._board.heap, (due, entry.ticket, key))
        self._condition.notify()

    def pending(self) -> dict[ObjectKey, float]:
        """Return the queued keys and in how many seconds each is due (for tests and metrics)."""
        now = self._monotonic()
        with self._condition:
            return {
                key: max(0.0, entry.due - now)
                for key, entry in self._board.entries.items()
                if entry.due is not None
            }

    # -- working -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers."""
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"{self.name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Take no more keys; `join` waits for those in hand."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the workers; tell whether all have ended."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def run_once(self) -> ObjectKey | None:
        """Work on the earliest due key in the calling thread (for tests); None if none is due."""
        with self._condition:
            key = self._take()
        if key is not None:
            self._do(key)
        return key

    def _work(self) -> None:
        while True:
            with self._condition:
                key = self._take()
                while key is None and not self._stopping:
                    self._condition.wait(self._wait_seconds())
                    key = self._take()
                if self._stopping:
                    return
            if key is not None:
                self._do(key)

    def _take(self) -> ObjectKey | None:
        """Return the earliest due key that nobody has; entries that were re-queued are skipped."""
        now = self._monotonic()
        heap = self._board.heap
        while heap and not self._stopping:
            due, ticket, key = heap[0]
            entry = self._board.entries.get(key)
            if entry is None or entry.due is None or entry.ticket != ticket:
                heapq.heappop(heap)
                continue
            if due > now:
                return None
            heapq.heappop(heap)
            if entry.running:
                # `_finish` puts it back; leaving it in the heap would spin.
                continue
            entry.due = None
            entry.running = True
            return key
        return None

    def _wait_seconds(self) -> float | None:
        heap = self._board.heap
        return None if not heap else max(0.0, heap[0][0] - self._monotonic())

    def _do(self, key: ObjectKey) -> None:
        try:
            again = self._reconcile(key)
        except OperatorError as error:
            # The API server's trouble, said in one line; a traceback would add nothing.
            again, failures = self._retry(key)
            logger.warning("%s %s again in %.1f s: %s", self.name, key, again, error)
            self._finish(key, again, failures)
        except Exception:  # the lane outlives every bug in a reconcile function
            again, failures = self._retry(key)
            logger.exception("%s %s failed, again in %.1f s", self.name, key, again)
            self._finish(key, again, failures)
        else:
            self._finish(key, again, 0)

    def _retry(self, key: ObjectKey) -> tuple[float, int]:
        """Return the pause after one more failure, and how many there were in a row."""
        failures = self._failures(key) + 1
        pause = backoff_seconds(failures, self._rng, base=BACKOFF_BASE_SECONDS, maximum=BACKOFF_MAX_SECONDS)
        return pause, failures

    def _failures(self, key: ObjectKey) -> int:
        with self._condition:
            return self._board.entries[key].failures

    def _finish(self, key: ObjectKey, again: float | None, failures: int) -> None:
        with self._condition:
            entry = self._board.entries[key]
            entry.running = False
            entry.failures = failures
            # Offered meanwhile: `due` is set, but its place in the heap may be spent.
            wanted = entry.due
            if again is not None:
                due = self._monotonic() + max(0.0, again)
                wanted = due if wanted is None else min(wanted, due)
            if wanted is None:
                del self._board.entries[key]
            elif not self._stopping:
                self._queue(key, entry, wanted)


class StoreSlots:
    """At most one pass on a store and ``capacity`` passes in all, first come, first served.

    A key that finds no room is remembered; `release` gives the room to those that wait
    longest and names them, so that the caller can wake them.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._holders: dict[str, ObjectKey] = {}
        self._waiting: list[tuple[str, ObjectKey]] = []

    def acquire(self, store: str, key: ObjectKey) -> bool:
        """Take the store for ``key``, or queue up for it; True when it is ours."""
        with self._lock:
            if self._holders.get(store) == key:
                return True
            if (store, key) not in self._waiting:
                self._waiting.append((store, key))
            return key in self._admit()

    def release(self, key: ObjectKey) -> list[ObjectKey]:
        """Give up every store and every place in the queue that ``key`` has; return who may go now."""
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if waiting[1] != key]
            self._holders = {store: holder for store, holder in self._holders.items() if holder != key}
            return self._admit()

    def _admit(self) -> list[ObjectKey]:
        admitted: list[ObjectKey] = []
        for store, key in list(self._waiting):
            if len(self._holders) >= self._capacity:
                break
            if store not in self._holders:
                self._holders[store] = key
                self._waiting.remove((store, key))
                admitted.append(key)
        return admitted

    def holder(self, store: str) -> ObjectKey | None:
        """Return who has the store."""
        with self._lock:
            return self._holders.get(store)
