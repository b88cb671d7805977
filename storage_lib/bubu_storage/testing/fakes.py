"""Backends that misbehave, count or dawdle on purpose, for crash tests and for counting I/O.

Each wraps a real backend (usually a `MemoryBackend`) and is one itself. One page of a listing is
one call, since it is one request to a store. They have ``delete_objects`` and ``copy_object``
exactly when the wrapped backend has.

A crash test runs the code once over a `CountingBackend`, then once more for each of
`crash_points` over a `FaultBackend` and looks at what is left in the store::

    counting = CountingBackend(store())
    run(counting)
    for fault in crash_points(counting.total):
        inner = store()
        with pytest.raises(SimulatedCrash):
            run(FaultBackend(inner, fault))
        check(inner)
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self, TypeVar, cast

from bubu_storage.backend.decorator import BackendDecorator, Call, Operation, WrappedBody
from bubu_storage.backend.delay import DelayBackend
from bubu_storage.backend.types import BatchDeleter, GetObjectResult, ObjectBackend
from bubu_storage.errors import UnavailableError

__all__ = [
    "Call",
    "CountingBackend",
    "DelayBackend",
    "Fault",
    "FaultBackend",
    "Operation",
    "SimulatedCrash",
    "Timing",
    "crash_points",
]

_T = TypeVar("_T")


class Timing(StrEnum):
    """When a fault strikes, seen from the store."""

    BEFORE = "Before"
    """The request never arrived: no effect."""
    HALFWAY = "Halfway"
    """Half of a batch is deleted; a body breaks off in the middle; else as BEFORE."""
    AFTER = "After"
    """The answer was lost: the whole effect, and still an error."""


class SimulatedCrash(BaseException):
    """The process dies here. Not an `Exception`, so that no handler brings it back to life."""


@dataclass(slots=True)
class Fault:
    """When to fail, and how.

    Attributes:
        nth: the first matching call that fails, counted from 1.
        times: how many matching calls fail from there on; 0 = all.
        operations: which operations match; empty = all.
        key_contains: text that the call's key, one key of its batch or a copy's source must contain.
        timing: before, halfway through or after the effect.
        error: makes the exception to raise; a fresh one each time.
        fatal: after it, every call of the backend fails: the process is dead.
    """

    nth: int = 1
    times: int = 1
    operations: AbstractSet[Operation] = frozenset()
    key_contains: str = ""
    timing: Timing = Timing.BEFORE
    error: Callable[[], BaseException] = field(default=lambda: UnavailableError("simulated fault"))
    fatal: bool = False
    seen: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    @classmethod
    def crash(cls, nth: int, timing: Timing = Timing.BEFORE) -> Self:
        """Make the process die at the nth call of any kind."""
        return cls(nth=nth, timing=timing, error=lambda: SimulatedCrash(f"{timing} call {nth}"), fatal=True)

    def strikes(self, call: Call) -> bool:
        """Count a call and tell whether this fault hits it."""
        if self.operations and call.operation not in self.operations:
            return False
        keys = (call.key, call.source_key, *call.keys)
        if self.key_contains and not any(self.key_contains in key for key in keys):
            return False
        self.seen += 1
        hit = self.seen >= self.nth and (self.times == 0 or self.seen < self.nth + self.times)
        self.struck += hit
        return hit


def crash_points(calls: int) -> Iterator[Fault]:
    """Yield a crash before, halfway through and after each of so many calls."""
    for nth in range(1, calls + 1):
        for timing in Timing:
            yield Fault.crash(nth, timing)


class FaultBackend(BackendDecorator):
    """Fails as told, and is otherwise the wrapped backend; thread-safe.

    Args:
        inner: the backend that does the work.
        faults: checked in order for each call; the first that strikes decides.
    """

    def __init__(self, inner: ObjectBackend, *faults: Fault) -> None:
        super().__init__(inner)
        self.faults = list(faults)
        self.dead = False
        self._lock = threading.Lock()

    @property
    def struck(self) -> int:
        """How many calls were made to fail so far."""
        return sum(fault.struck for fault in self.faults)

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        with self._lock:
            if self.dead:
                raise SimulatedCrash(f"{call.operation} after the process died")
            # Each fault counts each call, so that several can be planned independently.
            hits = [fault for fault in self.faults if fault.strikes(call)]
            fault = hits[0] if hits else None
            self.dead = fault is not None and fault.fatal
        if fault is None:
            return act()
        match fault.timing:
            case Timing.AFTER:
                self._lose(act())
            case Timing.HALFWAY if call.operation is Operation.GET:
                return cast("_T", _BreakingBody(cast("GetObjectResult", act()), fault.error).result())
            case Timing.HALFWAY if call.operation is Operation.DELETE_MANY:
                self._delete_half(call)
            case _:
                pass
        raise fault.error()

    @staticmethod
    def _lose(answer: object) -> None:
        if isinstance(answer, GetObjectResult):
            answer.close()

    def _delete_half(self, call: Call) -> None:
        keys = call.keys[: len(call.keys) // 2]
        cast("BatchDeleter", self.inner).delete_objects(keys, if_match=call.if_match)


class CountingBackend(BackendDecorator):
    """Keeps a record of every call; thread-safe.

    Attributes:
        calls: all calls in order.
        open_bodies: bodies of ``get_object`` that were not closed yet.
    """

    def __init__(self, inner: ObjectBackend) -> None:
        super().__init__(inner)
        self.calls: list[Call] = []
        self.open_bodies = 0
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Number of calls so far."""
        return len(self.calls)

    @property
    def counts(self) -> Counter[Operation]:
        """Calls by operation."""
        return Counter(call.operation for call in self.calls)

    def deleted_keys(self) -> list[str]:
        """Return every key that a deletion was asked for, singly or in a batch, in order."""
        keys: list[str] = []
        for call in self.calls:
            if call.operation is Operation.DELETE:
                keys.append(call.key)
            keys.extend(call.keys)
        return keys

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        with self._lock:
            self.calls.append(call)
        answer = act()
        if isinstance(answer, GetObjectResult):
            self._add_open(1)
            return cast("_T", _WatchedBody(answer, lambda: self._add_open(-1)).result())
        return answer

    def _add_open(self, change: int) -> None:
        with self._lock:
            self.open_bodies += change


class _WatchedBody(WrappedBody):
    """A body that tells when it is closed for the first time."""

    def __init__(self, inner: GetObjectResult, on_close: Callable[[], None]) -> None:
        super().__init__(inner)
        self._on_close = on_close

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._on_close()


class _BreakingBody(WrappedBody):
    """A body that fails after its first half."""

    def __init__(self, inner: GetObjectResult, error: Callable[[], BaseException]) -> None:
        super().__init__(inner)
        self._left = inner.info.size_bytes // 2
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        if wanted == 0 and size != 0:
            raise self._error()
        data = super().read(wanted)
        self._left -= len(data)
        if size is None or size < 0:
            raise self._error()
        return data
