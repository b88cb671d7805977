"""The small kubelet itself: a pod's process gets what its spec says, and its end is the pod's status."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import alive, until
from tests.cluster.kubelet import MiniKubelet

pytestmark = pytest.mark.cluster

SCRIPT = """
import json, os, pathlib, sys
env = {name: value for name, value in os.environ.items() if name.startswith("T_")}
file = pathlib.Path(sys.argv[1], "ca.crt").read_text()
pathlib.Path(sys.argv[2]).write_text(json.dumps({"env": env, "file": file, "all": sorted(os.environ)}))
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def own_nodes_only(cluster: Cluster) -> None:
    """A cluster with nodes of its own would run the pods, too."""
    if cluster.provider != "local":
        pytest.skip("the small kubelet needs the pods for itself")


def pod(namespace: str, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Make a pod of one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "main", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "ignored", **container}],
            **spec,
        },
    }


def ended(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """Wait for the end of the pod's container; return its state."""

    def state() -> dict[str, Any] | None:
        statuses: list[dict[str, Any]] = (
            cluster.get("pod", "main", "-n", namespace)["status"].get("containerStatuses") or []
        )
        return next((item["state"]["terminated"] for item in statuses if "terminated" in item["state"]), None)

    return until(state, "the container has ended")


def test_a_process_gets_exactly_what_the_pod_says(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """Values, references, fields, a Secret, a ConfigMap's file, arguments; nothing of this machine's."""
    metadata = {"name": "source", "namespace": namespace}
    secret = {"T": base64.b64encode(b"from the secret").decode()}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": secret},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"root.pem": "PEM"}},
    )
    optional = {"secretKeyRef": {"name": "absent", "key": "x", "optional": True}}
    env = [
        {"name": "T_PLAIN", "value": "a"},
        {"name": "T_REFERENCE", "value": "$(T_PLAIN)b $(NONE) $$(T_PLAIN)"},
        {"name": "T_PATH", "value": "/ca/ca.crt"},
        {"name": "T_SECRET", "valueFrom": {"secretKeyRef": {"name": "source", "key": "T"}}},
        {"name": "T_OPTIONAL", "valueFrom": optional},
        {"name": "T_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    container = {
        "command": ["python", "-c", SCRIPT],
        "args": ["/ca", "/dev/termination-log"],
        "env": env,
        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    }
    items = [{"key": "root.pem", "path": "ca.crt"}]
    volumes = [{"name": "ca", "configMap": {"name": "source", "items": items}}]
    with MiniKubelet(cluster, namespace, tmp_path) as node:
        cluster.apply(pod(namespace, container, volumes=volumes))
        state = ended(cluster, namespace)

    assert (state["exitCode"], node.errors) == (3, [])
    seen = json.loads(state["message"])
    path = seen["env"].pop("T_PATH")
    assert Path(path).name == "ca.crt"
    assert path.startswith(str(tmp_path))
    assert seen["env"] == {
        "T_PLAIN": "a",
        "T_REFERENCE": "ab $(NONE) $(T_PLAIN)",
        "T_SECRET": "from the secret",
        "T_NAMESPACE": namespace,
    }
    assert seen["file"] == "PEM"
    assert not {"HOME", "KUBECONFIG", "PYTEST_CURRENT_TEST"} & set(seen["all"])
    assert cluster.get("pod", "main", "-n", namespace)["status"]["phase"] == "Failed"


def test_a_reference_that_leads_nowhere_is_waited_for(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The pod waits with CreateContainerConfigError, and runs once the Secret is there."""
    env = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "late", "key": "T"}}}]
    container = {"command": ["python", "-c", "pass"], "env": env}

    def waits() -> bool:
        status = cluster.get("pod", "main", "-n", namespace)["status"]
        return "CreateContainerConfigError" in json.dumps(status.get("containerStatuses", []))

    with MiniKubelet(cluster, namespace, tmp_path):
        cluster.apply(pod(namespace, container))
        until(waits, "the reason")
        metadata = {"name": "late", "namespace": namespace}
        cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"T": "eA=="}})

        assert ended(cluster, namespace)["exitCode"] == 0


def test_a_deleted_pods_process_ends(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """As does one that still runs when the kubelet stops."""
    container = {"command": ["python", "-c", "import time; time.sleep(60)"]}
    with MiniKubelet(cluster, namespace, tmp_path) as node:
        cluster.apply(pod(namespace, container))
        (first,) = until(lambda: node.pids, "the process")
        cluster.kubectl("delete", "pod", "main", "-n", namespace, "--wait=false")
        until(lambda: not alive(first), "its end")
        until(
            lambda: cluster.kubectl("get", "pod", "main", "-n", namespace, check=False).returncode != 0,
            "the pod is gone",
        )
        cluster.apply(pod(namespace, container))
        (second,) = until(lambda: node.pids, "the second process")

    assert not alive(second)
