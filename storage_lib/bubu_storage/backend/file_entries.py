"""Single entries of an open directory: is it an object, put one in its place, take one away.

An object is a regular file. Links, pipes, devices and directories of a key's name are refused
with the system's own error, never followed, replaced or removed in passing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from bubu_storage.backend.file_dirs import open_directory, remove_stale_temporaries
from bubu_storage.backend.file_listing import etag_of
from bubu_storage.errors import PreconditionFailedError

__all__ = [
    "check_regular",
    "check_unchanged",
    "exists_already",
    "link_in_place",
    "look_up",
    "put_in_place",
    "remove_entry",
]


def check_regular(mode: int) -> None:
    """Refuse what is no regular file.

    Raises:
        OSError: ``EISDIR``, ``ELOOP`` for a link, ``ENXIO`` for anything else.
    """
    if stat.S_ISREG(mode):
        return
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ELOOP if stat.S_ISLNK(mode) else errno.ENXIO
    raise OSError(number, os.strerror(number))


def look_up(name: bytes, directory: int) -> os.stat_result | None:
    """Return the facts of the object of that name, None where there is none.

    Raises:
        OSError: what is there is a directory, a link, a device or a pipe; see `check_regular`.
    """
    try:
        facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    check_regular(facts.st_mode)
    return facts


def check_unchanged(
    facts: os.stat_result | None, if_match: str, if_none_match: str, *, key: str, store: str
) -> None:
    """Compare what is there with the conditions of a request; "" is no condition.

    Raises:
        PreconditionFailedError: one does not hold.
    """
    if if_none_match and facts is not None:
        raise exists_already(key, store)
    if if_match and (facts is None or etag_of(facts) != if_match):
        raise PreconditionFailedError(
            f"object {key!r} of {store} has another ETag than the one asked for, or is gone",
            key=key,
            status=412,
            code="PreconditionFailed",
        )


def exists_already(key: str, store: str) -> PreconditionFailedError:
    """Return the error of a put-if-absent that found an object."""
    return PreconditionFailedError(
        f"object {key!r} of {store} exists already", key=key, status=412, code="PreconditionFailed"
    )


def put_in_place(temporary: bytes, name: bytes, directory: int) -> bool:
    """Rename the finished file to its name; False when somebody removed it meanwhile."""
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def link_in_place(temporary: bytes, name: bytes, directory: int, *, key: str, store: str) -> bool | None:
    """Give the finished file its name if nothing has it yet, in one step that needs no lock.

    Returns:
        True; False when somebody removed the file meanwhile; None where the file system has no
        hard links.

    Raises:
        PreconditionFailedError: something of that name exists.
        OSError: as the system reports it.
    """
    try:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError as error:
        raise exists_already(key, store) from error
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL):
            return None
        raise
    # Left behind by a kill at this point it is a leftover like others, and shares no fate with the object.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
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
