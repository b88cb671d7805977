"""Which config applies to a namespace: the API's lists, given to the pure selection of injection."""

from __future__ import annotations

from collections.abc import Mapping

from bubu_operator.injection.config import InjectionConfig, load_config
from bubu_operator.injection.select import Selection, select_config
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    STORAGE_CONFIGS,
    Resource,
    metadata_of,
    section,
)

__all__ = ["select_for_namespace"]


def select_for_namespace(
    client: KubeClient, namespace: str, pod_labels: Mapping[str, str] | None = None
) -> Selection:
    """Choose the config for a namespace, or for pods with some labels in it, as the webhook would.

    Raises:
        KubeApiError: a list could not be read whole; nothing is guessed.
    """
    labels = section(metadata_of(client.get(NAMESPACES, namespace)), "labels")
    return select_config(
        pod_labels or {},
        namespace,
        {str(key): str(value) for key, value in labels.items()},
        _configs(client, STORAGE_CONFIGS, namespace),
        _configs(client, CLUSTER_STORAGE_CONFIGS, None),
    )


def _configs(client: KubeClient, resource: Resource, namespace: str | None) -> list[InjectionConfig]:
    return [
        load_config({**item, "kind": resource.kind, "apiVersion": resource.api_version})
        for item in client.list(resource, namespace).items
    ]
