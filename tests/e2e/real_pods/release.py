"""Helm on the cluster under test: install, upgrade, test and uninstall the chart, as a user would."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bubu_operator.kube.client import KubeClient
from tests.chart.programs import ensure_helm
from tests.cluster.errors import ClusterError
from tests.cluster.processes import Stopwatch

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster

__all__ = ["CHART", "NAMESPACE", "RELEASE", "Release"]

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "bubu-storage-operator"
NAMESPACE = "bubu-storage-system"
RELEASE = "bubu-storage"
CONTROLLER = "bubu-storage-controller"
WEBHOOK = "bubu-storage-webhook"
HELM_SECONDS = 300
# Certificates that are renewed every twenty seconds: so each test here is one of renewals, too.
USUAL = {
    "controller": {
        "extraEnv": [{"name": "BUBU_AUTHORITY_LIFETIMES", "value": "ca=20m,leaf=30s,propagation=3s,slack=2s"}]
    }
}


@dataclass(frozen=True, slots=True)
class Release:
    """The one release of the cluster.

    Attributes:
        cluster: where it is.
        repository: the image's repository on the nodes.
        tag: its tag.
    """

    cluster: Cluster
    repository: str
    tag: str

    def install(self) -> float:
        """``helm install --wait`` into a namespace that it creates; return the seconds by a `Stopwatch`."""
        watch = Stopwatch()
        self.helm("install", RELEASE, CHART, "--create-namespace", "--wait", values=USUAL)
        return watch.seconds

    def upgrade(self, chart: Path = CHART) -> float:
        """``helm upgrade --wait`` to a chart and this image; return the seconds by a `Stopwatch`."""
        watch = Stopwatch()
        self.helm("upgrade", RELEASE, chart, "--wait", "--reset-values", values=USUAL)
        return watch.seconds

    def uninstall(self) -> None:
        """``helm uninstall --wait``."""
        self.helm("uninstall", RELEASE, "--wait")

    def test(self) -> str:
        """``helm test`` with the pod's log; return what it printed."""
        return self.helm("test", RELEASE, "--logs")

    def chart_of_version(self, version: str, folder: Path) -> Path:
        """Copy the chart to a folder under another version."""
        copy = folder / f"chart-{version}"
        shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("tests", "unittest", "__pycache__"))
        lines = (copy / "Chart.yaml").read_text(encoding="utf-8").splitlines()
        fresh = [
            f"{line.split(':')[0]}: {version}" if line.startswith(("version:", "appVersion:")) else line
            for line in lines
        ]
        (copy / "Chart.yaml").write_text("\n".join(fresh) + "\n", encoding="utf-8")
        return copy

    def helm(self, *words: str | Path, values: dict[str, Any] | None = None) -> str:
        """Run helm in the release's namespace and return what it printed.

        Raises:
            ClusterError: it failed; the message ends with the state of the pods.
        """
        arguments = [str(ensure_helm()), *map(str, words), "--namespace", NAMESPACE]
        arguments += ["--timeout", f"{HELM_SECONDS}s"]
        text = None
        if words[0] in {"install", "upgrade"}:
            image = {"repository": self.repository, "tag": self.tag, "pullPolicy": "Never"}
            text = json.dumps({"image": image, **(values or {})})
            arguments += ["--values", "-"]
        home = self.cluster.workdir / "helm"
        env = {
            **os.environ,
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }
        done = subprocess.run(
            arguments,
            input=text,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=HELM_SECONDS + 60,
        )
        if done.returncode != 0:
            pods = self.cluster.kubectl("get", "pods,jobs", "-A", "-o", "wide", check=False).stdout
            said = self.cluster.kubectl(
                *("logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=bubu-storage", "--tail=15"),
                check=False,
            ).stdout
            raise ClusterError(f"{' '.join(arguments)}:\n{done.stdout}\n{done.stderr}\n{pods}\n{said}")
        return done.stdout

    def pods(self, component: str) -> list[str]:
        """Return the names of a role's pods that are not being deleted."""
        found = self.cluster.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}")
        return sorted(
            pod["metadata"]["name"]
            for pod in found["items"]
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") == "Running"
        )

    def read(self, path: str) -> dict[str, Any]:
        """Return what the API server answers at a path.

        Unlike kubectl it starts no process: who asks again and again takes nothing from what is measured.
        """
        with KubeClient.load(str(self.cluster.kubeconfig)) as client:
            return client.request_json("GET", path, timeout_seconds=30.0)

    def pod(self, name: str) -> dict[str, Any]:
        """Return one of the release's pods."""
        return self.read(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")

    def lease_holder(self) -> str:
        """Return the identity of the leading process; empty if none leads."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{CONTROLLER}"
        return str(self.read(path)["spec"].get("holderIdentity") or "")

    def leader(self) -> str:
        """Return the name of the pod that holds the Lease; empty if none does."""
        holder = self.lease_holder()
        return next((name for name in self.pods("controller") if name in holder), "")

    def ca_bundle(self) -> set[str]:
        """Return the certificates that every entry of the webhook's registration trusts."""
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{WEBHOOK}"
        bundles = {entry["clientConfig"].get("caBundle", "") for entry in self.read(path)["webhooks"]}
        if len(bundles) != 1:
            return set()
        text = base64.b64decode(bundles.pop()).decode()
        return {part.strip() for part in text.split("-----END CERTIFICATE-----") if part.strip()}
