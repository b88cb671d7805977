"""One look at a policy that rehearses, waits for somebody, or does not know its owners; passes are faked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.policy_owners import OwnersTrouble, PolicyOwners, open_policy_owners
from bubu_operator.controllers.repeated_look import EVERY_SECONDS, MOST_FAILURES
from bubu_operator.controllers.retentionpolicy import PolicyReconciler
from bubu_operator.controllers.scheduler import StoreSlots
from bubu_operator.errors import KubeForbiddenError, KubeTimeoutError
from bubu_operator.kube.conditions import find_condition, set_condition
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    ObjectKey,
)
from bubu_operator.kube.scrub import Redactor
from bubu_operator.owners.census import NO_CENSUS, Anomaly, OwnersProblem
from bubu_operator.retention.plan import PlanProblem
from bubu_storage.errors import OwnersUnknownError
from tests.unit.controllers.fake_api import FakeApi

KEY = ObjectKey("team-a", "tidy")
CLUSTER_KEY = ObjectKey("", "tidy")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
APPROVE = "storage.bubustack.io/approve"
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
RULES = [{"prefix": "outputs/", "keep": {"within": "30d"}}]


class Runner:
    """Remembers the passes that it is asked for."""

    def __init__(self):
        self.jobs = []

    def run(self, job):
        """Take a job."""
        self.jobs.append(job)
        return True

    def forget(self, _key):
        """Forget a policy."""


class World:
    """A namespaced and a cluster-wide policy, three namespaces, a store for two of them."""

    def __init__(self, tmp_path):
        shared = {"labels": {"shared": "yes"}}
        spec = {"file": {"path": str(tmp_path)}}
        selector = {"namespaceSelector": {"matchLabels": {"shared": "yes"}}}
        meta = {"generation": 1, "uid": "u"}
        self.api = FakeApi(
            (NAMESPACES, {"metadata": {"name": "team-a", **shared}}),
            (NAMESPACES, {"metadata": {"name": "team-b", **shared}}),
            (NAMESPACES, {"metadata": {"name": "team-c"}}),
            (
                STORAGE_CONFIGS,
                {"metadata": {"name": "main", "namespace": "team-a", **meta}, "spec": spec, "status": READY},
            ),
            (
                CLUSTER_STORAGE_CONFIGS,
                {"metadata": {"name": "all", **meta}, "spec": spec | selector, "status": READY},
            ),
        )
        self.runner = Runner()
        self.now = 1000.0
        self.owners = lambda _client, _policy: PolicyOwners(None, NO_CENSUS)
        redactor = Redactor()
        self.context = Context(
            client=self.api,
            events=EventRecorder(self.api, redactor, controller="c", instance="i"),
            redactor=redactor,
            options=ControllerOptions(allow_local_roots=(tmp_path,)),
            monotonic=lambda: self.now,
            clock=lambda: NOW,
        )
        self.reconciler = self.make_reconciler()

    def make_reconciler(self):
        """Make one that has seen nothing yet."""
        return PolicyReconciler(
            self.context,
            StoreSlots(4),
            self.runner,
            wake=lambda _key: None,
            open_owners=self.open_owners,
        )

    def open_owners(self, client, policy):
        """Ask whoever knows at the moment."""
        return self.owners(client, policy)

    def put(self, *, status=None, annotations=None, **spec):
        """Store the namespaced policy."""
        obj = {
            "metadata": {
                "name": "tidy",
                "namespace": "team-a",
                "generation": 1,
                "uid": "p",
                "annotations": annotations or {},
            },
            "spec": {"storageRef": {"name": "main"}, "mode": "Enforce", "rules": RULES, **spec},
        }
        self.api.put(RETENTION_POLICIES, obj | ({} if status is None else {"status": status}))

    def put_other(self, *, generation=1, uid="o", **spec):
        """Store another policy of the namespace: suspended, it keeps for a year."""
        rules = [{"prefix": "outputs/", "keep": {"within": "365d"}}]
        metadata = {"name": "other", "namespace": "team-a", "generation": generation, "uid": uid}
        obj = {"metadata": metadata, "spec": {"suspend": True, "rules": rules, **spec}}
        self.api.put(RETENTION_POLICIES, obj)
        return obj

    def put_cluster(self, **spec):
        """Store the cluster-wide policy."""
        self.api.put(
            CLUSTER_RETENTION_POLICIES,
            {
                "metadata": {"name": "tidy", "generation": 1, "uid": "cp"},
                "spec": {"storageRef": {"name": "all"}, "rules": RULES, **spec},
            },
        )

    def status(self, key=KEY):
        """Return a policy's status."""
        if key.namespace:
            return self.api.get(RETENTION_POLICIES, key.name, key.namespace).get("status", {})
        return self.api.get(CLUSTER_RETENTION_POLICIES, key.name).get("status", {})

    def ready(self, key=KEY):
        """Return its Ready condition."""
        return find_condition(self.status(key)["conditions"], "Ready")

    def rehearsed(self, due, **more):
        """Return the status of a policy whose whole rehearsal found so many of 100 objects due."""
        self.put()
        self.reconciler(KEY)
        fingerprint = self.runner.jobs.pop().plan.fingerprint
        self.api.events.clear()
        summary = {
            "fingerprint": fingerprint,
            "startTime": "2026-05-31T23:59:00Z",
            "completeTime": "2026-06-01T00:00:00Z",
            "decidedObjects": 100,
            "dueObjects": due,
            "duePercent": due,
            "planHash": "plan-1",
        }
        last = {
            "startTime": "2026-05-31T23:59:00Z",
            "finishTime": "2026-05-31T23:59:30Z",
            "mode": "DryRun",
            "observedGeneration": 1,
            "completeCycle": True,
        }
        return {"rehearsal": summary, "planHash": "plan-1", "lastPass": last, **more}


@pytest.fixture
def world(tmp_path):
    """See there."""
    return World(tmp_path)


def test_the_first_pass_of_a_policy_that_deletes_is_a_rehearsal(world):
    """Ready is True, for passes run; the reason says that nothing is deleted yet."""
    world.put()

    assert world.reconciler(KEY) == 0.0
    assert world.runner.jobs[0].plan.spec.dry_run
    assert (world.ready()["status"], world.ready()["reason"]) == ("True", "Rehearsing")


def test_a_rehearsal_within_the_share_is_followed_by_deletions_at_once(world):
    """The bound of the share goes to the engine."""
    world.put(status=world.rehearsed(20))

    assert world.reconciler(KEY) == 0.0
    spec = world.runner.jobs[0].plan.spec
    assert (spec.dry_run, spec.max_due_objects) == (False, 50)


@pytest.mark.parametrize("annotations", [{}, {APPROVE: "plan-0"}, {APPROVE: ""}])
def test_beyond_the_share_no_pass_starts_until_this_plan_is_approved(world, annotations):
    """One warning; looking again changes nothing of the status."""
    world.put(status=world.rehearsed(80), annotations=annotations)

    assert world.reconciler(KEY) == 60.0
    first = world.api.get(RETENTION_POLICIES, "tidy", "team-a")
    assert world.reconciler(KEY) == 60.0

    assert world.runner.jobs == []
    assert (world.ready()["status"], world.ready()["reason"]) == ("False", "ApprovalRequired")
    assert world.api.get(RETENTION_POLICIES, "tidy", "team-a") == first
    assert [reason for reason, _ in world.api.events] == ["ApprovalRequired"]


def test_an_approval_is_told_and_acted_on(world):
    """The plan's own objects may go, more than the share, and no more than these."""
    status = world.rehearsed(80)
    world.put(status=status)
    world.reconciler(KEY)
    world.put(status=world.status(), annotations={APPROVE: "plan-1"})

    assert world.reconciler(KEY) == 0.0
    assert world.runner.jobs[0].plan.spec.max_due_objects == 80
    assert [reason for reason, _ in world.api.events] == ["ApprovalRequired", "Approved"]


def test_a_finding_about_owners_is_written_down_with_what_approves_it(world):
    """No pass starts; the hash stays the same however often it is looked at."""
    anomaly = Anomaly(OwnersProblem.KIND_VANISHED, "StoryRun is not served any more", "token-1")
    problem = PlanProblem(Reason.OWNER_KIND_VANISHED, anomaly.message)
    world.owners = lambda _client, _policy: OwnersTrouble(problem, anomaly)
    world.put()

    assert world.reconciler(KEY) == 60.0
    owners = world.status()["owners"]
    world.reconciler(KEY)

    assert world.runner.jobs == []
    assert world.ready()["reason"] == "OwnerKindVanished"
    assert owners["problemHash"]
    assert owners["problemToken"] == "token-1"
    assert world.status()["owners"] == owners
    assert [reason for reason, _ in world.api.events] == ["OwnerKindVanished"]


def test_owners_that_cannot_be_listed_stop_passes(world, monkeypatch):
    """Any word that is no reason of ours is said as OwnersUnknown."""

    def refuse(*_args, **_options):
        raise OwnersUnknownError("nobody answers", code="SomethingElse")

    monkeypatch.setattr("bubu_operator.controllers.policy_owners.open_owners", refuse)
    world.owners = open_policy_owners
    world.put()

    assert world.reconciler(KEY) == 60.0
    assert (world.ready()["reason"], world.ready()["message"]) == ("OwnersUnknown", "nobody answers")


def test_a_cluster_wide_policy_covers_what_its_config_is_offered_to(world):
    """And nothing else; it is one reconciler's like any other."""
    world.put_cluster()

    assert world.reconciler(CLUSTER_KEY) == 0.0
    assert world.runner.jobs[0].plan.spec.scopes == ("outputs/team-a/", "outputs/team-b/")
    assert world.ready(CLUSTER_KEY)["status"] == "True"


def test_what_policies_of_namespaces_keep_is_kept_there_from_a_cluster_wide_one(world):
    """Also a suspended one; its namespace only."""
    world.put(suspend=True, rules=[{"prefix": "outputs/", "keep": {"within": "365d"}}])
    world.put_cluster()

    world.reconciler(CLUSTER_KEY)

    rules = {(rule.prefix, rule.keep_within_seconds) for rule in world.runner.jobs[0].plan.spec.rules}
    assert rules == {
        ("outputs/team-a/", 30 * 86400.0),
        ("outputs/team-a/", 365 * 86400.0),
        ("outputs/team-b/", 30 * 86400.0),
    }


def test_what_a_cluster_wide_policy_keeps_is_kept_from_one_of_a_namespace(world):
    """Two configs, one store: it is the objects that count."""
    world.put_cluster(suspend=True, rules=[{"prefix": "outputs/", "keep": {"within": "365d"}}])
    world.put()

    world.reconciler(KEY)

    rules = {(rule.prefix, rule.keep_within_seconds) for rule in world.runner.jobs[0].plan.spec.rules}
    assert ("outputs/team-a/", 365 * 86400.0) in rules


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        (None, True),
        ({"s3": {"bucket": "b"}, "file": {"path": "/elsewhere"}}, True),
        ({"s3": {"endpoint": "https://s3"}}, True),
        ({"file": {"path": "/elsewhere"}}, False),
        ({"file": {"emptyDir": {}}}, False),
    ],
)
def test_a_policy_whose_config_is_missing_or_invalid_keeps_what_it_keeps_here(world, spec, counts):
    """A config that GitOps replaces is gone for a moment: what it keeps is kept; others do not count."""
    if spec is not None:
        metadata = {"name": "theirs", "namespace": "team-a", "generation": 1, "uid": "t"}
        world.api.put(STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})
    world.put_other(storageRef={"name": "theirs"})
    world.put()

    world.reconciler(KEY)

    rules = {(rule.prefix, rule.keep_within_seconds) for rule in world.runner.jobs[0].plan.spec.rules}
    assert (("outputs/team-a/", 365 * 86400.0) in rules) is counts


def test_a_config_that_was_made_a_moment_ago_is_known(world):
    """The list of configs is some seconds old; one that a policy names and that it lacks is looked for."""
    world.put()
    world.reconciler(KEY)
    metadata = {"name": "theirs", "namespace": "team-a", "generation": 1, "uid": "t"}
    world.api.put(STORAGE_CONFIGS, {"metadata": metadata, "spec": {"file": {"path": "/elsewhere"}}})
    world.put_other(storageRef={"name": "theirs"})
    world.now += 2

    world.reconciler(KEY)

    assert len(world.runner.jobs[1].plan.spec.rules) == 1
    world.api.lists.clear()
    world.put_other(storageRef={"name": "never"})
    world.now += 2
    world.reconciler(KEY)
    world.reconciler(KEY)
    assert world.api.lists.count(("storageconfigs", None)) == 1


def test_namespaces_that_may_not_be_listed_stop_a_cluster_wide_policy(world):
    """A part of them would be a guess."""
    listing = world.api.list

    def restricted(resource, *args, **options):
        if resource is NAMESPACES:
            raise KubeForbiddenError("cannot list namespaces", status=403)
        return listing(resource, *args, **options)

    world.api.list = restricted
    world.put_cluster()

    assert world.reconciler(CLUSTER_KEY) == 60.0
    assert world.runner.jobs == []
    assert world.ready(CLUSTER_KEY)["reason"] == "ReconcileFailed"


def test_no_namespace_is_offered_the_store(world):
    """Nothing to do is said quietly."""
    for name in ("team-a", "team-b"):
        world.api.put(NAMESPACES, {"metadata": {"name": name}})
    world.put_cluster()

    assert world.reconciler(CLUSTER_KEY) == 60.0
    assert world.ready(CLUSTER_KEY)["reason"] == "NoNamespaces"
    assert world.api.events == []


def test_a_namespace_that_is_taken_back_ends_a_pass_under_way(world):
    """It is looked at now and then."""
    world.put_cluster()
    world.reconciler(CLUSTER_KEY)
    interrupted = world.runner.jobs[0].interrupted
    world.api.put(NAMESPACES, {"metadata": {"name": "team-b"}})
    assert interrupted() is None

    world.now += EVERY_SECONDS

    assert "team-b" in interrupted()


@pytest.mark.parametrize(
    ("error", "looks"),
    [
        (KubeForbiddenError("cannot list namespaces", status=403), 1),
        (KubeTimeoutError("slow"), MOST_FAILURES),
    ],
)
def test_a_list_of_namespaces_that_fails_ends_a_pass_under_way(world, error, looks):
    """Forbidden ends it at once, any other failure when it is the third in a row."""
    world.put_cluster()
    world.reconciler(CLUSTER_KEY)
    interrupted = world.runner.jobs[0].interrupted
    listing = world.api.list

    def failing(*_args, **_options):
        raise error

    world.api.list = failing
    for look in range(1, looks + 1):
        world.now += EVERY_SECONDS
        assert (interrupted() is not None) == (look == looks)

    # A good one in between begins the count anew.
    world.reconciler = world.make_reconciler()
    world.api.list = listing
    world.reconciler(CLUSTER_KEY)
    interrupted = world.runner.jobs[-1].interrupted
    for failure in [failing] * (looks - 1) + [listing] + [failing] * (looks - 1):
        world.api.list = failure
        world.now += EVERY_SECONDS
        assert interrupted() is None


def test_a_controller_of_some_namespaces_may_not_see_cluster_wide_policies(world):
    """It works without; a controller of all namespaces must not guess."""
    listing = world.api.list

    def restricted(resource, *args, **options):
        if resource is CLUSTER_RETENTION_POLICIES:
            raise KubeForbiddenError("cannot list clusterretentionpolicies", status=403)
        return listing(resource, *args, **options)

    world.api.list = restricted
    world.put()
    world.reconciler(KEY)
    assert world.runner.jobs == []
    assert world.ready()["reason"] == "ReconcileFailed"

    options = replace(world.context.options, namespaces=("team-a",))
    look = PolicyReconciler(
        replace(world.context, options=options),
        StoreSlots(4),
        world.runner,
        wake=lambda _key: None,
        open_owners=world.owners,
    )
    look(KEY)

    assert len(world.runner.jobs) == 1


def test_a_kind_that_the_policy_names_no_more_has_not_vanished(world, monkeypatch):
    """Nobody is asked to approve what the author of the policy wrote."""
    given = []

    def remember(_client, _kinds, **options):
        given.append(options["before"])

    monkeypatch.setattr("bubu_operator.controllers.policy_owners.open_owners", remember)
    world.owners = open_policy_owners
    usual = "StoryRun.v1alpha1.runs.bubustack.io"
    known = {"live": 3, "existing": 9, "kinds": [usual, "Job.v1.batch"]}
    world.put(status={"owners": known})
    world.reconciler(KEY)
    named = {"group": "batch", "version": "v1", "kind": "Job"}
    world.put(status={"owners": known}, owners=[named])
    world.reconciler(KEY)

    assert [census.kinds for census in given] == [frozenset({usual}), frozenset({usual, "Job.v1.batch"})]


@pytest.mark.parametrize("since", ["2026-05-31T23:00:00Z", None])
def test_metrics_after_a_restart_and_while_no_pass_runs(world, since):
    """What the last pass found is shown by its status; what is overdue gets more so."""
    status = world.rehearsed(80)
    status["lastPass"] |= {"due": 80, "dueBytes": 800, "kept": 20}
    status["conditions"] = set_condition(
        [],
        "Degraded",
        since is not None,
        reason="AsExpected",
        message="",
        generation=1,
        now=datetime.now(UTC),
    )
    if since is not None:
        status["oldestOverdueSince"] = since
    world.put(status=status)

    world.reconciler(KEY)

    def value(name):
        labels = {"namespace": "team-a", "policy": "tidy"}
        return world.context.metrics.registry.get_sample_value(f"bubu_retention_{name}", labels)

    assert (value("due_objects"), value("due_bytes"), value("kept_objects")) == (80, 800, 20)
    assert value("oldest_overdue_seconds") == (3600 if since == "2026-05-31T23:00:00Z" else 0)
    assert (value("approval_required"), value("policy_ready")) == (1, 0)
    assert (value("policy_enforces"), value("policy_suspended")) == (1, 0)
    assert value("policy_degraded") == (1 if since else 0)


def test_metrics_tell_a_suspended_policy_and_one_that_only_reports(world):
    """Neither is anything to wake somebody for."""
    world.put(suspend=True, mode="DryRun")

    world.reconciler(KEY)

    labels = {"namespace": "team-a", "policy": "tidy"}
    registry = world.context.metrics.registry
    shown = {
        name: registry.get_sample_value(f"bubu_retention_policy_{name}", labels)
        for name in ("ready", "suspended", "enforces", "degraded")
    }
    assert shown == {"ready": 0, "suspended": 1, "enforces": 0, "degraded": 0}


@pytest.mark.parametrize("since", ["long ago", "2026-05-31T23:00:00", 7])
def test_metrics_of_a_status_that_was_edited_by_hand(world, since):
    """What cannot be read is shown as nothing; the policy goes on."""
    world.put(status={"oldestOverdueSince": since, "lastPass": {"due": "many", "finishTime": since}})

    assert world.reconciler(KEY) == 0.0
    labels = {"namespace": "team-a", "policy": "tidy"}
    registry = world.context.metrics.registry
    assert registry.get_sample_value("bubu_retention_oldest_overdue_seconds", labels) == 0
    assert registry.get_sample_value("bubu_retention_due_objects", labels) is None
