"""Every error that the storage library raises on purpose: one tree, one place.

Invariants: a message names the thing, the cause and (where there is one) the way out;
it never holds a credential or a signed URL. Errors that people already catch by a
builtin name derive from that builtin too. The original SDK error is always the
``__cause__``.

::

    StorageError
    ├── ConfigurationError          (also ValueError)      settings or environment are wrong
    ├── StorageDisabledError                               the operation needs a store and none is configured
    ├── InvalidKeyError             (also ValueError)      empty, absolute, "..", too long
    ├── ObjectNotFoundError         (also FileNotFoundError)
    ├── BucketNotFoundError                                the bucket or base directory; never "not found"
    ├── UnauthenticatedError        (also PermissionError) credentials are missing, unknown or expired
    ├── PermissionDeniedError       (also PermissionError) known, but not allowed
    ├── AddressNotAllowedError      (also PermissionError) the endpoint leads where the address policy forbids
    ├── PreconditionFailedError                            an if_match / if_none_match did not hold
    ├── RangeNotSatisfiableError    (also ValueError)
    ├── UnsupportedOperationError                          this backend cannot (Go: ErrUnsupportedOperation)
    │   ├── CopyNotSupportedError                          no copy inside the store (Go: ErrCopyNotSupported)
    │   └── BatchDeleteNotSupportedError                   no deletion of many objects at once
    ├── CopyError                                          a copy failed; ``phase`` says on which side
    ├── LimitExceededError          (also ValueError)      a size or count is over a stated limit
    ├── OwnersUnknownError                                 no complete and credible list of owners (retention)
    ├── ClaimedError                                       another sweeper has the store (retention)
    ├── NotSentError                                       a last look forbade it; nothing was sent
    ├── TransientError                                     worth a retry
    │   ├── ThrottledError                                 429, 503 SlowDown; see retry_after_seconds
    │   ├── UnavailableError        (also ConnectionError) refused, reset, DNS, TLS, 5xx
    │   │   └── BackendUnavailableError                    a circuit is open (Go: ErrBackendUnavailable)
    │   └── StorageTimeoutError     (also TimeoutError)
    └── PayloadError                                       about documents, not about the store
        ├── EncodeError             (also ValueError)      a value has no JSON form; names the JSON path
        ├── CorruptObjectError      (also ValueError)      stored bytes are no valid stored object
        ├── DepthError              (also ValueError)      nesting or reference budget exceeded
        │   └── RefCycleError                              a reference leads back to itself
        ├── SelectorError           (also LookupError)     $bubuStoragePath cannot be applied
        ├── RefNotAllowedError      (also PermissionError) a reference outside the allowed prefixes
        └── KubeRefError            (also LookupError)     a ConfigMap or Secret reference failed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, cast

__all__ = [
    "AddressNotAllowedError",
    "BackendUnavailableError",
    "BatchDeleteNotSupportedError",
    "BucketNotFoundError",
    "ClaimedError",
    "ConfigurationError",
    "CopyError",
    "CopyNotSupportedError",
    "CopyPhase",
    "CorruptObjectError",
    "DepthError",
    "EncodeError",
    "InvalidKeyError",
    "KubeRefError",
    "LimitExceededError",
    "NotSentError",
    "ObjectNotFoundError",
    "OwnersUnknownError",
    "PayloadError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "RangeNotSatisfiableError",
    "RefCycleError",
    "RefNotAllowedError",
    "SelectorError",
    "StorageDisabledError",
    "StorageError",
    "StorageTimeoutError",
    "ThrottledError",
    "TransientError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedOperationError",
    "is_copy_phase",
    "is_not_found",
]


class StorageError(Exception):
    """Root of the tree.

    Attributes:
        message: the text without any prefix.
        key: the object's key, where one is concerned.
        status: HTTP status code of the answer, where there was one.
        code: the store's own error code (``NoSuchKey``), where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        status: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.key = key
        self.status = status
        self.code = code

    def __str__(self) -> str:
        return self.message


class ConfigurationError(StorageError, ValueError):
    """Settings are missing, contradictory or malformed; nothing was contacted."""


class StorageDisabledError(StorageError):
    """No provider is configured, and the operation cannot do without."""


class InvalidKeyError(StorageError, ValueError):
    """The key or prefix is empty, absolute, leaves its root, or is too long."""


class ObjectNotFoundError(StorageError, FileNotFoundError):
    """No object has this key."""


class BucketNotFoundError(StorageError):
    """The bucket (or the file store's base directory) does not exist.

    Not an `ObjectNotFoundError`: a missing bucket is a fault of the set-up, and code
    that treats "not found" as "nothing there yet" must not swallow it.
    """


class UnauthenticatedError(StorageError, PermissionError):
    """The store does not accept the credentials, or there are none."""


class PermissionDeniedError(StorageError, PermissionError):
    """The credentials are good and the operation is not allowed to them."""


class AddressNotAllowedError(StorageError, PermissionError):
    """The endpoint leads to an address that must not be called; nothing was sent there."""


class PreconditionFailedError(StorageError):
    """A conditional request found the object changed."""


class RangeNotSatisfiableError(StorageError, ValueError):
    """The range lies outside the object (HTTP 416)."""


class UnsupportedOperationError(StorageError):
    """The backend lacks this operation."""


class CopyNotSupportedError(UnsupportedOperationError):
    """The backend cannot copy by itself; read the object and write it instead."""


class BatchDeleteNotSupportedError(UnsupportedOperationError):
    """The backend cannot delete many objects in one request; delete them one by one."""


class CopyPhase(StrEnum):
    """The side of a copy between two backends that failed."""

    READ = "read"
    """The source: another one may serve."""
    WRITE = "write"
    """The destination: another source would not help."""


class CopyError(StorageError):
    """A copy between two backends failed; the cause is the ``__cause__``.

    Args:
        phase: the side at fault.
        cause: what it raised.
        key: the object's key, where one is concerned.

    Attributes:
        phase: the side at fault.
    """

    def __init__(self, phase: CopyPhase, cause: BaseException, *, key: str | None = None) -> None:
        status, code = (cause.status, cause.code) if isinstance(cause, StorageError) else (None, None)
        super().__init__(f"{phase}: {cause}", key=key, status=status, code=code)
        self.phase = phase
        self.__cause__ = cause

    def __reduce__(self) -> tuple[Any, ...]:
        # The root's way would call the class with the message alone.
        return type(self), (self.phase, self.__cause__), self.__dict__


class LimitExceededError(StorageError, ValueError):
    """A size or a count is over a stated limit; the message has both numbers."""


class OwnersUnknownError(StorageError):
    """There is no complete and credible list of the owners of runs, so nothing may be deleted by it."""


class ClaimedError(StorageError):
    """Another sweeper has claimed the store, or may have."""


class NotSentError(StorageError):
    """A deletion was not sent: who was asked right before it said no.

    Attributes:
        said: what was raised then.
    """

    said: BaseException | None = None


class TransientError(StorageError):
    """The same request may succeed later."""


class ThrottledError(TransientError):
    """The store asks for fewer requests.

    Attributes:
        retry_after_seconds: what the store asked for, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        status: int | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, key=key, status=status, code=code)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(TransientError, ConnectionError):
    """The store cannot be reached, or answers with a server error."""


class BackendUnavailableError(UnavailableError):
    """A circuit breaker keeps requests from a backend that failed too often.

    The failure that opened the circuit, where it is known, is the ``__cause__``.
    """


class StorageTimeoutError(TransientError, TimeoutError):
    """The store did not answer in time."""


class PayloadError(StorageError):
    """A document cannot be dehydrated or hydrated.

    Attributes:
        json_path: where in the document, as ``$.a[3].b``; None where unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        status: int | None = None,
        code: str | None = None,
        json_path: str | None = None,
    ) -> None:
        super().__init__(message, key=key, status=status, code=code)
        self.json_path = json_path


class EncodeError(PayloadError, ValueError):
    """A value has no JSON form (NaN, a key that is no string, an unknown type)."""


class CorruptObjectError(PayloadError, ValueError):
    """Stored bytes are not a stored object."""


class DepthError(PayloadError, ValueError):
    """Data or references are nested beyond the budget."""


class RefCycleError(DepthError):
    """A reference leads back to an object that is being resolved."""


class SelectorError(PayloadError, LookupError):
    """A selector is malformed or does not fit the document."""


class RefNotAllowedError(PayloadError, PermissionError):
    """A reference points outside the prefixes that this reader allows."""


class KubeRefError(PayloadError, LookupError):
    """A ConfigMap or Secret reference cannot be resolved."""


def is_not_found(error: BaseException | None) -> bool:
    """Tell whether an error means "there is no object of this key" (Go: IsNotFound).

    Decides by type along the chain of causes (``raise … from …``; an error that merely happened
    while another one was being handled says nothing about it). A `BucketNotFoundError` anywhere
    in it is a "no". Errors of other origin are judged by the HTTP status that they carry, and
    only those without one by their text, as the Go implementation does.
    """
    chain = list(_causes(error))
    if any(isinstance(current, BucketNotFoundError) for current in chain):
        return False
    return any(
        isinstance(current, FileNotFoundError)
        or (not isinstance(current, StorageError) and _foreign_not_found(current))
        for current in chain
    )


_NOT_FOUND_WORDS = ("nosuchkey", "notfound", "status code: 404", "not found")
_HTTP_NOT_FOUND = 404


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _foreign_not_found(error: BaseException) -> bool:
    """Judge an error that is not ours: by its status, else by its text."""
    text = str(error).lower()
    if "nosuchbucket" in text:
        return False
    status = _foreign_status(error)
    if status is not None:
        return status == _HTTP_NOT_FOUND
    return not isinstance(error, OSError) and any(word in text for word in _NOT_FOUND_WORDS)


def _foreign_status(error: BaseException) -> int | None:
    """Return the HTTP status that an SDK's or HTTP client's error carries, in any usual place."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        facts: Any = cast("Mapping[str, Any]", response).get("ResponseMetadata")
        found = cast("Mapping[str, Any]", facts).get("HTTPStatusCode") if isinstance(facts, Mapping) else None
    else:
        found = getattr(response, "status_code", getattr(error, "status_code", None))
    return found if isinstance(found, int) else None


def is_copy_phase(error: BaseException | None, phase: CopyPhase) -> bool:
    """Tell whether a `CopyError` of this phase is in the chain of causes (Go: IsCopyPhase)."""
    return any(isinstance(current, CopyError) and current.phase is phase for current in _causes(error))
