"""Building the client of a bucket: settings, credentials, addressing, certificates, retries."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_client import CaBundle, RetryRule, check_settings
from bubu_storage.errors import ConfigurationError, StorageTimeoutError, UnauthenticatedError
from bubu_storage.settings import S3Settings
from tests.unit.backend.scripted_server import Answer, error, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.backend.scripted_server import Request, ScriptedServer

KEYS = {"access_key_id": "AKIDPLANTED", "secret_access_key": "planted-secret"}
EMPTY_LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


@pytest.fixture(autouse=True)
def no_ambient_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own AWS configuration does not steer these tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def listing(_: Request) -> Answer:
    """Answer everything with an empty listing."""
    return Answer(body=EMPTY_LISTING)


# ---- settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bucket": ""}, "bucket is empty"),
        ({"access_key_id": "planted-a"}, "go together"),
        ({"secret_access_key": "planted-s"}, "go together"),
        ({"session_token": "planted-t"}, "session token needs"),
        ({"anonymous": True, **KEYS}, "exclude each other"),
        ({"endpoint": "minio:9000"}, "http://host"),
        ({"endpoint": "ftp://minio"}, "http://host"),
        ({"endpoint": "https://"}, "http://host"),
        ({"endpoint": "https://h:99999"}, "not a readable URL"),
        ({"endpoint": "https://user:planted-pw@h"}, "user name or password"),
        ({"endpoint": "https://h/?a=b"}, "query"),
        ({"part_size_bytes": 5 * 1024 * 1024 - 1}, "part size"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_attempts": 0}, "max attempts"),
        ({"timeout_seconds": 0.0}, "timeouts"),
        ({"connect_timeout_seconds": -1.0}, "timeouts"),
        ({"max_backoff_seconds": -0.1}, "backoff"),
        ({"response_timeout_seconds": 0.0}, "response timeout"),
        ({"max_connections": 0}, "max connections"),
        ({"sse": "rot13"}, "sse"),
        ({"sse": "AES256", "sse_kms_key_id": "k"}, "KMS"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], words: str) -> None:
    """The fault is named before anything is contacted, without a secret."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        S3Backend(S3Settings(**{"bucket": "b", **changes}))
    assert "planted" not in str(caught.value)


def test_all_faults_are_named_at_once() -> None:
    """Who repairs settings wants to hear everything."""
    with pytest.raises(ConfigurationError) as caught:
        check_settings(S3Settings(bucket="", concurrency=0, sse="x", endpoint="x"))
    for words in ("bucket is empty", "concurrency", "sse", "endpoint"):
        assert words in str(caught.value)


def test_a_bucket_name_that_the_sdk_refuses(open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """It is a fault of the settings, said at the first use."""
    backend = open_s3(S3Settings(bucket="not a bucket", **KEYS))
    with pytest.raises(ConfigurationError, match="not a bucket"):
        backend.head_object("k")


def test_broken_profile_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AWS_PROFILE that does not exist is said as such."""
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(ConfigurationError, match="nowhere"):
        S3Backend(S3Settings(bucket="b"))


def test_secrets_are_in_no_repr() -> None:
    """Neither settings nor backend show credentials when printed."""
    settings = S3Settings(bucket="b", endpoint="http://h", session_token="planted-token", **KEYS)
    backend = S3Backend(settings)
    try:
        for text in (repr(settings), str(settings), repr(backend), backend.name):
            assert "planted" not in text.lower()
    finally:
        backend.close()


# ---- credentials and addressing


def test_static_credentials_sign(open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """Keys and session token sign the request; the region goes into the signature."""
    with scripted_server(listing) as server:
        settings = S3Settings(
            bucket="b",
            endpoint=server.endpoint,
            region="eu-north-1",
            session_token="the-token",
            use_path_style=True,
            **KEYS,
        )
        list(open_s3(settings).list_objects())
    (request,) = server.requests
    assert "/b" == request.path
    assert "Credential=AKIDPLANTED/" in request.headers["authorization"]
    assert "/eu-north-1/s3/aws4_request" in request.headers["authorization"]
    assert "the-token" == request.headers["x-amz-security-token"]
    assert "bubu-storage/" in request.headers["user-agent"]


def test_region_falls_back(
    open_s3: Callable[[S3Settings], S3Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a region: the SDK's own, else us-east-1."""
    with scripted_server(listing) as server:
        settings = S3Settings(bucket="b", endpoint=server.endpoint, use_path_style=True, **KEYS)
        list(open_s3(settings).list_objects())
        monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-2")
        list(open_s3(settings).list_objects())
    assert "/us-east-1/s3/" in server.requests[0].headers["authorization"]
    assert "/ap-south-2/s3/" in server.requests[1].headers["authorization"]


def test_anonymous_does_not_sign(
    open_s3: Callable[[S3Settings], S3Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anonymous means unsigned, also where the environment has credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    with scripted_server(listing) as server:
        settings = S3Settings(bucket="b", endpoint=server.endpoint, use_path_style=True, anonymous=True)
        list(open_s3(settings).list_objects())
    assert "authorization" not in server.requests[0].headers


def test_the_chain_of_the_sdk(
    open_s3: Callable[[S3Settings], S3Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With neither keys nor anonymous, the SDK finds credentials; none at all is said."""
    with scripted_server(listing) as server:
        settings = S3Settings(bucket="b", endpoint=server.endpoint, use_path_style=True)
        with pytest.raises(UnauthenticatedError, match="no usable credentials"):
            list(open_s3(settings).list_objects())
        assert [] == server.requests
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        list(open_s3(settings).list_objects())
    assert "Credential=FROMENV/" in server.requests[0].headers["authorization"]


def test_credentials_of_the_environment_are_scrubbed_too(
    open_s3: Callable[[S3Settings], S3Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that echoes credentials which the SDK found does not get them into a message."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    with scripted_server(lambda _: error(400, "Odd", "got planted-id and planted-secret")) as server:
        backend = open_s3(S3Settings(bucket="b", endpoint=server.endpoint, use_path_style=True))
        with pytest.raises(Exception, match=r"got \*\*\* and \*\*\*") as caught:
            backend.put_object("k", b"x")
    assert "planted" not in str(caught.value)


# ---- certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "cert.pem", directory / "key.pem"


def test_own_certificate_authority(
    open_s3: Callable[[S3Settings], S3Backend], certificate: tuple[Path, Path]
) -> None:
    """A store behind its own CA is trusted with the CA's PEM text, and only with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with scripted_server(listing, tls=context) as server:
        plain = S3Settings(bucket="b", endpoint=server.endpoint, use_path_style=True, max_attempts=1, **KEYS)
        with pytest.raises(Exception, match=r"TLS failed.*CA bundle"):
            list(open_s3(plain).list_objects())
        trusted = S3Settings(
            bucket="b",
            endpoint=server.endpoint,
            use_path_style=True,
            ca_bundle_pem=certificate[0].read_text(),
            **KEYS,
        )
        assert [] == list(open_s3(trusted).list_objects())


def test_a_body_over_https_is_not_signed(
    open_s3: Callable[[S3Settings], S3Backend], certificate: tuple[Path, Path]
) -> None:
    """TLS protects it already (resilience case 22)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with scripted_server(lambda _: Answer(headers={"ETag": '"e"'}), tls=context) as server:
        settings = S3Settings(
            bucket="b",
            endpoint=server.endpoint,
            use_path_style=True,
            ca_bundle_pem=certificate[0].read_text(),
            **KEYS,
        )
        open_s3(settings).put_object("k", b"abc")
    assert "UNSIGNED-PAYLOAD" == server.requests[0].headers["x-amz-content-sha256"]


def test_ca_file_lives_as_long_as_the_bundle(certificate: tuple[Path, Path]) -> None:
    """It holds the usual authorities and ours, readable by us alone, and goes with close."""
    pem = certificate[0].read_text()
    bundle = CaBundle(pem)
    path = Path(bundle.path)
    assert pem.strip() in path.read_text()
    assert path.read_text().count("BEGIN CERTIFICATE") > 50
    assert 0o600 == path.stat().st_mode & 0o777
    bundle.close()
    bundle.close()
    assert not path.exists()


def test_ca_file_goes_with_the_process(certificate: tuple[Path, Path]) -> None:
    """Also when nobody closes; a forked child that ends before does not take it along."""
    code = """
import os, sys
from bubu_storage.backend.s3_client import CaBundle
bundle = CaBundle(open(sys.argv[1]).read())
if (child := os.fork()) == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(bundle.path, os.path.exists(bundle.path))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(certificate[0])], check=True, capture_output=True, text=True
    )
    path, existed = done.stdout.split()
    assert "True" == existed
    assert not Path(path).exists()


@pytest.mark.parametrize(
    "pem", ["no certificate", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"]
)
def test_ca_bundle_without_certificate_is_refused(pem: str) -> None:
    """A Secret with the wrong key in it is noticed at once."""
    with pytest.raises(ConfigurationError, match="no readable certificate"):
        S3Backend(S3Settings(bucket="b", ca_bundle_pem=pem, **KEYS))


# ---- retries


def answer(code: str, status: int) -> ClientError:
    """Return the SDK's error for an answer."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


TRANSIENT = [answer("SlowDown", 503), answer("", 500), ReadTimeoutError(endpoint_url="http://h")]
FINAL = [answer("NoSuchKey", 404), answer("AccessDenied", 403), answer("InvalidRange", 416)]


def test_only_what_may_pass_is_tried_again() -> None:
    """Transient errors are, up to the number of tries in all; refusals and success are not."""
    rule = RetryRule(3, 10.0, rng=lambda: 0.5)
    for failure in TRANSIENT:
        assert [0.2, 0.4, None] == [rule.pause_seconds(attempt, failure, {}) for attempt in (1, 2, 3)]
    for failure in (*FINAL, None):
        assert None is rule.pause_seconds(1, failure, {})


def test_pauses_stay_within_their_limit() -> None:
    """They double, with full jitter, below the longest pause, whatever the store asks for."""
    highest = RetryRule(50, 10.0, rng=lambda: 1.0)
    pauses = [highest.pause_seconds(attempt, TRANSIENT[0], {}) for attempt in range(1, 40)]
    assert [0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0] == pauses[:7]
    assert 10.0 == max(pauses)
    lowest = RetryRule(50, 10.0, rng=lambda: 0.0)
    assert 0.0 == lowest.pause_seconds(5, TRANSIENT[0], {})
    assert 3.0 == lowest.pause_seconds(1, TRANSIENT[0], {"retry-after": "3"})
    assert 10.0 == lowest.pause_seconds(1, TRANSIENT[0], {"retry-after": "600"})


@pytest.mark.parametrize("max_attempts", [1, 2, 4])
def test_attempts_in_all(open_s3: Callable[[S3Settings], S3Backend], max_attempts: int) -> None:
    """The number counts the first try too, for throttling as for server errors."""
    with scripted_server(
        lambda request: error(503 if request.method == "PUT" else 500, "SlowDown")
    ) as server:
        settings = S3Settings(
            bucket="b",
            endpoint=server.endpoint,
            use_path_style=True,
            max_attempts=max_attempts,
            max_backoff_seconds=0.01,
            **KEYS,
        )
        backend = open_s3(settings)
        for act in (lambda: backend.put_object("k", b"x"), lambda: backend.get_object("k")):
            server.requests.clear()
            with pytest.raises(Exception, match="fewer requests"):
                act()
            assert max_attempts == len(server.requests)


# ---- connections


@pytest.mark.parametrize("use", ["read", "close", "drop"])
def test_bodies_give_their_connection_back(open_s3: Callable[[S3Settings], S3Backend], use: str) -> None:
    """Read, closed early or dropped: with 2 connections, 20 objects are opened after each other."""
    with scripted_server(lambda _: Answer(body=b"x" * 100_000, headers={"ETag": '"e"'})) as server:
        settings = S3Settings(
            bucket="b",
            endpoint=server.endpoint,
            use_path_style=True,
            max_connections=2,
            timeout_seconds=20.0,
            **KEYS,
        )
        backend = open_s3(settings)
        for _ in range(20):
            found = backend.get_object("k")
            if use == "read":
                found.read()
            elif use == "close":
                found.read(10)
                found.close()
            del found
            backend.head_object("k")


def test_a_request_without_a_connection_waits(
    open_s3: Callable[[S3Settings], S3Backend], caplog: pytest.LogCaptureFixture
) -> None:
    """At most as long as for an answer; then the log says what to do."""

    def check(server: ScriptedServer, seconds: float) -> None:
        settings = S3Settings(
            bucket="b", endpoint=server.endpoint, use_path_style=True, max_connections=1, max_attempts=1,
            response_timeout_seconds=seconds, **KEYS,
        )  # fmt: skip
        backend = open_s3(settings)
        with backend.get_object("k") as found:
            with pytest.raises(StorageTimeoutError):
                backend.head_object("other")
            assert "raise max_connections" in caplog.text
            assert 1_000_000 == len(found.read())
        backend.head_object("other")

    with scripted_server(lambda _: Answer(body=b"x" * 1_000_000, headers={"ETag": '"e"'})) as server:
        try:
            check(server, 0.2)
        except StorageTimeoutError:  # a machine that stalls takes longer for an answer that is given at once
            check(server, 10.0)
