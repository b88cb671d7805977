"""The body of an object in a bucket: the SDK's stream with our errors and a time limit.

The SDK limits each wait for bytes, so a store that drips one byte a minute could hold a
reader for ever: here the time spent waiting is added up (a slow *reader* costs nothing).
A checksum that came with the answer is verified when the last byte has been read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final, cast

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from bubu_storage.backend.body_stream import BoundedBody
from bubu_storage.backend.s3_errors import map_sdk_error
from bubu_storage.errors import StorageError, StorageTimeoutError

__all__ = ["S3Body"]

_PIECE_BYTES: Final = 1024 * 1024
_AT_ONCE_FROM_BYTES: Final = 4 * 1024 * 1024
_AT_ONCE_BYTES: Final = 256 * 1024 * 1024
"""A longer body is read in pieces of this length."""


class S3Body(BoundedBody):
    """Read an open answer; owns the connection until closed or read to the end.

    Args:
        stream: botocore's streaming body.
        size_bytes: length that the answer announced.
        key, store: for messages.
        timeout_seconds: longest time to spend waiting for bytes, in all.
        monotonic: clock, in seconds.
    """

    def __init__(
        self,
        stream: Any,
        *,
        size_bytes: int,
        key: str,
        store: str,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(length=size_bytes, key=key, store=store)
        self._stream = stream
        self._budget_seconds = timeout_seconds
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._shut_down = False

    def close(self) -> None:
        """Give the connection back, or drop it in the middle of a body; twice is fine."""
        if not self.closed:
            try:
                self._stream.close()
            finally:
                super().close()

    def _reached_end(self) -> None:
        self._take(1)  # the SDK verifies length and checksum when it sees the end

    def _take(self, size: int) -> bytes:
        started = self._monotonic()
        try:
            piece = self._take_at_once(size) if size >= _AT_ONCE_FROM_BYTES else None
            if piece is None:
                piece = cast("bytes", self._stream.read(min(size, _PIECE_BYTES)))
        except (BotoCoreError, HTTPError, OSError) as error:
            if self._shut_down:
                raise self._too_slow() from error
            raise self._mapped(error) from error
        self._budget_seconds -= self._monotonic() - started
        if self._left > len(piece) and (self._budget_seconds < 0 or self._shut_down):
            raise self._too_slow()
        return piece

    def _take_at_once(self, size: int) -> bytes | None:
        """Read much in one go: pieces would have to be joined, which costs as much as the reading.

        A timer ends it when the time is over, since here nobody else looks at a clock.

        Returns:
            None if the SDK's stream cannot be ended from another thread.
        """
        shutdown: Callable[[], object] | None = getattr(
            getattr(self._stream, "_raw_stream", None), "shutdown", None
        )
        if shutdown is None:
            return None

        def end() -> None:
            self._shut_down = True
            with contextlib.suppress(Exception):
                shutdown()

        timer = threading.Timer(max(0.0, self._budget_seconds), end)
        timer.daemon = True
        timer.start()
        try:
            return cast("bytes", self._stream.read(min(size, _AT_ONCE_BYTES)))
        finally:
            timer.cancel()

    def _too_slow(self) -> StorageTimeoutError:
        return StorageTimeoutError(
            f"object {self._key!r} of {self._store} was not read to its end within "
            f"{self._timeout_seconds:g} s; raise the timeout or read it in ranges",
            key=self._key,
        )

    def _mapped(self, error: BaseException) -> StorageError:
        action = f"object {self._key!r} of {self._store} cannot be read to its end"
        return map_sdk_error(error, action, key=self._key)
