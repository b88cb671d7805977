"""Calls that may hang, in threads that nobody waits for longer than a bound.

Timeouts of a client are for one socket operation; a server that drips one byte at a time
keeps each of them alive. Here the whole call has a limit: afterwards the caller goes on,
and the thread is left to end on its own. A second call for the same key is refused while
such a thread is alive, so that a hanging endpoint costs one thread and no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedCalls", "CallTimeoutError"]

T = TypeVar("T")


class CallTimeoutError(TimeoutError):
    """The call did not end in time, or an earlier one of the same key still hangs."""


class _Outcome(Generic[T]):
    def __init__(self) -> None:
        self.value: list[T] = []
        self.error: BaseException | None = None


class BoundedCalls:
    """Remembers which keys have a call under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[Hashable] = set()

    def call(self, key: Hashable, timeout_seconds: float, function: Callable[[], T]) -> T:
        """Return ``function()``, or give up after ``timeout_seconds``.

        Raises:
            CallTimeoutError: see there.
            BaseException: whatever ``function`` raises.
        """
        with self._lock:
            if key in self._under_way:
                raise CallTimeoutError("an earlier call still hangs")
            self._under_way.add(key)
        outcome: _Outcome[T] = _Outcome()

        def run() -> None:
            try:
                outcome.value.append(function())
            except BaseException as error:  # noqa: BLE001 - carried over to the calling thread
                outcome.error = error
            finally:
                with self._lock:
                    self._under_way.discard(key)

        thread = threading.Thread(target=run, name=f"bounded-{key}", daemon=True)
        thread.start()
        thread.join(timeout_seconds)
        if thread.is_alive():
            raise CallTimeoutError(f"no answer within {timeout_seconds:g} s")
        if outcome.error is not None:
            raise outcome.error
        return outcome.value[0]
