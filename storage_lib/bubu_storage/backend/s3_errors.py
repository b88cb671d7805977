"""From what an S3 store or its SDK says to the library's errors: one table, no surprises.

Invariants: an unknown code becomes a plain `StorageError` that keeps code and status; text
from a server is shortened and scrubbed of anything that looks like a credential or a
signature before it enters a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from botocore import exceptions as sdk
from urllib3 import exceptions as http

from bubu_storage.backend.s3_reach import not_reached
from bubu_storage.errors import (
    AddressNotAllowedError,
    BucketNotFoundError,
    ConfigurationError,
    InvalidKeyError,
    LimitExceededError,
    NotSentError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)

__all__ = [
    "CODES",
    "NO_CODES",
    "STATUSES",
    "UNREADABLE",
    "class_of",
    "code_and_status",
    "map_item_error",
    "map_sdk_error",
    "retry_after_seconds",
    "scrub",
]

CODES: Final[Mapping[str, type[StorageError]]] = {
    "NoSuchBucket": BucketNotFoundError,
    "NoSuchKey": ObjectNotFoundError,
    "NoSuchVersion": ObjectNotFoundError,
    "AccessDenied": PermissionDeniedError,
    "AccountProblem": PermissionDeniedError,
    "AllAccessDisabled": PermissionDeniedError,
    "InvalidObjectState": PermissionDeniedError,
    "KMS.DisabledException": PermissionDeniedError,
    "CredentialsNotSupported": UnauthenticatedError,
    "ExpiredToken": UnauthenticatedError,
    "ExpiredTokenException": UnauthenticatedError,
    "InvalidAccessKeyId": UnauthenticatedError,
    "InvalidSecurity": UnauthenticatedError,
    "InvalidToken": UnauthenticatedError,
    "MissingSecurityHeader": UnauthenticatedError,
    "NotSignedUp": UnauthenticatedError,
    "RequestTimeTooSkewed": UnauthenticatedError,
    "SignatureDoesNotMatch": UnauthenticatedError,
    "TokenRefreshRequired": UnauthenticatedError,
    "UnrecognizedClientException": UnauthenticatedError,
    "XAdminUserNotFound": UnauthenticatedError,
    "AuthorizationHeaderMalformed": ConfigurationError,
    "IllegalLocationConstraintException": ConfigurationError,
    "InvalidBucketName": ConfigurationError,
    "PermanentRedirect": ConfigurationError,
    "Redirect": ConfigurationError,
    "TemporaryRedirect": ConfigurationError,
    "BandwidthLimitExceeded": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "ServiceUnavailable": ThrottledError,
    "SlowDown": ThrottledError,
    "SlowDownRead": ThrottledError,
    "SlowDownWrite": ThrottledError,
    "Throttling": ThrottledError,
    "ThrottlingException": ThrottledError,
    "TooManyRequests": ThrottledError,
    "TooManyRequestsException": ThrottledError,
    "InternalError": UnavailableError,
    "InternalServerError": UnavailableError,
    "OperationAborted": UnavailableError,
    # versitygw says so of every failed link of an object into its folder (posix.go, PutObject), also when
    # the folder was being removed with its last object: trying again succeeds then.
    "ExistingObjectIsDirectory": UnavailableError,
    "QuotaExceeded": UnavailableError,
    "XMinioServerNotInitialized": UnavailableError,
    "XMinioStorageFull": UnavailableError,
    "RequestTimeout": StorageTimeoutError,
    "ConditionalRequestConflict": PreconditionFailedError,
    "PreconditionFailed": PreconditionFailedError,
    "InvalidRange": RangeNotSatisfiableError,
    "InvalidURI": InvalidKeyError,
    "KeyTooLongError": InvalidKeyError,
    "XMinioInvalidObjectName": InvalidKeyError,
    "EntityTooLarge": LimitExceededError,
    "MetadataTooLarge": LimitExceededError,
    "MethodNotAllowed": UnsupportedOperationError,
    "NotImplemented": UnsupportedOperationError,
}
"""Error codes, of AWS and of the common compatible stores."""

STATUSES: Final[Mapping[int, type[StorageError]]] = {
    301: ConfigurationError,
    302: ConfigurationError,
    307: ConfigurationError,
    308: ConfigurationError,
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    404: ObjectNotFoundError,
    405: UnsupportedOperationError,
    408: StorageTimeoutError,
    412: PreconditionFailedError,
    413: LimitExceededError,
    416: RangeNotSatisfiableError,
    429: ThrottledError,
    501: UnsupportedOperationError,
}
"""What a status means where the code says nothing; any other 5xx is `UnavailableError`."""

NO_CODES: Final = (None, "", "403", "Forbidden", "404", "NotFound", "Not Found")
"""What the SDK makes of an answer without a text, to a HEAD for example."""

_HINTS: Final[Mapping[type[StorageError], str]] = {
    BucketNotFoundError: "the bucket does not exist; check its name and the endpoint, or create it",
    ObjectNotFoundError: "there is no such object",
    PermissionDeniedError: "access denied; check the policy of the bucket and of these credentials",
    UnauthenticatedError: "the store does not accept the credentials; check the keys, and the session "
    "token if there is one",
    ThrottledError: "the store asks for fewer requests",
    UnavailableError: "the store answered with a server error",
    StorageTimeoutError: "the store ran into a time limit",
    PreconditionFailedError: "the condition of the request does not hold; the object has changed, exists "
    "already or is gone",
    RangeNotSatisfiableError: "the range lies outside the object",
    UnsupportedOperationError: "the store does not support this",
    InvalidKeyError: "the store does not accept the key",
    LimitExceededError: "the store does not accept the size",
    ConfigurationError: "the bucket's region or address is another one than configured",
}
_CODE_HINTS: Final[Mapping[str, str]] = {
    "400": "the store refused and gave no reason, as it does to a wrong region; check region and endpoint",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ too much; correct the clock",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "XAdminUserNotFound": "the store does not know this access key id; check the keys and the endpoint",
    "InvalidAccessKeyId": "the store does not know this access key id; check the keys and the endpoint",
    "SignatureDoesNotMatch": "the secret access key is wrong (or a proxy changes the requests)",
    "ConditionalRequestConflict": "another request was changing the object; look at it again, then retry",
    "InvalidObjectState": "the object is archived and must be restored first",
    "InvalidBucketName": "this is no valid bucket name",
    "ExistingObjectIsDirectory": "the key is the folder of other objects there, or its folder was just being "
    "removed",
    "QuotaExceeded": "the quota of the bucket is used up",
    "XMinioStorageFull": "the store is full",
}

_SECRET_SHAPES: Final = (
    re.compile(r"(?i)\b(X-Amz-[\w-]+|AWSAccessKeyId|Signature|Credential)=[^&\s\"'<>,]+"),
    re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"),
    re.compile(r"(?i)://[^/\s@]+@"),
)
_MAX_SERVER_TEXT: Final = 200
_MAX_CAUSES: Final = 8
_MIN_SECRET: Final = 4
"""Shorter texts are no credentials, and replacing them everywhere would garble the message."""

_UNAUTHENTICATED: Final = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.NoAuthTokenError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.MetadataRetrievalError,
)
_TIMED_OUT: Final = (
    sdk.ConnectTimeoutError,
    sdk.ReadTimeoutError,
    http.TimeoutError,
    TimeoutError,
)
_MISCONFIGURED: Final = (
    sdk.ProfileNotFound,
    sdk.ConfigNotFound,
    sdk.ConfigParseError,
    sdk.InvalidRegionError,
    sdk.InvalidConfigError,
    sdk.ParamValidationError,
    sdk.EndpointProviderError,
)
_UNREACHABLE: Final = (
    sdk.ConnectionError,
    sdk.HTTPClientError,
    sdk.IncompleteReadError,
    http.HTTPError,
    OSError,
)

UNREADABLE: Final = (ValueError, LookupError, ArithmeticError)
"""What the SDK lets out when a number, a time or an encoding in an answer is none."""


def class_of(code: str, status: int | None) -> type[StorageError]:
    """Return the error class that a code and a status stand for; the code goes first."""
    known = CODES.get(code)
    if known is not None:
        return known
    if status is None:
        return StorageError
    known = STATUSES.get(status)
    if known is ObjectNotFoundError and code not in NO_CODES:
        return StorageError  # an upload, a policy, a user: something else was not found
    if known is not None:
        return known
    return UnavailableError if status >= 500 else StorageError  # noqa: PLR2004 - HTTP's server errors


def code_and_status(error: BaseException) -> tuple[str, int | None]:
    """Return a service error's code and HTTP status; ("", None) for any other error."""
    if not isinstance(error, sdk.ClientError):
        return "", None
    response = cast("dict[str, Any]", error.response)
    return (
        str(response.get("Error", {}).get("Code", "")),
        response.get("ResponseMetadata", {}).get("HTTPStatusCode"),
    )


def map_sdk_error(
    error: BaseException, action: str, *, key: str | None = None, secrets: tuple[str, ...] = ()
) -> StorageError:
    """Return the library's error for whatever the SDK raised; raise it ``from`` the original.

    Args:
        error: a botocore or urllib3 error, or an `OSError` from the socket.
        action: what could not be done, as "object 'a' of s3://b cannot be read".
        key: the object concerned.
        secrets: texts that must not appear in the message.
    """
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sdk.HTTPClientError) and isinstance(ours := error.kwargs.get("error"), NotSentError):
        return ours
    refused = _refused_address(error)
    if refused is not None:
        return AddressNotAllowedError(f"{action}: {refused.message}", key=key)
    _hide_in_causes(error, secrets)
    if isinstance(error, sdk.ClientError):
        return _map_answer(cast("dict[str, Any]", error.response), action, key, secrets)
    name = type(error).__name__
    make: Callable[..., StorageError]
    if isinstance(error, _UNAUTHENTICATED):
        make = UnauthenticatedError
        reason = "no usable credentials were found; give keys, or a profile or role that the SDK can use"
    elif isinstance(error, (sdk.FlexibleChecksumError, sdk.ChecksumError)):
        make, name = UnavailableError, "ChecksumMismatch"
        reason = "the bytes do not match the checksum that the store has for them"
    elif isinstance(error, (sdk.SSLError, http.SSLError)):
        make = UnavailableError
        reason = "TLS failed; if the store has its own authority, give its certificate (CA bundle)"
    elif isinstance(error, _TIMED_OUT) or _hides_timeout(error):
        make = StorageTimeoutError
        reason = "the store did not answer in time; check the endpoint and the network"
    elif isinstance(error, sdk.EndpointConnectionError):
        make, reason = UnavailableError, not_reached(error)
    elif isinstance(error, _UNREACHABLE):
        make, reason = UnavailableError, "the store cannot be reached or broke off; check the endpoint"
    elif isinstance(error, _MISCONFIGURED):
        make, reason = ConfigurationError, f"the SDK refuses the settings: {scrub(str(error), secrets)}"
    elif isinstance(error, UNREADABLE) or type(error).__module__.startswith("botocore.parsers"):
        make, reason = StorageError, "the answer is not one of an S3 store; check the endpoint"
    else:
        make, reason = StorageError, f"unexpected failure {name}"
    return make(f"{action}: {reason} ({name})", key=key, code=name)


def _refused_address(error: BaseException) -> AddressNotAllowedError | None:
    """Return our own refusal to connect: the SDK and its HTTP library take it for a fault of the network."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None or isinstance(cause, AddressNotAllowedError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def map_item_error(
    item: Mapping[str, Any], action: str, *, key: str, secrets: tuple[str, ...]
) -> StorageError:
    """Return the error of one key of a DeleteObjects answer."""
    return _map_answer({"Error": item, "ResponseMetadata": {}}, action, key, secrets)


def scrub(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return server text on one line, short, and without anything that looks secret."""
    clean = _hide(" ".join(text.split()), secrets)
    return clean if len(clean) <= _MAX_SERVER_TEXT else clean[:_MAX_SERVER_TEXT] + "…"


def _hide(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, "***")
    for shape in _SECRET_SHAPES:
        text = shape.sub("***", text)
    return text


def _hide_in_causes(error: BaseException, secrets: tuple[str, ...]) -> None:
    """Take what looks secret out of an error and its causes: whoever logs an error logs those."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if any(isinstance(arg, str) for arg in one.args):
            one.args = tuple(_hide(arg, secrets) if isinstance(arg, str) else arg for arg in one.args)
        if isinstance(one, sdk.ClientError):
            response = cast("dict[str, Any]", one.response)
            said: dict[str, Any] = response.get("Error", {})
            clean = {
                name: _hide(text, secrets) if isinstance(text, str) else text for name, text in said.items()
            }
            one.response = cast("Any", {**response, "Error": clean})
        pending += [one.__cause__, one.__context__]


def retry_after_seconds(headers: Mapping[str, str], now_seconds: float) -> float | None:
    """Return what a ``Retry-After`` header asks for, as a number of seconds or a date.

    Args:
        headers: of the answer, names in lower case.
        now_seconds: the current time since the epoch, for a date.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    if not text:
        return None
    date = _told_seconds(text)
    return None if date is None else max(0.0, date - now_seconds)


def _told_seconds(text: str) -> float | None:
    """Return a date of HTTP in seconds since the epoch; None if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _hides_timeout(error: BaseException) -> bool:
    """Tell a time limit that struck while sending, which the SDK reports as a lost connection."""
    inner = getattr(error, "kwargs", {}).get("error")
    return isinstance(inner, BaseException) and any(isinstance(arg, TimeoutError) for arg in inner.args)


def _map_answer(
    response: dict[str, Any], action: str, key: str | None, secrets: tuple[str, ...]
) -> StorageError:
    facts: dict[str, Any] = response.get("Error", {})
    meta: dict[str, Any] = response.get("ResponseMetadata", {})
    headers: dict[str, str] = meta.get("HTTPHeaders", {})
    code, status = scrub(str(facts.get("Code", "")), secrets), meta.get("HTTPStatusCode")
    kind = class_of(code, status)
    reason = _CODE_HINTS.get(code) or _HINTS.get(kind) or "the store refused"
    if kind is ConfigurationError and code not in _CODE_HINTS:
        region = headers.get("x-amz-bucket-region") or facts.get("Region")
        place = facts.get("Endpoint")
        if region:
            reason += f": region {scrub(str(region), secrets)}"
        elif place:
            reason += f": endpoint {scrub(str(place), secrets)}"
    said = scrub(str(facts.get("Message") or ""), secrets)
    detail = ", ".join(
        part
        for part in (code if not code.isdigit() else "", f"HTTP {status}" if status else "", said)
        if part
    )
    text = f"{action}: {reason}" + (f" ({detail})" if detail else "")
    if kind is ThrottledError:
        return ThrottledError(
            text,
            key=key,
            status=status,
            code=code or None,
            retry_after_seconds=retry_after_seconds(headers, _told_seconds(headers.get("date", "")) or 0.0),
        )
    return kind(text, key=key, status=status, code=code or None)
