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
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from bubu_storage.backend.s3_body import S3Body
from bubu_storage.backend.s3_client import CaBundle, RetryRule, build_client, check_settings, known_secrets
from bubu_storage.backend.s3_clock import StoreClock
from bubu_storage.backend.s3_errors import NO_CODES, code_and_status, map_item_error, map_sdk_error
from bubu_storage.backend.s3_listing import pages
from bubu_storage.backend.s3_upload import PartPlan, parts_of, plan_part_size, sha256_base64, upload_parts
from bubu_storage.backend.types import (
    EPOCH,
    Body,
    GetObjectResult,
    ListPage,
    ObjectInfo,
    check_batch,
    check_key,
    check_page_size,
    check_prefix,
    refuse_conditions,
)
from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    ObjectNotFoundError,
    PermissionDeniedError,
    StorageError,
    UnauthenticatedError,
    UnsupportedOperationError,
)
from bubu_storage.settings import S3Settings
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

__all__ = ["S3Backend"]

_SDK_ERRORS: Final = (ClientError, BotoCoreError, HTTPError, OSError)


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
        check_settings(settings)
        self._settings = settings
        self._bucket = settings.bucket
        self._secrets = known_secrets(settings)
        self._ca_bundle = CaBundle(settings.ca_bundle_pem) if settings.ca_bundle_pem else None
        self._clock = StoreClock()
        rule = RetryRule(settings.max_attempts, settings.max_backoff_seconds)
        try:
            self._client: S3Client = build_client(settings, rule, self._ca_bundle)
        except BaseException:
            if self._ca_bundle is not None:
                self._ca_bundle.close()
            raise
        self._client.meta.events.register("after-call.s3", self._clock.note)
        self._checksums = True
        self.bulk_delete_is_emulated = False

    @property
    def name(self) -> str:
        """The bucket as ``s3://bucket``."""
        return f"s3://{self._bucket}"

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
            StorageError: the body has another length than announced, or any of the tree.
        """
        refuse_conditions(if_match, if_none_match)
        check_key(key)
        facts = self._object_arguments(content_type, metadata, key)
        part_size = plan_part_size(self._settings.part_size_bytes, size_bytes)
        parts = parts_of(body, part_size, size_bytes=size_bytes, key=key)
        first = next(parts)
        second = next(parts, None)
        with self._mapped("written", key):
            if second is None:
                return self._put_single(key, first, facts)
        return self._put_parts(key, chain((first, second), parts), facts)

    def get_object(self, key: str, *, range_header: str = "", if_match: str = "") -> GetObjectResult:
        """Open an object; see `ObjectBackend.get_object`.

        Raises:
            ObjectNotFoundError: no such key.
            RangeNotSatisfiableError: the range lies outside the object.
        """
        refuse_conditions(if_match)
        check_key(key)
        # Some stores send the whole object's checksum with a part of it.
        extra: dict[str, Any] = {"Range": range_header} if range_header else {"ChecksumMode": "ENABLED"}
        with self._mapped("read", key):
            answer = cast("dict[str, Any]", self._client.get_object(Bucket=self._bucket, Key=key, **extra))
        info = _info(key, answer)
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
        with self._mapped("looked up", key):
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        return _info(key, cast("dict[str, Any]", answer))

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Delete one object; a missing one counts as deleted."""
        refuse_conditions(if_match)
        check_key(key)
        with contextlib.suppress(ObjectNotFoundError), self._mapped("deleted", key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Delete up to 1,000 objects in one request; see `BatchDeleter.delete_objects`.

        Where the store has no such request, the keys are deleted one by one.

        Raises:
            LimitExceededError: more than 1,000 keys.
            StorageError: the whole request failed.
        """
        refuse_conditions(*(if_match or {}).values())
        failed: dict[str, StorageError] = {}
        together: list[str] = []
        singly: list[str] = []
        for key in check_batch(keys):
            try:
                check_key(key)
            except StorageError as error:
                failed[key] = error
            else:
                (together if _fits_xml(key) and not self.bulk_delete_is_emulated else singly).append(key)
        if together:
            try:
                failed.update(self._delete_together(together))
            except UnsupportedOperationError:
                self.bulk_delete_is_emulated = True
                singly.extend(together)
        for key in singly:
            try:
                self.delete_object(key)
            except BucketNotFoundError:
                raise
            except StorageError as error:
                failed[key] = error
        return failed

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Stream a listing; see `ObjectBackend.list_objects`.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
            StorageError: the store's pages are out of order or repeat themselves.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        return pages(
            lambda more: self._page(prefix, page_size, more), start_after=start_after, store=self.name
        )

    def _page(self, prefix: str, page_size: int, more: dict[str, str]) -> dict[str, Any]:
        with self._mapped("listed", None):
            answer = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=prefix, MaxKeys=page_size, **cast("dict[str, Any]", more)
            )
        return cast("dict[str, Any]", answer)

    def server_time(self) -> datetime:
        """Return the store's clock, from the ``Date`` of a recent answer; exact to a second.

        Raises:
            StorageError: the store does not answer, or without a date.
        """
        now = self._clock.now()
        if now is None:
            try:
                with self._mapped("contacted", None):
                    self._client.head_bucket(Bucket=self._bucket)
            except StorageError:
                # A refusal has a date too; whether the bucket may be used is not the question.
                now = self._clock.now()
                if now is None:
                    raise
            else:
                now = self._clock.now()
        if now is None:
            raise StorageError(f"{self.name} sends no Date header, so its clock cannot be told")
        return now

    def close(self) -> None:
        """Close the connections; twice is fine."""
        self._client.close()
        if self._ca_bundle is not None:
            self._ca_bundle.close()

    # ---- internals

    @contextlib.contextmanager
    def _mapped(self, verb: str, key: str | None) -> Generator[None]:
        """Turn the SDK's errors into the library's."""
        try:
            yield
        except StorageError:
            raise
        except _SDK_ERRORS as error:
            raise self._error(error, verb, key) from error

    def _error(self, error: BaseException, verb: str, key: str | None) -> StorageError:
        what = f"object {key!r} of {self.name}" if key is not None else self.name
        return self._judged(error, f"{what} cannot be {verb}", key)

    def _judged(self, error: BaseException, action: str, key: str | None) -> StorageError:
        mapped = map_sdk_error(error, action, key=key, secrets=self._secrets)
        if isinstance(mapped, (ObjectNotFoundError, PermissionDeniedError)) and mapped.code in NO_CODES:
            return self._real_cause(action, key) or mapped
        return mapped

    def _real_cause(self, action: str, key: str | None) -> StorageError | None:
        """Ask the bucket itself when an answer without a text (to a HEAD) does not say what is wrong.

        By a listing, since the answer to another HEAD would have no text either.

        Returns:
            The error, if it is the bucket or the credentials and not the object.
        """
        try:
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=key or "", MaxKeys=1)
        except _SDK_ERRORS as error:
            found = map_sdk_error(error, action, key=key, secrets=self._secrets)
            if isinstance(found, ObjectNotFoundError):
                return BucketNotFoundError(
                    f"{action}: the bucket does not exist; check its name and the endpoint, or create it",
                    key=key,
                    status=404,
                    code="NoSuchBucket",
                )
            if isinstance(found, (BucketNotFoundError, UnauthenticatedError)):
                return found
        return None

    def _object_arguments(
        self, content_type: str, metadata: Mapping[str, str] | None, key: str
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if content_type:
            facts["ContentType"] = content_type
        if metadata:
            for name, value in metadata.items():
                if not (name.isascii() and value.isascii()):
                    raise ConfigurationError(f"metadata of object {key!r} must be ASCII", key=key)
            facts["Metadata"] = dict(metadata)
        if self._settings.sse:
            facts["ServerSideEncryption"] = self._settings.sse
        if self._settings.sse_kms_key_id:
            facts["SSEKMSKeyId"] = self._settings.sse_kms_key_id
        return facts

    def _put_single(self, key: str, data: bytes, facts: dict[str, Any]) -> str:
        def put(extra: dict[str, Any]) -> str:
            answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=data, **facts, **extra)
            return answer.get("ETag", "")

        if not self._checksums:
            return put({})
        try:
            return put({"ChecksumSHA256": sha256_base64(data)})
        except ClientError as error:
            if code_and_status(error)[0] != "NotImplemented":
                raise
        self._checksums = False  # an old store that refuses headers it does not know
        return put({})

    def _put_parts(self, key: str, parts: Iterator[bytes], facts: dict[str, Any]) -> str:
        plan = PartPlan(
            client=self._client,
            bucket=self._bucket,
            key=key,
            create=facts,
            concurrency=self._settings.concurrency,
            checksums=self._checksums,
        )
        source = _SourceErrors(parts)
        try:
            return upload_parts(plan, source, lambda etag: self._has_etag(key, etag))
        except StorageError:
            raise
        except _SDK_ERRORS as error:
            if error is source.raised:
                raise
            raise self._error(error, "written", key) from error

    def _has_etag(self, key: str, etag: str) -> bool:
        try:
            return self.head_object(key).etag == etag
        except StorageError:
            return False

    def _delete_together(self, keys: list[str]) -> dict[str, StorageError]:
        objects: Any = [{"Key": key} for key in keys]
        try:
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        except _SDK_ERRORS as error:
            action = f"{len(keys)} objects of {self.name} cannot be deleted"
            raise self._judged(error, action, None) from error
        failed: dict[str, StorageError] = {}
        for item in cast("list[dict[str, Any]]", answer.get("Errors", [])):
            key = str(item.get("Key", ""))
            action = f"object {key!r} of {self.name} cannot be deleted"
            error = map_item_error(item, action, key=key, secrets=self._secrets)
            if not isinstance(error, ObjectNotFoundError):
                failed[key] = error
        return failed


class _SourceErrors(Iterator[bytes]):
    """Passes parts on and remembers what the source raised, to tell it from the store's errors."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self.raised: BaseException | None = None

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            raise
        except BaseException as error:
            self.raised = error
            raise


def _info(key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size_bytes=answer.get("ContentLength", 0),
        content_type=answer.get("ContentType") or DEFAULT_BLOB_CONTENT_TYPE,
        etag=answer.get("ETag", ""),
        last_modified=answer.get("LastModified", EPOCH).astimezone(UTC),
        metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
    )


def _fits_xml(key: str) -> bool:
    """Tell whether XML 1.0 can carry a key: most control characters have no form in it."""
    return all(char >= " " and char not in "\ufffe\uffff\x7f" for char in key)
