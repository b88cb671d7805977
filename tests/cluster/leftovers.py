"""What one module of tests leaves on the shared cluster goes before the next module starts.

Tests clean up after themselves as far as their own module needs it. Between modules this makes it
certain, in whatever order they run: no config that another module's controller would probe, no binding
that gives an account more than is shipped, no webhook that still hears pods.

- Kept is what was there at the start, what Kubernetes makes for itself, CRDs (removing one may take
  minutes), and the operator's namespace (removing one takes seconds) without its contents.
- Namespaces that are kept have the labels and annotations that they had at the start: some change what
  happens to every pod there.
- Namespaces of single tests, ``t-...``, end by themselves; others are waited for, since their names
  come back.
- Whatever is there is told to go again and again: somebody may make it anew while its owner still ends.
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
    f"{_ADMISSION}/validatingadmissionpolicybindings",
    f"{_ADMISSION}/validatingadmissionpolicies",
    f"{_RBAC}/clusterrolebindings",
    f"{_RBAC}/clusterroles",
    f"{_RBAC}/rolebindings",
    "/apis/scheduling.k8s.io/v1/priorityclasses",
    "/apis/storage.k8s.io/v1/storageclasses",
    "/api/v1/persistentvolumes",
)
"""Looked through in every namespace; configs last of ours, so that no policy misses its store."""
_OF_KEPT_NAMESPACES: Final = (
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/replicasets",
    "/apis/batch/v1/cronjobs",
    "/apis/batch/v1/jobs",
    "/api/v1/pods",
    "/api/v1/services",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/coordination.k8s.io/v1/leases",
    f"{_RBAC}/roles",
    "/api/v1/resourcequotas",
    "/api/v1/limitranges",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/api/v1/serviceaccounts",
)
"""Looked through in the operator's namespace and in ``default``: other namespaces take theirs along."""
_NAMESPACES: Final = "/api/v1/namespaces"
_OF_KUBERNETES: Final = frozenset({"kube-root-ca.crt", "default", "kubernetes"})
_KUBERNETES_OWN: Final = ("system:", "system-", "kube-")
"""How names begin that Kubernetes gives, some of them a while after its start."""
_MARKS: Final = ("labels", "annotations")
_OF_THE_NAME: Final = "kubernetes.io/metadata.name"


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
        self._marks = dict(self._kept_marks()) if self._mine else {}

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
        self._restore_marks()
        until(self._none_in_the_way, "what a module of tests left to be gone", 30)

    def _none_in_the_way(self) -> bool:
        left = [found for found in self._all() if found not in self._baseline]
        for found in left:
            self._call("DELETE", found.path)
        return all((found.namespace or found.name).startswith("t-") for found in left)

    def _all(self) -> Iterator[_Found]:
        for collection in _EVERYWHERE:
            yield from self._list(collection, collection)
        for namespace in (NAMESPACE, "default"):
            for collection in _OF_KEPT_NAMESPACES:
                group, _, plural = collection.rpartition("/")
                yield from self._list(collection, f"{group}/namespaces/{namespace}/{plural}")
        for found in self._list(_NAMESPACES, _NAMESPACES):
            if found.name != NAMESPACE:
                yield found

    def _restore_marks(self) -> None:
        """Give namespaces that stay the labels and annotations back that they had."""
        for name, marks in self._kept_marks():
            wanted = self._marks.get(name, {kind: {} for kind in _MARKS})
            change: dict[str, dict[str, str | None]] = {}
            for kind in _MARKS:
                extra = dict.fromkeys(marks[kind].keys() - wanted[kind].keys(), None)
                lacking = dict(wanted[kind].items() - marks[kind].items())
                if extra or lacking:
                    change[kind] = {**extra, **lacking}
            if change:
                self._call("PATCH", f"{_NAMESPACES}/{name}", {"metadata": change})

    def _kept_marks(self) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
        for item in (self._call("GET", _NAMESPACES) or {"items": []})["items"]:
            metadata = item["metadata"]
            if metadata["name"] in {NAMESPACE, "default"} or metadata["name"].startswith("kube-"):
                marks: dict[str, dict[str, str]] = {kind: metadata.get(kind) or {} for kind in _MARKS}
                # The API server's own, which nobody can take away.
                marks["labels"].pop(_OF_THE_NAME, None)
                yield metadata["name"], marks

    def _list(self, collection: str, path: str) -> Iterator[_Found]:
        for item in (self._call("GET", path) or {"items": []})["items"]:
            metadata = item["metadata"]
            if metadata["name"] not in _OF_KUBERNETES and not metadata["name"].startswith(_KUBERNETES_OWN):
                yield _Found(collection, metadata.get("namespace", ""), metadata["name"])

    def _call(self, method: str, path: str, patch: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the answer, None for what is not there (our CRDs may not be installed)."""
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"} if method == "DELETE" else patch
        content = "application/json" if patch is None else "application/merge-patch+json"
        headers = {"Accept": "application/json", "Content-Type": content}
        request = self._api.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = self._api.call_api(*request, _request_timeout=120)
        data = answer.read()
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        # Somebody else changed it in the same moment: it is told again.
        assert answer.status < HTTPStatus.BAD_REQUEST or answer.status == HTTPStatus.CONFLICT, (
            f"{method} {path}: {answer.status} {data!r}"
        )
        return cast("dict[str, Any]", json.loads(data))
