"""What a sweep knows of the cluster besides its pods: namespaces' labels and storage configs.

Read once when a sweep begins, so that all pods are judged by the same state. Namespaced
configs are kept as compact text and parsed only where pods ask: pods come ordered by
namespace, so few are parsed at a time however many there are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bubu_operator.api.v1alpha1.conditions import ConditionType
from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.injection.config import CLUSTER_STORAGE_CONFIG, ConfigName, InjectionConfig, load_config
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    STORAGE_CONFIGS,
    JsonObject,
    Resource,
    metadata_of,
    section,
)

__all__ = ["ClusterView", "Standing", "read_view"]

PAGE_SIZE: Final = 500
PARSED_NAMESPACES: Final = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """What a config's object says now, as far as a sweep may change it.

    Attributes:
        resource: its kind.
        uid, generation: of the object that was read.
        rollout: ``injection.rolloutOnChange``.
        pods: ``status.injectedPods``; None where it is not set.
        said: status, reason and message of the condition InjectionDrift; three "" without it.
        said_of: the generation that the condition is about.
    """

    resource: Resource
    uid: str
    generation: int
    rollout: bool
    pods: int | None
    said: tuple[str, str, str]
    said_of: int


class ClusterView:
    """One state of namespaces and configs; see `read_view`."""

    def __init__(self, client: KubeClient, *, shared_known: bool = True) -> None:
        self._client = client
        self._labels: dict[str, Mapping[str, str] | None] = {}
        self._texts: dict[str, list[str]] = {}
        self._parsed: OrderedDict[str, tuple[InjectionConfig, ...]] = OrderedDict()
        self.shared: tuple[InjectionConfig, ...] = ()
        self.shared_known = shared_known
        """False where ClusterStorageConfigs may not be read: then "no config" is no finding."""
        self.standing: dict[ConfigName, Standing] = {}

    def labels(self, namespace: str) -> Mapping[str, str] | None:
        """Return a namespace's labels; None when it is gone. One that came later is read now.

        Raises:
            KubeApiError: it could not be read.
        """
        if namespace not in self._labels:
            try:
                obj = self._client.get(NAMESPACES, namespace, metadata_only=True)
            except KubeNotFoundError:
                self._labels[namespace] = None
            else:
                self._labels[namespace] = _labels_of(obj)
        return self._labels[namespace]

    def configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """Return the StorageConfigs of a namespace."""
        known = self._parsed.get(namespace)
        if known is None:
            known = tuple(load_config(json.loads(text)) for text in self._texts.get(namespace, ()))
            self._parsed[namespace] = known
            while len(self._parsed) > PARSED_NAMESPACES:
                self._parsed.popitem(last=False)
        return known

    def config(self, name: ConfigName) -> InjectionConfig | None:
        """Return one config by its name."""
        kind, namespace, plain = name
        found = self.shared if kind == CLUSTER_STORAGE_CONFIG else self.configs(namespace)
        return next((config for config in found if config.name == plain), None)

    def add_labels(self, namespace: JsonObject) -> None:
        """Take a namespace as listed."""
        self._labels[str(metadata_of(namespace).get("name"))] = _labels_of(namespace)

    def add_config(self, resource: Resource, obj: JsonObject) -> None:
        """Take a config as listed."""
        metadata = metadata_of(obj)
        namespace, name = str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
        status = section(obj, "status")
        said = find_condition(status.get("conditions"), ConditionType.INJECTION_DRIFT) or {}
        pods: Any = status.get("injectedPods")
        spec = section(obj, "spec")
        self.standing[resource.kind, namespace, name] = Standing(
            resource,
            str(metadata.get("uid") or ""),
            int(metadata.get("generation") or 0),
            section(spec, "injection").get("rolloutOnChange") is True,
            pods if isinstance(pods, int) else None,
            (str(said.get("status", "")), str(said.get("reason", "")), str(said.get("message", ""))),
            int(said.get("observedGeneration") or 0),
        )
        kept = ("name", "namespace", "uid", "generation", "deletionTimestamp")
        slim: JsonObject = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {key: metadata[key] for key in kept if key in metadata},
            "spec": spec,
        }
        if resource is CLUSTER_STORAGE_CONFIGS:
            self.shared = (*self.shared, load_config(slim))
        else:
            self._texts.setdefault(namespace, []).append(json.dumps(slim, separators=(",", ":")))


def read_view(client: KubeClient, namespaces: Sequence[str]) -> ClusterView:
    """Read what a sweep judges by.

    Args:
        client: the API server.
        namespaces: watched ones; empty for all.

    Raises:
        KubeForbiddenError: configs or namespaces may not be read.
        KubeApiError: a list could not be read whole.
    """
    view = ClusterView(client)
    for namespace in namespaces:
        view.labels(namespace)
        for obj in client.list(STORAGE_CONFIGS, namespace, page_size=PAGE_SIZE).items:
            view.add_config(STORAGE_CONFIGS, obj)
    try:
        for obj in client.list(CLUSTER_STORAGE_CONFIGS, page_size=PAGE_SIZE).items:
            view.add_config(CLUSTER_STORAGE_CONFIGS, obj)
    except KubeForbiddenError:
        if not namespaces:
            raise
        view.shared_known = False
    if not namespaces:
        _read_pages(client, NAMESPACES, view, metadata_only=True)
        _read_pages(client, STORAGE_CONFIGS, view, metadata_only=False)
    return view


def _read_pages(client: KubeClient, resource: Resource, view: ClusterView, *, metadata_only: bool) -> None:
    """Read a whole list, of which no more than one page is in memory at a time."""
    token = ""
    while True:
        page = client.list_page(resource, limit=PAGE_SIZE, continue_token=token, metadata_only=metadata_only)
        for obj in page.items:
            if resource is NAMESPACES:
                view.add_labels(obj)
            else:
                view.add_config(resource, obj)
        token = page.continue_token
        if not token:
            return


def _labels_of(namespace: JsonObject) -> dict[str, str]:
    labels = section(metadata_of(namespace), "labels")
    return {str(key): str(value) for key, value in labels.items()}
