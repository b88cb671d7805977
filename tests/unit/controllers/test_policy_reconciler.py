"""One look at a policy: which store, whether now, within which bounds; passes themselves are faked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.neighbours import LIST_SECONDS
from bubu_operator.controllers.pass_access import NotYet
from bubu_operator.controllers.pause import PauseState
from bubu_operator.controllers.policy_owners import PolicyOwners
from bubu_operator.controllers.retentionpolicy import PolicyReconciler
from bubu_operator.controllers.scheduler import StoreSlots
from bubu_operator.controllers.store_access import Refusal
from bubu_operator.errors import KubeForbiddenError, KubeUnreachableError
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    ObjectKey,
)
from bubu_operator.kube.scrub import Redactor
from bubu_operator.owners.census import NO_CENSUS
from bubu_operator.retention.overlap import FOR_EVER_SECONDS
from tests.unit.controllers.fake_api import FakeApi

KEY = ObjectKey("team-b", "tidy")
READY = {
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "ProbeSucceeded",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
}


def config(namespace, path, **spec):
    """A StorageConfig that is ready."""
    return {
        "metadata": {"name": "main", "namespace": namespace, "generation": 1, "uid": f"c-{namespace}"},
        "spec": {"file": {"path": str(path)}, **spec},
        "status": READY,
    }


def policy(name="tidy", within="1d", **fields):
    """A policy of team-b on its config."""
    return {
        "metadata": {"name": name, "namespace": "team-b", "generation": 1, "uid": f"p-{name}"},
        "spec": {
            "storageRef": {"name": "main"},
            "mode": "Enforce",
            "rules": [{"prefix": "outputs/", "keep": {"within": within}}],
        },
        **fields,
    }


class Runner:
    """Remembers the passes that it is asked for; `ours` is its answer."""

    def __init__(self):
        self.jobs = []
        self.ours = True

    def run(self, job):
        """Take a job."""
        self.jobs.append(job)
        return self.ours

    def forget(self, key):
        """Forget a policy."""


def nobody(_client, _policy):
    """Open the owners of a cluster in which nobody owns runs."""
    return PolicyOwners(None, NO_CENSUS)


class World:
    """A reconciler over an API in memory."""

    def __init__(self, tmp_path):
        self.api = FakeApi(
            (STORAGE_CONFIGS, config("team-b", tmp_path)),
            (RETENTION_POLICIES, policy()),
            (NAMESPACES, {"metadata": {"name": "team-b"}}),
        )
        self.runner = Runner()
        self.path = tmp_path
        self.now = 1000.0
        redactor = Redactor()
        events = EventRecorder(self.api, redactor, controller="c", instance="i")
        self.context = Context(
            client=self.api,
            events=events,
            redactor=redactor,
            options=ControllerOptions(allow_local_roots=(tmp_path,), namespaces=("team-b",)),
            monotonic=lambda: self.now,
        )
        self.look = PolicyReconciler(
            self.context, StoreSlots(4), self.runner, wake=lambda _key: None, open_owners=nobody
        )

    def ready(self):
        """The policy's Ready condition."""
        return find_condition(
            self.api.get(RETENTION_POLICIES, "tidy", "team-b")["status"]["conditions"], "Ready"
        )

    def keeps(self):
        """What the last pass keeps: prefix and seconds."""
        return {(rule.prefix, rule.keep_within_seconds) for rule in self.runner.jobs[-1].plan.spec.rules}


@pytest.fixture
def world(tmp_path):
    """A policy that is due, and nobody else."""
    return World(tmp_path)


def test_a_policy_that_is_due_runs(world):
    """Nothing in the way: one pass with the policy's own rule."""
    assert world.look(KEY) == 0.0
    assert world.keeps() == {("outputs/team-b/", 86400.0)}
    assert world.ready()["status"] == "True"
    assert world.runner.jobs[0].scope == "team-b"


@pytest.mark.parametrize(
    "status",
    [
        {"lastPass": "yesterday", "totals": [1], "cursor": 5, "conditions": "fine"},
        {"lastPass": {"startTime": "when I woke up", "finishTime": 7}, "conditions": [{"type": 1}, "x"]},
        {"totals": {"passes": -5}, "observedGeneration": "many"},
    ],
)
def test_a_status_that_was_edited_into_garbage(world, status):
    """It counts as empty: the spec is followed, and what is written is a status again."""
    world.api.put(RETENTION_POLICIES, policy(status=status))

    assert world.look(KEY) == 0.0
    assert len(world.runner.jobs) == 1


def test_a_config_whose_status_is_garbage_is_waited_for(world):
    """The config's own look repairs it; until then the policy says so and does not fail."""
    broken = {**config("team-b", world.path), "status": {"conditions": "fine"}}
    world.api.put(STORAGE_CONFIGS, broken)

    assert world.look(KEY) == 60.0
    assert world.runner.jobs == []
    assert world.ready()["reason"] == "StorageNotReady"


def test_a_prefix_that_reaches_into_another_namespace(world):
    """The pass is refused, and stays refused, without a word in the status changing."""
    reaching = config("team-b", world.path, outputPrefix="outputs/team-a")
    world.api.put(STORAGE_CONFIGS, reaching)
    world.api.put(STORAGE_CONFIGS, config("team-a", world.path))
    world.api.put(
        RETENTION_POLICIES,
        policy(spec=policy()["spec"] | {"rules": [{"prefix": "outputs/team-a/", "keep": {"within": "1d"}}]}),
    )

    assert world.look(KEY) == 60.0
    first = world.api.get(RETENTION_POLICIES, "tidy", "team-b")
    assert world.look(KEY) == 60.0

    assert world.runner.jobs == []
    assert world.ready()["reason"] == "PrefixOverlaps"
    assert "namespace team-a" in world.ready()["message"]
    assert "team-a/main" not in world.ready()["message"]
    assert world.api.get(RETENTION_POLICIES, "tidy", "team-b") == first


def test_what_another_config_has_inside_our_part_is_kept(world):
    """The foreign run directory is kept for ever."""
    world.api.put(STORAGE_CONFIGS, config("team-a", world.path, outputPrefix="outputs/team-b"))

    world.look(KEY)

    assert ("outputs/team-b/team-a/", FOR_EVER_SECONDS) in world.keeps()


@pytest.mark.parametrize("storage_ref", [{"name": "main"}, None])
def test_what_a_suspended_policy_keeps_is_kept(world, storage_ref):
    """Whether it names its config or leaves that to the selection."""
    other = policy("archive", "365d")
    other["spec"] |= {"suspend": True}
    if storage_ref is None:
        del other["spec"]["storageRef"]
    world.api.put(RETENTION_POLICIES, other)

    world.look(KEY)

    assert ("outputs/team-b/", 365 * 86400.0) in world.keeps()


def test_an_invalid_neighbour_stops_passes(world):
    """What cannot be read may keep anything: the message names it."""
    other = policy("archive")
    other["spec"]["rules"] = []
    world.api.put(RETENTION_POLICIES, other)

    assert world.look(KEY) == 60.0
    assert world.runner.jobs == []
    assert "archive" in world.ready()["message"]


def test_configs_are_listed_once_in_a_while_and_policies_for_every_pass(world):
    """Fifty policies at one second each must not list the cluster fifty times a second."""
    for _ in range(5):
        world.look(KEY)
    lists = world.api.lists
    assert lists.count(("storageconfigs", None)) == 1
    assert lists.count(("retentionpolicies", "team-b")) == 5

    world.now += LIST_SECONDS
    world.look(KEY)

    assert lists.count(("storageconfigs", None)) == 2


def test_a_controller_that_sees_its_own_namespaces_only(world):
    """Without the right to list all configs those of the watched namespaces are listed."""
    listing = world.api.list

    def restricted(resource, namespace=None, **options):
        if resource is STORAGE_CONFIGS and namespace is None:
            raise KubeForbiddenError("no", status=403)
        return listing(resource, namespace, **options)

    world.api.list = restricted

    assert world.look(KEY) == 0.0
    assert len(world.runner.jobs) == 1


def test_a_policy_of_another_controller_is_left_alone_for_a_while(world):
    """Longer than a pass takes: two controllers must not cut each other short for ever."""
    world.runner.ours = False

    assert world.look(KEY) >= 60


def test_a_config_that_was_just_deleted(world):
    """Between finding it and judging its neighbours: a reason, no crash."""
    listing = world.api.list
    world.api.list = lambda resource, *args, **_options: (
        listing(CLUSTER_STORAGE_CONFIGS) if resource is STORAGE_CONFIGS else listing(resource, *args)
    )

    assert world.look(KEY) == 60.0
    assert world.ready()["reason"] == "StorageConfigNotFound"


def test_what_may_not_be_read_is_said(world):
    """A right that is missing is in the condition, not only in the log."""
    listing = world.api.list

    def restricted(resource, namespace=None, **options):
        if resource is RETENTION_POLICIES:
            raise KubeForbiddenError("cannot list retentionpolicies", status=403)
        return listing(resource, namespace, **options)

    world.api.list = restricted

    assert world.look(KEY) == 60.0
    assert world.ready()["reason"] == "ReconcileFailed"
    assert "cannot list" in world.ready()["message"]


@pytest.mark.parametrize("namespaces", [(), ("team-b",)])
def test_cluster_configs_that_may_not_be_read(world, namespaces):
    """A controller for some namespaces works without; one for all must not guess."""
    listing = world.api.list

    def restricted(resource, namespace=None, **options):
        if resource is CLUSTER_STORAGE_CONFIGS:
            raise KubeForbiddenError("cannot list clusterstorageconfigs", status=403)
        return listing(resource, namespace, **options)

    world.api.list = restricted
    options = ControllerOptions(allow_local_roots=(world.path,), namespaces=namespaces)
    context = replace(world.context, options=options)
    look = PolicyReconciler(context, StoreSlots(4), world.runner, wake=lambda _key: None, open_owners=nobody)

    other = policy("archive", "365d")
    del other["spec"]["storageRef"]
    world.api.put(RETENTION_POLICIES, other)

    look(KEY)

    assert len(world.runner.jobs) == len(namespaces)
    if namespaces:
        assert ("outputs/team-b/", 365 * 86400.0) in world.keeps(), "what may be about this store counts"


def test_a_suspended_policy_starts_no_pass(world):
    """Whatever else is true of it."""
    suspended = policy()
    suspended["spec"]["suspend"] = True
    world.api.put(RETENTION_POLICIES, suspended)

    assert world.look(KEY) is None
    assert world.runner.jobs == []
    assert world.ready()["reason"] == "Suspended"


@pytest.mark.parametrize(
    ("ready", "generation"), [({"status": "False", "reason": "Timeout"}, 1), ({}, 2), (None, 1)]
)
def test_a_store_that_is_not_known_to_work(world, ready, generation):
    """Not ready, changed since it was looked at, or never looked at: no pass."""
    waiting = config("team-b", world.path)
    waiting["metadata"]["generation"] = generation
    conditions = [] if ready is None else [READY["conditions"][0] | ready]
    world.api.put(STORAGE_CONFIGS, {**waiting, "status": {"conditions": conditions}})

    assert world.look(KEY) == 60.0
    assert world.runner.jobs == []
    assert world.ready()["reason"] == "StorageNotReady"


@pytest.mark.parametrize(
    ("selector", "passes"),
    [(None, 0), ({"matchLabels": {"team": "c"}}, 0), ({"matchLabels": {"team": "b"}}, 1), ({}, 1)],
)
def test_a_cluster_config_is_for_the_namespaces_that_it_selects(world, selector, passes):
    """A policy cannot reach a store that is not offered to its namespace by naming it."""
    shared = config("", world.path)
    del shared["metadata"]["namespace"]
    if selector is not None:
        shared["spec"]["namespaceSelector"] = selector
    world.api.put(CLUSTER_STORAGE_CONFIGS, shared)
    world.api.put(NAMESPACES, {"metadata": {"name": "team-b", "labels": {"team": "b"}}})
    named = policy()
    named["spec"]["storageRef"] = {"kind": "ClusterStorageConfig", "name": "main"}
    world.api.put(RETENTION_POLICIES, named)

    world.look(KEY)

    assert [job.scope for job in world.runner.jobs] == ["ClusterStorageConfig/main"] * passes


@pytest.mark.parametrize("resource", [RETENTION_POLICIES, STORAGE_CONFIGS])
@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"generation": 1}, None),
        ({"generation": 2}, "changed"),
        ({"generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}, "being deleted"),
        (None, "was deleted"),
    ],
)
def test_what_interrupts_a_pass(world, resource, metadata, said):
    """A newer spec or a deletion of the policy or its config; an event about the same spec does not."""
    key = KEY if resource is RETENTION_POLICIES else ObjectKey("team-b", "main")
    world.context.cache.put(resource, key, {"metadata": {"generation": 1}})
    world.look(KEY)
    interrupted = world.runner.jobs[0].interrupted
    assert interrupted() is None

    if metadata is None:
        world.context.cache.remove(resource, key)
    else:
        world.context.cache.put(resource, key, {"metadata": metadata})

    answer = interrupted()
    assert answer is None if said is None else said in answer


def test_a_garbage_status_of_another_policy_stops_nobody(world):
    """What it keeps is in its spec."""
    world.api.put(RETENTION_POLICIES, policy("archive", "365d", status={"totals": "many"}))

    assert world.look(KEY) == 0.0
    assert ("outputs/team-b/", 365 * 86400.0) in world.keeps()


def test_while_retention_is_paused_no_pass_starts(world):
    """The policy says why; when it is over, it goes on."""
    world.context.pause.set("somebody said so")

    assert world.look(KEY) == 60.0
    assert world.runner.jobs == []
    assert (world.ready()["reason"], world.ready()["message"]) == ("PassesPaused", "somebody said so")

    world.context.pause.set("")

    assert world.look(KEY) == 0.0
    assert len(world.runner.jobs) == 1


def test_before_it_is_known_whether_retention_is_paused(world):
    """No pass, and not a word in the status: it is known in a moment."""
    look = PolicyReconciler(
        replace(world.context, pause=PauseState.unread()),
        StoreSlots(4),
        world.runner,
        wake=lambda _key: None,
        open_owners=nobody,
    )

    assert 0 < look(KEY) < 2
    assert world.runner.jobs == []
    assert "status" not in world.api.get(RETENTION_POLICIES, "tidy", "team-b")


class Stores:
    """Ways to stores by an agent; `answer` is what the next one who asks is told."""

    def __init__(self, answer):
        self.answer = answer
        self.orders = []

    def open(self, order, _config):
        """Open a store."""
        self.orders.append(order)
        return self.answer


@pytest.mark.parametrize("keeps", [True, False])
def test_a_store_that_is_being_opened_is_waited_for(world, keeps):
    """No thread is held; the place in the queue for the store is, where it is a matter of seconds."""
    slots = StoreSlots(4)
    stores = Stores(
        NotYet(Reason.STORAGE_NOT_READY, "an agent is being started", 2.5, quiet=True, keeps_turn=keeps)
    )
    look = PolicyReconciler(
        world.context, slots, world.runner, wake=lambda _key: None, stores=stores, open_owners=nobody
    )

    assert look(KEY) == 2.5

    assert world.runner.jobs == []
    assert stores.orders[0].scopes == ("outputs/team-b/",)
    assert world.ready()["status"] == "True", "nothing is wrong"
    assert slots.holder(f"file://{world.path}") == (KEY if keeps else None)


def test_a_store_that_cannot_be_opened_is_said_once(world):
    """Looking again and again changes nothing of the status; what comes of it in the end does."""
    stores = Stores(NotYet(Reason.PASS_JOB_STUCK, "no node takes the pod", 2.5))
    look = PolicyReconciler(
        world.context,
        StoreSlots(4),
        world.runner,
        wake=lambda _key: None,
        stores=stores,
        open_owners=nobody,
    )

    assert look(KEY) == 2.5
    first = world.api.get(RETENTION_POLICIES, "tidy", "team-b")
    assert (world.ready()["reason"], world.ready()["message"]) == ("PassJobStuck", "no node takes the pod")

    assert look(KEY) == 2.5
    assert world.api.get(RETENTION_POLICIES, "tidy", "team-b") == first

    stores.answer = Access()
    assert look(KEY) == 0.0
    assert len(world.runner.jobs) == 1
    assert world.ready()["status"] == "True"


class Access:
    """A way to a store that leads nowhere; the runner of these tests uses none."""

    def __init__(self):
        self.closed = []

    def close(self, *, good):
        """Take it down."""
        self.closed.append(good)


def test_a_way_that_no_pass_takes_is_closed(world, monkeypatch):
    """The API server fails when all is there: an agent must not be held for ever."""

    def fails(*_args, **_options):
        raise KubeUnreachableError("no connection")

    stores = Stores(NotYet(Reason.PASS_JOB_STUCK, "no node takes the pod", 2.5))
    look = PolicyReconciler(
        world.context,
        StoreSlots(4),
        world.runner,
        wake=lambda _key: None,
        stores=stores,
        open_owners=nobody,
    )
    look(KEY)
    stores.answer = Access()
    monkeypatch.setattr(world.api, "patch_status", fails)

    with pytest.raises(KubeUnreachableError):
        look(KEY)

    assert stores.answer.closed == [False]
    assert world.runner.jobs == []


def test_a_store_that_becomes_ready_for_the_first_time_is_no_news(world):
    """The policy was applied together with its config; no event tells of the moment in between."""
    world.api.put(STORAGE_CONFIGS, {**config("team-b", world.path), "status": {}})
    assert world.look(KEY) == 60.0
    assert world.ready()["reason"] == "StorageNotReady"

    world.api.put(STORAGE_CONFIGS, config("team-b", world.path))
    assert world.look(KEY) == 0.0

    assert world.api.events == []


def test_a_store_that_recovers_is_news(world):
    """After a failure that was told, its end is told, too."""
    failing = {"conditions": [READY["conditions"][0] | {"status": "False", "reason": "Timeout"}]}
    world.api.put(STORAGE_CONFIGS, {**config("team-b", world.path), "status": failing})
    world.look(KEY)
    world.api.put(STORAGE_CONFIGS, config("team-b", world.path))
    world.look(KEY)

    assert [reason for reason, _ in world.api.events] == ["StorageNotReady", "Rehearsing"]


@pytest.mark.parametrize("kind", ["StorageConfig", "ClusterStorageConfig"])
def test_a_refusal_is_cleaned_of_the_credentials_of_its_store(world, kind):
    """Also where the store is the cluster's; what is anybody else's word stays."""
    scope = "team-b" if kind == "StorageConfig" else f"{kind}/main"
    world.context.redactor.add(["planted"], scope)
    world.context.redactor.add(["kubectl"], "team-a")
    shared = config("", world.path, namespaceSelector={})
    del shared["metadata"]["namespace"]
    world.api.put(CLUSTER_STORAGE_CONFIGS, shared)
    named = policy()
    named["spec"]["storageRef"] = {"kind": kind, "name": "main"}
    world.api.put(RETENTION_POLICIES, named)
    look = PolicyReconciler(
        world.context,
        StoreSlots(4),
        world.runner,
        wake=lambda _key: None,
        stores=Stores(Refusal(Reason.STORAGE_NOT_READY, "planted: see kubectl")),
        open_owners=nobody,
    )

    look(KEY)

    assert world.ready()["message"] == "[redacted]: see kubectl"
    assert [note for _, note in world.api.events] == ["[redacted]: see kubectl"]


def test_a_store_that_refuses_is_said_once(world):
    """A Secret that is missing: Ready does not flap, and no event is repeated, however often it is tried."""
    stores = Stores(Refusal(Reason.STORAGE_NOT_READY, "Secret minio does not exist"))
    look = PolicyReconciler(
        world.context,
        StoreSlots(4),
        world.runner,
        wake=lambda _key: None,
        stores=stores,
        open_owners=nobody,
    )

    assert look(KEY) == 60.0
    first = world.api.get(RETENTION_POLICIES, "tidy", "team-b")
    assert world.ready()["message"] == "Secret minio does not exist"
    for _ in range(3):
        assert look(KEY) == 60.0

    assert world.api.get(RETENTION_POLICIES, "tidy", "team-b") == first
    assert [reason for reason, _ in world.api.events] == ["StorageNotReady"]

    stores.answer = Access()
    assert look(KEY) == 0.0
    assert world.ready()["status"] == "True"


def test_a_store_that_keeps_old_versions_is_said(world):
    """Passes run, and Ready says that they free nothing by themselves."""
    status = {**READY, "capabilities": ["Read", "Delete", "Versioned"]}
    world.api.put(STORAGE_CONFIGS, {**config("team-b", world.path), "status": status})

    assert world.look(KEY) == 0.0
    assert world.ready()["status"] == "True"
    assert "keeps old versions: a deletion hides an object and frees nothing" in world.ready()["message"]
