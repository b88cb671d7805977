"""When the fast engine may be used, how it is called, and what is kept of its failures.

Knows neither obstore nor S3.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NoReturn, Self, TypeVar

__all__ = ["Forks", "Gate", "LostError", "Slots", "interruptible"]

_T = TypeVar("_T")

_TEXTS: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
"""Quoted texts in what obstore says."""

_TIMED_OUT: Final = re.compile(r"\bHttpError \{\s+kind: Timeout,(?P<why>.*)", re.DOTALL)
_BEFORE_CAUSES: Final = "Debug source:\n"

_FIRST_REST_SECONDS: Final = 0.5
_LONGEST_REST_SECONDS: Final = 30.0


class Forks:
    """Whether this process was forked from one in which obstore's threads ran."""

    used = False
    orphaned = False

    @classmethod
    def note(cls) -> None:
        """Take note of a fork, in the child."""
        cls.orphaned = cls.orphaned or cls.used


os.register_at_fork(after_in_child=Forks.note)


class Gate:
    """Decides whether a kind of request takes the fast path.

    Args:
        monotonic: clock, in seconds.
    """

    __slots__ = ("_failures", "_lock", "_monotonic", "_rests_until")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._rests_until = 0.0
        self._failures = 0

    def is_open(self) -> bool:
        """Tell whether the fast path may be tried."""
        return not self._rests_until or self._monotonic() >= self._rests_until

    def succeeded(self) -> None:
        """Forget failures."""
        if self._failures:
            self._failures, self._rests_until = 0, 0.0

    def failed(self) -> None:
        """Rest; requests that were under way together count as one failure."""
        with self._lock:
            now = self._monotonic()
            if now < self._rests_until:
                return
            rest = min(_LONGEST_REST_SECONDS, _FIRST_REST_SECONDS * 2.0 ** min(self._failures, 30))
            self._failures += 1
            self._rests_until = now + rest


class Slots:
    """A number of places that may be taken, as a semaphore; costs next to nothing while one is free.

    The standard semaphores, and queues in C too, cost a twentieth of a small request when many
    threads use them; taking from a `deque` is a single step.

    Args:
        count: places.
    """

    def __init__(self, count: int) -> None:
        self._free = deque[None]([None] * count)
        self._hints: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0

    def take(self, timeout_seconds: float) -> bool:
        """Take a place, waiting for one if need be; False when none became free in time."""
        try:
            self._free.pop()
        except IndexError:
            return self._wait(time.monotonic() + timeout_seconds)
        return True

    def give_back(self) -> None:
        """Free a place."""
        # In this order: who begins to wait in between looks once more.
        self._free.append(None)
        if self._waiting:
            self._hints.put(None)

    def _wait(self, deadline: float) -> bool:
        with self._lock:
            self._waiting += 1
        try:
            while True:
                with contextlib.suppress(IndexError):
                    self._free.pop()
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                # Only a hint to look again: somebody else may have been quicker.
                with contextlib.suppress(Empty):
                    self._hints.get(timeout=left)
        finally:
            with self._lock:
                self._waiting -= 1


class LostError(Exception):
    """obstore failed; what it said stays behind.

    Attributes:
        timed_out: it ran into a time limit.
        connecting: while connecting.
        in_body: after the answer had begun.
        is_about_path: it has no form for the key, and sent nothing.
    """

    def __init__(self, error: BaseException, *, in_body: bool = False) -> None:
        super().__init__(type(error).__name__)
        # Before the tree of causes, and in its quoted texts, there is what others wrote: keys and answers.
        self.is_about_path = isinstance(error, ValueError)
        _, marker, causes = str(error).rpartition(_BEFORE_CAUSES)
        is_tree = bool(marker) and not self.is_about_path
        found = _TIMED_OUT.search(_TEXTS.sub('""', causes)) if is_tree else None
        self.timed_out = found is not None
        self.connecting = found is not None and "ConnectError" in found["why"]
        self.in_body = in_body

    @classmethod
    def without_connection(cls) -> Self:
        """Return the error of a request that found no free connection in time."""
        error = cls(TimeoutError())
        error.timed_out = error.connecting = True
        return error


def interruptible(act: Callable[[], _T]) -> _T:
    """Call native code that waits, so that Ctrl-C and other signals are heard meanwhile.

    Python hears signals on the main thread only, and not while that is inside native code: there
    the call is made on a thread beside it. One that is left alone ends by its own time limit.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return act()
    results: SimpleQueue[Callable[[], _T]] = SimpleQueue()

    def run() -> None:
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failure = error
        else:
            results.put(lambda: result)
            return
        results.put(lambda: _raise(failure))

    threading.Thread(target=run, name="bubu-obstore", daemon=True).start()
    return results.get()()


def _raise(error: BaseException) -> NoReturn:
    raise error
