"""What one module of tests leaves on the shared cluster goes before the next module starts.

Tests clean up after themselves as far as their own module needs it. Between modules this makes it
certain, in whatever order they run: no config that another module's controller would probe, no binding
that gives an account more than is shipped, no webhook that still hears pods.

- Kept is what was there at the start, what Kubernetes makes for itself, our CRDs, and the operator's
  namespace (removing one takes seconds) without its contents.
- Namespaces of single tests, ``t-...``, end by themselves; others are waited for, since their names
  come back.
- Nothing is ever removed from a cluster that somebody else runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from kubernetes import config

from tests.cluster.controller_harness import NAMESPACE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.cluster import Cluster

__all__ = ["Leftovers"]

_OURS: Final = "/apis/storage.bubustack.io/v1alpha1"
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
_EVERYWHERE: Final = (
    f"{_OURS}/retentionpolicies",
    f"{_OURS}/clusterretentionpolicies",
    f"{_OURS}/storageconfigs",
    f"{_OURS}/clusterstorageconfigs",
    f"{_ADMISSION}/mutatingwebhookconfigurations",
    f"{_ADMISSION}/validatingwebhookconfigurations",
    f"{_RBAC}/clusterrolebindings",
    f"{_RBAC}/clusterroles",
    f"{_RBAC}/rolebindings",
)
"""Looked through in every namespace; configs last of ours, so that no policy misses its store."""
_OF_THE_OPERATOR: Final = (
    "/apis/apps/v1/deployments",
    "/apis/batch/v1/jobs",
    "/api/v1/pods",
    "/apis/coordination.k8s.io/v1/leases",
    f"{_RBAC}/roles",
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/api/v1/serviceaccounts",
)
"""Looked through in the operator's namespace only."""
_OF_KUBERNETES: Final = frozenset({"kube-root-ca.crt", "default"})


@dataclass(frozen=True, slots=True)
class _Found:
    """An object as the API server lists it.

    Attributes:
        collection: path of its list, without a namespace.
        namespace: its own, "" for objects of the whole cluster.
        name: its name.
    """

    collection: str
    namespace: str
    name: str

    @property
    def path(self) -> str:
        """Where it is read and deleted."""
        group, _, plural = self.collection.rpartition("/")
        middle = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{group}{middle}/{plural}/{self.name}"


class Leftovers:
    """Knows what a cluster held at the start, and removes the rest.

    Args:
        cluster: without anything of ours yet.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._mine = cluster.provider != "kubeconfig"
        self._api = cast("Any", config).new_client_from_config(str(cluster.kubeconfig))
        self._baseline = frozenset(self._all()) if self._mine else frozenset[_Found]()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def remove(self) -> None:
        """Remove what was not there at the start; ends when it is gone.

        Raises:
            AssertionError: something stays.
        """
        if not self._mine:
            return
        for found in self._all():
            if found not in self._baseline:
                self._call("DELETE", found.path)
        until(lambda: not self._in_the_way(), "what a module of tests left to be gone", 30)

    def _all(self) -> Iterator[_Found]:
        for collection in _EVERYWHERE:
            yield from self._list(collection, collection)
        for collection in _OF_THE_OPERATOR:
            group, _, plural = collection.rpartition("/")
            for found in self._list(collection, f"{group}/namespaces/{NAMESPACE}/{plural}"):
                if found.name not in _OF_KUBERNETES:
                    yield found
        for found in self._list("/api/v1/namespaces", "/api/v1/namespaces"):
            if found.name != NAMESPACE:
                yield found

    def _in_the_way(self) -> list[_Found]:
        return [
            found
            for found in self._all()
            if found not in self._baseline and not (found.namespace or found.name).startswith("t-")
        ]

    def _list(self, collection: str, path: str) -> Iterator[_Found]:
        for item in (self._call("GET", path) or {"items": []})["items"]:
            metadata = item["metadata"]
            yield _Found(collection, metadata.get("namespace", ""), metadata["name"])

    def _call(self, method: str, path: str) -> dict[str, Any] | None:
        """Return the answer, None for what is not there (our CRDs may not be installed)."""
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"} if method == "DELETE" else None
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        request = self._api.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = self._api.call_api(*request, _request_timeout=30)
        data = answer.read()
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        assert answer.status < HTTPStatus.BAD_REQUEST, f"{method} {path}: {answer.status} {data!r}"
        return cast("dict[str, Any]", json.loads(data))
