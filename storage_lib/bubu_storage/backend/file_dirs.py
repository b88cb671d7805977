"""Directories of a file store, walked one segment at a time without following any link.

Every path below the base is opened segment by segment relative to the directory before it
(``openat`` with ``O_NOFOLLOW``), so that neither a planted link nor one that appears in the
middle of an operation leads out of the base. The base itself may be reached through links:
it is the operator's choice, not the data's.

Names are bytes throughout: what a key means must not depend on the process's locale.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bubu_storage.backend.file_errors import map_os_error
from bubu_storage.backend.types import check_key
from bubu_storage.errors import BucketNotFoundError, ConfigurationError, InvalidKeyError
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "DIRECTORY_MODE",
    "STALE_AFTER_SECONDS",
    "TEMPORARY_PREFIX",
    "DirectoryChain",
    "VanishedError",
    "create_base",
    "open_base",
    "remove_leftovers",
    "remove_stale_temporaries",
    "split_key",
]

DIRECTORY_MODE: Final = 0o750
"""Of every directory that we create, as the Go implementation does; less the umask."""

TEMPORARY_PREFIX: Final = b".bubu-tmp-"
"""How the names of half-written files begin. No key may have such a segment."""

STALE_AFTER_SECONDS: Final = 3600.0
"""A half-written file that nobody has touched or locked for so long has lost its writer."""

_ORDER: Final = random.SystemRandom()

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class VanishedError(Exception):
    """A directory was there and is gone: another process pruned it. Start again."""


def split_key(key: str) -> list[bytes]:
    """Return the path segments of a key that a directory tree can hold.

    On top of `check_key`, refused are segments that a file system would swallow (empty,
    ``.``), since two keys must not name one object, and names kept for half-written files.

    Raises:
        InvalidKeyError: with the reason.
    """
    check_key(key)
    segments = key.encode("utf-8").split(b"/")
    for segment in segments:
        if segment in (b"", b"."):
            what = "an empty segment" if not segment else "a '.' segment"
            raise InvalidKeyError(
                f"object key {key!r} has {what}; in a directory it would be another key's object", key=key
            )
        if segment.startswith(TEMPORARY_PREFIX):
            raise InvalidKeyError(
                f"object key {key!r} uses a name that is kept for half-written files "
                f"({TEMPORARY_PREFIX.decode()}…)",
                key=key,
            )
    return segments


def create_base(path: str) -> None:
    """Create the base directory and its parents where they are missing.

    Raises:
        ConfigurationError: the path, or a parent of it, is no directory.
        PermissionDeniedError: it may not be created.
    """
    missing: list[Path] = []
    current = Path(path)
    while not os.path.lexists(current):
        missing.append(current)
        current = current.parent
    try:
        for directory in reversed(missing):
            directory.mkdir(DIRECTORY_MODE, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except NotADirectoryError as error:
        raise ConfigurationError(
            f"file store path {path!r} is not a directory; name one, or a place where it can be created",
            code="ENOTDIR",
        ) from error
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"file store path {path!r} is a link to nowhere; name a real directory", code="ENOENT"
        ) from error
    except OSError as error:
        raise map_os_error(error, f"file store {path!r} cannot be opened or created") from error


def open_base(path: str) -> int:
    """Open the base directory and return its descriptor.

    Raises:
        BucketNotFoundError: it is gone.
        StorageError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BucketNotFoundError(
            f"the base directory {path!r} of the file store does not exist (any more); create it or mount it",
            code="ENOENT",
        ) from error
    except OSError as error:
        raise map_os_error(error, f"file store {path!r} cannot be opened") from error


class DirectoryChain:
    """Open directories from the base down to the one that holds an object.

    A context manager: leaving it closes all. ``names[i]`` is the entry of ``fds[i]`` that
    ``fds[i + 1]`` was opened from.
    """

    __slots__ = ("created_in", "fds", "names")

    def __init__(self, base_fd: int) -> None:
        self.fds = [base_fd]
        self.names: list[bytes] = []
        self.created_in: set[int] = set()

    @property
    def leaf_fd(self) -> int:
        """Descriptor of the innermost directory."""
        return self.fds[-1]

    def descend(self, names: Sequence[bytes], *, create: bool = False) -> None:
        """Open the directories one below the other.

        Raises:
            VanishedError: with ``create``, when a directory was removed under our feet.
            OSError: as the system reports it; a link shows as ``ELOOP``.
        """
        for name in names:
            self.fds.append(self._enter(name, create=create))
            self.names.append(name)

    def _enter(self, name: bytes, *, create: bool) -> int:
        parent = self.leaf_fd
        try:
            return open_directory(name, parent)
        except FileNotFoundError:
            if not create:
                raise
        try:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
            self.created_in.add(parent)
        except FileExistsError:
            pass
        except FileNotFoundError as error:
            raise VanishedError from error
        try:
            return open_directory(name, parent)
        except FileNotFoundError as error:
            raise VanishedError from error

    def sync_created(self) -> None:
        """Make the directories that were created on the way survive a power cut."""
        for fd in self.created_in:
            os.fsync(fd)

    def prune(self) -> int:
        """Remove the innermost directories as far up as they are empty.

        A directory with nothing in it but stale half-written files counts as empty and is
        cleared of them. First-level directories stay (they may have been set up by hand,
        with rights of their own), except the one for our own objects.

        Returns:
            How many of ``names`` are still there; ``fds`` at this index is the innermost of them.
        """
        for depth in range(len(self.names), 0, -1):
            name, parent, own = self.names[depth - 1], self.fds[depth - 1], self.fds[depth]
            if depth == 1 and name != RESERVED_PREFIX.rstrip("/").encode():
                return depth
            if not _remove_if_empty(name, parent, own):
                return depth
        return 0

    def close(self) -> None:
        """Close every descriptor; twice is fine."""
        while self.fds:
            os.close(self.fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_directory(name: bytes, parent: int) -> int:
    """Open a directory that is no link.

    Raises:
        OSError: ``ELOOP`` for a link, ``ENOTDIR`` for anything else that is no directory.
    """
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except NotADirectoryError:
        # Linux says ENOTDIR for a link too when a directory is asked for.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise


def remove_stale_temporaries(directory: int, *, older_than_seconds: float = STALE_AFTER_SECONDS) -> int:
    """Remove the half-written files of killed writers from one directory.

    A file counts as abandoned when it has not been touched for so long **and** no process
    holds its lock, so that a writer that merely waits for its source is left alone.

    Returns:
        How many were removed.
    """
    with os.scandir(directory) as entries:
        names = [name for name in map(os.fsencode, _names(entries)) if name.startswith(TEMPORARY_PREFIX)]
    return sum(_remove_if_stale(name, directory, older_than_seconds) for name in names)


def remove_leftovers(
    base: str, *, older_than_seconds: float, should_stop: Callable[[], bool] | None = None
) -> int:
    """Remove the half-written files of killed writers anywhere below a base directory.

    Empty directories go too, if they are as old or that is what made them empty. Directories are
    come to in another order each time, so that several calls that are stopped early reach
    everything, too.

    Args:
        base: the directory.
        older_than_seconds: younger ones are left alone; so are locked ones.
        should_stop: asked before each directory.

    Returns:
        How many were removed.

    Raises:
        BucketNotFoundError: the base directory is gone.
    """
    removed = 0
    pending: list[list[bytes]] = [[]]
    while pending and not (should_stop is not None and should_stop()):
        path = pending.pop()
        with DirectoryChain(open_base(base)) as chain, contextlib.suppress(OSError):
            chain.descend(path)
            # A young directory that is empty may be about to be written into by another's writer.
            is_old = time.time() - os.fstat(chain.leaf_fd).st_mtime >= older_than_seconds
            here = remove_stale_temporaries(chain.leaf_fd, older_than_seconds=older_than_seconds)
            removed += here
            with os.scandir(chain.leaf_fd) as entries:
                below = [
                    [*path, os.fsencode(entry.name)]
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
            _ORDER.shuffle(below)
            pending.extend(below)
            if path and (here or is_old):
                chain.prune()
    return removed


def _names(entries: Iterator[os.DirEntry[str]]) -> Iterator[str]:
    return (entry.name for entry in entries)


def _remove_if_stale(name: bytes, directory: int, older_than_seconds: float) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        if time.time() - os.fstat(fd).st_mtime < older_than_seconds:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks on this file system: the age decides alone
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _remove_if_empty(name: bytes, parent: int, directory: int) -> bool:
    """Remove one directory if nothing but rubbish is in it; tell whether it is gone."""
    for attempt in range(2):
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            # Anything else than "not empty" (a mount point, no right) leaves it in place.
            if attempt or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            if not _clear_rubbish(directory):
                return False
        else:
            return True
    return False


def _clear_rubbish(directory: int) -> bool:
    """Remove stale half-written files if there is nothing else; stops at the first object."""
    try:
        with os.scandir(directory) as entries:
            if any(not os.fsencode(name).startswith(TEMPORARY_PREFIX) for name in _names(entries)):
                return False
        return remove_stale_temporaries(directory) > 0
    except OSError:
        return False
