"""Leadership on a real API server: one controller acts, another one takes over, and never both."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bubu_operator.defaults import LEASE_NAME
from tests.cluster.arena import Arena
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import (
    ControllerProcess,
    alive,
    allow_election,
    only_child,
    until,
)
from tests.cluster.processes import Stopwatch
from tests.cluster.recording_proxy import RecordingProxy

pytestmark = pytest.mark.cluster

LOST_LEADERSHIP = 3


@pytest.fixture
def arena(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[Arena]:
    """Everything of one election; every candidate is ended."""
    operator_namespace = installed.create_namespace(f"op-{secrets.token_hex(4)}")
    allow_election(installed, operator_namespace)
    with Arena(installed, namespace, operator_namespace, tmp_path) as made:
        yield made
    installed.kubectl("delete", "namespace", operator_namespace, "--wait=false")


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


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

    watch = Stopwatch()
    assert leader.stop() == 0
    until(lambda: standby.leads, "the take-over", 10)
    acquired = watch.seconds
    arena.config()
    until(arena.probed, "a probe by the new leader", 10)

    print(f"hand-over: leads after {acquired:.2f} s, first action after {watch.seconds:.2f} s")
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
        until(lambda: arena.left() < 12_000, "the first deletion, after a rehearsal", 60)
        pass_process = only_child(old.pid)
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
        until(new_changes.changes, "a write of the new leader")
        os.kill(old.pid, signal.SIGCONT)
        code = old.wait_exit(10)
        until(lambda: arena.left() < left_by_the_old_one, "the new leader to go on with the pass", 40)

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
        assert "not sent, because this process does not lead" in old.log


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
            until(lambda: new.leads, "the take-over", 15)

    print(f"cut off: ended after {ended_after:.2f} s")
    assert code == LOST_LEADERSHIP
    # By their own clocks, which are one: a look at the other from here might come late.
    (gave_up,) = (line["time"] for line in old.messages if "was not renewed for 7 s" in line["message"])
    (took_over,) = (line["time"] for line in new.messages if "acquired the Lease" in line["message"])
    assert gave_up < took_over


def test_a_short_silence_of_the_api_server_changes_nothing(arena: Arena) -> None:
    """Four and a half seconds without an answer: the same one leads afterwards, and goes on working."""
    with RecordingProxy(arena.cluster) as way:
        leader = arena.candidate()
        way.lead_through(leader.kubeconfig)
        leader.start()
        until(lambda: leader.leads, "the leadership")
        # A holder gives up seven seconds after its last renewal: the silence begins with one.
        renewals = len(way.changes(leases=True))
        until(lambda: len(way.changes(leases=True)) > renewals, "a renewal")
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
        watch = Stopwatch()
        arena.config(f"store-{number}")
        until(lambda name=f"store-{number}": arena.probed(name), "a probe by the new leader", 20)
        seconds = watch.seconds

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
    for delay_seconds in (0.0, 0.25, 0.5, 1.0):
        candidate = arena.candidate()
        candidate.launch()
        # Until the interpreter itself has come up, nobody can listen.
        until(lambda pid=candidate.pid: catches(pid, signal.SIGTERM), "somebody to listen")
        began = time.monotonic()
        until(lambda at=began + delay_seconds: time.monotonic() >= at, "the moment")
        watch = Stopwatch()
        assert candidate.stop(5.0) == 0
        assert watch.seconds < 3.0
        assert "Traceback" not in candidate.log


def test_a_lease_that_is_deleted_or_taken_ends_the_leader(arena: Arena) -> None:
    """Whoever deletes the Lease restarts the election; nobody takes over while the old one may still act."""
    leader = arena.leader()
    standby = arena.standby()
    arena.cluster.kubectl("delete", "lease", LEASE_NAME, "-n", arena.operator_namespace)
    deleted_at = time.monotonic()

    assert leader.wait_exit(10) == LOST_LEADERSHIP
    ended_after = time.monotonic() - deleted_at
    until(lambda: standby.leads, "the take-over", 15)
    # By their own clocks: a look at the other from here might come late.
    (took_over,) = (line["time"] for line in standby.messages if "acquired the Lease" in line["message"])
    assert leader.messages[-1]["time"] < took_over
    print(
        f"Lease deleted: old one ended after {ended_after:.2f} s, new one after "
        f"{time.monotonic() - deleted_at:.2f} s"
    )


def test_a_long_silence_ends_the_leader_and_the_one_that_waits_goes_on_waiting(arena: Arena) -> None:
    """Nobody leads while the API server is silent for all; afterwards the one that stood by does."""
    with RecordingProxy(arena.cluster) as way:
        first, second = arena.candidate(), arena.candidate()
        for candidate in (first, second):
            way.lead_through(candidate.kubeconfig)
        first.start()
        until(lambda: first.leads, "the leadership")
        second.start()
        until(lambda: "standing by" in second.log, "standing by")
        with way.held():
            assert first.wait_exit(15) == LOST_LEADERSHIP
            until(lambda: second.health("/readyz")[0] == 503, "what the one that waits says", 20)
            assert not second.leads
            assert second.health("/healthz")[0] == 200
        arena.config()
        until(lambda: second.leads, "the take-over", 20)
        until(arena.probed, "a probe")

        assert arena.lease()["leaseTransitions"] == 1


def test_several_that_start_together_agree(arena: Arena) -> None:
    """Three that find no Lease at the same moment: one leads, two stand by, none fails."""
    candidates = [arena.candidate() for _ in range(3)]
    for candidate in candidates:
        candidate.launch()
    for candidate in candidates:
        candidate.wait_ready(60)

    until(lambda: sum(candidate.leads for candidate in candidates) == 1, "one leader")
    until(lambda: sum("standing by" in candidate.log for candidate in candidates) == 2, "two that wait")
    assert arena.lease()["leaseTransitions"] == 0
    assert not [line for one in candidates for line in one.messages if line["level"] in {"error", "critical"}]
