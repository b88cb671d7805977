"""Who may use a backend, and when it is closed.

A manager's backend can be exchanged (its configuration changed) or closed while calls are
under way. Each call holds on to the backend that it began with; a backend is closed when
it has been retired and its last call has ended, so nobody's connection is cut.

A call may be made while another one is under way in the same thread (a body that is being written
reads another object): it has threads of its own, so that no two calls wait for each other. A process
that was forked has neither the threads nor, safely, the connections of its parent: the first call
there opens the store anew.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.daemon_threads import DaemonExecutor
from bubu_storage.errors import StorageDisabledError, StorageError

__all__ = ["BackendHandle", "BackendHolder"]


class _Thread(threading.local):
    """What a thread knows about itself: in how many calls' threads it works, one inside the other."""

    depth: int = 0


_thread: Final = _Thread()


def _enter(depth: int) -> None:
    _thread.depth = depth


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
        reopen: opens the same store once more; None where the store is the caller's.
    """

    backend: ObjectBackend | None
    owned: bool
    local: bool
    users: int = 0
    retired: bool = False
    store: ObjectBackend | None = None
    before: BackendHandle | None = None
    reopen: Callable[[], BackendHandle] | None = None

    def follows_others(self) -> bool:
        """Tell whether calls are under way on handles that this one took over from."""
        found, one = False, self
        while (before := one.before) is not None:
            if before.users:
                found, one = True, before
            else:
                one.before = before.before  # nobody uses it any more, and it is not small
        return found

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
        self._executors: dict[int, DaemonExecutor] = {}
        self._users = 0
        self._closed = False
        self._hung = False
        self._forked = False
        _holders.add(self)

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
            self._check_open()
            if self._forked:
                self._settle_in_child()
            handle = self._handle
            handle.users += 1
            self._users += 1
        try:
            yield handle
        finally:
            with self._lock:
                handle.users -= 1
                self._users -= 1
                last = handle.retired and handle.users == 0
                if last:
                    self._handle.follows_others()
            if last:
                self._shut_down(handle)

    def threads(self) -> Executor:
        """Return the threads; for calls under way only."""
        depth = _thread.depth
        with self._lock:
            if depth not in self._executors:
                self._executors[depth] = DaemonExecutor(
                    self._max_workers, name="bubu-storage", initializer=partial(_enter, depth + 1)
                )
            return self._executors[depth]

    def note_hung_thread(self) -> None:
        """Remember that a thread waits for a store that does not answer."""
        self._hung = True

    def resize(self, max_workers: int) -> None:
        """Use another number of threads from the next call on; calls under way keep theirs."""
        with self._lock:
            self._max_workers = max_workers
            # Not shut down, since calls under way may still give them work: their threads end when
            # the last of these calls has let go of them.
            self._executors = {}

    def exchange(self, handle: BackendHandle) -> None:
        """Use another backend from the next call on.

        Raises:
            StorageError: closed; the new backend is, too, if it was ours.
        """
        with self._lock:
            old = handle if self._closed else self._handle
            old.retired = True
            idle = old.users == 0
            if not self._closed:
                self._handle = handle
                handle.follows_others()
        if idle:
            self._shut_down(old)
        if old is handle:
            self._check_open()

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

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("this storage manager is closed; make a new one")

    def _shut_down(self, handle: BackendHandle) -> None:
        executors: list[DaemonExecutor] = []
        with self._lock:
            # Calls on a backend that was exchanged may go on when the holder has long been closed.
            if self._closed and not self._users:
                executors = list(self._executors.values())
                self._executors = {}
        try:
            for executor in executors:
                # A store that hangs must not make close() hang as well; nor can a thread wait for
                # itself, where the last one to let go is the garbage collector in one of them.
                executor.shutdown(wait=not self._hung and not _thread.depth, cancel_futures=True)
        finally:
            if handle.owned and handle.backend is not None:
                handle.backend.close()

    def after_fork(self) -> None:
        """Forget, in a child process, what the fork did not bring along."""
        self._lock = threading.RLock()
        self._executors = {}
        self._hung = False
        self._forked = True

    def _settle_in_child(self) -> None:
        """Open our own store anew; the parent's connections are left alone. The lock is held."""
        if self._handle.reopen is not None:
            self._handle = self._handle.reopen()
        self._forked = False


_holders: Final[weakref.WeakSet[BackendHolder]] = weakref.WeakSet()


def _after_fork() -> None:
    _thread.depth = 0
    for holder in list(_holders):
        holder.after_fork()


os.register_at_fork(after_in_child=_after_fork)
