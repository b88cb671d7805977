"""Copying inside a bucket, by the store itself.

S3 keeps the type and metadata of the source, or replaces both by what it is given. Where a caller
gives one of them, the other is looked up first and the copy is made on the condition that the
source is still the one that was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bubu_storage.backend.s3_session import SDK_ERRORS, S3Session
from bubu_storage.backend.s3_writing import object_arguments
from bubu_storage.errors import (
    CopyNotSupportedError,
    LimitExceededError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["MAX_COPY_BYTES", "copy_inside"]

MAX_COPY_BYTES: Final = 5 * 1024**3
"""S3's limit for a copy in one request."""

_MAX_LOOKS: Final = 3
"""How often the source may change between the look at it and the copy."""


def copy_inside(
    session: S3Session,
    source_key: str,
    destination_key: str,
    *,
    content_type: str,
    metadata: Mapping[str, str] | None,
) -> str:
    """Copy an object; see `BackendCopier.copy_object`. The keys are checked.

    Raises:
        CopyNotSupportedError: the store has no such request, or the object is over 5 GiB.
        ObjectNotFoundError: no such source.
        PreconditionFailedError: the source changed again and again meanwhile.
        StorageError: any of the tree.
    """
    action = f"object {source_key!r} of {session.name} cannot be copied to {destination_key!r}"
    if not content_type and metadata is None:
        return _copy(session, source_key, destination_key, {}, action)
    for looks_left in reversed(range(_MAX_LOOKS)):
        condition: dict[str, Any] = {}
        kept_type, kept_metadata = content_type, metadata
        if not content_type or metadata is None:
            facts = _look_up(session, source_key)
            if facts.get("ContentLength", 0) > MAX_COPY_BYTES:
                raise _too_large(action, source_key)
            kept_type = content_type or facts.get("ContentType") or DEFAULT_BLOB_CONTENT_TYPE
            kept_metadata = facts.get("Metadata", {}) if metadata is None else metadata
            condition = {"CopySourceIfMatch": facts["ETag"]} if facts.get("ETag") else {}
        described = object_arguments(session.settings, kept_type, kept_metadata, destination_key)
        replace = {"MetadataDirective": "REPLACE", **described, **condition}
        try:
            return _copy(session, source_key, destination_key, replace, action)
        except PreconditionFailedError:
            if not (condition and looks_left):
                raise
    raise AssertionError("unreachable: the last look raises")  # pragma: no cover


def _copy(
    session: S3Session, source_key: str, destination_key: str, arguments: dict[str, Any], action: str
) -> str:
    described = arguments or object_arguments(session.settings, "", None, destination_key)
    try:
        answer = session.client.copy_object(
            Bucket=session.bucket,
            Key=destination_key,
            CopySource={"Bucket": session.bucket, "Key": source_key},
            **described,
        )
    except SDK_ERRORS as error:
        mapped = session.judged(error, action, source_key)
        if isinstance(mapped, UnsupportedOperationError):
            raise CopyNotSupportedError(
                mapped.message, key=source_key, status=mapped.status, code=mapped.code
            ) from error
        if _may_be_too_large(mapped) and _is_too_large(session, source_key):
            raise _too_large(action, source_key) from error
        raise mapped from error
    result = answer.get("CopyObjectResult")
    if not result:
        # The status goes out before the copy is made; only the result says that it was.
        raise UnavailableError(f"{action}: the answer broke off", key=source_key, code="IncompleteBody")
    return result.get("ETag", "")


def _look_up(session: S3Session, key: str) -> dict[str, Any]:
    with session.mapped("looked up", key):
        return dict(session.client.head_object(Bucket=session.bucket, Key=key))


def _may_be_too_large(error: StorageError) -> bool:
    return isinstance(error, LimitExceededError) or error.code == "InvalidRequest"


def _is_too_large(session: S3Session, key: str) -> bool:
    try:
        return _look_up(session, key).get("ContentLength", 0) > MAX_COPY_BYTES
    except StorageError:
        return False


def _too_large(action: str, key: str) -> CopyNotSupportedError:
    return CopyNotSupportedError(
        f"{action}: it is over 5 GiB, which is too much for one request; read it and write it instead",
        key=key,
        code="EntityTooLarge",
    )
