"""Typed configuration of S3 backends by name, for programs that use several of them (seed 004).

Where `bubu_storage.settings` reads what an operator put into a pod's environment, this is for a
program with a configuration file of its own: a list of backends, each with a name, its
credentials and its circuit breaker. The values are those of a router between stores: more
connections, and 30 s for an answer to begin.

Invariants: nothing is contacted by opening; faults are reported all together, with the name of
the backend; no credential enters a message or a ``repr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bubu_storage.backend.breaker import CircuitBreakerBackend, Recovery
from bubu_storage.backend.circuit import DEFAULT_OPEN_TIMEOUT_SECONDS, DEFAULT_THRESHOLD
from bubu_storage.backend.circuit_events import CircuitListener
from bubu_storage.backend.factory import open_backend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.settings import S3Settings, repr_without_secrets

__all__ = [
    "DEFAULT_EXCHANGE_TIMEOUT_SECONDS",
    "DEFAULT_MAX_CONNECTIONS",
    "DEFAULT_RESPONSE_TIMEOUT_SECONDS",
    "BackendConfig",
    "CircuitConfig",
    "new_s3_backend",
    "validate_backends",
]

DEFAULT_MAX_CONNECTIONS: Final = 200
"""Connections to one backend at a time."""

DEFAULT_RESPONSE_TIMEOUT_SECONDS: Final = 30.0
"""For an answer to begin."""

DEFAULT_EXCHANGE_TIMEOUT_SECONDS: Final = 300.0
"""For a whole exchange, body included."""

_CREDENTIAL_SOURCES: Final = ("", "static", "default_chain")


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """A circuit breaker around a backend.

    Attributes:
        threshold: failures in a row that open the circuit.
        timeout_seconds: how long it stays open at least.
        recovery: ``inline`` or ``external``, see `Recovery`.
        throttle_weight: how much a request for fewer requests counts, 0 to 1.
    """

    threshold: int = DEFAULT_THRESHOLD
    timeout_seconds: float = DEFAULT_OPEN_TIMEOUT_SECONDS
    recovery: str = Recovery.INLINE.value
    throttle_weight: float = 1.0

    def faults(self) -> list[str]:
        """Return what is wrong with it, in words."""
        found: list[str] = []
        if self.threshold < 1:
            found.append(f"circuit threshold is {self.threshold}; at least 1 is needed")
        if not 0 < self.timeout_seconds < float("inf"):
            found.append(f"circuit timeout is {self.timeout_seconds:g} s; it must be above 0 and finite")
        if self.recovery not in set(Recovery):
            found.append(f"circuit recovery is {self.recovery!r}; known are 'inline' and 'external'")
        if not 0 <= self.throttle_weight <= 1:
            found.append(f"throttle weight is {self.throttle_weight:g}; it must be 0 to 1")
        return found


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """One S3 backend (Go: BackendConfig).

    Attributes:
        name: for messages, labels and the circuit; "" = ``backend-<index>`` in a list.
        endpoint: URL with scheme; required.
        region: "" = the SDK's own choice, else ``us-east-1``.
        bucket: name of the bucket; required.
        access_key_id, secret_access_key: required unless the credential source is another one.
        session_token: of temporary static credentials.
        force_path_style: address as ``endpoint/bucket/key``.
        unsigned_payload: send bodies without signing their bytes; None = with https only.
        disable_checksum: send no checksum of our own, for stores that refuse it.
        strip_sdk_headers: leave out headers that some stores (GCS) sign differently.
        credential_source: "" or ``static`` = the keys above; ``default_chain`` = the SDK's
            (environment, profile, SSO, instance metadata, STS), refreshed by it.
        circuit: a breaker around the backend; None = none.
        max_connections: to the store at a time.
        connect_timeout_seconds: for a connection to stand.
        response_timeout_seconds: for an answer to begin.
        timeout_seconds: for a whole exchange, body included.
        engine: as in `S3Settings`.
    """

    name: str = ""
    endpoint: str = ""
    region: str = ""
    bucket: str = ""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    force_path_style: bool = False
    unsigned_payload: bool | None = None
    disable_checksum: bool = False
    strip_sdk_headers: bool = False
    credential_source: str = ""
    circuit: CircuitConfig | None = None
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    connect_timeout_seconds: float = 10.0
    response_timeout_seconds: float = DEFAULT_RESPONSE_TIMEOUT_SECONDS
    timeout_seconds: float = DEFAULT_EXCHANGE_TIMEOUT_SECONDS
    engine: str = "boto3"

    def faults(self) -> list[str]:
        """Return what is wrong with it, in words and without secrets."""
        found: list[str] = []
        if not self.endpoint:
            found.append("endpoint is empty")
        elif not self.endpoint.startswith(("http://", "https://")):
            found.append("endpoint must begin with http:// or https://")
        elif "@" in self.endpoint:
            found.append("endpoint holds a user name or password; credentials belong into the keys")
        if not self.bucket:
            found.append("bucket is empty")
        if self.credential_source not in _CREDENTIAL_SOURCES:
            found.append(
                f"credential_source is {self.credential_source!r}; known are 'static' and 'default_chain'"
            )
        elif self.credential_source == "default_chain":
            if self.access_key_id or self.secret_access_key or self.session_token:
                found.append("keys and credential_source 'default_chain' exclude each other")
        else:
            if not self.access_key_id:
                found.append("access_key_id is empty")
            if not self.secret_access_key:
                found.append("secret_access_key is empty")
        if self.max_connections < 1:
            found.append(f"max_connections is {self.max_connections}; at least 1 is needed")
        times = ("connect_timeout_seconds", "response_timeout_seconds", "timeout_seconds")
        found.extend(f"{name} must be above 0" for name in times if not getattr(self, name) > 0)
        return found + (self.circuit.faults() if self.circuit is not None else [])

    def settings(self) -> S3Settings:
        """Return the same as settings of a store."""
        return S3Settings(
            bucket=self.bucket,
            region=self.region,
            endpoint=self.endpoint,
            use_path_style=self.force_path_style,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            session_token=self.session_token,
            connect_timeout_seconds=self.connect_timeout_seconds,
            timeout_seconds=self.timeout_seconds,
            response_timeout_seconds=self.response_timeout_seconds,
            max_connections=self.max_connections,
            unsigned_payload=self.unsigned_payload,
            checksums=not self.disable_checksum,
            strip_sdk_headers=self.strip_sdk_headers,
            engine=self.engine,
        )

    def __repr__(self) -> str:
        return repr_without_secrets(self)

    def open(self, *, listeners: Iterable[CircuitListener] | None = None) -> ObjectBackend:
        """Open the backend, behind its circuit breaker where it has one; nothing is contacted.

        Args:
            listeners: hear of the circuit's transitions; None for Prometheus's default registry.

        Raises:
            ConfigurationError: names the backend and all its faults.
        """
        (config,) = validate_backends([self])
        try:
            backend = open_backend(config.settings())
        except ConfigurationError as error:
            raise ConfigurationError(f"backend {config.name!r}: {error}") from error
        if config.circuit is None:
            return backend
        circuit = config.circuit
        return CircuitBreakerBackend(
            backend,
            config.name,
            circuit.threshold,
            circuit.timeout_seconds,
            recovery=circuit.recovery,
            throttle_weight=circuit.throttle_weight,
            listeners=listeners,
        )


def new_s3_backend(config: BackendConfig) -> ObjectBackend:
    """Open a backend (Go: NewS3Backend); see `BackendConfig.open`.

    Raises:
        ConfigurationError: names the backend and all its faults.
    """
    return config.open()


def validate_backends(configs: Sequence[BackendConfig]) -> list[BackendConfig]:
    """Return the configurations with all names filled in, if they make sense.

    Raises:
        ConfigurationError: all faults of all backends together.
    """
    named = [
        config if config.name else replace(config, name=f"backend-{index}")
        for index, config in enumerate(configs)
    ]
    faults: list[str] = []
    seen: set[str] = set()
    for config in named:
        own = config.faults()
        if config.name in seen:
            own.insert(0, "another backend has this name")
        seen.add(config.name)
        faults.extend(f"backend {config.name!r}: {fault}" for fault in own)
    if faults:
        raise ConfigurationError("; ".join(faults))
    return named
