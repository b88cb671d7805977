"""Sends requests that need not wait for each other from a few threads.

Invariants: every request is let through by the gate in the thread of the caller, one after the
other, so the gate needs no lock and stop, budget and pace hold as for any other request; at most
`THREADS` are under way; when the caller stops, nothing further is sent and what is under way is
waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

from bubu_storage.errors import StorageError, ThrottledError
from bubu_storage.retention.gate import Gate

__all__ = ["THREADS", "send_each"]

THREADS: Final = 8
"""Requests under way at a time."""

_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")


def send_each(
    gate: Gate, queue: deque[_Job], work: Callable[[_Job], _Answer], turn: Callable[[], None]
) -> Iterator[tuple[_Job, _Answer | StorageError]]:
    """Do every job of a queue and yield it with its answer, in the order of the answers.

    Args:
        gate: told about throttled and successful requests.
        queue: jobs, each one request; taken out here. The caller may append to it at any time.
        work: sends the request; called from other threads.
        turn: of the gate: `Gate.turn` or `Gate.turn_to_delete`.

    Yields:
        A job and its answer, or the store's error; throttled ones are tried again instead.

    Raises:
        PassStoppedError: the pass must not send another request.
    """
    under_way: dict[Future[_Answer], _Job] = {}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="retention") as pool:
        try:
            while queue or under_way:
                while queue and len(under_way) < THREADS:
                    turn()
                    job = queue.popleft()
                    under_way[pool.submit(work, job)] = job
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    job = under_way.pop(future)
                    try:
                        answer = future.result()
                    except ThrottledError as error:
                        queue.append(job)
                        gate.back_off(error)
                    except StorageError as error:
                        yield job, error
                    else:
                        gate.succeeded()
                        yield job, answer
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
