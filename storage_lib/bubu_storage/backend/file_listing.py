"""A listing of a directory tree in byte order of whole keys, in constant memory.

Object stores sort by the whole key, so ``a-b`` comes before ``a/x`` although the directory
``a`` comes before the file ``a-b``: here a directory sorts as its name followed by ``/``.
Directories that cannot hold a wanted key are never opened. What disappears during the walk
is left out; what cannot be read is an error, never a silently shorter listing.

A key that is there all the time is listed, once, also while it is replaced again and again by other
users of this library (see `bubu_storage.backend.file_locks`).

Left out as well: links, special files, half-written files, and names that no key can have
(not UTF-8, too long).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bubu_storage.backend.file_dirs import TEMPORARY_PREFIX, DirectoryChain, open_directory
from bubu_storage.backend.file_locks import names_move, reading_entries
from bubu_storage.backend.types import MAX_KEY_BYTES, ListedObject, check_key
from bubu_storage.errors import InvalidKeyError

__all__ = ["TICK_NS", "etag_of", "modified_at", "walk"]

TICK_NS: Final = 10_000_000
"""The coarsest tick of a kernel's clock for files, in nanoseconds (100 Hz)."""


def etag_of(facts: os.stat_result) -> str:
    """Return an ETag that changes whenever an object is replaced.

    Each write makes a new file, so the inode tells a version from the one before it; what tells it
    from older ones, whose inode may be in use again, is the time (see `bubu_storage.backend.file_draft`).
    """
    return f'"{facts.st_mtime_ns:x}-{facts.st_size:x}-{facts.st_ino:x}"'


def modified_at(facts: os.stat_result) -> datetime:
    """Return when a file was last written, timezone-aware UTC.

    A time that no date can express (files may claim any year) becomes the latest one there
    is: such an object never looks old.
    """
    try:
        return datetime.fromtimestamp(facts.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Level:
    """One open directory of the walk; ``entries`` is None until it has been read."""

    fd: int
    path: bytes
    entries: list[bytes] | None = None


def walk(base_fd: int, prefix: bytes, start_after: bytes) -> Iterator[ListedObject]:
    """Yield the objects that begin with ``prefix`` and sort after ``start_after``.

    Args:
        base_fd: open base directory; closed at the end of the walk.
        prefix: plain text, may end anywhere.
        start_after: need not exist.

    Raises:
        OSError: a directory cannot be read.
    """
    folders = prefix.split(b"/")[:-1]
    with DirectoryChain(base_fd) as chain:
        if any(name in (b"", b".") or name.startswith(TEMPORARY_PREFIX) for name in folders):
            return
        try:
            chain.descend(folders)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno == errno.ELOOP:
                return
            raise
        root = b"".join(name + b"/" for name in folders)
        yield from _walk_tree(os.dup(chain.leaf_fd), root, prefix, start_after)


def _walk_tree(root_fd: int, root: bytes, prefix: bytes, start_after: bytes) -> Iterator[ListedObject]:
    """Depth first, with one sorted directory in memory a level."""
    stack = [_Level(root_fd, root)]
    try:
        while stack:
            level = stack[-1]
            if level.entries is None:
                level.entries = _sorted_entries(level.fd, level.path, prefix, start_after)
            if not level.entries:
                os.close(stack.pop().fd)
                continue
            name = level.entries.pop()
            if not name.endswith(b"/"):
                found = _listed(name, level.fd, level.path)
                if found is not None:
                    yield found
                continue
            try:
                stack.append(_Level(open_directory(name[:-1], level.fd), level.path + name))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
    finally:
        for level in stack:
            os.close(level.fd)


def _sorted_entries(directory: int, path: bytes, prefix: bytes, start_after: bytes) -> list[bytes]:
    """Return the names worth a look, directories with a final ``/``, the last one first."""
    last_change = os.fstat(directory).st_ctime_ns
    names: list[bytes] | None = None
    is_busy = abs(time.time_ns() - last_change) < TICK_NS  # another change may have the same time
    if not is_busy:
        names = _entries(directory, path, prefix, start_after)
        is_busy = os.fstat(directory).st_ctime_ns != last_change
    if is_busy and names_move(directory):
        with reading_entries(directory) as is_exact:
            again = _entries(directory, path, prefix, start_after)
        if not is_exact:  # two looks miss less than one
            again = list({*again, *_entries(directory, path, prefix, start_after)})
        names = again
    elif names is None:
        names = _entries(directory, path, prefix, start_after)
    names.sort(reverse=True)
    return names


def _entries(directory: int, path: bytes, prefix: bytes, start_after: bytes) -> list[bytes]:
    """Return the names worth a look, directories with a final ``/``, in no order."""
    wanted: list[bytes] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if name.startswith(TEMPORARY_PREFIX):
                continue
            if entry.is_dir(follow_symlinks=False):
                name += b"/"
                whole = path + name
                # All keys below sort before start_after, unless it lies below too.
                passed = whole <= start_after and not start_after.startswith(whole)
                if passed or not whole.startswith(prefix):
                    continue
            elif not entry.is_file(follow_symlinks=False):
                continue
            else:
                whole = path + name
                if whole <= start_after or not whole.startswith(prefix):
                    continue
            wanted.append(name)
    return wanted


def _listed(name: bytes, directory: int, path: bytes) -> ListedObject | None:
    whole = path + name
    try:
        key = whole.decode("utf-8")
        if len(whole) > MAX_KEY_BYTES or "\\" in key:
            check_key(key)
        facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, UnicodeDecodeError, InvalidKeyError):
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return ListedObject(key, facts.st_size, etag_of(facts), modified_at(facts))
