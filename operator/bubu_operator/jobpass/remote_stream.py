"""The body of an object that an agent sends piece by piece, as a stream.

Invariant: all pieces are of one version of the object, or reading fails.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Final, cast

from bubu_storage.backend.types import ObjectInfo
from bubu_storage.errors import StorageError

__all__ = ["RemoteStream"]

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class RemoteStream(io.RawIOBase):
    """An object's body, fetched piece by piece from one version of it.

    Args:
        get: asks for an object: its key, a range and the ETag that it must have; returns its facts, the
            Content-Range of the answer and the bytes.
        info: of the object.
        content_range: of the first piece.
        data: the first piece.
    """

    def __init__(
        self,
        get: Callable[[str, str, str], tuple[ObjectInfo, str, bytes]],
        info: ObjectInfo,
        content_range: str,
        data: bytes,
    ) -> None:
        self._get = get
        self._info = info
        match = _CONTENT_RANGE.fullmatch(content_range)
        self._start = int(match[1]) if match else 0
        self._data = memoryview(data)
        self._given = 0
        self._fetched = len(data)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read what is there, or fetch the next piece.

        Raises:
            StorageError: it changed meanwhile, or the store tells no versions apart.
        """
        view = memoryview(cast("bytearray", buffer)).cast("B")
        if not self._data and self._fetched < self._info.size_bytes:
            self._fetch()
        piece = self._data[: len(view)]
        view[: len(piece)] = piece
        self._data = self._data[len(piece) :]
        return len(piece)

    def _fetch(self) -> None:
        info = self._info
        if not info.etag:
            raise StorageError(
                f"{info.key!r} is larger than what an agent sends at once, and its store tells no versions "
                "apart",
                key=info.key,
            )
        begin, last = self._start + self._fetched, self._start + info.size_bytes - 1
        _, content_range, data = self._get(info.key, f"bytes={begin}-{last}", info.etag)
        if not data or not content_range.startswith(f"bytes {begin}-"):
            raise StorageError(f"the store broke off in the middle of {info.key!r}", key=info.key)
        self._data = memoryview(data)[: info.size_bytes - self._fetched]
        self._fetched += len(self._data)
