"""A bucket of an S3-compatible store: AWS, MinIO, Ceph, versitygw and the like.

Beyond the contract of a backend:

* a body above the part size is uploaded in parts, any length in bounded memory;
* a missing bucket is told from a missing object even where the answer has no text (HEAD);
* a listing that is not in byte order, or goes in circles, is an error and not a surprise
  for whoever resumes it;
* the store's clock is read from the answers' ``Date`` header.

Only this module and its ``s3_*`` neighbours import boto3; the factory loads them on demand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, cast

from bubu_storage.backend.s3_body import S3Body
from bubu_storage.backend.s3_conditions import condition_arguments
from bubu_storage.backend.s3_copy import copy_inside
from bubu_storage.backend.s3_deleting import delete_one, delete_together, fits_xml
from bubu_storage.backend.s3_listing import pages
from bubu_storage.backend.s3_session import S3Session
from bubu_storage.backend.s3_writing import S3Writer, object_arguments
from bubu_storage.backend.types import (
    EPOCH,
    Body,
    GetObjectResult,
    ListPage,
    ObjectInfo,
    check_batch,
    check_conditions,
    check_copy,
    check_key,
    check_page_size,
    check_prefix,
)
from bubu_storage.errors import BucketNotFoundError, InvalidKeyError, StorageError, UnsupportedOperationError
from bubu_storage.settings import S3Settings
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["S3Backend"]


class S3Backend:
    """An `ObjectBackend` on one bucket; thread-safe.

    Args:
        settings: the bucket and how to reach it. Nothing is contacted here.

    Attributes:
        bulk_delete_is_emulated: the store refused DeleteObjects and keys are deleted singly.

    Raises:
        ConfigurationError: the settings contradict themselves.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._session = S3Session(settings)
        self._writer = S3Writer(self._session)
        self.bulk_delete_is_emulated = False

    @property
    def name(self) -> str:
        """The bucket as ``s3://bucket``."""
        return self._session.name

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

        A body that fits into one part is one request; a longer one is uploaded in parts and
        appears when the last has arrived.

        Raises:
            InvalidKeyError: see `check_key`.
            PreconditionFailedError: a condition did not hold (see `bubu_storage.backend.s3_conditions`).
            UnsupportedOperationError: the store refuses conditions. One that ignores them does so
                in silence; a probe finds out.
            StorageError: the body has another length than announced, or any of the tree.
        """
        check_key(key)
        check_conditions(if_match, if_none_match)
        return self._writer.write(
            key,
            body,
            size_bytes=size_bytes,
            arguments=object_arguments(self._settings, content_type, metadata, key),
            if_match=if_match,
            if_none_match=if_none_match,
        )

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `ObjectBackend.get_object`.

        Raises:
            ObjectNotFoundError: no such key.
            PreconditionFailedError: it has another ETag.
            RangeNotSatisfiableError: the range lies outside the object.
        """
        check_key(key)
        check_conditions(if_match)
        # Some stores send the whole object's checksum with a part of it.
        extra: dict[str, Any] = {"ChecksumMode": "ENABLED"}
        if range_header:
            # What no header can carry is no range, and so ignored as by any store.
            is_sendable = range_header.isascii() and range_header.isprintable()
            extra = {"Range": range_header} if is_sendable else {}
        extra |= condition_arguments(if_match)
        session = self._session
        with session.mapped("read", key):
            answer = cast(
                "dict[str, Any]", session.client.get_object(Bucket=session.bucket, Key=key, **extra)
            )
            try:
                info = _info(key, answer, self.name)
                if "Range" not in extra:
                    _check_whole(info, answer.get("ContentRange", ""), self.name)
            except BaseException:
                answer["Body"].close()
                raise
        stream = S3Body(
            answer["Body"],
            size_bytes=info.size_bytes,
            key=key,
            store=self.name,
            timeout_seconds=self._settings.timeout_seconds,
        )
        return GetObjectResult(info, cast("IO[bytes]", stream), content_range=answer.get("ContentRange", ""))

    def head_object(self, key: str) -> ObjectInfo:
        """Return the facts of an object.

        Raises:
            ObjectNotFoundError: no such key.
        """
        check_key(key)
        with self._session.mapped("looked up", key):
            answer = self._session.client.head_object(Bucket=self._session.bucket, Key=key)
            return _info(key, cast("dict[str, Any]", answer), self.name)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object; a missing one counts as deleted.

        Raises:
            PreconditionFailedError: it has another ETag.
            UnsupportedOperationError: the store refuses conditions.
        """
        check_key(key)
        check_conditions(if_match)
        delete_one(self._session, key, if_match)

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects in one request; see `BatchDeleter.delete_objects`.

        Where the store has no such request, the keys are deleted one by one, each with its condition.

        Raises:
            LimitExceededError: more than 1,000 keys.
            StorageError: the whole request failed.
        """
        wanted = if_match or {}
        failed: dict[str, StorageError] = {}
        together: list[str] = []
        singly: list[str] = []
        for key in check_batch(keys):
            try:
                check_key(key)
                check_conditions(wanted.get(key, ""))
            except StorageError as error:
                failed[key] = error
            else:
                (together if fits_xml(key) and not self.bulk_delete_is_emulated else singly).append(key)
        if together:
            try:
                failed.update(delete_together(self._session, together, wanted))
            except UnsupportedOperationError:
                self.bulk_delete_is_emulated = True
                singly.extend(together)
        for key in singly:
            try:
                delete_one(self._session, key, wanted.get(key, ""))
            except BucketNotFoundError:
                raise
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
        """Copy an object inside the bucket; see `BackendCopier.copy_object`.

        Raises:
            CopyNotSupportedError: the store has no such request, or the object is over 5 GiB.
            ObjectNotFoundError: no such source.
            InvalidKeyError: see `check_key`; also onto itself with nothing changed.
            StorageError: any of the tree; the copy may have been made although its answer was lost.
        """
        check_copy(source_key, destination_key, content_type=content_type, metadata=metadata)
        return copy_inside(
            self._session, source_key, destination_key, content_type=content_type, metadata=metadata
        )

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream a listing; see `ObjectBackend.list_objects`.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
            StorageError: the store's pages are out of order, repeat themselves, or are not of what
                was asked for.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        try:
            start_after.encode(
                "utf-8"
            )  # nothing more is asked of it: foreign keys are odd, and cursors as well
        except UnicodeEncodeError as error:
            raise InvalidKeyError("a listing cannot start after a text that is no valid Unicode") from error
        return pages(
            lambda more: self._page(prefix, page_size, more),
            prefix=prefix,
            start_after=start_after,
            store=self.name,
        )

    def _page(self, prefix: str, page_size: int, more: dict[str, str]) -> dict[str, Any]:
        session = self._session
        with session.mapped("listed", None):
            answer = session.client.list_objects_v2(
                Bucket=session.bucket, Prefix=prefix, MaxKeys=page_size, **cast("dict[str, Any]", more)
            )
        return cast("dict[str, Any]", answer)

    def server_time(self) -> datetime:
        """Return the store's clock, from the ``Date`` of a recent answer; exact to a second.

        Raises:
            StorageError: the store does not answer, or without a date.
        """
        return self._session.server_time()

    def is_versioned(self) -> bool:
        """Tell whether the bucket keeps old versions, or did so once: then deletions leave something.

        Raises:
            PermissionDeniedError: the credentials may not ask (``s3:GetBucketVersioning``).
            UnsupportedOperationError: the store has no such question.
            StorageError: any other of the tree.
        """
        with self._session.mapped("asked whether it keeps versions", None):
            answer = self._session.client.get_bucket_versioning(Bucket=self._session.bucket)
        return answer.get("Status") in {"Enabled", "Suspended"}

    def guard_deletions(self, check: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Ask right before each deletion is sent, each try by itself; see `GuardsDeletions`."""
        look = self._session.last_look
        return look.guard(check) if look is not None else contextlib.nullcontext()

    def close(self) -> None:
        """Close the connections; twice is fine."""
        self._session.close()

    def _error(self, error: BaseException, verb: str, key: str | None) -> StorageError:
        """Return the library's error for one of the SDK's, for engines that share this backend."""
        return self._session.error(error, verb, key)


def _info(key: str, answer: Mapping[str, Any], store: str) -> ObjectInfo:
    if "ContentLength" not in answer:
        # Taken for 0 it would make every object an empty one, without a word.
        raise StorageError(
            f"object {key!r} of {store}: the answer does not say how long it is (no Content-Length); a proxy "
            "before the store may take that away",
            key=key,
            code="InvalidAnswer",
        )
    return ObjectInfo(
        key=key,
        size_bytes=answer["ContentLength"],
        content_type=answer.get("ContentType") or DEFAULT_BLOB_CONTENT_TYPE,
        etag=answer.get("ETag", ""),
        last_modified=answer.get("LastModified", EPOCH).astimezone(UTC),
        metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
    )


def _check_whole(info: ObjectInfo, content_range: str, store: str) -> None:
    """Refuse a part of an object in answer to a request for all of it."""
    if content_range and content_range != f"bytes 0-{info.size_bytes - 1}/{info.size_bytes}":
        raise StorageError(
            f"object {info.key!r} of {store}: the answer is a part of it ({content_range[:80]}), which was "
            "not asked for; check what is between here and the store",
            key=info.key,
            code="InvalidAnswer",
        )
