"""What the webhook knows of the cluster: storage configs and the labels of namespaces.

An informer of each kind feeds it from a thread; the event loop reads without waiting. For one
namespace alone it asks for nothing beyond that namespace, and knows no cluster-wide configs. Configs are
parsed once, when they change, and indexed by namespace. What was deleted is remembered for a
while by name, so that a pod that comes too late can be told. The cache holds no Secret and
asks for no right to read one. When the API server is away it grows stale; it never empties.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

from bubu_operator.errors import (
    KubeApiError,
    KubeForbiddenError,
    KubeGoneError,
    KubeThrottledError,
    KubeTimeoutError,
    KubeUnauthorizedError,
    KubeUnreachableError,
)
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
    Resource,
)
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.sharing import PartPool

__all__ = [
    "ClusterView",
    "ConfigCache",
    "ConfigIndex",
    "Deletions",
    "error_word",
    "labels_of",
    "parse_once",
]

T = TypeVar("T")

REMEMBERED_DELETIONS: Final = 1024
REMEMBERED_SECONDS: Final = 600.0

_NOTHING: Final[tuple[InjectionConfig, ...]] = ()
_ERROR_WORDS: Final[tuple[tuple[type[KubeApiError], str], ...]] = (
    (KubeForbiddenError, "forbidden"),
    (KubeUnauthorizedError, "unauthorized"),
    (KubeGoneError, "gone"),
    (KubeThrottledError, "throttled"),
    (KubeTimeoutError, "timeout"),
    (KubeUnreachableError, "unreachable"),
)


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


class Deletions:
    """Names of configs that went lately; changed from informer threads, read from any."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._gone: OrderedDict[tuple[str, ObjectKey], float] = OrderedDict()

    def note(self, kind: str, key: ObjectKey, *, gone: bool) -> None:
        """Remember a deletion, or forget it because the object is there again."""
        with self._lock:
            self._gone.pop((kind, key), None)
            if gone:
                self._gone[kind, key] = self._monotonic()
                while len(self._gone) > REMEMBERED_DELETIONS:
                    self._gone.popitem(last=False)

    def in_reach_of(self, namespace: str) -> tuple[str, ...]:
        """Say what went lately in a namespace, or cluster-wide, the latest first."""
        now = self._monotonic()
        with self._lock:
            lately = [
                (kind, key, now - when)
                for (kind, key), when in reversed(self._gone.items())
                if key.namespace in ("", namespace) and now - when < REMEMBERED_SECONDS
            ]
        return tuple(f"{kind} {key} was deleted {seconds:.0f} s ago" for kind, key, seconds in lately)


class _CountedInformer(Informer[T]):
    """An informer whose lists and failures are counted."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        transform: Callable[[JsonObject], T],
        metrics: WebhookMetrics,
        on_change: Callable[[Change, ObjectKey], None] | None = None,
        *,
        namespace: str = "",
    ) -> None:
        super().__init__(
            client,
            resource,
            transform,
            namespace=namespace if resource.namespaced else None,
            # To the authorizer, this is the one object of that name.
            field_selector=f"metadata.name={namespace}" if namespace and resource is NAMESPACES else "",
            on_change=on_change,
        )
        name = resource.plural
        self._count_list = metrics.cache_lists.labels(name).inc
        self._errors = metrics.cache_errors
        self._name = name
        metrics.cache_objects.labels(name).set_function(lambda: len(self._objects))
        metrics.cache_age_seconds.labels(name).set_function(lambda: self.age_seconds)
        metrics.cache_failing.labels(name).set_function(lambda: float(self.last_error is not None))

    def _relist(self) -> None:
        super()._relist()
        self._count_list()

    def _report(self, error: KubeApiError) -> None:
        super()._report(error)
        if not self._stop.is_set():
            self._errors.labels(self._name, error_word(error)).inc()


class ConfigCache:
    """The live copy; `start` and `stop` it.

    Args:
        client: the API server.
        metrics: where lists and failures are counted.
        only_namespace: what to know of the cluster; "" for all of it.
    """

    def __init__(
        self, client: KubeClient, metrics: WebhookMetrics | None = None, *, only_namespace: str = ""
    ) -> None:
        metrics = metrics or WebhookMetrics()
        self._only_namespace = only_namespace
        self._index = ConfigIndex()
        self._shared = ConfigIndex()
        self._deletions = Deletions()
        self._parts = PartPool()
        self._all_listed = False
        self._storage_configs = self._follow(client, STORAGE_CONFIGS, self._index, metrics)
        self._cluster_storage_configs = (
            None if only_namespace else self._follow(client, CLUSTER_STORAGE_CONFIGS, self._shared, metrics)
        )
        self._namespaces = _CountedInformer(client, NAMESPACES, labels_of, metrics, namespace=only_namespace)
        informers: tuple[tuple[str, Informer[Any] | None], ...] = (
            (STORAGE_CONFIGS.plural, self._storage_configs),
            (CLUSTER_STORAGE_CONFIGS.plural, self._cluster_storage_configs),
            (NAMESPACES.plural, self._namespaces),
        )
        self._informers = tuple((plural, one) for plural, one in informers if one is not None)

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
        """Plurals of what has not been listed yet, each with what went wrong; empty when ready."""
        if self._all_listed:
            return ()
        waiting = tuple(
            f"{plural} ({error_word(error)})" if (error := informer.last_error) else plural
            for plural, informer in self._informers
            if not informer.synced.is_set()
        )
        # What has been listed stays so: it grows stale, it is never unknown again.
        self._all_listed = not waiting
        return waiting

    def failing(self) -> tuple[str, ...]:
        """What cannot be followed right now, although it was listed once; reviews use what is known."""
        return tuple(
            f"{plural} ({error_word(error)})"
            for plural, informer in self._informers
            if informer.synced.is_set() and (error := informer.last_error)
        )

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """Labels of a namespace; None when it is not known (yet)."""
        return self._namespaces.get(ObjectKey("", namespace))

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """StorageConfigs of a namespace."""
        return self._index.of(namespace)

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """All ClusterStorageConfigs."""
        return self._shared.of("")

    def lately_deleted(self, namespace: str) -> tuple[str, ...]:
        """Sentences about configs of a namespace, or cluster-wide ones, that went a short while ago."""
        return self._deletions.in_reach_of(namespace)

    def parse(self, obj: JsonObject) -> InjectionConfig:
        """Read a config that was read live; one that the cache holds already is not parsed again."""
        cluster_wide = obj.get("kind") == CLUSTER_STORAGE_CONFIGS.kind
        informer = self._cluster_storage_configs if cluster_wide else self._storage_configs
        return load_config(obj) if informer is None else parse_once(informer.get)(obj)

    def _follow(
        self, client: KubeClient, resource: Resource, index: ConfigIndex, metrics: WebhookMetrics
    ) -> Informer[InjectionConfig]:
        informer: Informer[InjectionConfig]

        def known(key: ObjectKey) -> InjectionConfig | None:
            return informer.get(key)

        def changed(change: Change, key: ObjectKey) -> None:
            index.put(key, informer.get(key))
            self._deletions.note(resource.kind, key, gone=change is Change.DELETED)

        transform = parse_once(known, self._parts.share)
        informer = _CountedInformer(
            client, resource, transform, metrics, changed, namespace=self._only_namespace
        )
        return informer


def error_word(error: KubeApiError) -> str:
    """One word for an error, for labels and for readers who may not see addresses."""
    return next((word for kind, word in _ERROR_WORDS if isinstance(error, kind)), "other")


def parse_once(
    known: Callable[[ObjectKey], InjectionConfig | None],
    share: Callable[[InjectionConfig], InjectionConfig] = lambda config: config,
) -> Callable[[JsonObject], InjectionConfig]:
    """A transform that parses a config only when its spec may have changed; see `PartPool` for ``share``.

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
        return share(load_config(obj))

    return transform


def labels_of(namespace: JsonObject) -> dict[str, str]:
    """Labels of a namespace object; all that is kept of it."""
    return dict(texts_of(child(namespace, "metadata"), "labels"))
