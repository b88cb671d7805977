"""Calls that may hang, in threads that nobody waits for longer than a bound.

Timeouts of a client are for one socket operation; a server that drips one byte at a time
keeps each of them alive. Here the whole call has a limit: afterwards the caller goes on,
and the thread is left to end on its own. A second call for the same key is refused while
such a thread is alive, so that a hanging endpoint costs one thread and no more; and so is one
of a group that has very many of them, so that nobody can fill our memory with endpoints.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

__all__ = ["MAX_CALLS_OF_GROUP", "BoundedCalls", "CallTimeoutError"]

MAX_CALLS_OF_GROUP: Final = 16
"""More than there are workers: only with calls that hang does a group come to so many."""

T = TypeVar("T")


class CallTimeoutError(TimeoutError):
    """The call did not end in time, or an earlier one still hangs, or too many of its group."""


class _Outcome(Generic[T]):
    def __init__(self) -> None:
        self.value: list[T] = []
        self.error: BaseException | None = None


class BoundedCalls:
    """Remembers which keys have a call under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, str] = {}

    def call(self, key: Hashable, timeout_seconds: float, function: Callable[[], T], *, group: str = "") -> T:
        """Return ``function()``, or give up after ``timeout_seconds``.

        Args:
            key: of which one call at a time is made.
            timeout_seconds: of the whole call.
            function: what may hang.
            group: of whom too many may not hang at once, as a namespace; "" for no such bound.

        Raises:
            CallTimeoutError: see there.
            RuntimeError: no thread could be started; another call of the same key may be.
            BaseException: whatever ``function`` raises.
        """
        with self._lock:
            if key in self._under_way:
                raise CallTimeoutError("an earlier call still hangs")
            theirs = sum(1 for one in self._under_way.values() if one == group) if group else 0
            if theirs >= MAX_CALLS_OF_GROUP:
                raise CallTimeoutError(f"{theirs} calls of {group} hang already; mend or delete those first")
            self._under_way[key] = group
        outcome: _Outcome[T] = _Outcome()

        def run() -> None:
            try:
                outcome.value.append(function())
            except BaseException as error:  # noqa: BLE001 - carried over to the calling thread
                outcome.error = error
            finally:
                with self._lock:
                    del self._under_way[key]

        thread = threading.Thread(target=run, name=f"bounded-{key}", daemon=True)
        try:
            thread.start()
        except BaseException:
            # Nothing runs that could ever take the key away.
            with self._lock:
                del self._under_way[key]
            raise
        thread.join(timeout_seconds)
        if thread.is_alive():
            raise CallTimeoutError(f"no answer within {timeout_seconds:g} s")
        if outcome.error is not None:
            raise outcome.error
        return outcome.value[0]
