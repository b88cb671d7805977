"""Injection into the pod template of a workload: the way that needs no webhook.

Pure, like `inject`: a workload goes in, the wanted workload comes out; whether and how to
write it is the caller's decision. Pods made from an injected template pass the webhook
unchanged, unless it chooses another config for them: pods do not have their workload's
labels. `select_for_template` tells when that is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.environment import env_digest, mount_digest, volume_identity
from bubu_operator.injection.inject import InjectionReason, InjectionResult, inject_pod, remove_injection
from bubu_operator.injection.names import CONFIG_LABEL, STRICT_LABEL
from bubu_operator.injection.ownership import InjectionRecord, read_record
from bubu_operator.injection.podspec import all_containers, child, items_of, pod_problem, texts_of
from bubu_operator.injection.select import Selection, demand_for, select_config
from bubu_storage.apply_env import Json

__all__ = [
    "TEMPLATE_PATHS",
    "TemplateChoice",
    "TemplateResult",
    "inject_template",
    "injected_record",
    "injection_is_damaged",
    "pod_template",
    "remove_from_template",
    "select_for_template",
    "with_pod_template",
]

TEMPLATE_PATHS: Final[dict[str, tuple[str, ...]]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kinds whose pod template may change. A Job's may not: its pods are injected at admission."""


@dataclass(frozen=True, slots=True)
class TemplateResult:
    """What came out; see `bubu_operator.injection.inject.InjectionResult`.

    Attributes:
        workload: the workload afterwards; the very input object when nothing changed.
        changed: whether the template differs (writing it rolls the workload).
        warnings: one sentence each.
        reason: machine-readable outcome.
    """

    workload: Json
    changed: bool
    warnings: tuple[str, ...]
    reason: InjectionReason


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """Which config a pod template gets; see `select_for_template`.

    Attributes:
        selection: what is written into the template.
        admission: what the webhook makes of the pods where that is something else, and the way
            out, as a clause; "" where it is the same, or where they do not ask by themselves.
    """

    selection: Selection
    admission: str = ""


def pod_template(workload: Json) -> Json:
    """The pod template of a workload.

    Raises:
        ValueError: the kind has none that may change.
    """
    template = workload
    for key in _path_of(workload):
        template = child(template, key)
    return template


def injected_record(workload: Json) -> InjectionRecord | None:
    """What the template carries (config and hash, to be compared with a plan's), or None."""
    template = pod_template(workload)
    return None if pod_problem(template) else read_record(template)[0]


def injection_is_damaged(workload: Json) -> bool:
    """Tell whether somebody changed or took out a part of what the template's record says is ours.

    Containers that are gone are the user's doing, and no damage.
    """
    template = pod_template(workload)
    record = injected_record(workload)
    if record is None:
        return False
    spec = child(template, "spec")
    for container in all_containers(template):
        owned = record.containers.get(container["name"])
        if owned is None:
            continue
        env = {(entry["name"], env_digest(entry)) for entry in items_of(container, "env")}
        mounts = {mount_digest(mount) for mount in items_of(container, "volumeMounts")}
        if not (owned.env.items() <= env and mounts.issuperset(owned.mounts)):
            return True
    volumes = {(volume["name"], volume_identity(volume)) for volume in items_of(spec, "volumes")}
    return not record.volumes.items() <= volumes


def select_for_template(
    workload: Json,
    namespace: str,
    namespace_labels: Mapping[str, str],
    storage_configs: Iterable[InjectionConfig],
    cluster_storage_configs: Iterable[InjectionConfig],
) -> TemplateChoice:
    """Choose the config of a workload that asks by its own label.

    The workload's own config label counts, unless its pod template has one. The webhook cannot
    see it: if the pods ask for storage by themselves, it chooses by their labels alone.

    Raises:
        ValueError: the kind has no template that may change.
    """
    seen = texts_of(child(pod_template(workload), "metadata"), "labels")
    own = texts_of(child(workload, "metadata"), "labels")
    storage, shared = list(storage_configs), list(cluster_storage_configs)
    if CONFIG_LABEL in seen or CONFIG_LABEL not in own:
        return TemplateChoice(select_config(seen, namespace, namespace_labels, storage, shared))
    labels = {**seen, CONFIG_LABEL: own[CONFIG_LABEL]}
    selection = select_config(labels, namespace, namespace_labels, storage, shared)
    if not demand_for(seen, namespace_labels).wanted:
        return TemplateChoice(selection)
    admitted = select_config(seen, namespace, namespace_labels, storage, shared)
    if admitted.config is selection.config:
        return TemplateChoice(selection)
    if admitted.config is not None:
        outcome = f"they get {admitted.config}"
    elif namespace_labels.get(STRICT_LABEL) == "true":
        outcome = f"they are refused ({admitted.message})"
    else:
        outcome = f"they keep what the pod template holds, with a warning ({admitted.message})"
    path = ".".join((*_path_of(workload), "metadata.labels"))
    return TemplateChoice(
        selection,
        f"the webhook sees these pods, too, but not the label {CONFIG_LABEL} of the {workload['kind']}: "
        f"{outcome}; put the label on the pod template ({path})",
    )


def inject_template(workload: Json, config: InjectionConfig) -> TemplateResult:
    """Inject a config into the pod template.

    A config that has a new generation and the same plan changes nothing: a template that
    differs in a number only would still roll the workload.

    Raises:
        ValueError: the kind has no template that may change.
    """
    template = pod_template(workload)
    result = inject_pod(template, config)
    if result.changed and _only_generation_differs(template, result.pod, config):
        return TemplateResult(workload, False, result.warnings, InjectionReason.ALREADY_INJECTED)
    return _put_back(workload, result)


def remove_from_template(workload: Json) -> TemplateResult:
    """Take what is ours, and nothing else, out of the pod template.

    Raises:
        ValueError: the kind has no template that may change.
    """
    return _put_back(workload, remove_injection(pod_template(workload)))


def with_pod_template(workload: Json, template: Json) -> Json:
    """The workload with another pod template; the input is not modified.

    Raises:
        ValueError: the kind has none that may change.
    """
    path = _path_of(workload)
    parents = [workload]
    for key in path[:-1]:
        parents.append(child(parents[-1], key))
    new = template
    for key, parent in zip(reversed(path), reversed(parents), strict=True):
        new = {**parent, key: new}
    return new


def _only_generation_differs(template: Json, injected: Json, config: InjectionConfig) -> bool:
    before, after = read_record(template)[0], read_record(injected)[0]
    if before is None or after is None or before.generation == after.generation:
        return False
    at_its_generation = replace(config, generation=before.generation)
    return not inject_pod(template, at_its_generation).changed


def _put_back(workload: Json, result: InjectionResult) -> TemplateResult:
    if not result.changed:
        return TemplateResult(workload, False, result.warnings, result.reason)
    new = with_pod_template(workload, result.pod)
    return TemplateResult(new, True, result.warnings, result.reason)


def _path_of(workload: Json) -> tuple[str, ...]:
    kind = workload.get("kind")
    path = TEMPLATE_PATHS.get(kind) if isinstance(kind, str) else None
    if path is None:
        raise ValueError(
            f"kind {kind!r} has no pod template that may change; known: {', '.join(TEMPLATE_PATHS)}"
        )
    return path
