"""Which entry of a MutatingWebhookConfiguration the API server asks about a pod, by its two selectors.

Pure, over what the API server sent. Match conditions are left out: ours say no more about
namespaces than the selectors do, and the rest of them is about pods that nobody creates.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from bubu_operator.api.v1alpha1.common import LabelSelector
from bubu_operator.injection.podspec import items_of
from bubu_operator.kube.resources import JsonObject

__all__ = ["entry_for"]


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
        try:
            objects = LabelSelector.model_validate(entry.get("objectSelector") or {})
            namespaces = LabelSelector.model_validate(entry.get("namespaceSelector") or {})
        except ValidationError:
            continue
        if objects.matches(pod_labels) and namespaces.matches(namespace_labels):
            return entry
    return None
