"""Reading an object piece by piece: a binary file object over any backend.

Bytes come from one streaming request for as long as they are read in order. A jump, and a
connection that breaks, open another request for the rest of the object.

Invariants: all bytes of one file are of one object (a request that finds another one, by its
ETag, is an error and not a mixture); each waiting for the store has a deadline, the reading as a
whole has none; a closed file has let go of its connection and of its manager's store.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, Protocol, TypeVar

from bubu_storage.backend.types import GetObjectResult, ObjectBackend, ObjectInfo
from bubu_storage.errors import PreconditionFailedError, StorageTimeoutError, TransientError, UnavailableError

__all__ = ["BlobReader", "Run", "open_reader"]

_T = TypeVar("_T")

_BUFFER_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 8 * 1024 * 1024
"""Most that one waiting is for."""
_SKIP_BYTES: Final = 256 * 1024
"""A shorter jump forward is read over: another request takes longer."""
_TRIES: Final = 3


class Run(Protocol):
    """Runs a store operation within a deadline and returns what it returns."""

    def __call__(self, action: Callable[[], _T], /) -> _T:
        """Run it.

        Raises:
            StorageTimeoutError: it did not finish in time.
        """
        ...


class BlobReader(io.BufferedReader):
    """An object as a binary file: ``read``, ``readline``, iteration, ``seek`` and ``tell``."""

    def __init__(self, raw: RawBlob) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self._info = raw.info

    @property
    def info(self) -> ObjectInfo:
        """Facts of the object: length, content type, ETag, age."""
        return self._info


def open_reader(backend: ObjectBackend, key: str, run: Run, held: ExitStack) -> BlobReader:
    """Open an object for reading.

    Args:
        backend: the store.
        key: of the object.
        run: runs each of its operations.
        held: closed with the file; also when it cannot be opened.

    Raises:
        ObjectNotFoundError: nothing there.
        StorageError: the store failed.
    """
    with held:
        found = run(lambda: backend.get_object(key))
        return BlobReader(RawBlob(backend, key, run, found, held.pop_all()))


class RawBlob(io.RawIOBase):
    """What is below the buffer of a `BlobReader`."""

    def __init__(
        self, backend: ObjectBackend, key: str, run: Run, found: GetObjectResult, held: ExitStack
    ) -> None:
        super().__init__()
        self.info = found.info
        self._backend = backend
        self._key = key
        self._run = run
        self._held = held
        self._stream: GetObjectResult | None = found
        self._stream_position = 0
        self._position = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes: a jump is a request for the rest of the object."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another position; nothing is asked of the store before the next read.

        Raises:
            ValueError: before the beginning, or an unknown ``whence``.
        """
        self._check_open()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.info.size_bytes}
        if whence not in bases:
            raise ValueError(f"whence is {whence}; it must be 0, 1 or 2")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError(f"position {position} lies before the beginning of the object")
        self._position = position
        return position

    def readinto(self, buffer: Any, /) -> int:
        """Fill a writable buffer and return how many bytes went in; 0 at the end."""
        target = memoryview(buffer).cast("B")
        data = self._read(len(target))
        target[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Read all that is left."""
        pieces: list[bytes] = []
        while piece := self._read(_PIECE_BYTES):
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of the connection and of the store; twice is fine."""
        if not self.closed:
            super().close()
            with self._held:
                self._drop_stream()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed blob")

    def _read(self, size: int) -> bytes:
        """Read some of the next bytes; a connection that breaks is made again.

        Raises:
            PreconditionFailedError: the object has been replaced since.
            StorageError: the store failed.
        """
        self._check_open()
        wanted = min(size, _PIECE_BYTES, self.info.size_bytes - self._position)
        if wanted <= 0:
            return b""
        for tries_left in reversed(range(_TRIES)):
            stream, skip = self._take_stream()
            position = self._position
            try:
                # What hangs keeps the stream: nobody else touches it any more.
                stream, data = self._run(lambda: self._fetch(stream, skip, position, wanted))  # noqa: B023
            except StorageTimeoutError:
                raise
            except TransientError:
                if not tries_left or not self.info.etag:
                    raise
                continue
            self._stream = stream
            self._position += len(data)
            self._stream_position = self._position
            return data
        raise AssertionError("the last try returns or raises")

    def _take_stream(self) -> tuple[GetObjectResult | None, int]:
        """Return the open stream, if it leads to the position, and how much to read over."""
        skip = self._position - self._stream_position
        if not 0 <= skip <= _SKIP_BYTES:
            self._drop_stream()
        stream, self._stream = self._stream, None
        return stream, skip

    def _drop_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _fetch(
        self, stream: GetObjectResult | None, skip: int, position: int, wanted: int
    ) -> tuple[GetObjectResult, bytes]:
        if stream is None:
            stream, skip = self._open_at(position)
        try:
            while skip:
                skip -= len(self._some(stream, min(skip, _PIECE_BYTES)))
            return stream, self._some(stream, wanted)
        except BaseException:
            stream.close()
            raise

    def _open_at(self, position: int) -> tuple[GetObjectResult, int]:
        """Open the rest of the object; return it, and how much to read over."""
        stream = self._backend.get_object(self._key, range_header=f"bytes={position}-" if position else "")
        try:
            self._check_same(stream.info)
        except BaseException:
            stream.close()
            raise
        return stream, 0 if stream.content_range else position  # the store may ignore the range

    def _some(self, stream: GetObjectResult, size: int) -> bytes:
        """Read some bytes of an object that has more of them.

        Raises:
            UnavailableError: it has not; to the caller it would look like the end of the file.
        """
        data = stream.read(size)
        if not data:
            raise UnavailableError(
                f"object {self._key!r} of {self._backend.name} ends early",
                key=self._key,
                code="IncompleteBody",
            )
        return data

    def _check_same(self, now: ObjectInfo) -> None:
        then = self.info
        if now.etag == then.etag if then.etag else now.last_modified == then.last_modified:
            return
        raise PreconditionFailedError(
            f"object {self._key!r} of {self._backend.name} was replaced while it was being read; "
            "open it again",
            key=self._key,
            status=412,
            code="PreconditionFailed",
        )
