"""A backend that lives in the process: for tests, dry runs and ``StorageManager.in_memory``.

It behaves like a well-behaved bucket, limits and all, and its clock can be set, so that
retention can be tested against objects of any age. Nothing survives the process.
"""

from __future__ import annotations

import hashlib
import io
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bubu_storage.backend.bodies import check_size, chunks
from bubu_storage.backend.ranges import resolve_range
from bubu_storage.backend.types import (
    Body,
    GetObjectResult,
    ListedObject,
    ListPage,
    ObjectInfo,
    check_batch,
    check_conditions,
    check_copy,
    check_key,
    check_page_size,
    check_prefix,
)
from bubu_storage.errors import ObjectNotFoundError, PreconditionFailedError, StorageError
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["MemoryBackend"]


@dataclass(frozen=True, slots=True)
class _Stored:
    """One object: immutable, so that a reader keeps what it opened."""

    data: bytes
    info: ObjectInfo


class MemoryBackend:
    """An `ObjectBackend` in memory; thread-safe.

    Args:
        clock: returns the store's time, timezone-aware; the system's UTC by default.
    """

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._clock = clock if clock is not None else _utc_now
        self._lock = threading.Lock()
        self._objects: dict[str, _Stored] = {}
        # Sorting text by code point is sorting its UTF-8 bytes: check_key refuses surrogates.
        self._keys: list[str] = []

    @property
    def name(self) -> str:
        """Always ``memory://``."""
        return "memory://"

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
        """Store a whole object; see `ObjectBackend.put_object`.

        Raises:
            InvalidKeyError: see `check_key`.
            PreconditionFailedError: a condition did not hold.
            StorageError: the body has another length than announced.
        """
        check_key(key)
        check_conditions(if_match, if_none_match)
        buffer = bytearray()
        for piece in chunks(body):
            buffer += piece
            if size_bytes is not None and len(buffer) > size_bytes:
                break
        check_size(stored=len(buffer), expected=size_bytes, key=key)
        data = bytes(buffer)
        info = ObjectInfo(
            key=key,
            size_bytes=len(data),
            content_type=content_type or DEFAULT_BLOB_CONTENT_TYPE,
            etag=f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"',
            metadata={name.lower(): value for name, value in (metadata or {}).items()},
        )
        with self._lock:
            self._check_conditions(key, if_match, if_none_match)
            if key not in self._objects:
                insort(self._keys, key)
            self._objects[key] = _Stored(data, replace(info, last_modified=self.server_time()))
        return info.etag

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `ObjectBackend.get_object`.

        Raises:
            ObjectNotFoundError: no such key.
            PreconditionFailedError: it has another ETag.
            RangeNotSatisfiableError: the range lies outside the object.
        """
        check_conditions(if_match)
        stored = self._find(key)
        if if_match and stored.info.etag != if_match:
            raise _changed(key)
        part = resolve_range(range_header, size_bytes=len(stored.data), key=key)
        data = stored.data[part.start : part.start + part.length] if part.content_range else stored.data
        info = replace(stored.info, size_bytes=part.length)
        return GetObjectResult(info, io.BytesIO(data), content_range=part.content_range)

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object.

        Raises:
            ObjectNotFoundError: no such key.
        """
        return self._find(key).info

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object; a missing one counts as deleted.

        Raises:
            PreconditionFailedError: it has another ETag.
        """
        check_key(key)
        check_conditions(if_match)
        with self._lock:
            if key in self._objects:
                self._check_conditions(key, if_match, "")
            if self._objects.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects; see `BatchDeleter.delete_objects`.

        Raises:
            LimitExceededError: more than 1,000 keys.
        """
        failed: dict[str, StorageError] = {}
        for key in check_batch(keys):
            try:
                self.delete_object(key, if_match=(if_match or {}).get(key, ""))
            except StorageError as error:
                failed[key] = error
        return failed

    def copy_object(
        self,
        source_key: str,
        destination_key: str,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Copy an object; see `BackendCopier.copy_object`.

        Raises:
            ObjectNotFoundError: no such source.
            InvalidKeyError: see `check_key`; also onto itself with nothing changed.
        """
        check_copy(source_key, destination_key, content_type=content_type, metadata=metadata)
        source = self._find(source_key)
        return self.put_object(
            destination_key,
            source.data,
            content_type=content_type or source.info.content_type,
            metadata=source.info.metadata if metadata is None else metadata,
        )

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream a listing; see `ObjectBackend.list_objects`.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        return self._pages(prefix, start_after, page_size)

    def _pages(self, prefix: str, start_after: str, page_size: int) -> Iterator[ListPage]:
        after = start_after
        while True:
            with self._lock:
                start = max(bisect_right(self._keys, after), bisect_left(self._keys, prefix))
                found = tuple(
                    _listed(self._objects[key].info)
                    for key in self._keys[start : start + page_size]
                    if key.startswith(prefix)
                )
            if not found:
                return
            yield ListPage(found)
            after = found[-1].key

    def server_time(self) -> datetime:
        """Return the injected clock's time, in UTC."""
        return self._clock().astimezone(UTC)

    def close(self) -> None:
        """Do nothing: the objects stay until the backend itself is dropped."""

    def set_last_modified(self, key: str, when: datetime) -> None:
        """Make an object look as if it had been stored at ``when`` (timezone-aware); for tests.

        Raises:
            ObjectNotFoundError: no such key.
        """
        with self._lock:
            stored = self._objects.get(key)
            if stored is not None:
                info = replace(stored.info, last_modified=when.astimezone(UTC))
                self._objects[key] = _Stored(stored.data, info)
                return
        raise _not_found(key)

    def _check_conditions(self, key: str, if_match: str, if_none_match: str) -> None:
        """Compare with what is stored now; the lock is held."""
        stored = self._objects.get(key)
        if if_match and (stored is None or stored.info.etag != if_match):
            raise _changed(key)
        if if_none_match and stored is not None:
            raise PreconditionFailedError(
                f"object {key!r} of memory:// exists already", key=key, status=412, code="PreconditionFailed"
            )

    def _find(self, key: str) -> _Stored:
        check_key(key)
        with self._lock:
            stored = self._objects.get(key)
        if stored is None:
            raise _not_found(key)
        return stored


def _not_found(key: str) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"no object {key!r} in memory://", key=key, status=404, code="NoSuchKey")


def _changed(key: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"object {key!r} of memory:// has another ETag than the one asked for, or is gone",
        key=key,
        status=412,
        code="PreconditionFailed",
    )


def _listed(info: ObjectInfo) -> ListedObject:
    return ListedObject(info.key, info.size_bytes, info.etag, info.last_modified)


def _utc_now() -> datetime:
    return datetime.now(UTC)
