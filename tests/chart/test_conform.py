"""Every case before Kubernetes itself: kubeconform with its schemas, and a dry run on a real API server."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.chart.conform_schemas import SCHEMA_LOCATION, write_schemas
from tests.chart.matrix import MATRIX, TENANT
from tests.chart.programs import ensure_kubeconform
from tests.chart.rendering import NAMESPACE, render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.cluster import Cluster

FOREIGN = ("Certificate", "Issuer", "PodMonitor", "ServiceMonitor", "PrometheusRule")
KINDS = [
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    *(("v1", kind) for kind in ("ConfigMap", "Pod", "Service", "ServiceAccount")),
    *(
        ("rbac.authorization.k8s.io/v1", kind)
        for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    ),
]


@pytest.fixture(scope="module")
def schemas(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Schemas of the test API server."""
    folder = tmp_path_factory.mktemp("schemas")
    openapi = json.loads(cluster.kubectl("get", "--raw", "/openapi/v2").stdout)
    write_schemas(openapi, KINDS, folder)
    return folder


def conform(schemas: Path, objects: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Run kubeconform; return its code and its report."""
    done = subprocess.run(
        [
            str(ensure_kubeconform()),
            *("-strict", "-output", "json", "-summary", "-skip", ",".join(FOREIGN)),
            *("-schema-location", f"{schemas}/{SCHEMA_LOCATION}", "-"),
        ],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def prepared(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the namespaces that cases name; the tenant's is gone afterwards.

    And with the accounts of bare pods: unlike a Deployment, a pod is refused without its account, and
    a dry run makes none.
    """
    accounts = {
        (pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"])
        for values in MATRIX.values()
        for pod in render(values).of("Pod")
    }
    for name in (NAMESPACE, TENANT):
        # The API server itself says which pods would not pass.
        labels = {"pod-security.kubernetes.io/warn": "restricted"}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    for namespace, name in accounts:
        metadata = {"name": name, "namespace": namespace}
        cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    yield cluster
    cluster.kubectl("delete", "namespace", TENANT, timeout_seconds=120.0)


@pytest.mark.parametrize("case", MATRIX)
def test_the_api_server_takes_every_object(prepared: Cluster, case: str):
    """`kubectl apply --dry-run=server`, hooks and all, and without a warning of pod security.

    Apart from kinds of other projects; and a pod in the node's network is never restricted.
    """
    objects = [obj for obj in render(MATRIX[case]).objects if obj["kind"] not in FOREIGN]
    # Not a real certificate, and the API server looks.
    for obj in objects:
        for entry in obj.get("webhooks", []):
            entry["clientConfig"].pop("caBundle", None)

    done = prepared.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )

    assert len(objects) == len(done.stdout.splitlines())
    assert ("would violate PodSecurity" in done.stderr) == (case == "host-network"), done.stderr
    assert case == "host-network" or "Warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("case", MATRIX)
def test_every_object_has_its_form(schemas: Path, case: str):
    """All are looked at, apart from kinds of other projects."""
    objects = list(render(MATRIX[case]).objects)
    foreign = [obj for obj in objects if obj["kind"] in FOREIGN]

    code, report = conform(schemas, objects)

    assert 0 == code, report["resources"]
    assert len(objects) - len(foreign) == report["summary"]["valid"]
    assert len(foreign) == report["summary"]["skipped"]


def test_an_unknown_field_is_found(schemas: Path):
    """A typing error deep inside, which an API server would only warn of."""
    deployment = render().one("Deployment", "bubu-storage-webhook")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}

    code, report = conform(schemas, [deployment])

    assert 1 == code
    assert "readinesProbe" in report["resources"][0]["msg"]
