"""The API resources that the operator touches, by the name of their kind.

One place for group, version and plural, so that no path is built from loose strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

__all__ = [
    "CLUSTER_RETENTION_POLICIES",
    "CLUSTER_STORAGE_CONFIGS",
    "CONFIG_MAPS",
    "CRON_JOBS",
    "DAEMON_SETS",
    "DEPLOYMENTS",
    "EVENTS",
    "GROUP",
    "JOBS",
    "LEASES",
    "MUTATING_WEBHOOKS",
    "NAMESPACES",
    "PODS",
    "REPLICA_SETS",
    "RETENTION_POLICIES",
    "SECRETS",
    "SERVICE_ACCOUNTS",
    "STATEFUL_SETS",
    "STORAGE_CONFIGS",
    "VERSION",
    "JsonObject",
    "ObjectKey",
    "Resource",
    "key_of",
    "metadata_of",
    "section",
]

JsonObject: TypeAlias = dict[str, Any]
"""A Kubernetes object, or a part of one, as the API's JSON has it."""

GROUP: Final = "storage.bubustack.io"
VERSION: Final = "v1alpha1"


@dataclass(frozen=True, slots=True)
class Resource:
    """One served resource.

    Attributes:
        group: "" for the core group.
        version: as ``v1``.
        plural: name in the URL.
        kind: name in objects.
        namespaced: objects live in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What objects carry as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None) -> str:
        """Return the collection's URL path; without a namespace, across all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace:
            return f"{root}/namespaces/{namespace}/{self.plural}"
        return f"{root}/{self.plural}"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Which object of a known resource; ``namespace`` is "" for cluster-scoped ones."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def section(obj: JsonObject, name: str) -> JsonObject:
    """Return one object-valued field; empty where it is absent or null."""
    value: Any = obj.get(name)
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def metadata_of(obj: JsonObject) -> JsonObject:
    """Return an object's metadata."""
    return section(obj, "metadata")


def key_of(obj: JsonObject) -> ObjectKey:
    """Return an object's key from its metadata."""
    metadata = metadata_of(obj)
    return ObjectKey(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


STORAGE_CONFIGS: Final = Resource(GROUP, VERSION, "storageconfigs", "StorageConfig")
CLUSTER_STORAGE_CONFIGS: Final = Resource(
    GROUP, VERSION, "clusterstorageconfigs", "ClusterStorageConfig", namespaced=False
)
RETENTION_POLICIES: Final = Resource(GROUP, VERSION, "retentionpolicies", "RetentionPolicy")
CLUSTER_RETENTION_POLICIES: Final = Resource(
    GROUP, VERSION, "clusterretentionpolicies", "ClusterRetentionPolicy", namespaced=False
)
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets", "DaemonSet")
REPLICA_SETS: Final = Resource("apps", "v1", "replicasets", "ReplicaSet")
JOBS: Final = Resource("batch", "v1", "jobs", "Job")
CRON_JOBS: Final = Resource("batch", "v1", "cronjobs", "CronJob")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
MUTATING_WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
