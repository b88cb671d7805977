"""What the bodies of all stores have in common: a read-only stream of a known length.

A body that ends before its length is an error, never a shorter object. Subclasses say where
bytes come from (`_take`) and what is released (`close`).
"""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import Any, ClassVar

from bubu_storage.errors import UnavailableError

__all__ = ["BoundedBody", "ReadOnlyBody"]


class ReadOnlyBody(io.RawIOBase):
    """A source of bytes of which only `read` is left to be said."""

    def readable(self) -> bool:
        """Tell that this is a source of bytes."""
        return True

    @abstractmethod
    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left; b"" at the end."""

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a writable buffer and return how many bytes went in."""
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)


class BoundedBody(ReadOnlyBody):
    """Read exactly ``length`` bytes.

    Args:
        length: of the body, in bytes.
        key, store: for messages.
    """

    EARLY_END_HINT: ClassVar[str] = ""
    """Why a body of this kind may end early; appended to the message."""

    def __init__(self, *, length: int, key: str, store: str) -> None:
        super().__init__()
        self._left = length
        self._key = key
        self._store = store

    @abstractmethod
    def _take(self, size: int) -> bytes:
        """Return up to ``size`` (at least 1) further bytes; b"" where there are no more."""

    def _reached_end(self) -> None:
        """Do what is to be done once, when the last byte has been read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left; b"" at the end.

        Raises:
            StorageError: the store fails, is too slow, or breaks off early.
        """
        if self.closed:
            raise ValueError("read of a closed object body")
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        first = b""
        # Grows in place: a large body needs its own length once, and one piece besides.
        rest: io.BytesIO | None = None
        while wanted:
            piece = self._take(wanted)
            if not piece:
                where = f"object {self._key!r} of {self._store}"
                raise UnavailableError(
                    f"{where} ends {self._left} bytes early{self.EARLY_END_HINT}",
                    key=self._key,
                    code="IncompleteBody",
                )
            wanted -= len(piece)
            self._left -= len(piece)
            if not self._left:
                self._reached_end()
            if rest is not None:
                rest.write(piece)
            elif wanted:
                rest = io.BytesIO()
                rest.write(piece)
            else:
                first = piece
        return first if rest is None else rest.getvalue()
