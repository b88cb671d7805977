"""Which config a pod gets, and whether it asked for one at all.

Steps, first answer wins: the pod's config label; the namespace's; the namespace's only
StorageConfig, or the one marked default; the ClusterStorageConfig whose namespaceSelector
matches. Two candidates on one step are refused, and the message names them: a guess would
write a team's data into the wrong bucket. A config that is being deleted is no candidate.

A name on a label means the StorageConfig of that name in the pod's namespace, or else the
ClusterStorageConfig of that name, if its selector offers it to the namespace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.names import CONFIG_LABEL, ENGRAM_LABEL, INJECT_LABEL

__all__ = ["Demand", "Selection", "SelectionReason", "demand_for", "select_config"]

_LISTED_NAMES = 5
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Demand(StrEnum):
    """Whether a pod wants injection, and who says so."""

    POD_LABEL = "PodLabel"
    ENGRAM = "Engram"
    NAMESPACE_LABEL = "NamespaceLabel"
    POD_OPTED_OUT = "PodOptedOut"
    NAMESPACE_OPTED_OUT = "NamespaceOptedOut"
    NOT_ASKED = "NotAsked"

    @property
    def wanted(self) -> bool:
        """True when the pod is to be injected."""
        return self in _WANTED


_WANTED = (Demand.ENGRAM, Demand.POD_LABEL, Demand.NAMESPACE_LABEL)


class SelectionReason(StrEnum):
    """Why a config was chosen, or none."""

    POD_LABEL = "PodLabel"
    NAMESPACE_LABEL = "NamespaceLabel"
    ONLY_CONFIG = "OnlyConfig"
    DEFAULT_CONFIG = "DefaultConfig"
    CLUSTER_CONFIG = "ClusterConfig"
    CONFIG_NOT_FOUND = "ConfigNotFound"
    CONFIG_DELETING = "ConfigDeleting"
    NAMESPACE_NOT_SELECTED = "NamespaceNotSelected"
    AMBIGUOUS = "Ambiguous"
    INVALID_CONFIG = "InvalidConfig"
    NO_CONFIG = "NoConfig"


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer of `select_config`.

    Attributes:
        config: what was chosen; None with every reason that explains a refusal.
        reason: machine-readable why.
        message: the same in a sentence.
    """

    config: InjectionConfig | None
    reason: SelectionReason
    message: str


def demand_for(pod_labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> Demand:
    """Tell whether a pod wants injection; what the pod says outranks its namespace.

    Labels other than ``"true"`` and ``"false"`` say nothing. A namespace that opts out also
    turns off engram pods, not pods that ask by the inject label themselves.
    """
    said = pod_labels.get(INJECT_LABEL)
    if said == "false":
        return Demand.POD_OPTED_OUT
    if said == "true":
        return Demand.POD_LABEL
    namespace_said = namespace_labels.get(INJECT_LABEL)
    if namespace_said == "false":
        return Demand.NAMESPACE_OPTED_OUT
    if ENGRAM_LABEL in pod_labels:
        return Demand.ENGRAM
    if namespace_said == "true":
        return Demand.NAMESPACE_LABEL
    return Demand.NOT_ASKED


def select_config(
    pod_labels: Mapping[str, str],
    namespace_name: str,
    namespace_labels: Mapping[str, str],
    storage_configs: Iterable[InjectionConfig],
    cluster_storage_configs: Iterable[InjectionConfig],
) -> Selection:
    """Choose the config for a pod.

    Args:
        pod_labels: labels of the pod (or pod template).
        namespace_name: the pod's namespace.
        namespace_labels: that namespace's labels.
        storage_configs: StorageConfigs; those of other namespaces are ignored.
        cluster_storage_configs: all ClusterStorageConfigs.
    """
    own = [config for config in storage_configs if config.namespace == namespace_name]
    shared = list(cluster_storage_configs)
    by_pod = pod_labels.get(CONFIG_LABEL)
    name = by_pod or namespace_labels.get(CONFIG_LABEL)
    if name:
        return _named(
            name,
            reason=SelectionReason.POD_LABEL if by_pod else SelectionReason.NAMESPACE_LABEL,
            place="the pod" if by_pod else f"namespace {namespace_name}",
            namespace=namespace_name,
            namespace_labels=namespace_labels,
            own=own,
            shared=shared,
        )
    alive = [config for config in own if not config.deleting]
    if alive:
        return _of_namespace(alive, namespace_name)
    offered = [config for config in shared if not config.deleting and config.selects(namespace_labels)]
    if len(offered) > 1:
        return Selection(
            None,
            SelectionReason.AMBIGUOUS,
            f"several ClusterStorageConfigs select namespace {namespace_name}: {_names(offered)}; "
            f"name one by the label {CONFIG_LABEL}",
        )
    if offered:
        return _usable(
            offered[0], SelectionReason.CLUSTER_CONFIG, f"its namespaceSelector matches {namespace_name}"
        )
    leaving = [config for config in own if config.deleting]
    gone = f" ({_names(leaving)}: being deleted)" if leaving else ""
    return Selection(
        None,
        SelectionReason.NO_CONFIG,
        f"namespace {namespace_name} has no StorageConfig{gone} and no ClusterStorageConfig selects it; "
        "create one",
    )


def _of_namespace(configs: list[InjectionConfig], namespace: str) -> Selection:
    """The third step: the only one, or the one marked default."""
    if len(configs) == 1:
        return _usable(configs[0], SelectionReason.ONLY_CONFIG, f"it is the only one in {namespace}")
    marked = [config for config in configs if config.default]
    if len(marked) == 1:
        return _usable(marked[0], SelectionReason.DEFAULT_CONFIG, f"it is the default of {namespace}")
    if marked:
        message = (
            f"several StorageConfigs of namespace {namespace} are marked default: {_names(marked)}; "
            "keep the mark on one"
        )
    else:
        message = (
            f"namespace {namespace} has several StorageConfigs and none is marked default: "
            f"{_names(configs)}; set spec.default on one, or name one by the label {CONFIG_LABEL}"
        )
    return Selection(None, SelectionReason.AMBIGUOUS, message)


def _named(
    name: str,
    *,
    reason: SelectionReason,
    place: str,
    namespace: str,
    namespace_labels: Mapping[str, str],
    own: list[InjectionConfig],
    shared: list[InjectionConfig],
) -> Selection:
    """The first two steps: a label names the config."""
    why = f"the label {CONFIG_LABEL} of {place} names it"
    found = [config for config in own if config.name == name]
    same_name = [config for config in shared if config.name == name]
    found += [config for config in same_name if config.selects(namespace_labels)]
    for config in found:
        if not config.deleting:
            return _usable(config, reason, why)
    if found:
        return Selection(None, SelectionReason.CONFIG_DELETING, f"{found[0]} is being deleted, and {why}")
    if same_name:
        return Selection(
            None,
            SelectionReason.NAMESPACE_NOT_SELECTED,
            f"{same_name[0]} does not select namespace {namespace} (spec.namespaceSelector), and {why}",
        )
    if not _OBJECT_NAME.fullmatch(name):
        # Anybody who reaches the webhook may write the label, and events in other namespaces quote this.
        return Selection(
            None,
            SelectionReason.CONFIG_NOT_FOUND,
            f"the label {CONFIG_LABEL} of {place} is no name that a config can have: "
            "lower-case letters, digits, '-' and '.'",
        )
    return Selection(
        None,
        SelectionReason.CONFIG_NOT_FOUND,
        f"no StorageConfig {name!r} in namespace {namespace} and no such ClusterStorageConfig; {why}",
    )


def _usable(config: InjectionConfig, reason: SelectionReason, why: str) -> Selection:
    if config.problem:
        return Selection(
            None,
            SelectionReason.INVALID_CONFIG,
            f"{config} was chosen ({why}) and is invalid: {config.problem}",
        )
    return Selection(config, reason, f"{config}: {why}")


def _names(configs: list[InjectionConfig]) -> str:
    names = sorted(config.name for config in configs)
    listed = ", ".join(names[:_LISTED_NAMES])
    return listed if len(names) <= _LISTED_NAMES else f"{listed} and {len(names) - _LISTED_NAMES} more"
