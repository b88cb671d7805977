"""Work on many items at a time: bounded in memory, stoppable within seconds.

The threads are daemons: one that hangs in a store's answer must not keep a person who pressed
Ctrl-C waiting.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Final, TypeVar

__all__ = ["StoppedError", "each"]

_Item = TypeVar("_Item")
_STOP_SECONDS: Final = 3.0
_READ_AHEAD: Final = 4


class StoppedError(Exception):
    """Raised inside work that should end because the command does."""


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
    from bubu_storage.daemon_threads import DaemonExecutor  # noqa: PLC0415 - commands that copy nothing skip it

    pool = DaemonExecutor(jobs, name="bubu-worker")
    done: queue.SimpleQueue[tuple[_Item, BaseException | None]] = queue.SimpleQueue()

    def give(item: _Item) -> None:
        pool.submit(work, item).add_done_callback(lambda future: done.put((item, future.exception())))

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
                    give(item)
                    pending += 1
            if pending:
                item, error = done.get()
                pending -= 1
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield item, error
        finished = True
    finally:
        if not finished:
            stop.set()
        pool.shutdown(wait=False)
        pool.join(_STOP_SECONDS)
    if failure is not None:
        raise failure
