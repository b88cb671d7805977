"""The body of a large object that obstore reads: one connection, and a second engine behind it.

Bytes arrive in pieces and are copied once, into what the reader gets. A
connection that breaks off, or runs into the time limit because the reader is slow, is not the
end: the reference engine reads on from there, on condition that the object is still the same.
Its errors are then the errors of this body.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any, Final

from bubu_storage.backend.body_stream import BoundedBody
from bubu_storage.backend.s3_obstore_gate import interruptible
from bubu_storage.backend.types import GetObjectResult
from bubu_storage.errors import StorageError, UnavailableError

__all__ = ["ObstoreBody"]

_PIECE_BYTES: Final = 1024 * 1024


class ObstoreBody(BoundedBody):
    """Read an open answer of obstore.

    Args:
        pieces: the body as buffers; anything it raises means that the connection is lost.
        size_bytes: length of the body.
        key, store: for messages.
        md5: what the whole body must hash to, in hex; "" where that cannot be told.
        resume: opens the rest of the body from an offset by the reference engine, or raises
            its error.
        doubt: called at the end of a body with another MD5, with the MD5 of what was read;
            returns if the body is good all the same, and raises if not.
    """

    _left: int

    def __init__(
        self,
        pieces: Iterator[Any],
        *,
        size_bytes: int,
        key: str,
        store: str,
        md5: str,
        resume: Callable[[int], GetObjectResult],
        doubt: Callable[[str], None],
    ) -> None:
        super().__init__(length=size_bytes, key=key, store=store)
        self._pieces: Iterator[Any] | None = pieces
        self._piece = memoryview(b"")
        self._rest: GetObjectResult | None = None
        self._offset = 0
        self._expected = md5
        self._hash = hashlib.md5(usedforsecurity=False) if md5 else None
        self._resume = resume
        self._doubt = doubt

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all that is left; b"" at the end.

        Raises:
            StorageError: the store fails for good, is too slow, or has another object by now.
        """
        if self.closed:
            raise ValueError("read of a closed object body")
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        # Grows in place, so that a large body needs its own length once and one piece besides.
        target = io.BytesIO()
        while wanted:
            piece = self._next(wanted)
            target.write(piece)
            if self._hash is not None:
                self._hash.update(piece)
            wanted -= len(piece)
            self._left -= len(piece)
            self._offset += len(piece)
            if not self._left:
                self._reached_end()
        return target.getvalue()

    def close(self) -> None:
        """Drop the connection; twice is fine."""
        if not self.closed:
            self._pieces, self._piece = None, memoryview(b"")
            try:
                if self._rest is not None:
                    self._rest.close()
            finally:
                super().close()

    def _take(self, size: int) -> bytes:
        return bytes(self._next(size))

    def _next(self, size: int) -> memoryview:
        """Return 1 to ``size`` further bytes."""
        if not self._piece:
            self._piece = self._fetch()
        taken = self._piece[:size]
        self._piece = self._piece[size:]
        return taken

    def _fetch(self) -> memoryview:
        if self._pieces is not None:
            try:
                piece = self._fetch_piece()
            except StorageError:
                raise
            except Exception:  # noqa: BLE001 - obstore's errors have no common class, and all mean the same
                piece = None
            if piece is not None:
                return memoryview(piece)
            self._pieces = None
            self._rest = self._resume(self._offset)
        data = self._rest.read(min(self._left, _PIECE_BYTES)) if self._rest is not None else b""
        if not data:
            raise UnavailableError(
                f"object {self._key!r} of {self._store} ends {self._left} bytes early",
                key=self._key,
                code="IncompleteBody",
            )
        return memoryview(data)

    def _fetch_piece(self) -> Any:
        pieces = self._pieces
        return interruptible(lambda: next(pieces, None)) if pieces is not None else None

    def _reached_end(self) -> None:
        if self._hash is not None and self._hash.hexdigest() != self._expected:
            self._doubt(self._hash.hexdigest())
