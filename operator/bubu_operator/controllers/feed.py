"""From watch events to work: what is a change worth looking at, and who must look.

Our own status writes come back as events, as do heartbeats of other controllers. An event
counts only if something changed that a user or another controller can mean: generation,
deletion, an annotation or label that we act on. That is what makes loops impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bubu_operator.controllers.context import ObjectCache
from bubu_operator.controllers.scheduler import Lane
from bubu_operator.controllers.template_decision import DIGEST_ANNOTATION
from bubu_operator.injection.names import CONFIG_LABEL, INJECT_LABEL
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    RETENTION_POLICIES,
    STATEFUL_SETS,
    STORAGE_CONFIGS,
    JsonObject,
    ObjectKey,
    Resource,
    key_of,
    metadata_of,
    section,
)
from bubu_operator.retention.annotations import APPROVE_ANNOTATION, RUN_NOW_ANNOTATION

__all__ = ["WORKLOADS", "Feed", "slim_workload"]

WORKLOADS: Final = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, CRON_JOBS)
"""Kinds whose pod templates may change."""

_LABELS = (INJECT_LABEL, CONFIG_LABEL)
_ANNOTATIONS = (RUN_NOW_ANNOTATION, APPROVE_ANNOTATION, DIGEST_ANNOTATION)


class Feed:
    """Receives events (in Kopf's loop; nothing here blocks) and offers keys to lanes."""

    def __init__(
        self,
        cache: ObjectCache,
        *,
        configs: Lane,
        cluster_configs: Lane,
        policies: Lane,
        templates: Mapping[Resource, Lane],
    ) -> None:
        self._cache = cache
        self._lanes = {
            STORAGE_CONFIGS.plural: configs,
            CLUSTER_STORAGE_CONFIGS.plural: cluster_configs,
            RETENTION_POLICIES.plural: policies,
            CLUSTER_RETENTION_POLICIES.plural: policies,
            **{resource.plural: lane for resource, lane in templates.items()},
        }
        self._policies = policies
        self._templates = templates

    def handle(self, resource: Resource, event_type: str | None, obj: JsonObject) -> None:
        """Take one event; ``event_type`` is None for objects that a list found."""
        key = key_of(obj)
        if event_type == "DELETED":
            self._cache.remove(resource, key)
            changed = True
        else:
            slim = _slim(obj)
            if resource in WORKLOADS and not _concerns_us(slim):
                self._cache.remove(resource, key)
                return
            before = self._cache.put(resource, key, slim)
            changed = before is None or _significant(before) != _significant(slim)
        if not changed:
            return
        self._lanes[resource.plural].offer(key)
        if resource in (STORAGE_CONFIGS, CLUSTER_STORAGE_CONFIGS):
            self.config_changed(key)

    def config_changed(self, key: ObjectKey) -> None:
        """Wake all that may use a config: of its namespace, or, cluster-wide, of all."""
        self.config_judged(key)
        namespace = key.namespace or None
        for resource, lane in self._templates.items():
            for workload in self._cache.keys(resource, namespace):
                lane.offer(workload)

    def config_judged(self, key: ObjectKey) -> None:
        """Wake policies that may use a config: what they say of a store that is not ready is the config's."""
        namespace = key.namespace or None
        for policy in self._cache.keys(RETENTION_POLICIES, namespace):
            self._policies.offer(policy)
        if namespace is None:
            for policy in self._cache.keys(CLUSTER_RETENTION_POLICIES):
                self._policies.offer(policy)


def _slim(obj: JsonObject) -> JsonObject:
    """Return what is needed to judge events; whole objects of a whole cluster would be too much."""
    metadata = metadata_of(obj)
    slim: dict[str, Any] = {
        name: metadata.get(name) for name in ("name", "namespace", "uid", "generation", "deletionTimestamp")
    }
    slim["labels"] = {k: v for k, v in section(metadata, "labels").items() if k in _LABELS}
    slim["annotations"] = {k: v for k, v in section(metadata, "annotations").items() if k in _ANNOTATIONS}
    return {"metadata": slim}


def slim_workload(obj: JsonObject) -> JsonObject | None:
    """Return what is needed to judge events of a workload, None where it does not concern us."""
    slim = _slim(obj)
    return slim if _concerns_us(slim) else None


def _significant(slim: JsonObject) -> JsonObject:
    return metadata_of(slim)


def _concerns_us(slim: JsonObject) -> bool:
    """Tell whether a workload asks for injection, or carries one that may have to go."""
    metadata = metadata_of(slim)
    return section(metadata, "labels").get(INJECT_LABEL) == "true" or DIGEST_ANNOTATION in section(
        metadata, "annotations"
    )
