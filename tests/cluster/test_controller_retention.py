"""RetentionPolicies on a real API server: passes, limits, cursors, crashes, deletions."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.cluster.controller_harness import (
    ControllerProcess,
    alive,
    children_of,
    condition,
    only_child,
    until,
    within,
)
from tests.cluster.processes import Stopwatch
from tests.cluster.retention_world import API, DAY, FAST, SLOW, World, finished

pytestmark = pytest.mark.cluster


def test_a_rehearsal_reports_and_touches_nothing(world: World) -> None:
    """DryRun: counts by reason, the oldest overdue, one event; store and enforcing cursor as they were."""
    world.fill(old=40, young=10, objects=2)
    before = world.objects()
    world.controller().start()
    world.config()
    world.policy(limits={"maxScan": 60}, interval="1s")

    status = world.wait(
        lambda s: s.get("totals", {}).get("passes", 0) >= 2 and finished(s, "DryRun"), "2 passes"
    )

    assert world.objects() == before
    assert condition({"status": status})["reason"] == "StorageFound"
    assert condition({"status": status}, "Reconciled")["reason"] == "PassSucceeded"
    assert status["storage"] == {"kind": "StorageConfig", "name": "main"}
    assert "cursor" not in status
    assert "nextPassTime" in status
    assert status["totals"]["deletedObjects"] == 0
    counted = sum(count["objects"] for count in status["lastPass"]["byReason"].values())
    assert counted > 0
    world.wait(lambda s: s["totals"]["passes"] >= 4, "4 passes")
    until(world.events, "the event")
    assert [reason for reason, _ in world.events()] == ["DryRunFinished"]
    found = world.read()
    assert "finalizers" not in found["metadata"]
    assert not any("kopf" in key for key in found["metadata"].get("annotations", {}))


def test_enforcing_over_capped_passes_reaches_exactly_what_is_due(world: World) -> None:
    """Passes within maxDelete resume one another; what must stay stays, and totals are exact."""
    world.fill(old=200, young=50, objects=2)
    world.fill(old=5, young=0, prefix="other")
    keep = {key for key in world.objects() if key.startswith("other/")}
    now = time.time()
    keep |= {key for key in world.objects() if now - (world.store / key).stat().st_mtime < 30 * DAY}
    world.controller().start()
    world.config()
    world.policy(mode="Enforce", limits={"maxScan": 300, "maxDelete": 120})
    seen: dict[str, int] = {}

    def watch(status: dict[str, Any]) -> bool:
        last: dict[str, Any] = status.get("lastPass") or {}
        if "finishTime" in last:
            seen[last["startTime"]] = last["deleted"]
        return status.get("totals", {}).get("deletedObjects", 0) >= 400

    status = world.wait(watch, "everything due deleted", 60)

    assert world.objects() == keep
    assert status["totals"]["deletedObjects"] == 400
    assert status["totals"]["passes"] >= 3
    assert max(seen.values()) <= 120
    expected = ["RehearsalFinished", "DeletionStarted"]
    until(lambda: [reason for reason, _ in world.events()] == expected, "these events and no others")


def test_run_now_suspend_and_interval(world: World) -> None:
    """A new value of the annotation runs at once, the same value does not again, suspension stops all."""
    world.fill(old=1, young=1)
    world.controller().start()
    world.config()
    world.policy(interval="1h")
    world.wait(lambda s: s.get("totals", {}).get("passes") == 1 and finished(s, "DryRun"), "first pass")

    def annotate(value: str) -> None:
        world.cluster.kubectl(
            "annotate", "retentionpolicy/tidy", "-n", world.namespace, "--overwrite",
            f"storage.bubustack.io/run-now={value}",
        )  # fmt: skip

    annotate("one")
    status = world.wait(lambda s: s["totals"]["passes"] == 2, "the pass that was asked for", 5)
    assert status["lastRunNow"] == "one"
    world.policy(interval="1h", suspend=True)
    world.wait(lambda s: condition({"status": s})["reason"] == "Suspended", "suspension", 5)
    annotate("two")
    world.policy(interval="1h", suspend=True, limits={"maxScan": 7})
    world.wait(lambda s: s["observedGeneration"] == 3, "the changed spec to be seen", 5)
    status = world.status()
    assert status["totals"]["passes"] == 2
    assert "nextPassTime" not in status
    world.policy(interval="1h", limits={"maxScan": 7})
    status = world.wait(lambda s: s["totals"]["passes"] == 3 and finished(s, "DryRun"), "after suspension", 5)
    assert status["lastRunNow"] == "two"
    assert not [
        reason
        for reason, _ in world.events()
        if reason not in {"DryRunFinished", "Suspended", "StorageFound"}
    ]


def test_sigkill_of_the_controller_in_the_middle_of_a_pass(world: World) -> None:
    """The pass dies with it; nothing kept is lost; the next controller resumes from the last checkpoint."""
    world.fill(old=800, young=20, objects=10)
    now = time.time()
    keep = {key for key in world.objects() if now - (world.store / key).stat().st_mtime < 30 * DAY}
    first = world.controller()
    first.start()
    world.config()
    world.policy(mode="Enforce", interval="1h", limits=SLOW)
    status = world.wait(
        lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "a checkpoint with deletions"
    )
    assert "finishTime" not in status["lastPass"]
    child = only_child(first.pid)

    first.kill()
    killed = time.monotonic()
    within(lambda: not alive(child), "the pass to die with its controller", 5)
    orphan_seconds = time.monotonic() - killed
    left = len(world.objects())
    status = world.status()
    cursor, counted = status["cursor"]["after"], status["totals"]["deletedObjects"]
    assert 0 < counted <= 8200 - left, "totals may lag behind, never run ahead"
    assert keep <= world.objects()

    restarted = time.monotonic()
    world.controller().start()
    began = status["lastPass"]["startTime"]
    world.wait(lambda s: s["lastPass"].get("startTime") != began, "takeover")
    takeover_seconds = time.monotonic() - restarted
    status = world.wait(lambda s: s["totals"]["deletedObjects"] > counted, "progress")
    assert finished(status) or status["cursor"]["after"] > cursor
    status = world.wait(finished, "the resumed pass to end", 60)

    assert world.objects() == keep
    assert counted < status["totals"]["deletedObjects"] <= 8000
    print(f"pass gone {orphan_seconds:.2f} s after SIGKILL; new pass {takeover_seconds:.2f} s after start")


def test_sigterm_in_the_middle_of_a_pass_stores_the_cursor(world: World) -> None:
    """An orderly stop asks the pass to end, writes where it was, and is quick; totals are exact then."""
    world.fill(old=800, young=20, objects=10)
    controller = world.controller()
    controller.start()
    world.config()
    world.policy(mode="Enforce", interval="1h", limits=SLOW)
    world.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "deletions")

    watch = Stopwatch()
    assert controller.stop() == 0
    assert watch.seconds < 10

    status = world.status()
    assert status["lastPass"]["stoppedBy"] == "Stopped"
    assert status["totals"]["deletedObjects"] == 8200 - len(world.objects())
    world.policy(mode="Enforce", interval="1h", limits=FAST)
    world.controller().start()
    until(lambda: len(world.objects()) == 200, "the rest to go", 60)
    world.wait(lambda s: s["lastPass"].get("stoppedBy") != "Stopped" and finished(s), "the rest", 60)


def test_a_config_deleted_while_a_pass_uses_it(world: World) -> None:
    """The pass stops, the policy says what is missing, and goes on when it is back."""
    world.fill(old=800, young=20, objects=10)
    controller = world.controller()
    controller.start()
    world.config()
    world.policy(mode="Enforce", interval="1h", limits=SLOW)
    world.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "deletions")

    world.cluster.kubectl("delete", "storageconfig/main", "-n", world.namespace, "--timeout=60s")

    within(lambda: not children_of(controller.pid), "the pass to end", 6)
    status = world.wait(
        lambda s: condition({"status": s})["reason"] == "StorageConfigNotFound", "the reason", 10
    )
    assert condition({"status": status})["status"] == "False"
    assert "nextPassTime" not in status
    assert len(world.objects()) > 200
    world.policy(mode="Enforce", interval="1h", limits=FAST)
    world.config()
    world.wait(lambda s: condition({"status": s})["status"] == "True" and finished(s), "recovery", 60)
    until(lambda: len(world.objects()) == 200, "the rest to go", 30)
    reasons = [reason for reason, _ in world.events()]
    assert reasons.count("StorageConfigNotFound") == 1


def test_a_policy_deleted_in_the_middle_of_its_pass(world: World) -> None:
    """Deleting waits for nothing, and its process is gone soon after."""
    world.fill(old=800, young=20, objects=10)
    controller = world.controller()
    controller.start()
    world.config()
    world.policy(mode="Enforce", interval="1h", limits=SLOW)
    world.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "deletions")

    world.cluster.kubectl("delete", "retentionpolicy/tidy", "-n", world.namespace, "--timeout=60s")
    within(lambda: not children_of(controller.pid), "the pass to end", 6)
    assert len(world.objects()) > 200


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"rules": [{"prefix": "elsewhere/", "keep": {"within": "1d"}}]}, "PrefixOutsideStore"),
        ({"storageRef": {"name": "missing"}}, "StorageConfigNotFound"),
        ({"storageRef": {"kind": "ClusterStorageConfig", "name": "missing"}}, "StorageConfigNotFound"),
    ],
)
def test_policies_that_cannot_run(world: World, spec: dict[str, Any], reason: str) -> None:
    """The condition has the reason, one warning is posted, and no pass runs."""
    world.fill(old=5, young=5)
    world.controller().start()
    world.config()
    world.policy(mode="Enforce", **spec)

    status = world.wait(lambda s: condition({"status": s}).get("reason") == reason, reason, 10)

    assert condition({"status": status})["status"] == "False"
    assert "lastPass" not in status
    assert len(world.objects()) == 10
    until(lambda: [r for r, _ in world.events()] == [reason], "one warning", 5)


def test_a_store_that_is_not_ready_and_then_is(world: World) -> None:
    """StorageNotReady carries the store's own reason, makes no hot loop, and ends by itself."""
    world.fill(old=3, young=3)
    world.store.rename(world.root / "away")
    world.store.write_text("a file in the way", encoding="utf-8")
    controller = world.controller()
    controller.start()
    world.config()
    world.policy(mode="Enforce")
    status = world.wait(
        lambda s: "PathNotWritable" in condition({"status": s}).get("message", ""), "the store's reason", 15
    )
    assert condition({"status": status})["reason"] == "StorageNotReady"
    version = world.read()["metadata"]["resourceVersion"]
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 3, "more than the time between two looks at the store")
    assert world.read()["metadata"]["resourceVersion"] == version
    assert children_of(controller.pid) == []

    world.store.unlink()
    (world.root / "away").rename(world.store)
    world.wait(finished, "a pass", 20)
    assert len(world.objects()) == 3


def test_ambiguous_storage(world: World) -> None:
    """Two configs and no default: refused with both names; the default mark decides."""
    world.fill(old=1, young=1)
    world.controller().start()
    world.config()
    second: dict[str, Any] = {
        "apiVersion": API,
        "kind": "StorageConfig",
        "metadata": {"name": "second", "namespace": world.namespace},
        "spec": {"file": {"emptyDir": {}}},
    }
    world.cluster.apply(second)
    world.policy()
    status = world.wait(lambda s: condition({"status": s}).get("reason") == "AmbiguousStorage", "refusal", 10)
    assert "main" in condition({"status": status})["message"]
    assert "second" in condition({"status": status})["message"]

    world.cluster.apply({**second, "spec": {"file": {"emptyDir": {}}, "default": True}})
    world.wait(lambda s: condition({"status": s}).get("reason") == "EmptyDir", "the default", 10)
    world.config(default=True)
    world.cluster.apply(second)
    world.wait(lambda s: finished(s, "DryRun"), "a pass", 10)


def test_another_namespaces_objects_are_out_of_reach(world: World) -> None:
    """On a shared directory a policy sees its own namespace's part and nothing else."""
    world.fill(old=3, young=0)
    foreign = world.store / "outputs" / "team-b" / "run-1"
    foreign.mkdir(parents=True)
    (foreign / "data").write_bytes(b"x")
    os.utime(foreign / "data", (0, 0))
    world.controller().start()
    world.config()
    world.policy(
        mode="Enforce",
        rules=[
            {"prefix": "outputs/", "keep": {"within": "1d"}},
            {"prefix": "outputs/team-b/", "keep": {"within": "1d"}},
        ],
    )
    world.wait(lambda s: finished(s) and s["totals"]["deletedObjects"] == 3, "a pass")

    assert world.objects() == {"outputs/team-b/run-1/data"}


def test_prefixes_of_two_namespaces_inside_one_another(world: World) -> None:
    """The one that reaches in is refused; the one that is reached into keeps what is not its own."""
    other = world.cluster.create_namespace(f"{world.namespace}-b")
    world.fill(old=3, young=0)
    nested = world.store / "outputs" / world.namespace / other / "run-1"
    nested.mkdir(parents=True)
    (nested / "data").write_bytes(b"x")
    os.utime(nested / "data", (0, 0))
    reaching: dict[str, Any] = {
        "apiVersion": API,
        "kind": "StorageConfig",
        "metadata": {"name": "main", "namespace": other},
        "spec": {"file": {"path": str(world.store)}, "outputPrefix": f"outputs/{world.namespace}"},
    }
    reaching_policy: dict[str, Any] = {
        "apiVersion": API,
        "kind": "RetentionPolicy",
        "metadata": {"name": "tidy", "namespace": other},
        "spec": {
            "mode": "Enforce",
            "interval": "1s",
            "rules": [{"prefix": f"outputs/{world.namespace}/", "keep": {"within": "1d"}}],
        },
    }
    world.config()
    world.cluster.apply(reaching, reaching_policy)
    controller = ControllerProcess(
        world.cluster, world.root.parent, namespaces=[world.namespace, other], roots=[world.root]
    )
    world.controllers.append(controller)
    controller.start()
    world.policy(mode="Enforce")

    world.wait(lambda s: finished(s) and s["totals"]["deletedObjects"] == 3, "a pass")
    until(
        lambda: (
            condition(world.cluster.get("retentionpolicy", "tidy", "-n", other)).get("reason")
            == "PrefixOverlaps"
        ),
        "the refusal",
    )

    assert world.objects() == {f"outputs/{world.namespace}/{other}/run-1/data"}
    assert world.namespace in condition(world.cluster.get("retentionpolicy", "tidy", "-n", other))["message"]


def test_rights_for_one_namespace_only(world: World) -> None:
    """A controller for a namespace works with rights in that namespace, and says what it cannot see."""
    world.fill(old=2, young=1)
    binding: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "narrow", "namespace": world.namespace},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "bubu-storage-controller",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "narrow", "namespace": world.namespace}],
    }
    account: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "narrow", "namespace": world.namespace},
    }
    world.cluster.apply(account, binding)
    controller = ControllerProcess(
        world.cluster,
        world.root.parent,
        namespaces=[world.namespace],
        roots=[world.root],
        account=(world.namespace, "narrow"),
        # Where it may read the annotation that pauses passes.
        operator_namespace=world.namespace,
    )
    world.controllers.append(controller)
    controller.start()
    world.config()
    world.policy("unnamed")
    world.policy(mode="Enforce", storageRef={"name": "main"})

    world.wait(finished, "a pass")

    assert len(world.objects()) == 1
    until(
        lambda: condition({"status": world.status("unnamed")}).get("reason") == "ReconcileFailed",
        "the right that is missing",
    )
    assert "ClusterStorageConfigs may not be read" in controller.log
    assert not [line for line in controller.messages if line["level"] == "error"]


def test_five_thousand_objects(world: World) -> None:
    """One pass over 5,000 objects: scanned whole, all due gone; the duration is reported."""
    world.fill(old=400, young=100, objects=10)
    world.controller().start()
    world.config()
    world.policy(mode="Enforce", interval="1h", limits={"maxScan": 20000, "maxDelete": 20000})
    began = time.monotonic()
    status = world.wait(finished, "the pass", 60)
    seconds = time.monotonic() - began

    assert status["lastPass"]["deleted"] == 4000
    assert status["lastPass"]["completeCycle"] is True
    assert len(world.objects()) == 1000
    print(f"pass over 5,000 objects, 4,000 deleted: {seconds:.1f} s from apply to finished")


def test_with_the_operator_stopped_everything_deletes_at_once(world: World) -> None:
    """No finalizers: each custom resource, and the namespace's contents, go without anybody's help."""
    controller = world.controller()
    controller.start()
    world.fill(old=3, young=0)
    world.config()
    world.policy()
    name = f"shared-{world.namespace}"
    world.cluster.apply(
        {
            "apiVersion": API,
            "kind": "ClusterStorageConfig",
            "metadata": {"name": name},
            "spec": {"file": {"emptyDir": {}}},
        }
    )
    world.wait(lambda s: finished(s, "DryRun"), "a pass")
    until(lambda: condition(world.cluster.get("clusterstorageconfig", name)), "the cluster config's status")
    controller.stop()

    for target in (
        ("clusterstorageconfig", name),
        ("retentionpolicy", "tidy", "-n", world.namespace),
        ("storageconfig", "main", "-n", world.namespace),
    ):
        world.cluster.kubectl("delete", *target, "--wait=true", "--timeout=60s")
    world.config()
    world.policy()
    # The namespace controller has its own pace: an empty namespace of the same age is the yardstick.
    empty = world.cluster.create_namespace(f"{world.namespace}-empty")
    began = time.monotonic()
    world.cluster.kubectl("delete", "namespace", world.namespace, empty, "--wait=false")
    seconds: list[float] = []
    for name in (empty, world.namespace):
        # A finalizer would be waited for without end.
        words = ("wait", "--for=delete", f"namespace/{name}", "--timeout=240s")
        world.cluster.kubectl(*words, timeout_seconds=260)
        seconds.append(time.monotonic() - began)
    print(f"namespace with custom resources: {seconds[1]:.1f} s, empty one: {seconds[0]:.1f} s")
