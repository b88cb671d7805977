"""Single entries of an open directory: is it an object, put one in its place, take one away.

An object is a regular file. Links, pipes, devices and directories of a key's name are refused
with the system's own error, never followed, replaced or removed in passing.
"""

from __future__ import annotations

import errno
import os
import stat

from bubu_storage.backend.file_dirs import open_directory, remove_stale_temporaries

__all__ = ["check_regular", "put_in_place", "refuse_odd_target", "remove_entry"]


def check_regular(mode: int) -> None:
    """Refuse what is no regular file.

    Raises:
        OSError: ``EISDIR``, ``ELOOP`` for a link, ``ENXIO`` for anything else.
    """
    if stat.S_ISREG(mode):
        return
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ELOOP if stat.S_ISLNK(mode) else errno.ENXIO
    raise OSError(number, os.strerror(number))


def refuse_odd_target(name: bytes, directory: int) -> None:
    """Refuse to replace a directory, a link, a device or a pipe that somebody put there.

    Raises:
        OSError: see `check_regular`.
    """
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    check_regular(mode)


def put_in_place(temporary: bytes, name: bytes, directory: int) -> bool:
    """Rename the finished file to its name; False when somebody removed it meanwhile."""
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def remove_entry(name: bytes, directory: int) -> None:
    """Unlink a file, or remove an empty directory; a missing one is fine.

    Raises:
        OSError: ``ENOTEMPTY`` for a directory with objects in it; see `check_regular` for the rest.
    """
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            check_regular(mode)
            os.unlink(name, dir_fd=directory)
            return
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            fd = open_directory(name, directory)
            try:
                remove_stale_temporaries(fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return
