"""Real pods on real nodes: everything that a test of the image or the chart relies on."""

from __future__ import annotations

import base64
import subprocess
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.certs import write_serving_files
from tests.cluster.errors import ClusterError, KubectlError
from tests.cluster.processes import wait_until
from tests.node.images import PROBE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.node.node_cluster import NodeCluster

# The first of them starts the nodes.
pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

if TYPE_CHECKING:
    RunPod = Callable[..., dict[str, Any]]


def service(name: str, namespace: str, port: int, target: int) -> dict[str, Any]:
    """Return a Service before the pod of the same name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    }


def ask(cluster: NodeCluster, namespace: str, pod: str, *words: str) -> str:
    """Run the probe once more in a pod, and return what it printed."""
    return cluster.cluster.kubectl("exec", "-n", namespace, pod, "--", "/probe", *words).stdout.strip()


def test_there_are_two_ready_nodes_in_two_zones(node_cluster: NodeCluster):
    """Spreading, budgets and the loss of a node need two of them."""
    nodes = node_cluster.cluster.get("nodes")["items"]

    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes
    }
    assert zones == {"node-1": "zone-1", "node-2": "zone-2"}
    for node in nodes:
        conditions = {item["type"]: item["status"] for item in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"


def test_a_pod_runs_with_an_address_of_its_node(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """The scheduler finds a node, and the pod is one of this machine's processes there."""
    pod = run_pod("alone", "wait")

    node = loaded_cluster.node_of("alone", space)
    prefix = loaded_cluster.run.plan.node_pods(node.machine.number).removesuffix("0/24")
    assert pod["status"]["podIP"].startswith(prefix)


def test_a_pod_asks_another_on_the_other_node_by_its_services_name(
    loaded_cluster: NodeCluster, run_pod: RunPod, space: str
):
    """Cluster DNS, Services and the network between nodes work together."""
    loaded_cluster.cluster.apply(service("server", space, 80, 8000))
    run_pod("server", "serve", ":8000", node="node-1")
    run_pod("client", "wait", node="node-2")

    for name in ("server", f"server.{space}", f"server.{space}.svc.cluster.local"):
        assert ask(loaded_cluster, space, "client", "get", f"http://{name}/") == "server"


def test_a_name_outside_the_cluster_does_not_exist(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """An answer at once, rather than an error that programs try again."""
    run_pod("client", "wait")

    with pytest.raises(KubectlError, match="no such host"):
        ask(loaded_cluster, space, "client", "lookup", "storage.example.com")


def test_logs_are_those_of_the_process(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """``kubectl logs`` goes through the API server to the kubelet."""
    run_pod("server", "serve", ":8000")
    ask(loaded_cluster, space, "server", "get", "http://localhost:8000/some/path")

    assert "GET /some/path" in loaded_cluster.cluster.kubectl("logs", "-n", space, "server").stdout


def test_the_api_server_asks_a_webhook_behind_a_service(
    loaded_cluster: NodeCluster, run_pod: RunPod, space: str, tmp_path: Path
):
    """As an installed operator registers it: by Service, not by URL."""
    cluster = loaded_cluster.cluster
    files = write_serving_files(tmp_path, [f"hook.{space}.svc"], [])
    cluster.kubectl(
        *("create", "secret", "tls", "hook", "-n", space, f"--cert={files.certificate}", f"--key={files.key}")
    )
    cluster.apply(service("hook", space, 443, 8443))
    run_pod(
        *("hook", "webhook", ":8443", "/tls/tls.crt", "/tls/tls.key"),
        volumes=[{"name": "tls", "secret": {"secretName": "hook"}}],
        mounts=[{"name": "tls", "mountPath": "/tls"}],
    )
    client = {
        "service": {"name": "hook", "namespace": space},
        "caBundle": base64.b64encode(files.ca.read_bytes()).decode(),
    }
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": space},
        "webhooks": [
            {
                "name": "hook.bubu.test",
                "clientConfig": client,
                "rules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore",
            }
        ],
    }
    cluster.apply(configuration)

    def is_labelled() -> bool:
        cluster.kubectl("delete", "configmap", "seen", "-n", space, "--ignore-not-found")
        cluster.kubectl("create", "configmap", "seen", "-n", space)
        labels = cluster.get("configmap", "seen", "-n", space)["metadata"].get("labels", {})
        return labels == {"seen-by": "probe"}

    try:
        # The API server learns of a new webhook, and of its pod's address, a moment later.
        wait_until(is_labelled, 30, "the webhook to be asked")
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", space)


def test_a_volume_is_a_folder_of_this_machine(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """What a pod writes to its claim, a test can read; and a pod of another user may write."""
    folder = loaded_cluster.add_volume(f"volume-{space}", ("ReadWriteMany",))
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": space},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": f"volume-{space}",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    loaded_cluster.cluster.apply(claim)

    run_pod(
        *("writer", "write", "/data/file", "content"),
        securityContext={"runAsUser": 65532, "runAsNonRoot": True},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        mounts=[{"name": "data", "mountPath": "/data"}],
    )

    wait_until((folder / "file").is_file, 10, "the file")
    assert (folder / "file").read_text() == "content"


def test_a_killed_container_is_started_again(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """SIGKILL reaches the pod's own process, and the kubelet does its work."""
    run_pod("victim", "serve", ":8000")

    loaded_cluster.kill_container("victim", "SIGKILL", namespace=space)

    def state() -> dict[str, Any]:
        return loaded_cluster.cluster.get("pod", "victim", "-n", space)["status"]["containerStatuses"][0]

    wait_until(lambda: state()["restartCount"] == 1 and state()["ready"], 40, "the container's second life")
    assert state()["lastState"]["terminated"]["exitCode"] == 137


def test_killing_what_does_not_run_says_so(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """A wrong container's name is an error, not a kill of another."""
    run_pod("victim", "wait")

    with pytest.raises(ClusterError, match="no container sidecar of the pod"):
        loaded_cluster.kill_container("victim", namespace=space, container="sidecar")


def test_this_machine_reaches_pods_and_services(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """A test reads a pod's metrics page by its address, without a port-forward."""
    loaded_cluster.cluster.apply(service("server", space, 80, 8000))
    pod = run_pod("server", "serve", ":8000", node="node-2")
    address = loaded_cluster.cluster.get("service", "server", "-n", space)["spec"]["clusterIP"]

    def body(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 -- an address of a pod
            return answer.read()

    assert body(f"http://{pod['status']['podIP']}:8000/") == b"server\n"

    def service_answers() -> bool:
        try:
            return body(f"http://{address}/") == b"server\n"
        except OSError:
            return False

    wait_until(service_answers, 20, "kube-proxy to know the Service")


def test_pods_reach_a_server_of_the_test(loaded_cluster: NodeCluster, run_pod: RunPod, space: str):
    """An S3 server, say, that the test runs on the machine's address in the cluster's network."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from outside")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
            pass

    run_pod("client", "wait")
    with HTTPServer((loaded_cluster.host_address, 0), Answer) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            answer = ask(
                *(loaded_cluster, space, "client", "get"),
                f"http://{loaded_cluster.host_address}:{server.server_port}/",
            )
        finally:
            server.shutdown()
            thread.join()

    assert answer == "from outside"


def test_the_hubs_namespace_can_be_entered(node_cluster: NodeCluster):
    """A server of a test can also run beside the API server."""
    done = subprocess.run(
        ["nsenter", f"--net={node_cluster.netns}", "ip", "-brief", "address"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"{node_cluster.hub_address}/24" in done.stdout


def test_an_archive_that_is_none_is_refused(node_cluster: NodeCluster, tmp_path: Path):
    """With the file's name in the message."""
    archive = tmp_path / "broken.tar"
    archive.write_bytes(b"no archive")

    with pytest.raises(ClusterError, match=r"broken\.tar"):
        node_cluster.load_image(archive)


def test_a_drained_node_gives_its_pods_to_the_other(loaded_cluster: NodeCluster, space: str):
    """What an upgrade of a node does; pods of a Deployment come back elsewhere."""
    cluster = loaded_cluster.cluster
    labels = {"app": "spread"}
    container = {"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "spread", "namespace": space},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "containers": [container],
                        "terminationGracePeriodSeconds": 1,
                        "topologySpreadConstraints": [spread],
                    },
                },
            },
        }
    )

    def nodes() -> list[str]:
        cluster.kubectl("rollout", "status", "deployment/spread", "-n", space, "--timeout=120s")
        pods = cluster.get("pods", "-n", space, "--field-selector=status.phase=Running")["items"]
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return sorted(pod["spec"]["nodeName"] for pod in alive)

    assert nodes() == ["node-1", "node-2"]

    try:
        cluster.kubectl("drain", "node-1", f"--pod-selector=app={labels['app']}", "--timeout=120s")
        assert nodes() == ["node-2", "node-2"]
    finally:
        cluster.kubectl("uncordon", "node-1")
