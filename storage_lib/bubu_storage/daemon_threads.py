"""An executor whose threads do not keep a process from ending.

The interpreter's end joins the threads of the standard pool. One that waits for a store that hangs
then keeps the process until the SDK gives up, minutes after the caller was told that its time is over.

Invariants: a task that a thread has taken is answered, whatever it raises; a thread is started only
when there is more to do than there are threads; threads end when the executor is shut down, or when
nobody holds it any more and what it was given is done.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["DaemonExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Task:
    future: Future[Any]
    act: Callable[[], Any]


@dataclass(slots=True)
class _Desk:
    """What the threads share with their executor, which they must not hold on to."""

    tasks: SimpleQueue[_Task | None] = field(default_factory=SimpleQueue["_Task | None"])
    # Reentrant: the garbage collector may run anywhere, and what it ends may shut an executor down.
    lock: threading.RLock = field(default_factory=threading.RLock)
    unfinished: int = 0


class DaemonExecutor(Executor):
    """Runs tasks in daemon threads; otherwise as the standard pool of threads.

    Args:
        max_workers: threads at most, started when they are needed.
        name: of each thread.
        initializer: called in each thread before its first task.
    """

    def __init__(
        self, max_workers: int, *, name: str, initializer: Callable[[], object] | None = None
    ) -> None:
        self._max_workers = max_workers
        self._name = name
        self._initializer = initializer
        self._desk = _Desk()
        self._threads: list[threading.Thread] = []
        self._closed = False
        weakref.finalize(self, self._desk.tasks.put, None).atexit = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have something done soon.

        Raises:
            RuntimeError: shut down, or the system gives no thread at all.
        """
        future: Future[_T] = Future()
        with self._desk.lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._desk.unfinished >= len(self._threads) < self._max_workers:
                self._start_thread()
            self._desk.unfinished += 1
            self._desk.tasks.put(_Task(future, partial(fn, *args, **kwargs)))
        return future

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=_work, args=(self._desk, self._initializer), name=self._name, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # Where no further one is to be had, those that there are do it.
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more.

        Args:
            wait: until all is done; see `join` for a limit.
            cancel_futures: what no thread has taken yet is not done.
        """
        with self._desk.lock:
            self._closed = True
            if cancel_futures:
                with contextlib.suppress(Empty):
                    while True:
                        task = self._desk.tasks.get_nowait()
                        if task is not None:
                            task.future.cancel()
            self._desk.tasks.put(None)
        if wait:
            self.join(None)

    def join(self, timeout_seconds: float | None) -> None:
        """Wait, after `shutdown`, so long for the threads at most; None for as long as it takes."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _work(desk: _Desk, initializer: Callable[[], object] | None) -> None:
    if initializer is not None:
        initializer()
    while (task := desk.tasks.get()) is not None:
        _do(task, desk)
        del task  # it may hold much
    desk.tasks.put(None)  # for the next one


def _do(task: _Task, desk: _Desk) -> None:
    if not task.future.set_running_or_notify_cancel():
        with desk.lock:
            desk.unfinished -= 1
        return
    answer, error = None, None
    try:
        answer = task.act()
    except BaseException as raised:  # noqa: BLE001 - raised where the answer is asked for
        error = raised
    # Before the answer is known: whoever gives more to do on it needs no further thread.
    with desk.lock:
        desk.unfinished -= 1
    if error is None:
        task.future.set_result(answer)
    else:
        task.future.set_exception(error)
        del error, task  # or each would keep the other, by the traceback that leads here
