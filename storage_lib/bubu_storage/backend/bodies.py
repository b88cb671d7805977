"""What can be stored, brought to one form: chunks of bytes whose total is checked.

Every backend reads a body through `chunks`, so that bytes, files and iterators behave the
same everywhere, a wrong length is noticed before anything is stored, and a caller's mistake
(text instead of bytes) is a `TypeError` that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, cast

from bubu_storage.backend.types import Body
from bubu_storage.errors import StorageError

__all__ = ["CHUNK_BYTES", "as_view", "check_size", "chunks"]

CHUNK_BYTES: Final = 1024 * 1024
"""Most bytes that are read from a file or cut from a buffer at a time."""


def as_view(body: Body) -> memoryview | None:
    """Return a body that is already in memory as flat bytes, without a copy; else None.

    Raises:
        TypeError: text, which has no bytes of its own.
    """
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body)
        return view if view.format == "B" and view.ndim == 1 else view.cast("B")
    if isinstance(body, str):
        raise TypeError("an object's body must be bytes, not str; encode the text first")
    return None


def chunks(body: Body) -> Iterator[memoryview]:
    """Yield the body piece by piece, each at most as large as the source makes it.

    A file is read from its current position to its end; an iterable is consumed once.

    Raises:
        TypeError: the body, or a piece of it, is not bytes.
    """
    view = as_view(body)
    if view is not None:
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]
        return
    if hasattr(body, "read"):
        pieces = _read_all(cast("IO[bytes]", body))
    elif hasattr(body, "__iter__"):
        pieces = iter(cast("Iterable[Any]", body))
    else:
        raise TypeError(
            "an object's body must be bytes, a file opened in binary mode or an iterable of bytes, "
            f"not {type(body).__name__}"
        )
    for piece in pieces:
        flat = None if isinstance(piece, str) else as_view(piece)
        if flat is None:
            raise TypeError(f"an object's body must come as bytes, not {type(piece).__name__}")
        if flat:
            yield flat


def check_size(*, stored: int, expected: int | None, key: str) -> None:
    """Refuse a body whose length is not the one the caller announced.

    Raises:
        StorageError: with both lengths; code ``IncompleteBody``.
    """
    if expected is not None and stored != expected:
        raise StorageError(
            f"the body of {key!r} has {_at_least(stored, expected)} bytes and {expected} were announced; "
            "nothing was stored",
            key=key,
            code="IncompleteBody",
        )


def _at_least(stored: int, expected: int) -> str:
    """Say a length that may have been counted only until it was too long."""
    return f"{stored}" if stored < expected else f"at least {stored}"


def _read_all(file: IO[bytes]) -> Iterator[Any]:
    """Read a file to its end; a non-blocking one that has nothing to give counts as ended."""
    while piece := file.read(CHUNK_BYTES):
        yield piece
