"""The patch of a fresh pod is the very text that the long way gives, or there is none."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings

from bubu_operator.injection import (
    InjectionConfig,
    InjectionReason,
    apply_patch,
    fresh_patch,
    inject_pod,
    patch_text,
    pod_problem,
)
from bubu_operator.injection import fresh as fresh_module
from bubu_operator.injection.environment import canonical_json
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.podspec import outer_problem
from tests.unit.injection.builders import S3, config, container, pod
from tests.unit.injection.strategies import configs, odd_configs, odd_pods, pods

Json = dict[str, Any]

ACCOUNT = {"bucket": "flows", "authentication": {"serviceAccount": {"name": "runner"}}}
NULL_ENTRY = {"name": "A", "value": None, "valueFrom": None}


def both_ways(before: Json, chosen: InjectionConfig) -> str | None:
    """Hold the quick patch, if there is one, against the long way; the pod is left alone."""
    kept = copy.deepcopy(before)
    quick = fresh_patch(before, chosen)
    assert before == kept
    if quick is not None:
        result = inject_pod(before, chosen)
        assert (result.reason, result.warnings) == (InjectionReason.INJECTED, ())
        assert quick == patch_text(before, result)
        assert canonical_json(apply_patch(before, json.loads(quick))) == canonical_json(result.pod)
    return quick


@settings(max_examples=400)
@given(before=pods(), chosen=configs())
def test_it_is_the_long_way_s_or_none(before: Json, chosen: InjectionConfig):
    """Whatever the pod sets itself, and whatever the config's policy."""
    both_ways(before, chosen)


@settings(max_examples=400)
@given(before=odd_pods(), chosen=odd_configs())
def test_whatever_json_says_it_is_the_long_way_s_or_none(before: Json, chosen: InjectionConfig):
    """Wrong types, nulls, doubled entries, other letters at any place; what is no pod is none either way."""
    if outer_problem(before):
        assert pod_problem(before) == outer_problem(before)
    else:
        both_ways(before, chosen)


@given(before=pods(), first=configs(), second=configs())
def test_a_pod_that_was_injected_before_goes_the_long_way(
    before: Json, first: InjectionConfig, second: InjectionConfig
):
    """Something may have to be taken out."""
    result = inject_pod(before, first)
    quick = both_ways(result.pod, second)
    assert quick is None or not result.changed


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"name": "p", "labels": {"app": "x"}},
        {"labels": {}, "annotations": {}},
        {"annotations": {"a": "b"}, "labels": {"a": "b"}},
        {"labels": {"a": "b"}, "name": "p", "annotations": {"a": "é"}},
        {"annotations": {"a": "b"}, "name": "p"},
    ],
)
@pytest.mark.parametrize(
    "env",
    [
        None,
        [],
        [{"name": "A", "value": '"\\é\ud800'}],
        [NULL_ENTRY, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        [{"name": "BUBU_IMPULSE_NAMESPACE", "value": "x"}, {"name": "BUBU_STEPRUN_NAMESPACE", "value": "y"}],
        [{"name": "BUBU_POD_NAMESPACE", "value": "x"}],
        [{"name": "A"}, {"name": "A"}],
    ],
)
def test_a_usual_pod_goes_the_quick_way(metadata: Json, env: list[Json] | None):
    """Init containers, mounts of its own and variables of the workflow engine included."""
    before = pod(
        container("zé", env=env, volumeMounts=[{"name": "token", "mountPath": "/run/token"}]),
        container("a", volumeDevices=[{"name": "disk", "devicePath": "/dev/x"}]),
        initContainers=[container("init", env=env)],
        volumes=[{"name": "token", "projected": {}}],
        serviceAccountName="runner",
    )
    before["metadata"] = metadata
    for chosen in (config(), config("b" * 63, ""), config(s3=ACCOUNT)):
        assert both_ways(before, chosen) is not None
    some = config(injection={"containers": ["a", "absent"]})
    assert both_ways(before, some) is not None
    assert both_ways(before, config(injection={"conflictPolicy": "Override"})) is not None


UNUSUAL: dict[str, Json] = {
    "no metadata": {"metadata": None},
    "labels that are null": {"metadata": {"labels": None}},
    "annotations that are null": {"metadata": {"annotations": None}},
    "a forged label": {"metadata": {"labels": {INJECTED_LABEL: "x"}}},
    "a forged record": {"metadata": {"annotations": {RECORD_ANNOTATION: "x"}}},
    "large annotations": {"metadata": {"annotations": {"x": "y" * 256 * 1024}}},
    "no container": {"spec": {"containers": []}},
    "no list of containers": {"spec": {"containers": "main"}},
    "no list of init containers": {"spec": {"containers": [container()], "initContainers": {"a": 1}}},
    "a container without a name": {"spec": {"containers": [{}]}},
    "no list of volumes": {"spec": {"containers": [container()], "volumes": "x"}},
    "a variable of ours": {"spec": {"containers": [container(env=[{"name": "BUBU_S3_TLS", "value": "1"}])]}},
    "a number for a value": {"spec": {"containers": [container(env=[{"name": "A", "value": 1}])]}},
    "a text for a source": {"spec": {"containers": [container(env=[{"name": "A", "valueFrom": "x"}])]}},
    "a variable without a name": {"spec": {"containers": [container(env=[{}])]}},
    "no object for a variable": {"spec": {"containers": [container(env=["A"])]}},
    "no list of variables": {"spec": {"containers": [container(env={"A": "b"})]}},
    "a mount without a path": {"spec": {"containers": [container(volumeMounts=[{"name": "x"}])]}},
}


@pytest.mark.parametrize("change", list(UNUSUAL.values()), ids=list(UNUSUAL))
def test_what_is_unusual_goes_the_long_way(change: Json):
    """Malformed things included: the long way says what is wrong."""
    before = {**pod(container()), **change}
    assert outer_problem(before) == ""
    assert both_ways(before, config()) is None


def test_some_configs_go_the_long_way():
    """Those with volumes, without a plan, for other containers, and of another account."""
    before = pod(container())
    for chosen in (
        config(file={"emptyDir": {}}),
        config(s3={**S3, "tls": {"caBundle": {"configMapRef": {"name": "ca"}}}}),
        config(s3={"bucket": "NO BUCKET"}),
        config(injection={"containers": ["absent"]}),
        config(s3=ACCOUNT),
    ):
        assert both_ways(before, chosen) is None


def test_a_record_that_does_not_fit_goes_the_long_way(monkeypatch: pytest.MonkeyPatch):
    """Which says so in a warning."""
    monkeypatch.setattr(fresh_module, "MAX_ANNOTATIONS_BYTES", 500)
    assert both_ways(pod(container()), config()) is None


def test_a_config_that_changes_is_written_as_it_is_now():
    """What is kept of a config is kept for that state of it alone."""
    before = pod(container())
    texts = {
        both_ways(before, config(metadata={"generation": generation}, s3={**S3, "bucket": bucket}))
        for generation in (1, 2)
        for bucket in ("one", "two")
    }
    assert len(texts) == 4


@pytest.mark.parametrize("pod_like", [None, [], "x", {}, {"spec": None}, {"spec": {}, "metadata": "x"}])
def test_the_outer_problem_is_the_first_part_of_the_whole(pod_like: Any):
    """What is wrong outside is wrong altogether, in the same words."""
    assert outer_problem(pod_like) == pod_problem(pod_like) != ""
