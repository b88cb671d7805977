"""What a store's configuration means for a pod, and ApplyEnv: writing it into one container.

`storage_requirements` is the only place that lists the environment, volumes and mounts
a store needs; injection builds on it. `apply_env` writes them with exactly the semantics
of BubuStack's Go function (its vectors are in the tests): replace in place or append,
never remove.

Everything is pure: plain dicts in the Kubernetes API's JSON form go in, new dicts come
out, inputs are never modified (outputs may share unmodified parts with them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bubu_storage.errors import ConfigurationError
from bubu_storage.goduration import parse_go_duration, trim_go_space
from bubu_storage.wire import DEFAULT_FILE_PATH, VOLUME_NAME

__all__ = [
    "ENV_AWS_ACCESS_KEY_ID",
    "ENV_AWS_SECRET_ACCESS_KEY",
    "ENV_AWS_SESSION_TOKEN",
    "ENV_S3_FORCE_PATH_STYLE",
    "ENV_STORAGE_PATH",
    "ENV_STORAGE_PROVIDER",
    "ENV_STORAGE_S3_BUCKET",
    "ENV_STORAGE_S3_ENDPOINT",
    "ENV_STORAGE_S3_REGION",
    "ENV_STORAGE_TIMEOUT",
    "AmbiguousProviderError",
    "ApplyEnvConfig",
    "ApplyResult",
    "FileEnvConfig",
    "InvalidTimeoutError",
    "Json",
    "Requirements",
    "S3EnvConfig",
    "apply_env",
    "secret_env",
    "storage_requirements",
    "timeout_text",
    "try_apply_env",
    "value_env",
]

Json: TypeAlias = dict[str, Any]
"""One object of the Kubernetes API in its JSON form."""

ENV_STORAGE_PROVIDER: Final = "BUBU_STORAGE_PROVIDER"
ENV_STORAGE_PATH: Final = "BUBU_STORAGE_PATH"
ENV_STORAGE_S3_BUCKET: Final = "BUBU_STORAGE_S3_BUCKET"
ENV_STORAGE_S3_REGION: Final = "BUBU_STORAGE_S3_REGION"
ENV_STORAGE_S3_ENDPOINT: Final = "BUBU_STORAGE_S3_ENDPOINT"
ENV_STORAGE_TIMEOUT: Final = "BUBU_STORAGE_TIMEOUT"
ENV_S3_FORCE_PATH_STYLE: Final = "BUBU_S3_FORCE_PATH_STYLE"
ENV_AWS_ACCESS_KEY_ID: Final = "AWS_ACCESS_KEY_ID"
ENV_AWS_SECRET_ACCESS_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 (a variable's name)
ENV_AWS_SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105 (a variable's name)


class AmbiguousProviderError(ConfigurationError):
    """Both an S3 and a file store are set."""


class InvalidTimeoutError(ConfigurationError):
    """The timeout is no Go duration."""


@dataclass(frozen=True, slots=True)
class S3EnvConfig:
    """An S3 store as pods see it (Go: the S3 part of ApplyEnv's configuration).

    Attributes:
        bucket, region, endpoint: written as they are, when not empty.
        secret_name: Secret that holds the credentials; "" for none.
        secret_keys: its keys for access key id, secret access key and session token (the
            Go function knows the ``AWS_*`` names only, which are the default).
        use_path_style: True writes ``BUBU_S3_FORCE_PATH_STYLE=true``; False writes nothing.
    """

    bucket: str = ""
    region: str = ""
    endpoint: str = ""
    secret_name: str = ""
    use_path_style: bool = False
    secret_keys: tuple[str, str, str] = (
        ENV_AWS_ACCESS_KEY_ID,
        ENV_AWS_SECRET_ACCESS_KEY,
        ENV_AWS_SESSION_TOKEN,
    )


@dataclass(frozen=True, slots=True)
class FileEnvConfig:
    """A directory as a store.

    Attributes:
        path: where it is mounted; blank means ``/var/run/bubu/storage``.
        volume_claim_name: PersistentVolumeClaim to mount; wins over `empty_dir`.
        empty_dir: an ``emptyDir`` volume source, or None for ``{}``.
    """

    path: str = ""
    volume_claim_name: str = ""
    empty_dir: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ApplyEnvConfig:
    """One store: `s3` or `file`, not both; neither means that there is nothing to apply."""

    s3: S3EnvConfig | None = None
    file: FileEnvConfig | None = None

    @classmethod
    def from_peer(cls, data: Mapping[str, Any] | None) -> ApplyEnvConfig | None:
        """Read the Go struct's JSON form, as used by the vectors of the Go implementation.

        Args:
            data: ``{"S3": {"Bucket", "Region", "Endpoint", "SecretName", "UsePathStyle"},
                "File": {"Path", "VolumeClaimName", "EmptyDir"}}``, all optional; None for no
                configuration.
        """
        if data is None:
            return None
        s3, file = data.get("S3"), data.get("File")
        return cls(
            s3=None
            if s3 is None
            else S3EnvConfig(
                bucket=s3.get("Bucket") or "",
                region=s3.get("Region") or "",
                endpoint=s3.get("Endpoint") or "",
                secret_name=s3.get("SecretName") or "",
                use_path_style=bool(s3.get("UsePathStyle")),
            ),
            file=None
            if file is None
            else FileEnvConfig(
                path=file.get("Path") or "",
                volume_claim_name=file.get("VolumeClaimName") or "",
                empty_dir=file.get("EmptyDir"),
            ),
        )


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a pod needs for a store, in the order in which it is written.

    Attributes:
        env: ``EnvVar`` objects of a container.
        volumes: ``Volume`` objects of the pod.
        mounts: ``VolumeMount`` objects of a container.
    """

    env: tuple[Json, ...] = ()
    volumes: tuple[Json, ...] = ()
    mounts: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """Outcome of `apply_env`.

    Attributes:
        pod_spec: the pod spec afterwards; when the given container was one of its own, it
            holds the new container in its place.
        container: the container afterwards.
        changed: whether anything differs from the input.
    """

    pod_spec: Json | None
    container: Json | None
    changed: bool


def value_env(name: str, value: str) -> Json:
    """An ``EnvVar`` with a literal value."""
    return {"name": name, "value": value}


def secret_env(name: str, secret_name: str, key: str, *, optional: bool = False) -> Json:
    """An ``EnvVar`` read from a Secret's key; `optional` lets the pod start without it."""
    ref: Json = {"name": secret_name, "key": key}
    if optional:
        ref["optional"] = True
    return {"name": name, "valueFrom": {"secretKeyRef": ref}}


def timeout_text(timeout_seconds: int | None, fallback_seconds: int | None = None) -> str:
    """The text for `apply_env` from a policy's seconds: first positive one as ``<n>s``, else ""."""
    for seconds in (timeout_seconds, fallback_seconds):
        if seconds is not None and seconds > 0:
            return f"{seconds}s"
    return ""


def storage_requirements(config: ApplyEnvConfig, timeout: str = "") -> Requirements:
    """List what a container needs to reach the store.

    Args:
        config: the store.
        timeout: a Go duration, written verbatim after trimming; blank writes none.

    Raises:
        AmbiguousProviderError: both providers are set.
        InvalidTimeoutError: `timeout` is no Go duration.
    """
    if config.s3 is not None and config.file is not None:
        raise AmbiguousProviderError("a storage configuration must set s3 or file, not both")
    timeout = trim_go_space(timeout)
    timeout_env: tuple[Json, ...] = ()
    if timeout:
        try:
            parse_go_duration(timeout)
        except ValueError as error:
            raise InvalidTimeoutError(f"storage timeout: {error}; write it like 300s or 5m") from error
        timeout_env = (value_env(ENV_STORAGE_TIMEOUT, timeout),)
    if config.s3 is not None:
        return Requirements(env=(*_s3_env(config.s3), *timeout_env))
    if config.file is not None:
        path = trim_go_space(config.file.path) or DEFAULT_FILE_PATH
        return Requirements(
            env=(value_env(ENV_STORAGE_PROVIDER, "file"), value_env(ENV_STORAGE_PATH, path), *timeout_env),
            volumes=(_file_volume(config.file),),
            mounts=({"name": VOLUME_NAME, "mountPath": path},),
        )
    return Requirements()


def apply_env(
    config: ApplyEnvConfig | None,
    pod_spec: Json | None,
    container: Json | None,
    timeout: str = "",
) -> ApplyResult:
    """Write a store's requirements into one container (Go: ApplyEnv, the variant with an error).

    The first variable of a name is replaced whole, in place; new ones go to the end. A
    volume of our name that exists is left alone, whatever it is. Nothing is removed.

    Args:
        config: the store; None does nothing.
        pod_spec: receives the volume; None writes environment and mount only.
        container: a container, usually one of `pod_spec`'s own; None does nothing.
        timeout: a Go duration, or blank.

    Raises:
        AmbiguousProviderError: both providers are set.
        InvalidTimeoutError: `timeout` is no Go duration.
    """
    if config is None or container is None:
        return ApplyResult(pod_spec, container, changed=False)
    needs = storage_requirements(config, timeout)
    after = _with_env(container, needs.env)
    after = _with_mounts(after, needs.mounts)
    if pod_spec is None:
        return ApplyResult(None, after, changed=after != container)
    spec = _with_volumes(pod_spec, needs.volumes)
    spec = _with_container(spec, container, after)
    return ApplyResult(spec, after, changed=after != container or spec != pod_spec)


def try_apply_env(
    config: ApplyEnvConfig | None,
    pod_spec: Json | None,
    container: Json | None,
    timeout: str = "",
) -> ApplyResult:
    """`apply_env` that returns its input unchanged where `apply_env` would raise."""
    try:
        return apply_env(config, pod_spec, container, timeout)
    except ConfigurationError:
        return ApplyResult(pod_spec, container, changed=False)


def _s3_env(s3: S3EnvConfig) -> tuple[Json, ...]:
    """Variables of an S3 store, in the peer's order."""
    env = [value_env(ENV_STORAGE_PROVIDER, "s3")]
    coordinates = (
        (ENV_STORAGE_S3_BUCKET, s3.bucket),
        (ENV_STORAGE_S3_REGION, s3.region),
        (ENV_STORAGE_S3_ENDPOINT, s3.endpoint),
    )
    env += [value_env(name, value) for name, value in coordinates if value]
    if s3.secret_name:
        access, secret, token = s3.secret_keys
        env += [
            secret_env(ENV_AWS_ACCESS_KEY_ID, s3.secret_name, access),
            secret_env(ENV_AWS_SECRET_ACCESS_KEY, s3.secret_name, secret),
            secret_env(ENV_AWS_SESSION_TOKEN, s3.secret_name, token, optional=True),
        ]
    if s3.use_path_style:
        env.append(value_env(ENV_S3_FORCE_PATH_STYLE, "true"))
    return tuple(env)


def _file_volume(file: FileEnvConfig) -> Json:
    """The pod's volume of a file store."""
    if file.volume_claim_name:
        return {"name": VOLUME_NAME, "persistentVolumeClaim": {"claimName": file.volume_claim_name}}
    return {"name": VOLUME_NAME, "emptyDir": dict(file.empty_dir or {})}


def _with_env(container: Json, wanted: tuple[Json, ...]) -> Json:
    env: list[Json] = list(container.get("env") or ())
    for entry in wanted:
        index = next((i for i, old in enumerate(env) if old.get("name") == entry["name"]), None)
        if index is None:
            env.append(entry)
        else:
            env[index] = entry
    return {**container, "env": env} if wanted else container


def _with_mounts(container: Json, wanted: tuple[Json, ...]) -> Json:
    mounts: list[Json] = list(container.get("volumeMounts") or ())
    present = {(mount.get("name"), mount.get("mountPath")) for mount in mounts}
    missing = [mount for mount in wanted if (mount["name"], mount["mountPath"]) not in present]
    return {**container, "volumeMounts": [*mounts, *missing]} if missing else container


def _with_volumes(pod_spec: Json, wanted: tuple[Json, ...]) -> Json:
    volumes: list[Json] = list(pod_spec.get("volumes") or ())
    present = {volume.get("name") for volume in volumes}
    missing = [volume for volume in wanted if volume["name"] not in present]
    return {**pod_spec, "volumes": [*volumes, *missing]} if missing else pod_spec


def _with_container(pod_spec: Json, before: Json, after: Json) -> Json:
    """Put the new container where the old one (the same object) stands."""
    for field in ("containers", "initContainers"):
        containers: list[Json] = pod_spec.get(field) or []
        if any(item is before for item in containers):
            return {**pod_spec, field: [after if item is before else item for item in containers]}
    return pod_spec
