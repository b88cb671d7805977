"""A team's namespace on the cluster under test: its store, its rights, its pods.

Every namespace is at the ``restricted`` pod security level, enforced by the API server, and its pods
have a read-only root and nothing but what injection gave them.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.cluster.errors import ClusterError
from tests.cluster.processes import wait_until
from tests.e2e.real_pods.release import NAMESPACE

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster
    from tests.node.node_cluster import NodeCluster
    from tests.s3server.gateway import VersityGateway

__all__ = ["ENGRAM", "Tenant", "condition", "container", "pod_template"]

ENGRAM = (Path(__file__).with_name("engram.py")).read_text(encoding="utf-8")
GROUP = "storage.bubustack.io/v1alpha1"
POD_SECONDS = 60.0
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """One namespace with a StorageConfig ``main``.

    Attributes:
        cluster: where it is.
        namespace: its name.
        image: what its pods run.
        store: the folder of this machine that holds its objects.
    """

    cluster: Cluster
    namespace: str
    image: str
    store: Path

    @classmethod
    def on_s3(cls, node: NodeCluster, s3: VersityGateway, image: str, **labels: str) -> Tenant:
        """Make a namespace whose store is a bucket, with its credentials in a Secret."""
        namespace = _new_namespace(node.cluster, labels)
        bucket = s3.create_bucket(namespace)
        tenant = cls(node.cluster, namespace, image, s3.root / bucket)
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        node.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "store", "namespace": namespace},
                "stringData": keys,
            },
            _binding(namespace, "bubu-storage-secret-reader"),
            tenant.config(
                s3={
                    "bucket": bucket,
                    "region": s3.region,
                    "endpoint": s3.endpoint,
                    "authentication": {"secretRef": {"name": "store"}},
                }
            ),
        )
        return tenant

    @classmethod
    def on_claim(cls, node: NodeCluster, image: str, **labels: str) -> Tenant:
        """Make a namespace whose store is a volume that its pods share."""
        namespace = _new_namespace(node.cluster, labels)
        folder = node.add_volume(namespace, ("ReadWriteMany",))
        tenant = cls(node.cluster, namespace, image, folder)
        node.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "flows", "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadWriteMany"],
                    "resources": {"requests": {"storage": "1Gi"}},
                    "storageClassName": "",
                    "volumeName": namespace,
                },
            },
            _binding(namespace, "bubu-storage-prober"),
            tenant.config(file={"volumeClaimName": "flows"}),
        )
        return tenant

    def config(self, **spec: Any) -> dict[str, Any]:
        """Return the StorageConfig ``main``."""
        metadata = {"name": "main", "namespace": self.namespace}
        return {"apiVersion": GROUP, "kind": "StorageConfig", "metadata": metadata, "spec": spec}

    def wait_ready(self) -> float:
        """Wait until the controller says that the store works; return how long that took."""
        began = time.monotonic()

        def is_ready() -> bool:
            return condition(self.get("storageconfig", "main"), "Ready").get("status") == "True"

        try:
            wait_until(is_ready, READY_SECONDS, f"StorageConfig {self.namespace}/main to be Ready")
        except TimeoutError as error:
            state = condition(self.get("storageconfig", "main"), "Ready")
            raise ClusterError(f"{error}: {state}\n{self.diagnosis()}") from error
        return time.monotonic() - began

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object of the namespace."""
        return self.cluster.get(kind, name, "-n", self.namespace)

    def run_pod(self, *words: str, labels: dict[str, str] | None = None, name: str = "") -> dict[str, Any]:
        """Run the engram in a bare pod to its end and return its answer."""
        name = name or f"engram-{secrets.token_hex(3)}"
        template = pod_template(self.image, words, labels or {"bubustack.io/engram": "e2e"})
        template["spec"]["restartPolicy"] = "Never"
        metadata = {**template["metadata"], "name": name, "namespace": self.namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(pod))
        self._wait_phase(name)
        return self.answer(f"pod/{name}")

    def run_job(self, *words: str, name: str = "", arguments: list[str] | None = None) -> dict[str, Any]:
        """Run the engram as a Job to its end and return its answer.

        Args:
            *words: arguments of the engram.
            name: the Job's name.
            arguments: make it with ``kubectl create job NAME`` and these, instead of a manifest.
        """
        name = name or f"job-{secrets.token_hex(3)}"
        if arguments is None:
            template = pod_template(self.image, words, {"bubustack.io/engram": "e2e"})
            template["spec"]["restartPolicy"] = "Never"
            metadata = {"name": name, "namespace": self.namespace}
            spec = {"backoffLimit": 0, "template": template}
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
            self.cluster.kubectl("create", "-f", "-", input=json.dumps(job))
        else:
            self.cluster.kubectl("create", "job", name, "-n", self.namespace, *arguments)

        def has_ended() -> bool:
            status = self.get("job", name).get("status", {})
            return bool(status.get("succeeded") or status.get("failed"))

        wait_until(has_ended, POD_SECONDS, f"job {self.namespace}/{name} to end")
        return self.answer(f"job/{name}")

    def answer(self, what: str) -> dict[str, Any]:
        """Return the JSON of the last line that a pod or its owner wrote.

        Raises:
            ClusterError: it wrote none; the message has its log.
        """
        log = self.cluster.kubectl("logs", what, "-n", self.namespace, "--tail=40").stdout.strip()
        last = log.rpartition("\n")[2]
        if not last.startswith("{"):
            raise ClusterError(f"{what} in {self.namespace} did not answer:\n{log}\n{self.diagnosis()}")
        return cast("dict[str, Any]", json.loads(last))

    def objects(self, prefix: str = "") -> set[str]:
        """Return the keys that the store holds below a prefix, the operator's own left out."""
        base = self.store / prefix
        return {
            path.relative_to(self.store).as_posix()
            for path in base.rglob("*")
            if path.is_file() and ".bubu" not in path.relative_to(self.store).parts
        }

    def diagnosis(self) -> str:
        """Return what the cluster knows about the namespace, for a failing test's message."""
        asked = (
            ("get", "pods,jobs,pvc", "-n", self.namespace, "-o", "wide"),
            ("get", "events", "-n", self.namespace, "--sort-by=.lastTimestamp"),
            ("get", "bsc,brp", "-n", self.namespace, "-o", "yaml"),
            ("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller", "--tail=25"),
        )
        return "\n".join(self.cluster.kubectl(*words, check=False).stdout[-4000:] for words in asked)

    def delete(self) -> None:
        """Delete the namespace, without waiting for its end."""
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")

    def _wait_phase(self, name: str) -> None:
        def has_ended() -> bool:
            return self.get("pod", name)["status"].get("phase") in {"Succeeded", "Failed"}

        try:
            wait_until(has_ended, POD_SECONDS, f"pod {self.namespace}/{name} to end")
        except TimeoutError as error:
            raise ClusterError(f"{error}\n{self.diagnosis()}") from error


def container(image: str, words: tuple[str, ...]) -> dict[str, Any]:
    """Return a container that runs the engram, as the restricted level demands it."""
    return {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", ENGRAM, *words],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def pod_template(image: str, words: tuple[str, ...], labels: dict[str, str]) -> dict[str, Any]:
    """Return a pod template for the engram."""
    return {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container(image, words)],
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 1,
        },
    }


def condition(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return one condition of an object; empty while it has none."""
    found: list[dict[str, Any]] = resource.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), dict[str, Any]())


def _new_namespace(cluster: Cluster, labels: dict[str, str]) -> str:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return cluster.create_namespace(f"team-{secrets.token_hex(4)}", level | labels)


def _binding(namespace: str, role: str) -> dict[str, Any]:
    """Return what the chart's notes tell a team to create for the controller."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": role, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "bubu-storage-controller", "namespace": NAMESPACE}],
    }
