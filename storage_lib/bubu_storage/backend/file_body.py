"""The body of an object in a file store: a bounded read-only stream over one descriptor.

It reads from one open file, so it stays whole when the object is replaced or deleted
meanwhile. A file that another program cut short in place is noticed, not passed off as a
shorter object.
"""

from __future__ import annotations

import os
from typing import ClassVar

from bubu_storage.backend.body_stream import BoundedBody
from bubu_storage.backend.file_errors import map_os_error

__all__ = ["FileBody"]


class FileBody(BoundedBody):
    """Read ``length`` bytes of a file from ``start``; owns and closes the descriptor."""

    EARLY_END_HINT: ClassVar[str] = ": another program is writing to the file in place"

    def __init__(self, fd: int, *, start: int, length: int, key: str, store: str) -> None:
        super().__init__(length=length, key=key, store=store)
        self._fd = fd
        if start:
            os.lseek(fd, start, os.SEEK_SET)

    def _take(self, size: int) -> bytes:
        try:
            return os.read(self._fd, size)
        except OSError as error:
            action = f"object {self._key!r} of {self._store} cannot be read to its end"
            raise map_os_error(error, action, key=self._key) from error

    def close(self) -> None:
        """Close the descriptor; twice is fine."""
        if not self.closed:
            try:
                os.close(self._fd)
            finally:
                super().close()
