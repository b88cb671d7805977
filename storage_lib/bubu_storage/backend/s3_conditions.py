"""Conditional requests to a bucket: their arguments, and what a refusal really says.

Three things make a refusal less clear than it looks:

* **409 ConditionalRequestConflict** only says that another request was at work on the object. S3
  asks to send a put again, and that is done here; a refusal that lasts is a failed precondition,
  as is one of the request that completes an upload in parts, which would have to begin anew.
* **412 to a request that was sent twice** may be the echo of the first one, whose answer was lost:
  our own object is in the way. It is taken for ours if its ETag is the MD5 of what was sent. Equal
  bodies of several writers cannot be told apart so: who competes for a key writes something unique.
* **404 to a put** with an ETag says that there is nothing to replace.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, cast

from botocore.exceptions import ClientError

from bubu_storage.backend.s3_errors import class_of, code_and_status
from bubu_storage.errors import ObjectNotFoundError, PreconditionFailedError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

__all__ = [
    "condition_arguments",
    "is_own_echo",
    "is_refusal",
    "nothing_to_replace",
    "retry_conflicts",
    "was_sent_again",
]

_CONFLICT: Final = "ConditionalRequestConflict"
_FIRST_PAUSE_SECONDS: Final = 0.05


def condition_arguments(if_match: str, if_none_match: str = "") -> dict[str, Any]:
    """Return the SDK's arguments for conditions; "" is no condition."""
    arguments: dict[str, Any] = {}
    if if_match:
        arguments["IfMatch"] = if_match
    if if_none_match:
        arguments["IfNoneMatch"] = if_none_match
    return arguments


def retry_conflicts(client: S3Client, max_attempts: int, max_backoff_seconds: float) -> None:
    """Have single puts and deletions sent again after a conflict, with a growing pause.

    Args:
        client: whose requests.
        max_attempts: tries in all, together with those for other reasons.
        max_backoff_seconds: longest pause.
    """

    def pause(attempts: int, response: tuple[Any, dict[str, Any]] | None = None, **_: Any) -> float | None:
        code = response[1].get("Error", {}).get("Code") if response is not None else None
        if code != _CONFLICT or attempts >= max_attempts:
            return None
        longest = min(max_backoff_seconds, _FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, 30))
        return random.random() * longest  # noqa: S311 - spreads the contenders, is no secret

    events: Any = client.meta.events
    for operation in ("PutObject", "DeleteObject"):
        events.register(f"needs-retry.s3.{operation}", pause)


def is_refusal(error: BaseException) -> bool:
    """Tell whether the store says that a condition does not hold."""
    return isinstance(error, ClientError) and class_of(*code_and_status(error)) in (
        PreconditionFailedError,
        ObjectNotFoundError,
    )


def was_sent_again(error: BaseException) -> bool:
    """Tell whether the request was sent more than once, so that the first may have done the work."""
    if not isinstance(error, ClientError):
        return True
    meta = cast("dict[str, Any]", error.response.get("ResponseMetadata", {}))
    return meta.get("RetryAttempts", 0) > 0


def is_own_echo(error: BaseException, data: bytes, etag_there: Callable[[], str]) -> str:
    """Return the ETag of our own object if that is what a put was refused for, else "".

    Args:
        error: what the put ended with.
        data: what it sent.
        etag_there: asks for the ETag of what is there now; "" where it cannot be told.
    """
    if not (is_refusal(error) and was_sent_again(error)):
        return ""
    there = etag_there()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return there if there.strip('"') == digest else ""


@contextlib.contextmanager
def nothing_to_replace(if_match: str, *, key: str, store: str) -> Generator[None]:
    """Make "no such object", said to a put with an ETag, the failed precondition that it is."""
    try:
        yield
    except ObjectNotFoundError as error:
        if not if_match:
            raise
        raise PreconditionFailedError(
            f"object {key!r} of {store} cannot be replaced: it is gone, or never was there",
            key=key,
            status=error.status,
            code=error.code,
        ) from error
    except PreconditionFailedError as error:
        if if_match and error.__cause__ is not None and was_sent_again(error.__cause__):
            error.message += "; the request was sent again, and an earlier try may have been carried out"
        raise
