"""What a decision needs to know: configs and a namespace's labels, from a server or from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.injection.config import (
    CLUSTER_STORAGE_CONFIG,
    STORAGE_CONFIG,
    InjectionConfig,
    load_config,
)
from bubu_operator.injection.podspec import child
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.configs import list_configs
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    STORAGE_CONFIGS,
    JsonObject,
    Resource,
    metadata_of,
    section,
)
from bubu_operator.kubectl.registration import Registration

__all__ = ["Facts", "facts_of_cluster", "facts_of_documents"]


@dataclass(frozen=True, slots=True)
class Facts:
    """About one namespace.

    Attributes:
        namespace: its name.
        labels: its labels.
        configs: StorageConfigs of it.
        cluster_configs: all ClusterStorageConfigs.
        gaps: what could not be looked at, one sentence each; an answer may be wrong because of it.
        notes: what was taken for granted.
        registration: of the webhook; None where nobody looked, or could.
    """

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    configs: tuple[InjectionConfig, ...] = ()
    cluster_configs: tuple[InjectionConfig, ...] = ()
    gaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    registration: Registration | None = None


def facts_of_cluster(client: KubeClient, namespace: str, webhook: str = "") -> Facts:
    """Ask the API server; what the present user may not see becomes a gap.

    Args:
        client: as the present user.
        namespace: the one in question.
        webhook: name of the webhook's registration; "" does not look at it.

    Raises:
        KubeApiError: it cannot be asked at all.
    """
    gaps: list[str] = []
    labels: dict[str, str] = {}
    try:
        labels = _texts(section(metadata_of(client.get(NAMESPACES, namespace)), "labels"))
    except KubeNotFoundError:
        gaps.append(f"there is no namespace {namespace}; it is taken as one without labels")
    except KubeForbiddenError:
        gaps.append(f"you may not read namespace {namespace}: its labels are taken as none")
    return Facts(
        namespace,
        labels,
        _configs(client, STORAGE_CONFIGS, namespace, gaps),
        _configs(client, CLUSTER_STORAGE_CONFIGS, None, gaps),
        registration=_registration(client, webhook, namespace, gaps) if webhook else None,
        gaps=tuple(gaps),
    )


def facts_of_documents(documents: Sequence[JsonObject], namespace: str) -> Facts:
    """Take configs and the namespace from files; a StorageConfig without a namespace is of this one."""
    notes: list[str] = []
    labels: dict[str, str] | None = None
    own: list[InjectionConfig] = []
    shared: list[InjectionConfig] = []
    for document in documents:
        metadata = child(document, "metadata")
        kind = document.get("kind")
        if kind == "Namespace" and metadata.get("name") == namespace:
            labels = _texts(child(metadata, "labels"))
        elif kind == STORAGE_CONFIG:
            placed = {**document, "metadata": {"namespace": namespace, **metadata}}
            own.append(load_config(placed))
        elif kind == CLUSTER_STORAGE_CONFIG:
            shared.append(load_config(document))
    if labels is None:
        notes.append(f"no file describes namespace {namespace}; it is taken as one without labels")
    here = tuple(config for config in own if config.namespace == namespace)
    return Facts(namespace, labels or {}, here, tuple(shared), notes=tuple(notes))


def _configs(
    client: KubeClient, resource: Resource, namespace: str | None, gaps: list[str]
) -> tuple[InjectionConfig, ...]:
    try:
        return tuple(list_configs(client, resource, namespace))
    except KubeForbiddenError:
        gaps.append(f"you may not list {resource.plural}: they are taken as none")
    except KubeNotFoundError:
        gaps.append(f"the cluster does not know {resource.plural}: install the CRDs (crds/ of the operator)")
    return ()


def _registration(client: KubeClient, name: str, namespace: str, gaps: list[str]) -> Registration | None:
    try:
        return Registration(name, client.get(MUTATING_WEBHOOKS, name))
    except KubeNotFoundError:
        return Registration(name, None)
    except KubeForbiddenError:
        gaps.append(
            "you may not get mutatingwebhookconfigurations: that the API server asks the webhook about pods "
            f"of namespace {namespace} is taken for granted"
        )
        return None


def _texts(labels: Mapping[str, object]) -> dict[str, str]:
    return {str(key): value for key, value in labels.items() if isinstance(value, str)}
