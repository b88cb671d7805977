"""An election of its own for a test: a Lease, candidates that are real processes, and work to be done."""

from __future__ import annotations

import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bubu_operator.defaults import LEASE_NAME
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, condition, until

__all__ = ["Arena"]

API = "storage.bubustack.io/v1alpha1"
DAY = 86400.0


class Arena(AbstractContextManager["Arena"]):
    """A namespace with stores, an operator namespace with a Lease of its own, and candidates."""

    def __init__(self, cluster: Cluster, namespace: str, operator_namespace: str, workdir: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.operator_namespace = operator_namespace
        self.root = workdir / "stores"
        self.root.mkdir()
        self._workdir = workdir
        self.candidates: list[ControllerProcess] = []

    def candidate(self, **options: Any) -> ControllerProcess:
        """Make a controller that takes part in the election (not started)."""
        made = ControllerProcess(
            self.cluster,
            self._workdir,
            namespaces=[self.namespace],
            roots=[self.root],
            leader_elect=True,
            operator_namespace=self.operator_namespace,
            **options,
        )
        self.candidates.append(made)
        return made

    def leader(self) -> ControllerProcess:
        """Start a controller and wait until it leads."""
        candidate = self.candidate()
        candidate.start()
        until(lambda: candidate.leads, "the leadership")
        return candidate

    def standby(self) -> ControllerProcess:
        """Start a controller that finds the Lease held."""
        candidate = self.candidate()
        candidate.start()
        until(lambda: "standing by" in candidate.log, "standing by")
        return candidate

    def lease(self) -> dict[str, Any]:
        """Return the Lease's spec; {} while there is none."""
        found = self.cluster.kubectl(
            "get", "lease", LEASE_NAME, "-n", self.operator_namespace, "-o", "name", check=False
        )
        if found.returncode != 0:
            return {}
        spec: dict[str, Any] = self.cluster.get("lease", LEASE_NAME, "-n", self.operator_namespace)["spec"]
        return spec

    def config(self, name: str = "main") -> None:
        """Apply a StorageConfig for the file store of that name."""
        (self.root / name).mkdir(exist_ok=True)
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "StorageConfig",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"file": {"path": str(self.root / name)}},
            }
        )

    def probed(self, name: str = "main") -> bool:
        """Tell whether a controller has written the config's status."""
        return bool(condition(self.cluster.get("storageconfig", name, "-n", self.namespace)))

    def fill(self, runs: int) -> None:
        """Write runs into the store that are due by their age."""
        old = time.time() - 40 * DAY
        for number in range(runs):
            run = self.root / "main" / "outputs" / self.namespace / f"run-{number:05d}"
            run.mkdir(parents=True)
            (run / "data").write_bytes(b"x")
            os.utime(run / "data", (old, old))

    def left(self) -> int:
        """Count the runs whose data is still there."""
        folder = self.root / "main" / "outputs" / self.namespace
        return sum(1 for _ in folder.glob("*/data"))

    def policy(self, **limits: Any) -> None:
        """Apply a RetentionPolicy that deletes what is old."""
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "RetentionPolicy",
                "metadata": {"name": "tidy", "namespace": self.namespace},
                "spec": {
                    "mode": "Enforce",
                    "interval": "1h",
                    "safety": {"maxDuePercent": 100},
                    "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
                    "limits": {"maxScan": 20_000, "maxDelete": 20_000, **limits},
                },
            }
        )

    def __exit__(self, *exc_info: object) -> None:
        """End every candidate, stopped ones included."""
        for candidate in self.candidates:
            if candidate.running:
                os.kill(candidate.pid, signal.SIGCONT)
            candidate.stop()
