"""Reading and writing the objects of one call: in parallel, within one deadline.

A call of the manager makes one `Transfer`. Objects are taken in order by a bounded number
of threads, which the calls of a manager share in turns; the error of a call is always that of
the first object, in order, that failed, so parallelism does not change what a caller sees.
Local stores (files, memory) answer faster than a thread can be woken: they are read directly,
and written to directly unless they turn out to wait for a disk.

The deadline ends the waiting, not the thread: an operation that hangs in the store runs on
until the store's own timeout and its outcome is dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, Final, TypeVar

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import StorageError, StorageTimeoutError
from bubu_storage.payload.decoder import decode_text
from bubu_storage.payload.dehydrate import PlannedObject
from bubu_storage.payload.outlook import Want
from bubu_storage.payload.stored import parse_stored_object
from bubu_storage.read_ahead import ByteLimit, ReadAhead
from bubu_storage.wire import CONTENT_TYPE_JSON

__all__ = ["Transfer"]

_T = TypeVar("_T")

_WINDOW_PER_WORKER: Final = 4
"""Objects that are loaded ahead of the one that is needed next, for each worker."""
_LOCAL_TRIES: Final = 4
"""So many objects are written to a local store one by one, to see how long it takes."""
_LOCAL_SLOW_SECONDS: Final = 0.001
"""An object that takes longer waits for a disk (fsync), and that is worth waiting for together."""
_TURN_SECONDS: Final = 0.1
"""After this a thread that writes goes back into the line, so that other calls get theirs."""


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
        self.reads_ahead = not local
        self._limit = ByteLimit(max_read_bytes)
        self._stopped = False
        self._ahead: ReadAhead | None = None
        self._loaded: dict[str, Any] = {}
        self._written: list[int] = []
        self.timed_out = False

    @property
    def read_bytes(self) -> int:
        """Length of the objects that were loaded so far, each counted once."""
        return self._limit.used_bytes

    @property
    def written_bytes(self) -> int:
        """Length of the objects that were written so far and are referred to."""
        return sum(self._written)

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
        pending = iter(enumerate(objects))
        if self._local and not self._write_directly(pending):
            return
        lock = threading.Lock()
        failures: dict[int, BaseException] = {}

        def work() -> bool:
            """Write for one turn; return whether there may be more to do."""
            turn_ends = time.monotonic() + _TURN_SECONDS
            while not self._stopped:
                with lock:
                    index, planned = next(pending, (-1, None))
                if planned is None:
                    return False
                try:
                    self._write(planned)
                except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                    failures[index] = error
                    self._stopped = True
                if time.monotonic() >= turn_ends:
                    return True
            return False

        executor = self._executor()
        tasks = {executor.submit(work) for _ in range(min(self._workers, len(objects)))}
        while tasks:
            ended, tasks = self._wait(tasks)
            unfinished = sum(task.result() for task in ended)
            if unfinished:
                self._check_deadline()
            tasks |= {executor.submit(work) for _ in range(unfinished)}
        if failures:
            raise failures[min(failures)]

    def _write_directly(self, pending: Iterator[tuple[int, PlannedObject]]) -> bool:
        """Write one object after another; return whether the rest is better written in parallel."""
        started = time.monotonic()
        for index, planned in pending:
            self._check_deadline()
            self._write(planned)
            if index == _LOCAL_TRIES - 1:
                each = (time.monotonic() - started) / _LOCAL_TRIES
                if each > _LOCAL_SLOW_SECONDS:
                    return True
        return False

    def announce(self, wants: Iterator[Want]) -> None:
        """Begin to load objects that will be asked for, and what they lead to; see `Fetcher`."""
        self._reading_ahead().announce(wants)

    def get(self, key: str) -> Any:
        """Return the value inside a stored object; each is loaded once.

        Raises:
            LimitExceededError: with this one the call would have loaded too much.
            StorageError: it is missing, malformed, or cannot be read.
            StorageTimeoutError: the call's deadline is over.
        """
        self._check_deadline()
        if self._local:
            if key not in self._loaded:
                self._loaded[key] = parse_stored_object(decode_text(self.read(key)), key)[1]
            return self._loaded[key]
        ahead = self._reading_ahead()
        try:
            return ahead.get(key, self._deadline)
        except TimeoutError as error:
            if isinstance(error, StorageError):
                raise
            raise self._timeout() from None

    def abandon(self) -> None:
        """Begin nothing more; for the end of the call, however it came."""
        self._stopped = True
        if self._ahead is not None:
            self._ahead.stop()

    def read(self, key: str) -> bytes:
        """Return an object's bytes; for `run`.

        Raises:
            LimitExceededError: with this one the call would have loaded too much.
            StorageError: it is missing, or cannot be read.
        """
        with self._backend.get_object(key) as found:
            # Before reading; no backend gives more than it has announced.
            self._limit.use(key, found.info.size_bytes)
            return found.read()

    def _reading_ahead(self) -> ReadAhead:
        if self._ahead is None:
            self._ahead = ReadAhead(
                self._backend,
                self._executor().submit,
                self._limit,
                workers=self._workers,
                window=_WINDOW_PER_WORKER * self._workers,
            )
        return self._ahead

    def _write(self, planned: PlannedObject) -> None:
        body = planned.body()
        self._backend.put_object(planned.path, body, size_bytes=len(body), content_type=CONTENT_TYPE_JSON)
        if not planned.superseded:
            self._written.append(len(body))

    def _result(self, future: Future[_T]) -> _T:
        self._wait({future})
        return future.result()

    def _wait(self, futures: set[Future[_T]]) -> tuple[set[Future[_T]], set[Future[_T]]]:
        """Wait until some have ended; return these and the others."""
        remaining = min(max(0.0, self._deadline - time.monotonic()), threading.TIMEOUT_MAX)
        ended, others = wait(futures, timeout=remaining, return_when=FIRST_COMPLETED)
        if not ended:
            self._stopped = True
            for future in futures:
                future.cancel()
            raise self._timeout()
        return ended, others

    def _check_deadline(self) -> None:
        if time.monotonic() >= self._deadline:
            raise self._timeout()

    def _timeout(self) -> StorageTimeoutError:
        self.timed_out = True
        return StorageTimeoutError(
            f"{self._operation} on {self._backend.name} did not finish within {self._timeout_seconds:g} s; "
            "raise BUBU_STORAGE_TIMEOUT if the store is slow, or look at the store if it hangs"
        )
