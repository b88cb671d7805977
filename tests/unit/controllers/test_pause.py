"""The kill switch: what the annotation says, and what counts while it cannot be read."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers import pause
from bubu_operator.controllers.pause import PAUSE_ANNOTATION, PauseState, PauseWatch
from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError, KubeTimeoutError
from bubu_operator.kube.resources import NAMESPACES
from bubu_operator.observability.retention_metrics import RetentionMetrics
from tests.cluster.processes import wait_until
from tests.unit.controllers.fake_api import FakeApi


class World:
    """A watch over a namespace in memory; it is looked at by hand."""

    def __init__(self, **options):
        self.api = FakeApi()
        self.annotate(None)
        self.state = PauseState.unread()
        self.registry = CollectorRegistry()
        self.changes = []
        self.watch = PauseWatch(
            self.api,
            "operator",
            self.state,
            RetentionMetrics(self.registry),
            changed=lambda: self.changes.append(self.state.why),
            **{"always": False, **options},
        )

    def annotate(self, value):
        """Write the annotation; None takes it away."""
        annotations = {} if value is None else {PAUSE_ANNOTATION: value}
        self.api.put(NAMESPACES, {"metadata": {"name": "operator", "annotations": annotations}})

    def fail(self, error):
        """Let every read fail."""

        def refuse(*_args, **_options):
            raise error

        self.api.get = refuse

    def metric(self, name):
        """Return a metric's value."""
        return self.registry.get_sample_value(f"bubu_retention_{name}")


@pytest.fixture
def world():
    """An operator's namespace without the annotation."""
    return World()


def test_before_the_first_look_nothing_may_run(world):
    """A controller that starts while retention is paused must not begin with a pass."""
    assert world.state.why
    assert not world.state.known


@pytest.mark.parametrize("value", ["true", "True", "yes", "", "0", "TRUE "])
def test_any_value_but_false_pauses(world, value):
    """A typing error is on the safe side; the text names the annotation."""
    world.annotate(value)
    world.watch.look()

    assert PAUSE_ANNOTATION in world.state.why
    assert world.metric("paused") == 1


@pytest.mark.parametrize("value", [None, "false"])
def test_no_annotation_or_false_lets_passes_run(world, value):
    """And the change is told once, not at every look."""
    world.annotate(value)
    world.watch.look()
    world.watch.look()

    assert world.state.why == ""
    assert world.changes == [""]


def test_changes_are_told_each_time(world):
    """On, off, on: whoever waits is woken at each."""
    for value in (None, "true", None, "true"):
        world.annotate(value)
        world.watch.look()

    assert [bool(why) for why in world.changes] == [False, True, False, True]


def test_the_option_outranks_the_annotation():
    """--pause-retention holds whatever the namespace says, and asks nobody."""
    world = World(always=True)
    world.annotate("false")
    world.fail(AssertionError("must not be asked"))
    world.watch.look()

    assert "--pause-retention" in world.state.why


@pytest.mark.parametrize("value", [None, "true"])
def test_what_was_read_last_holds(world, value):
    """Losing the API server neither pauses nor releases; a metric tells."""
    world.annotate(value)
    world.watch.look()
    before = world.state.why
    world.fail(KubeTimeoutError("slow"))
    world.watch.look()

    assert world.state.why == before
    assert world.metric("pause_unreadable") == 1


def test_the_switch_outlives_a_look_that_fails_by_a_fault_of_ours(world, monkeypatch, caplog):
    """It is read again, the metric tells meanwhile, and the log says why once."""
    monkeypatch.setattr(pause, "POLL_SECONDS", 0.01)
    looks, get = [], world.api.get

    def fail(*_args, **_options):
        looks.append(1)
        raise AttributeError("planted")

    world.api.get = fail
    world.watch.start()
    try:
        wait_until(lambda: len(looks) > 2, 60, "another look after the one that failed")
        assert world.metric("pause_unreadable") == 1
        world.annotate("true")
        world.api.get = get
        wait_until(lambda: world.changes, 60, "the annotation to be heard of")
    finally:
        world.watch.stop()
        assert world.watch.join(60)

    assert PAUSE_ANNOTATION in world.state.why
    assert world.metric("pause_unreadable") == 0
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("is_known", [False, True])
def test_without_the_right_no_pass_runs(world, is_known, caplog):
    """From the start, or when it is taken away; said once, with the ways out."""
    if is_known:
        world.watch.look()
    world.fail(KubeForbiddenError("namespaces is forbidden", status=403))
    world.watch.look()
    world.watch.look()

    assert world.state.known
    assert world.state.reason is Reason.PAUSE_UNKNOWN
    for part in ("namespaces is forbidden", "resourceName operator", "--no-pause-annotation"):
        assert part in world.state.why
    assert (world.metric("paused"), world.metric("pause_unreadable")) == (1, 1)
    assert len([record for record in caplog.records if "is forbidden" in record.message]) == 1


def test_a_right_that_is_granted_lets_passes_run():
    """Without a restart."""
    world = World()
    readable = world.api.get
    world.fail(KubeForbiddenError("no", status=403))
    world.watch.look()
    world.api.get = readable
    world.watch.look()

    assert (world.state.why, world.state.reason) == ("", Reason.PASSES_PAUSED)
    assert [bool(why) for why in world.changes] == [True, False]
    assert world.metric("pause_unreadable") == 0


@pytest.mark.parametrize("needs_namespace", [False, True])
def test_a_namespace_that_does_not_exist(needs_namespace):
    """A mistake where the Lease is there, too; on a laptop, without election, nobody needs one."""
    world = World(needs_namespace=needs_namespace)
    world.fail(KubeNotFoundError("not found", status=404))
    world.watch.look()

    assert bool(world.state.why) is needs_namespace
    assert ("--operator-namespace" in world.state.why) is needs_namespace
    assert world.metric("pause_unreadable") == 1


def test_a_switch_that_is_not_wanted_is_not_looked_for():
    """--no-pause-annotation: no right is needed; --pause-retention still holds."""
    world = World(wanted=False)
    world.fail(AssertionError("must not be asked"))
    world.watch.look()
    assert (world.state.known, world.state.why) == (True, "")

    world = World(wanted=False, always=True)
    world.watch.look()
    assert "--pause-retention" in world.state.why


def test_an_api_server_that_does_not_answer_at_the_start_lets_nothing_run(world):
    """Not knowing is no permission."""
    world.fail(KubeTimeoutError("slow"))
    world.watch.look()

    assert not world.state.known
    assert world.changes == []
