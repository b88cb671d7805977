"""Golden cases: see README.md beside this file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from bubu_operator.injection import apply_patch, inject_pod, load_config, remove_injection
from bubu_operator.injection.explain import explain_pod
from bubu_operator.injection.names import RECORD_ANNOTATION

HERE = Path(__file__).resolve().parent
CASES = sorted(path.parent for path in HERE.glob("*/pod.yaml"))

Json = dict[str, Any]


def test_golden_cases_are_found():
    """An empty folder would pass every other test here."""
    assert len(CASES) >= 60


def documents(case: Path) -> list[Json]:
    """What happens to the pod, in order."""
    return list(yaml.safe_load_all((case / "config.yaml").read_text("utf-8")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_case(case: Path, regenerate_golden: bool):
    """What comes out is exactly what is expected; twice is once; removal undoes it."""
    user_pod = yaml.safe_load((case / "pod.yaml").read_text("utf-8"))
    given = documents(case)
    before = copy.deepcopy(user_pod)
    decided = any(document["kind"] == "Namespace" for document in given)

    actual = decide(user_pod, given) if decided else inject_in_turn(user_pod, given)

    assert user_pod == before
    if regenerate_golden:
        text = yaml.dump(actual, sort_keys=False, width=110, Dumper=_NoAliases)
        (case / "expected.yaml").write_text(text, "utf-8")
    assert actual == yaml.safe_load((case / "expected.yaml").read_text("utf-8"))
    patched = any(document["kind"] == "Patch" for document in given)
    if not patched and RECORD_ANNOTATION not in user_pod["metadata"].get("annotations", {}):
        assert remove_injection(actual["pod"]).pod == user_pod


def inject_in_turn(pod: Json, given: list[Json]) -> Json:
    """One config after the other, and what others do in between."""
    result = None
    for document in given:
        if document["kind"] == "Patch":
            pod = apply_patch(pod, document["operations"])
            continue
        config = load_config(document)
        result = inject_pod(pod, config)
        pod = result.pod
        assert inject_pod(pod, config).pod == pod
    assert result is not None
    return {"reason": str(result.reason), "warnings": list(result.warnings), "pod": pod}


def decide(pod: Json, given: list[Json]) -> Json:
    """The whole decision, with the documents as the cluster."""
    namespace = next(document["metadata"] for document in given if document["kind"] == "Namespace")
    configs = [load_config(document) for document in given if document["kind"] != "Namespace"]
    own = [config for config in configs if config.namespace]
    shared = [config for config in configs if not config.namespace]

    told = explain_pod(pod, namespace["name"], namespace["labels"], own, shared)

    chosen = next((config for config in configs if str(config) == told.config), None)
    result = pod if chosen is None else inject_pod(pod, chosen).pod
    if chosen is not None:
        assert inject_pod(result, chosen).pod == result
    return {
        "asks": told.demand_text,
        "config": told.selection_text,
        "candidates": [f"{candidate.config}: {candidate.note}" for candidate in told.candidates],
        "reason": told.outcome,
        "warnings": list(told.warnings),
        "pod": result,
    }


class _NoAliases(yaml.SafeDumper):
    """Writes equal parts out each time: anchors are no reading."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the parent's signature
        return True
