"""ClusterRetentionPolicies on a real API server: many namespaces, one store, everybody's keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, condition, until
from tests.cluster.retention_world import API, DAY

pytestmark = pytest.mark.cluster

OLD, YOUNG = 40 * DAY, 2 * DAY


class Platform:
    """Three namespaces, two of them offered a cluster-wide store; one controller for all."""

    def __init__(self, cluster: Cluster, name: str, workdir: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.root = workdir / "stores"
        self.store = self.root / name
        self.store.mkdir(parents=True)
        self.a, self.b, self.outside = f"{name}-a", f"{name}-b", f"{name}-outside"
        for namespace in (self.a, self.b, self.outside):
            cluster.create_namespace(namespace)
        for namespace in (self.a, self.b):
            self.offer(namespace)
        self.controller = ControllerProcess(cluster, workdir, roots=[self.root])

    def offer(self, namespace: str) -> None:
        """Let a namespace be selected."""
        self.cluster.kubectl("label", "namespace", namespace, f"shared={self.name}")

    def run(self, namespace: str, run: str, age: float) -> str:
        """Write a run of one object; return its key."""
        key = f"outputs/{namespace}/{run}/data"
        path = self.store / key
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 10)
        when = time.time() - age
        os.utime(path, (when, when))
        return key

    def objects(self) -> set[str]:
        """Return the keys of everything that is stored as data."""
        return {
            str(Path(folder, name).relative_to(self.store))
            for folder, _, names in os.walk(self.store)
            for name in names
            if ".bubu" not in Path(folder).parts
        }

    def config(self) -> None:
        """Apply the ClusterStorageConfig."""
        spec: dict[str, Any] = {
            "file": {"path": str(self.store)},
            "namespaceSelector": {"matchLabels": {"shared": self.name}},
        }
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "ClusterStorageConfig",
                "metadata": {"name": self.name},
                "spec": spec,
            }
        )

    def policy(self, **spec: Any) -> None:
        """Apply the ClusterRetentionPolicy."""
        defaults: dict[str, Any] = {
            "storageRef": {"name": self.name},
            "mode": "Enforce",
            "interval": "1s",
            "safety": {"maxDuePercent": 100},
            "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
        }
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "ClusterRetentionPolicy",
                "metadata": {"name": self.name},
                "spec": defaults | spec,
            }
        )

    def namespaced(self, namespace: str, within: str, **spec: Any) -> None:
        """Apply a RetentionPolicy on the same store."""
        defaults: dict[str, Any] = {
            "storageRef": {"kind": "ClusterStorageConfig", "name": self.name},
            "interval": "1s",
            "safety": {"maxDuePercent": 100},
            "rules": [{"prefix": "outputs/", "keep": {"within": within}}],
        }
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "RetentionPolicy",
                "metadata": {"name": "tidy", "namespace": namespace},
                "spec": defaults | spec,
            }
        )

    def status(self, namespace: str = "") -> dict[str, Any]:
        """Return the status of the cluster-wide policy, or of a namespace's."""
        found = (
            self.cluster.get("retentionpolicy", "tidy", "-n", namespace)
            if namespace
            else self.cluster.get("clusterretentionpolicy", self.name)
        )
        return found.get("status") or {}


@pytest.fixture
def platform(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[Platform]:
    """A platform; what is cluster-wide is removed afterwards."""
    made = Platform(installed, namespace, tmp_path)
    try:
        yield made
    finally:
        made.controller.stop()
        for kind in ("clusterretentionpolicy", "clusterstorageconfig"):
            installed.kubectl("delete", kind, made.name, "--ignore-not-found", "--timeout=60s")
        # Controllers of other tests of this kind watch all namespaces.
        installed.kubectl("delete", "namespace", made.a, made.b, made.outside, "--wait=false")
    assert "Traceback" not in made.controller.log


def test_the_selected_namespaces_are_cleaned_and_no_other(platform: Platform) -> None:
    """Old runs go in both; what is young and what is not offered stays; status, events, metrics."""
    due = {platform.run(platform.a, "old", OLD), platform.run(platform.b, "old", OLD)}
    young = {platform.run(platform.a, "young", YOUNG), platform.run(platform.b, "young", YOUNG)}
    outside = platform.run(platform.outside, "old", OLD)
    platform.config()
    platform.policy()
    platform.controller.start()

    until(lambda: not due & platform.objects(), "old runs to go", 40)

    assert platform.objects() == young | {outside}
    status = platform.status()
    assert condition({"status": status})["status"] == "True"
    assert status["storage"] == {"kind": "ClusterStorageConfig", "name": platform.name}
    until(lambda: platform.status()["totals"]["deletedObjects"] == 2, "totals")
    labels = f'{{namespace="",policy="{platform.name}"}}'
    until(
        lambda: (
            f"bubu_retention_deleted_objects_total{labels} 2.0" in platform.controller.health("/metrics")[1]
        ),
        "the metric",
    )

    def told() -> bool:
        events = platform.cluster.get("events.events.k8s.io", "-n", "default")["items"]
        mine = [item["reason"] for item in events if item["regarding"]["name"] == platform.name]
        return "DeletionStarted" in mine

    until(told, "the event")

    platform.cluster.kubectl("delete", "clusterretentionpolicy", platform.name, "--timeout=60s")
    until(lambda: labels not in platform.controller.health("/metrics")[1], "the series to go")


def test_what_a_suspended_policy_of_a_namespace_keeps_is_kept(platform: Platform) -> None:
    """Keep wins over the cluster-wide policy, in that namespace and nowhere else."""
    gone = platform.run(platform.a, "old", OLD)
    kept = platform.run(platform.b, "old", OLD)
    platform.config()
    platform.namespaced(platform.b, "365d", suspend=True)
    platform.policy()
    platform.controller.start()

    until(lambda: gone not in platform.objects(), "the unprotected run to go", 40)
    until(lambda: platform.status().get("cycle"), "a whole cycle", 20)

    # A pass that has just begun has found nothing yet.
    found = until(lambda: platform.status()["lastPass"].get("byReason"), "what a pass found", 20)
    assert found["KeptWithin"]["objects"] >= 1
    assert kept in platform.objects()


def test_what_a_cluster_wide_policy_keeps_is_kept_from_namespaced_ones(platform: Platform) -> None:
    """Also while it is suspended; and a namespaced policy never sees another namespace."""
    kept = platform.run(platform.a, "middle", 10 * DAY)
    old = platform.run(platform.a, "old", OLD)
    foreign = platform.run(platform.b, "old", OLD)
    platform.config()
    platform.policy(suspend=True)
    platform.namespaced(platform.a, "1d", mode="Enforce")
    platform.controller.start()

    until(lambda: old not in platform.objects(), "the old run to go", 40)
    until(lambda: platform.status(platform.a).get("cycle"), "a whole cycle", 20)

    assert platform.objects() == {kept, foreign}


def test_a_namespace_that_comes_is_rehearsed_before_anything_goes_there(platform: Platform) -> None:
    """And one that is no longer offered is left alone from the next pass on."""
    platform.run(platform.a, "old", OLD)
    platform.config()
    platform.policy()
    platform.controller.start()
    until(lambda: not platform.objects(), "the first namespace", 40)
    first = until(lambda: platform.status().get("rehearsal"), "the rehearsal")["completeTime"]

    late = platform.run(platform.outside, "old", OLD)
    platform.offer(platform.outside)
    until(lambda: late not in platform.objects(), "the late namespace", 40)

    assert platform.status()["rehearsal"]["completeTime"] != first
    platform.cluster.kubectl("label", "namespace", platform.outside, "shared-")
    passes = platform.status()["totals"]["passes"]
    until(lambda: platform.status()["totals"]["passes"] >= passes + 2, "a pass that began afterwards", 30)
    left = platform.run(platform.outside, "later", OLD)
    passes = platform.status()["totals"]["passes"]
    until(lambda: platform.status()["totals"]["passes"] >= passes + 3, "further passes", 30)
    assert platform.objects() == {left}
