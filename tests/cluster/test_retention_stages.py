"""Rehearsals and approvals on a real API server: nothing is deleted before all of it has been looked at."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.cluster.controller_harness import condition, until
from tests.cluster.retention_world import World, finished

pytestmark = pytest.mark.cluster

APPROVE = "storage.bubustack.io/approve"
WEEK = [{"prefix": "outputs/", "keep": {"within": "7d"}}]
TWO_MONTHS = [{"prefix": "outputs/", "keep": {"within": "60d"}}]


def approve(world: World, value: str) -> None:
    """Set the annotation."""
    world.cluster.kubectl(
        "annotate", "retentionpolicy/tidy", "-n", world.namespace, "--overwrite", f"{APPROVE}={value}"
    )


def ready(status: dict[str, Any]) -> tuple[str, str]:
    """Return status and reason of Ready."""
    found = condition({"status": status})
    return found.get("status", ""), found.get("reason", "")


def blocked(status: dict[str, Any]) -> bool:
    """Tell whether the policy waits for an approval."""
    return ready(status) == ("False", "ApprovalRequired")


def reasons(world: World) -> list[str]:
    """Return the reasons of the policy's events, oldest first."""
    return [reason for reason, _ in world.events()]


def test_a_whole_rehearsal_precedes_the_first_deletion(world: World) -> None:
    """Passes of 20 entries over 100 objects: five dry ones that touch nothing, then what is due goes."""
    world.fill(old=30, young=70)
    before = world.objects()
    world.controller().start()
    world.config()
    world.policy(mode="Enforce", safety={}, limits={"maxScan": 20, "maxDelete": 1000})
    seen: list[tuple[str, int]] = []

    def watch(status: dict[str, Any]) -> bool:
        left = len(world.objects())
        entry = (status.get("lastPass", {}).get("mode", ""), left)
        if "rehearsal" not in world.status():
            assert left == len(before), "deleted before the rehearsal was complete"
        if not seen or seen[-1] != entry:
            seen.append(entry)
        return left == 70

    status = world.wait(watch, "everything due deleted", 60)

    assert any(mode == "DryRun" and left == 100 for mode, left in seen)
    rehearsal = status["rehearsal"]
    assert (rehearsal["decidedObjects"], rehearsal["dueObjects"], rehearsal["duePercent"]) == (100, 30, 30)
    world.wait(lambda s: finished(s) and s["totals"]["deletedObjects"] == 30, "totals")
    until(lambda: "DeletionStarted" in reasons(world), "the event", 5)
    told = [reason for reason in reasons(world) if reason in {"RehearsalFinished", "DeletionStarted"}]
    assert told == ["RehearsalFinished", "DeletionStarted"]


def test_more_than_the_share_waits_for_an_approval_of_exactly_that_plan(world: World) -> None:
    """80 of 100 are due: no pass runs on, a wrong hash changes nothing, the right one lets them go."""
    world.fill(old=80, young=20)
    before = world.objects()
    controller = world.controller()
    controller.start()
    world.config()
    world.policy(mode="Enforce", safety={})

    status = world.wait(blocked, "the block")

    message = condition({"status": status})["message"]
    assert "80 of 100 objects are due (80 %)" in message
    assert status["planHash"] in message
    assert "nextPassTime" not in status
    labels = f'{{namespace="{world.namespace}",policy="tidy"}}'
    until(
        lambda: f"bubu_retention_approval_required{labels} 1.0" in controller.health("/metrics")[1], "metric"
    )
    approve(world, "0123456789abcdef")
    world.wait(
        lambda s: blocked(s) and "0123456789abcdef is of another plan" in condition({"status": s})["message"],
        "the answer to a wrong hash",
    )
    assert world.objects() == before
    passes = world.status()["totals"]["passes"]

    approve(world, status["planHash"])
    world.wait(lambda s: s["totals"]["deletedObjects"] == 80, "what is due to go", 20)

    assert world.status()["approvedPlan"] == status["planHash"]
    assert world.status()["totals"]["passes"] > passes
    until(lambda: "DeletionStarted" in reasons(world), "the event", 5)
    told = [reason for reason in reasons(world) if reason != "StorageFound"]
    assert told == ["RehearsalFinished", "ApprovalRequired", "Approved", "DeletionStarted"]


def test_an_approval_does_not_hold_for_other_rules(world: World) -> None:
    """A changed rule is a new rehearsal and a new plan: the hash that stands there is of the old one."""
    world.fill(old=80, young=20)
    world.controller().start()
    world.config()
    world.policy(mode="Enforce", safety={}, rules=TWO_MONTHS)
    world.wait(lambda s: finished(s) and s["totals"]["deletedObjects"] == 0, "a pass without anything due")
    world.policy(mode="Enforce", safety={}, rules=WEEK)
    first = world.wait(blocked, "the block")["planHash"]
    world.policy(mode="Enforce", safety={}, rules=[{"prefix": "outputs/", "keep": {"within": "8d"}}])
    second = world.wait(lambda s: blocked(s) and s["planHash"] != first, "the block of the other plan")

    approve(world, first)
    world.wait(
        lambda s: blocked(s) and f"{first} is of another plan" in condition({"status": s})["message"],
        "the answer to an old hash",
    )
    assert len(world.objects()) == 100

    approve(world, second["planHash"])
    world.wait(lambda s: s["totals"]["deletedObjects"] == 80, "what is due to go", 20)


def test_what_becomes_due_beyond_the_share_while_it_deletes(world: World) -> None:
    """A policy that has run well for a while meets a store of which all is suddenly due: it stops."""
    world.fill(old=2, young=98)
    controller = world.controller()
    controller.start()
    world.config()
    world.policy(mode="Enforce", safety={}, interval="1s")
    world.wait(
        lambda s: s.get("totals", {}).get("deletedObjects") == 2 and "cycle" in s, "a cycle that deleted"
    )

    aged = time.time() - 40 * 86400
    with controller.frozen():
        for key in sorted(world.objects()):
            os.utime(world.store / key, (aged, aged))

    status = world.wait(blocked, "the block", 40)

    left = len(world.objects())
    assert left >= 98 - 49, "no more than the share may go in one cycle"
    assert status["planHash"]
    time_of_block = world.status()["totals"]["deletedObjects"]
    approve(world, status["planHash"])
    world.wait(lambda _: not world.objects(), "the rest to go", 30)
    assert world.status()["totals"]["deletedObjects"] > time_of_block
