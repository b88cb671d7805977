"""The table from S3 codes, statuses and SDK errors to our classes; no secret gets through it."""

from __future__ import annotations

import io

import pytest
from botocore import exceptions as sdk
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from urllib3 import exceptions as http

from bubu_storage import errors
from bubu_storage.backend.s3_body import S3Body
from bubu_storage.backend.s3_errors import (
    CODES,
    STATUSES,
    class_of,
    map_item_error,
    map_sdk_error,
    retry_after_seconds,
    scrub,
)

BY_CODE = {
    "NoSuchBucket": (404, errors.BucketNotFoundError),
    "NoSuchKey": (404, errors.ObjectNotFoundError),
    "NoSuchVersion": (404, errors.ObjectNotFoundError),
    "AccessDenied": (403, errors.PermissionDeniedError),
    "AccountProblem": (403, errors.PermissionDeniedError),
    "AllAccessDisabled": (403, errors.PermissionDeniedError),
    "InvalidObjectState": (403, errors.PermissionDeniedError),
    "KMS.DisabledException": (400, errors.PermissionDeniedError),
    "CredentialsNotSupported": (400, errors.UnauthenticatedError),
    "ExpiredToken": (400, errors.UnauthenticatedError),
    "ExpiredTokenException": (400, errors.UnauthenticatedError),
    "InvalidAccessKeyId": (403, errors.UnauthenticatedError),
    "InvalidSecurity": (403, errors.UnauthenticatedError),
    "InvalidToken": (400, errors.UnauthenticatedError),
    "MissingSecurityHeader": (400, errors.UnauthenticatedError),
    "NotSignedUp": (403, errors.UnauthenticatedError),
    "RequestTimeTooSkewed": (403, errors.UnauthenticatedError),
    "SignatureDoesNotMatch": (403, errors.UnauthenticatedError),
    "TokenRefreshRequired": (400, errors.UnauthenticatedError),
    "UnrecognizedClientException": (400, errors.UnauthenticatedError),
    "XAdminUserNotFound": (404, errors.UnauthenticatedError),
    "AuthorizationHeaderMalformed": (400, errors.ConfigurationError),
    "IllegalLocationConstraintException": (400, errors.ConfigurationError),
    "InvalidBucketName": (400, errors.ConfigurationError),
    "PermanentRedirect": (301, errors.ConfigurationError),
    "Redirect": (307, errors.ConfigurationError),
    "TemporaryRedirect": (307, errors.ConfigurationError),
    "BandwidthLimitExceeded": (503, errors.ThrottledError),
    "RequestLimitExceeded": (503, errors.ThrottledError),
    "ServiceUnavailable": (503, errors.ThrottledError),
    "SlowDown": (503, errors.ThrottledError),
    "SlowDownRead": (503, errors.ThrottledError),
    "SlowDownWrite": (503, errors.ThrottledError),
    "Throttling": (400, errors.ThrottledError),
    "ThrottlingException": (400, errors.ThrottledError),
    "TooManyRequests": (429, errors.ThrottledError),
    "TooManyRequestsException": (429, errors.ThrottledError),
    "InternalError": (500, errors.UnavailableError),
    "InternalServerError": (500, errors.UnavailableError),
    "OperationAborted": (409, errors.UnavailableError),
    "ExistingObjectIsDirectory": (409, errors.UnavailableError),
    "QuotaExceeded": (403, errors.UnavailableError),
    "XMinioServerNotInitialized": (503, errors.UnavailableError),
    "XMinioStorageFull": (507, errors.UnavailableError),
    "RequestTimeout": (400, errors.StorageTimeoutError),
    "ConditionalRequestConflict": (409, errors.PreconditionFailedError),
    "PreconditionFailed": (412, errors.PreconditionFailedError),
    "InvalidRange": (416, errors.RangeNotSatisfiableError),
    "InvalidURI": (400, errors.InvalidKeyError),
    "KeyTooLongError": (400, errors.InvalidKeyError),
    "XMinioInvalidObjectName": (400, errors.InvalidKeyError),
    "EntityTooLarge": (400, errors.LimitExceededError),
    "MetadataTooLarge": (400, errors.LimitExceededError),
    "MethodNotAllowed": (405, errors.UnsupportedOperationError),
    "NotImplemented": (501, errors.UnsupportedOperationError),
}
BY_STATUS = {
    301: errors.ConfigurationError,
    302: errors.ConfigurationError,
    307: errors.ConfigurationError,
    308: errors.ConfigurationError,
    400: errors.StorageError,
    401: errors.UnauthenticatedError,
    403: errors.PermissionDeniedError,
    404: errors.ObjectNotFoundError,
    405: errors.UnsupportedOperationError,
    408: errors.StorageTimeoutError,
    409: errors.StorageError,
    412: errors.PreconditionFailedError,
    413: errors.LimitExceededError,
    416: errors.RangeNotSatisfiableError,
    418: errors.StorageError,
    429: errors.ThrottledError,
    500: errors.UnavailableError,
    501: errors.UnsupportedOperationError,
    502: errors.UnavailableError,
    503: errors.UnavailableError,
    504: errors.UnavailableError,
    507: errors.UnavailableError,
}
URL = "https://s3.example.com/b/k"
BY_SDK_ERROR = [
    (sdk.NoCredentialsError(), errors.UnauthenticatedError),
    (sdk.PartialCredentialsError(provider="env", cred_var="X"), errors.UnauthenticatedError),
    (sdk.CredentialRetrievalError(provider="p", error_msg="m"), errors.UnauthenticatedError),
    (sdk.TokenRetrievalError(provider="p", error_msg="m"), errors.UnauthenticatedError),
    (sdk.SSOTokenLoadError(error_msg="m"), errors.UnauthenticatedError),
    (sdk.MetadataRetrievalError(error_msg="m"), errors.UnauthenticatedError),
    (sdk.ConnectTimeoutError(endpoint_url=URL), errors.StorageTimeoutError),
    (sdk.ReadTimeoutError(endpoint_url=URL), errors.StorageTimeoutError),
    (http.ReadTimeoutError(None, None, "m"), errors.StorageTimeoutError),
    (TimeoutError(), errors.StorageTimeoutError),
    (sdk.EndpointConnectionError(endpoint_url=URL), errors.UnavailableError),
    (sdk.ConnectionClosedError(endpoint_url=URL), errors.UnavailableError),
    (sdk.ProxyConnectionError(proxy_url="http://p"), errors.UnavailableError),
    (sdk.SSLError(endpoint_url=URL, error="m"), errors.UnavailableError),
    (sdk.HTTPClientError(error="m"), errors.UnavailableError),
    (sdk.ResponseStreamingError(error="m"), errors.UnavailableError),
    (sdk.IncompleteReadError(actual_bytes=1, expected_bytes=2), errors.UnavailableError),
    (sdk.FlexibleChecksumError(error_msg="m"), errors.UnavailableError),
    (http.ProtocolError("m"), errors.UnavailableError),
    (http.SSLError("m"), errors.UnavailableError),
    (ConnectionResetError(), errors.UnavailableError),
    (sdk.ProfileNotFound(profile="p"), errors.ConfigurationError),
    (sdk.InvalidRegionError(region_name="a b"), errors.ConfigurationError),
    (sdk.ParamValidationError(report="m"), errors.ConfigurationError),
    (ResponseParserError("m"), errors.StorageError),
    (sdk.BotoCoreError(), errors.StorageError),
    (RuntimeError("m"), errors.StorageError),
]


def client_error(code: str, status: int, message: str = "m", **headers: str) -> ClientError:
    """Return the SDK's error for an answer."""
    meta = {
        "HTTPStatusCode": status,
        "HTTPHeaders": {name.replace("_", "-"): value for name, value in headers.items()},
    }
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": meta}, "Operation")


@pytest.mark.parametrize(("code", "status", "expected"), [(code, *rest) for code, rest in BY_CODE.items()])
def test_table_of_codes(code: str, status: int, expected: type[errors.StorageError]) -> None:
    """Each code has its class, whatever the status; code, status, key and action are kept."""
    mapped = map_sdk_error(client_error(code, status), "object 'k' cannot be read", key="k")
    assert expected is type(mapped) is class_of(code, None)
    assert (code, status, "k") == (mapped.code, mapped.status, mapped.key)
    assert str(mapped).startswith("object 'k' cannot be read: ")
    assert code in str(mapped)


def test_table_of_codes_is_complete() -> None:
    """Who adds a code adds its test."""
    assert BY_CODE.keys() == CODES.keys()
    assert STATUSES.keys() <= BY_STATUS.keys()


@pytest.mark.parametrize(("status", "expected"), BY_STATUS.items())
@pytest.mark.parametrize("code", ["", "Unheard", "STATUS"])
def test_table_of_statuses(status: int, expected: type[errors.StorageError], code: str) -> None:
    """An unknown or missing code is judged by the status and kept."""
    code = str(status) if code == "STATUS" else code
    mapped = map_sdk_error(client_error(code, status), "x")
    if (code, status) == ("Unheard", 404):
        # An upload, a policy, a user: whatever it was that was not found, it was no object.
        expected = errors.StorageError
    assert expected is type(mapped)
    assert (code or None, status) == (mapped.code, mapped.status)
    assert errors.is_not_found(mapped) is (expected is errors.ObjectNotFoundError)


@pytest.mark.parametrize(
    ("error", "expected"), BY_SDK_ERROR, ids=lambda value: type(value).__name__ if value else None
)
def test_table_of_sdk_errors(error: BaseException, expected: type[errors.StorageError]) -> None:
    """Errors that are no answers have their class too."""
    mapped = map_sdk_error(error, "s3://b cannot be listed")
    assert expected is type(mapped)
    assert mapped.code
    assert str(mapped).startswith("s3://b cannot be listed: ")


def test_our_own_errors_pass() -> None:
    """An error that is ours already is not wrapped."""
    own = errors.LimitExceededError("x")
    assert own is map_sdk_error(own, "y")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (client_error("PermanentRedirect", 301, x_amz_bucket_region="eu-west-3"), "region eu-west-3"),
        (client_error("RequestTimeTooSkewed", 403), "clock"),
        (client_error("SignatureDoesNotMatch", 403), "secret access key is wrong"),
        (client_error("InvalidAccessKeyId", 403), "does not know this access key id"),
        (client_error("ExpiredToken", 400), "expired"),
        (client_error("NoSuchBucket", 404), "check its name"),
        (sdk.SSLError(endpoint_url=URL, error="m"), "CA bundle"),
        (sdk.NoCredentialsError(), "no usable credentials"),
        (sdk.ConnectTimeoutError(endpoint_url=URL), "did not answer in time"),
    ],
)
def test_messages_show_the_way_out(error: BaseException, words: str) -> None:
    """What can be done about it is part of the message."""
    assert words in str(map_sdk_error(error, "x"))


def test_region_in_the_body_is_named() -> None:
    """AuthorizationHeaderMalformed tells the region in its body."""
    error = ClientError(
        {
            "Error": {"Code": "AuthorizationHeaderMalformed", "Message": "m", "Region": "eu-north-1"},
            "ResponseMetadata": {"HTTPStatusCode": 400},
        },
        "GetObject",
    )
    assert "region eu-north-1" in str(map_sdk_error(error, "x"))


def test_throttling_tells_when_to_come_back() -> None:
    """Retry-After, as seconds or as a date, is passed on; nonsense is not."""
    for text, expected in (
        ("7", 7.0),
        ("1.5", 1.5),
        ("Sat, 21 Nov 2026 06:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 05:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ):
        error = client_error("SlowDown", 503, retry_after=text, date="Sat, 21 Nov 2026 06:00:00 GMT")
        mapped = map_sdk_error(error, "x")
        assert isinstance(mapped, errors.ThrottledError)
        assert expected == mapped.retry_after_seconds, text
    assert None is retry_after_seconds({}, 0.0)


def test_item_of_a_batch() -> None:
    """An entry of a DeleteObjects answer is judged like an answer."""
    mapped = map_item_error({"Code": "AccessDenied", "Message": "no"}, "x", key="k", secrets=())
    assert (errors.PermissionDeniedError, "k", "AccessDenied") == (type(mapped), mapped.key, mapped.code)


SECRETS = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "FwoGZXIvYXdzEBYaDMtOKEN==")


@pytest.mark.parametrize(
    "text",
    [
        f"The key {SECRETS[0]} is not known, nor {SECRETS[1]} nor {SECRETS[2]}",
        "https://h/b/k?X-Amz-Credential=AKIAPLANTEDPLANTED/20260101&X-Amz-Signature=deadbeef&x=1",
        "https://h/b/k?AWSAccessKeyId=planted&Signature=deadbeef%3D",
        "no key like ASIAPLANTEDPLANTED1",
        "http://user:planted-pass@proxy:3128",
        "Credential=planted, SignedHeaders=host, Signature=deadbeef",
    ],
)
def test_secrets_are_scrubbed(text: str) -> None:
    """Neither given credentials nor anything of the shape of a signature survives."""
    clean = scrub(text, SECRETS)
    for planted in (*SECRETS, "PLANTED", "planted", "deadbeef"):
        assert planted not in clean
    mapped = map_sdk_error(client_error("Weird", 400, message=text), "x", secrets=SECRETS)
    for planted in (*SECRETS, "PLANTED", "planted", "deadbeef"):
        assert planted not in str(mapped)


def test_server_text_is_short_and_on_one_line() -> None:
    """A page of HTML does not become an error message."""
    clean = scrub("a\nb\t c" + "x" * 1000)
    assert clean.startswith("a b c")
    assert len(clean) < 250


class _Stream(io.BytesIO):
    """A body that fails after its content."""

    def __init__(self, content: bytes, failure: Exception) -> None:
        super().__init__(content)
        self.failure = failure

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise self.failure
        return data


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (sdk.ReadTimeoutError(endpoint_url=URL), errors.StorageTimeoutError),
        (sdk.ResponseStreamingError(error="m"), errors.UnavailableError),
        (http.ProtocolError("m"), errors.UnavailableError),
        (ConnectionResetError(), errors.UnavailableError),
        (sdk.FlexibleChecksumError(error_msg="m"), errors.UnavailableError),
    ],
)
def test_errors_while_reading_are_mapped(failure: Exception, expected: type[errors.StorageError]) -> None:
    """A body that breaks raises our errors, with the SDK's as the cause."""
    body = S3Body(_Stream(b"abc", failure), size_bytes=5, key="k", store="s3://b", timeout_seconds=9)
    with body, pytest.raises(expected, match="to its end") as caught:
        body.read()
    assert failure is caught.value.__cause__


def test_a_dripping_body_runs_out_of_time() -> None:
    """Time spent waiting for bytes adds up; time the reader takes for itself does not."""
    now = [0.0]

    class Drip(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            now[0] += 4
            return super().read(1)

    body = S3Body(
        Drip(b"abcdef"), size_bytes=6, key="k", store="s3://b", timeout_seconds=10, monotonic=lambda: now[0]
    )
    with body:
        assert b"a" == body.read(1)
        now[0] += 1000
        assert b"b" == body.read(1)
        with pytest.raises(errors.StorageTimeoutError, match="10 s"):
            body.read()


@pytest.mark.parametrize(
    ("url", "inner", "expected"),
    [
        (
            "http://minio.flows.svc:9000/b/k?X-Amz-Signature=planted",
            http.NameResolutionError("minio.flows.svc", None, OSError()),
            "at http://minio.flows.svc:9000: its name cannot be resolved",
        ),
        ("http://planted:word@[::1]/b", http.NewConnectionError(None, "m"), "at http://[::1]: no connection"),
        ("http://host:planted/b", None, "cannot be reached: no connection"),
    ],
)
def test_nobody_there_says_where_and_why(url: str, inner: Exception | None, expected: str) -> None:
    """The address is the caller's own setting; the rest of the request's URL is nobody's to read."""
    mapped = map_sdk_error(
        sdk.EndpointConnectionError(endpoint_url=url, error=inner), "s3://b cannot be listed"
    )
    assert type(mapped) is errors.UnavailableError
    assert expected in str(mapped)
    assert "planted" not in str(mapped)


def test_a_refusal_without_a_reason_names_the_region() -> None:
    """HEAD has no body, so a server that expects another region can say no more than 400."""
    mapped = map_sdk_error(client_error("400", 400, "Bad Request"), "object 'k' cannot be looked up", key="k")
    assert type(mapped) is errors.StorageError
    assert "check region and endpoint (HTTP 400, Bad Request)" in str(mapped)
