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
from tests.cluster.recording_proxy import RecordingProxy

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
                    "limits": {"maxScan": 20_000, "maxDelete": 20_000, **limits},
                },
            }
        )


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


def test_a_leader_that_was_stopped_writes_nothing_after_its_successor_began(arena: Arena) -> None:
    """SIGSTOP in the midst of a pass: the pass ends in time, and after SIGCONT nothing more is written."""
    with RecordingProxy(arena.cluster) as old_changes, RecordingProxy(arena.cluster) as new_changes:
        old = arena.candidate()
        old_changes.lead_through(old.kubeconfig)
        old.start()
        until(lambda: old.leads, "the leadership")
        arena.config()
        arena.fill(12_000)
        arena.policy(requestsPerSecond=1)
        pass_process = until(lambda: children_of(old.pid), "the pass")[0]
        until(lambda: arena.left() < 12_000, "the first deletion")
        new = arena.candidate()
        new_changes.lead_through(new.kubeconfig)
        new.start()

        os.kill(old.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        until(lambda: not alive(pass_process), "the end of the pass", 12)
        pass_ended_at = time.monotonic()
        left_by_the_old_one = arena.left()
        until(lambda: new.leads, "the take-over", 20)
        taken_at = next(c.sent_at for c in new_changes.changes(leases=True) if c.status == 200)
        arena.config("second")
        until(new_changes.changes, "a write of the new leader")
        os.kill(old.pid, signal.SIGCONT)
        code = old.wait_exit(10)
        arena.policy(requestsPerSecond=100)
        until(lambda: arena.left() < left_by_the_old_one, "the new leader's pass", 40)

        late = [change for change in old_changes.changes() if change.sent_at >= taken_at]
        print(
            f"the stopped leader's pass ended {pass_ended_at - stopped_at:.2f} s after SIGSTOP, "
            f"{taken_at - pass_ended_at:.2f} s before the take-over; late writes: {late}"
        )
        assert left_by_the_old_one > 0
        assert pass_ended_at < taken_at
        assert late == []
        assert old_changes.changes(leases=True)[-1].sent_at < taken_at
        assert code == LOST_LEADERSHIP
        assert "lost the leadership" in old.log


def test_a_leader_that_is_cut_off_ends_before_its_successor_begins(arena: Arena) -> None:
    """Only the leader's way to the API server is silent: it gives up by its own clock and says so."""
    with RecordingProxy(arena.cluster) as way:
        old = arena.candidate()
        way.lead_through(old.kubeconfig)
        old.start()
        until(lambda: old.leads, "the leadership")
        new = arena.standby()
        with way.held():
            held_at = time.monotonic()
            code = old.wait_exit(15)
            ended_after = time.monotonic() - held_at
            leading_at_the_end = new.leads
            until(lambda: new.leads, "the take-over", 15)

    print(f"cut off: ended after {ended_after:.2f} s")
    assert code == LOST_LEADERSHIP
    assert not leading_at_the_end
    assert "was not renewed for 7 s" in old.log


def test_a_short_silence_of_the_api_server_changes_nothing(arena: Arena) -> None:
    """Four and a half seconds without an answer: the same one leads afterwards, and goes on working."""
    with RecordingProxy(arena.cluster) as way:
        leader = arena.candidate()
        way.lead_through(leader.kubeconfig)
        leader.start()
        until(lambda: leader.leads, "the leadership")
        with way.held():
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 4.5, "the time")
        arena.config()
        until(arena.probed, "a probe")

        assert leader.leads
        assert arena.lease()["leaseTransitions"] == 0


def test_a_killed_leader_is_replaced(arena: Arena) -> None:
    """From SIGKILL to the first action of the next one it takes less than 15 seconds, each of three times."""
    leader = arena.leader()
    for number in range(3):
        standby = arena.standby()
        leader.kill()
        killed_at = time.monotonic()
        arena.config(f"store-{number}")
        until(lambda name=f"store-{number}": arena.probed(name), "a probe by the new leader", 20)
        seconds = time.monotonic() - killed_at

        print(f"kill {number}: first action after {seconds:.2f} s")
        assert seconds < 15.0
        leader = standby


def test_without_rights_it_says_so_and_goes_on_trying(arena: Arena) -> None:
    """Neither ready nor dead: the reason is in the log and in /readyz; with the rights it leads."""
    arena.cluster.kubectl(
        "delete", "rolebinding", "bubu-storage-controller-leader", "-n", arena.operator_namespace
    )
    candidate = arena.candidate()
    candidate.launch()
    until(
        lambda: "rights to get, create and update the Lease" in candidate.health("/readyz")[1], "the reason"
    )

    assert candidate.health("/healthz")[0] == 200
    assert candidate.log.count("rights to get, create and update") == 1
    allow_election(arena.cluster, arena.operator_namespace)
    until(lambda: candidate.leads, "the leadership")


def test_without_its_namespace_it_says_so(arena: Arena) -> None:
    """A wrong --operator-namespace is told apart from missing rights where the API server does."""
    candidate = ControllerProcess(
        arena.cluster,
        arena.root.parent,
        leader_elect=True,
        namespaces=[arena.namespace],
        operator_namespace="is-not-there",
    )
    arena.candidates.append(candidate)
    candidate.launch()

    until(lambda: "is-not-there" in candidate.health("/readyz")[1], "the reason")
    text = candidate.health("/readyz")[1]
    assert "--operator-namespace" in text or "--no-leader-elect" in text
    assert candidate.stop(5.0) == 0


def test_a_signal_in_the_first_moments_ends_it_with_zero(arena: Arena) -> None:
    """SIGTERM while modules are being loaded: no traceback, no code of a crash, no wait."""
    for delay_seconds in (0.25, 0.5, 0.8, 1.2):
        candidate = arena.candidate()
        candidate.launch()
        began = time.monotonic()
        until(lambda at=began + delay_seconds: time.monotonic() >= at, "the moment")
        assert candidate.stop(5.0) == 0
        assert time.monotonic() - began - delay_seconds < 3.0
        assert "Traceback" not in candidate.log


def test_a_lease_that_is_deleted_or_taken_ends_the_leader(arena: Arena) -> None:
    """Whoever deletes the Lease restarts the election; nobody takes over while the old one may still act."""
    leader = arena.leader()
    standby = arena.standby()
    arena.cluster.kubectl("delete", "lease", LEASE_NAME, "-n", arena.operator_namespace)
    deleted_at = time.monotonic()

    assert leader.wait_exit(10) == LOST_LEADERSHIP
    ended_after = time.monotonic() - deleted_at
    assert not standby.leads
    until(lambda: standby.leads, "the take-over", 15)
    print(
        f"Lease deleted: old one ended after {ended_after:.2f} s, new one after "
        f"{time.monotonic() - deleted_at:.2f} s"
    )
