"""Copying objects: between two backends, and inside one that may or may not do it by itself.

Three ways, from cheap to certain:

* `copy_object` lets the store copy. Where it cannot, the bytes are moved; where its answer is
  lost, the destination is looked at first, so that bytes which are there are not sent again;
* `stream_copy` moves an object from one backend to another without holding it;
* `materialised_copy` reads it whole before the first byte is written: into memory when it is
  small, else into a temporary file that has no name and vanishes with the copy. A body that can
  be read twice lets the destination try again.

A failure between two backends is a `CopyError` that names the side: ``read`` (another source
may serve) or ``write`` (it would not help), also when the source breaks in the middle of a put.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, Final, cast

from bubu_storage.backend.breaker import can_copy
from bubu_storage.backend.types import BackendCopier, GetObjectResult, ObjectBackend, ObjectInfo
from bubu_storage.errors import (
    BackendUnavailableError,
    CopyError,
    CopyNotSupportedError,
    CopyPhase,
    InvalidKeyError,
    StorageError,
    UnavailableError,
    is_not_found,
)

__all__ = ["DEFAULT_SPOOL_BYTES", "copy_object", "materialised_copy", "stream_copy"]

_log: Final = logging.getLogger(__name__)

DEFAULT_SPOOL_BYTES: Final = 8 * 1024 * 1024
"""Longer objects are buffered in a temporary file by `materialised_copy`."""

_PIECE_BYTES: Final = 1024 * 1024


def stream_copy(
    source: ObjectBackend,
    destination: ObjectBackend,
    key: str,
    *,
    destination_key: str = "",
    content_type: str = "",
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Copy an object from one backend to another as it is read; return the copy's ETag.

    Args:
        source: where the object is.
        destination: where it goes; time limits are those of the two backends.
        key: of the object.
        destination_key: of the copy; "" = the same.
        content_type: of the copy; "" = the source's.
        metadata: of the copy; None = the source's.

    Raises:
        CopyError: ``read``: the source failed, also in the middle of its body; ``write``: the
            destination did, and its old object, if any, is still whole.
    """
    with _opened(source, key) as found:
        facts = _facts(found.info, content_type, metadata)
        body = _SourceBody(found, key)
        return _put(destination, destination_key or key, cast("IO[bytes]", body), facts, body)


def materialised_copy(
    source: ObjectBackend,
    destination: ObjectBackend,
    source_key: str,
    destination_key: str = "",
    *,
    content_type: str = "",
    metadata: Mapping[str, str] | None = None,
    spool_bytes: int = DEFAULT_SPOOL_BYTES,
) -> str:
    """Copy an object by reading it whole and then writing it; return the copy's ETag.

    Args:
        source: where the object is.
        destination: where it goes; may be the source.
        source_key: of the object.
        destination_key: of the copy; "" = the same.
        content_type: of the copy; "" = the source's.
        metadata: of the copy; None = the source's.
        spool_bytes: longer objects go to a temporary file.

    Raises:
        CopyError: ``read`` or ``write``, as for `stream_copy`; a temporary file that cannot be
            written is ``write``.
    """
    # To the standard library 0 is no limit at all.
    with tempfile.SpooledTemporaryFile(max_size=max(1, spool_bytes)) as spool:
        with _opened(source, source_key) as found:
            facts = _facts(found.info, content_type, metadata)
            for piece in _SourceBody(found, source_key):
                try:
                    spool.write(piece)
                except OSError as error:
                    raise CopyError(CopyPhase.WRITE, error, key=source_key) from error
        spool.seek(0)
        return _put(destination, destination_key or source_key, cast("IO[bytes]", spool), facts, None)


def copy_object(
    backend: ObjectBackend,
    source_key: str,
    destination_key: str,
    *,
    content_type: str = "",
    metadata: Mapping[str, str] | None = None,
    spool_bytes: int = DEFAULT_SPOOL_BYTES,
) -> str:
    """Copy an object inside one store, by the store itself where possible; return the copy's ETag.

    An error of the store's own copy leaves open whether it was made. The destination, looked at
    before and after, tells: if it changed and has the source's length, that is the copy.
    Otherwise the object is read and written.

    Args:
        backend: the store.
        source_key: of the object.
        destination_key: of the copy; replaced where it exists.
        content_type: of the copy; "" = the source's.
        metadata: of the copy; None = the source's.
        spool_bytes: see `materialised_copy`.

    Raises:
        InvalidKeyError: a key is wrong, or both are the same and nothing is to be changed.
        BackendUnavailableError: the circuit is open, and nothing was sent.
        CopyError: as for `materialised_copy`.
    """
    if source_key == destination_key and not content_type and metadata is None:
        raise InvalidKeyError(
            f"object {source_key!r} cannot be copied onto itself; give a content type or metadata to change",
            key=source_key,
        )

    def move() -> str:
        return materialised_copy(
            backend,
            backend,
            source_key,
            destination_key,
            content_type=content_type,
            metadata=metadata,
            spool_bytes=spool_bytes,
        )

    if not can_copy(backend):
        return move()
    before = _looked_at(backend, destination_key)
    try:
        return cast("BackendCopier", backend).copy_object(
            source_key, destination_key, content_type=content_type, metadata=metadata
        )
    except CopyNotSupportedError:
        return move()
    except InvalidKeyError:
        raise
    except StorageError as error:
        etag = _copy_that_was_made(backend, source_key, destination_key, before)
        if etag is not None:
            return etag
        _log.warning(
            "the store's own copy of %r failed (%s); moving the bytes instead",
            source_key,
            type(error).__name__,
        )
    return move()


# ---- internals


class _Unknown:
    """The destination could not be looked at."""


_UNKNOWN: Final = _Unknown()


def _looked_at(backend: ObjectBackend, key: str) -> ObjectInfo | _Unknown | None:
    """Return the facts of an object, None where there is none.

    Raises:
        BackendUnavailableError: the circuit is open: there is no use in trying anything.
        InvalidKeyError: the key is wrong.
    """
    try:
        return backend.head_object(key)
    except (BackendUnavailableError, InvalidKeyError):
        raise
    except StorageError as error:
        return None if is_not_found(error) else _UNKNOWN


def _copy_that_was_made(
    backend: ObjectBackend, source_key: str, destination_key: str, before: ObjectInfo | _Unknown | None
) -> str | None:
    """Return the ETag of a copy whose answer was lost; None if it was not made, or nobody can tell."""
    if isinstance(before, _Unknown):
        return None
    try:
        after = backend.head_object(destination_key)
        expected = backend.head_object(source_key)
    except StorageError as error:
        if not is_not_found(error):
            _log.warning(
                "%r cannot be looked at after a failed copy (%s)", destination_key, type(error).__name__
            )
        return None
    is_changed = before is None or (after.etag, after.last_modified) != (before.etag, before.last_modified)
    return after.etag if is_changed and after.size_bytes == expected.size_bytes else None


def _opened(source: ObjectBackend, key: str) -> GetObjectResult:
    try:
        return source.get_object(key)
    except StorageError as error:
        raise CopyError(CopyPhase.READ, error, key=key) from error


def _facts(info: ObjectInfo, content_type: str, metadata: Mapping[str, str] | None) -> ObjectInfo:
    return replace(
        info,
        content_type=content_type or info.content_type,
        metadata=info.metadata if metadata is None else metadata,
    )


def _put(
    destination: ObjectBackend, key: str, body: IO[bytes], facts: ObjectInfo, source: _SourceBody | None
) -> str:
    try:
        return destination.put_object(
            key,
            body,
            size_bytes=facts.size_bytes,
            content_type=facts.content_type,
            metadata=facts.metadata or None,
        )
    except StorageError as error:
        if source is not None and source.raised is not None:
            raise source.raised from source.raised.__cause__
        raise CopyError(CopyPhase.WRITE, error, key=key) from error


class _SourceBody:
    """A body that is read from a source; its errors are tagged as the source's."""

    def __init__(self, found: GetObjectResult, key: str) -> None:
        self._found = found
        self._key = key
        self._left = found.info.size_bytes
        self.raised: CopyError | None = None

    def read(self, size: int = -1) -> bytes:
        """Read as `GetObjectResult.read` does.

        Raises:
            CopyError: ``read``.
        """
        try:
            piece = self._found.read(size)
            self._left -= len(piece)
            if not piece and size != 0 and self._left > 0:
                # Said here: to the destination it would be a body of another length than announced.
                raise UnavailableError(f"object {self._key!r} ends {self._left} bytes early", key=self._key)
        except StorageError as error:
            self.raised = CopyError(CopyPhase.READ, error, key=self._key)
            raise self.raised from error
        return piece

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(_PIECE_BYTES):
            yield piece
