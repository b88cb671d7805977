"""What cluster tests leave is gone for the next module, whatever it is; what was there before stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import NAMESPACE, install, until
from tests.cluster.leftovers import Leftovers

pytestmark = pytest.mark.cluster

RBAC = "rbac.authorization.k8s.io"
POLICIES = "admissionregistration.k8s.io/v1"
NAME = "left-behind"
LABEL = "storage.bubustack.io/strict"
RULE = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
POD = {
    "metadata": {"labels": {"app": NAME}},
    "spec": {"containers": [{"name": "main", "image": "example/app:1"}]},
}


@pytest.fixture
def leftovers(cluster: Cluster) -> Iterator[Leftovers]:
    """Knows what there is now: the operator's namespace and what came with it, too."""
    if cluster.provider == "kubeconfig":
        pytest.skip("nothing is ever removed from a cluster that somebody else runs")
    install(cluster)
    made = Leftovers(cluster)
    try:
        yield made
    finally:
        made.remove()
        made.close()


def named(api_version: str, kind: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    """Make an object."""
    metadata = {"name": NAME} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}


def left(cluster: Cluster, kinds: str, *where: str) -> list[str]:
    """Return what there is of ours."""
    found = cluster.kubectl("get", kinds, *where, "-o", "name").stdout.split()
    return [name for name in found if NAME in name]


def test_what_concerns_the_whole_cluster_is_gone(cluster: Cluster, leftovers: Leftovers) -> None:
    """Namespaces, rights, policies of admission, classes: whatever would change what another test sees."""
    role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": NAME}
    matched = {"resourceRules": [RULE], "namespaceSelector": {"matchLabels": {"nobody": "has-this"}}}
    refused = {"matchConstraints": matched, "validations": [{"expression": "false"}]}
    cluster.apply(
        named("v1", "Namespace"),
        named(f"{RBAC}/v1", "ClusterRole", rules=[]),
        named(f"{RBAC}/v1", "ClusterRoleBinding", roleRef=role, subjects=[]),
        named(f"{RBAC}/v1", "RoleBinding", "kube-system", roleRef=role, subjects=[]),
        named("scheduling.k8s.io/v1", "PriorityClass", value=1, globalDefault=True),
        named(POLICIES, "ValidatingAdmissionPolicy", spec=refused),
        named(
            POLICIES,
            "ValidatingAdmissionPolicyBinding",
            spec={"policyName": NAME, "validationActions": ["Deny"]},
        ),
    )
    kinds = (
        "namespaces,clusterroles,clusterrolebindings,priorityclasses,validatingadmissionpolicies,"
        "validatingadmissionpolicybindings"
    )
    assert len(left(cluster, kinds)) == 6

    leftovers.remove()

    assert left(cluster, kinds) == []
    assert left(cluster, "rolebindings", "-A") == []
    assert cluster.kubectl("get", "clusterrole", "bubu-storage-controller", "-o", "name").stdout


@pytest.mark.parametrize("namespace", [NAMESPACE, "default"])
def test_namespaces_that_stay_are_as_they_were(
    cluster: Cluster, leftovers: Leftovers, namespace: str
) -> None:
    """Their labels and annotations, and what was made in them, a Deployment's pods included."""
    cluster.kubectl("label", "namespace", namespace, f"{LABEL}=true")
    cluster.kubectl("annotate", "namespace", namespace, "storage.bubustack.io/pause-retention=true")
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": NAME}}, "template": POD}
    cluster.apply(
        named("apps/v1", "Deployment", namespace, spec=spec),
        named("v1", "ServiceAccount", namespace),
        named("v1", "ConfigMap", namespace),
        named("v1", "Service", namespace, spec={"ports": [{"port": 80}]}),
    )
    where, kinds = ("-n", namespace), "pods,replicasets,deployments,serviceaccounts,configmaps,services"
    until(lambda: left(cluster, "pods", *where), "the pod")

    leftovers.remove()

    assert left(cluster, kinds, *where) == []
    metadata = cluster.get("namespace", namespace)["metadata"]
    assert not any("bubustack" in key for key in metadata["labels"])
    assert not metadata.get("annotations")
