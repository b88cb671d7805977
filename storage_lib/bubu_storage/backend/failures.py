"""Which errors say that a backend is ill: the rule of the circuit breaker, pure and on its own.

The lesson of others is in it: a breaker that counts every error takes a healthy store down
because three objects were missing. An answer is a sign of life, whatever it says, unless it is
a server's fault (5xx), a request for mercy (429), or a refusal of the credentials (401, 403).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus

from bubu_storage.errors import (
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageError,
    TransientError,
    UnauthenticatedError,
    UnsupportedOperationError,
)

__all__ = ["Verdict", "is_backend_failure", "judge"]

_COUNTED_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
_ANSWERS = (ObjectNotFoundError, PreconditionFailedError, RangeNotSatisfiableError)
"""What only a store that works can say, also where it speaks no HTTP."""


class Verdict(Enum):
    """What a request's end says about the backend."""

    FAILURE = auto()
    """It is ill."""
    HEALTHY = auto()
    """It is well, even if it said no."""
    NEUTRAL = auto()
    """Nothing: the request was given up, or never left this process."""


def is_backend_failure(error: BaseException) -> bool:
    """Tell whether an error counts against the backend.

    With an HTTP status: 5xx, 429, 401 and 403 do, all others are healthy answers (404, 409,
    412, 416 among them). Without: refused, reset, DNS, TLS and our own time limits do; what
    this library refused itself (a bad key, an unknown operation, a wrong length) does not.
    Errors that are no `StorageError`, such as the caller's cancellation, never do.
    """
    if not isinstance(error, StorageError) or isinstance(error, UnsupportedOperationError):
        return False
    if error.status is not None:
        return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status in _COUNTED_STATUSES
    if isinstance(error, (TransientError, UnauthenticatedError, PermissionDeniedError)):
        return True
    # A plain one without a status is an answer that makes no sense, as of a captive portal; but a
    # body of another length than announced is its sender's mistake.
    return type(error) is StorageError and error.code != "IncompleteBody"


def judge(error: BaseException, is_failure: Callable[[BaseException], bool] = is_backend_failure) -> Verdict:
    """Return what an error says about the backend.

    Args:
        error: what a request ended with.
        is_failure: decides about `Exception`; cancellation is neutral whatever it says.
    """
    if not isinstance(error, Exception):
        return Verdict.NEUTRAL
    if is_failure(error):
        return Verdict.FAILURE
    if isinstance(error, StorageError) and (error.status is not None or isinstance(error, _ANSWERS)):
        return Verdict.HEALTHY
    return Verdict.NEUTRAL
