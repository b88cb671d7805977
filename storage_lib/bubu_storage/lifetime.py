"""Who may use a backend, and when it is closed.

A manager's backend can be exchanged (its configuration changed) or closed while calls are
under way. Each call holds on to the backend that it began with; a backend is closed when
it has been retired and its last call has ended, so nobody's connection is cut.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import StorageDisabledError, StorageError

__all__ = ["BackendHandle", "BackendHolder"]


@dataclass(slots=True)
class BackendHandle:
    """A backend and who uses it.

    Attributes:
        backend: what calls work on, layers and all; None when storage is disabled.
        owned: whether it is ours to close.
        local: whether it answers without a network in between.
        users: calls under way.
        retired: no further call will begin on it.
        store: the backend without the manager's own layers.
        before: the handle that this one took over from, as long as that is in use.
    """

    backend: ObjectBackend | None
    owned: bool
    local: bool
    users: int = 0
    retired: bool = False
    store: ObjectBackend | None = None
    before: BackendHandle | None = None

    def follows_others(self) -> bool:
        """Tell whether calls are under way on handles that this one took over from."""
        before = self.before
        while before is not None and not before.users:
            before = self.before = before.before
        return before is not None

    def require(self) -> ObjectBackend:
        """Return the backend.

        Raises:
            StorageDisabledError: there is none.
        """
        if self.backend is None:
            raise StorageDisabledError("storage is disabled; set BUBU_STORAGE_PROVIDER to s3 or file")
        return self.backend


class BackendHolder:
    """Holds the current backend and the threads that work on it; thread-safe.

    Args:
        handle: the backend to begin with.
        max_workers: threads, made when the first one is needed.
    """

    def __init__(self, handle: BackendHandle, *, max_workers: int) -> None:
        # Reentrant: an abandoned listing may be finalized, and leave `in_use`, at any moment.
        self._lock = threading.RLock()
        self._handle = handle
        self._max_workers = max_workers
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._hung = False

    @property
    def current(self) -> BackendHandle:
        """The backend that the next call will use."""
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @contextmanager
    def in_use(self) -> Generator[BackendHandle]:
        """Hold on to the backend for one call.

        Raises:
            StorageError: closed.
        """
        with self._lock:
            if self._closed:
                raise StorageError("this storage manager is closed; make a new one")
            handle = self._handle
            handle.users += 1
        try:
            yield handle
        finally:
            with self._lock:
                handle.users -= 1
                last = handle.retired and handle.users == 0
            if last:
                self._shut_down(handle)

    def threads(self) -> Executor:
        """Return the threads; for calls under way only."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._max_workers, thread_name_prefix="bubu-storage")
            return self._executor

    def note_hung_thread(self) -> None:
        """Remember that a thread waits for a store that does not answer."""
        self._hung = True

    def resize(self, max_workers: int) -> None:
        """Use another number of threads from the next call on; calls under way keep theirs."""
        with self._lock:
            self._max_workers = max_workers
            # Not shut down, since calls under way may still give it work: its threads end when
            # the last of them has let go of it.
            self._executor = None

    def exchange(self, handle: BackendHandle) -> None:
        """Use another backend from the next call on."""
        with self._lock:
            old, self._handle = self._handle, handle
            old.retired = True
            idle = old.users == 0
        if idle:
            self._shut_down(old)

    def close(self) -> None:
        """Begin no further call; release all when the last one has ended. Twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            handle = self._handle
            handle.retired = True
            idle = handle.users == 0
        if idle:
            self._shut_down(handle)

    def _shut_down(self, handle: BackendHandle) -> None:
        executor = None
        with self._lock:
            # An exchanged backend's last call may end when the holder has long been closed.
            if self._closed and self._handle.users == 0:
                executor, self._executor = self._executor, None
        if executor is not None:
            # A store that hangs must not make close() hang as well.
            executor.shutdown(wait=not self._hung, cancel_futures=True)
        if handle.owned and handle.backend is not None:
            handle.backend.close()
