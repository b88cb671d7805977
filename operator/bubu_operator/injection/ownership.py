"""What an earlier injection left in a pod, and how to take out exactly that.

The record is one annotation. An entry counts as ours only while it still is what we
wrote: variables are compared by `env_digest`, mounts by `mount_digest`, volumes by
`volume_identity`. Whatever somebody has changed since is theirs. And nothing is ours that no
config could ever have written: variables of other names, mounts of other volumes. Hence a
record that is malformed or forged can never remove anything but what reads, word for word,
like an injection.

The record also keeps the variables that ``conflictPolicy: Override`` took out, with their
places, so that `strip` gives back what the user wrote. They are in the same object as
they were before, readable by the same people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from bubu_operator.injection.environment import (
    INJECTABLE_VARIABLES,
    OUR_VOLUMES,
    canonical_json,
    env_digest,
    mount_digest,
    volume_identity,
)
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.podspec import CONTAINER_FIELDS, child, items_of, texts_of
from bubu_storage.apply_env import Json

__all__ = [
    "ContainerRecord",
    "InjectionRecord",
    "Stripped",
    "dump_record",
    "read_record",
    "strip",
]

RECORD_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """What we own in one container.

    Attributes:
        env: variable name → digest of the entry as we wrote it.
        mounts: digests of mounts as we wrote them.
        replaced: the user's variables that were taken out, each with its index among the
            user's own, ascending.
        env_text: `env` as canonical JSON where somebody has it already, else "".
    """

    env: Mapping[str, str] = field(default_factory=dict[str, str])
    mounts: tuple[str, ...] = ()
    replaced: tuple[tuple[int, Json], ...] = ()
    env_text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class InjectionRecord:
    """The annotation's content.

    Attributes:
        kind, namespace, name, generation: the config that was injected.
        hash: its plan's hash.
        containers: by container name; names are unique in a pod, init containers included.
        volumes: volume name → identity as we wrote it.
    """

    kind: str
    namespace: str
    name: str
    generation: int
    hash: str
    containers: Mapping[str, ContainerRecord] = field(default_factory=dict[str, ContainerRecord])
    volumes: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def config_name(self) -> tuple[str, str, str]:
        """As `InjectionConfig.config_name` of the config that was injected."""
        return self.kind, self.namespace, self.name

    @property
    def config_text(self) -> str:
        """As the config's own text: ``StorageConfig flows/main``."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Stripped:
    """A pod without what is ours.

    Attributes:
        pod: the user's pod; the very input where nothing was ours.
        volumes: the volumes that were taken out, in case somebody else mounts them.
    """

    pod: Json
    volumes: tuple[Json, ...] = ()


def dump_record(record: InjectionRecord) -> str:
    """The annotation's text: compact, deterministic JSON."""
    # Put together from texts: most records repeat a part that is encoded already (`EnvPart`).
    containers = ",".join(
        f"{canonical_json(name)}:{_container_text(owned)}"
        for name, owned in sorted(record.containers.items())
    )
    config: Json = {"kind": record.kind, "name": record.name, "generation": record.generation}
    if record.namespace:
        config["namespace"] = record.namespace
    volumes = f',"volumes":{canonical_json(dict(record.volumes))}' if record.volumes else ""
    return (
        f'{{"config":{canonical_json(config)},"containers":{{{containers}}},'
        f'"hash":{canonical_json(record.hash)},"v":{RECORD_VERSION}{volumes}}}'
    )


def _container_text(owned: ContainerRecord) -> str:
    text = f'{{"env":{owned.env_text or canonical_json(dict(owned.env))}'
    if owned.mounts:
        text += f',"mounts":{canonical_json(owned.mounts)}'
    if owned.replaced:
        text += f',"replaced":{canonical_json(owned.replaced)}'
    return text + "}"


def read_record(pod: Json) -> tuple[InjectionRecord | None, str]:
    """Read the record of a pod (or pod template).

    Returns:
        The record and "", or None and why the annotation cannot be used; (None, "") where
        there is none.
    """
    text = texts_of(child(pod, "metadata"), "annotations").get(RECORD_ANNOTATION)
    if text is None:
        return None, ""
    try:
        return _parse_record(json.loads(text)), ""
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        return None, f"the annotation {RECORD_ANNOTATION} is not one that this operator wrote; it is ignored"


def strip(pod: Json, record: InjectionRecord) -> Stripped:
    """Take out what the record says is ours and still is as we wrote it; give back what we replaced."""
    metadata = dict(child(pod, "metadata"))
    for field_name, ours in (("labels", INJECTED_LABEL), ("annotations", RECORD_ANNOTATION)):
        texts = texts_of(metadata, field_name)
        if ours in texts:
            _set_or_drop(metadata, field_name, {key: value for key, value in texts.items() if key != ours})
    spec = dict(child(pod, "spec"))
    for field_name in CONTAINER_FIELDS:
        containers = items_of(spec, field_name)
        if containers:
            spec[field_name] = [_strip_container(container, record) for container in containers]
    kept: list[Json] = []
    removed: list[Json] = []
    for volume in items_of(spec, "volumes"):
        name = volume["name"]
        ours = name in OUR_VOLUMES and record.volumes.get(name) == volume_identity(volume)
        (removed if ours else kept).append(volume)
    if removed:
        _set_or_drop(spec, "volumes", kept)
    result = {**pod, "spec": spec}
    _set_or_drop(result, "metadata", metadata)
    return Stripped(result, tuple(removed))


def _strip_container(container: Json, record: InjectionRecord) -> Json:
    owned = record.containers.get(container["name"])
    if owned is None:
        return container
    env: list[Json] = []
    unseen = {name: digest for name, digest in owned.env.items() if name in INJECTABLE_VARIABLES}
    for entry in items_of(container, "env"):
        name = entry["name"]
        if name in unseen and unseen[name] == env_digest(entry):
            del unseen[name]
        else:
            env.append(entry)
    # A variable that somebody has set again since is newer than the one that we put aside.
    newer = {entry["name"] for entry in env}
    for index, entry in owned.replaced:
        if entry["name"] not in newer:
            env.insert(min(index, len(env)), entry)
    mounts = [
        mount
        for mount in items_of(container, "volumeMounts")
        if mount["name"] not in OUR_VOLUMES or mount_digest(mount) not in owned.mounts
    ]
    result = dict(container)
    for key, after in (("env", env), ("volumeMounts", mounts)):
        if after != items_of(container, key):
            _set_or_drop(result, key, after)
    return result


def _set_or_drop(target: Json, key: str, value: Any) -> None:
    """What is empty without our part is left out, as the API server does."""
    if value:
        target[key] = value
    else:
        target.pop(key, None)


def _parse_record(content: Any) -> InjectionRecord:
    """Check every type; the text may come from anybody.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is no record.
    """
    if content["v"] != RECORD_VERSION:
        raise ValueError("another version")
    config = content["config"]
    containers = {
        _text(name): ContainerRecord(
            env={_text(key): _text(value) for key, value in entry["env"].items()},
            mounts=tuple(_text(digest) for digest in entry.get("mounts", [])),
            replaced=tuple((_index(index), _variable(item)) for index, item in entry.get("replaced", [])),
        )
        for name, entry in content["containers"].items()
    }
    return InjectionRecord(
        kind=_text(config["kind"]),
        namespace=_text(config.get("namespace", "")),
        name=_text(config["name"]),
        generation=_index(config["generation"]),
        hash=_text(content["hash"]),
        containers=containers,
        volumes={_text(key): _text(value) for key, value in content.get("volumes", {}).items()},
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _index(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a number")
    return value


def _variable(value: Any) -> Json:
    if not isinstance(value, dict):
        raise TypeError("not a variable")
    entry = cast("Json", value)
    _text(entry["name"])
    # null is as good as absent, as in `pod_problem`: the user's entry comes back as it was written.
    if not isinstance(entry.get("value"), str | None) or not isinstance(entry.get("valueFrom"), dict | None):
        raise TypeError("not a variable")
    return entry
