"""Who else keeps what: all policies of both kinds, found with few requests."""

from __future__ import annotations

import pytest

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.cluster_storage_config import ClusterStorageConfig
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.neighbours import Neighbours
from bubu_operator.controllers.policy_store import PolicyStore
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
)
from bubu_operator.kube.scrub import Redactor
from bubu_operator.retention.plan import PassPlan, PlanProblem, plan_cluster_pass
from tests.unit.controllers.fake_api import FakeApi

DAY = 86400.0
API_VERSION = "storage.bubustack.io/v1alpha1"


class Counting(FakeApi):
    """Counts single reads, too."""

    def __init__(self, *objects):
        super().__init__(*objects)
        self.gets = []

    def get(self, resource, name, namespace=None, **options):
        """Read one object."""
        self.gets.append((resource.plural, namespace, name))
        return super().get(resource, name, namespace, **options)


def s3(bucket):
    """Make the spec of a store."""
    return {"s3": {"bucket": bucket, "region": "eu-central-1", "authentication": {"anonymous": {}}}}


def keeps(namespace, days, name="tidy", **spec):
    """Make a policy without storageRef."""
    return {
        "metadata": {"name": name, "namespace": namespace, "generation": 1, "uid": "u"},
        "spec": {"rules": [{"prefix": "outputs/", "keep": {"within": f"{days}d"}}], **spec},
    }


SHARED = {"metadata": {"name": "shared", "uid": "c"}, "spec": s3("flows") | {"namespaceSelector": {}}}


def guard(api, namespaces):
    """Guard a pass of a cluster-wide policy over some namespaces."""
    redactor = Redactor()
    events = EventRecorder(api, redactor, controller="c", instance="i")
    context = Context(client=api, events=events, redactor=redactor, options=ControllerOptions())
    policy = ClusterRetentionPolicy.model_validate(
        {
            "metadata": {"name": "tidy", "uid": "p"},
            "spec": {
                "storageRef": {"kind": "ClusterStorageConfig", "name": "shared"},
                "rules": [{"prefix": "outputs/", "keep": {"within": "1d"}}],
            },
        }
    )
    config = ClusterStorageConfig.model_validate(
        {**SHARED, "kind": "ClusterStorageConfig", "apiVersion": API_VERSION}
    )
    store = PolicyStore(config, CLUSTER_STORAGE_CONFIGS, tuple(namespaces))
    plan = plan_cluster_pass(
        policy.spec, namespaces=namespaces, output_prefix="outputs", input_prefix="inputs", store="s"
    )
    assert isinstance(plan, PassPlan)
    return Neighbours(context).guard(plan, policy, store)


def kept(guarded):
    """Return what is kept besides the policy's own rules: days by prefix."""
    own = {f"outputs/{namespace}/" for namespace in guarded.namespaces}
    return {
        rule.prefix: rule.keep_within_seconds / DAY
        for rule in guarded.spec.rules
        if rule.prefix in own and rule.keep_within_seconds > DAY
    }


def test_a_thousand_policies_without_storage_ref_cost_no_more_requests_than_one():
    """Which config they are about is told from the lists."""
    names = [f"team-{number:04}" for number in range(1000)]
    counts = []
    for some in (names[:1], names):
        api = Counting(
            (CLUSTER_STORAGE_CONFIGS, SHARED),
            *((NAMESPACES, {"metadata": {"name": name}}) for name in some),
            *((RETENTION_POLICIES, keeps(name, 30)) for name in some),
        )
        assert kept(guard(api, some)) == {f"outputs/{name}/": 30 for name in some}
        counts.append(len(api.lists) + len(api.gets))

    assert counts[0] == counts[1]
    assert counts[1] <= 6


@pytest.mark.parametrize(
    ("configs", "labels", "expected"),
    [
        ((), {}, 30),
        ((("main", "flows"),), {}, 30),
        ((("main", "another"),), {}, None),
        ((("main", "another"), ("old", "flows")), {}, 30),
        ((("main", "another"), ("old", "flows")), {"storage.bubustack.io/config": "main"}, None),
        ((("main", "another"), ("old", "flows")), {"storage.bubustack.io/config": "old"}, 30),
        ((("main", "another"),), {"storage.bubustack.io/config": "missing"}, 30),
    ],
)
def test_the_config_of_a_policy_that_names_none(configs, labels, expected):
    """As injection would choose; where that cannot be told, it may be about this very store, and keeps."""
    api = FakeApi(
        (CLUSTER_STORAGE_CONFIGS, SHARED),
        (NAMESPACES, {"metadata": {"name": "team-a", "labels": labels}}),
        (RETENTION_POLICIES, keeps("team-a", 30)),
        *(
            (STORAGE_CONFIGS, {"metadata": {"name": name, "namespace": "team-a"}, "spec": s3(bucket)})
            for name, bucket in configs
        ),
    )

    assert kept(guard(api, ["team-a"])) == ({} if expected is None else {"outputs/team-a/": expected})


def test_a_namespace_that_is_gone_meanwhile():
    """Its policy was still listed: what it keeps is kept, and nothing fails."""
    api = FakeApi((CLUSTER_STORAGE_CONFIGS, SHARED), (RETENTION_POLICIES, keeps("team-a", 30)))

    assert kept(guard(api, ["team-a"])) == {"outputs/team-a/": 30}


def test_an_invalid_policy_of_a_namespace_is_named_whole():
    """Whoever runs the cluster-wide policy must find it."""
    api = FakeApi(
        (CLUSTER_STORAGE_CONFIGS, SHARED), (RETENTION_POLICIES, keeps("team-a", 30, mode="Sometimes"))
    )

    problem = guard(api, ["team-a"])

    assert isinstance(problem, PlanProblem)
    assert problem.reason is Reason.INVALID_SPEC
    assert "RetentionPolicy team-a/tidy is invalid" in problem.message


def test_policies_of_one_name_and_of_both_kinds_are_two():
    """Neither counts as the other."""
    api = FakeApi(
        (CLUSTER_STORAGE_CONFIGS, SHARED),
        (NAMESPACES, {"metadata": {"name": "tidy"}}),
        (RETENTION_POLICIES, keeps("tidy", 30)),
    )

    guarded = guard(api, ["tidy"])

    assert kept(guarded) == {"outputs/tidy/": 30}
    assert [neighbour.policy for neighbour in guarded.neighbours] == ["RetentionPolicy tidy/tidy"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {"outputs/team-a/": 30}),
        (s3("flows"), {"outputs/team-a/": 30}),
        (s3("another"), {}),
        ({"file": {"path": "/data", "emptyDir": {}}}, {}),
    ],
)
def test_what_a_policy_keeps_whose_config_is_away(config, expected):
    """Deleted, or about to be made anew: its store cannot be told, so it counts for this one."""
    api = FakeApi(
        (CLUSTER_STORAGE_CONFIGS, SHARED),
        (RETENTION_POLICIES, keeps("team-a", 30, storageRef={"name": "main"})),
    )
    if config is not None:
        api.put(STORAGE_CONFIGS, {"metadata": {"name": "main", "namespace": "team-a"}, "spec": config})

    assert kept(guard(api, ["team-a"])) == expected
