"""What the webhook knows of the cluster: storage configs and the labels of namespaces.

Three informers feed it from threads; the event loop reads without waiting. Configs are
parsed once, when they change, and indexed by namespace. The cache holds no Secret and
asks for no right to read one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from bubu_operator.injection import InjectionConfig, load_config
from bubu_operator.injection.podspec import child, texts_of
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.informer import Change, Informer
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
)

__all__ = ["ClusterView", "ConfigCache", "ConfigIndex", "parse_once"]

_NOTHING: Final[tuple[InjectionConfig, ...]] = ()


class ClusterView(Protocol):
    """What a review needs to know; see `ConfigCache`."""

    def waiting_for(self) -> tuple[str, ...]:
        """Plurals of the resources that have not been listed yet; empty when ready."""
        ...

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """Labels of a namespace; None when it is not known (yet)."""
        ...

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """StorageConfigs of a namespace."""
        ...

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """All ClusterStorageConfigs."""
        ...


class ConfigIndex:
    """Configs by namespace; changed from one thread, read from any."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, tuple[InjectionConfig, ...]] = {}

    def put(self, key: ObjectKey, config: InjectionConfig | None) -> None:
        """Set or (None) take out one config."""
        others = [
            known for known in self._by_namespace.get(key.namespace, _NOTHING) if known.name != key.name
        ]
        if config is not None:
            others.append(config)
        if others:
            self._by_namespace[key.namespace] = tuple(others)
        else:
            self._by_namespace.pop(key.namespace, None)

    def of(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """The configs of a namespace; "" for cluster-wide ones."""
        return self._by_namespace.get(namespace, _NOTHING)


class ConfigCache:
    """The live copy; use as a context manager, or `start` and `stop`."""

    def __init__(self, client: KubeClient) -> None:
        self._index = ConfigIndex()
        self._shared = ConfigIndex()
        self._storage_configs = self._follow(client, STORAGE_CONFIGS, self._index)
        self._cluster_storage_configs = self._follow(client, CLUSTER_STORAGE_CONFIGS, self._shared)
        self._namespaces: Informer[dict[str, str]] = Informer(client, NAMESPACES, _labels_of)
        self._informers: tuple[tuple[str, Informer[Any]], ...] = (
            (STORAGE_CONFIGS.plural, self._storage_configs),
            (CLUSTER_STORAGE_CONFIGS.plural, self._cluster_storage_configs),
            (NAMESPACES.plural, self._namespaces),
        )

    def start(self) -> None:
        """Start to follow the cluster; `waiting_for` tells when the first lists are there."""
        for _, informer in self._informers:
            informer.start()

    def stop(self) -> None:
        """End the threads, all at once rather than one after the other."""
        stoppers = [threading.Thread(target=informer.stop) for _, informer in self._informers]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def waiting_for(self) -> tuple[str, ...]:
        """Plurals of the resources that have not been listed yet; empty when ready."""
        return tuple(plural for plural, informer in self._informers if not informer.synced.is_set())

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """Labels of a namespace; None when it is not known (yet)."""
        return self._namespaces.get(ObjectKey("", namespace))

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """StorageConfigs of a namespace."""
        return self._index.of(namespace)

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """All ClusterStorageConfigs."""
        return self._shared.of("")

    @staticmethod
    def _follow(client: KubeClient, resource: Any, index: ConfigIndex) -> Informer[InjectionConfig]:
        informer: Informer[InjectionConfig]

        def known(key: ObjectKey) -> InjectionConfig | None:
            return informer.get(key)

        def changed(_change: Change, key: ObjectKey) -> None:
            index.put(key, informer.get(key))

        informer = Informer(client, resource, parse_once(known), on_change=changed)
        return informer


def parse_once(
    known: Callable[[ObjectKey], InjectionConfig | None],
) -> Callable[[JsonObject], InjectionConfig]:
    """A transform that parses a config only when its spec may have changed.

    Every probe of a store writes a status; with thousands of configs, parsing each of those
    updates would keep the process busy for nothing.
    """

    def transform(obj: JsonObject) -> InjectionConfig:
        metadata = child(obj, "metadata")
        key = ObjectKey(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))
        before = known(key)
        if (
            before is not None
            and before.uid
            and before.uid == metadata.get("uid")
            and before.generation == metadata.get("generation")
            and before.deleting == bool(metadata.get("deletionTimestamp"))
        ):
            return before
        return load_config(obj)

    return transform


def _labels_of(namespace: JsonObject) -> dict[str, str]:
    return dict(texts_of(child(namespace, "metadata"), "labels"))
