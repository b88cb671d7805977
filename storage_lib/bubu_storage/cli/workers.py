"""Work on many items at a time: bounded in memory, stoppable within seconds.

The threads are daemons: one that hangs in a store's answer must not keep a person who pressed
Ctrl-C waiting.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Final, Generic, TypeVar

__all__ = ["StoppedError", "each"]

_Item = TypeVar("_Item")
_STOP_SECONDS: Final = 3.0
_READ_AHEAD: Final = 4


class StoppedError(Exception):
    """Raised inside work that should end because the command does."""


class _Pool(Generic[_Item]):
    def __init__(self, work: Callable[[_Item], None], jobs: int) -> None:
        self._work = work
        self._todo: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[_Item, BaseException | None]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    def give(self, item: _Item) -> None:
        self._todo.put(item)

    def _run(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                self._work(item)
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who would wait for ever else
                self.done.put((item, error))
            else:
                self.done.put((item, None))

    def close(self, *, wait_seconds: float) -> None:
        for _ in self._threads:
            self._todo.put(None)
        deadline = time.monotonic() + wait_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def each(
    items: Iterable[_Item], work: Callable[[_Item], None], *, jobs: int, stop: threading.Event
) -> Generator[tuple[_Item, Exception | None]]:
    """Do ``work`` on each item and give it back with what it raised, as they are finished.

    Args:
        items: read a little ahead; what it raises comes out here, after the work under way.
        work: called from ``jobs`` threads; should raise `StoppedError` soon after ``stop`` is set.
        jobs: threads.
        stop: set when the caller goes away before the end.

    Raises:
        BaseException: what ``work`` raised that is no `Exception`, as a panic in native code; the rest is
            not done.
    """
    pool = _Pool(work, jobs)
    source = iter(items)
    pending = 0
    failure: Exception | None = None
    finished = False
    exhausted = False
    try:
        while pending or not exhausted:
            while not exhausted and pending < jobs * _READ_AHEAD:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                except Exception as error:  # noqa: BLE001 - raised below, once nothing is under way
                    failure, exhausted = error, True
                else:
                    pool.give(item)
                    pending += 1
            if pending:
                item, error = pool.done.get()
                pending -= 1
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield item, error
        finished = True
    finally:
        if not finished:
            stop.set()
        pool.close(wait_seconds=_STOP_SECONDS)
    if failure is not None:
        raise failure
