"""The contract of a backend: the only thing in this library that talks to S3 or a disk.

Everything else (manager, retention, operator) is a view on `ObjectBackend`. Metrics,
breakers, prefixes, delays and faults are decorators that take one backend and are one.

Invariants every backend keeps (``bubu_storage.testing.acceptance`` proves them):

* a key names at most one object; a reader sees an object whole or not at all;
* listings are in byte order of the whole UTF-8 key, stream page by page in constant
  memory, and treat a prefix as plain text (``a/f`` finds ``a/five``);
* deleting a missing key succeeds;
* errors are those of `bubu_storage.errors`, with the SDK's error as cause;
* all methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Final, Protocol, Self, TypeAlias, runtime_checkable

from bubu_storage.backend.checks import (
    MAX_KEY_BYTES,
    check_batch,
    check_conditions,
    check_copy,
    check_key,
    check_page_size,
    check_prefix,
    refuse_conditions,
)
from bubu_storage.errors import StorageError
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = [
    "MAX_KEY_BYTES",
    "BackendCopier",
    "BatchDeleter",
    "Body",
    "GetObjectResult",
    "ListPage",
    "ListedObject",
    "ObjectBackend",
    "ObjectInfo",
    "check_batch",
    "check_conditions",
    "check_copy",
    "check_key",
    "check_page_size",
    "check_prefix",
    "refuse_conditions",
]

Body: TypeAlias = bytes | bytearray | memoryview | IO[bytes] | Iterable[bytes]
"""What can be stored: bytes, a binary file (from its current position), or chunks."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of a listing.

    Attributes:
        key: whole key.
        size_bytes: length of the object.
        etag: as the store gives it, with quotes; "" where it gives none.
        last_modified: by the store's clock, timezone-aware UTC.
    """

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing: never empty, in byte order of keys."""

    objects: tuple[ListedObject, ...]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known about one object (Go: HeadObjectResult).

    Attributes:
        key: whole key.
        size_bytes: length of the object, or of this response's body for a ranged get.
        content_type: ``application/octet-stream`` where the store has none.
        etag: of the whole object, with quotes; "" where the store gives none.
        last_modified: by the store's clock, timezone-aware UTC; the epoch where unknown.
        metadata: user metadata, keys in lower case.
    """

    key: str
    size_bytes: int
    content_type: str = DEFAULT_BLOB_CONTENT_TYPE
    etag: str = ""
    last_modified: datetime = EPOCH
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


class GetObjectResult:
    """An open object: facts plus a body that is read once and must be closed.

    Use it as a context manager. Iterating yields chunks of bytes. ``content_range`` is
    "" unless the store honoured a range: look at it, not at what was asked for.
    """

    __slots__ = ("_stream", "content_range", "info")

    def __init__(self, info: ObjectInfo, stream: IO[bytes], *, content_range: str = "") -> None:
        self.info = info
        self.content_range = content_range
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, or all that is left.

        Raises:
            StorageError: when the store breaks off in the middle.
        """
        return self._stream.read(size)

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._stream.read(1024 * 1024):
            yield chunk

    def close(self) -> None:
        """Release the connection or the file; twice is fine."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ObjectBackend(Protocol):
    """One bucket, or one directory, of objects."""

    @property
    def name(self) -> str:
        """For messages and labels, as ``s3://bucket`` or ``file:///dir``; no secrets in it."""
        ...

    def put_object(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None = None,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: str = "",
    ) -> str:
        """Store a whole object, replacing what was there, and return its ETag.

        Args:
            key: see `check_key`.
            body: bytes, file or chunks; read once, from its current position.
            size_bytes: length of the body if the caller knows it; a body of another
                length is refused and nothing is stored.
            content_type: kept where the store can keep it.
            metadata: user metadata, ASCII; kept where the store can keep it.
            if_match: only replace the object that has this ETag.
            if_none_match: ``*``: only where there is no object yet.

        Raises:
            InvalidKeyError: see `check_key`.
            PreconditionFailedError: a condition did not hold; nothing was stored.
            UnsupportedOperationError: the store is known to have no such condition.
            StorageError: any of the tree; the old object, if any, is still whole.
        """
        ...

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; ``range_header`` is passed on verbatim, as ``bytes=0-99``.

        With ``if_match``, an ETag, readers of several ranges notice a replaced object.

        Raises:
            ObjectNotFoundError: no such key.
            PreconditionFailedError: the object has another ETag.
            RangeNotSatisfiableError: the range starts past the end.
        """
        ...

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object without its body.

        Raises:
            ObjectNotFoundError: no such key.
        """
        ...

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object; a missing one counts as deleted.

        Args:
            key: of the object.
            if_match: only delete the object that has this ETag.

        Raises:
            PreconditionFailedError: the object has another ETag; it is still there.
            UnsupportedOperationError: the store is known to have no such condition.
        """
        ...

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream the objects whose key begins with ``prefix``, in byte order of keys.

        Args:
            prefix: plain text, may end anywhere; "" lists everything.
            start_after: only keys greater than this one (it need not exist).
            page_size: most entries of one page, 1 to 1,000; a page is asked of the store
                only when the one before has been consumed.
        """
        ...

    def server_time(self) -> datetime:
        """Return the store's own clock, timezone-aware UTC; ages are reckoned by it."""
        ...

    def close(self) -> None:
        """Release connections; twice is fine."""
        ...


@runtime_checkable
class BatchDeleter(Protocol):
    """The optional capability to delete many objects in one request."""

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects and return the keys that failed, each with its error.

        A key that is not in the answer is gone (or was never there). A raised error means
        that the whole request failed and nothing may be assumed.

        Args:
            keys: what to delete.
            if_match: ETags by key; such a key is only deleted while it has that ETag, and is
                in the answer with a `PreconditionFailedError` otherwise. Some servers silently
                ignore this (see `bubu_storage.backend.probe`).

        Raises:
            BatchDeleteNotSupportedError: nothing was deleted; delete one by one.
            LimitExceededError: more than 1,000 keys.
        """
        ...


@runtime_checkable
class BackendCopier(Protocol):
    """The optional capability to copy inside the store, without moving the bytes (Go: BackendCopier)."""

    def copy_object(
        self,
        source_key: str,
        destination_key: str,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Copy an object and return the ETag of the copy, "" where the store gives none.

        Args:
            source_key: the object to copy.
            destination_key: in the same store; replaced where it exists.
            content_type: of the copy; "" keeps the source's.
            metadata: of the copy; None keeps the source's.

        Raises:
            CopyNotSupportedError: read and write the object instead.
            ObjectNotFoundError: no such source.
            InvalidKeyError: also when both keys are the same and nothing is to be changed.
        """
        ...
