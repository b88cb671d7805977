"""Which entry of a MutatingWebhookConfiguration the API server asks about a pod, by its two selectors.

Pure, over what the API server sent. Match conditions are left out: ours say no more about
namespaces than the selectors do, and the rest of them is about pods that nobody creates.
Selectors are read as they stand, without the limits that our own kinds set: a hundred
namespaces in one list are fine here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from bubu_operator.api.v1alpha1.common import requirement_holds
from bubu_operator.injection.podspec import child, items_of
from bubu_operator.kube.resources import JsonObject

__all__ = ["entry_for", "selects"]


def entry_for(
    configuration: JsonObject, pod_labels: Mapping[str, str], namespace_labels: Mapping[str, str]
) -> JsonObject | None:
    """Return the first entry that selects such a pod; None when the API server would ask nobody.

    Args:
        configuration: the MutatingWebhookConfiguration; an entry that cannot be read selects nothing.
        pod_labels: of the pod.
        namespace_labels: of its namespace, the one with its name included.
    """
    for entry in items_of(configuration, "webhooks"):
        if selects(entry, "objectSelector", pod_labels) and selects(
            entry, "namespaceSelector", namespace_labels
        ):
            return entry
    return None


def selects(entry: JsonObject, field: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector of an entry selects such labels; none at all selects everything."""
    selector = child(entry, field)
    return all(labels.get(key) == value for key, value in child(selector, "matchLabels").items()) and all(
        _meets(requirement, labels) for requirement in items_of(selector, "matchExpressions")
    )


def _meets(requirement: JsonObject, labels: Mapping[str, str]) -> bool:
    values = cast("list[str]", requirement.get("values") or [])
    return requirement_holds(str(requirement.get("operator")), str(requirement.get("key")), values, labels)
