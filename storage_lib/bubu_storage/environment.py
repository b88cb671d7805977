"""How settings are read from environment variables.

The table of names, grammars and defaults is BubuStack's: a value means the same to a Go
and to a Python engram. Where the Go SDK falls back to a default without a word we fall back
too and log it once; where it would only fail later, at the first write, we refuse at once.

Credentials: ``BUBU_S3_*`` first, then ``AWS_*``, then whatever the AWS SDK finds by itself.
A store with its own endpoint is asked anonymously only when none of these is configured.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypedDict, TypeVar
from urllib.parse import urlsplit, urlunsplit

from bubu_storage.errors import ConfigurationError
from bubu_storage.goduration import parse_go_duration_seconds, trim_go_space
from bubu_storage.gotext import parse_go_bool, parse_go_int
from bubu_storage.settings import (
    MIN_PART_SIZE_BYTES,
    S3_ENGINES,
    BackendSettings,
    FileSettings,
    S3Settings,
)
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

__all__ = ["read_manager", "read_retention", "read_s3", "shared_key", "variables"]

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T", int, float)

_MAX_PART_SIZE_BYTES: Final = 5 * 1024**3
_NAMESPACE_VARIABLES: Final = (
    "BUBU_POD_NAMESPACE",
    "BUBU_STEPRUN_NAMESPACE",
    "BUBU_TARGET_STORY_NAMESPACE",
    "BUBU_IMPULSE_NAMESPACE",
)
_SDK_CREDENTIAL_VARIABLES: Final = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
)
_SSE_NAMES: Final = {
    "s3": "AES256",
    "sse-s3": "AES256",
    "aes256": "AES256",
    "kms": "aws:kms",
    "aws:kms": "aws:kms",
}
_warned: set[tuple[str, str]] = set()


class ManagerFields(TypedDict):
    """Arguments of `ManagerSettings`."""

    backend: BackendSettings | None
    output_prefix: str
    input_prefix: str
    max_inline_size_bytes: int
    max_recursion_depth: int
    max_hydrated_size_bytes: int
    timeout_seconds: float
    workload_namespace: str
    max_workers: int
    keep_superseded: bool
    cache_size_bytes: int
    cache_ttl_seconds: float
    metrics_enabled: bool


class RetentionFields(TypedDict):
    """Arguments of `RetentionPolicy`."""

    gc_interval_seconds: float
    max_scan: int
    max_delete: int


def variables(env: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the given variables, or the process's own."""
    return os.environ if env is None else env


def read_manager(env: Mapping[str, str]) -> ManagerFields:
    """Read what a manager needs.

    Raises:
        ConfigurationError: names the variable.
    """
    return ManagerFields(
        backend=_read_backend(env),
        output_prefix=env.get("BUBU_STORAGE_OUTPUT_PREFIX") or DEFAULT_OUTPUT_PREFIX,
        input_prefix=env.get("BUBU_STORAGE_INPUT_PREFIX") or DEFAULT_INPUT_PREFIX,
        max_inline_size_bytes=_read_size(env, "BUBU_MAX_INLINE_SIZE", DEFAULT_MAX_INLINE_SIZE, least=0),
        max_hydrated_size_bytes=_read_size(env, "BUBU_MAX_HYDRATED_SIZE", DEFAULT_MAX_HYDRATED_SIZE, least=1),
        max_recursion_depth=_positive(
            env, "BUBU_MAX_RECURSION_DEPTH", DEFAULT_MAX_RECURSION_DEPTH, parse_go_int
        ),
        timeout_seconds=_positive(
            env, "BUBU_STORAGE_TIMEOUT", DEFAULT_STORAGE_TIMEOUT_SECONDS, parse_go_duration_seconds
        ),
        workload_namespace=next(filter(None, (_trimmed(env, name) for name in _NAMESPACE_VARIABLES)), ""),
        max_workers=_positive(env, "BUBU_STORAGE_CONCURRENCY", DEFAULT_MAX_WORKERS, parse_go_int),
        cache_size_bytes=_read_size(env, "BUBU_STORAGE_CACHE_SIZE", 0, least=0),
        cache_ttl_seconds=_positive(
            env, "BUBU_STORAGE_CACHE_TTL", DEFAULT_CACHE_TTL_SECONDS, parse_go_duration_seconds
        ),
        keep_superseded=_read_bool(env, "BUBU_STORAGE_KEEP_SUPERSEDED", default=True),
        metrics_enabled=_read_bool(env, "BUBU_STORAGE_METRICS", default=True),
    )


def read_retention(env: Mapping[str, str]) -> RetentionFields:
    """Read the bounds of retention passes; never fails."""
    return RetentionFields(
        gc_interval_seconds=_positive(
            env,
            "BUBU_STORAGE_RETENTION_GC_INTERVAL",
            DEFAULT_RETENTION_GC_INTERVAL_SECONDS,
            parse_go_duration_seconds,
        ),
        max_scan=_positive(env, "BUBU_STORAGE_RETENTION_MAX_SCAN", DEFAULT_RETENTION_MAX_SCAN, parse_go_int),
        max_delete=_positive(
            env, "BUBU_STORAGE_RETENTION_MAX_DELETE", DEFAULT_RETENTION_MAX_DELETE, parse_go_int
        ),
    )


def shared_key(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return what makes two environments mean the same shared manager (Go: SharedManager).

    Raises:
        ConfigurationError: ``BUBU_S3_TLS`` is no boolean, with S3.
    """
    provider = env.get("BUBU_STORAGE_PROVIDER", "").lower()
    key = (
        provider,
        env.get("BUBU_STORAGE_OUTPUT_PREFIX", ""),
        env.get("BUBU_STORAGE_INPUT_PREFIX", ""),
    )
    if provider == "s3":
        names = (
            "BUBU_STORAGE_S3_BUCKET",
            "BUBU_STORAGE_S3_REGION",
            "BUBU_STORAGE_S3_ENDPOINT",
            "BUBU_S3_FORCE_PATH_STYLE",
        )
        return (*key, *(_trimmed(env, name) for name in names), str(_read_tls(env)))
    return (*key, env.get("BUBU_STORAGE_PATH", "")) if provider == "file" else key


def _read_backend(env: Mapping[str, str]) -> BackendSettings | None:
    provider = env.get("BUBU_STORAGE_PROVIDER", "")
    if provider in {"", "none"}:
        return None
    if provider == "s3":
        return read_s3(env)
    if provider == "file":
        path = env.get("BUBU_STORAGE_PATH", "")
        if not path:
            raise ConfigurationError(
                "BUBU_STORAGE_PROVIDER is 'file' and BUBU_STORAGE_PATH is not set; name the store's directory"
            )
        return FileSettings(path)
    raise ConfigurationError(
        f"BUBU_STORAGE_PROVIDER is {provider!r}; it must be 's3', 'file' or 'none' (in lower case)"
    )


def _read_size(env: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        size = parse_go_int(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{name} is {text!r}: {error}; write a number of bytes, as {default}"
        ) from None
    if size < least:
        raise ConfigurationError(f"{name} is {text!r}; it must be {least} or more bytes")
    return size


def read_s3(env: Mapping[str, str]) -> S3Settings:
    """Read the settings of a bucket.

    Raises:
        ConfigurationError: names the variable; never shows a credential.
    """
    bucket = _trimmed(env, "BUBU_STORAGE_S3_BUCKET")
    if not bucket:
        raise ConfigurationError(
            "BUBU_STORAGE_PROVIDER is 's3' and BUBU_STORAGE_S3_BUCKET is not set; name the bucket"
        )
    endpoint = _read_endpoint(env)
    access_key_id, secret_access_key, session_token = _read_credentials(env)
    sse = _read_sse(env)
    return S3Settings(
        bucket=bucket,
        region=_trimmed(env, "BUBU_STORAGE_S3_REGION")
        or _trimmed(env, "AWS_REGION")
        or _trimmed(env, "AWS_DEFAULT_REGION"),
        endpoint=endpoint,
        use_path_style=_read_bool(env, "BUBU_S3_FORCE_PATH_STYLE", default=bool(endpoint)),
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        anonymous=bool(endpoint) and not access_key_id and not _sdk_has_credentials(env),
        max_attempts=_s3_positive(env, "BUBU_S3_MAX_RETRIES", 3, parse_go_int),
        max_backoff_seconds=_s3_positive(env, "BUBU_S3_MAX_BACKOFF", 10.0, parse_go_duration_seconds),
        timeout_seconds=_s3_positive(env, "BUBU_S3_TIMEOUT", 300.0, parse_go_duration_seconds),
        part_size_bytes=_read_part_size(env),
        concurrency=_s3_positive(env, "BUBU_S3_CONCURRENCY", 5, parse_go_int),
        sse=sse,
        sse_kms_key_id=_trimmed(env, "BUBU_S3_SSE_KMS_KEY") if sse == "aws:kms" else "",
        engine=_read_engine(env),
    )


def _read_tls(env: Mapping[str, str]) -> bool | None:
    text = env.get("BUBU_S3_TLS")
    if text is None:
        return None
    try:
        return parse_go_bool(text)
    except ValueError as error:
        raise ConfigurationError(f"BUBU_S3_TLS is {text!r}: {error}, or unset it") from None


def _read_bool(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = _trimmed(env, name)
    if not text:
        return default
    try:
        return parse_go_bool(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} is {text!r}: {error}") from None


def _read_endpoint(env: Mapping[str, str]) -> str:
    tls = _read_tls(env)
    given = _trimmed(env, "BUBU_STORAGE_S3_ENDPOINT")
    if not given:
        return ""
    url = given if "://" in given else f"{'http' if tls is False else 'https'}://{given}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(
            "BUBU_STORAGE_S3_ENDPOINT is not a valid URL; write it like https://minio.example:9000"
        ) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "BUBU_STORAGE_S3_ENDPOINT holds a user name or password; put credentials into "
            "BUBU_S3_ACCESS_KEY_ID and BUBU_S3_SECRET_ACCESS_KEY"
        )
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(
            f"BUBU_STORAGE_S3_ENDPOINT is {given!r}; it needs a host, and http or https if any scheme, "
            "as https://minio.example:9000"
        )
    if tls is not None and tls != (parts.scheme == "https"):
        raise ConfigurationError(
            f"BUBU_STORAGE_S3_ENDPOINT begins with {parts.scheme}:// and BUBU_S3_TLS is "
            f"{'true' if tls else 'false'}; make them agree, or unset BUBU_S3_TLS"
        )
    return urlunsplit(parts._replace(fragment=""))


def _read_credentials(env: Mapping[str, str]) -> tuple[str, str, str]:
    """Return access key id, secret access key and session token, all "" when none is set."""
    for family, token_name in (("BUBU_S3", "BUBU_S3_SESSION_TOKEN"), ("AWS", "AWS_SESSION_TOKEN")):
        names = (f"{family}_ACCESS_KEY_ID", f"{family}_SECRET_ACCESS_KEY")
        access, secret = (_trimmed(env, name) for name in names)
        token = _trimmed(env, token_name)
        if not (access or secret or token):
            continue
        missing = [name for name, value in zip(names, (access, secret), strict=True) if not value]
        if missing:
            given = [name for name in (*names, token_name) if name not in missing and _trimmed(env, name)]
            raise ConfigurationError(
                f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set and {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not; set both keys, or none"
            )
        return access, secret, token
    return "", "", ""


def _sdk_has_credentials(env: Mapping[str, str]) -> bool:
    """Tell whether the AWS SDK has something to look at, short of asking a metadata server."""
    if any(env.get(name) for name in _SDK_CREDENTIAL_VARIABLES):
        return True
    home = env.get("HOME", "")
    return bool(home) and any(Path(home, ".aws", name).is_file() for name in ("credentials", "config"))


def _read_part_size(env: Mapping[str, str]) -> int:
    name = "BUBU_S3_MAX_PART_SIZE"
    size = _s3_positive(env, name, MIN_PART_SIZE_BYTES, parse_go_int)
    if not MIN_PART_SIZE_BYTES <= size <= _MAX_PART_SIZE_BYTES:
        raise ConfigurationError(
            f"{name} is {size} bytes and S3 accepts parts of {MIN_PART_SIZE_BYTES} (5 MiB) to "
            f"{_MAX_PART_SIZE_BYTES} (5 GiB); write a number in that range, or unset it"
        )
    return size


def _read_sse(env: Mapping[str, str]) -> str:
    text = _trimmed(env, "BUBU_S3_SSE").lower()
    if not text:
        return ""
    name = _SSE_NAMES.get(text)
    if name is None:
        raise ConfigurationError(f"BUBU_S3_SSE is {text!r}; it must be one of {', '.join(_SSE_NAMES)}")
    return name


def _read_engine(env: Mapping[str, str]) -> str:
    engine = _trimmed(env, "BUBU_S3_ENGINE").lower() or "auto"
    if engine not in S3_ENGINES:
        raise ConfigurationError(f"BUBU_S3_ENGINE is {engine!r}; it must be one of {', '.join(S3_ENGINES)}")
    return engine


def _trimmed(env: Mapping[str, str], name: str) -> str:
    return trim_go_space(env.get(name, ""))


def _s3_positive(env: Mapping[str, str], name: str, default: _T, parse: Callable[[str], _T]) -> _T:
    """`_positive` for the S3 family, whose values are trimmed."""
    return _positive({name: _trimmed(env, name)}, name, default, parse)


def _positive(env: Mapping[str, str], name: str, default: _T, parse: Callable[[str], _T]) -> _T:
    """Return a number above 0, or the default, with one log line for each bad value."""
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = parse(text)
        if value > 0:
            return value
        reason = "it must be above 0"
    except ValueError as error:
        reason = str(error)
    if (name, text) not in _warned:
        _warned.add((name, text))
        _log.warning("%s is %r: %s; using the default, %s", name, text, reason, default)
    return default
