"""Put a config into a pod: strip what an earlier injection left, then add, then record.

Because every injection starts from the pod as its user wrote it, the result depends on
that pod and on the config alone: ``f(f(x)) = f(x)``, and ``f_B(f_A(x)) = f_B(x)`` for any
two configs. The input is never modified; unmodified parts are shared with the output.

Ours come first in a container's environment, so that the user's ``$(BUBU_…)`` resolve.
What a container sets itself is kept, group by group (`Group`), or replaced, by the
config's conflictPolicy. Volumes and mounts of the user's are never touched.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.containers import ALL_GROUPS, EnvPart, FilledContainer, fill_container
from bubu_operator.injection.environment import Group, InjectionPlan, volume_identity
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.ownership import (
    InjectionRecord,
    Stripped,
    dump_record,
    read_record,
    strip,
)
from bubu_operator.injection.podspec import (
    CONTAINER_FIELDS,
    all_containers,
    child,
    items_of,
    pod_problem,
    texts_of,
)
from bubu_storage.apply_env import Json

__all__ = [
    "ContainerOutcome",
    "InjectionReason",
    "InjectionResult",
    "inject_pod",
    "label_value",
    "remove_injection",
]

MAX_LABEL_CHARACTERS: Final = 63
MAX_ANNOTATIONS_BYTES: Final = 256 * 1024
"""The API server's limit for all annotations of an object together."""

_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


class InjectionReason(StrEnum):
    """Outcome of an injection."""

    INJECTED = "Injected"
    ALREADY_INJECTED = "AlreadyInjected"
    REMOVED = "Removed"
    NOTHING_TO_REMOVE = "NothingToRemove"
    NO_MATCHING_CONTAINER = "NoMatchingContainer"
    ALL_KEPT = "AllKept"
    RECORD_TOO_LARGE = "RecordTooLarge"
    INVALID_CONFIG = "InvalidConfig"
    MALFORMED_POD = "MalformedPod"


@dataclass(frozen=True, slots=True)
class ContainerOutcome:
    """What became of one container, for explanations.

    Attributes:
        name: the container's.
        env: names of the variables that are ours in it, in their order.
        mounts: volumes of ours that it mounts.
        kept: groups and variables of the user's that stand against the config's, in words.
        clashes: what is mounted where ours would be, in words.
    """

    name: str
    env: tuple[str, ...]
    mounts: tuple[str, ...]
    kept: tuple[str, ...]
    clashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InjectionResult:
    """What came out.

    Attributes:
        pod: the pod afterwards; the very input object when nothing changed.
        changed: whether it differs.
        warnings: for the person who creates the pod; one sentence each, no values.
        reason: machine-readable outcome.
        containers: one by one, those that the config is for; empty where none was looked at.
        parts: what was put before each container's own variables, in the order of `all_containers`;
            empty where more than additions were made. For `patch_text`.
    """

    pod: Json
    changed: bool
    warnings: tuple[str, ...]
    reason: InjectionReason
    containers: tuple[ContainerOutcome, ...] = ()
    parts: tuple[EnvPart | None, ...] = ()


@dataclass(slots=True)
class _Work:
    """What comes up while a pod is filled."""

    warnings: list[str]
    filled: dict[str, FilledContainer] = field(default_factory=dict[str, FilledContainer])
    parts: list[EnvPart | None] = field(default_factory=list["EnvPart | None"])


def inject_pod(pod: Any, config: InjectionConfig) -> InjectionResult:
    """Inject a config into a pod.

    Args:
        pod: a Pod, or a pod template, in the API's JSON form; anything else is handed back
            with reason ``MalformedPod``. Never modified.
        config: what to inject.
    """
    problem = pod_problem(pod)
    if problem:
        return InjectionResult(pod, False, (f"cannot be injected: {problem}",), InjectionReason.MALFORMED_POD)
    if config.plan is None:
        warning = f"{config} is invalid: {config.problem}"
        return InjectionResult(pod, False, (warning,), InjectionReason.INVALID_CONFIG)
    record, complaint = read_record(pod)
    base = Stripped(pod) if record is None else strip(pod, record)
    work = _Work([complaint] if complaint else [])
    injected, reason = _fill_pod(base, config, config.plan, work)
    containers = tuple(_outcome(name, item) for name, item in work.filled.items())
    warnings = tuple(work.warnings)
    if reason is not InjectionReason.INJECTED:
        injected = _with_rescued_volumes(injected, base.volumes)
    if injected == pod:
        same = InjectionReason.ALREADY_INJECTED if reason is InjectionReason.INJECTED else reason
        return InjectionResult(pod, False, warnings, same, containers)
    only_added = record is None and reason is InjectionReason.INJECTED
    parts = tuple(work.parts) if only_added else ()
    return InjectionResult(injected, True, warnings, reason, containers, parts)


def _outcome(name: str, item: FilledContainer) -> ContainerOutcome:
    mounts = tuple(mount["name"] for mount in item.mounts)
    return ContainerOutcome(name, tuple(item.record.env), mounts, item.kept, item.clashes)


def remove_injection(pod: Any) -> InjectionResult:
    """Take out what is ours, and nothing else; a pod that was never injected stays as it is."""
    problem = pod_problem(pod)
    if problem:
        return InjectionResult(pod, False, (f"cannot be read: {problem}",), InjectionReason.MALFORMED_POD)
    record, complaint = read_record(pod)
    if record is None:
        warnings = (complaint,) if complaint else ()
        return InjectionResult(pod, False, warnings, InjectionReason.NOTHING_TO_REMOVE)
    base = strip(pod, record)
    return InjectionResult(_with_rescued_volumes(base.pod, base.volumes), True, (), InjectionReason.REMOVED)


def label_value(name: str) -> str:
    """A config's name as a label value: itself, or shortened with a hash where it does not fit."""
    if len(name) <= MAX_LABEL_CHARACTERS and _LABEL_VALUE.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    head = re.sub(r"[^A-Za-z0-9._-]", "-", name)[: MAX_LABEL_CHARACTERS - 9].strip("-_.")
    return f"{head}-{digest}" if head else digest


def _fill_pod(
    stripped: Stripped, config: InjectionConfig, plan: InjectionPlan, work: _Work
) -> tuple[Json, InjectionReason]:
    """Add the plan to a pod that has nothing of ours; adds to `work`."""
    warnings, filled = work.warnings, work.filled
    base = stripped.pod
    spec = dict(child(base, "spec"))
    user_volumes = items_of(spec, "volumes")
    foreign = {volume["name"]: volume for volume in user_volumes}
    usable = _usable_volumes(plan, foreign, config, warnings)
    matched = False
    for name in CONTAINER_FIELDS:
        containers: list[Json] = []
        for container in items_of(spec, name):
            if plan.containers is not None and container["name"] not in plan.containers:
                containers.append(container)
                work.parts.append(None)
                continue
            matched = True
            result = fill_container(container, plan, usable)
            filled[container["name"]] = result
            containers.append(result.container)
            work.parts.append(result.part)
        if containers:
            spec[name] = containers
    if not matched:
        names = ", ".join(sorted(plan.containers or ()))
        warnings.append(f"{config}: spec.injection.containers names no container of this pod ({names})")
        return base, InjectionReason.NO_MATCHING_CONTAINER
    _warn_of_conflicts(filled, config, plan, warnings)
    _warn_of_account(spec, config, plan, warnings)
    owned = {name: item.record for name, item in filled.items() if item.record.env or item.record.mounts}
    if not owned:
        return base, InjectionReason.ALL_KEPT
    mounted = {mount["name"] for item in filled.values() for mount in item.mounts}
    added = [
        volume for _, volume in plan.volumes if volume["name"] in mounted and volume["name"] not in foreign
    ]
    # A rescued volume stays ours: the next config that needs its name gets it, whoever mounts it.
    added += _needed_volumes({**base, "spec": {**spec, "volumes": [*user_volumes, *added]}}, stripped.volumes)
    if added:
        spec["volumes"] = [*user_volumes, *added]
    record = InjectionRecord(
        kind=config.kind,
        namespace=config.namespace,
        name=config.name,
        generation=config.generation,
        hash=plan.hash,
        containers=owned,
        volumes={volume["name"]: volume_identity(volume) for volume in added},
    )
    metadata = dict(child(base, "metadata"))
    annotations = {**texts_of(metadata, "annotations"), RECORD_ANNOTATION: dump_record(record)}
    metadata["annotations"] = annotations
    metadata["labels"] = {**texts_of(metadata, "labels"), INJECTED_LABEL: label_value(config.name)}
    if _annotation_bytes(annotations) > MAX_ANNOTATIONS_BYTES:
        warnings.append(
            f"{config} was not injected: the record of it does not fit into the pod's annotations "
            f"(limit {MAX_ANNOTATIONS_BYTES} bytes for all of them)"
        )
        return base, InjectionReason.RECORD_TOO_LARGE
    return {**base, "metadata": metadata, "spec": spec}, InjectionReason.INJECTED


def _usable_volumes(
    plan: InjectionPlan, foreign: dict[str, Json], config: InjectionConfig, warnings: list[str]
) -> frozenset[Group]:
    """Groups whose volumes can be had; the user's volume of our name stays whatever it is."""
    usable = ALL_GROUPS
    for group, volume in plan.volumes:
        theirs = foreign.get(volume["name"])
        if theirs is None:
            continue
        if group is Group.STORE:
            if volume_identity(theirs) == volume_identity(volume):
                continue
            # ApplyEnv's rule: an existing volume is the store.
            warnings.append(
                f"the pod's own volume {volume['name']} ({_kind_of(theirs)}) is used as the store, "
                f"not what {config} says ({_kind_of(volume)})"
            )
        else:
            usable -= {group}
            warnings.append(
                f"the pod has a volume {volume['name']} of its own: the {group.value} of {config} "
                "is left out; rename that volume"
            )
    return usable


def _kind_of(volume: Json) -> str:
    return volume_identity(volume).partition(":")[0]


def _warn_of_conflicts(
    filled: dict[str, FilledContainer], config: InjectionConfig, plan: InjectionPlan, warnings: list[str]
) -> None:
    for name, item in filled.items():
        warnings += [
            f"container {name}: {clash}, where {config} mounts its own; "
            "this container does not get it; move one of them"
            for clash in item.clashes
        ]
        if item.kept:
            warnings.append(
                f"container {name} keeps its own {', '.join(item.kept)}, "
                f"not what {config} says (conflictPolicy: {plan.conflict_policy.value})"
            )


def _warn_of_account(spec: Json, config: InjectionConfig, plan: InjectionPlan, warnings: list[str]) -> None:
    account = spec.get("serviceAccountName") or "default"
    if plan.service_account and account != plan.service_account:
        warnings.append(
            f"{config} is reached under ServiceAccount {plan.service_account}, and this pod runs under "
            f"{account}: set spec.serviceAccountName"
        )


def _with_rescued_volumes(pod: Json, removed: tuple[Json, ...]) -> Json:
    """Give back a volume of ours that somebody else's mount still needs: the pod would be invalid."""
    missing = _needed_volumes(pod, removed)
    if not missing:
        return pod
    spec: Json = pod["spec"]
    return {**pod, "spec": {**spec, "volumes": [*items_of(spec, "volumes"), *missing]}}


def _needed_volumes(pod: Json, removed: tuple[Json, ...]) -> list[Json]:
    """Those of the removed volumes that containers still mount and the pod lacks."""
    if not removed:
        return []
    present = {volume["name"] for volume in items_of(child(pod, "spec"), "volumes")}
    used = {
        mount["name"] for container in all_containers(pod) for mount in items_of(container, "volumeMounts")
    }
    return [volume for volume in removed if volume["name"] in used and volume["name"] not in present]


def _annotation_bytes(annotations: dict[str, str]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for item in annotations.items() for text in item)
