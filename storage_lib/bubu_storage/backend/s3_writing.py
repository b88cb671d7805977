"""Writing one object to a bucket: in one request or in parts, with checksums, conditions and encryption.

Invariants: an error of the caller's own source reaches the caller unchanged; a store that refuses
checksum headers is written to without them, once it has been seen to accept that; a conditional
write whose answer was lost is not reported as refused when it is our own object that is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from botocore.exceptions import ClientError

from bubu_storage.backend.s3_conditions import condition_arguments, is_own_echo, nothing_to_replace
from bubu_storage.backend.s3_errors import code_and_status
from bubu_storage.backend.s3_session import SDK_ERRORS, S3Session
from bubu_storage.backend.s3_upload import PartPlan, parts_of, plan_part_size, sha256_base64, upload_parts
from bubu_storage.backend.types import Body
from bubu_storage.errors import ConfigurationError, StorageError
from bubu_storage.settings import S3Settings

__all__ = ["S3Writer", "object_arguments"]


_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class S3Writer:
    """Writes to one bucket and remembers what the store refused; thread-safe.

    Args:
        session: the bucket.
    """

    def __init__(self, session: S3Session) -> None:
        self._session = session
        self._checksums = session.settings.checksums

    def write(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None,
        arguments: dict[str, Any],
        if_match: str,
        if_none_match: str,
    ) -> str:
        """Store a whole object and return its ETag; see `ObjectBackend.put_object`.

        Args:
            key: checked.
            body: read once.
            size_bytes: length, if known.
            arguments: see `object_arguments`.
            if_match: checked, as is the other condition.
            if_none_match: likewise.

        Raises:
            PreconditionFailedError: a condition did not hold.
            StorageError: any of the tree.
        """
        session = self._session
        part_size = plan_part_size(session.settings.part_size_bytes, size_bytes)
        parts = parts_of(body, part_size, size_bytes=size_bytes, key=key)
        first = next(parts)
        second = next(parts, None)
        conditions = condition_arguments(if_match, if_none_match)
        with nothing_to_replace(if_match, key=key, store=session.name):
            if second is None:
                with session.mapped("written", key):
                    return self._put_single(key, first, arguments, conditions)
            # Neither name nor tuple: both are large, and done with long before the last one.
            parts = chain(iter([first, second]), parts)
            del first, second
            return self._put_parts(key, parts, arguments, conditions)

    def _put_single(
        self, key: str, data: bytes, arguments: dict[str, Any], conditions: dict[str, Any]
    ) -> str:
        def put(extra: dict[str, Any]) -> str:
            try:
                answer = self._session.client.put_object(
                    Bucket=self._session.bucket, Key=key, Body=data, **arguments, **conditions, **extra
                )
            except ClientError as error:
                ours = is_own_echo(error, data, lambda: self._etag_there(key)) if conditions else ""
                if not ours:
                    raise
                return ours
            return answer.get("ETag", "")

        if not self._checksums:
            return put({})
        try:
            return put({"ChecksumSHA256": sha256_base64(data)})
        except ClientError as error:
            if code_and_status(error)[0] != "NotImplemented":
                raise
        etag = put({})
        self._checksums = False  # an old store that refuses headers it does not know
        return etag

    def _put_parts(
        self, key: str, parts: Iterator[bytes], arguments: dict[str, Any], conditions: dict[str, Any]
    ) -> str:
        plan = PartPlan(
            client=self._session.client,
            bucket=self._session.bucket,
            key=key,
            create=arguments,
            concurrency=self._session.settings.concurrency,
            checksums=self._checksums,
            complete=conditions,
        )
        source = _SourceErrors(parts)
        try:
            return upload_parts(plan, source, lambda etag: self._etag_there(key) == etag)
        except StorageError:
            raise
        except SDK_ERRORS as error:
            if error is source.raised:
                raise
            raise self._session.error(error, "written", key) from error

    def _etag_there(self, key: str) -> str:
        """Return the ETag of what is there now, "" where it cannot be told."""
        try:
            answer = self._session.client.head_object(Bucket=self._session.bucket, Key=key)
        except SDK_ERRORS:
            return ""
        return answer.get("ETag", "")


def object_arguments(
    settings: S3Settings, content_type: str, metadata: Mapping[str, str] | None, key: str
) -> dict[str, Any]:
    """Return the SDK's arguments that describe a new object.

    Raises:
        ConfigurationError: metadata that is not ASCII, or anything that no header can carry.
    """
    facts: dict[str, Any] = {}
    if content_type:
        if not (content_type.isascii() and content_type.isprintable()):
            raise ConfigurationError(
                f"content type {content_type[:80]!r} of object {key!r} must be printable ASCII", key=key
            )
        facts["ContentType"] = content_type
    if metadata:
        for name, value in metadata.items():
            if not (name.isascii() and value.isascii()):
                raise ConfigurationError(f"metadata of object {key!r} must be ASCII", key=key)
            if not (_HEADER_NAME.fullmatch(name) and value.isprintable()):
                raise ConfigurationError(
                    f"metadata {name[:80]!r} of object {key!r} does not fit into a header: names are "
                    "letters, digits and !#$%&'*+-.^_`|~, values have no control characters",
                    key=key,
                )
        # Names that differ in case only would be one header twice, and no signature fits that.
        facts["Metadata"] = {name.lower(): value for name, value in metadata.items()}
    if settings.sse:
        facts["ServerSideEncryption"] = settings.sse
    if settings.sse_kms_key_id:
        facts["SSEKMSKeyId"] = settings.sse_kms_key_id
    return facts


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
