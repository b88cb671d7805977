"""What /metrics says of each config's store."""

from __future__ import annotations

import shutil

import pytest

from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, STORAGE_CONFIGS, ObjectKey
from bubu_operator.kube.scrub import Redactor
from tests.unit.controllers.fake_api import FakeApi

KEY = ObjectKey("team-a", "main")
LABELS = {"kind": "StorageConfig", "namespace": "team-a", "name": "main"}


class World:
    """One config for a directory."""

    def __init__(self, root):
        self.root = root / "store"
        self.root.mkdir()
        self.api = FakeApi()
        self.put({"file": {"path": str(self.root)}})
        redactor = Redactor()
        self.context = Context(
            client=self.api,
            events=EventRecorder(self.api, redactor, controller="c", instance="i"),
            redactor=redactor,
            options=ControllerOptions(allow_local_roots=(root,)),
        )
        self.look = ConfigReconciler(self.context, STORAGE_CONFIGS)

    def put(self, spec, **more):
        """Write the config anew."""
        metadata = {"name": "main", "namespace": "team-a", "generation": 1, "uid": "main", **more}
        self.api.put(STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})

    def value(self, name, labels=LABELS):
        """Return a sample, None if there is none."""
        return self.context.metrics.registry.get_sample_value(f"bubu_store_{name}", labels)


@pytest.fixture
def world(tmp_path):
    """See there."""
    return World(tmp_path)


def test_a_store_that_works_and_then_does_not(world):
    """1, then 0; each look is counted by its reason."""
    world.look(KEY)
    assert (world.value("ready"), world.value("looks_total", {"reason": "ProbeSucceeded"})) == (1, 1)
    assert world.value("probe_duration_seconds") > 0

    shutil.rmtree(world.root)
    world.root.write_text("in the way")
    world.look(KEY)

    assert (world.value("ready"), world.value("looks_total", {"reason": "PathNotWritable"})) == (0, 1)


def test_what_nobody_can_tell_is_neither_0_nor_1(world):
    """A claim that the controller does not mount says nothing about the store that was there before."""
    world.look(KEY)

    world.put({"file": {"volumeClaimName": "shared"}}, generation=2)
    world.look(KEY)

    assert world.value("ready") is None
    assert world.value("looks_total", {"reason": "NotProbed"}) == 1


def test_an_invalid_config_is_not_ready(world):
    """As its condition says."""
    world.put({"file": {}})

    world.look(KEY)

    assert world.value("ready") == 0


@pytest.mark.parametrize("how", ["gone", "being deleted"])
def test_nothing_is_left_of_a_config_that_goes(world, how):
    """Also where somebody's finalizer keeps it."""
    world.look(KEY)

    if how == "gone":
        world.api.objects.clear()
    else:
        world.put({"file": {"path": str(world.root)}}, deletionTimestamp="2026-01-01T00:00:00Z")
    world.look(KEY)

    assert (world.value("ready"), world.value("probe_duration_seconds")) == (None, None)


def test_a_config_of_all_namespaces_has_an_empty_one(world):
    """So that it is no tenant's."""
    spec = {"file": {"path": str(world.root)}}
    metadata = {"name": "all", "generation": 1, "uid": "all"}
    world.api.put(CLUSTER_STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})

    ConfigReconciler(world.context, CLUSTER_STORAGE_CONFIGS)(ObjectKey("", "all"))

    labels = {"kind": "ClusterStorageConfig", "namespace": "", "name": "all"}
    assert world.value("ready", labels) == 1
