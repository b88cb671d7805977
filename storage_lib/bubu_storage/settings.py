"""Typed settings of a store and of a manager, and how they are read from the environment.

Settings are plain frozen data: nothing here contacts anything. Secrets never show in a
``repr``. Names and defaults of the variables are those of BubuStack's Go SDK; how each is
read is in `bubu_storage.environment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeAlias

from bubu_storage.wire import (
    DEFAULT_CACHE_TTL_SECONDS,
    DEFAULT_INPUT_PREFIX,
    DEFAULT_MAX_HYDRATED_SIZE,
    DEFAULT_MAX_INLINE_SIZE,
    DEFAULT_MAX_RECURSION_DEPTH,
    DEFAULT_MAX_WORKERS,
    DEFAULT_OUTPUT_PREFIX,
    DEFAULT_RETENTION_GC_INTERVAL_SECONDS,
    DEFAULT_RETENTION_MAX_DELETE,
    DEFAULT_RETENTION_MAX_SCAN,
    DEFAULT_STORAGE_TIMEOUT_SECONDS,
)

__all__ = [
    "BackendSettings",
    "FileSettings",
    "ManagerSettings",
    "RetentionPolicy",
    "S3Settings",
    "repr_without_secrets",
]

MIN_PART_SIZE_BYTES = 5 * 1024 * 1024
"""S3's smallest part of a multipart upload (the last one excepted)."""

S3_ENGINES = ("auto", "boto3", "obstore")
"""Values of `S3Settings.engine`."""


def repr_without_secrets(settings: Any) -> str:
    """Return the ``repr`` of a dataclass with an ``endpoint``: fields as they are declared, no password.

    An endpoint with a user name in it is refused when the store is opened; until then it must
    not leak.
    """
    shown = {item.name: getattr(settings, item.name) for item in fields(settings) if item.repr}
    if "@" in shown["endpoint"]:
        shown["endpoint"] = "…@" + shown["endpoint"].rpartition("@")[2]
    return f"{type(settings).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


@dataclass(frozen=True, slots=True)
class FileSettings:
    """A directory as a store.

    Attributes:
        path: base directory; made absolute when opened, created where missing.
    """

    path: str


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A bucket of an S3-compatible store.

    Attributes:
        bucket: name of the bucket.
        region: "" = the SDK's own choice, else ``us-east-1``.
        endpoint: URL with scheme, or "" for AWS.
        use_path_style: address as ``endpoint/bucket/key``.
        access_key_id, secret_access_key, session_token: static credentials; both keys or none.
        anonymous: send unsigned requests. With neither keys nor this, the SDK's chain decides.
        ca_bundle_pem: extra certificate authorities as PEM text, "" for the system's.
        max_attempts: tries in all for one request.
        max_backoff_seconds: longest pause between two tries.
        connect_timeout_seconds: for a connection to stand.
        timeout_seconds: for a whole HTTP exchange, body included.
        part_size_bytes: bodies above this are uploaded in parts; at least 5 MiB.
        concurrency: parts of one upload in flight.
        sse: "" | ``AES256`` | ``aws:kms``.
        sse_kms_key_id: with ``aws:kms`` only.
        engine: who speaks HTTP: ``boto3``, ``obstore`` (several times faster, the extra
            ``fast``), or ``auto``: obstore where it is installed and knows these settings.
        max_connections: to the store at a time.
        unsigned_payload: send bodies without signing their bytes; None = with https only.
        checksums: send a SHA-256 with each body; False for stores that refuse it.
        strip_sdk_headers: leave out headers of the SDK's own that some stores (GCS) count
            into the signature differently.
        response_timeout_seconds: for an answer to begin, and for each further piece of it;
            None = as for the whole exchange.
        address_policy: which addresses may be connected to: ``any``; ``remote``, which leaves out
            this machine, link-local addresses and metadata services, for programs that open stores
            which others name; or ``remote-or-loopback``. All but ``any`` need engine boto3.
    """

    bucket: str
    region: str = ""
    endpoint: str = ""
    use_path_style: bool = False
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    anonymous: bool = False
    ca_bundle_pem: str = field(default="", repr=False)
    max_attempts: int = 3
    max_backoff_seconds: float = 10.0
    connect_timeout_seconds: float = 10.0
    timeout_seconds: float = 300.0
    part_size_bytes: int = MIN_PART_SIZE_BYTES
    concurrency: int = 5
    sse: str = ""
    sse_kms_key_id: str = ""
    engine: str = "auto"
    max_connections: int = 64
    unsigned_payload: bool | None = None
    checksums: bool = True
    strip_sdk_headers: bool = False
    response_timeout_seconds: float | None = None
    address_policy: str = "any"

    def __repr__(self) -> str:
        return repr_without_secrets(self)


BackendSettings: TypeAlias = FileSettings | S3Settings


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """Everything a `StorageManager` needs.

    Attributes:
        backend: the store, or None when storage is disabled.
        output_prefix, input_prefix: where `dehydrate` and `dehydrate_inputs` write.
        max_inline_size_bytes: larger values are offloaded.
        max_recursion_depth: nesting and reference budget.
        max_hydrated_size_bytes: the most that one call reads into memory: stored objects, each
            counted once, and again what is copied because several references lead to it.
        timeout_seconds: for one whole call of the manager.
        max_workers: objects in flight at a time, over all calls of the manager.
        cache_size_bytes: memory for objects that were read lately; 0 = no cache.
        cache_ttl_seconds: how long such an object is used without asking the store again.
        metrics_enabled: count requests, bytes and payload sizes for Prometheus.
        keep_superseded: also write values whose whole container had to be offloaded after
            them. Nothing refers to these objects; the Go SDK leaves them behind, and by
            default so do we, to the byte. False saves the writes.
        workload_namespace: the only namespace whose ConfigMaps and Secrets documents may
            refer to; "" for none.
    """

    backend: BackendSettings | None = None
    output_prefix: str = DEFAULT_OUTPUT_PREFIX
    input_prefix: str = DEFAULT_INPUT_PREFIX
    max_inline_size_bytes: int = DEFAULT_MAX_INLINE_SIZE
    max_recursion_depth: int = DEFAULT_MAX_RECURSION_DEPTH
    max_hydrated_size_bytes: int = DEFAULT_MAX_HYDRATED_SIZE
    timeout_seconds: float = DEFAULT_STORAGE_TIMEOUT_SECONDS
    workload_namespace: str = ""
    max_workers: int = DEFAULT_MAX_WORKERS
    keep_superseded: bool = True
    cache_size_bytes: int = 0
    cache_ttl_seconds: float = DEFAULT_CACHE_TTL_SECONDS
    metrics_enabled: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the settings from ``BUBU_*`` variables (and ``AWS_*`` for credentials and region).

        Args:
            env: the variables; the process's own when None. An empty value counts as unset.

        Raises:
            ConfigurationError: names the variable, what is wrong with it and what to write.
        """
        from bubu_storage import environment  # noqa: PLC0415 - it imports the classes of this module

        return cls(**environment.read_manager(environment.variables(env)))


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Bounds of one retention pass (Go: RetentionPolicy).

    Attributes:
        gc_interval_seconds: time between two passes.
        max_scan: most objects listed in one pass.
        max_delete: most objects deleted in one pass.
    """

    gc_interval_seconds: float = DEFAULT_RETENTION_GC_INTERVAL_SECONDS
    max_scan: int = DEFAULT_RETENTION_MAX_SCAN
    max_delete: int = DEFAULT_RETENTION_MAX_DELETE

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the bounds from ``BUBU_STORAGE_RETENTION_*`` (Go: RetentionPolicyFromEnv).

        What is missing, invalid or not above 0 takes its default; a log line says so once.

        Args:
            env: the variables; the process's own when None.
        """
        from bubu_storage import environment  # noqa: PLC0415 - it imports the classes of this module

        return cls(**environment.read_retention(environment.variables(env)))
