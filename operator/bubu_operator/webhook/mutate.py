"""The decision on one admission request: pure, over the request and what the cache knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from bubu_operator.injection import (
    InjectionConfig,
    JsonPatch,
    demand_for,
    inject_pod,
    make_patch,
    pod_problem,
    select_config,
)
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.webhook.review import ReviewRequest
from bubu_storage.apply_env import Json

__all__ = ["SkipReason", "Verdict", "decide", "skip_reason"]


class SkipReason(StrEnum):
    """Why a request was let through without a look at configs."""

    NOT_A_POD = "NotAPod"
    NOT_A_CREATION = "NotACreation"
    MALFORMED_POD = "MalformedPod"
    NOT_READY = "NotReady"
    INTERNAL_ERROR = "InternalError"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to answer.

    Attributes:
        reason: one word: a `SkipReason`, `Demand`, `SelectionReason` or `InjectionReason`.
        patch: operations; empty for none.
        warnings: for the person who creates the pod.
        config: the chosen config as text; "" for none.
        wanted: the pod asked for injection.
    """

    reason: str
    patch: JsonPatch
    warnings: tuple[str, ...] = ()
    config: str = ""
    wanted: bool = False


def skip_reason(request: ReviewRequest) -> Verdict | None:
    """Let through what is not the creation of a well-formed pod; None for one that is."""
    if request.resource != "pods" or request.subresource:
        what = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
        warning = f"only pods are injected, not {what or 'an unnamed resource'}"
        return Verdict(SkipReason.NOT_A_POD, [], (warning,))
    if request.operation != "CREATE":
        return Verdict(SkipReason.NOT_A_CREATION, [], ("a pod is injected when it is created, not later",))
    problem = pod_problem(request.pod)
    if problem:
        return Verdict(SkipReason.MALFORMED_POD, [], (f"the pod cannot be injected: {problem}",))
    return None


def decide(
    request: ReviewRequest,
    namespace_labels: Mapping[str, str],
    storage_configs: Iterable[InjectionConfig],
    cluster_storage_configs: Iterable[InjectionConfig],
) -> Verdict:
    """Inject the pod of a request that `skip_reason` let pass, or say why not.

    Args:
        request: the creation of a pod.
        namespace_labels: labels of its namespace.
        storage_configs: StorageConfigs of its namespace.
        cluster_storage_configs: all ClusterStorageConfigs.
    """
    pod = cast("Json", request.pod)
    labels = texts_of(child(pod, "metadata"), "labels")
    demand = demand_for(labels, namespace_labels)
    if not demand.wanted:
        return Verdict(demand, [])
    selection = select_config(
        labels, request.namespace, namespace_labels, storage_configs, cluster_storage_configs
    )
    if selection.config is None:
        warning = f"no storage was injected: {selection.message}"
        return Verdict(selection.reason, [], (warning,), wanted=True)
    result = inject_pod(pod, selection.config)
    return Verdict(
        result.reason,
        make_patch(pod, result.pod) if result.changed else [],
        result.warnings,
        str(selection.config),
        wanted=True,
    )
