"""Reading and writing the objects of one call: in parallel, within one deadline.

A call of the manager makes one `Transfer`. Objects are taken in order by a bounded number
of threads; the error of a call is always that of the first object, in order, that failed,
so parallelism does not change what a caller sees. Local stores (files, memory) answer
faster than a thread can be woken: few or small requests go straight through there.

The deadline ends the waiting, not the thread: an operation that hangs in the store runs on
until the store's own timeout and its outcome is dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Any, TypeVar

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import LimitExceededError, StorageTimeoutError
from bubu_storage.payload.dehydrate import PlannedObject
from bubu_storage.payload.stored import decode_stored_object
from bubu_storage.wire import CONTENT_TYPE_JSON

__all__ = ["Transfer"]

_T = TypeVar("_T")

_LOCAL_PARALLEL_FROM = 8
"""From so many objects on a local store is written in parallel too: fsync is worth waiting together."""


class Transfer:
    """What one call reads and writes.

    Args:
        backend: the store.
        executor: returns the threads to use; asked only when they are needed.
        workers: how many of them at most.
        timeout_seconds: for the whole call, from now.
        operation: its name, for messages.
        local: whether the store answers without a network in between.
        max_read_bytes: most that the call loads, each object counted once.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        executor: Callable[[], Executor],
        *,
        workers: int,
        timeout_seconds: float,
        operation: str,
        local: bool,
        max_read_bytes: int,
    ) -> None:
        self._backend = backend
        self._executor = executor
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._operation = operation
        self._local = local
        self._max_read_bytes = max_read_bytes
        self._read_bytes = 0
        self._read_lock = threading.Lock()
        self._stop = threading.Event()
        self._loading: dict[str, Future[Any]] = {}
        self._loaded: dict[str, Any] = {}
        self.timed_out = False

    def run(self, action: Callable[[], _T]) -> _T:
        """Run one store operation within the deadline.

        Raises:
            StorageTimeoutError: it did not finish in time.
            StorageError: what the operation raised.
        """
        if self._local:
            self._check_deadline()
            return action()
        return self._result(self._executor().submit(action))

    def write_all(self, objects: Sequence[PlannedObject]) -> None:
        """Write every object, or raise the error of the first one that failed.

        After an error no further object is begun; those before it have all been tried.
        """
        if self._local and len(objects) < _LOCAL_PARALLEL_FROM:
            for planned in objects:
                self._check_deadline()
                self._write(planned)
            return
        pending = iter(enumerate(objects))
        lock = threading.Lock()
        failures: dict[int, BaseException] = {}

        def work() -> None:
            while not self._stop.is_set():
                with lock:
                    index, planned = next(pending, (-1, None))
                if planned is None:
                    return
                try:
                    self._write(planned)
                except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                    failures[index] = error
                    self._stop.set()

        executor = self._executor()
        tasks = [executor.submit(work) for _ in range(min(self._workers, len(objects)))]
        self._wait(tasks)
        if failures:
            raise failures[min(failures)]

    def prefetch(self, keys: Sequence[str]) -> None:
        """Begin to load objects that will be asked for."""
        if self._local:
            return
        executor = self._executor()
        for key in keys:
            if key not in self._loading and key not in self._loaded:
                self._loading[key] = executor.submit(self._load, key)

    def get(self, key: str) -> Any:
        """Return the value inside a stored object; each is loaded once.

        Raises:
            StorageError: it is missing, malformed, or cannot be read.
            StorageTimeoutError: the call's deadline is over.
        """
        if key in self._loaded:
            self._check_deadline()
            return self._loaded[key]
        future = self._loading.pop(key, None)
        value = self.run(lambda: self._load(key)) if future is None else self._result(future)
        self._loaded[key] = value
        return value

    def abandon(self) -> None:
        """Begin nothing more; for the end of the call, however it came."""
        self._stop.set()
        for future in self._loading.values():
            future.cancel()

    def read(self, key: str) -> bytes:
        """Return an object's bytes; for `run`, or a thread of its own.

        Raises:
            LimitExceededError: with this one the call would have loaded too much.
            StorageError: it is missing, or cannot be read.
        """
        with self._backend.get_object(key) as found:
            # Before reading; no backend gives more than it has announced.
            size = found.info.size_bytes
            with self._read_lock:
                self._read_bytes += size
                total = self._read_bytes
            if total > self._max_read_bytes:
                raise LimitExceededError(
                    f"object {key!r} has {size} bytes, {total} in all in this call, more than the limit of "
                    f"{self._max_read_bytes}; raise BUBU_MAX_HYDRATED_SIZE if there is memory for it",
                    key=key,
                )
            return found.read()

    def _load(self, key: str) -> Any:
        return decode_stored_object(self.read(key), key)

    def _write(self, planned: PlannedObject) -> None:
        body = planned.body()
        self._backend.put_object(planned.path, body, size_bytes=len(body), content_type=CONTENT_TYPE_JSON)

    def _result(self, future: Future[_T]) -> _T:
        self._wait([future])
        return future.result()

    def _wait(self, futures: Sequence[Future[Any]]) -> None:
        remaining = min(max(0.0, self._deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if wait(futures, timeout=remaining).not_done:
            self._stop.set()
            for future in futures:
                future.cancel()
            raise self._timeout()

    def _check_deadline(self) -> None:
        if time.monotonic() >= self._deadline:
            raise self._timeout()

    def _timeout(self) -> StorageTimeoutError:
        self.timed_out = True
        return StorageTimeoutError(
            f"{self._operation} on {self._backend.name} did not finish within {self._timeout_seconds:g} s; "
            "raise BUBU_STORAGE_TIMEOUT if the store is slow, or look at the store if it hangs"
        )
