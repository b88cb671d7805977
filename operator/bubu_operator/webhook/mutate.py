"""The decision on one admission request: pure, over the request and what the cache knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from bubu_operator.injection import (
    Demand,
    InjectionConfig,
    JsonPatch,
    demand_for,
    inject_pod,
    make_patch,
    pod_problem,
    select_config,
)
from bubu_operator.injection.names import INJECT_LABEL, MIRROR_ANNOTATION
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.webhook.review import ReviewRequest
from bubu_storage.apply_env import Json

__all__ = ["MAX_POD_BYTES", "SkipReason", "Verdict", "decide", "skip_reason", "unknown_namespace"]

MAX_POD_BYTES: Final = 1536 * 1024
"""etcd's limit for a request. Pods are stored in a denser form than JSON, so what fits as JSON fits."""


class SkipReason(StrEnum):
    """Why a request was let through without injection, whatever configs there are."""

    NOT_A_POD = "NotAPod"
    NOT_A_CREATION = "NotACreation"
    MALFORMED_POD = "MalformedPod"
    MIRROR_POD = "MirrorPod"
    POD_TOO_LARGE = "PodTooLarge"
    UNKNOWN_NAMESPACE = "UnknownNamespace"
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
    """Let through what is not the creation of a well-formed pod of a user's; None for one that is.

    A mirror pod only shows what a kubelet runs from a file: variables would be a lie, and the
    API server refuses one that refers to a Secret.
    """
    if request.resource != "pods" or request.subresource:
        what = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
        warning = f"only pods are injected, not {what or 'an unnamed resource'}"
        return Verdict(SkipReason.NOT_A_POD, [], (warning,))
    if request.operation != "CREATE":
        return Verdict(SkipReason.NOT_A_CREATION, [], ("a pod is injected when it is created, not later",))
    problem = pod_problem(request.pod)
    if problem:
        return Verdict(SkipReason.MALFORMED_POD, [], (f"the pod cannot be injected: {problem}",))
    if MIRROR_ANNOTATION in texts_of(child(request.pod, "metadata"), "annotations"):
        return Verdict(SkipReason.MIRROR_POD, [])
    return None


def unknown_namespace(request: ReviewRequest) -> Verdict:
    """Let a pod through whose namespace the cache does not know.

    Its labels may name a config or opt out, and its own configs are probably unknown too: a
    cluster-wide config would be a guess.
    """
    if texts_of(child(request.pod, "metadata"), "labels").get(INJECT_LABEL) == "false":
        return Verdict(Demand.POD_OPTED_OUT, [])
    warning = (
        f"no storage was injected: namespace {request.namespace} is not known to the webhook yet; "
        "create the pod again in a moment"
    )
    return Verdict(SkipReason.UNKNOWN_NAMESPACE, [], (warning,), wanted=True)


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
    patch = make_patch(pod, result.pod) if result.changed else []
    if patch and not _fits(request.size_bytes, patch):
        warning = (
            f"{selection.config} was not injected: the pod would be larger than the "
            f"{MAX_POD_BYTES} bytes that a cluster stores; make the pod smaller"
        )
        return Verdict(SkipReason.POD_TOO_LARGE, [], (warning,), str(selection.config), wanted=True)
    return Verdict(result.reason, patch, result.warnings, str(selection.config), wanted=True)


def _fits(pod_bytes: int, patch: JsonPatch) -> bool:
    """Whether the patched pod can still be stored: a pod must not be refused because of us."""
    return pod_bytes + len(json.dumps(patch, separators=(",", ":"))) <= MAX_POD_BYTES
