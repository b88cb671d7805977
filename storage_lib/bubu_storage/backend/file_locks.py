"""Who may change the entries of a directory: everybody together, or one alone who looks first.

A compare-and-replace is a look followed by an act, and nothing may happen in between. So every
change of an object (rename into place, unlink) holds a lock on the directory it is in: a plain
change shares it with others, a conditional one has it alone. The lock is the kernel's (``flock`` on
the directory's own descriptor): it holds between threads, processes and, where the file system says
so, machines, needs no file of its own, and goes away with a process that is killed.

Where the file system has no such locks, plain changes go on without, and conditional ones are
refused: they could not keep their word. Programs that know nothing of these locks are not kept out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import random
import time
from collections.abc import Generator
from typing import Final

from bubu_storage.errors import StorageTimeoutError, UnsupportedOperationError

__all__ = ["LONGEST_WAIT_SECONDS", "changing_entries"]

LONGEST_WAIT_SECONDS: Final = 30.0
"""A lock is held for two system calls; who holds one for so long was stopped in the middle."""

_FIRST_PAUSE_SECONDS: Final = 0.000_2
_LONGEST_PAUSE_SECONDS: Final = 0.01


@contextlib.contextmanager
def changing_entries(directory: int, *, alone: bool, key: str, store: str) -> Generator[None]:
    """Hold the lock on an open directory while an entry of it is looked at and changed.

    Args:
        directory: its descriptor, opened for this one operation.
        alone: keep everybody else out, for a conditional change.
        key: of the object, for messages.
        store: likewise its name.

    Raises:
        UnsupportedOperationError: ``alone``, on a file system without locks.
        StorageTimeoutError: others held the lock for too long.
    """
    locked = _lock(directory, alone=alone, key=key, store=store)
    try:
        yield
    finally:
        if locked:
            with contextlib.suppress(OSError):
                fcntl.flock(directory, fcntl.LOCK_UN)


def _lock(directory: int, *, alone: bool, key: str, store: str) -> bool:
    """Take the lock; False where there are none and none is needed."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    how = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            # Not the waiting form: that has no time limit, and a holder may be a stopped process.
            fcntl.flock(directory, how)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise StorageTimeoutError(
                    f"object {key!r} of {store} cannot be changed: another process holds the lock of its "
                    "directory; is it stopped?",
                    key=key,
                    code=errno.errorcode[errno.EWOULDBLOCK],
                ) from error
        except OSError as error:
            if not alone:
                return False
            raise UnsupportedOperationError(
                f"object {key!r} of {store} cannot be changed on a condition: its file system has no locks "
                "on directories (network file systems may lack them); use an object store for this",
                key=key,
                code=errno.errorcode.get(error.errno or 0, "ENOLCK"),
            ) from error
        else:
            return True
        time.sleep(random.random() * pause)  # noqa: S311 - spreads the contenders, is no secret
        pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
