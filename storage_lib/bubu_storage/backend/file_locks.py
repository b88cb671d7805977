"""Who may change the entries of a directory: everybody together, or one alone who looks first.

A compare-and-replace is a look followed by an act, and nothing may happen in between. So every
change of an object (rename into place, unlink) holds a lock on the directory it is in: a plain
change shares it with others, a conditional one has it alone. The lock is the kernel's (``flock`` on
the directory's own descriptor): it holds between threads and processes, needs no file of its own, and
goes away with a process that is killed.

Where such a lock does not reach everybody, plain changes go on, and conditional ones are refused: they
could not keep their word. That is so on network file systems: Linux keeps locks on *directories* of NFS,
SMB and FUSE to the one machine, without a word. So only file systems that are known to do better count.
Programs that know nothing of these locks are not kept out anywhere.

A listing holds the same lock for as long as it takes to read the names of a directory in which something
is going on: some file systems (tmpfs, Btrfs) move a name that is replaced to the end of its directory,
where a reader that is in the middle of it meets the name twice, or never.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import random
import sys
import time
from collections.abc import Generator
from functools import cache
from types import TracebackType
from typing import Any, Final

from bubu_storage.errors import StorageTimeoutError, UnsupportedOperationError

__all__ = ["LONGEST_WAIT_SECONDS", "changing_entries", "has_reliable_locks", "names_move", "reading_entries"]

LONGEST_WAIT_SECONDS: Final = 30.0
"""A lock is held for two system calls; who holds one for so long was stopped in the middle."""

_WITH_LOCKS: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0x2FC12FC1,  # ZFS
        0xF2F52010,  # F2FS
        0xCA451A4E,  # bcachefs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlayfs
        0x00C36400,  # CephFS: the one network file system that has them for directories
    }
)
"""Magic numbers of ``statfs(2)``."""

_NAMES_STAY: Final = frozenset({0xEF53, 0x58465342})
"""Likewise, of file systems (ext, XFS) where a name that is replaced keeps its place in the directory."""

_STATFS_BYTES: Final = 512
"""More than the structure has on any platform."""

_LONGEST_WAIT_OF_READERS_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.000_2
_LONGEST_PAUSE_SECONDS: Final = 0.01


class changing_entries:  # noqa: N801 - used like a function, and much cheaper than a generator
    """Hold the lock on an open directory while an entry of it is looked at and changed.

    Args:
        directory: its descriptor, opened for this one operation.
        alone: keep everybody else out, for a conditional change.
        key: of the object, for messages.
        store: likewise its name.

    Raises:
        UnsupportedOperationError: ``alone``, on a file system whose locks do not reach everybody.
        StorageTimeoutError: others held the lock for too long.
    """

    __slots__ = ("_alone", "_directory", "_key", "_locked", "_store")

    def __init__(self, directory: int, *, alone: bool, key: str, store: str) -> None:
        self._directory = directory
        self._alone = alone
        self._key = key
        self._store = store
        self._locked = False

    def __enter__(self) -> None:
        self._locked = _lock(self._directory, alone=self._alone, key=self._key, store=self._store)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._locked:
            with contextlib.suppress(OSError):
                fcntl.flock(self._directory, fcntl.LOCK_UN)


@contextlib.contextmanager
def reading_entries(directory: int) -> Generator[bool]:
    """Keep the entries of an open directory as they are while they are read, where that can be had soon.

    Yields:
        Whether nobody changes them; else they are to be read as they come.
    """
    deadline = time.monotonic() + _LONGEST_WAIT_OF_READERS_SECONDS
    held = False
    while not held and has_reliable_locks(directory):
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                break
            time.sleep(random.random() * _FIRST_PAUSE_SECONDS)  # noqa: S311 - as below
        except OSError:
            break
        else:
            held = True
    try:
        yield held
    finally:
        if held:
            with contextlib.suppress(OSError):
                fcntl.flock(directory, fcntl.LOCK_UN)


def _lock(directory: int, *, alone: bool, key: str, store: str) -> bool:
    """Take the lock; False where there are none and none is needed."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    if alone and not has_reliable_locks(directory):
        raise _unsupported(key, store, "EOPNOTSUPP")
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
            raise _unsupported(key, store, errno.errorcode.get(error.errno or 0, "ENOLCK")) from error
        else:
            return True
        time.sleep(random.random() * pause)  # noqa: S311 - spreads the contenders, is no secret
        pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)


def has_reliable_locks(directory: int) -> bool:
    """Tell whether a lock on an open directory keeps out everybody who can reach it."""
    if sys.platform != "linux":
        return True  # a developer's machine; the structure below is another there
    return _file_system(directory) in _WITH_LOCKS


def names_move(directory: int) -> bool:
    """Tell whether who reads an open directory may miss names that are replaced meanwhile."""
    return sys.platform != "linux" or _file_system(directory) not in _NAMES_STAY


def _file_system(directory: int) -> int:
    """Return the magic number of the file system that an open directory is on; 0 where it cannot be told."""
    import ctypes  # noqa: PLC0415 - only for conditional changes

    facts = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc().fstatfs(directory, facts) != 0:
        return 0
    return ctypes.c_long.from_buffer(facts).value & 0xFFFFFFFF


@cache
def _libc() -> Any:
    import ctypes  # noqa: PLC0415 - see above

    return ctypes.CDLL(None)


def _unsupported(key: str, store: str, code: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"object {key!r} of {store} cannot be changed on a condition: its file system has no locks on "
        "directories that all machines see; use a local volume, CephFS or an object store for this",
        key=key,
        code=code,
    )
