"""Golden cases: see README.md beside this file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from bubu_operator.injection import inject_pod, load_config, remove_injection
from bubu_operator.injection.names import RECORD_ANNOTATION

HERE = Path(__file__).resolve().parent
CASES = sorted(path.parent for path in HERE.glob("*/pod.yaml"))


def test_golden_cases_are_found():
    """An empty folder would pass every other test here."""
    assert len(CASES) >= 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_case(case: Path, regenerate_golden: bool):
    """Injection gives exactly the expected pod, reason and warnings; twice is once; removal undoes it."""
    user_pod = yaml.safe_load((case / "pod.yaml").read_text("utf-8"))
    pod, result, config = copy.deepcopy(user_pod), None, None
    for document in yaml.safe_load_all((case / "config.yaml").read_text("utf-8")):
        config = load_config(document)
        result = inject_pod(pod, config)
        pod = result.pod
    assert result is not None
    assert config is not None
    actual: dict[str, Any] = {
        "reason": str(result.reason),
        "warnings": list(result.warnings),
        "pod": result.pod,
    }

    if regenerate_golden:
        text = yaml.dump(actual, sort_keys=False, width=110, Dumper=_NoAliases)
        (case / "expected.yaml").write_text(text, "utf-8")
    assert actual == yaml.safe_load((case / "expected.yaml").read_text("utf-8"))
    assert inject_pod(pod, config).pod == pod
    if RECORD_ANNOTATION not in user_pod["metadata"].get("annotations", {}):
        assert remove_injection(pod).pod == user_pod


class _NoAliases(yaml.SafeDumper):
    """Writes equal parts out each time: anchors are no reading."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the parent's signature
        return True
