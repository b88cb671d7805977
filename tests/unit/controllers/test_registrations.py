"""A cluster is known in every store that its controller probes, with or without policies."""

from __future__ import annotations

import pytest

from bubu_operator.controllers import registrations
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.registrations import RETRY_SECONDS
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, NAMESPACES, STORAGE_CONFIGS, ObjectKey
from bubu_operator.kube.scrub import Redactor
from bubu_operator.retention.store_use import StoreWishes, use_store
from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import StorageError
from bubu_storage.retention.claim import ClaimSettings
from bubu_storage.retention.registration import REFRESH_SECONDS, list_registrations
from tests.unit.controllers.fake_api import FakeApi

KEY = ObjectKey("team-a", "main")


class World:
    """A cluster with configs for one directory, and no policy at all."""

    def __init__(self, root, uid="cluster-b"):
        self.root = root
        self.now = 1000.0
        self.api = FakeApi()
        if uid:
            self.identify(uid)
        spec = {"file": {"path": str(root)}}
        for name in ("main", "second"):
            metadata = {"name": name, "namespace": "team-a", "generation": 1, "uid": name}
            self.api.put(STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})
        metadata = {"name": "all", "generation": 1, "uid": "all"}
        self.api.put(CLUSTER_STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})
        redactor = Redactor()
        self.context = Context(
            client=self.api,
            events=EventRecorder(self.api, redactor, controller="c", instance="i"),
            redactor=redactor,
            options=ControllerOptions(allow_local_roots=(root,)),
            monotonic=lambda: self.now,
        )
        self.look = ConfigReconciler(self.context, STORAGE_CONFIGS)

    def identify(self, uid):
        """Give the cluster its uid."""
        self.api.put(NAMESPACES, {"metadata": {"name": "kube-system", "uid": uid}})

    def registered(self):
        """Return who is registered in the store."""
        return [one.cluster for one in list_registrations(FileBackend(self.root))[0]]

    def ready(self, name="main"):
        """Return a config's Ready condition's status."""
        status = self.api.get(STORAGE_CONFIGS, name, "team-a")["status"]
        return find_condition(status["conditions"], "Ready")["status"]


@pytest.fixture
def world(tmp_path):
    """See there."""
    return World(tmp_path)


def enforcing_pass_of_another_cluster(root):
    """Return what a pass of cluster A that deletes finds out on the store."""
    wishes = StoreWishes(dry_run=False, claim=ClaimSettings("a/p/1", "cluster-a"), cluster_uid="cluster-a")
    with use_store(FileBackend(root), wishes, sleep=lambda _seconds: None) as use:
        return use.facts


def test_a_cluster_without_policies_turns_the_orphan_rules_of_another_off(world):
    """Its live runs have no owner over there; a config that is probed is enough."""
    assert not enforcing_pass_of_another_cluster(world.root).is_shared

    world.look(KEY)

    facts = enforcing_pass_of_another_cluster(world.root)
    assert facts.is_shared
    assert [one.cluster for one in facts.shared_with] == ["cluster-b"]


def test_a_config_of_all_namespaces_does_the_same(world):
    """One reconciler serves both kinds."""
    ConfigReconciler(world.context, CLUSTER_STORAGE_CONFIGS)(ObjectKey("", "all"))

    assert world.registered() == ["cluster-b"]


def test_a_store_is_asked_once_an_hour(world, monkeypatch):
    """Whichever of its configs is probed; then again."""
    asked = []
    real = registrations.register

    def counting(*args, **options):
        asked.append(args)
        return real(*args, **options)

    monkeypatch.setattr(registrations, "register", counting)
    for name in ("main", "second", "main"):
        world.look(ObjectKey("team-a", name))
        world.now += 60
    assert len(asked) == 1

    world.now += REFRESH_SECONDS
    world.look(KEY)
    assert len(asked) == 2


def test_a_store_that_refuses_is_said_in_the_log_only(world, monkeypatch, caplog):
    """The config is ready; the same words come once; another config with more rights does it instead."""
    real = registrations.register
    asked = []

    def refuse(*args, **_options):
        asked.append(args)
        raise StorageError("may not write there")

    monkeypatch.setattr(registrations, "register", refuse)
    for _ in range(3):
        world.look(KEY)
        world.now += RETRY_SECONDS / 2
    told = [record.message for record in caplog.records if "may not write there" in record.message]

    assert world.ready() == "True"
    assert (len(asked), len(told)) == (2, 1)
    assert "StorageConfig team-a/main" in told[0]
    monkeypatch.setattr(registrations, "register", real)
    world.look(ObjectKey("team-a", "second"))
    assert world.registered() == ["cluster-b"]


def test_a_cluster_that_cannot_be_told_is_not_guessed(tmp_path, caplog):
    """Nothing is written until it is known."""
    world = World(tmp_path, uid="")
    for _ in range(2):
        world.look(KEY)
        world.now += RETRY_SECONDS
    assert world.registered() == []
    assert world.ready() == "True"
    assert len([record for record in caplog.records if "cannot be told" in record.message]) == 1

    world.identify("cluster-b")
    world.look(KEY)
    assert world.registered() == ["cluster-b"]


def test_a_store_that_does_not_work_is_left_alone(world, monkeypatch):
    """No probe, no registration."""
    asked = []
    monkeypatch.setattr(registrations, "register", lambda *args, **_: asked.append(args))
    monkeypatch.setattr(
        "bubu_operator.controllers.storageconfig.probe_backend",
        lambda _backend: (_ for _ in ()).throw(StorageError("broken")),
    )
    world.look(KEY)

    assert (asked, world.ready()) == ([], "False")
