"""Does a running pod carry what it would be given if it were created now? Pure.

`judge_pod` answers from metadata alone, by the functions that the webhook decides with: the
labels say what is asked for, the record says what was injected. One case cannot be told
from metadata: a pod without a record may lack its storage, or have no use for it (it sets
every variable itself, or has no container that the config names). `lacks_injection` looks
at such a pod whole.

A pod that does not ask and carries a config all the same got it from its template (or its
labels were taken away since): it is measured by the config that it carries. One that opted
out is no drift, whatever it carries.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bubu_operator.injection.config import ConfigName, InjectionConfig
from bubu_operator.injection.inject import inject_pod
from bubu_operator.injection.names import MIRROR_ANNOTATION
from bubu_operator.injection.ownership import read_record
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.injection.select import Demand, Selection, demand_for, select_config
from bubu_storage.apply_env import Json

__all__ = [
    "DriftState",
    "PodJudgement",
    "judge_pod",
    "lacks_injection",
    "template_problem",
]


class DriftState(StrEnum):
    """How a running pod relates to the config that it would get now."""

    NOT_CONCERNED = "NotConcerned"
    """It asks for nothing and carries nothing, opted out, or nothing is ever injected into such a pod."""
    CURRENT = "Current"
    STALE = "Stale"
    """It carries an older form of the config, or another config."""
    NO_RECORD = "NoRecord"
    """It carries nothing; whether it should, `lacks_injection` tells."""
    UNCONFIGURED = "Unconfigured"
    """It asks, and no config can be chosen."""


@dataclass(frozen=True, slots=True)
class PodJudgement:
    """The answer of `judge_pod`.

    Attributes:
        state: see `DriftState`.
        carries: the config that the pod's record names, whatever the state; None without one.
        config: what it is measured by; None where it is not concerned or unconfigured.
        selection: why no config can be chosen; only with `DriftState.UNCONFIGURED`.
    """

    state: DriftState
    carries: ConfigName | None = None
    config: InjectionConfig | None = None
    selection: Selection | None = None


_NOTHING: Final = PodJudgement(DriftState.NOT_CONCERNED)


def judge_pod(
    metadata: Json,
    namespace_labels: Mapping[str, str],
    storage_configs: Callable[[], Iterable[InjectionConfig]],
    cluster_storage_configs: Callable[[], Iterable[InjectionConfig]],
    *,
    left_out: Container[str],
) -> PodJudgement:
    """Judge a living pod by its metadata.

    Args:
        metadata: the pod's, as the API has it.
        namespace_labels: labels of its namespace.
        storage_configs: returns the StorageConfigs of its namespace; asked only where needed.
        cluster_storage_configs: returns all ClusterStorageConfigs; likewise.
        left_out: namespaces whose pods are never injected: the system's and the operator's own.
    """
    namespace = str(metadata.get("namespace") or "")
    if namespace in left_out or metadata.get("deletionTimestamp"):
        return _NOTHING
    if MIRROR_ANNOTATION in texts_of(metadata, "annotations"):
        return _NOTHING
    record, _ = read_record({"metadata": metadata})
    carries = None if record is None else record.config_name
    labels = texts_of(metadata, "labels")
    demand = demand_for(labels, namespace_labels)
    config: InjectionConfig | None
    if demand is Demand.NOT_ASKED and record is not None:
        known = (*storage_configs(), *cluster_storage_configs())
        config = next((item for item in known if item.config_name == carries), None)
    elif not demand.wanted:
        config = None
    else:
        selection = select_config(
            labels, namespace, namespace_labels, storage_configs(), cluster_storage_configs()
        )
        config = selection.config
        if config is None or config.plan is None:
            return PodJudgement(DriftState.UNCONFIGURED, carries, None, selection)
    if config is None or config.plan is None:
        return PodJudgement(DriftState.NOT_CONCERNED, carries)
    if record is None:
        return PodJudgement(DriftState.NO_RECORD, None, config)
    same = carries == config.config_name and record.hash == config.plan.hash
    return PodJudgement(DriftState.CURRENT if same else DriftState.STALE, carries, config)


def lacks_injection(pod: Json, config: InjectionConfig) -> bool:
    """Tell whether a pod without a record would be given something if it were created now."""
    return inject_pod(pod, config).changed


def template_problem(
    template: Json,
    namespace: str,
    namespace_labels: Mapping[str, str],
    storage_configs: Iterable[InjectionConfig],
    cluster_storage_configs: Iterable[InjectionConfig],
    *,
    config: InjectionConfig,
) -> str:
    """Say why new pods of a template would not get ``config``; "" when they would.

    Pods may be labelled by hand, and templates may have changed since: then a restart would
    not help.
    """
    labels = texts_of(child(template, "metadata"), "labels")
    demand = demand_for(labels, namespace_labels)
    if not demand.wanted:
        return f"its pod template does not ask for storage ({demand.value})"
    selection = select_config(labels, namespace, namespace_labels, storage_configs, cluster_storage_configs)
    if selection.config is None:
        return f"new pods would find no config: {selection.message}"
    if selection.config.config_name != config.config_name:
        return f"new pods would get {selection.config}"
    result = inject_pod(template, selection.config)
    if not result.changed:
        return f"there is nothing to inject into its pod template ({result.reason.value})"
    return ""
