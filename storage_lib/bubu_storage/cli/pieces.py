"""Objects and local files as streams of bytes, for ``cat`` and ``cp``.

Invariants: a large object is read in ranges, so that no time limit of one answer ends a long
download, and a replacement in between is noticed; a local file appears whole under its name or
not at all; devices and pipes are written into, never replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bubu_storage.backend.types import GetObjectResult, ObjectBackend
from bubu_storage.errors import PreconditionFailedError, StorageError

__all__ = ["file_pieces", "object_pieces", "open_object", "write_file"]

PIECE_BYTES: Final = 1024 * 1024
RANGE_BYTES: Final = 16 * 1024 * 1024
"""Read in one answer; whatever is longer is asked for in ranges of this length."""

TEMPORARY_PREFIX: Final = ".bubu-tmp-"


def open_object(backend: ObjectBackend, key: str, size_bytes: int | None = None) -> GetObjectResult:
    """Open an object, or the first range of a long one; `object_pieces` reads it.

    Args:
        backend: the store.
        key: of the object.
        size_bytes: its length from a listing; asked for when None.

    Raises:
        StorageError: as `ObjectBackend.get_object`.
    """
    if size_bytes is None:
        size_bytes = backend.head_object(key).size_bytes
    # From a listing or a head: should the object have changed since, the answer says so.
    if size_bytes <= RANGE_BYTES:
        return backend.get_object(key)
    return backend.get_object(key, range_header=f"bytes=0-{RANGE_BYTES - 1}")


def object_pieces(backend: ObjectBackend, found: GetObjectResult) -> Iterator[bytes]:
    """Give the bytes of an object that `open_object` opened, and close it.

    Raises:
        PreconditionFailedError: the object was replaced meanwhile.
        StorageError: the store failed.
    """
    key, etag = found.info.key, found.info.etag
    with found:
        size_bytes = total_bytes(found)
        yield from found
        position = found.info.size_bytes
    while position < size_bytes:
        last = min(position + RANGE_BYTES, size_bytes) - 1
        with backend.get_object(key, range_header=f"bytes={position}-{last}") as part:
            if part.info.etag != etag or total_bytes(part) != size_bytes or part.info.size_bytes == 0:
                raise PreconditionFailedError(
                    f"object {key!r} of {backend.name} was replaced while it was being read; try again",
                    key=key,
                )
            yield from part
            position += part.info.size_bytes


def total_bytes(found: GetObjectResult) -> int:
    """Return the length of the whole object of which an answer may be a range."""
    total = found.content_range.rpartition("/")[2]
    return int(total) if total.isdigit() else found.info.size_bytes


def file_pieces(path: str) -> Iterator[bytes]:
    """Give the bytes of a local file.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def write_file(
    path: str, pieces: Iterable[bytes], *, if_absent: bool = False, unfinished: set[str] | None = None
) -> None:
    """Write a local file so that nobody ever sees half of it; folders are made as needed.

    Args:
        path: a link is followed; a device or pipe is written into.
        pieces: the content; when it raises, nothing is left behind.
        if_absent: refuse to replace a file.
        unfinished: holds the temporary file's name for as long as there is one, for whoever has to
            clean up after a thread that hangs.

    Raises:
        PreconditionFailedError: ``if_absent``, and there is one.
        OSError: it cannot be written.
    """
    target = os.path.realpath(path)
    kept_mode: int | None = None
    with contextlib.suppress(FileNotFoundError):
        mode = Path(target).stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "is a directory; end the target with '/' to write into it", path)
        if if_absent:
            raise _already_there(path)
        if not stat.S_ISREG(mode):
            with Path(target).open("wb", buffering=0) as device:
                device.writelines(pieces)
            return
        kept_mode = mode & 0o777
    folder = os.path.dirname(target)  # noqa: PTH120 - text in, text out
    Path(folder).mkdir(parents=True, exist_ok=True)
    temporary = os.path.join(folder, TEMPORARY_PREFIX + secrets.token_hex(8))  # noqa: PTH118 - likewise
    names = set[str]() if unfinished is None else unfinished
    names.add(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666 if kept_mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            if kept_mode is not None:
                os.fchmod(file.fileno(), kept_mode)  # what was private stays so
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
        if if_absent:
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise _already_there(path) from None
        else:
            os.replace(temporary, target)  # noqa: PTH105 - likewise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108 - likewise
        names.discard(temporary)


def _already_there(path: str) -> StorageError:
    return PreconditionFailedError(f"{path!r} exists already and --if-absent was given; it was left as it is")
