"""What a config puts into a pod: its environment, volumes and mounts, as one plan.

The store's part is `bubu_storage.apply_env.storage_requirements`; this module adds what
ApplyEnv lacks: credentials under the names that the Go library reads once an endpoint is
set, limits, prefixes, encryption, the certificate authority and the pod's namespace.

Every value the config has is written, defaults included: a pod then shows what it runs
with, and a default that changes in a later release does not change running workloads.
The order is fixed: store, credentials, addressing and timeout as ApplyEnv writes them, then
the additions in the order of `_additions`. Values are literal: a ``$`` is doubled, so that
Kubernetes does not expand references in them.

Variables belong to groups that are used whole or not at all (see `Group`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

from bubu_operator.api.v1alpha1.store import ClusterS3Spec, ConflictPolicy, FileSpec, InjectionSpec, S3Spec
from bubu_storage.apply_env import (
    ENV_AWS_ACCESS_KEY_ID,
    ENV_AWS_SECRET_ACCESS_KEY,
    ENV_AWS_SESSION_TOKEN,
    ENV_S3_FORCE_PATH_STYLE,
    ENV_STORAGE_PATH,
    ENV_STORAGE_PROVIDER,
    ENV_STORAGE_S3_BUCKET,
    ENV_STORAGE_S3_ENDPOINT,
    ENV_STORAGE_S3_REGION,
    ENV_STORAGE_TIMEOUT,
    ApplyEnvConfig,
    FileEnvConfig,
    Json,
    S3EnvConfig,
    secret_env,
    storage_requirements,
    timeout_text,
    value_env,
)
from bubu_storage.wire import VOLUME_NAME

__all__ = [
    "CA_FILE",
    "CA_MOUNT_PATH",
    "CA_VOLUME_NAME",
    "GROUP_VARIABLES",
    "INJECTABLE_VARIABLES",
    "NAMESPACE_VARIABLES",
    "OUR_VOLUMES",
    "Group",
    "InjectionPlan",
    "PlannedEnv",
    "StoreLimits",
    "canonical_json",
    "env_digest",
    "make_plan",
    "mount_digest",
    "volume_identity",
]

CA_VOLUME_NAME: Final = "bubu-storage-ca"
CA_MOUNT_PATH: Final = "/var/run/bubu/ca"
CA_FILE: Final = "ca.crt"
OUR_VOLUMES: Final = frozenset({VOLUME_NAME, CA_VOLUME_NAME})

_AWS_NAMES: Final = (ENV_AWS_ACCESS_KEY_ID, ENV_AWS_SECRET_ACCESS_KEY, ENV_AWS_SESSION_TOKEN)
_BUBU_NAMES: Final = ("BUBU_S3_ACCESS_KEY_ID", "BUBU_S3_SECRET_ACCESS_KEY", "BUBU_S3_SESSION_TOKEN")
_POD_NAMESPACE: Final = "BUBU_POD_NAMESPACE"
_CA_BUNDLE: Final = "AWS_CA_BUNDLE"
_CONFIG_MAP_FILE_MODE: Final = 0o644

NAMESPACE_VARIABLES: Final = frozenset(
    {_POD_NAMESPACE, "BUBU_STEPRUN_NAMESPACE", "BUBU_TARGET_STORY_NAMESPACE", "BUBU_IMPULSE_NAMESPACE"}
)
"""Where references to ConfigMaps and Secrets look for the workload's namespace.

``BUBU_POD_NAMESPACE`` is read first, so it is added only where none of them is set: it
must not shadow what the workflow engine says.
"""


class Group(StrEnum):
    """Variables (with their volumes and mounts) that only make sense together."""

    STORE = "provider and coordinates"
    CREDENTIALS = "credentials"
    CERTIFICATE_AUTHORITY = "certificate authority"


GROUP_VARIABLES: Final[dict[Group, frozenset[str]]] = {
    Group.STORE: frozenset(
        {
            ENV_STORAGE_PROVIDER,
            ENV_STORAGE_PATH,
            ENV_STORAGE_S3_BUCKET,
            ENV_STORAGE_S3_REGION,
            ENV_STORAGE_S3_ENDPOINT,
            ENV_S3_FORCE_PATH_STYLE,
            "BUBU_S3_TLS",
        }
    ),
    Group.CREDENTIALS: frozenset({*_AWS_NAMES, *_BUBU_NAMES}),
    Group.CERTIFICATE_AUTHORITY: frozenset({_CA_BUNDLE}),
}
"""A container that sets any variable of a group has an opinion about the whole group."""

_SETTINGS: Final = (
    *("BUBU_S3_SSE", "BUBU_S3_SSE_KMS_KEY", "BUBU_S3_MAX_PART_SIZE", "BUBU_S3_CONCURRENCY"),
    *("BUBU_S3_MAX_RETRIES", "BUBU_S3_MAX_BACKOFF", "BUBU_S3_TIMEOUT", ENV_STORAGE_TIMEOUT),
    *("BUBU_MAX_INLINE_SIZE", "BUBU_MAX_RECURSION_DEPTH"),
    *("BUBU_STORAGE_OUTPUT_PREFIX", "BUBU_STORAGE_INPUT_PREFIX", _POD_NAMESPACE),
)

INJECTABLE_VARIABLES: Final = frozenset(_SETTINGS).union(*GROUP_VARIABLES.values())
"""Every name that any config may write; nothing else in a pod can ever be ours.

A name that a later release no longer writes stays here: pods that carry it must still be cleaned.
"""

_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_GROUP_OF: Final = {name: group for group, names in GROUP_VARIABLES.items() for name in names}
_GROUP_OF_VOLUME: Final = {VOLUME_NAME: Group.STORE, CA_VOLUME_NAME: Group.CERTIFICATE_AUTHORITY}


@dataclass(frozen=True, slots=True)
class PlannedEnv:
    """One variable of a plan.

    Attributes:
        entry: the ``EnvVar`` object; never modified.
        name: its name.
        digest: `env_digest` of the entry.
        group: the group it belongs to; None for one that stands alone.
        unless: it is left out, silently, of a container that sets any of these itself.
    """

    entry: Json
    name: str
    digest: str
    group: Group | None
    unless: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class InjectionPlan:
    """Everything that a config wants of a container and its pod.

    Attributes:
        env: in the order in which it is written.
        volumes: by group.
        mounts: by group.
        containers: names of the containers to inject; None for all.
        conflict_policy: what happens to variables that a container sets itself.
        service_account: account that pods must run under to reach the store; "" for any.
        hash: changes exactly when any of the above does; 16 hex digits.
    """

    env: tuple[PlannedEnv, ...]
    volumes: tuple[tuple[Group, Json], ...]
    mounts: tuple[tuple[Group, Json], ...]
    containers: frozenset[str] | None
    conflict_policy: ConflictPolicy
    service_account: str
    hash: str

    def __hash__(self) -> int:
        """By the fingerprint: plans are keys of what is worked out once for each."""
        return hash(self.hash)


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """The settings of a config that are not about its provider, as the CRD names them."""

    timeout_seconds: int
    max_inline_size: int
    max_recursion_depth: int
    output_prefix: str
    input_prefix: str


def make_plan(
    *,
    s3: S3Spec | ClusterS3Spec | None,
    file: FileSpec | None,
    limits: StoreLimits,
    injection: InjectionSpec,
) -> InjectionPlan:
    """Work out what pods get from a config; exactly one of `s3` and `file` is given.

    Raises:
        ValueError: the config holds something that the API server would refuse in a pod.
    """
    needs = storage_requirements(_apply_env_config(s3, file), timeout_text(limits.timeout_seconds))
    env = [_literal(entry) for entry in needs.env]
    volumes, mounts = list(needs.volumes), list(needs.mounts)
    if s3 is not None:
        env += _s3_additions(s3)
        if s3.tls is not None and s3.tls.ca_bundle is not None:
            volume, mount = _ca_files(s3.tls.ca_bundle.config_map_ref)
            volumes.append(volume)
            mounts.append(mount)
    env += _limit_env(limits)
    planned = [_planned(entry) for entry in env]
    planned.append(_planned(_namespace_env(), unless=NAMESPACE_VARIABLES))
    containers = None if injection.containers is None else frozenset(injection.containers)
    service_account = ""
    if s3 is not None and s3.authentication.service_account is not None:
        service_account = s3.authentication.service_account.name
    content = {
        "env": [item.entry for item in planned],
        "volumes": volumes,
        "mounts": mounts,
        "containers": None if containers is None else sorted(containers),
        "conflictPolicy": injection.conflict_policy.value,
        "serviceAccount": service_account,
    }
    return InjectionPlan(
        env=tuple(planned),
        volumes=tuple((_GROUP_OF_VOLUME[volume["name"]], volume) for volume in volumes),
        mounts=tuple((_GROUP_OF_VOLUME[mount["name"]], mount) for mount in mounts),
        containers=containers,
        conflict_policy=injection.conflict_policy,
        service_account=service_account,
        hash=_digest(content, length=16),
    )


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values; ASCII only."""
    return _canonical(value)


def env_digest(entry: Json) -> str:
    """Fingerprint of a variable's meaning.

    Fields that the API server fills in or leaves out do not count: an empty ``value``, and
    the ``apiVersion`` of a field reference.
    """
    source: Json = dict(entry.get("valueFrom") or {})
    field_ref = source.get("fieldRef")
    if isinstance(field_ref, dict):
        source["fieldRef"] = {"apiVersion": "v1", **field_ref}
    return _digest([entry.get("name"), entry.get("value") or "", source], length=12)


def mount_digest(mount: Json) -> str:
    """Fingerprint of a mount; fields that are unset or false do not count."""
    return _digest({key: value for key, value in mount.items() if value}, length=12)


def volume_identity(volume: Json) -> str:
    """What a volume is, as ``persistentVolumeClaim:claim`` or ``emptyDir:``.

    Sizes, modes and other details are left out: the API server rewrites them.
    """
    kinds = sorted(key for key, value in volume.items() if key != "name" and value is not None)
    kind = kinds[0] if kinds else "emptyDir"
    source = volume.get(kind)
    if not isinstance(source, dict):
        return f"{kind}:"
    fields = cast("Json", source)
    return f"{kind}:{fields.get('claimName') or fields.get('name') or ''}"


def _apply_env_config(s3: S3Spec | ClusterS3Spec | None, file: FileSpec | None) -> ApplyEnvConfig:
    if s3 is not None:
        ref = s3.authentication.secret_ref
        keys = _AWS_NAMES
        if ref is not None:
            keys = (ref.keys.access_key_id, ref.keys.secret_access_key, ref.keys.session_token)
            for key in keys:
                _check_key(key)
        return ApplyEnvConfig(
            s3=S3EnvConfig(
                bucket=s3.bucket,
                region=s3.region or "",
                endpoint=s3.endpoint or "",
                secret_name="" if ref is None else ref.name,
                use_path_style=s3.path_style,
                secret_keys=keys,
            )
        )
    if file is None:
        raise ValueError("neither s3 nor file is set")
    empty_dir: Json = {}
    if file.empty_dir is not None:
        if file.empty_dir.medium:
            empty_dir["medium"] = file.empty_dir.medium
        if file.empty_dir.size_limit is not None:
            empty_dir["sizeLimit"] = file.empty_dir.size_limit
    return ApplyEnvConfig(
        file=FileEnvConfig(
            path=file.mount_path, volume_claim_name=file.volume_claim_name or "", empty_dir=empty_dir
        )
    )


def _s3_additions(s3: S3Spec | ClusterS3Spec) -> list[Json]:
    env: list[Json] = []
    ref = s3.authentication.secret_ref
    if ref is not None:
        access, secret, token = _BUBU_NAMES
        env += [
            secret_env(access, ref.name, ref.keys.access_key_id),
            secret_env(secret, ref.name, ref.keys.secret_access_key),
            secret_env(token, ref.name, ref.keys.session_token, optional=True),
        ]
    # With an endpoint the reader's default is path style, so an explicit "no" must be said.
    if s3.endpoint is not None and not s3.path_style:
        env.append(value_env(ENV_S3_FORCE_PATH_STYLE, "false"))
    settings: tuple[tuple[str, object], ...] = (
        ("BUBU_S3_SSE", None if s3.sse is None else s3.sse.value),
        ("BUBU_S3_SSE_KMS_KEY", s3.sse_kms_key_id),
        ("BUBU_S3_MAX_PART_SIZE", s3.max_part_size),
        ("BUBU_S3_CONCURRENCY", s3.concurrency),
        ("BUBU_S3_MAX_RETRIES", s3.max_attempts),
        ("BUBU_S3_MAX_BACKOFF", _seconds(s3.max_backoff_seconds)),
        ("BUBU_S3_TIMEOUT", _seconds(s3.request_timeout_seconds)),
    )
    env += [_literal(value_env(name, str(value))) for name, value in settings if value is not None]
    if s3.tls is not None and s3.tls.ca_bundle is not None:
        env.append(value_env(_CA_BUNDLE, f"{CA_MOUNT_PATH}/{CA_FILE}"))
    return env


def _limit_env(limits: StoreLimits) -> Iterable[Json]:
    return (
        value_env("BUBU_MAX_INLINE_SIZE", str(limits.max_inline_size)),
        value_env("BUBU_MAX_RECURSION_DEPTH", str(limits.max_recursion_depth)),
        _literal(value_env("BUBU_STORAGE_OUTPUT_PREFIX", limits.output_prefix)),
        _literal(value_env("BUBU_STORAGE_INPUT_PREFIX", limits.input_prefix)),
    )


def _namespace_env() -> Json:
    # apiVersion as the API server would fill it in: what is stored equals what we wrote.
    return {
        "name": _POD_NAMESPACE,
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
    }


def _ca_files(ref: Any) -> tuple[Json, Json]:
    """Volume and mount of a certificate authority; the file's name does not depend on the key's."""
    _check_key(ref.key)
    volume = {
        "name": CA_VOLUME_NAME,
        "configMap": {
            "name": ref.name,
            "items": [{"key": ref.key, "path": CA_FILE}],
            "defaultMode": _CONFIG_MAP_FILE_MODE,
        },
    }
    return volume, {"name": CA_VOLUME_NAME, "mountPath": CA_MOUNT_PATH, "readOnly": True}


def _check_key(key: str) -> None:
    """Refuse what the API server refuses as a key in a pod, so that no pod fails because of us.

    Raises:
        ValueError: it is no valid key of a Secret or ConfigMap.
    """
    if key == "." or key.startswith(".."):
        raise ValueError(
            f"{key!r} is no valid key of a Secret or ConfigMap: it must not be '.' or begin with '..'"
        )


def _planned(entry: Json, *, unless: frozenset[str] = frozenset()) -> PlannedEnv:
    name: str = entry["name"]
    return PlannedEnv(entry, name, env_digest(entry), _GROUP_OF.get(name), unless)


def _literal(entry: Json) -> Json:
    value = entry.get("value")
    return {**entry, "value": value.replace("$", "$$")} if isinstance(value, str) and "$" in value else entry


def _seconds(value: int | None) -> str | None:
    return None if value is None else f"{value}s"


def _digest(value: Any, *, length: int) -> str:
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()[:length]
