"""Whether the API server asks the webhook about a pod at all, by the MutatingWebhookConfiguration.

Pure, over what the API server sent; `bubu_operator.kubectl.facts` fetches it. The selectors are judged
by the function that healing and ``check`` judge them by (`entry_for`); this tells which of them it is
that leaves a pod out, and what to do. Match conditions are not judged: ours repeat the selectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from bubu_operator.injection.podspec import child, items_of
from bubu_operator.injection.unasked import ExcludedReason, Unasked
from bubu_operator.kube.resources import JsonObject
from bubu_operator.webhook.configuration import NAME_LABEL
from bubu_operator.webhook.entries import entry_for, selects

__all__ = ["Registration", "unasked_by"]


@dataclass(frozen=True, slots=True)
class Registration:
    """What was found of the webhook's registration.

    Attributes:
        name: of the MutatingWebhookConfiguration.
        configuration: as the API server has it; None where there is none of that name.
    """

    name: str
    configuration: JsonObject | None


def unasked_by(
    registration: Registration,
    pod_labels: Mapping[str, str],
    namespace: str,
    namespace_labels: Mapping[str, str],
) -> Unasked | None:
    """Return why the API server asks nobody about a pod that asks for storage; None where it asks.

    Args:
        registration: what was found.
        pod_labels: of the pod, as it is created.
        namespace: where it is created.
        namespace_labels: of that namespace.
    """
    what = f"MutatingWebhookConfiguration {registration.name}"
    configuration = registration.configuration
    if configuration is None:
        return Unasked(
            ExcludedReason.NO_WEBHOOK,
            f"there is no {what}: the API server asks no webhook, and no pod is injected when it is created. "
            "Install the chart, or name yours by --webhook-configuration",
        )
    labels = {**namespace_labels, NAME_LABEL: namespace}
    if entry_for(configuration, pod_labels, labels) is not None:
        return None
    entries = items_of(configuration, "webhooks")
    named = [_about_names(entry) for entry in entries]
    if entries and not any(selects(entry, "namespaceSelector", {NAME_LABEL: namespace}) for entry in named):
        return Unasked(ExcludedReason.NOT_SELECTED, _left_out(what, namespace, named), by_name=True)
    if any(selects(entry, "objectSelector", pod_labels) for entry in entries):
        text = (
            f"{what} has no entry for such pods whose namespaceSelector selects the labels of namespace "
            f"{namespace}, so the API server does not ask the webhook about them. Label the namespace as it "
            "says, or change the namespaceSelector"
        )
    else:
        text = (
            f"{what} has no entry whose objectSelector selects the labels of this pod, so the API server "
            "does not ask the webhook about it. Change its labels, or the objectSelector"
        )
    return Unasked(ExcludedReason.NOT_SELECTED, text)


def _left_out(what: str, namespace: str, named: Sequence[JsonObject]) -> str:
    only = _only_namespaces(named)
    if only:
        return (
            f"{what} is for namespace {', '.join(only)} alone, so the API server does not ask the webhook "
            f"about pods of {namespace}. If {namespace} has an installation of its own, name its "
            "registration by --webhook-configuration"
        )
    return (
        f"{what} leaves namespace {namespace} out by its name, so the API server does not ask the webhook "
        f"about its pods. Take {namespace} out of the chart's webhook.excludedNamespaces"
    )


def _about_names(entry: JsonObject) -> JsonObject:
    """The entry with no other demand on a namespace than on its name."""
    selector = child(entry, "namespaceSelector")
    expressions = [item for item in items_of(selector, "matchExpressions") if item.get("key") == NAME_LABEL]
    labels = {key: value for key, value in child(selector, "matchLabels").items() if key == NAME_LABEL}
    return {"namespaceSelector": {"matchLabels": labels, "matchExpressions": expressions}}


def _only_namespaces(entries: Sequence[JsonObject]) -> list[str]:
    """The namespaces that entries name as the only ones; none where they name those left out."""
    found: set[str] = set()
    for entry in entries:
        selector = child(entry, "namespaceSelector")
        found |= {str(value) for value in child(selector, "matchLabels").values()}
        for item in items_of(selector, "matchExpressions"):
            if item.get("operator") == "In":
                found |= {str(value) for value in cast("list[object]", item.get("values") or [])}
    return sorted(found)
