"""The object that a claim is, and what a store makes of requests about it.

Invariant: nothing here decides who holds the store; what cannot be told (an ETag that the store does not
give, a condition that it does not know) is said as such.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Final

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import (
    BucketNotFoundError,
    ClaimedError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    TransientError,
    UnauthenticatedError,
    UnsupportedOperationError,
)
from bubu_storage.retention.claim_document import (
    CLAIM_KEY,
    MAX_DOCUMENT_BYTES,
    ClaimDocument,
    FoundClaim,
    read_claim,
)
from bubu_storage.retention.store_clock import stamped_time
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "claim_over",
    "claimed_by",
    "is_refused",
    "look_at_claim",
    "naming_permissions",
    "put_claim",
    "remove_claim",
    "write_over",
]

_WRONG_ETAG: Final = f'"{"0" * 32}"'
_CONTENT_TYPE: Final = "application/json"
_NOT_ABOUT_CONDITIONS: Final = (
    TransientError,
    PermissionDeniedError,
    UnauthenticatedError,
    BucketNotFoundError,
)
"""Errors that say nothing about whether the store knows conditions."""


def look_at_claim(backend: ObjectBackend) -> FoundClaim | None:
    """Return the claim that lies in a store, None where there is none; writes nothing.

    Raises:
        StorageError: the store failed or refused.
    """
    try:
        with backend.get_object(CLAIM_KEY) as stored:
            data = stored.read(MAX_DOCUMENT_BYTES + 1)
            return read_claim(data, etag=stored.info.etag, last_modified=stored.info.last_modified)
    except ObjectNotFoundError:
        return None


def claim_over(backend: ObjectBackend, found: FoundClaim) -> bool:
    """Tell whether a claim is over by the store's clock, by both ways in which that can be told.

    The date of an answer may come from a proxy, or (file stores) from this machine; so the date that the
    store gives to an object that is written now has to agree. Writes only if the first way says yes.

    Raises:
        StorageError: the store failed or refused.
    """
    return found.is_expired(backend.server_time()) and found.is_expired(stamped_time(backend))


def put_claim(
    backend: ObjectBackend, document: ClaimDocument, *, if_match: str = "", if_none_match: str = ""
) -> str:
    """Write the claim and return its ETag, "" where the store gives none.

    Raises:
        PreconditionFailedError: the condition did not hold.
        StorageError: the store failed or refused.
    """
    data = document.to_bytes()
    return backend.put_object(
        CLAIM_KEY,
        data,
        size_bytes=len(data),
        content_type=_CONTENT_TYPE,
        if_match=if_match,
        if_none_match=if_none_match,
    )


def write_over(backend: ObjectBackend, found: FoundClaim | None, document: ClaimDocument) -> str:
    """Write the claim on the condition that nothing has changed since it was looked at.

    Returns:
        The ETag; "" where the store does not know the condition, and it was written without.

    Raises:
        PreconditionFailedError: another was faster.
        StorageError: the store failed or refused.
    """
    with contextlib.suppress(_UnknownError):
        if found is None:
            return _conditional(backend, document, if_none_match="*")
        if found.etag:
            return _conditional(backend, document, if_match=found.etag)
    put_claim(backend, document)
    return ""


def is_refused(backend: ObjectBackend, document: ClaimDocument, *, by_etag: bool) -> bool:
    """Tell whether the store refuses what it must: a wrong ETag, or to put what is there already.

    Where it does not, the document has been written.

    Args:
        backend: the store, in which a claim of ours is.
        document: ours, with other bytes than are stored: equal ones could be taken for an echo.
        by_etag: try a wrong ETag; else put-if-absent.

    Raises:
        StorageError: the store failed or refused for another reason.
    """
    condition = {"if_match": _WRONG_ETAG} if by_etag else {"if_none_match": "*"}
    try:
        _conditional(backend, document, **condition)
    except PreconditionFailedError:
        return True
    except _UnknownError:
        pass
    return False


def remove_claim(backend: ObjectBackend, etag: str) -> None:
    """Delete the claim; on the condition that it has this ETag, where the store knows such.

    Raises:
        PreconditionFailedError: it has another.
        StorageError: the store failed or refused.
    """
    try:
        backend.delete_object(CLAIM_KEY, if_match=etag)
    except UnsupportedOperationError:
        backend.delete_object(CLAIM_KEY)


class _UnknownError(Exception):
    """The store does not know a condition."""


def _conditional(
    backend: ObjectBackend, document: ClaimDocument, *, if_match: str = "", if_none_match: str = ""
) -> str:
    """Write on a condition, and raise `_UnknownError` where the store does not know it."""
    try:
        return put_claim(backend, document, if_match=if_match, if_none_match=if_none_match)
    except (PreconditionFailedError, *_NOT_ABOUT_CONDITIONS):
        raise
    except StorageError as error:
        raise _UnknownError from error


def claimed_by(store: str, found: FoundClaim | None) -> ClaimedError:
    """Return the error that tells who has a store, and the way out; None: nobody any more."""
    if found is None:
        return ClaimedError(f"{store} was claimed, and given back, by another just now; try again")
    way = (
        "bubu-storage lock show tells more, bubu-storage lock break removes it"
        if found.document is None
        else "wait for its end; bubu-storage lock show tells more, and if its holder is gone for good, "
        "bubu-storage lock break removes it"
    )
    return ClaimedError(f"{store} is claimed by {found.describe()}; {way}", key=CLAIM_KEY)


@contextlib.contextmanager
def naming_permissions(store: str) -> Generator[None]:
    """Say which permission is wanted where one is missing."""
    try:
        yield
    except PermissionDeniedError as error:
        raise ClaimedError(
            f"{store} cannot be claimed: {error}. Who deletes must be allowed to read, write and "
            f"delete objects below {RESERVED_PREFIX}retention/ (s3:GetObject, s3:PutObject, "
            "s3:DeleteObject), and to list the bucket",
            key=CLAIM_KEY,
            status=error.status,
            code=error.code,
        ) from error
