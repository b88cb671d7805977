"""Leadership on a real API server: one controller acts, another one takes over, and never both."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bubu_operator.defaults import LEASE_NAME
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import (
    ControllerProcess,
    alive,
    allow_election,
    children_of,
    condition,
    install,
    until,
)

pytestmark = pytest.mark.cluster

API = "storage.bubustack.io/v1alpha1"
DAY = 86400.0
LOST_LEADERSHIP = 3


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with CRDs and rights."""
    install(cluster)
    return cluster


class Arena:
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
                    "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
                    "limits": {"maxScan": 5000, "maxDelete": 5000, **limits},
                },
            }
        )

    def last_pass(self) -> dict[str, Any]:
        """Return what the policy says of its last pass."""
        status = self.cluster.get("retentionpolicy", "tidy", "-n", self.namespace).get("status") or {}
        last: dict[str, Any] = status.get("lastPass") or {}
        return last


@pytest.fixture
def arena(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[Arena]:
    """Everything of one election; every candidate is ended."""
    operator_namespace = installed.create_namespace(f"op-{secrets.token_hex(4)}")
    allow_election(installed, operator_namespace)
    made = Arena(installed, namespace, operator_namespace, tmp_path)
    yield made
    for candidate in made.candidates:
        with contextlib.suppress(ProcessLookupError):
            if candidate.running:
                os.kill(candidate.pid, signal.SIGCONT)
        candidate.stop()
    installed.kubectl("delete", "namespace", operator_namespace, "--wait=false")


def test_one_acts_and_the_other_one_stands_by(arena: Arena) -> None:
    """The second one is ready and healthy, says that it does not lead, and watches nothing."""
    leader = arena.leader()
    standby = arena.standby()
    arena.config()

    until(arena.probed, "the leader's probe")

    assert (leader.leads, standby.leads) == (True, False)
    assert [standby.health(path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
    assert "the controller works" not in standby.log
    lease = arena.lease()
    assert f"_{leader.pid}_" in lease["holderIdentity"]
    assert (lease["leaseDurationSeconds"], lease["leaseTransitions"]) == (10, 0)
    assert len(lease["renewTime"]) == len("2026-01-01T00:00:00.000000Z")


def test_a_leader_that_is_told_to_stop_hands_over_at_once(arena: Arena) -> None:
    """From SIGTERM to the first probe of the next one it takes less than three seconds."""
    leader = arena.leader()
    standby = arena.standby()

    began = time.monotonic()
    assert leader.stop() == 0
    until(lambda: standby.leads, "the take-over", 10)
    acquired = time.monotonic() - began
    arena.config()
    until(arena.probed, "a probe by the new leader", 10)
    acted = time.monotonic() - began

    print(f"hand-over: leads after {acquired:.2f} s, first action after {acted:.2f} s")
    assert acquired < 3.0
    assert "gave the Lease" in leader.log
    assert arena.lease()["leaseTransitions"] == 1


def test_a_standby_ends_at_once_and_leaves_the_lease_alone(arena: Arena) -> None:
    """Ending one that waits does not disturb the one that works."""
    arena.leader()
    standby = arena.standby()
    holder = arena.lease()["holderIdentity"]

    assert standby.stop(5.0) == 0
    assert arena.lease()["holderIdentity"] == holder
