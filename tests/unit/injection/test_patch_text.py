"""The quick patch of an injection means the same as the comparison of the two pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from bubu_operator.injection import InjectionConfig, apply_patch, inject_pod, make_patch, patch_text
from bubu_operator.injection.environment import canonical_json
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from tests.unit.injection.builders import config, container, pod
from tests.unit.injection.strategies import configs, pods

Json = dict[str, Any]


def effect(before: Json, chosen: InjectionConfig) -> str:
    """Hold the quick patch against the general one and the pod that came out; gives its text."""
    result = inject_pod(before, chosen)
    text = patch_text(before, result)
    assert text.isascii()
    quick = apply_patch(before, json.loads(text))
    assert quick == apply_patch(before, make_patch(before, result.pod))
    assert canonical_json(quick) == canonical_json(result.pod)
    return text


@settings(max_examples=400)
@given(before=pods(), chosen=configs())
def test_it_has_the_effect_of_the_comparison(before: Json, chosen: InjectionConfig):
    """Whatever the pod sets itself, and whatever the config's policy."""
    effect(before, chosen)


@given(before=pods(), first=configs(), second=configs())
def test_it_has_the_effect_of_the_comparison_over_an_earlier_injection(
    before: Json, first: InjectionConfig, second: InjectionConfig
):
    """What is taken out is in the patch, too."""
    effect(inject_pod(before, first).pod, second)


@given(before=pods(), chosen=configs())
def test_the_record_is_canonical_json(before: Json, chosen: InjectionConfig):
    """Put together from texts, it is still what an encoder writes: equal records are equal texts."""
    record = inject_pod(before, chosen).pod["metadata"].get("annotations", {}).get(RECORD_ANNOTATION)

    assert record is None or canonical_json(json.loads(record)) == record


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"name": "p", "labels": None, "annotations": None},
        {"labels": {INJECTED_LABEL: "forged", "a/b~c": "é"}},
        {"annotations": {RECORD_ANNOTATION: "no record", "x": "y"}},
    ],
)
@pytest.mark.parametrize(
    "own", [None, [], [{"name": "A", "value": '"\\é'}], [{"name": "BUBU_IMPULSE_NAMESPACE"}]]
)
def test_parts_of_a_pod_may_be_absent_null_or_empty(metadata: Json, own: list[Json] | None):
    """All of them are made by additions alone."""
    before = pod(container("main"), container("side", env=[{"name": "B", "value": "1"}]))
    before["metadata"] = metadata
    before["spec"]["containers"][0]["env"] = own

    operations = json.loads(effect(before, config()))

    variables = [item["path"] for item in operations if item["path"].startswith("/spec/containers/1/env")]
    assert variables
    assert set(variables) == {"/spec/containers/1/env/0"}


def test_a_pod_without_metadata_is_patched_too():
    """A template may have none."""
    before = pod(container("main"))
    del before["metadata"]

    assert json.loads(effect(before, config()))


def test_nothing_changed_is_an_empty_patch():
    """As of the comparison."""
    before = inject_pod(pod(container("main")), config()).pod

    assert effect(before, config()) == "[]"
