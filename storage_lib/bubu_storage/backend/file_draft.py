"""An object of a file store while it is being written: a file of its own that becomes the object in one step.

Invariants: nobody sees a draft (listings leave it out, no key can name it); it is locked while its writer
lives, so that nobody takes it for an abandoned one; it is either put in place whole or removed.

The ETag of an object is made of its file's number, length and time of change. File numbers are given
out again and clocks tick coarsely (up to 10 ms), so a file that is replaced twice within one tick
could look like the first one again. `FileDraft.seal` therefore draws the digits of the time below the
tick at random: of two versions with the same file number, length and tick, one pair in ten million
has the same ETag. Not covered are file systems that drop these digits (ext3 and FAT keep whole
seconds) and files that other programs write.

The price: of two versions written within a tick the later one may bear the earlier time, by less than 10 ms.
Tools that skip what is "not newer" (``rsync -u``) should compare by any difference instead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from bubu_storage.backend.file_dirs import TEMPORARY_PREFIX, DirectoryChain, VanishedError, open_base
from bubu_storage.backend.file_entries import check_unchanged, link_in_place, look_up, put_in_place
from bubu_storage.backend.file_listing import TICK_NS
from bubu_storage.backend.file_locks import changing_entries
from bubu_storage.errors import UnavailableError

__all__ = ["FileDraft"]

_FILE_MODE: Final = 0o666
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_RESTARTS: Final = 1000
"""Times that a writer starts again because its directory was pruned; each is a race lost."""
_COPY_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024


class FileDraft:
    """A new file in the directory of its key; a context manager that removes it unless it was put in place.

    Args:
        base: base directory of the store.
        folders: the directories below it, created where they are missing.
        store: name of the store, for messages.

    Attributes:
        fd: descriptor of the file, for writing.

    Raises:
        UnavailableError: directories were removed as fast as they were created.
        OSError: as the system reports it.
    """

    __slots__ = ("_back_ns", "_chain", "_in_place", "_name", "fd")

    def __init__(self, base: str, folders: Sequence[bytes], *, store: str) -> None:
        self._chain, self._name, self.fd = _create(base, folders, store)
        # The name is random already, and unlike any other that exists.
        self._back_ns = int(self._name[len(TEMPORARY_PREFIX) :], 16) % TICK_NS
        self._in_place = False
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, piece: memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: as the system reports it.
        """
        while piece:
            piece = piece[os.write(self.fd, piece) :]

    def copy_from(self, source: int) -> int:
        """Append what an open file holds from its position on, and return how many bytes that was.

        The kernel copies, and shares the blocks where the file system can.

        Raises:
            OSError: as the system reports it.
        """
        copied = 0
        try:
            while count := os.copy_file_range(source, self.fd, _COPY_BYTES):
                copied += count
        except AttributeError:
            pass  # a developer's machine: only Linux has it
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
        # Some file systems cannot, and some say "nothing left" although there is.
        while piece := os.read(source, _READ_BYTES):
            self.write(memoryview(piece))
            copied += len(piece)
        return copied

    def seal(self, *, sync: bool) -> os.stat_result:
        """End the writing and return the facts that the object will have.

        Args:
            sync: force the bytes to disk.

        Raises:
            OSError: as the system reports it.
        """
        facts = os.fstat(self.fd)
        # Backwards: an object from the future, be it by a millisecond, is a thing to be reported.
        with contextlib.suppress(PermissionError):  # some network volumes let nobody set times
            os.utime(self.fd, ns=(facts.st_atime_ns, facts.st_mtime_ns - self._back_ns))
        if sync:
            os.fsync(self.fd)
        return os.fstat(self.fd)

    def put_in_place(
        self, name: bytes, *, if_match: str, if_none_match: str, sync: bool, key: str, store: str
    ) -> bool:
        """Make the file the object; False when somebody removed it meanwhile.

        Args:
            name: entry of the directory.
            if_match: see `ObjectBackend.put_object`.
            if_none_match: likewise.
            sync: force the directory to disk.
            key: of the object, for messages.
            store: likewise its name.

        Raises:
            PreconditionFailedError: a condition did not hold.
            UnsupportedOperationError: the file system can do no conditional change.
            OSError: something of that name is no regular file; or as the system reports it.
        """
        directory = self._chain.leaf_fd
        placed: bool | None = None
        if if_none_match:
            # A link is made only where nothing is, whatever locks others know: none is needed.
            check_unchanged(look_up(name, directory), "", if_none_match, key=key, store=store)
            placed = link_in_place(self._name, name, directory, key=key, store=store)
        if placed is None:
            conditional = bool(if_match or if_none_match)
            with changing_entries(directory, alone=conditional, key=key, store=store):
                check_unchanged(look_up(name, directory), if_match, if_none_match, key=key, store=store)
                placed = put_in_place(self._name, name, directory)
        self._in_place = placed
        if placed and sync:
            os.fsync(directory)
            self._chain.sync_created()
        return placed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._chain:
            os.close(self.fd)
            if not self._in_place:
                with contextlib.suppress(OSError):
                    os.unlink(self._name, dir_fd=self._chain.leaf_fd)
                with contextlib.suppress(OSError):
                    self._chain.prune()


def _create(base: str, folders: Sequence[bytes], store: str) -> tuple[DirectoryChain, bytes, int]:
    """Open the directory, created where missing, and a new file in it.

    Once the file is there the directory can no longer be pruned; until then each step may
    find that it just was, and starts again.
    """
    for _ in range(_MAX_RESTARTS):
        chain = DirectoryChain(open_base(base))
        try:
            chain.descend(folders, create=True)
            name = TEMPORARY_PREFIX + secrets.token_hex(8).encode()
            fd = os.open(name, _CREATE, _FILE_MODE, dir_fd=chain.leaf_fd)
        except (VanishedError, FileNotFoundError, FileExistsError):
            chain.close()
        except BaseException:
            with chain, contextlib.suppress(OSError):
                chain.prune()  # what was created for nothing
            raise
        else:
            return chain, name, fd
    raise UnavailableError(
        f"{store}: a directory was removed {_MAX_RESTARTS} times just before an object was written",
        code="ENOENT",
    )
