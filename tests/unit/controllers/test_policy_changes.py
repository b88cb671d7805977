"""Why a pass that is under way must end: what it was started for is another object, or is gone."""

from __future__ import annotations

import pytest

from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.policy_changes import watch_for_changes
from bubu_operator.controllers.policy_kinds import NAMESPACED_POLICIES
from bubu_operator.controllers.policy_store import PolicyStore
from bubu_operator.controllers.repeated_look import EVERY_SECONDS
from bubu_operator.errors import KubeTimeoutError
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    ObjectKey,
)
from bubu_operator.kube.scrub import Redactor
from tests.unit.controllers.fake_api import FakeApi

POLICY_KEY, CONFIG_KEY = ObjectKey("team-a", "tidy"), ObjectKey("team-a", "main")


def metadata(key, **fields):
    """Make metadata of a first generation."""
    return {"name": key.name, "namespace": key.namespace, "generation": 1, "uid": "first", **fields}


@pytest.fixture
def context():
    """A controller that has seen a policy and its config."""
    api, redactor = FakeApi(), Redactor()
    events = EventRecorder(api, redactor, controller="c", instance="i")
    made = Context(client=api, events=events, redactor=redactor, options=ControllerOptions())
    made.cache.put(RETENTION_POLICIES, POLICY_KEY, {"metadata": metadata(POLICY_KEY)})
    made.cache.put(STORAGE_CONFIGS, CONFIG_KEY, {"metadata": metadata(CONFIG_KEY)})
    return made


@pytest.fixture
def interrupted(context):
    """What a pass of that policy asks again and again."""
    kind = {"apiVersion": "storage.bubustack.io/v1alpha1"}
    policy = RetentionPolicy.model_validate(
        {
            **kind,
            "kind": "RetentionPolicy",
            "metadata": metadata(POLICY_KEY),
            "spec": {"rules": [{"prefix": "outputs/", "keep": {"within": "1d"}}]},
        }
    )
    config = StorageConfig.model_validate(
        {
            **kind,
            "kind": "StorageConfig",
            "metadata": metadata(CONFIG_KEY),
            "spec": {"file": {"path": "/data"}},
        }
    )
    store = PolicyStore(config, STORAGE_CONFIGS, ("team-a",))
    return watch_for_changes(context, NAMESPACED_POLICIES, POLICY_KEY, policy, store)


@pytest.mark.parametrize(
    ("resource", "key", "what"),
    [(RETENTION_POLICIES, POLICY_KEY, "the policy"), (STORAGE_CONFIGS, CONFIG_KEY, "its storage config")],
)
def test_another_object_of_the_same_name(context, interrupted, resource, key, what):
    """Deleted and made again between two looks: its first generation is not the one of the pass."""
    assert interrupted() is None

    context.cache.put(resource, key, {"metadata": metadata(key, uid="second")})

    assert interrupted() == f"{what} was deleted and created again"


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"generation": 2}, "the policy has changed"),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, "the policy is being deleted"),
        ({"generation": 1}, None),
        ({"generation": 0}, None),
    ],
)
def test_the_same_object_as_it_is_now(context, interrupted, fields, answer):
    """Only what is newer than what was read counts."""
    context.cache.put(RETENTION_POLICIES, POLICY_KEY, {"metadata": metadata(POLICY_KEY, **fields)})

    assert interrupted() == answer


def test_a_namespace_that_is_not_offered_a_cluster_wide_config_any_more():
    """A namespaced policy leaves the store alone at once, too; what cannot be read changes nothing."""
    now = [1000.0]
    namespace = {"metadata": {"name": "team-a", "labels": {"shared": "yes"}}}
    api, redactor = FakeApi((NAMESPACES, namespace)), Redactor()
    events = EventRecorder(api, redactor, controller="c", instance="i")
    context = Context(
        client=api, events=events, redactor=redactor, options=ControllerOptions(), monotonic=lambda: now[0]
    )
    selector = {"namespaceSelector": {"matchLabels": {"shared": "yes"}}}
    config = ClusterStorageConfig.model_validate(
        {"metadata": {"name": "all", "uid": "c"}, "spec": {"file": {"path": "/data"}, **selector}}
    )
    store = PolicyStore(config, CLUSTER_STORAGE_CONFIGS, ("team-a",))
    policy = RetentionPolicy.model_validate(
        {
            "metadata": metadata(POLICY_KEY),
            "spec": {"rules": [{"prefix": "outputs/", "keep": {"within": "1d"}}]},
        }
    )
    interrupted = watch_for_changes(context, NAMESPACED_POLICIES, POLICY_KEY, policy, store)

    now[0] += EVERY_SECONDS
    assert interrupted() is None
    api.put(NAMESPACES, {"metadata": {"name": "team-a", "labels": {}}})
    assert interrupted() is None, "it is not asked all the time"
    now[0] += EVERY_SECONDS
    assert interrupted() == "namespace team-a is not offered the store any more, or is gone"

    del api.objects[NAMESPACES.plural, ObjectKey("", "team-a")]
    now[0] += EVERY_SECONDS
    assert "team-a" in (interrupted() or "")

    def failing(*_args, **_options):
        raise KubeTimeoutError("slow")

    api.get = failing
    now[0] += EVERY_SECONDS
    assert interrupted() is None
