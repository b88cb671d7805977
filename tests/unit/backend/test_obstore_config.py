"""Which engine serves which settings, and what obstore is told."""

from __future__ import annotations

import os
import ssl
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_obstore import ObstoreBackend
from bubu_storage.backend.s3_obstore_config import options_for, why_not
from bubu_storage.backend.s3_obstore_forms import attributes_of, range_options
from bubu_storage.backend.s3_obstore_gate import Gate
from bubu_storage.errors import ConfigurationError, StorageError
from bubu_storage.settings import S3Settings
from tests.unit.backend.scripted_server import Answer, scripted_server

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = S3Settings(bucket="flows", endpoint="http://127.0.0.1:1", use_path_style=True, anonymous=True)
AWS = S3Settings(bucket="flows", region="eu-central-1", anonymous=True)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests has a say."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy") or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)


def engine_of(settings: S3Settings) -> type:
    """Return the class of the backend that the factory makes."""
    with closing(open_backend(settings)) as backend:  # type: ignore[type-var]
        return type(backend)


def test_engines() -> None:
    """Each engine by its name; by default the fast one."""
    assert ObstoreBackend is engine_of(PLAIN)
    assert ObstoreBackend is engine_of(replace(PLAIN, engine="obstore"))
    assert S3Backend is engine_of(replace(PLAIN, engine="boto3"))
    with pytest.raises(ConfigurationError, match="'rclone'; it must be one of auto, boto3, obstore"):
        open_backend(replace(PLAIN, engine="rclone"))


def test_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without obstore the default is boto3, and who insists is told what to install."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "bubu_storage.backend.s3_obstore")
    assert S3Backend is engine_of(PLAIN)
    with pytest.raises(ConfigurationError, match=r"pip install 'bubu-storage\[fast\]'"):
        open_backend(replace(PLAIN, engine="obstore"))


@pytest.mark.parametrize(
    ("changes", "env", "reason"),
    [
        ({"bucket": "with.dots"}, {}, "bucket's name"),
        ({"bucket": "Upper"}, {}, "bucket's name"),
        ({"bucket": "arn:aws:s3:eu-west-1:1:accesspoint/a"}, {}, "bucket's name"),
        ({"bucket": "flows--euw1-az1--x-s3"}, {}, "bucket's name"),
        ({}, {"AWS_SERVER_SIDE_ENCRYPTION": "AES256"}, "AWS_SERVER_SIDE_ENCRYPTION"),
        ({}, {"AWS_SSE_CUSTOMER_KEY_BASE64": "planted"}, "AWS_SSE_CUSTOMER_KEY_BASE64"),
        ({}, {"AWS_CHECKSUM_ALGORITHM": "crc64nvme"}, "AWS_CHECKSUM_ALGORITHM"),
        ({}, {"AWS_PROXY_URL": "http://proxy:1"}, "AWS_PROXY_URL"),
        ({}, {"http_proxy": "http://proxy:1"}, "proxy"),
        ({"endpoint": "https://s3.example"}, {"AWS_CA_BUNDLE": "/ca.pem"}, "AWS_CA_BUNDLE"),
        ({"endpoint": "https://s3.example"}, {"HTTPS_PROXY": "http://proxy:1"}, "proxy"),
        ({"endpoint": ""}, {"https_proxy": "http://proxy:1"}, "proxy"),
    ],
)
def test_what_obstore_cannot_do(
    changes: dict[str, Any], env: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the reference engine serves it; who insists on obstore is told why not."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = replace(PLAIN, **changes)
    if not settings.bucket.startswith("arn:"):
        assert S3Backend is engine_of(settings)
    with pytest.raises(ConfigurationError, match=f"flows|obstore.*{reason}") as caught:
        open_backend(replace(settings, engine="obstore"))
    assert reason in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_proxy_for_others_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment excepts from its proxy is asked directly by both engines."""
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert why_not(PLAIN, {}) == ""


def test_faults_of_settings_come_first() -> None:
    """Settings that no engine accepts are refused with all their faults, by every engine."""
    for engine in ("auto", "boto3", "obstore"):
        with pytest.raises(ConfigurationError, match=r"bucket is empty.*concurrency is 0"):
            open_backend(replace(PLAIN, bucket="", concurrency=0, engine=engine))


@pytest.mark.parametrize(
    ("changes", "base_url", "endpoint", "virtual"),
    [
        ({}, "http://127.0.0.1:1", "http://127.0.0.1:1", False),
        ({"use_path_style": False}, "http://[::1]:9", "http://[::1]:9", False),
        ({"use_path_style": False}, "https://s3.example:9/", "https://s3.example:9", False),
        ({"use_path_style": True}, "https://s3.example/base", "https://s3.example/base", False),
        (
            {"use_path_style": False, "endpoint": ""},
            "https://s3.eu-west-3.amazonaws.com",
            "https://flows.s3.eu-west-3.amazonaws.com",
            True,
        ),
    ],
)
def test_addressing(changes: dict[str, Any], base_url: str, endpoint: str, virtual: bool) -> None:
    """Bucket in the host or in the path, as the reference engine does it."""
    options = options_for(replace(PLAIN, **changes), base_url=base_url, region="r")
    assert endpoint == options.config["endpoint"]
    assert virtual is options.config["virtual_hosted_style_request"]


@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        replace(PLAIN, use_path_style=False),
        replace(PLAIN, endpoint="http://s3.example:9", use_path_style=False),
        replace(PLAIN, endpoint="http://s3.example/base", use_path_style=False),
        AWS,
        replace(AWS, use_path_style=True),
        replace(AWS, region=""),
        replace(AWS, region="cn-north-1"),
    ],
    ids=lambda settings: f"{settings.endpoint or settings.region}-{settings.use_path_style}",
)
def test_same_address_as_the_sdk(settings: S3Settings) -> None:
    """The URL of an object is the same for both engines, on AWS and elsewhere."""
    with closing(ObstoreBackend(settings)) as backend:
        seen: list[str] = []

        def stop(request: Any, **_: Any) -> None:
            seen.append(request.url)
            raise OSError("not sent")

        client: Any = backend._session.client
        client.meta.events.register_first("before-send.s3", stop)
        with pytest.raises(StorageError):
            S3Backend.get_object(backend, "k")
        config = backend._store.config
        path = "" if config["virtual_hosted_style_request"] == "true" else f"/{settings.bucket}"
        assert seen[0] == f"{config['endpoint']}{path}/k"


def test_metadata_that_obstore_would_misread() -> None:
    """Names that it takes for headers of HTTP, and texts that a header cannot carry, go elsewhere."""
    assert {"Content-Type": "a/b", "run": "r 1"} == attributes_of("a/b", {"run": "r 1"})
    assert {} == attributes_of("", None)
    for metadata in ({"Cache-Control": "x"}, {"content-type": "x"}, {"a": "é"}, {"a": "x\ny"}, {"é": "x"}):
        assert attributes_of("a/b", metadata) is None
    assert attributes_of("a/b\n", None) is None


def test_ranges() -> None:
    """One plain range has a form; everything else goes to the reference engine."""
    assert {} == range_options("")
    assert {"range": (0, 100)} == range_options("bytes=0-99")
    assert {"range": {"offset": 5}} == range_options("bytes=5-")
    assert {"range": {"suffix": 7}} == range_options("bytes=-7")
    for odd in ("bytes=3-1", "bytes=-0", "bytes=0-1,3-4", "bytes= 0-1", "lines=0-1", "bytes=-", "bytes=٣-٤"):
        assert range_options(odd) is None


def test_gate_rests_longer_each_time() -> None:
    """Half a second, doubled up to half a minute; failures under way together count once."""
    now = [100.0]
    gate = Gate(lambda: now[0])
    rests = []
    for _ in range(9):
        gate.failed()
        gate.failed()
        started = now[0]
        while not gate.is_open():
            now[0] += 0.25
        rests.append(now[0] - started)
    assert [0.5, 1, 2, 4, 8, 16, 30, 30, 30] == rests
    gate.succeeded()
    gate.failed()
    now[0] += 0.5
    assert gate.is_open()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    now = datetime.now(UTC)

    def build(subject: x509.Name, public: Any, *, is_authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    own = build(name, key.public_key(), is_authority=False)
    top = build(authority, authority_key.public_key(), is_authority=True)
    (directory / "ca.pem").write_bytes(top.public_bytes(pem))
    (directory / "own.pem").write_bytes(
        own.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "ca.pem", directory / "own.pem"


def test_own_certificate_authority(certificate: tuple[Path, Path]) -> None:
    """A store behind its own authority is trusted with the PEM text, by obstore too, and only with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1])
    answer = Answer(body=b"x", headers={"ETag": '"e"', "Last-Modified": "Sat, 21 Nov 2026 05:00:00 GMT"})
    with scripted_server(lambda _: answer, tls=context) as server:
        plain = S3Settings(
            bucket="flows",
            endpoint=server.endpoint,
            use_path_style=True,
            access_key_id="a",
            secret_access_key="b",
            max_attempts=1,
        )
        trusting = replace(plain, ca_bundle_pem=certificate[0].read_text())
        with closing(ObstoreBackend(trusting)) as backend:
            assert b"x" == backend.get_object("k").read()
            assert 0 == backend.repeated
        with (
            closing(ObstoreBackend(plain)) as backend,
            pytest.raises(Exception, match=r"TLS failed.*CA bundle"),
        ):
            backend.get_object("k")
    assert 1 == len(server.requests)
