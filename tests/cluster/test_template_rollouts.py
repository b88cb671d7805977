"""Roll-outs one owner at a time on a real API server, with real controllers of the workloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, install, until
from tests.cluster.template_harness import ASKED, Workload, apply_config, events_about

pytestmark = pytest.mark.cluster


@pytest.fixture
def controller(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    """A controller that watches the test's namespace."""
    install(cluster)
    (tmp_path / "stores").mkdir()
    with ControllerProcess(cluster, tmp_path, namespaces=[namespace], roots=[tmp_path / "stores"]) as running:
        yield running
    assert "Traceback" not in running.log


def injected(
    controller: ControllerProcess, cluster: Cluster, namespace: str, *made: tuple[str, str]
) -> list[Workload]:
    """Create workloads of one replica each, by kind and name; injected, and their pods ready."""
    apply_config(cluster, namespace, controller.root / "a", rollout=True)
    workloads = [Workload(cluster, namespace, kind, name) for kind, name in made]
    for workload in workloads:
        workload.create(workload.manifest(labels=ASKED, replicas=1))
    for workload in workloads:
        until(workload.path, "injection", 15)
        workload.roll_until_done()
    return workloads


def test_one_owner_at_a_time_also_over_a_kill(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """By name, each when the one before it is done; a controller killed in between goes on where it was."""
    made = (("Deployment", "c"), ("Deployment", "a"), ("StatefulSet", "b"))
    third, first, last = injected(controller, cluster, namespace, *made)
    old, new = f"{controller.root}/a", f"{controller.root}/b"

    apply_config(cluster, namespace, controller.root / "b", rollout=True)
    until(lambda: first.path() == new, "the first owner", 20)
    controller.kill()
    controller.start()
    # The new process has looked around when it has injected what came after the kill.
    witness = Workload(cluster, namespace, name="witness")
    witness.create(witness.manifest(labels=ASKED))
    until(witness.path, "the new process to work", 20)
    assert (third.path(), last.path()) == (old, old)

    first.roll_until_done()
    until(lambda: third.path() == new, "the next Deployment", 30)
    assert last.path() == old, "StatefulSets come after Deployments"
    third.roll_until_done()
    until(lambda: last.path() == new, "the StatefulSet", 30)
    last.roll_until_done()

    for workload in (first, third, last):
        # Created, injected, rolled: a write that the killed process made is not made again.
        assert workload.read()["metadata"]["generation"] == 3


def test_a_failed_roll_out_stops_the_others(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """Past its progress deadline the first owner stops the rest, with a word; a new config mends it."""
    first, second = injected(controller, cluster, namespace, ("Deployment", "a"), ("Deployment", "b"))
    # Long enough for the roll-out that is to succeed.
    patch = '{"spec": {"progressDeadlineSeconds": 12}}'
    cluster.kubectl("patch", first.reference, "-n", namespace, "-p", patch)
    old, new = f"{controller.root}/a", f"{controller.root}/b"

    apply_config(cluster, namespace, controller.root / "b", rollout=True)
    until(lambda: first.path() == new, "the first owner", 20)
    until(lambda: "RolloutHalted" in dict(events_about(second)), "the word on the second", 30)
    assert "Deployment" in dict(events_about(second))["RolloutHalted"]
    assert second.path() == old
    until(lambda: "bubu_rollouts_failed_total 1.0" in controller.health("/metrics")[1], "the metric")

    apply_config(cluster, namespace, controller.root / "c", rollout=True)
    until(lambda: first.path() == f"{controller.root}/c", "the first owner's new config", 45)
    first.roll_until_done()
    until(lambda: second.path() == f"{controller.root}/c", "the second owner", 45)
    # Two first injections, the first owner's two and the second's one.
    until(
        lambda: (
            'bubu_templates_written_total{action="Injected",kind="Deployment"} 5.0'
            in controller.health("/metrics")[1]
        ),
        "the metric",
    )
