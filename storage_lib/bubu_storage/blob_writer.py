"""Writing an object piece by piece: a binary file object over any backend.

A thread uploads while the caller writes; a short queue between the two keeps memory constant.
Nothing is to be seen in the store before `BlobWriter.close`; until then the old object, if there
is one, stays.

Invariants: only a clean end commits: an exception in the ``with`` block, `BlobWriter.abort`, a
writer that is dropped without `close` and the end of the process all abort; each waiting has a
deadline, the writing as a whole has none; an error of the store is raised by the next `write` or
`close`, and again by every later one. A killed process leaves unfinished parts or a temporary file,
which no reader sees: a bucket's lifecycle rule, or `FileBackend.remove_leftovers`, clears them away.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from bubu_storage.backend.bodies import as_view
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import StorageError, StorageTimeoutError

__all__ = ["BlobWriter", "open_writer"]

_PIECE_BYTES: Final = 256 * 1024
_QUEUE_PIECES: Final = 8
_EXIT_SECONDS: Final = 5.0
_log: Final = logging.getLogger(__name__)


class _Abandoned(BaseException):
    """Ends an upload from inside its body. Not an `Exception`, so that nobody tries it again."""


class _Upload(Iterator[bytes]):
    """The queue between a writer and the thread that uploads, and how the upload ended."""

    def __init__(self) -> None:
        # Reentrant, as a condition is by default: a writer may be finalized at any moment.
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._complete = False
        self._abandoned = False
        self._finished = False
        self._error: BaseException | None = None
        self.etag = ""

    # ---- the writer's side

    def offer(self, piece: bytes, timeout_seconds: float) -> bool:
        """Hand over a piece when there is room; tell whether there was, in time.

        Raises:
            StorageError: the upload has failed.
        """
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: len(self._pieces) < _QUEUE_PIECES or self._finished, timeout_seconds
            )
            self.check()
            if in_time:
                self._pieces.append(piece)
                self._changed.notify_all()
            return in_time

    def check(self) -> None:
        """Notice that the upload has ended before its body did.

        Raises:
            StorageError: it has.
        """
        is_over = self._finished and not self._complete
        if is_over and self._error is not None and not isinstance(self._error, _Abandoned):
            raise self._error
        if self._abandoned:
            raise StorageError("the writing of this object was given up earlier; write it anew")
        if is_over:
            raise StorageError("the store ended the upload before the last byte was written")

    def complete(self, timeout_seconds: float) -> bool:
        """Say that there are no more pieces and wait for the object; tell whether it came in time.

        Raises:
            StorageError: the upload has failed.
        """
        with self._changed:
            self.check()
            self._complete = True
            self._changed.notify_all()
            if not self.join(timeout_seconds):
                return False
            if self._error is not None:
                raise self._error
            return True

    def abandon(self) -> None:
        """Let the upload fail as soon as it asks for another piece."""
        with self._changed:
            self._abandoned = True
            self._pieces.clear()
            self._changed.notify_all()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end of the upload, however it comes."""
        with self._changed:
            return self._changed.wait_for(lambda: self._finished, timeout_seconds)

    def disown(self) -> None:
        """Give up in a forked process, where nothing uploads and nobody may hold the lock any more."""
        self._changed = threading.Condition()
        self._abandoned = self._finished = True

    # ---- the thread's side

    def __next__(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._complete or self._abandoned)
            if self._abandoned:
                raise _Abandoned
            if not self._pieces:
                raise StopIteration
            piece = self._pieces.popleft()
            self._changed.notify_all()
            return piece

    def run(self, put: Callable[[_Upload], str], held: ExitStack) -> None:
        """Upload, and keep the outcome."""
        error: BaseException | None = None
        try:
            with held:
                self.etag = put(self)
        except BaseException as raised:  # noqa: BLE001 - handed to the writer's thread
            error = raised
        with self._changed:
            self._error = error
            self._pieces.clear()
            self._finished = True
            _under_way.discard(self)
            self._changed.notify_all()


_under_way: Final[set[_Upload]] = set()


@atexit.register
def _abandon_all() -> None:
    """Abort what is still open when the process ends, so that no parts are left in a bucket."""
    uploads = list(_under_way)
    for upload in uploads:
        upload.abandon()
    deadline = time.monotonic() + _EXIT_SECONDS
    for upload in uploads:
        upload.join(max(0.0, deadline - time.monotonic()))


def _after_fork() -> None:
    """Leave the parent's uploads to the parent, in a child: their threads are not here."""
    for upload in _under_way:
        upload.disown()
    _under_way.clear()


os.register_at_fork(after_in_child=_after_fork)


def open_writer(
    backend: ObjectBackend,
    key: str,
    held: ExitStack,
    *,
    content_type: str,
    size_bytes: int | None,
    timeout_seconds: float,
) -> BlobWriter:
    """Begin to write an object.

    Args:
        backend: the store.
        key: of the object.
        held: closed when the upload has ended.
        content_type: see `ObjectBackend.put_object`.
        size_bytes: likewise.
        timeout_seconds: for each waiting.
    """
    upload = _Upload()

    def put(body: _Upload) -> str:
        return backend.put_object(key, body, size_bytes=size_bytes, content_type=content_type)

    # A daemon, so that a forgotten writer does not keep a process from ending.
    thread = threading.Thread(
        target=upload.run, args=(put, held.pop_all()), name="bubu-storage-blob", daemon=True
    )
    _under_way.add(upload)
    try:
        thread.start()
    except BaseException:
        _under_way.discard(upload)
        raise
    where = f"object {key!r} of {backend.name}"
    return BlobWriter(upload, where, min(timeout_seconds, threading.TIMEOUT_MAX))


class BlobWriter(io.BufferedIOBase):
    """An object that is being written, as a binary file; made by ``StorageManager.open_blob``.

    Leaving the ``with`` block commits; leaving it by an exception aborts, also when something
    around it, as an ``io.TextIOWrapper``, has closed it by then. Not for several threads at once.
    """

    def __init__(self, upload: _Upload, where: str, timeout_seconds: float) -> None:
        super().__init__()
        self._upload = upload
        self._where = where
        self._timeout_seconds = timeout_seconds
        self._buffer = bytearray()
        self._in_block = False
        self._ended = False
        self._written = 0

    @property
    def etag(self) -> str:
        """ETag of the object; "" before it is there, or where the store gives none."""
        return self._upload.etag if self._ended else ""

    def writable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return how many bytes have been written."""
        self._check_open()
        return self._written

    def write(self, data: Any, /) -> int:
        """Write bytes and return how many; waits while the store is slower than the caller.

        Raises:
            TypeError: text instead of bytes.
            StorageTimeoutError: the store has taken nothing for too long; the upload is aborted.
            StorageError: the store failed, now or earlier; nothing was stored.
        """
        self._check_open()
        view = as_view(data)
        if view is None:
            raise TypeError(f"a blob is written as bytes, not {type(data).__name__}")
        self._upload.check()
        start = 0
        if self._buffer:
            start = min(len(view), _PIECE_BYTES - len(self._buffer))
            self._buffer += view[:start]
            if len(self._buffer) == _PIECE_BYTES:
                self._hand_over()
        while len(view) - start >= _PIECE_BYTES:
            self._offer(bytes(view[start : start + _PIECE_BYTES]))
            start += _PIECE_BYTES
        self._buffer += view[start:]
        self._written += len(view)
        return len(view)

    def flush(self) -> None:
        """Hand what has been written to the upload; it is still not to be seen.

        Raises:
            StorageError: as `write`.
        """
        if not self.closed and self._buffer:
            self._hand_over()

    def close(self) -> None:
        """Commit: when it returns, the object is there. A second time does nothing.

        Inside of the ``with`` block it only ends the writing, and the end of the block commits: what
        closes a file for us does so after an error, too. A timeout, and an interruption while it
        waits, leave the old object or the new one, whole.

        Raises:
            StorageTimeoutError: the store did not finish in time.
            StorageError: the store failed, now or earlier; the old object is still there.
        """
        if self.closed:
            return
        try:
            self.flush()
            if not self._in_block:
                self._commit()
        except BaseException:
            self._give_up()
            raise
        finally:
            super().close()

    def abort(self) -> None:
        """Give up: nothing is stored, the old object stays. After `close` it does nothing."""
        if self._ended:
            return
        self._give_up()
        super().close()
        # So that parts and temporary files are gone, and the next writer is alone.
        self._upload.join(self._timeout_seconds)

    def __enter__(self) -> Self:
        super().__enter__()
        self._in_block = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._in_block = False
        if exc_type is not None:
            self.abort()
        elif not self.closed:
            self.close()
        elif not self._ended:
            self._commit()

    def __del__(self) -> None:
        # The base class would call close(), which commits.
        if hasattr(self, "_written") and not self._ended:
            self._give_up()
            super().close()
            _log.warning("%s was not closed and is not stored; use a with block", self._where)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._where}{', closed' if self.closed else ''}>"

    def _commit(self) -> None:
        try:
            self._in_time(self._upload.complete(self._timeout_seconds))
        except BaseException:
            self._give_up()
            raise
        self._ended = True

    def _give_up(self) -> None:
        self._ended = True
        self._upload.abandon()
        self._buffer.clear()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self._where} is closed; nothing more can be written")

    def _hand_over(self) -> None:
        piece = bytes(self._buffer)
        self._buffer.clear()
        self._offer(piece)

    def _offer(self, piece: bytes) -> None:
        try:
            self._in_time(self._upload.offer(piece, self._timeout_seconds))
        except BaseException:
            # Whatever interrupts the waiting: without this piece there would be a hole.
            self._upload.abandon()
            raise

    def _in_time(self, in_time: bool) -> None:
        if in_time:
            return
        self._upload.abandon()
        raise StorageTimeoutError(
            f"the store took nothing of {self._where} for {self._timeout_seconds:g} s; "
            "raise BUBU_STORAGE_TIMEOUT if the store is slow, or look at the store if it hangs"
        )
