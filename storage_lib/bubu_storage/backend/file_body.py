"""The body of an object in a file store: a bounded read-only stream over one descriptor.

It reads from one open file, so it stays whole when the object is replaced or deleted
meanwhile. A file that another program cut short in place is noticed, not passed off as a
shorter object.
"""

from __future__ import annotations

import io
import os
from typing import Any

from bubu_storage.backend.file_dirs import map_os_error
from bubu_storage.errors import UnavailableError

__all__ = ["FileBody"]


class FileBody(io.RawIOBase):
    """Read ``length`` bytes of a file from ``start``; owns and closes the descriptor."""

    def __init__(self, fd: int, *, start: int, length: int, key: str, store: str) -> None:
        super().__init__()
        self._fd = fd
        self._left = length
        self._key = key
        self._store = store
        if start:
            os.lseek(fd, start, os.SEEK_SET)

    def readable(self) -> bool:
        """Tell that this is a source of bytes."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left; b"" at the end.

        Raises:
            StorageError: the disk fails, or the file ends early.
        """
        if self.closed:
            raise ValueError("read of a closed object body")
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        pieces: list[bytes] = []
        while wanted:
            try:
                piece = os.read(self._fd, wanted)
            except OSError as error:
                action = f"object {self._key!r} of {self._store} cannot be read to its end"
                raise map_os_error(error, action, key=self._key) from error
            if not piece:
                raise UnavailableError(
                    f"object {self._key!r} of {self._store} ends {self._left} bytes early: "
                    "another program is writing to the file in place",
                    key=self._key,
                    code="IncompleteBody",
                )
            pieces.append(piece)
            wanted -= len(piece)
            self._left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a writable buffer and return how many bytes went in."""
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the descriptor; twice is fine."""
        if not self.closed:
            try:
                os.close(self._fd)
            finally:
                super().close()
