"""Pods that the API server never asks the webhook about, whatever they ask for: pure, for explanations.

Some are kept out for good, by what they are and where; others by the registration of this installation,
which a caller that has seen it hands over as an `Unasked` of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bubu_operator.injection.names import MIRROR_ANNOTATION, SYSTEM_NAMESPACES
from bubu_operator.injection.podspec import child, texts_of
from bubu_storage.apply_env import Json

__all__ = ["ExcludedReason", "Unasked", "never_asked"]


class ExcludedReason(StrEnum):
    """Why the API server does not even ask the webhook about a pod that asks for storage."""

    SYSTEM_NAMESPACE = "SystemNamespace"
    OPERATOR_NAMESPACE = "OperatorNamespace"
    MIRROR_POD = "MirrorPod"
    NO_WEBHOOK = "NoWebhook"
    """No webhook is registered at all."""
    NOT_SELECTED = "NotSelected"
    """One is, and none of its entries selects this namespace or pod."""


@dataclass(frozen=True, slots=True)
class Unasked:
    """The API server asks nobody about a pod.

    Attributes:
        reason: see `ExcludedReason`.
        text: the same in a sentence, with the way out where there is one.
        by_name: the namespace is left out by its name: the controller is told to let it alone, too.
    """

    reason: ExcludedReason
    text: str
    by_name: bool = False


def never_asked(pod: Json, namespace: str, operator_namespace: str) -> Unasked | None:
    """Return why no installation is ever asked about such a pod; None for an ordinary one."""
    if namespace in SYSTEM_NAMESPACES:
        text = f"nothing is ever injected in {namespace}, the cluster's own"
        return Unasked(ExcludedReason.SYSTEM_NAMESPACE, text, by_name=True)
    if namespace == operator_namespace:
        text = f"nothing is ever injected in {namespace}, where the operator itself runs"
        return Unasked(ExcludedReason.OPERATOR_NAMESPACE, text, by_name=True)
    if MIRROR_ANNOTATION in texts_of(child(pod, "metadata"), "annotations"):
        text = "it is a mirror pod: it only shows what a kubelet runs from a file, and is never injected"
        return Unasked(ExcludedReason.MIRROR_POD, text)
    return None
