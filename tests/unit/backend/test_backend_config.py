"""Configured S3 backends: names, faults all at once, credential sources, and what becomes of each value."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.breaker import CircuitBreakerBackend
from bubu_storage.backend.circuit_events import CircuitState
from bubu_storage.backend.config import BackendConfig, CircuitConfig, new_s3_backend, validate_backends
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_client import sends_unsigned
from bubu_storage.errors import BackendUnavailableError, ConfigurationError, StorageTimeoutError
from bubu_storage.settings import S3Settings
from tests.cluster.processes import wait_until
from tests.unit.backend.scripted_server import Answer, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bubu_storage.backend.types import ObjectBackend
    from tests.unit.backend.scripted_server import Request

KEYS = {"access_key_id": "AKIDPLANTED", "secret_access_key": "planted-secret"}
GOOD = {"endpoint": "http://127.0.0.1:1", "bucket": "b", **KEYS}


@pytest.fixture(autouse=True)
def no_ambient_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own AWS configuration does not steer these tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def opened() -> Iterator[Callable[..., ObjectBackend]]:
    """Opens backends and closes them after the test."""
    backends: list[ObjectBackend] = []

    def open_one(**values: Any) -> ObjectBackend:
        backends.append(BackendConfig(**{**GOOD, "force_path_style": True, **values}).open())
        return backends[-1]

    yield open_one
    for backend in backends:
        backend.close()


def stored(_: Request) -> Answer:
    """Accept everything."""
    return Answer(headers={"ETag": '"e"'})


# ---- validation


def test_names_are_filled_in() -> None:
    """By the place in the list."""
    configs = [BackendConfig(**GOOD), BackendConfig(name="own", **GOOD), BackendConfig(**GOOD)]
    assert ["backend-0", "own", "backend-2"] == [config.name for config in validate_backends(configs)]
    assert [] == validate_backends([])


def test_all_faults_of_all_backends_are_named_together() -> None:
    """Who repairs a configuration wants to hear everything, and no secret."""
    configs = [
        BackendConfig(access_key_id="planted-id"),
        BackendConfig(name="x", **{**GOOD, "endpoint": "minio:9000"}),
        BackendConfig(name="x", **{**GOOD, "credential_source": "foo"}),
        BackendConfig(name="y", **{**GOOD, "credential_source": "default_chain"}),
        BackendConfig(name="z", **GOOD, circuit=CircuitConfig(0, 0.0, "magic", 2.0), max_connections=0),
        BackendConfig(name="w", **{**GOOD, "endpoint": "http://user:planted-pw@h"}, timeout_seconds=0.0),
        BackendConfig(name="backend-0", **GOOD),
    ]
    with pytest.raises(ConfigurationError) as caught:
        validate_backends(configs)
    text = str(caught.value)
    for words in (
        "backend 'backend-0': endpoint is empty",
        "backend 'backend-0': bucket is empty",
        "backend 'backend-0': secret_access_key is empty",
        "backend 'x': endpoint must begin with",
        "backend 'x': another backend has this name",
        "backend 'x': credential_source is 'foo'",
        "backend 'y': keys and credential_source",
        "backend 'z': circuit threshold is 0",
        "backend 'z': circuit timeout is 0 s",
        "backend 'z': circuit recovery is 'magic'",
        "backend 'z': throttle weight is 2",
        "backend 'z': max_connections is 0",
        "backend 'w': endpoint holds a user name",
        "backend 'w': timeout_seconds must be above 0",
        "backend 'backend-0': another backend has this name",
    ):
        assert words in text
    assert "backend-0': access_key_id" not in text
    assert "planted" not in text


@pytest.mark.parametrize(
    "change",
    [{"credential_source": "foo"}, {"bucket": ""}, {"access_key_id": ""}],
)
def test_opening_names_the_backend(change: dict[str, Any]) -> None:
    """An unknown credential source is a fault of construction (resilience case 29)."""
    with pytest.raises(ConfigurationError, match="backend 'main'") as caught:
        new_s3_backend(BackendConfig(name="main", **{**GOOD, **change}))
    assert "planted" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    """Neither of the configuration nor of its settings."""
    url = {"endpoint": "http://user:planted-password@127.0.0.1:1"}
    assert "…@127.0.0.1:1" in repr(BackendConfig(**{**GOOD, **url}))
    assert "planted" not in repr(BackendConfig(**{**GOOD, **url}))
    config = BackendConfig(session_token="planted-token", **GOOD)
    for text in (repr(config), str(config), repr(config.settings())):
        assert "planted" not in text.lower()


# ---- what becomes of the values


def test_values_become_settings() -> None:
    """The limits of a router between stores: 200 connections, 30 s for an answer to begin."""
    settings = BackendConfig(
        region="eu-north-1", session_token="t", unsigned_payload=True, disable_checksum=True, **GOOD
    ).settings()
    assert settings == S3Settings(
        bucket="b",
        endpoint="http://127.0.0.1:1",
        region="eu-north-1",
        session_token="t",
        unsigned_payload=True,
        checksums=False,
        max_connections=200,
        connect_timeout_seconds=10.0,
        response_timeout_seconds=30.0,
        timeout_seconds=300.0,
        engine="boto3",
        **KEYS,
    )


@pytest.mark.parametrize(
    ("endpoint", "said", "unsigned"),
    [
        ("http://h", None, False),
        ("https://h", None, True),
        ("", None, True),
        ("http://h", True, True),
        ("https://h", False, False),
    ],
)
def test_who_signs_bodies(endpoint: str, said: bool | None, unsigned: bool) -> None:
    """Unless said: with https the bytes are not signed, else they are (resilience case 22)."""
    assert unsigned is sends_unsigned(S3Settings(bucket="b", endpoint=endpoint, unsigned_payload=said))


@pytest.mark.parametrize(("said", "marker"), [(None, False), (True, True), (False, False)])
def test_signatures_on_the_wire(
    opened: Callable[..., ObjectBackend],
    said: bool | None,
    marker: bool,
) -> None:
    """Over http a body is signed unless it is said otherwise (resilience case 22)."""
    with scripted_server(stored) as server:
        opened(endpoint=server.endpoint, unsigned_payload=said).put_object("k", b"abc")
    (request,) = server.requests
    assert marker is ("UNSIGNED-PAYLOAD" == request.headers["x-amz-content-sha256"])
    assert b"abc" == request.body


@pytest.mark.parametrize("disabled", [False, True])
def test_checksums_can_be_left_out(
    opened: Callable[..., ObjectBackend],
    disabled: bool,
) -> None:
    """For stores that refuse them."""
    with scripted_server(stored) as server:
        opened(endpoint=server.endpoint, disable_checksum=disabled).put_object("k", b"abc")
    found = [name for name in server.requests[0].headers if name.startswith("x-amz-checksum")]
    assert disabled is (found == [])


@pytest.mark.parametrize("strip", [False, True])
def test_headers_of_the_sdk_can_be_left_out(
    opened: Callable[..., ObjectBackend],
    strip: bool,
) -> None:
    """Also those that the HTTP library adds; what is signed is on the wire."""
    with scripted_server(stored) as server:
        backend = opened(endpoint=server.endpoint, strip_sdk_headers=strip)
        backend.put_object("k", b"abc")
        backend.delete_object("k")
    for request in server.requests:
        names = {"amz-sdk-invocation-id", "amz-sdk-request", "accept-encoding"} & set(request.headers)
        assert strip is (not names)
        assert "x-id" not in request.query
        signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        assert set(signed.split(";")) <= set(request.headers)


# ---- credentials


def test_the_default_chain(opened: Callable[..., ObjectBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK finds the keys of the environment (resilience case 29)."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    with scripted_server(stored) as server:
        chain = {"credential_source": "default_chain", "access_key_id": "", "secret_access_key": ""}
        opened(endpoint=server.endpoint, **chain).put_object("k", b"abc")
        opened(endpoint=server.endpoint, credential_source="static").put_object("k", b"abc")
    assert ["FROMENV", "AKIDPLANTED"] == [
        request.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for request in server.requests
    ]


# ---- circuits, time limits, connections


def test_a_circuit_is_off_unless_wanted(opened: Callable[..., ObjectBackend]) -> None:
    """And carries the backend's name when it is on."""
    assert isinstance(opened(), S3Backend)
    backend = opened(name="main", circuit=CircuitConfig())
    assert isinstance(backend, CircuitBreakerBackend)
    circuit = backend.circuit
    assert ("main", 5, 300.0) == (circuit.name, circuit.threshold, circuit.timeout_seconds)
    assert isinstance(opened(circuit=CircuitConfig(recovery="external")), CircuitBreakerBackend)


def test_a_silent_server_counts(opened: Callable[..., ObjectBackend]) -> None:
    """It accepts, says nothing, and costs the time for an answer to begin, not more (resilience case 28)."""
    with scripted_server(lambda _: Answer(silent=True)) as server:
        settings = BackendConfig(**{**GOOD, "endpoint": server.endpoint}, force_path_style=True).settings()
        assert 30.0 == settings.response_timeout_seconds
        breaker = CircuitBreakerBackend(
            S3Backend(_quick(settings, response_timeout_seconds=0.1)), threshold=2
        )
        try:
            with pytest.raises(StorageTimeoutError):
                breaker.head_object("k")
            with pytest.raises(BackendUnavailableError) as opened_now:
                breaker.get_object("k")
            assert isinstance(opened_now.value.__cause__, StorageTimeoutError)
            assert CircuitState.OPEN is breaker.state
            wait_until(lambda: len(server.requests) == 2, 10, "the server to see what was given up")
            with pytest.raises(BackendUnavailableError):
                breaker.put_object("k", b"x")
            assert 2 == len(server.requests)
        finally:
            breaker.close()


def _quick(settings: S3Settings, **changes: Any) -> S3Settings:
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return S3Settings(**{**values, "max_attempts": 1, **changes})


def test_an_opened_backend_s_circuit_is_on_the_default_registry() -> None:
    """Without anybody asking for it: the gauge is there, at 0, before the first request."""
    from prometheus_client import REGISTRY

    config = BackendConfig(name="told-to-prometheus", circuit=CircuitConfig(), **GOOD)
    with closing(config.open()):
        assert REGISTRY.get_sample_value("storage_circuit_state", {"name": "told-to-prometheus"}) == 0.0
