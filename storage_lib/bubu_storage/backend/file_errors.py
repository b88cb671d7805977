"""From what the system says about a file store to the library's errors.

The system's own text is not used: it may name a descriptor, and never says the way out.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from typing import Final

from bubu_storage.errors import (
    InvalidKeyError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    UnavailableError,
)

__all__ = ["map_os_error", "mapped_errors"]

_DENIED: Final = {
    errno.EACCES: "permission denied; check the owner and mode of the directories, and this process's user",
    errno.EPERM: "operation not permitted; check the owner, mode and attributes of the directories",
    errno.EROFS: "the file system is mounted read-only",
    errno.ELOOP: "there is a symbolic link in the way, and links below the base directory are not followed",
}
_REFUSED: Final = {
    errno.EISDIR: "there is a directory of that name",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
    errno.ENOTEMPTY: "there is a directory of that name, and it is not empty",
    errno.EEXIST: "something else of that name exists",
    errno.ENXIO: "there is something of that name that is no regular file",
}
_UNAVAILABLE: Final = {
    errno.ENOSPC: "no space left on the device; free some or enlarge the volume",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the file system or the process limit allows",
    errno.EIO: "the device reports an I/O error",
    errno.ESTALE: "the network file system dropped the handle",
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "the system has too many open files",
    errno.EHOSTDOWN: "the file server is down",
    errno.ENOMEM: "the kernel is out of memory",
}


def map_os_error(error: OSError, action: str, *, key: str | None = None) -> StorageError:
    """Return the library's error for a system error; raise it ``from`` the original.

    Args:
        error: what the system said; its own text is not used (it may name a descriptor).
        action: what could not be done, as "object 'a' of file:///d cannot be written".
        key: the object concerned.
    """
    number = error.errno or 0
    code = errno.errorcode.get(number, "EUNKNOWN")
    if number in _DENIED:
        return PermissionDeniedError(f"{action}: {_DENIED[number]}", key=key, code=code)
    if number == errno.ENAMETOOLONG:
        return InvalidKeyError(
            f"{action}: a segment of the key is longer than the file system allows (255 bytes)",
            key=key,
            code=code,
        )
    if number in _UNAVAILABLE:
        return UnavailableError(f"{action}: {_UNAVAILABLE[number]}", key=key, code=code)
    if number == errno.ETIMEDOUT:
        return StorageTimeoutError(f"{action}: the file server did not answer in time", key=key, code=code)
    reason = _REFUSED.get(number) or os.strerror(number)
    return StorageError(f"{action}: {reason}", key=key, code=code)


@contextlib.contextmanager
def mapped_errors(store: str, verb: str, key: str) -> Generator[None]:
    """Turn the system's errors into the library's.

    Args:
        store: name of the store.
        verb: what could not be done, as "read"; "listed" makes ``key`` a prefix.
        key: the object concerned.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        what = f"object {key!r}" if verb != "listed" else f"prefix {key!r}"
        raise map_os_error(error, f"{what} of {store} cannot be {verb}", key=key) from error
