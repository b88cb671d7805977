"""What a config's status says after somebody has changed something, and asked for a look."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import STORAGE_CONFIGS, ObjectKey
from bubu_operator.kube.scrub import Redactor
from bubu_operator.retention.annotations import RUN_NOW_ANNOTATION
from tests.unit.controllers.fake_api import FakeApi

KEY = ObjectKey("team-a", "main")


class World:
    """One config for a directory, and a clock that stands still."""

    def __init__(self, root):
        self.root = root / "store"
        self.root.mkdir()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.api = FakeApi()
        metadata = {"name": "main", "namespace": "team-a", "generation": 1, "uid": "main"}
        spec = {"file": {"path": str(self.root)}}
        self.api.put(STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})
        redactor = Redactor()
        context = Context(
            client=self.api,
            events=EventRecorder(self.api, redactor, controller="c", instance="i"),
            redactor=redactor,
            options=ControllerOptions(allow_local_roots=(root,)),
            clock=lambda: self.now,
        )
        self.woken: list[tuple[str, ObjectKey]] = []
        self.look = ConfigReconciler(
            context,
            STORAGE_CONFIGS,
            on_ready_change=lambda key: self.woken.append(("ready", key)),
            on_new_reason=lambda key: self.woken.append(("reason", key)),
        )

    def get(self):
        """Return the config as it is now."""
        return self.api.get(STORAGE_CONFIGS, "main", "team-a")

    def ask(self, value):
        """Set the annotation that asks for a look."""
        obj = self.get()
        obj["metadata"]["annotations"] = {RUN_NOW_ANNOTATION: value}
        self.api.put(STORAGE_CONFIGS, obj)


@pytest.fixture
def world(tmp_path):
    """See there."""
    return World(tmp_path)


def test_who_asks_sees_the_time_of_the_look(world):
    """Else nothing would tell that it came; a look that nobody asked for writes its time more rarely."""
    world.look(KEY)
    first = world.get()["status"]["lastProbeTime"]
    world.now += timedelta(seconds=5)
    world.look(KEY)
    assert world.get()["status"]["lastProbeTime"] == first

    world.ask("1")
    world.look(KEY)
    asked = world.get()["status"]["lastProbeTime"]
    assert asked != first

    world.now += timedelta(seconds=5)
    world.look(KEY)
    assert world.get()["status"]["lastProbeTime"] == asked


def test_policies_hear_of_another_reason(world):
    """They quote the config's message, whose way out may be one that was gone already."""
    shutil.rmtree(world.root)
    world.root.write_text("in the way")
    world.look(KEY)
    before = find_condition(world.get()["status"]["conditions"], "Ready")
    obj = world.get()
    obj["spec"] = {"file": {"path": "/elsewhere"}}
    obj["metadata"]["generation"] = 2
    world.api.put(STORAGE_CONFIGS, obj)

    world.look(KEY)

    after = find_condition(world.get()["status"]["conditions"], "Ready")
    assert (before["status"], before["reason"]) == ("False", "PathNotWritable")
    assert (after["status"], after["reason"]) == ("False", "PathNotAllowed")
    assert world.woken == [("ready", KEY), ("reason", KEY)]
