"""Why a pod gets what it gets: the decision of injection, step by step, as data.

The same pure functions decide here and in the webhook (`demand_for`, `select_config`,
`inject_pod`): what is told is their decision, not a second opinion. This module adds who was
passed over and why, what would be written into which container, and what the pod carries
already. Values of the user's own variables are never in it, and credentials are references;
how it is shown is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bubu_operator.defaults import OPERATOR_NAMESPACE
from bubu_operator.injection.carried import (
    Carried,
    CarriedState,
    carried_by,
    carried_from_template,
    carried_in_vain,
    objects_of,
)
from bubu_operator.injection.config import CLUSTER_STORAGE_CONFIG, InjectionConfig
from bubu_operator.injection.environment import PlannedEnv, volume_identity
from bubu_operator.injection.inject import ContainerOutcome, InjectionReason, InjectionResult, inject_pod
from bubu_operator.injection.names import (
    CONFIG_LABEL,
    ENGRAM_LABEL,
    INJECT_LABEL,
)
from bubu_operator.injection.ownership import InjectionRecord, read_record
from bubu_operator.injection.podspec import CONTAINER_FIELDS, child, items_of, pod_problem, texts_of
from bubu_operator.injection.select import Demand, Selection, SelectionReason, demand_for, select_config
from bubu_operator.injection.unasked import ExcludedReason, Unasked, never_asked
from bubu_storage.apply_env import Json

__all__ = [
    "Candidate",
    "Carried",
    "CarriedState",
    "ContainerExplanation",
    "ExcludedReason",
    "Explanation",
    "Unasked",
    "Variable",
    "explain_pod",
    "source_of",
]

_BY_LABEL: Final = (
    SelectionReason.POD_LABEL,
    SelectionReason.NAMESPACE_LABEL,
    SelectionReason.CONFIG_NOT_FOUND,
    SelectionReason.CONFIG_DELETING,
    SelectionReason.NAMESPACE_NOT_SELECTED,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A config that was looked at.

    Attributes:
        config: as ``StorageConfig flows/main``.
        chosen: whether it is the one.
        note: why, or why not.
    """

    config: str
    chosen: bool
    note: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that would be written: its name, and its value or where that comes from."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class ContainerExplanation:
    """What a container would get.

    Attributes:
        name: the container's.
        role: ``container``, ``init container``, ``native sidecar`` or ``ephemeral container``.
        variables: in the order in which they are written, before the container's own.
        mounts: as ``volume bubu-storage at /var/run/bubu/storage``.
        notes: what is kept or left out, and why.
    """

    name: str
    role: str
    variables: tuple[Variable, ...] = ()
    mounts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer.

    Attributes:
        pod: its name, or ``(generated)``.
        namespace: where it is, or would be, created.
        demand: whether it asks, and who says so.
        demand_text: the same in a sentence.
        config: the chosen config; "" for none.
        generation, hash: of the chosen config now; 0 and "" for none.
        selection_text: why that one, or why none; "" for a pod that does not ask.
        candidates: every config that the namespace could have had.
        outcome: one word: a `Demand`, `SelectionReason`, `InjectionReason` or `ExcludedReason`.
        injected: whether the pod comes out with storage.
        containers: one by one.
        volumes: that would be added, as ``bubu-storage-ca (configMap minio-ca)``.
        warnings: what the person who creates the pod is told.
        carried: what it carries.
    """

    pod: str
    namespace: str
    demand: Demand
    demand_text: str
    outcome: str
    injected: bool
    carried: Carried
    config: str = ""
    generation: int = 0
    hash: str = ""
    selection_text: str = ""
    candidates: tuple[Candidate, ...] = ()
    containers: tuple[ContainerExplanation, ...] = ()
    volumes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def explain_pod(
    pod: Json,
    namespace: str,
    namespace_labels: Mapping[str, str],
    storage_configs: Iterable[InjectionConfig],
    cluster_storage_configs: Iterable[InjectionConfig],
    *,
    operator_namespace: str = OPERATOR_NAMESPACE,
    unasked: Unasked | None = None,
) -> Explanation:
    """Explain what happens to a pod (or a pod template) when it is created now.

    Args:
        pod: in the API's JSON form; one that exists (it has a uid) is also judged by what it carries.
        namespace: its namespace.
        namespace_labels: of that namespace.
        storage_configs: StorageConfigs; those of other namespaces are ignored.
        cluster_storage_configs: all ClusterStorageConfigs.
        operator_namespace: where the operator runs; its pods are never injected.
        unasked: why the API server does not ask about a pod that asks for storage; None where it does.

    Raises:
        ValueError: it is no pod; the message says what is wrong with it.
    """
    problem = pod_problem(pod)
    if problem:
        raise ValueError(f"this is no pod that could be injected: {problem}")
    metadata = child(pod, "metadata")
    labels = texts_of(metadata, "labels")
    demand = demand_for(labels, namespace_labels)
    name = str(metadata.get("name") or metadata.get("generateName") or "(unnamed)")
    asked = _demand_text(demand, labels, namespace, namespace_labels)
    exists = bool(metadata.get("uid"))
    excluded = never_asked(pod, namespace, operator_namespace) or (unasked if demand.wanted else None)
    if excluded is not None or not demand.wanted:
        outcome, text = (demand.value, "") if excluded is None else (excluded.reason.value, excluded.text)
        why = "it does not ask for storage" if excluded is None else "the webhook is not asked about it"
        carried = carried_in_vain(pod, why, exists=exists)
        if excluded is None and demand is Demand.NOT_ASKED and carried.state is CarriedState.LEFT_OVER:
            carried = carried_from_template(carried, [*storage_configs, *cluster_storage_configs])
        return Explanation(
            name, namespace, demand, asked, outcome, injected=False, carried=carried, selection_text=text
        )
    own = [config for config in storage_configs if config.namespace == namespace]
    shared = list(cluster_storage_configs)
    selection = select_config(labels, namespace, namespace_labels, own, shared)
    candidates = _candidates(selection, own, shared, namespace, namespace_labels)
    config = selection.config
    if config is None or config.plan is None:
        return Explanation(
            name,
            namespace,
            demand,
            asked,
            selection.reason.value,
            injected=False,
            carried=carried_in_vain(pod, "no config can be used for it now", exists=exists),
            selection_text=selection.message,
            candidates=candidates,
            warnings=(f"no storage was injected: {selection.message}",),
        )
    result = inject_pod(pod, config)
    done = result.reason in (InjectionReason.INJECTED, InjectionReason.ALREADY_INJECTED)
    planned = {item.name: item for item in config.plan.env}
    record = read_record(result.pod)[0] if done else None
    return Explanation(
        name,
        namespace,
        demand,
        asked,
        result.reason.value,
        injected=done,
        config=str(config),
        generation=config.generation,
        hash=config.plan.hash,
        selection_text=selection.message,
        candidates=candidates,
        containers=_containers(pod, result, config, planned),
        volumes=_volumes(result.pod, record),
        warnings=result.warnings,
        carried=carried_by(pod, result, config, exists=exists),
    )


def source_of(entry: Json) -> str:
    """Where a variable that a config writes gets its value; literals as the container sees them."""
    source = child(entry, "valueFrom")
    secret, field = child(source, "secretKeyRef"), child(source, "fieldRef")
    if secret:
        optional = " (optional)" if secret.get("optional") else ""
        return f"key {secret.get('key')} of Secret {secret.get('name')}{optional}"
    if field:
        return f"the pod's {field.get('fieldPath')}"
    return str(entry.get("value") or "").replace("$$", "$")


def _demand_text(
    demand: Demand, labels: Mapping[str, str], namespace: str, namespace_labels: Mapping[str, str]
) -> str:
    texts = {
        Demand.POD_LABEL: f'the pod\'s label {INJECT_LABEL} is "true"',
        Demand.ENGRAM: f"the pod has the label {ENGRAM_LABEL}",
        Demand.NAMESPACE_LABEL: f'label {INJECT_LABEL} of namespace {namespace} is "true"',
        Demand.POD_OPTED_OUT: f'the pod opts out: its label {INJECT_LABEL} is "false"',
        Demand.NAMESPACE_OPTED_OUT: f'namespace {namespace} opts out: its label {INJECT_LABEL} is "false"; '
        "a pod that wants storage all the same says so by its own label of that name",
        Demand.NOT_ASKED: f"neither the pod nor namespace {namespace} asks: set the label {INJECT_LABEL} to "
        '"true" on the pod (in a workload: on its pod template) or on the namespace',
    }
    text = texts[demand]
    for whose, said in (
        ("the pod", labels.get(INJECT_LABEL)),
        ("namespace", namespace_labels.get(INJECT_LABEL)),
    ):
        if said is not None and said not in ("true", "false"):
            text += f"; the label {INJECT_LABEL} of {whose} is {said!r}, which says nothing"
    return text


def _candidates(
    selection: Selection,
    own: Sequence[InjectionConfig],
    shared: Sequence[InjectionConfig],
    namespace: str,
    namespace_labels: Mapping[str, str],
) -> tuple[Candidate, ...]:
    alive = [config for config in own if not config.deleting]
    marked = [config for config in alive if config.default]

    def note(config: InjectionConfig) -> str:
        cluster_wide = config.kind == CLUSTER_STORAGE_CONFIG
        if cluster_wide and not config.selects(namespace_labels):
            if config.namespace_selector is None:
                return "it has no namespaceSelector, so it is for no namespace"
            return f"its namespaceSelector does not match namespace {namespace}"
        if config.deleting:
            return "it is being deleted"
        if selection.reason in _BY_LABEL:
            return f"the label {CONFIG_LABEL} names another"
        if cluster_wide:
            if alive:
                return "a StorageConfig of the namespace comes first"
            return "it applies, and it is not the only one"
        if selection.reason is SelectionReason.AMBIGUOUS:
            if not marked:
                return "it applies, and nothing says which one of several"
            return "it is marked default, and so is another" if config.default else "it is not marked default"
        return "another is marked default"

    def one(config: InjectionConfig) -> Candidate:
        if config is selection.config:
            return Candidate(str(config), chosen=True, note=selection.message.partition(": ")[2])
        if (
            config.problem
            and selection.reason is SelectionReason.INVALID_CONFIG
            and str(config) in (selection.message.partition(" was chosen")[0])
        ):
            return Candidate(
                str(config), chosen=False, note=f"it would be the one, and is invalid: {config.problem}"
            )
        return Candidate(str(config), chosen=False, note=note(config))

    ordered = [*sorted(own, key=lambda config: config.name), *sorted(shared, key=lambda config: config.name)]
    found = [one(config) for config in ordered]
    return tuple(sorted(found, key=lambda candidate: not candidate.chosen))


def _containers(
    pod: Json, result: InjectionResult, config: InjectionConfig, planned: Mapping[str, PlannedEnv]
) -> tuple[ContainerExplanation, ...]:
    plan = config.plan
    outcomes = {outcome.name: outcome for outcome in result.containers}
    paths = {} if plan is None else {mount["name"]: mount["mountPath"] for _, mount in plan.mounts}
    policy = "" if plan is None else plan.conflict_policy.value
    spec = child(pod, "spec")
    explained: list[ContainerExplanation] = []
    for field in CONTAINER_FIELDS:
        for container in items_of(spec, field):
            name, role = container["name"], _role(field, container)
            outcome = outcomes.get(name)
            if outcome is None:
                note = f"gets nothing: spec.injection.containers of {config} does not name it"
                explained.append(ContainerExplanation(name, role, notes=(note,)))
                continue
            explained.append(
                ContainerExplanation(
                    name,
                    role,
                    variables=tuple(Variable(key, source_of(planned[key].entry)) for key in outcome.env),
                    mounts=tuple(f"volume {volume} at {paths[volume]}" for volume in outcome.mounts),
                    notes=_notes(outcome, policy),
                )
            )
    explained += [
        ContainerExplanation(
            str(container.get("name")),
            "ephemeral container",
            notes=("gets nothing: ephemeral containers are added to running pods, and never injected",),
        )
        for container in objects_of(spec, "ephemeralContainers")
    ]
    return tuple(explained)


def _notes(outcome: ContainerOutcome, policy: str) -> tuple[str, ...]:
    notes = [f"keeps its own {kept} (conflictPolicy: {policy})" for kept in outcome.kept]
    notes += [f"goes without the store: {clash}" for clash in outcome.clashes]
    if not outcome.env and not outcome.mounts and not notes:
        notes.append("sets everything itself, as the config says it")
    return tuple(notes)


def _role(field: str, container: Json) -> str:
    if field == "containers":
        return "container"
    return "native sidecar" if container.get("restartPolicy") == "Always" else "init container"


def _volumes(pod: Json, record: InjectionRecord | None) -> tuple[str, ...]:
    """What the record of the injected pod says we added."""
    if record is None:
        return ()
    return tuple(
        f"{volume['name']} ({volume_identity(volume).replace(':', ' ', 1).strip()})"
        for volume in items_of(child(pod, "spec"), "volumes")
        if volume["name"] in record.volumes
    )
