"""Deleting from a bucket: one object, or many in a request, each on a condition of its own or on none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from bubu_storage.backend.s3_conditions import condition_arguments
from bubu_storage.backend.s3_errors import map_item_error
from bubu_storage.backend.s3_session import SDK_ERRORS, S3Session
from bubu_storage.errors import ObjectNotFoundError, PreconditionFailedError, StorageError

__all__ = ["delete_one", "delete_together", "fits_xml"]

_NOT_IN_XML: Final = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")


def delete_one(session: S3Session, key: str, if_match: str) -> None:
    """Delete one object; a missing one counts as deleted.

    Raises:
        PreconditionFailedError: it has another ETag.
        StorageError: any of the tree.
    """
    try:
        with contextlib.suppress(ObjectNotFoundError), session.mapped("deleted", key):
            session.client.delete_object(Bucket=session.bucket, Key=key, **condition_arguments(if_match))
    except PreconditionFailedError:
        if not if_match:
            raise
        # Some stores say so of an object that is gone, maybe by an earlier try of this very request.
        try:
            with session.mapped("looked up", key):
                session.client.head_object(Bucket=session.bucket, Key=key)
        except ObjectNotFoundError:
            return
        except StorageError:
            pass
        raise


def delete_together(
    session: S3Session, keys: Sequence[str], if_match: Mapping[str, str]
) -> dict[str, StorageError]:
    """Delete many objects in one request and return the keys that failed, each with its error.

    Args:
        session: the bucket.
        keys: up to 1,000, each of which `fits_xml`.
        if_match: ETags by key.

    Raises:
        UnsupportedOperationError: the store has no such request.
        StorageError: the whole request failed.
    """
    objects: Any = [
        {"Key": key, "ETag": if_match[key]} if if_match.get(key) else {"Key": key} for key in keys
    ]
    try:
        answer = session.client.delete_objects(
            Bucket=session.bucket, Delete={"Objects": objects, "Quiet": True}
        )
    except SDK_ERRORS as error:
        action = f"{len(keys)} objects of {session.name} cannot be deleted"
        raise session.judged(error, action, None) from error
    failed: dict[str, StorageError] = {}
    asked = frozenset(keys)
    for item in cast("list[dict[str, Any]]", answer.get("Errors", [])):
        key = str(item.get("Key", ""))
        action = f"object {key!r} of {session.name} cannot be deleted"
        error = map_item_error(item, action, key=key, secrets=session.secrets)
        if key not in asked:
            # One of ours failed and it is not said which: none can be taken for deleted.
            error.message = f"{len(keys)} objects of {session.name}: the answer is about another key: {error}"
            raise error
        if not isinstance(error, ObjectNotFoundError):
            failed[key] = error
    return failed


def fits_xml(key: str) -> bool:
    """Tell whether XML 1.0 can carry a key: most control characters have no form in it."""
    return _NOT_IN_XML.search(key) is None
