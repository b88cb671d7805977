"""A cache of small objects in memory, around any backend (Go: ManagerConfig's CacheSize and CacheTTL).

Whole objects that were read lately are given again without asking the store, for a limited
time and within a limited memory; the least recently used go first. What several threads ask
for at the same time is asked of the store once.

Invariants:

* a get that begins when a write or deletion *through this decorator* has returned never sees
  anything older, whatever else was under way: each write detaches the gets that began before
  its end from the cache, also when it failed and nobody knows what it did;
* what others write is seen after ``ttl_seconds`` at the latest, reckoned from the moment when
  the old object was asked for; at once where a part, or a conditional get, shows it;
* errors, missing objects, parts of objects and conditional gets are never cached;
* nobody waits for good: a get whose thread was killed, or hangs, hands over to the next one.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from bubu_storage.backend.decorator import BackendDecorator, Call, Operation
from bubu_storage.backend.types import GetObjectResult, ObjectBackend, ObjectInfo
from bubu_storage.errors import (
    ConfigurationError,
    ObjectNotFoundError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
)

__all__ = ["CachingBackend"]

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Exception)

_LARGEST_SHARE: Final = 8
"""An object larger than this part of the cache is streamed and not kept."""

_ENTRY_OVERHEAD_BYTES: Final = 1024
"""What an entry costs besides its bytes, so that very many tiny objects stay within the limit."""

_PATIENCE_SECONDS: Final = 10.0
_WRITES: Final = frozenset({Operation.PUT, Operation.DELETE, Operation.DELETE_MANY, Operation.COPY})


@dataclass(slots=True, eq=False)
class _Entry:
    """An object that was read, until when it may be given again, and how much of the cache it takes."""

    info: ObjectInfo
    data: bytes
    expires: float
    cost_bytes: int

    def open(self) -> GetObjectResult:
        """Return it as the store would; the bytes are shared, not copied."""
        return GetObjectResult(self.info, io.BytesIO(self.data))


@dataclass(slots=True, eq=False)
class Flight:
    """One get that is under way, and what came of it.

    Attributes:
        expires: until when its object may be given to others, in seconds of the cache's clock.
        done: set when it has ended, however it did; None as long as nobody else waits for it.
        entry: the object, if it was small enough to be shared.
        error: what it failed with.
    """

    expires: float
    done: threading.Event | None = None
    entry: _Entry | None = None
    error: Exception | None = None


class CachingBackend(BackendDecorator):
    """Gives small objects again that were read lately; thread-safe.

    Args:
        inner: the backend that does the work.
        max_bytes: memory for objects, their names and about 1 KiB for each included. An object
            larger than an eighth of it is streamed and not kept.
        ttl_seconds: how long an object is used without asking the store again.
        monotonic: a clock that never goes back, in seconds.
        patience_seconds: how long a get waits for another one of the same object before it
            asks the store itself.
        paused: tells whether others may be writing whose changes count as own ones; as long as
            they may, all gets go to the store.

    Raises:
        ConfigurationError: a limit is not above 0.
    """

    def __init__(
        self,
        inner: ObjectBackend,
        max_bytes: int,
        ttl_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
        paused: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(inner)
        for name, value in (("max_bytes", max_bytes), ("ttl_seconds", ttl_seconds)):
            if not value > 0:
                raise ConfigurationError(f"{name} of a cache is {value}; it must be above 0")
        self._max_bytes = max_bytes
        self._max_object_bytes = max_bytes // _LARGEST_SHARE
        self._ttl_seconds = ttl_seconds
        self._monotonic = monotonic
        self._patience_seconds = patience_seconds
        self._paused = paused
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._size_bytes = 0
        self._flights: dict[str, Flight] = {}
        self._writing: dict[str, int] = {}

    @property
    def size_bytes(self) -> int:
        """Memory in use, by the reckoning of ``max_bytes``."""
        return self._size_bytes

    def clear(self) -> None:
        """Forget all objects; gets under way are not remembered either."""
        with self._lock:
            self._entries.clear()
            self._size_bytes = 0
            self._flights.clear()

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object, from memory where it was read lately; see `ObjectBackend.get_object`.

        Raises:
            StorageError: what the store answers; also what it answered to another thread that
                asked for the same object at the same time.
        """
        if range_header or if_match or self._is_paused():
            return self._get_aside(key, range_header, if_match)
        with self._lock:
            now = self._monotonic()
            entry = self._fresh(key, now)
            under_way = self._flights.get(key)
            if under_way is not None and now >= under_way.expires:
                under_way = None
            if entry is not None:
                return entry.open()
            if under_way is None:
                # Should this thread be interrupted before `_lead` takes over, the patience of the
                # others helps them.
                flight = self._flights[key] = Flight(now + self._ttl_seconds)
                done = None
            else:
                flight = under_way
                done = flight.done = flight.done or threading.Event()
        return self._lead(key, flight) if done is None else self._follow(key, flight, done)

    def close(self) -> None:
        """Forget all objects and close the wrapped backend."""
        self.clear()
        super().close()

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        if call.operation not in _WRITES:
            return act()
        # What is read before and during a change stays out of the cache, however it ends.
        keys = call.keys or (call.key,)
        with self._lock:
            for key in keys:
                self._writing[key] = self._writing.get(key, 0) + 1
            self._drop(keys)
        try:
            return act()
        finally:
            with self._lock:
                for key in keys:
                    left = self._writing.pop(key) - 1
                    if left:
                        self._writing[key] = left
                self._drop(keys)

    def _get_aside(self, key: str, range_header: str, if_match: str) -> GetObjectResult:
        """Ask the store, and forget what its answer shows to be out of date."""
        try:
            found = super().get_object(key, range_header=range_header, if_match=if_match)
        except (ObjectNotFoundError, PreconditionFailedError, RangeNotSatisfiableError):
            self._forget_unless(key, "")
            raise
        self._forget_unless(key, found.info.etag)
        return found

    def _forget_unless(self, key: str, etag: str) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.info.etag != etag:
                self._forget(key)

    def _is_paused(self) -> bool:
        if self._paused is None:
            return False
        if self._paused():
            return True
        self._paused = None  # who has been exchanged does not come back
        return False

    def _lead(self, key: str, flight: Flight) -> GetObjectResult:
        """Ask the store, and tell all who wait for it."""
        try:
            found = super().get_object(key)
            if found.info.size_bytes > self._max_object_bytes:
                return found
            with found:
                data = found.read()
            cost_bytes = len(data) + len(key) + _ENTRY_OVERHEAD_BYTES
            entry = flight.entry = _Entry(found.info, data, flight.expires, cost_bytes)
            return entry.open()
        except Exception as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                # A flight that is still registered has seen no change since it began.
                if self._flights.get(key) is flight:
                    del self._flights[key]
                    if flight.entry is not None and key not in self._writing:
                        self._keep(key, flight.entry)
            # Only who found it registered waits for it.
            if flight.done is not None:
                flight.done.set()

    def _follow(self, key: str, flight: Flight, done: threading.Event) -> GetObjectResult:
        """Wait for another thread's get of the same object."""
        if not self._wait(done):
            with self._lock:
                # The next one does not have to be as patient.
                if self._flights.get(key) is flight:
                    del self._flights[key]
        elif flight.entry is not None:
            return flight.entry.open()
        elif flight.error is not None:
            raise _same_again(flight.error)
        # Too large to be shared, hanging, or its thread was killed: everybody for themselves.
        return super().get_object(key)

    def _wait(self, done: threading.Event) -> bool:
        return done.wait(self._patience_seconds)

    def _drop(self, keys: Sequence[str]) -> None:
        """Forget objects, and let no get that is under way bring them back; the lock is held."""
        for key in keys:
            self._flights.pop(key, None)
            self._forget(key)

    def _keep(self, key: str, entry: _Entry) -> None:
        """Remember an object, at the cost of others; the lock is held."""
        self._forget(key)
        self._entries[key] = entry
        self._size_bytes += entry.cost_bytes
        while self._size_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _fresh(self, key: str, now: float) -> _Entry | None:
        """Return the object if it may still be given; the lock is held."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size_bytes -= entry.cost_bytes


def _same_again(error: _E) -> _E:
    """Return an exception of the same class and content: one that is raised belongs to one thread."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.args = error.args
    fresh.__dict__.update(error.__dict__)
    fresh.__cause__ = error.__cause__
    return fresh
