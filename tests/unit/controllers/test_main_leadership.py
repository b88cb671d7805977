"""The controller's part in the election: standing by, leading, losing, giving back; and the fence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bubu_operator.controllers.context import ControllerOptions
from bubu_operator.controllers.leadership import LeaseLeadership, NoElection, fenced, make_identity
from bubu_operator.errors import KubeForbiddenError, KubeTimeoutError, LeadershipLostError
from bubu_operator.kube.lease_fence import LeadershipFence
from bubu_operator.kube.resources import ObjectKey
from bubu_operator.observability.controller_metrics import ControllerMetrics
from tests.cluster.processes import wait_until
from tests.unit.kube.test_lease import Server

KEY = ObjectKey("team-a", "main")


class Api(Server):
    """The Lease's server; watching is not allowed."""

    def watch(self, *_, **__):
        """Refuse."""
        raise KubeForbiddenError("no watching", status=403)


@pytest.fixture
def api():
    """A server without a Lease."""
    return Api()


@pytest.fixture
def metrics():
    """Of one process."""
    return ControllerMetrics()


@pytest.fixture
def leadership(api, metrics):
    """A candidate; ended afterwards."""
    made = LeaseLeadership(ControllerOptions(), api, LeadershipFence(), metrics)
    yield made
    made.abandon()


def leader_metric(metrics):
    """What /metrics says."""
    return metrics.registry.get_sample_value("bubu_controller_leader")


def test_identities_are_unique_and_say_where():
    """Two of one process differ, too; the pid is for people who look for it."""
    one, two = make_identity(), make_identity()

    assert one != two
    assert f"_{os.getpid()}_" in one


def test_it_leads_and_gives_back(api, metrics, leadership):
    """The metric follows; afterwards nobody holds the Lease, and the process may not act."""
    assert leader_metric(metrics) == 0.0
    assert leadership.unready

    assert leadership.wait(threading.Event())
    assert leader_metric(metrics) == 1.0
    assert (leadership.lost, leadership.unready, leadership.unhealthy) == ("", "", "")

    leadership.release()
    assert leader_metric(metrics) == 0.0
    assert api.lease["spec"]["holderIdentity"] == ""
    assert leadership.unhealthy == ""


def test_one_that_waits_hears_a_signal_at_once(api, metrics, leadership):
    """It ends without having led, and leaves the other one's Lease alone."""
    other = LeaseLeadership(ControllerOptions(), api, LeadershipFence(), ControllerMetrics())
    assert other.wait(threading.Event())
    holder = api.lease["spec"]["holderIdentity"]
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    began = time.monotonic()

    assert not leadership.wait(stopping)

    assert time.monotonic() - began < 60
    assert leadership.lost == ""
    leadership.release()
    assert api.lease["spec"]["holderIdentity"] == holder
    other.release()


def test_a_lease_that_comes_with_the_signal_is_given_back(api, leadership):
    """Told to stop while its own take-over is under way, it leaves no Lease of a dead process behind."""
    under_way = threading.Event()
    create = api.create

    def slowly(*args, **options):
        under_way.set()
        answered.wait(60)
        return create(*args, **options)

    answered = threading.Event()
    api.create = slowly
    stopping = threading.Event()
    waiting = threading.Thread(target=leadership.wait, args=(stopping,))
    waiting.start()
    assert under_way.wait(60)
    stopping.set()
    waiting.join(60)
    threading.Timer(0.1, answered.set).start()

    leadership.release()

    assert api.lease["spec"]["holderIdentity"] == ""


def test_a_closed_fence_is_a_loss_whoever_notices_first(api, metrics):
    """The main thread need not wait for the election's: the clock is enough; until then it is unhealthy."""
    fence = LeadershipFence()
    leadership = LeaseLeadership(ControllerOptions(), api, fence, metrics)
    assert leadership.wait(threading.Event())
    fence.revoke()

    assert "has not noticed" in leadership.unhealthy
    assert "was not renewed for 7 s" in leadership.lost
    assert leader_metric(metrics) == 0.0
    leadership.abandon()
    assert leadership.unhealthy == ""
    assert api.lease["spec"]["holderIdentity"] != ""


def test_why_it_does_not_stand_by_is_told(api, leadership):
    """For /readyz."""
    api.fail_with = KubeTimeoutError("silence")
    stopping = threading.Event()

    def stop_when_told():
        try:
            wait_until(lambda: "silence" in leadership.unready, 15, "the reason")
        finally:
            stopping.set()

    stopper = threading.Thread(target=stop_when_told)
    stopper.start()

    assert not leadership.wait(stopping)
    stopper.join()
    assert "silence" in leadership.unready


def test_without_an_election_it_leads_from_the_start(metrics):
    """And a signal that came before is heard."""
    alone = NoElection(metrics)
    assert alone.wait(threading.Event())
    assert leader_metric(metrics) == 1.0
    assert (alone.lost, alone.unready, alone.unhealthy, alone.leads) == ("", "", "", True)

    stopped = threading.Event()
    stopped.set()
    assert not alone.wait(stopped)
    alone.release()
    assert leader_metric(metrics) == 0.0


def test_nothing_is_looked_at_behind_a_closed_fence():
    """A probe writes into a store: it is not begun by one that does not lead."""
    fence, looked_at = LeadershipFence(), []

    def look(key):
        looked_at.append(key)
        return 5.0

    reconcile = fenced(fence, look)
    with pytest.raises(LeadershipLostError, match="look at team-a/main"):
        reconcile(KEY)
    fence.extend(float("inf"))

    assert reconcile(KEY) == 5.0
    assert looked_at == [KEY]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_command_is_loaded_ends_it_with_zero(number):
    """The handler is there before the first heavy import; nothing has begun, so nothing is told."""
    code = (
        "import sys\n"
        "from bubu_operator import cli\n"
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'bubu_operator.controllers.main':\n"
        "            print('loading', flush=True)\n"
        "            import time; time.sleep(300)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "cli.cli(['controller'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        _, complaint = process.communicate(timeout=60)

    assert (process.returncode, complaint) == (0, "")


def test_a_signal_at_any_moment_is_heard():
    """The main thread waits for the event that the handler sets, and may hold its lock just then."""
    code = (
        "import os, signal, threading\n"
        "from bubu_operator.stop_signals import StopSignals\n"
        "stopping = threading.Event()\n"
        "signal.signal(signal.SIGTERM, StopSignals(stopping))\n"
        "with stopping._cond:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert stopping.wait(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_second_signal_ends_the_process_at_once():
    """Whatever the first one waits for."""
    code = (
        "import os, signal, threading\n"
        "from bubu_operator.stop_signals import StopSignals\n"
        "signal.signal(signal.SIGTERM, StopSignals(threading.Event()))\n"
        "for _ in range(2):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, b"")
