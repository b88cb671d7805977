"""The kill switch on a real API server: one annotation ends every pass in seconds; all policies say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import allow_election, children_of, condition, until, within
from tests.cluster.processes import Stopwatch
from tests.cluster.retention_world import SLOW, World, finished

pytestmark = pytest.mark.cluster

ANNOTATION = "storage.bubustack.io/pause-retention"


@pytest.fixture
def world(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """A world whose namespace is the operator's, too, so that tests do not pause one another."""
    allow_election(installed, namespace)
    with World.running(installed, namespace, tmp_path) as made:
        yield made


def annotate(world: World, text: str) -> None:
    """Annotate the operator's namespace."""
    world.cluster.kubectl("annotate", "namespace", world.namespace, "--overwrite", text)


def reason(world: World, name: str) -> str:
    """Return the reason of a policy's Ready condition."""
    return condition({"status": world.status(name)}).get("reason", "")


def test_the_annotation_ends_a_pass_that_is_under_way(world: World) -> None:
    """No process is left within seconds, nothing more is deleted, all policies say so; then all go on."""
    world.fill(old=800, young=20, objects=10)
    controller = world.controller(operator_namespace=world.namespace)
    controller.start()
    world.config()
    world.policy("other", interval="1h")
    world.policy(mode="Enforce", interval="1s", limits=SLOW)
    world.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "deletions", 60)
    assert children_of(controller.pid)

    watch = Stopwatch()
    annotate(world, f"{ANNOTATION}=true")
    within(lambda: not children_of(controller.pid), "the pass to end", 6)
    seconds = watch.seconds

    left = world.objects()
    assert len(left) > 200
    for name in ("tidy", "other"):
        until(lambda name=name: reason(world, name) == "PassesPaused", f"the reason on {name}", 5)
    assert "nextPassTime" not in world.status()
    version = world.read()["metadata"]["resourceVersion"]
    until(lambda: "\nbubu_retention_paused 1.0\n" in controller.health("/metrics")[1], "the metric", 5)
    world.policy("late", mode="Enforce")
    until(lambda: reason(world, "late") == "PassesPaused", "the reason on a new policy", 5)
    assert world.objects() == left
    assert world.read()["metadata"]["resourceVersion"] == version

    annotate(world, f"{ANNOTATION}-")
    until(lambda: len(world.objects()) == 200, "the rest to go", 60)
    assert reason(world, "tidy") == "StorageFound"
    print(f"no pass left {seconds:.1f} s after the annotation")


def test_a_controller_that_starts_while_retention_is_paused(world: World) -> None:
    """Not one pass begins before the annotation has been read; --pause-retention does the same."""
    world.fill(old=5, young=5)
    world.config()
    world.policy()
    annotate(world, f"{ANNOTATION}=please")
    controller = world.controller(operator_namespace=world.namespace)
    controller.start()
    until(lambda: reason(world, "tidy") == "PassesPaused", "the reason", 10)
    assert "lastPass" not in world.status()
    controller.stop()

    annotate(world, f"{ANNOTATION}-")
    controller = world.controller("--pause-retention", operator_namespace=world.namespace)
    controller.start()
    until(
        lambda: "--pause-retention" in condition(world.read()).get("message", ""), "the option's reason", 10
    )
    assert "lastPass" not in world.status()
    controller.stop()

    world.controller(operator_namespace=world.namespace).start()
    world.wait(lambda s: finished(s, "DryRun"), "a pass")


def test_without_the_right_to_read_the_annotation_no_pass_runs(world: World) -> None:
    """The switch would do nothing. With the right, or without the wish for a switch, passes run."""
    world.fill(old=5, young=5)
    world.config()
    world.policy(storageRef={"name": "main"})
    world.cluster.create_namespace(other := f"{world.namespace}-op")
    controller = world.controller(operator_namespace=other, account=allow_narrow(world))
    controller.start()
    until(lambda: reason(world, "tidy") == "PauseUnknown", "the reason", 15)
    message = condition(world.read()).get("message", "")
    assert f"resourceName {other}" in message
    assert "--no-pause-annotation" in message
    assert "lastPass" not in world.status()

    role = ("role", "pause", "--verb=get", "--resource=namespaces", f"--resource-name={other}", "-n", other)
    world.cluster.kubectl("create", *role)
    binding = (
        "rolebinding",
        "pause",
        "--role=pause",
        f"--serviceaccount={world.namespace}:narrow",
        "-n",
        other,
    )
    world.cluster.kubectl("create", *binding)
    world.wait(lambda s: finished(s, "DryRun"), "a pass", 30)
    controller.stop()

    world.cluster.kubectl("delete", "rolebinding", "pause", "-n", other)
    controller = world.controller(
        "--no-pause-annotation", operator_namespace=other, account=(world.namespace, "narrow")
    )
    controller.start()
    world.policy("second", storageRef={"name": "main"})
    until(lambda: "lastPass" in world.status("second"), "a pass without the switch", 30)
    world.cluster.kubectl("delete", "namespace", other, "--wait=false")


def allow_narrow(world: World) -> tuple[str, str]:
    """Make an account with the shipped rights in the world's namespace alone."""
    rbac, meta = "rbac.authorization.k8s.io", {"name": "narrow", "namespace": world.namespace}
    world.cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "bubu-storage-controller"},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    )
    return world.namespace, "narrow"
