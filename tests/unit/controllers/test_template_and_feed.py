"""When a pod template is written, and which events are worth a look."""

from __future__ import annotations

import copy

import pytest

from bubu_operator.api.v1alpha1.conditions import EventReason
from bubu_operator.controllers.context import ObjectCache
from bubu_operator.controllers.feed import Feed
from bubu_operator.controllers.template import (
    DIGEST_ANNOTATION,
    TemplateAction,
    decide_template,
    wants_template,
)
from bubu_operator.injection.config import load_config
from bubu_operator.injection.select import SelectionReason
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    DEPLOYMENTS,
    RETENTION_POLICIES,
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
    assert waiting.workload is injected


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
    lanes = {name: RecordingLane() for name in ("configs", "cluster_configs", "policies", "templates")}
    built = Feed(ObjectCache(), **lanes)
    built.lanes = lanes
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
    ],
)
def test_what_people_change_is_looked_at(feed, change):
    """Spec, deletion, re-creation, and the annotation that asks for a pass."""
    feed.handle(RETENTION_POLICIES, "ADDED", obj())
    feed.handle(RETENTION_POLICIES, "MODIFIED", obj(**change))

    assert feed.lanes["policies"].offered == [KEY, KEY]


def test_a_config_wakes_those_who_may_use_it(feed):
    """A namespaced one wakes its namespace, a cluster-wide one wakes all."""
    here, there = obj("p"), obj("p", "team-b")
    labelled = obj("web", labels={"storage.bubustack.io/inject": "true"})
    for item in (here, there):
        feed.handle(RETENTION_POLICIES, None, item)
    feed.handle(DEPLOYMENTS, None, labelled)
    for lane in feed.lanes.values():
        lane.offered.clear()

    feed.handle(STORAGE_CONFIGS, "DELETED", obj())
    assert feed.lanes["policies"].offered == [ObjectKey("team-a", "p")]
    assert feed.lanes["templates"].offered == [ObjectKey("team-a", "web")]

    feed.handle(CLUSTER_STORAGE_CONFIGS, "ADDED", obj("shared", ""))
    assert len(feed.lanes["policies"].offered) == 3
    assert feed.lanes["cluster_configs"].offered == [ObjectKey("", "shared")]


def test_other_peoples_deployments_are_not_even_remembered(feed):
    """A cluster has thousands of them."""
    feed.handle(DEPLOYMENTS, "ADDED", obj("web"))
    feed.handle(DEPLOYMENTS, "MODIFIED", obj("web", labels={"storage.bubustack.io/inject": "false"}))
    assert feed.lanes["templates"].offered == []

    feed.handle(DEPLOYMENTS, "MODIFIED", obj("web", labels={"storage.bubustack.io/inject": "true"}))
    feed.handle(DEPLOYMENTS, "MODIFIED", obj("web", annotations={DIGEST_ANNOTATION: "x"}))
    assert len(feed.lanes["templates"].offered) == 2


def test_every_reason_of_an_event_is_documented():
    """What a template's event says is in the generated reference; refused selections included."""
    posted = {TemplateAction.INJECTED, TemplateAction.REMOVED, TemplateAction.REFUSED}
    chosen = {"PodLabel", "NamespaceLabel", "OnlyConfig", "DefaultConfig", "ClusterConfig"}
    refused = {reason.value for reason in SelectionReason} - chosen

    assert {action.value for action in posted} | refused <= {word.value for word in EventReason}
