"""Which config applies to a namespace: the API's lists, given to the pure selection of injection."""

from __future__ import annotations

from bubu_operator.errors import KubeForbiddenError
from bubu_operator.injection.config import InjectionConfig
from bubu_operator.injection.select import Selection, select_config
from bubu_operator.injection.template import TemplateChoice, select_for_template
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.configs import list_configs
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    STORAGE_CONFIGS,
    JsonObject,
    metadata_of,
    section,
)

__all__ = ["select_for_namespace", "select_for_workload"]


def select_for_namespace(client: KubeClient, namespace: str) -> Selection:
    """Choose the config for a namespace, as the webhook would for pods without labels of ours.

    Raises:
        KubeApiError: a list could not be read whole; nothing is guessed.
    """
    return select_config({}, namespace, *_known(client, namespace))


def select_for_workload(
    client: KubeClient, namespace: str, workload: JsonObject, *, may_lack_shared: bool = False
) -> TemplateChoice:
    """Choose the config for the pod template of a workload that asks; see `select_for_template`.

    Args:
        client: the API server.
        namespace: of the workload.
        workload: as it is now.
        may_lack_shared: without a right to ClusterStorageConfigs there are none, as for a webhook of the
            same installation; a config of the namespace comes before them anyway.

    Raises:
        KubeApiError: a list could not be read whole; nothing is guessed.
    """
    known = _known(client, namespace, may_lack_shared=may_lack_shared)
    return select_for_template(workload, namespace, *known)


def _known(
    client: KubeClient, namespace: str, *, may_lack_shared: bool = False
) -> tuple[dict[str, str], list[InjectionConfig], list[InjectionConfig]]:
    """Read the namespace's labels, its own configs and the cluster-wide ones."""
    labels = section(metadata_of(client.get(NAMESPACES, namespace)), "labels")
    own = list_configs(client, STORAGE_CONFIGS, namespace)
    try:
        shared = list_configs(client, CLUSTER_STORAGE_CONFIGS, None)
    except KubeForbiddenError:
        if not may_lack_shared:
            raise
        shared = []
    return (
        {str(key): str(value) for key, value in labels.items()},
        own,
        shared,
    )
