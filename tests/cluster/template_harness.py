"""Workloads of every kind whose pod template is injected, and the people and tools that write them.

There is no kubelet: `Workload.make_ready` plays its part, so that roll-outs end when a test says so.
The deployment, StatefulSet and DaemonSet controllers are real.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cluster.controller_harness import condition, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.cluster import Cluster

__all__ = ["ASKED", "DIGEST", "KINDS", "Workload", "apply_config", "events_about", "template_of"]

API = "storage.bubustack.io/v1alpha1"
DIGEST = "storage.bubustack.io/template-digest"
ASKED = {"storage.bubustack.io/inject": "true"}
KINDS = ("Deployment", "StatefulSet", "DaemonSet", "CronJob")

Json = dict[str, Any]


def template_of(obj: Json) -> Json:
    """Return the pod template of a workload."""
    spec: Json = obj["spec"]
    if obj["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: Json = spec["template"]
    return template


@dataclass(slots=True)
class Workload:
    """One workload of a namespace, by its kind and name."""

    cluster: Cluster
    namespace: str
    kind: str = "Deployment"
    name: str = "web"

    @property
    def reference(self) -> str:
        """As kubectl takes it."""
        return f"{self.kind.lower()}/{self.name}"

    def manifest(
        self,
        *,
        labels: dict[str, str] | None = None,
        env: list[Json] | None = None,
        image: str = "example/app:1",
        replicas: int = 0,
        **spec: Any,
    ) -> Json:
        """Make what a user keeps in git."""
        variables = [{"name": "OWN", "value": "1"}] if env is None else env
        template: Json = {
            "metadata": {"labels": {"app": self.name}},
            "spec": {"containers": [{"name": "main", "image": image, "env": variables}]},
        }
        selector: Json = {"matchLabels": {"app": self.name}}
        whole: Json = {"selector": selector, "template": template}
        match self.kind:
            case "CronJob":
                template["spec"]["restartPolicy"] = "Never"
                whole = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}
            case "StatefulSet":
                whole |= {"serviceName": self.name, "replicas": replicas}
            case "Deployment":
                whole |= {"replicas": replicas}
            case _:
                pass
        return {
            "apiVersion": "batch/v1" if self.kind == "CronJob" else "apps/v1",
            "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels or {}},
            "spec": whole | spec,
        }

    def create(self, manifest: Json) -> None:
        """Create it, by no tool in particular."""
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))

    def read(self) -> Json:
        """Return it."""
        return self.cluster.get(self.reference, "-n", self.namespace)

    def template(self) -> Json:
        """Return its pod template."""
        return template_of(self.read())

    def env(self, container: int = 0) -> dict[str, Any]:
        """Return the environment of a container, by name, in its order."""
        found: Json = self.template()["spec"]["containers"][container]
        return {item["name"]: item.get("value") for item in found.get("env", [])}

    def path(self) -> str:
        """Return where the injected store is, "" without one."""
        return str(self.env().get("BUBU_STORAGE_PATH", ""))

    def label(self, text: str) -> None:
        """Set or remove a label."""
        self.cluster.kubectl("label", self.reference, "-n", self.namespace, "--overwrite", text)

    def make_ready(self) -> None:
        """Play the kubelet: all pods that there are become ready."""
        pods = self.cluster.get("pods", "-n", self.namespace, "-l", f"app={self.name}")["items"]
        ready = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        for pod in pods:
            # A pod of the old template may go meanwhile.
            self.cluster.kubectl(
                *("patch", "pod", pod["metadata"]["name"], "-n", self.namespace, "--subresource=status"),
                *("--type=merge", "-p", json.dumps(ready)),
                check=False,
            )

    def roll_until_done(self) -> None:
        """Make every pod ready that comes, until the roll-out is done as ``kubectl`` sees it."""

        def done() -> bool:
            self.make_ready()
            status = self.cluster.kubectl(
                *("rollout", "status", self.reference, "-n", self.namespace, "--watch=false"), check=False
            )
            return "successfully rolled out" in status.stdout or "roll out complete" in status.stdout

        until(done, f"the roll-out of {self.reference}", 30)


def apply_config(
    cluster: Cluster, namespace: str, path: Path, *, rollout: bool = False, **injection: Any
) -> None:
    """Apply a StorageConfig and wait until the controller has looked at it."""
    cluster.apply(
        {
            "apiVersion": API,
            "kind": "StorageConfig",
            "metadata": {"name": "main", "namespace": namespace},
            "spec": {"file": {"path": str(path)}, "injection": {"rolloutOnChange": rollout, **injection}},
        }
    )

    def seen() -> bool:
        found = cluster.get("storageconfig", "main", "-n", namespace)
        return bool(condition(found).get("observedGeneration") == found["metadata"]["generation"])

    until(seen, "the config to be looked at")


def events_about(workload: Workload) -> list[tuple[str, str]]:
    """Return reason and note of each event about a workload."""
    items = workload.cluster.get("events.events.k8s.io", "-n", workload.namespace)["items"]
    return [
        (item["reason"], item.get("note", ""))
        for item in items
        if (item["regarding"]["kind"], item["regarding"]["name"]) == (workload.kind, workload.name)
    ]
