"""Who is behind a pod: the controller that made it, and the workload that made that one.

Followed are the two kinds that Kubernetes puts in between: a ReplicaSet leads to its
Deployment, a Job to its CronJob. Any other controller is taken as the top itself.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import (
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    JsonObject,
    ObjectKey,
    Resource,
    metadata_of,
)

__all__ = ["Owner", "OwnerLookup", "owner_of_pod"]

MAX_REMEMBERED: Final = 4096

_KNOWN: Final = {
    (item.api_version, item.kind): item
    for item in (PODS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, REPLICA_SETS, JOBS, CRON_JOBS)
}
_BETWEEN: Final = (REPLICA_SETS, JOBS)


@dataclass(frozen=True, slots=True)
class Owner:
    """A pod's controller, or the pod itself where it has none.

    Attributes:
        resource: its kind; of an unknown one only group, version and kind are right.
        key: its namespace and name.
        uid: tells it from a later one of the same name.
    """

    resource: Resource
    key: ObjectKey
    uid: str

    def __str__(self) -> str:
        """``Deployment flows/web``, for messages."""
        return f"{self.resource.kind} {self.key}"

    def as_object(self) -> JsonObject:
        """The least that an event needs to be about it."""
        return {"metadata": {"name": self.key.name, "namespace": self.key.namespace, "uid": self.uid}}


def owner_of_pod(metadata: JsonObject) -> Owner:
    """Return the controller that a pod's metadata names; the pod itself without one."""
    namespace = str(metadata.get("namespace") or "")
    found = _controller(metadata, namespace)
    if found is not None:
        return found
    return Owner(PODS, ObjectKey(namespace, str(metadata.get("name") or "")), str(metadata.get("uid") or ""))


def _controller(metadata: JsonObject, namespace: str) -> Owner | None:
    references: Any = metadata.get("ownerReferences")
    for reference in cast("list[JsonObject]", references or []):
        if reference.get("controller") is True:
            api_version, kind = str(reference.get("apiVersion")), str(reference.get("kind"))
            resource = _KNOWN.get((api_version, kind)) or _unknown(api_version, kind)
            return Owner(
                resource, ObjectKey(namespace, str(reference.get("name"))), str(reference.get("uid"))
            )
    return None


def _unknown(api_version: str, kind: str) -> Resource:
    group, _, version = api_version.rpartition("/")
    return Resource(group, version, kind.lower(), kind)


class OwnerLookup:
    """Finds top controllers; remembers a bounded number of answers, for they do not change."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._found: OrderedDict[str, Owner] = OrderedDict()

    def top(self, owner: Owner) -> Owner:
        """Return the top controller; the owner itself where it has none, is gone or may not be read.

        Raises:
            KubeApiError: it could not be read; ask again later.
        """
        if owner.resource not in _BETWEEN:
            return owner
        known = self._found.get(owner.uid)
        if known is not None:
            self._found.move_to_end(owner.uid)
            return known
        try:
            obj = self._client.get(owner.resource, owner.key.name, owner.key.namespace, metadata_only=True)
        except (KubeNotFoundError, KubeForbiddenError):
            return owner
        metadata = metadata_of(obj)
        top = owner
        if metadata.get("uid") == owner.uid:
            top = _controller(metadata, owner.key.namespace) or owner
        self._found[owner.uid] = top
        while len(self._found) > MAX_REMEMBERED:
            self._found.popitem(last=False)
        return top
