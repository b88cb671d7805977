"""Owners on a real API server: what is live stays, and not knowing who is live stops everything."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ACCOUNT, NAMESPACE, condition, install, until
from tests.cluster.retention_world import DAY, World, finished
from tests.cluster.run_kinds import install_run_kinds, story_run

pytestmark = pytest.mark.cluster

HOUR = 3600.0
VERY_SLOW = {"maxScan": 40000, "maxDelete": 40000, "requestsPerSecond": 1, "budgetSeconds": 600}
"""Owners are asked anew when they are ten seconds old: a pass has to take much longer to notice a change."""


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with CRDs and rights, and the kinds that own runs."""
    install(cluster)
    install_run_kinds(cluster)
    return cluster


def put(world: World, run: str, age: float, text: str = '"x"') -> str:
    """Write a run of one object; return its key."""
    key = f"outputs/{world.namespace}/{run}/data.json"
    path = world.store / key
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    when = time.time() - age
    os.utime(path, (when, when))
    return key


def own(world: World, name: str, phase: str = "Running", **spec: Any) -> None:
    """Create a StoryRun and say in which phase it is."""
    world.cluster.apply(story_run(name, world.namespace, **spec))
    end(world, name, phase)


def end(world: World, name: str, phase: str) -> None:
    """Set a StoryRun's phase."""
    world.cluster.kubectl(
        "patch", "storyrun", name, "-n", world.namespace, "--subresource=status", "--type=merge",
        "-p", f'{{"status": {{"phase": "{phase}"}}}}',
    )  # fmt: skip


def cycled(status: dict[str, Any]) -> bool:
    """Tell whether a whole enforcing cycle has ended."""
    return finished(status) and "cycle" in status


def test_a_live_run_and_what_it_refers_to_stay(world: World) -> None:
    """Live, referenced by its spec, referenced by a stored document: kept; when it ends, they go."""
    inner = put(world, "inner", 40 * DAY)
    outer = put(world, "outer", 40 * DAY, f'{{"part": {{"$bubuStorageRef": "{inner}"}}}}')
    live, ended = put(world, "live", 40 * DAY), put(world, "ended", 40 * DAY)
    put(world, "alone", 40 * DAY)
    own(world, "live", inputs={"file": {"$bubuStorageRef": outer}})
    own(world, "ended", "Succeeded")
    world.config()
    world.policy(mode="Enforce")
    world.controller().start()

    status = world.wait(cycled, "a cycle", 40)

    assert world.objects() == {inner, outer, live}
    reasons = status["lastPass"]["byReason"]
    assert reasons["KeptLive"]["objects"] == 1
    assert reasons["KeptReferenced"]["objects"] == 2
    assert (status["owners"]["live"], status["owners"]["existing"]) == (1, 2)
    assert ended not in world.objects()
    end(world, "live", "Failed")
    until(lambda: not world.objects(), "everything to go", 40)


def test_a_run_that_becomes_live_in_the_middle_of_a_pass(world: World) -> None:
    """Its owner is created after the listing has found it due: the batch that it is in goes without it."""
    world.fill(old=1200, young=20, objects=10)
    now = time.time()
    old = {key for key in world.objects() if now - (world.store / key).stat().st_mtime > 30 * DAY}
    last = max(key.split("/")[2] for key in old)
    world.config()
    world.policy(mode="Enforce", interval="1h", limits=VERY_SLOW)
    world.controller().start()
    world.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "deletions", 60)
    assert "finishTime" not in world.status()["lastPass"]

    own(world, last)
    kept = {key for key in world.objects() if key.split("/")[2] == last}
    assert len(kept) == 10

    status = world.wait(finished, "the pass to end", 120)
    assert status["lastPass"]["byReason"]["KeptLive"]["objects"] == 10
    assert kept <= world.objects()
    assert len(world.objects()) == 210


def test_the_newest_runs_of_a_story_and_orphans_after_their_grace(world: World) -> None:
    """As many as keep.lastRuns says stay; a run without an owner goes when its mark is old enough."""
    keys = {name: put(world, name, 40 * DAY) for name in ("first", "second", "third", "orphan", "marked")}
    for name in ("first", "second", "third"):
        own(world, name, "Succeeded")
        time.sleep(1.1)  # ranks go by creation, which the API server tells in whole seconds
    mark = world.store / ".bubu" / "retention" / "marks" / "outputs" / world.namespace / "marked" / "mark"
    mark.parent.mkdir(parents=True)
    mark.write_bytes(b"marked")  # an empty one is void
    os.utime(mark, (time.time() - HOUR, time.time() - HOUR))
    world.config()
    world.policy(
        mode="Enforce",
        rules=[{"prefix": "outputs/", "keep": {"lastRuns": 2}}],
        orphans={"action": "Delete", "grace": "30m"},
    )
    world.controller().start()

    status = world.wait(cycled, "a cycle", 40)

    assert world.objects() == {keys["second"], keys["third"], keys["orphan"]}
    reasons = status["lastPass"]["byReason"]
    assert reasons["KeptLastRuns"]["objects"] == 2
    assert reasons["KeptOrphanGrace"]["objects"] == 1
    assert (mark.parents[1] / "orphan" / "mark").exists()


def test_a_list_that_has_shrunk_beyond_belief_waits_for_an_approval(world: World) -> None:
    """Four of five live runs vanish without having ended: nothing goes until somebody says: right."""
    gone = put(world, "alone", 40 * DAY)
    names = [f"live-{number}" for number in range(5)]
    for name in names:
        own(world, name)
    world.config()
    world.policy(mode="Enforce")
    controller = world.controller()
    controller.start()
    world.wait(lambda s: cycled(s) and s["owners"]["live"] == 5, "a cycle", 40)
    assert gone not in world.objects()

    # One after the other they would be believed.
    with controller.frozen():
        world.cluster.kubectl("delete", "storyrun", *names[1:], "-n", world.namespace)
    status = world.wait(
        lambda s: condition({"status": s}, "Reconciled").get("reason") == "LiveCountDropped",
        "the finding",
        30,
    )
    late = put(world, "late", 40 * DAY)
    passes = status["totals"]["passes"]
    status = world.wait(lambda s: s["totals"]["passes"] >= passes + 3, "further passes")
    assert late in world.objects()
    assert "live owners" in status["owners"]["problem"]

    world.cluster.kubectl(
        "annotate", "retentionpolicy/tidy", "-n", world.namespace,
        f"storage.bubustack.io/approve={status['owners']['problemHash']}",
    )  # fmt: skip
    until(lambda: late not in world.objects(), "what is due to go", 40)
    status = world.wait(lambda s: s["owners"]["live"] == 1, "the list that is believed")
    assert "problemHash" not in status["owners"]


def test_losing_the_right_to_list_owners_stops_deletions(world: World, installed: Cluster) -> None:
    """In the middle of a pass: it ends with the reason, nothing more goes; with the right it goes on."""
    world.fill(old=1200, young=20, objects=10)
    account, role = f"narrow-{world.namespace}", f"owners-{world.namespace}"
    grant(world, account, role)
    world.config()
    world.policy(mode="Enforce", interval="2s", storageRef={"name": "main"}, limits=VERY_SLOW)
    controller = world.controller(account=(world.namespace, account), operator_namespace=world.namespace)
    controller.start()
    world.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) > 0, "deletions", 60)

    installed.kubectl("delete", "rolebinding", role, "-n", world.namespace)
    status = world.wait(
        lambda s: (
            condition({"status": s}, "Reconciled").get("reason") == "OwnersUnknown"
            or condition({"status": s}).get("reason") == "OwnersUnknown"
        ),
        "the reason",
        40,
    )
    left = world.objects()
    assert len(left) > 200
    counted = status["totals"]["passes"]
    assert counted >= 1
    until(lambda: "is forbidden" in str(world.status()["conditions"]), "the cause", 20)
    assert world.objects() == left

    grant(world, account, role)
    world.policy(mode="Enforce", storageRef={"name": "main"}, limits={"maxScan": 40000, "maxDelete": 40000})
    until(lambda: len(world.objects()) == 200, "the rest to go", 60)


def grant(world: World, account: str, role: str) -> None:
    """Give an account everything but owners in the namespace, and, by another binding, owners."""
    base: dict[str, Any] = {"namespace": world.namespace}
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": account, **base}
    usual: dict[str, Any] = world.cluster.get("clusterrole", ACCOUNT)
    rules = [rule for rule in usual["rules"] if rule["apiGroups"] != ["runs.bubustack.io"]]
    owners = [rule for rule in usual["rules"] if rule["apiGroups"] == ["runs.bubustack.io"]]
    assert owners, f"the shipped role of {NAMESPACE} lists owners"
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, **base}}
    ]
    for name, its_rules in ((f"{role}-usual", rules), (role, owners)):
        documents.extend(
            (
                {
                    "apiVersion": f"{rbac}/v1",
                    "kind": "Role",
                    "metadata": {"name": name, **base},
                    "rules": its_rules,
                },
                {
                    "apiVersion": f"{rbac}/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": name, **base},
                    "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
                    "subjects": [subject],
                },
            )
        )
    world.cluster.apply(*documents)
