"""Injection converges, loses nothing of the user's, and survives any input."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_operator.injection import (
    InjectionConfig,
    InjectionReason,
    apply_patch,
    inject_pod,
    make_patch,
    remove_injection,
)
from bubu_operator.injection.environment import GROUP_VARIABLES, Group
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.podspec import all_containers
from tests.unit.injection.strategies import JSON_VALUES, configs, pods

Json = dict[str, Any]

_HEAD = '{"v":1,"config":{"kind":"K","name":"n","generation":1},"hash":"","containers":'
NO_RECORDS = [
    "[]",
    "null",
    "{}",
    '{"v":1}',
    _HEAD.replace("1}", "-1}") + "{}}",
    _HEAD + "[]}",
    _HEAD + '{"main":{"env":[]}}}',
    _HEAD + '{"main":{"env":{},"replaced":[[0,"x"]]}}}',
    "[" * 5000,
]
"""Texts that look like a record, more or less."""


@given(pod=pods(), config=configs())
def test_twice_is_once(pod: Json, config: InjectionConfig):
    """f(f(x)) = f(x), and the second call says that nothing changed."""
    once = inject_pod(pod, config)
    twice = inject_pod(once.pod, config)

    assert twice.pod == once.pod
    assert not twice.changed
    assert set(twice.warnings) == set(once.warnings)


@settings(max_examples=300)
@given(pod=pods(), first=configs(), second=configs())
def test_a_new_config_over_an_old_one_is_the_new_one_alone(
    pod: Json, first: InjectionConfig, second: InjectionConfig
):
    """f_B(f_A(x)) = f_B(x), s3↔file and Keep↔Override included; the warnings are the same too."""
    over = inject_pod(inject_pod(pod, first).pod, second)
    alone = inject_pod(pod, second)

    assert over.pod == alone.pod
    assert over.warnings == alone.warnings


@given(pod=pods(), config=configs())
def test_removal_gives_back_the_pod_as_it_was(pod: Json, config: InjectionConfig):
    """Whatever was injected or replaced, taking it out leaves exactly what the user wrote."""
    injected = inject_pod(pod, config)

    assert remove_injection(injected.pod).pod == pod


@given(pod=pods(), config=configs())
def test_the_input_is_never_modified_and_the_output_is_deterministic(pod: Json, config: InjectionConfig):
    """Equal inputs give equal outputs, and stay equal themselves."""
    before = copy.deepcopy(pod)

    first = inject_pod(pod, config)
    second = inject_pod(copy.deepcopy(pod), config)

    assert pod == before
    assert first == second
    assert list(map(str, all_containers(first.pod))) == list(map(str, all_containers(second.pod)))
    assert first.changed == (first.pod != pod)


@given(pod=pods(), config=configs())
def test_keep_leaves_every_variable_volume_and_mount_of_the_user(pod: Json, config: InjectionConfig):
    """With Keep the user's entries all stand, in their order, after ours; volumes and mounts always."""
    result = inject_pod(pod, config).pod

    keep = config.plan is not None and config.plan.conflict_policy == "Keep"
    for before, after in zip(all_containers(pod), all_containers(result), strict=True):
        theirs = before.get("env", [])
        if keep:
            assert after.get("env", [])[len(after.get("env", [])) - len(theirs) :] == theirs
        assert after.get("volumeMounts", [])[: len(before.get("volumeMounts", []))] == before.get(
            "volumeMounts", []
        )
    assert result["spec"].get("volumes", [])[: len(pod["spec"].get("volumes", []))] == pod["spec"].get(
        "volumes", []
    )


@given(pod=pods(), config=configs())
def test_groups_are_ours_or_theirs_never_half(pod: Json, config: InjectionConfig):
    """Of the credentials and of the coordinates, a container has the user's or ours, not a mixture."""
    plan = config.plan
    assert plan is not None
    result = inject_pod(pod, config).pod

    for before, after in zip(all_containers(pod), all_containers(result), strict=True):
        for group in (Group.CREDENTIALS, Group.STORE):
            names = GROUP_VARIABLES[group]
            theirs = [entry for entry in before.get("env", []) if entry["name"] in names]
            ours = [item.entry for item in plan.env if item.group is group]
            now = [entry for entry in after.get("env", []) if entry["name"] in names]
            assert now in (theirs, ours)


@given(pod=pods(), config=configs())
def test_injected_pods_are_valid(pod: Json, config: InjectionConfig):
    """What the API server would refuse never comes out: doubled paths or names, mounts without volume."""
    result = inject_pod(pod, config).pod

    volumes = [volume["name"] for volume in result["spec"].get("volumes", [])]
    assert len(set(volumes)) == len(volumes)
    for before, after in zip(all_containers(pod), all_containers(result), strict=True):
        paths = [mount["mountPath"] for mount in after.get("volumeMounts", [])]
        assert len(set(paths)) == len(paths)
        assert {mount["name"] for mount in after.get("volumeMounts", [])} <= set(volumes)
        fresh = [entry["name"] for entry in after.get("env", []) if entry not in before.get("env", [])]
        assert len(set(fresh)) == len(fresh)
    label = result["metadata"].get("labels", {}).get(INJECTED_LABEL)
    assert (label is not None) == (RECORD_ANNOTATION in result["metadata"].get("annotations", {}))


@given(
    pod=pods(),
    config=configs(),
    text=st.one_of(
        st.text(max_size=20),
        st.sampled_from(NO_RECORDS),
    ),
)
def test_a_foreign_annotation_is_ignored_and_said(pod: Json, config: InjectionConfig, text: str):
    """Garbage in our annotation: a warning, nothing taken out, and the result as if it were not there."""
    forged = copy.deepcopy(pod)
    forged["metadata"].setdefault("annotations", {})[RECORD_ANNOTATION] = text

    result = inject_pod(forged, config)

    assert any("is ignored" in warning for warning in result.warnings)
    clean = inject_pod(pod, config)
    if clean.reason is InjectionReason.INJECTED:
        assert result.pod == clean.pod


@given(pod=pods(), config=configs())
def test_a_forged_record_cannot_take_out_what_is_the_users(pod: Json, config: InjectionConfig):
    """A record that claims the user's variables and volumes removes none: they are not what it describes."""
    injected = inject_pod(pod, config).pod
    text = injected["metadata"].get("annotations", {}).get(RECORD_ANNOTATION)
    if text is None:
        return
    forged = copy.deepcopy(pod)
    for container in all_containers(forged):
        container["env"] = [{"name": "BUBU_STORAGE_S3_BUCKET", "value": "mine"}]
    expected = [list(container["env"]) for container in all_containers(forged)]
    forged["metadata"].setdefault("annotations", {})[RECORD_ANNOTATION] = text

    stripped = remove_injection(forged).pod

    for container, theirs in zip(all_containers(stripped), expected, strict=True):
        assert theirs[0] in container["env"]


@given(value=JSON_VALUES, config=configs())
def test_anything_that_is_no_pod_is_handed_back(value: Any, config: InjectionConfig):
    """No JSON value makes injection fail; what is no pod comes back as it is, with a warning."""
    for shape in (value, {"metadata": value, "spec": value}, {"spec": {"containers": [value]}}):
        result = inject_pod(shape, config)
        if result.reason is InjectionReason.MALFORMED_POD:
            assert result.pod is shape
            assert result.warnings
        remove_injection(shape)


@settings(max_examples=300)
@given(before=JSON_VALUES, after=JSON_VALUES)
def test_a_patch_leads_from_one_document_to_the_other(before: Any, after: Any):
    """apply(make(a, b), a) = b by JSON's equality, and the patch is empty exactly for equal documents."""
    patch = make_patch(before, after)

    result = apply_patch(before, patch)
    assert repr(_sorted(result)) == repr(_sorted(after))
    assert (patch == []) == (
        repr(_sorted(before)).replace(".0", "") == repr(_sorted(after)).replace(".0", "")
    )


def _sorted(value: Any) -> Any:
    """Keys in order: then ``repr`` tells what JSON tells apart, ``true`` from ``1`` too."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@given(pod=pods(), config=configs())
def test_the_patch_of_an_injection_is_the_injection(pod: Json, config: InjectionConfig):
    """What the API server applies is what was decided."""
    result = inject_pod(pod, config)

    assert apply_patch(pod, make_patch(pod, result.pod)) == result.pod
