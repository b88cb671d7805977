"""The state machine finds what is wrong with an engine that is broken on purpose."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from bubu_storage.retention import crew
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.spec import PassSpec, RetentionRule
from tests.unit.retention.directed_teeth import DIRECTED
from tests.unit.retention.machine_oracle import Oracle, WronglyDeletedError
from tests.unit.retention.machine_sweeper import Sweeper
from tests.unit.retention.machine_teeth import SABOTAGES
from tests.unit.retention.machine_world import Cluster, World
from tests.unit.retention.test_machine import DAY, IS_LONG, WholeMachine

CHEAP = ("no_keep_referenced", "no_keep_orphan_grace")
"""Found within a few examples."""

COSTLY = (
    "no_keep_last_runs",
    "no_keep_live",
    "no_keep_min_age",
    "no_keep_orphan",
    "no_keep_shared_store",
    "no_keep_within",
    "owners_for_a_minute",
    "owners_looked_at_once",
    "references_one_level_deep",
)


@pytest.mark.parametrize("name", [*CHEAP, *COSTLY] if IS_LONG else CHEAP)
def test_a_broken_engine_is_found_out(name):
    """Each way to break the engine makes the machine fail, with few examples."""
    plain = settings(
        max_examples=400,
        stateful_step_count=14,
        deadline=None,
        database=None,
        derandomize=True,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    with SABOTAGES[name](), pytest.raises(AssertionError):
        run_state_machine_as_test(WholeMachine, settings=plain)


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_directed_test_fails_on_each_broken_engine(name):
    """Luck has no part in this: what the machine may not come across, a test of its own fails on."""
    assert not any(fails() for fails in DIRECTED[name])

    with SABOTAGES[name]():
        assert all(fails() for fails in DIRECTED[name])


class TestTwoSweepers:
    """One stands still for longer than its claim lasts, between a check and its request; then it goes on."""

    @pytest.fixture
    def world(self, monkeypatch):
        """Two clusters over a store in which runs are due."""
        monkeypatch.setattr(crew, "THREADS", 1)
        world = World(batch=False, latency_seconds=0.01, ignores=frozenset())
        world.oracle = Oracle(world)
        spec = PassSpec(("outputs/a/",), (RetentionRule("outputs/a/", 5 * DAY),))
        for uid in ("east", "west"):
            cluster = Cluster(uid)
            world.oracle.add(cluster)
            world.sweepers.append(Sweeper(world, cluster, spec, boot_offset=0.0))
        for number in range(12):
            world.put(f"outputs/a/r{number % 4}/o{number}", 61 * DAY)
        yield world
        for sweeper in world.sweepers:
            sweeper.end()

    def sweep(self, world: World) -> None:
        """Freeze the first at its third deletion; the second comes when the first one's claim is over."""
        first, second = world.sweepers
        first.start(dry_run=False, plan=[(-3, ("freeze", 200.0))])
        second.start(dry_run=False, plan=[])
        second.wake_at += 64.0
        world.run_together([])

    def test_a_frozen_one_deletes_nothing_more(self, world):
        """Its last look at the clock stops it; the other does the rest."""
        self.sweep(world)

        first, second = world.sweepers
        assert first.report.stopped_by is StoppedBy.CLAIM_LOST
        assert second.report.stopped_by is StoppedBy.END_OF_CYCLE
        assert (len(first.carried_out), len(second.carried_out)) == (2, 10)

    @pytest.mark.parametrize("name", ["no_permits", "no_margin"])
    def test_an_engine_that_does_not_look_is_found_out(self, world, name):
        """What goes on deleting beside another sweeper is noticed at the first deletion."""
        with SABOTAGES[name](), pytest.raises(WronglyDeletedError, match=r"claim|may delete"):
            self.sweep(world)
