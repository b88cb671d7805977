"""Roll-outs one owner at a time: order, timeouts, failures, and what a restart remembers."""

from __future__ import annotations

import copy
import types
from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.controllers.context import ControllerOptions
from bubu_operator.controllers.rollout import (
    ABSENT_SECONDS,
    GRANT_SECONDS,
    HALTED_SECONDS,
    MAX_ROLLOUTS,
    POLL_SECONDS,
    REST_SECONDS,
    SETTLE_SECONDS,
    RolloutGate,
    RolloutState,
    rollout_done,
    rollout_state,
)
from bubu_operator.injection.names import ROLLOUT_ANNOTATION
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.resources import (
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    ObjectKey,
)
from bubu_operator.observability.controller_metrics import ControllerMetrics
from tests.unit.controllers.fake_api import FakeApi

CONFIG = "StorageConfig/team/main"
A, B, C = (ObjectKey("team", name) for name in "abc")


def deployment(name="a", *, generation=2, observed=2, updated=2, available=2, reason="", **spec):
    """A Deployment of two replicas; done unless told otherwise."""
    conditions = [{"type": "Progressing", "reason": reason}] if reason else []
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "team", "generation": generation},
        "spec": {"replicas": 2, "progressDeadlineSeconds": 600, **spec},
        "status": {
            "observedGeneration": observed, "replicas": 2, "updatedReplicas": updated,
            "availableReplicas": available, "conditions": conditions,
        },
    }  # fmt: skip


def stateful_set(*, updated=2, available=2, current="r2", strategy=None):
    """A StatefulSet of two replicas."""
    return {
        "kind": "StatefulSet",
        "metadata": {"name": "a", "namespace": "team", "generation": 2},
        "spec": {"replicas": 2, "updateStrategy": strategy or {"type": "RollingUpdate"}},
        "status": {
            "observedGeneration": 2, "updatedReplicas": updated, "availableReplicas": available,
            "updateRevision": "r2", "currentRevision": current,
        },
    }  # fmt: skip


def daemon_set(*, updated=3, available=3, observed=2, strategy="RollingUpdate"):
    """A DaemonSet on three nodes."""
    return {
        "kind": "DaemonSet",
        "metadata": {"name": "a", "namespace": "team", "generation": 2},
        "spec": {"updateStrategy": {"type": strategy}},
        "status": {
            "observedGeneration": observed, "desiredNumberScheduled": 3,
            "updatedNumberScheduled": updated, "numberAvailable": available,
        },
    }  # fmt: skip


def partitioned(partition):
    """An update strategy that holds back the pods below a number."""
    return {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}


@pytest.mark.parametrize(
    ("workload", "state"),
    [
        (deployment(), "Done"),
        (deployment(observed=1), "Progressing"),
        (deployment(updated=1), "Progressing"),
        (deployment(available=1), "Progressing"),
        (deployment(available=1, reason="ProgressDeadlineExceeded"), "Failed"),
        (deployment(observed=1, reason="ProgressDeadlineExceeded"), "Progressing"),
        (deployment(available=0, paused=True), "NotRolling"),
        (deployment(updated=0, available=0, replicas=0) | {"status": {"observedGeneration": 2}}, "Done"),
        (deployment() | {"status": {}}, "Progressing"),
        (stateful_set(), "Done"),
        (stateful_set(updated=1, current="r1"), "Progressing"),
        (stateful_set(available=1), "Progressing"),
        (stateful_set(current="r1", strategy={"type": "OnDelete"}), "NotRolling"),
        (stateful_set(updated=1, current="r1", strategy=partitioned(1)), "Done"),
        (stateful_set(updated=0, current="r1", strategy=partitioned(1)), "Progressing"),
        (stateful_set(updated=0, current="r1", strategy=partitioned(2)), "NotRolling"),
        (daemon_set(), "Done"),
        (daemon_set(updated=2), "Progressing"),
        (daemon_set(available=2), "Progressing"),
        (daemon_set(observed=1), "Progressing"),
        (daemon_set(updated=0, strategy="OnDelete"), "NotRolling"),
        ({"kind": "CronJob", "spec": {}}, "NotRolling"),
    ],
)
def test_what_a_status_says(workload, state):
    """As ``kubectl rollout status`` judges; what does not roll by itself is not waited for."""
    assert rollout_state(workload).value == state
    assert rollout_done(workload) is (state in ("Done", "NotRolling"))


class RolloutApi(FakeApi):
    """Lists by pages, as recovery does."""

    def list_page(self, resource, namespace=None, *, continue_token="", **_):
        """One object a page."""
        items = self.list(resource, namespace).items
        index = int(continue_token or 0)
        return ObjectList(items[index : index + 1], "1", str(index + 1) if index + 1 < len(items) else "")


class World:
    """A cluster, its clocks, and the gate of the controller that works now."""

    def __init__(self, *workloads, timeout_seconds=600.0):
        self.api = RolloutApi(*((DEPLOYMENTS, workload) for workload in workloads))
        self.now = 1000.0
        self.metrics = ControllerMetrics()
        self.options = ControllerOptions(rollout_timeout_seconds=timeout_seconds)
        self.restart()

    def restart(self):
        """A new process: other monotonic clock, no memory."""
        skew = self.now
        self.gate = RolloutGate(
            types.SimpleNamespace(
                client=self.api,
                metrics=self.metrics,
                options=self.options,
                clock=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now),
                monotonic=lambda: self.now - skew,
            )
        )

    def ask(self, key, *, config=CONFIG, revision="r1", resource=DEPLOYMENTS):
        """Ask for one owner."""
        return self.gate.request(config, resource, key, revision=revision)

    def write(self, key, *, config=CONFIG, revision="r1"):
        """Write the owner that was let go, its mark with it; the roll-out is under way then."""
        workload = self.api.get(DEPLOYMENTS, key.name, key.namespace)
        mark = self.gate.mark(config, workload, revision=revision)
        workload["metadata"].setdefault("annotations", {}).update(mark)
        workload["metadata"]["generation"] += 1
        self.api.put(DEPLOYMENTS, workload)
        self.gate.began(config, DEPLOYMENTS, key, workload)

    def status(self, key, **status):
        """Let the deployment controller speak."""
        workload = self.api.get(DEPLOYMENTS, key.name, key.namespace)
        workload["status"] = deployment(observed=workload["metadata"]["generation"], **status)["status"]
        self.api.put(DEPLOYMENTS, workload)

    def roll(self, key):
        """Bring an owner to where its roll-out is under way."""
        self.ask(key)
        self.now += SETTLE_SECONDS
        assert self.ask(key) == 0.0
        self.write(key)

    def value(self, name):
        """A metric's value."""
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def world():
    """Three Deployments of one config."""
    return World(deployment("a"), deployment("b"), deployment("c"))


def test_the_order_is_by_name_whoever_asks_first(world):
    """All ask within the settling time; the smallest key goes, then the next, one at a time."""
    waits = {key: world.ask(key) for key in (C, A, B)}
    assert min(waits.values()) > 0
    assert world.value("bubu_rollouts_waiting") == 3

    world.now += SETTLE_SECONDS
    assert world.ask(C) > 0
    assert world.ask(B) > 0
    assert world.ask(A) == 0.0
    world.write(A)
    world.now += 5
    assert world.ask(B) == POLL_SECONDS
    assert world.ask(C) == 2 * POLL_SECONDS

    world.status(A)
    world.now += 5
    assert world.ask(C) > 0, "the smaller key is first, although it asks later"
    assert world.ask(B) == 0.0


def test_configs_do_not_wait_for_each_other(world):
    """But two starts are a while apart."""
    world.roll(A)
    world.ask(B, config="StorageConfig/team/other")
    world.now += SETTLE_SECONDS

    assert world.ask(B, config="StorageConfig/team/other") == 0.0


def test_two_starts_are_spaced(world):
    """However many configs change at once."""
    for number in range(3):
        world.ask(A, config=f"StorageConfig/team/{number}")
    world.now += SETTLE_SECONDS

    waits = [world.ask(A, config=f"StorageConfig/team/{number}") for number in range(3)]
    assert waits[0] == 0.0
    assert min(waits[1:]) > 0


def test_a_roll_out_that_takes_too_long_holds_up_nobody(world):
    """It is counted and no longer waited for; Kubernetes gets half a minute to call it failed."""
    world.roll(A)
    world.status(A, available=0)
    world.now += 600
    assert world.ask(B) > 0, "the progress deadline may pass just now"

    world.now += 30
    assert world.ask(B) == 0.0
    assert world.value("bubu_rollout_timeouts_total") == 1


def test_a_failed_roll_out_stops_the_others_of_its_revision(world):
    """Also beyond the timeout; another revision of the config may go, and so may all once it is well."""
    world.roll(A)
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.now += 5
    assert world.ask(B) == HALTED_SECONDS
    assert world.gate.halted_by(CONFIG, "r1") == "Deployment team/a"
    assert world.value("bubu_rollouts_failed_total") == 1
    world.now += 5000
    assert world.ask(B) == HALTED_SECONDS
    assert world.ask(A) == HALTED_SECONDS, "restarting what fails does not mend it"
    assert world.gate.halted_by(CONFIG, "r2") == ""

    world.now += ABSENT_SECONDS + HALTED_SECONDS + 1
    world.ask(B, revision="r2")
    world.now += SETTLE_SECONDS
    assert world.ask(B, revision="r2") == 0.0
    world.gate.withdraw(DEPLOYMENTS, B)

    world.status(A)
    world.now += 5
    world.ask(C)
    world.now += SETTLE_SECONDS
    assert world.ask(C) == 0.0


def test_an_owner_that_was_broken_before_stops_nobody(world):
    """It says nothing of the config that it fails again; nor does it to the next process."""
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.roll(A)
    world.now += 5
    assert world.ask(B) > 0, "it may become well by the change"
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.now += 5
    assert world.gate.halted_by(CONFIG, "r1") == ""
    world.ask(B)
    world.now += SETTLE_SECONDS
    assert world.ask(B) == 0.0
    assert world.value("bubu_rollouts_failed_total") == 0

    world.restart()
    world.ask(C)
    world.now += SETTLE_SECONDS
    assert world.ask(C) == 0.0


def test_what_an_earlier_revision_broke_still_stops_the_next_bad_one(world):
    """The first owner goes on to show what a change does, or each bad one would break another owner."""
    world.roll(A)
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.now += 5
    assert world.ask(A, revision="r2") == 0.0
    world.write(A, revision="r2")
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.now += 5

    assert world.ask(B, revision="r2") == HALTED_SECONDS


def test_the_failed_owner_may_be_mended_by_a_new_revision(world):
    """It waits for nobody, least of all for itself."""
    world.roll(A)
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.now += 5
    assert world.ask(A, revision="r2") == 0.0


def test_a_config_that_changes_all_the_time_does_not_restart_its_owners_for_ever(world):
    """Two tools fight over it, once a minute for a day: a few roll-outs an hour, and nobody else waits."""
    rolled, began = 0, world.now
    for number in range(24 * 60):
        revision = f"r{number % 2}"
        world.ask(A, revision=revision)
        world.now += SETTLE_SECONDS
        if world.ask(A, revision=revision) == 0.0:
            world.write(A, revision=revision)
            world.status(A)
            rolled += 1
            assert world.gate.rests(DEPLOYMENTS, A) is (rolled >= MAX_ROLLOUTS and rolled % MAX_ROLLOUTS == 0)
        world.now += 59

    assert rolled <= MAX_ROLLOUTS * ((world.now - began) // REST_SECONDS + 1)
    assert rolled > MAX_ROLLOUTS, "it goes on after its rest"
    assert world.value("bubu_rollouts_waiting") == 0
    world.ask(B, revision="r0")
    world.now += SETTLE_SECONDS
    assert world.ask(B, revision="r0") == 0.0


def test_a_deleted_owner_holds_up_nobody(world):
    """Whatever its roll-out was like."""
    world.roll(A)
    del world.api.objects["deployments", A]
    world.now += 5
    world.ask(B)
    world.now += SETTLE_SECONDS

    assert world.ask(B) == 0.0


def test_a_grant_that_is_not_used_lapses(world):
    """The thread that had it may have died; who gives it back frees the gate at once."""
    world.ask(A)
    world.now += SETTLE_SECONDS
    assert world.ask(A) == 0.0
    assert world.ask(A) == 0.0, "a write that met a conflict asks again"
    assert world.ask(B) > 0
    world.now += GRANT_SECONDS
    world.ask(B)
    world.now += SETTLE_SECONDS
    assert world.ask(B) == 0.0

    world.gate.withdraw(DEPLOYMENTS, B)
    world.ask(C)
    world.now += SETTLE_SECONDS
    assert world.ask(C) == 0.0


def test_what_is_written_rolls_whoever_withdrew_it(world):
    """Two parts of the controller may ask for one owner; one that changes its mind is not the other."""
    world.ask(A)
    world.now += SETTLE_SECONDS
    assert world.ask(A) == 0.0
    world.gate.withdraw(DEPLOYMENTS, A)
    world.write(A)
    world.status(A, available=0)
    world.now += 5

    assert world.ask(B) > 0
    world.gate.withdraw(DEPLOYMENTS, A)
    world.now += SETTLE_SECONDS
    assert world.ask(B) > 0, "what is under way cannot be withdrawn"


def test_who_does_not_ask_any_more_does_not_wait_any_more(world):
    """The first in line may have been deleted; the second goes after a while."""
    world.ask(A)
    world.ask(B)
    world.now += SETTLE_SECONDS
    assert world.ask(B) > 0
    world.now += ABSENT_SECONDS + 10
    world.ask(B)
    world.now += SETTLE_SECONDS
    assert world.ask(B) == 0.0


def test_a_new_process_finds_what_is_under_way(world):
    """By the marks in the cluster, with the time that has passed already."""
    world.roll(A)
    world.status(A, available=0)
    world.now += 100
    world.restart()
    assert world.ask(B) > 0
    world.now += 531
    world.ask(B)
    world.now += SETTLE_SECONDS

    assert world.ask(B) == 0.0
    assert world.value("bubu_rollout_timeouts_total") == 1


def test_a_new_process_finds_a_failed_roll_out(world):
    """However long ago; but not one of somebody else's later doing."""
    world.roll(A)
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.now += 100_000
    world.restart()
    assert world.ask(B) == HALTED_SECONDS

    workload = world.api.get(DEPLOYMENTS, "a", "team")
    workload["metadata"]["generation"] += 1
    world.api.put(DEPLOYMENTS, workload)
    world.status(A, available=0, reason="ProgressDeadlineExceeded")
    world.restart()
    world.ask(B)
    world.now += SETTLE_SECONDS
    assert world.ask(B) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *("", "no json", "[]", "{}", '{"config":1,"revision":2,"began":3}', "[" * 5000),
        '{"config":"c","revision":"r","began":"2026-01-01T00:00:00Z","generation":Infinity}',
        '{"config":"c","revision":"r","began":"2026-01-01T00:00:00Z","generation":NaN}',
    ],
)
def test_a_mark_that_nobody_of_us_wrote_counts_as_none(world, text):
    """Anybody may write annotations."""
    workload = copy.deepcopy(deployment("a", available=0))
    workload["metadata"]["annotations"] = {ROLLOUT_ANNOTATION: text}
    world.api.put(DEPLOYMENTS, workload)
    world.ask(B)
    world.now += SETTLE_SECONDS

    assert world.ask(B) == 0.0


def test_what_does_not_roll_does_not_wait(world):
    """A CronJob's next runs get the new template; nothing restarts."""
    assert world.ask(A, resource=CRON_JOBS) == 0.0


def test_kinds_are_told_apart(world):
    """A StatefulSet of the same name is another owner."""
    world.roll(A)
    world.status(A, available=0)
    world.now += 5

    assert world.ask(A, resource=STATEFUL_SETS) > 0
    assert world.ask(A, resource=DAEMON_SETS) > 0
    assert rollout_state(deployment()) is RolloutState.DONE
