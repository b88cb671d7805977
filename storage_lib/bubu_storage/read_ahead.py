"""Loads the objects of one call side by side, ahead of the walk that asks for them.

The walk takes objects in the order of its document, and waits only for the one that it needs
next. Meanwhile a bounded number of threads loads what comes after it: the references of the
document, and those of each loaded object as soon as it is there, always the earliest in the
document's order first. So a document with references on several levels takes about as long as
its longest chain, not a round for each object on the way.

Invariants:

* what the walk sees (values, errors, the limit of bytes) depends on its own order alone, never
  on which object happened to arrive first; an error of an object that is never asked for is
  never seen;
* each object is loaded once;
* at most ``window`` objects are loaded, or being loaded, that the walk has not asked for yet;
  those never make the whole exceed the limit of bytes.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import LimitExceededError
from bubu_storage.payload.decoder import decode_text
from bubu_storage.payload.outlook import Want
from bubu_storage.payload.stored import parse_stored_object

__all__ = ["ByteLimit", "ReadAhead"]

_MAX_LEVELS: Final = 64
"""Further down the walk announces anew, so that places in the document stay short."""


class ByteLimit:
    """Counts what a call has loaded, in the order in which it asked for it.

    Args:
        max_bytes: the limit.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """What has been loaded so far."""
        return self._used_bytes

    def check(self, key: str, size_bytes: int) -> None:
        """Refuse an object that is too much.

        Raises:
            LimitExceededError: with this one the call would have loaded more than its limit.
        """
        total = self._used_bytes + size_bytes
        if total > self.max_bytes:
            raise LimitExceededError(
                f"object {key!r} has {size_bytes} bytes, {total} in all in this call, more than the limit of "
                f"{self.max_bytes}; raise BUBU_MAX_HYDRATED_SIZE if there is memory for it",
                key=key,
            )

    def use(self, key: str, size_bytes: int) -> None:
        """Count an object.

        Raises:
            LimitExceededError: as `check`.
        """
        self.check(key, size_bytes)
        self._used_bytes += size_bytes


class _NotNowError(Exception):
    """There may be no room for an object that nobody has asked for."""


class _Entry:
    """One object of the call."""

    __slots__ = ("asked", "done", "error", "key", "size_bytes", "value", "wants")

    def __init__(self, key: str) -> None:
        self.key = key
        self.wants: list[tuple[Want, tuple[int, ...]]] = []
        self.asked = False
        self.done = False
        self.size_bytes = -1  # not known yet
        self.value: Any = None
        self.error: BaseException | None = None


class _Cursor:
    """What one document leads to, and its place in the order of the whole."""

    __slots__ = ("place", "wants")

    def __init__(self, place: tuple[int, ...], wants: Iterator[Want]) -> None:
        self.place = place
        self.wants = wants


class ReadAhead:
    """Loads objects for one walk, which calls `announce` and `get` from one thread.

    Args:
        backend: the store.
        submit: runs a function in a thread.
        limit: counts what the walk has asked for.
        workers: objects being loaded at a time.
        window: see the invariants.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        submit: Callable[[Callable[[], None]], object],
        limit: ByteLimit,
        *,
        workers: int,
        window: int,
    ) -> None:
        self._backend = backend
        self._submit = submit
        self._limit = limit
        self._workers = workers
        self._window = window
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._urgent: deque[_Entry] = deque()
        self._cursors: list[tuple[tuple[int, ...], _Cursor]] = []  # a heap by place
        self._announced = 0
        self._running = 0
        self._ahead = 0
        self._reserved_bytes = 0
        self._full = False
        self._stopped = False

    def announce(self, wants: Iterator[Want]) -> None:
        """Begin to load what the walk comes to next, before all that was announced earlier."""
        with self._changed:
            self._announced += 1
            self._push((-self._announced,), wants)
            self._pump()

    def get(self, key: str, deadline: float) -> Any:
        """Return the value inside an object; see `Fetcher.get`.

        Args:
            key: of the object.
            deadline: on the monotonic clock.

        Raises:
            TimeoutError: the deadline is over; nothing more is begun.
            LimitExceededError: with this object the walk would have too much.
            StorageError: it is missing, malformed, or cannot be read.
        """
        with self._changed:
            entry = self._entries.get(key)
            if entry is not None and entry.asked:
                return entry.value
            if entry is None:
                entry = self._entries[key] = _Entry(key)
                self._urgent.append(entry)
            else:
                self._ahead -= 1
            entry.asked = True
            self._pump()
            while not entry.done:
                remaining = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
                if remaining <= 0:
                    self._stopped = True
                    raise TimeoutError
                self._changed.wait(remaining)
            if entry.size_bytes >= 0:
                self._limit.use(key, entry.size_bytes)
        if entry.error is not None:
            raise entry.error
        return entry.value

    def stop(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._stopped = True
            self._cursors.clear()
            self._urgent.clear()

    # ---- with the lock held

    def _push(self, place: tuple[int, ...], wants: Iterator[Want]) -> None:
        heapq.heappush(self._cursors, ((*place, 0), _Cursor(place, wants)))

    def _pump(self) -> None:
        """Let threads begin whatever may be begun."""
        while self._running < self._workers and not self._stopped:
            entry = self._urgent.popleft() if self._urgent else self._next()
            if entry is None:
                return
            self._running += 1
            try:
                self._submit(lambda entry=entry: self._work(entry))
            except RuntimeError as error:  # the interpreter shuts down
                self._running -= 1
                entry.error, entry.done = error, True
                self._changed.notify_all()

    def _next(self) -> _Entry | None:
        """Return the next object to load ahead, if there is one and room for it."""
        while self._cursors and self._ahead < self._window and not self._full:
            place, cursor = self._cursors[0]
            want = self._advance(cursor)
            if want is None:
                heapq.heappop(self._cursors)
                continue
            heapq.heapreplace(self._cursors, ((*cursor.place, place[-1] + 1), cursor))
            entry = self._entries.get(want.key)
            if entry is None:
                entry = self._entries[want.key] = _Entry(want.key)
                entry.wants.append((want, place))
                self._ahead += 1
                return entry
            if not entry.done:
                entry.wants.append((want, place))
            elif entry.error is None:
                self._expand(entry.value, [(want, place)])
        return None

    @staticmethod
    def _advance(cursor: _Cursor) -> Want | None:
        try:
            return next(cursor.wants, None)
        except RuntimeError:  # the caller changes its document meanwhile; the walk will say so
            return None

    def _expand(self, value: Any, wants: list[tuple[Want, tuple[int, ...]]]) -> None:
        for place, further in _further(value, wants):
            self._push(place, further)

    # ---- in a thread

    def _work(self, entry: _Entry) -> None:
        value: Any = None
        failure: BaseException | None = None
        found: list[tuple[tuple[int, ...], Iterator[Want]]] = []
        seen = 0
        try:
            if not self._stopped:
                value = parse_stored_object(decode_text(self._read(entry)), entry.key)[1]
                seen = len(entry.wants)
                found = _further(value, entry.wants[:seen])
        except BaseException as error:  # noqa: BLE001 - handed to the walk
            failure = error
        with self._changed:
            self._running -= 1
            if isinstance(failure, _NotNowError):
                self._full = True
                if entry.asked:
                    self._urgent.append(entry)
                else:
                    self._ahead -= 1
                    del self._entries[entry.key]
            else:
                entry.value, entry.error, entry.done = value, failure, True
                for place, further in found:
                    self._push(place, further)
                if failure is None:
                    self._expand(value, entry.wants[seen:])
                entry.wants.clear()
                if entry.asked:
                    self._changed.notify_all()
            self._pump()

    def _read(self, entry: _Entry) -> bytes:
        with self._backend.get_object(entry.key) as found:
            # Before reading; no backend gives more than it has announced.
            size_bytes = found.info.size_bytes
            with self._changed:
                if entry.asked:
                    entry.size_bytes = size_bytes
                    self._limit.check(entry.key, size_bytes)
                elif self._reserved_bytes + size_bytes > self._limit.max_bytes:
                    raise _NotNowError
                entry.size_bytes = size_bytes
                self._reserved_bytes += size_bytes
            return found.read()


def _further(
    value: Any, wants: list[tuple[Want, tuple[int, ...]]]
) -> list[tuple[tuple[int, ...], Iterator[Want]]]:
    """Return what an object leads to, with its place, for each way in which it is wanted."""
    found: list[tuple[tuple[int, ...], Iterator[Want]]] = []
    for want, place in wants:
        if len(place) <= _MAX_LEVELS:
            # What is wrong with the document is for the walk to find.
            with suppress(Exception):
                further = want.further(value)
                if further is not None:
                    found.append((place, further))
    return found
