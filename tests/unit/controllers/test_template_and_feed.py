"""When a pod template is written, and which events are worth a look."""

from __future__ import annotations

import copy

import pytest

from bubu_operator.api.v1alpha1.conditions import EventReason
from bubu_operator.controllers.context import ObjectCache
from bubu_operator.controllers.feed import WORKLOADS, Feed, slim_workload
from bubu_operator.controllers.template import (
    DIGEST_ANNOTATION,
    OUTDATED_ANNOTATION,
    TemplateAction,
    decide_template,
    template_is_outdated,
    wants_template,
)
from bubu_operator.injection.config import load_config
from bubu_operator.injection.names import RESTARTED_ANNOTATION
from bubu_operator.injection.select import SelectionReason
from bubu_operator.injection.template import pod_template
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    CRON_JOBS,
    DEPLOYMENTS,
    RETENTION_POLICIES,
    STATEFUL_SETS,
    STORAGE_CONFIGS,
    ObjectKey,
)


def config(bucket="flows", *, rollout=False, generation=1):
    """Load a config for injection."""
    return load_config(
        {
            "kind": "StorageConfig",
            "metadata": {"name": "main", "namespace": "team-a", "uid": "u", "generation": generation},
            "spec": {
                "s3": {"bucket": bucket, "authentication": {"anonymous": {}}},
                "injection": {"rolloutOnChange": rollout},
            },
        }
    )


def deployment(**container):
    """Make a Deployment."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "team-a",
            "labels": {"storage.bubustack.io/inject": "true"},
            "annotations": {"theirs": "1"},
        },
        "spec": {
            "replicas": 1,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "x:1", **container}]},
            },
        },
    }


@pytest.mark.parametrize(
    ("own", "template", "namespace", "wanted"),
    [
        ("true", None, "team-a", True),
        ("true", "true", "team-a", True),
        ("true", "false", "team-a", False),
        ("false", "true", "team-a", False),
        (None, "true", "team-a", False),
        ("true", None, "kube-system", False),
        ("true", None, "kube-public", False),
        ("true", None, "kube-node-lease", False),
    ],
)
def test_who_asks_for_a_template(own, template, namespace, wanted):
    """The Deployment's own label; pods that opt out and the cluster's own namespaces are left alone."""
    label = "storage.bubustack.io/inject"
    asked = deployment()
    asked["metadata"] |= {"namespace": namespace, "labels": {label: own} if own else {}}
    asked["spec"]["template"]["metadata"]["labels"] = {label: template} if template else {}

    assert wants_template(asked) is wanted


def test_a_bare_template_is_written_once():
    """f(f(x)) = f(x), and the decision says so."""
    first = decide_template(deployment(), config())
    second = decide_template(first.workload, config())

    assert first.action is TemplateAction.INJECTED
    assert DIGEST_ANNOTATION in first.workload["metadata"]["annotations"]
    assert second.action is TemplateAction.UP_TO_DATE
    assert second.workload is first.workload


def test_a_changed_config_waits_for_the_user():
    """Without rolloutOnChange no pod is restarted by a config."""
    injected = decide_template(deployment(), config()).workload

    waiting = decide_template(injected, config("other", generation=2))

    assert waiting.action is TemplateAction.CONFIG_CHANGED
    assert pod_template(waiting.workload) is pod_template(injected)
    annotations = waiting.workload["metadata"]["annotations"]
    assert annotations[OUTDATED_ANNOTATION].startswith("StorageConfig team-a/main ")
    again = decide_template(waiting.workload, config("other", generation=2))
    assert again.workload is waiting.workload, "said once"
    assert template_is_outdated(waiting.workload, config("other"))
    assert not template_is_outdated(waiting.workload, config())


def test_what_was_outdated_is_so_no_more():
    """By the config's way back, or by the write that brings it; the mark goes in both cases."""
    injected = decide_template(deployment(), config()).workload
    waiting = decide_template(injected, config("other")).workload

    back = decide_template(waiting, config())
    assert (back.action, back.workload) == (TemplateAction.UP_TO_DATE, injected)

    brought = decide_template(waiting, config("other", rollout=True))
    assert brought.action is TemplateAction.INJECTED
    assert OUTDATED_ANNOTATION not in brought.workload["metadata"]["annotations"]


def test_only_a_config_that_rolls_waits_for_its_turn():
    """The user's own change rolls anyway, and a first injection is what its label asked for."""
    first = decide_template(deployment(), config())
    rolled = decide_template(first.workload, config("other", rollout=True))
    edited = copy.deepcopy(first.workload)
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "x:2"

    assert rolled.queued
    assert not first.queued
    assert not decide_template(edited, config("other", rollout=True)).queued
    assert not decide_template(first.workload, None).queued


def test_a_cron_job_follows_its_config():
    """Nothing restarts; its next runs get what the config says now, rolloutOnChange or not."""
    job = deployment() | {"kind": "CronJob"}
    job["spec"] = {"schedule": "@daily", "jobTemplate": {"spec": job["spec"]}}
    injected = decide_template(job, config())

    followed = decide_template(injected.workload, config("other"))

    assert (followed.action, followed.queued) == (TemplateAction.INJECTED, False)
    assert "the next ones get it" in followed.note
    assert decide_template(followed.workload, None).workload == job


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("Deployment", {"paused": True}, "paused"),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("StatefulSet", {"updateStrategy": {"rollingUpdate": {"partition": 1}}}, "partition"),
    ],
)
def test_what_does_not_roll_by_itself_is_said(kind, spec, said):
    """In the event's note."""
    asked = deployment() | {"kind": kind}
    asked["spec"] |= spec

    assert said in decide_template(asked, config()).note


def test_what_somebody_broke_is_mended_whatever_the_config_may():
    """A part of ours that is gone is no change of the config, and waits for nobody."""
    broken = copy.deepcopy(decide_template(deployment(env=[{"name": "OWN"}]), config()).workload)
    broken["spec"]["template"]["spec"]["containers"][0]["env"].pop(0)

    mended = decide_template(broken, config())

    assert (mended.action, mended.queued) == (TemplateAction.INJECTED, False)
    assert mended.workload == decide_template(deployment(env=[{"name": "OWN"}]), config()).workload


@pytest.mark.parametrize("metadata", [{}, {"annotations": {}}, {"labels": {}, "annotations": None}, None])
def test_an_empty_template_metadata_is_no_change_of_the_user(metadata):
    """Injection and its removal leave nothing empty behind; that alone must not bring a new config."""
    bare = deployment()
    bare["spec"]["template"]["metadata"] = metadata
    injected = decide_template(bare, config()).workload

    assert decide_template(injected, config("other")).action is TemplateAction.CONFIG_CHANGED


def test_a_healing_restart_is_no_change_of_the_user():
    """Its mark on the template neither brings a config that must not roll, nor outlives the injection."""
    injected = decide_template(deployment(), config()).workload
    restarted = copy.deepcopy(injected)
    template = restarted["spec"]["template"]
    template["metadata"]["annotations"][RESTARTED_ANNOTATION] = "2026-01-01T00:00:00Z"

    assert decide_template(restarted, config("other")).action is TemplateAction.CONFIG_CHANGED
    assert decide_template(restarted, config()).workload is restarted
    assert decide_template(restarted, None).workload == deployment()


def test_a_changed_config_rolls_when_it_may():
    """With rolloutOnChange the result is that of the new config alone."""
    injected = decide_template(deployment(), config()).workload

    rolled = decide_template(injected, config("other", rollout=True, generation=2))

    assert rolled.action is TemplateAction.INJECTED
    assert (
        rolled.workload == decide_template(deployment(), config("other", rollout=True, generation=2)).workload
    )


@pytest.mark.parametrize("edit", ["image", "env", "container", "config label"])
def test_a_users_change_brings_the_current_config(edit):
    """What the user writes into the template, or which config they ask for, is a reason to inject anew."""
    edited = copy.deepcopy(decide_template(deployment(), config()).workload)
    spec = edited["spec"]["template"]["spec"]
    if edit == "image":
        spec["containers"][0]["image"] = "x:2"
    elif edit == "env":
        spec["containers"][0]["env"].append({"name": "OWN", "value": "1"})
    elif edit == "container":
        spec["containers"].append({"name": "side", "image": "y"})
    else:
        edited["metadata"]["labels"]["storage.bubustack.io/config"] = "main"

    assert decide_template(edited, config("other", generation=2)).action is TemplateAction.INJECTED


def test_scaling_is_no_change_of_the_template():
    """An autoscaler must not apply a config by the way."""
    scaled = copy.deepcopy(decide_template(deployment(), config()).workload)
    scaled["spec"]["replicas"] = 7

    assert decide_template(scaled, config("other", generation=2)).action is TemplateAction.CONFIG_CHANGED


def test_taking_out_leaves_what_the_user_wrote():
    """Removal gives back the very Deployment, and only once."""
    injected = decide_template(deployment(env=[{"name": "OWN", "value": "1"}]), config()).workload

    removed = decide_template(injected, None)

    assert removed.action is TemplateAction.REMOVED
    assert removed.workload == deployment(env=[{"name": "OWN", "value": "1"}])
    assert decide_template(removed.workload, None).action is TemplateAction.NOT_ASKED


class RecordingLane:
    """Remembers what is offered."""

    def __init__(self) -> None:
        self.offered: list[ObjectKey] = []

    def offer(self, key, _after_seconds=0.0):
        """Remember."""
        self.offered.append(key)


@pytest.fixture
def feed():
    """A feed with recording lanes."""
    lanes = {name: RecordingLane() for name in ("configs", "cluster_configs", "policies")}
    templates = {resource: RecordingLane() for resource in WORKLOADS}
    built = Feed(ObjectCache(), **lanes, templates=templates)
    built.lanes = lanes | {resource.plural: lane for resource, lane in templates.items()}
    return built


def obj(name="main", namespace="team-a", *, generation=1, **metadata):
    """Make an object as a watch sends it."""
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": "u", "generation": generation, **metadata},
        "status": {"any": "thing"},
    }


KEY = ObjectKey("team-a", "main")


def test_our_own_status_writes_are_no_change(feed):
    """The same generation again, whatever the status: nothing to look at, so no loop is possible."""
    feed.handle(STORAGE_CONFIGS, None, obj())
    feed.handle(STORAGE_CONFIGS, "MODIFIED", obj(resourceVersion="2"))
    feed.handle(STORAGE_CONFIGS, "MODIFIED", obj(resourceVersion="3", managedFields=[1]))

    assert feed.lanes["configs"].offered == [KEY]


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"uid": "another"},
        {"annotations": {"storage.bubustack.io/run-now": "1"}},
        {"annotations": {"storage.bubustack.io/approve": "1"}},
    ],
)
@pytest.mark.parametrize("resource", [RETENTION_POLICIES, CLUSTER_RETENTION_POLICIES])
def test_what_people_change_is_looked_at(feed, change, resource):
    """Spec, deletion, re-creation, and the annotations that ask for a pass or approve one."""
    feed.handle(resource, "ADDED", obj())
    feed.handle(resource, "MODIFIED", obj(**change))

    assert feed.lanes["policies"].offered == [KEY, KEY]


def test_a_config_wakes_those_who_may_use_it(feed):
    """A namespaced one wakes its namespace, a cluster-wide one wakes all."""
    here, there = obj("p"), obj("p", "team-b")
    labelled = obj("web", labels={"storage.bubustack.io/inject": "true"})
    for item in (here, there):
        feed.handle(RETENTION_POLICIES, None, item)
    feed.handle(DEPLOYMENTS, None, labelled)
    feed.handle(CRON_JOBS, None, labelled)
    for lane in feed.lanes.values():
        lane.offered.clear()

    feed.handle(STORAGE_CONFIGS, "DELETED", obj())
    assert feed.lanes["policies"].offered == [ObjectKey("team-a", "p")]
    assert feed.lanes["deployments"].offered == [ObjectKey("team-a", "web")]
    assert feed.lanes["cronjobs"].offered == [ObjectKey("team-a", "web")]
    assert feed.lanes["daemonsets"].offered == []

    feed.handle(CLUSTER_RETENTION_POLICIES, None, obj("everywhere", ""))
    feed.lanes["policies"].offered.clear()
    feed.handle(CLUSTER_STORAGE_CONFIGS, "ADDED", obj("shared", ""))
    assert sorted(feed.lanes["policies"].offered) == [
        ObjectKey("", "everywhere"),
        ObjectKey("team-a", "p"),
        ObjectKey("team-b", "p"),
    ]
    assert feed.lanes["cluster_configs"].offered == [ObjectKey("", "shared")]


@pytest.mark.parametrize("resource", WORKLOADS, ids=lambda resource: resource.kind)
def test_other_peoples_workloads_are_not_even_remembered(feed, resource):
    """A cluster has thousands of them."""
    lane = feed.lanes[resource.plural]
    feed.handle(resource, "ADDED", obj("web"))
    feed.handle(resource, "MODIFIED", obj("web", labels={"storage.bubustack.io/inject": "false"}))
    assert lane.offered == []

    feed.handle(resource, "MODIFIED", obj("web", labels={"storage.bubustack.io/inject": "true"}))
    feed.handle(resource, "MODIFIED", obj("web", annotations={DIGEST_ANNOTATION: "x"}))
    assert len(lane.offered) == 2


def test_what_is_kept_of_a_workload():
    """Nothing of most; a few words of those that ask for injection or carry it."""
    assert slim_workload(obj("web")) is None
    assert slim_workload(obj("web", labels={"storage.bubustack.io/inject": "false", "app": "x"})) is None
    assert slim_workload(obj("web", annotations={DIGEST_ANNOTATION: "x", "other": "y"})) is not None

    kept = slim_workload(obj("web", labels={"storage.bubustack.io/inject": "true", "app": "x"}))
    assert kept is not None
    assert kept["metadata"]["labels"] == {"storage.bubustack.io/inject": "true"}
    assert kept.keys() == {"metadata"}
    assert slim_workload(kept) == kept


def test_kinds_of_one_name_are_told_apart(feed):
    """A StatefulSet's end is not its namesake's."""
    labels = {"storage.bubustack.io/inject": "true"}
    feed.handle(DEPLOYMENTS, "ADDED", obj("web", labels=labels))
    feed.handle(STATEFUL_SETS, "ADDED", obj("web", labels=labels))
    feed.handle(STATEFUL_SETS, "DELETED", obj("web", labels=labels))
    feed.handle(STORAGE_CONFIGS, "ADDED", obj())

    assert len(feed.lanes["deployments"].offered) == 2
    assert len(feed.lanes["statefulsets"].offered) == 2


def test_what_is_remembered_is_found_by_kind_and_namespace():
    """And nothing is left of what is gone."""
    cache = ObjectCache()
    here, there = ObjectKey("a", "x"), ObjectKey("b", "x")
    assert cache.put(DEPLOYMENTS, here, {"v": 1}) is None
    assert cache.put(DEPLOYMENTS, here, {"v": 2}) == {"v": 1}
    cache.put(DEPLOYMENTS, there, {"v": 3})
    cache.put(STATEFUL_SETS, there, {"v": 4})

    assert cache.keys(DEPLOYMENTS) == [here, there]
    assert cache.keys(DEPLOYMENTS, "b") == [there]
    assert cache.keys(CRON_JOBS) == cache.keys(DEPLOYMENTS, "c") == []
    assert cache.get(STATEFUL_SETS, there) == {"v": 4}
    assert cache.remove(DEPLOYMENTS, there) == {"v": 3}
    assert cache.remove(DEPLOYMENTS, there) is None
    assert cache.get(DEPLOYMENTS, there) is None
    assert cache.keys(DEPLOYMENTS) == [here]
    assert cache.keys(STATEFUL_SETS, "b") == [there]


def test_every_reason_of_an_event_is_documented():
    """What a template's event says is in the generated reference; refused selections included."""
    posted = {TemplateAction.INJECTED, TemplateAction.REMOVED, TemplateAction.CONFIG_CHANGED}
    chosen = {"PodLabel", "NamespaceLabel", "OnlyConfig", "DefaultConfig", "ClusterConfig"}
    refused = {reason.value for reason in SelectionReason} - chosen

    refused |= {"AdmissionDiffers", "RolloutHalted", "InjectionRefused", "InjectionReverted"}

    assert {action.value for action in posted} | refused <= {word.value for word in EventReason}
