"""The decision on one admission request: pure, over the request and what is known of the cluster.

A verdict does not depend on the entry that asked. `denial_of` alone says what a strict entry
makes of it: a pod that asks for storage and goes without (`Verdict.unserved`) is refused there.
A pod that does not ask, or is not ours to touch, is never refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Final, cast

from bubu_operator.injection import (
    Demand,
    InjectionConfig,
    InjectionReason,
    demand_for,
    fresh_patch,
    inject_pod,
    patch_text,
    pod_problem,
    select_config,
)
from bubu_operator.injection.names import INJECT_LABEL, MIRROR_ANNOTATION
from bubu_operator.injection.podspec import child, items_of, outer_problem, texts_of
from bubu_operator.webhook.review import Denial, ReviewRequest
from bubu_storage.apply_env import Json

__all__ = [
    "MAX_CONTAINERS",
    "MAX_POD_BYTES",
    "Policy",
    "SkipReason",
    "Verdict",
    "decide",
    "denial_of",
    "internal_error",
    "not_ready",
    "opted_out",
    "skip_reason",
    "unknown_namespace",
]

MAX_POD_BYTES: Final = 1536 * 1024
"""etcd's limit for a request. Pods are stored in a denser form than JSON, so what fits as JSON fits."""

MAX_CONTAINERS: Final = 1000
"""Nobody runs as many in one pod, and what injection writes for each of them would not be stored."""

_OPTED_OUT: Final = "false"
_SERVED: Final = frozenset(
    {InjectionReason.INJECTED, InjectionReason.ALREADY_INJECTED, InjectionReason.ALL_KEPT}
)


class Policy(StrEnum):
    """What the entry that asked does with a pod that cannot be served: its failurePolicy."""

    IGNORE = "ignore"
    FAIL = "strict"


class SkipReason(StrEnum):
    """Why a request was let through without injection, whatever configs there are."""

    NOT_A_POD = "NotAPod"
    NOT_A_CREATION = "NotACreation"
    MALFORMED_POD = "MalformedPod"
    MIRROR_POD = "MirrorPod"
    OTHER_NAMESPACE = "OtherNamespace"
    POD_TOO_LARGE = "PodTooLarge"
    UNKNOWN_NAMESPACE = "UnknownNamespace"
    NOT_READY = "NotReady"
    INTERNAL_ERROR = "InternalError"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to answer.

    Attributes:
        reason: one word: a `SkipReason`, `Demand`, `SelectionReason` or `InjectionReason`.
        patch: a JSON patch as text; "" for none.
        warnings: for the person who creates the pod.
        config: the chosen config as text; "" for none.
        wanted: the pod asked for injection.
        unserved: it asked, and goes without; a strict entry refuses it.
    """

    reason: str
    patch: str
    warnings: tuple[str, ...] = ()
    config: str = ""
    wanted: bool = False
    unserved: bool = False


def denial_of(verdict: Verdict) -> Denial | None:
    """How a strict entry refuses; None for what is let through there, too.

    Faults of ours and of the moment are 5xx with a time to try again, which client-go does by
    itself; what a person has to change is a 403.
    """
    if not verdict.unserved:
        return None
    why = verdict.warnings[0] if verdict.warnings else f"no storage was injected: {verdict.reason}"
    message = f"{why}; this namespace is strict and starts no pod without the storage that it asks for"
    if verdict.reason in (SkipReason.NOT_READY, SkipReason.UNKNOWN_NAMESPACE):
        return Denial(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", message, retry_after_seconds=1)
    if verdict.reason == SkipReason.INTERNAL_ERROR:
        return Denial(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", message)
    return Denial(HTTPStatus.FORBIDDEN, "Forbidden", message)


def opted_out(pod: object) -> bool:
    """Whether a pod says by its own label that it wants nothing; False for what is no pod."""
    if not isinstance(pod, dict):
        return False
    return child(child(cast("Json", pod), "metadata"), "labels").get(INJECT_LABEL) == _OPTED_OUT


def not_ready(why: str) -> Verdict:
    """Nothing is known yet, and asking the API server did not help."""
    warning = f"no storage was injected: {why}; create the pod again in a moment"
    return Verdict(SkipReason.NOT_READY, "", (warning,), wanted=True, unserved=True)


def internal_error(request: ReviewRequest) -> Verdict:
    """A fault of ours; its cause is in the log and not in the answer."""
    warning = "no storage was injected: internal error of the webhook; its log has the details"
    asked = not opted_out(request.pod)
    return Verdict(SkipReason.INTERNAL_ERROR, "", (warning,), wanted=asked, unserved=asked)


def skip_reason(request: ReviewRequest, only_namespace: str = "") -> Verdict | None:
    """Let through what is not the creation of a well-formed pod of a user's; None for one that is.

    A mirror pod only shows what a kubelet runs from a file: variables would be a lie, and the
    API server refuses one that refers to a Secret.

    Args:
        request: what is asked.
        only_namespace: pods elsewhere are not ours, and nothing is said of them; "" for all of the cluster.
    """
    if request.resource != "pods" or request.subresource:
        what = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
        warning = f"only pods are injected, not {what or 'an unnamed resource'}"
        return Verdict(SkipReason.NOT_A_POD, "", (warning,))
    if request.operation != "CREATE":
        return Verdict(SkipReason.NOT_A_CREATION, "", ("a pod is injected when it is created, not later",))
    if only_namespace and request.namespace != only_namespace:
        return Verdict(SkipReason.OTHER_NAMESPACE, "")
    problem = outer_problem(request.pod)
    if problem:
        return _malformed(request, problem)
    if MIRROR_ANNOTATION in texts_of(child(request.pod, "metadata"), "annotations"):
        return Verdict(SkipReason.MIRROR_POD, "")
    if opted_out(request.pod):
        return Verdict(Demand.POD_OPTED_OUT, "")
    return None


def unknown_namespace(request: ReviewRequest, *, absent: bool = False) -> Verdict:
    """Let a pod through whose namespace is not known, or does not exist.

    Its labels may name a config or opt out, and its own configs are probably unknown too: a
    cluster-wide config would be a guess.
    """
    what = "does not exist any more" if absent else "is not known to the webhook yet"
    warning = (
        f"no storage was injected: namespace {request.namespace} {what}; create the pod again in a moment"
    )
    return Verdict(SkipReason.UNKNOWN_NAMESPACE, "", (warning,), wanted=True, unserved=True)


def decide(
    request: ReviewRequest,
    namespace_labels: Mapping[str, str],
    storage_configs: Iterable[InjectionConfig],
    cluster_storage_configs: Iterable[InjectionConfig],
) -> Verdict:
    """Inject the pod of a request that `skip_reason` let pass, or say why not.

    The whole of a pod is checked once, here or in `inject_pod`: that is a good part of the time
    that a review takes.

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
        problem = _problem(request)
        return replace(_malformed(request, problem), unserved=False) if problem else Verdict(demand, "")
    selection = select_config(
        labels, request.namespace, namespace_labels, storage_configs, cluster_storage_configs
    )
    if selection.config is None:
        problem = _problem(request)
        if problem:
            return _malformed(request, problem)
        warning = f"no storage was injected: {selection.message}"
        return Verdict(selection.reason, "", (warning,), wanted=True, unserved=True)
    config = str(selection.config)
    hopeless = _hopeless(request, config)
    if hopeless is not None:
        return hopeless
    patch = fresh_patch(pod, selection.config)
    if patch is not None:
        return _too_large(request, patch, config) or Verdict(
            InjectionReason.INJECTED, patch, (), config, wanted=True
        )
    result = inject_pod(pod, selection.config)
    if result.reason == InjectionReason.MALFORMED_POD:
        return Verdict(
            SkipReason.MALFORMED_POD, "", tuple(f"the pod {text}" for text in result.warnings), unserved=True
        )
    patch = patch_text(pod, result) if result.changed else ""
    too_large = _too_large(request, patch, config)
    if too_large is not None:
        return too_large
    # A config may be for some containers only: a pod without one is refused if it asked by itself.
    unserved = result.reason not in _SERVED and not (
        result.reason == InjectionReason.NO_MATCHING_CONTAINER and demand is Demand.NAMESPACE_LABEL
    )
    return Verdict(result.reason, patch, result.warnings, config, wanted=True, unserved=unserved)


def _too_large(request: ReviewRequest, patch: str, config: str) -> Verdict | None:
    """Pods are stored in a denser form than JSON: the pod must not be refused because of us."""
    if not patch or request.size_bytes + len(patch) <= MAX_POD_BYTES:
        return None
    warning = (
        f"{config} was not injected: the pod would be larger than the "
        f"{MAX_POD_BYTES} bytes that a cluster stores; make the pod smaller"
    )
    return Verdict(SkipReason.POD_TOO_LARGE, "", (warning,), config, wanted=True, unserved=True)


def _hopeless(request: ReviewRequest, config: str) -> Verdict | None:
    """Say at once what would come out in the end: working on such a pod holds up all other reviews."""
    if request.size_bytes > MAX_POD_BYTES:
        why = f"the pod is larger than the {MAX_POD_BYTES} bytes that a cluster stores; make it smaller"
    elif _containers(request.pod) > MAX_CONTAINERS:
        why = f"the pod has more than {MAX_CONTAINERS} containers"
    else:
        return None
    warning = f"{config} was not injected: {why}"
    return Verdict(SkipReason.POD_TOO_LARGE, "", (warning,), config, wanted=True, unserved=True)


def _containers(pod: object) -> int:
    """How many there are, in a pod that is not checked yet."""
    spec = child(cast("Json", pod), "spec") if isinstance(pod, dict) else {}
    return len(items_of(spec, "containers")) + len(items_of(spec, "initContainers"))


def _problem(request: ReviewRequest) -> str:
    """`pod_problem`; "" for a pod that is too large to look at all of it."""
    return "" if request.size_bytes > MAX_POD_BYTES else pod_problem(request.pod)


def _malformed(request: ReviewRequest, problem: str) -> Verdict:
    warning = f"the pod cannot be injected: {problem}"
    return Verdict(SkipReason.MALFORMED_POD, "", (warning,), unserved=not opted_out(request.pod))
