"""Words that pages take from the code are words of the code: labels, metrics, reasons, the chart's values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from bubu_operator.api.v1alpha1 import KINDS, ConditionType, Reason
from bubu_operator.api.v1alpha1.conditions import EventReason
from bubu_operator.injection import Demand, InjectionReason
from bubu_operator.injection.explain import CarriedState, ExcludedReason
from bubu_operator.injection.select import SelectionReason
from bubu_operator.webhook.mutate import SkipReason
from bubu_storage.retention import reasons
from bubu_storage.retention.report import StoppedBy
from tests.unit.docs.pages import CHART, DOCS, PAGES, ROOT, name_of

NOW = [page for page in PAGES if page.parent.name != "adr" and page.name != "CHANGELOG.md"]
"""Pages that speak of today; decisions and the changelog tell of their time."""

VOCABULARIES: tuple[type[StrEnum], ...] = (
    ConditionType, Reason, EventReason, Demand, InjectionReason, CarriedState, SelectionReason, SkipReason,
    ExcludedReason, reasons.Reason, StoppedBy,
)  # fmt: skip
KUBERNETES = {
    "ClusterRole", "ConfigMap", "CreateContainerConfigError", "DaemonSet", "DaemonSets", "Deployment",
    "Deployments", "Enforce", "ErrImageNeverPull", "ImagePullBackOff", "Job", "Jobs", "Keep", "Kustomization",
    "MutatingWebhookConfiguration", "OOMKilled", "OnDelete", "Override", "Pending", "RoleBinding", "Secret",
    "StatefulSet", "StatefulSets", "Terminating", "StoryRun", "StepRun", "RuntimeDefault", "DryRun",
    "Unknown", "AssumeRoleWithWebIdentity", "PreDelete", "StorageDisabledError", "True", "False",
}  # fmt: skip
"""Words of others, and of our fields, that stand in code style on the pages below."""

REASONED = (
    "install",
    "upgrade",
    "gitops",
    "multi-tenant",
    "workload-identity",
    "troubleshooting",
    "security",
)


def sources() -> Iterable[str]:
    """Return the text of every module of the operator and the library."""
    for folder in (ROOT / "operator" / "bubu_operator", ROOT / "storage_lib" / "bubu_storage"):
        for path in sorted(folder.rglob("*.py")):
            yield path.read_text("utf-8")


@pytest.fixture(scope="module")
def source() -> str:
    """All of it, as one text."""
    return "".join(sources())


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_labels_and_annotations_exist(page: Path, source: str):
    """Each name below our domain is one that the operator reads or writes."""
    known = set(re.findall(r"(?:DOMAIN\}|GROUP\}|storage\.bubustack\.io)/([a-z][a-z-]+\w)", source))
    named = set(
        re.findall(r"(?<![\w.])storage\.bubustack\.io/(?!v1)([a-z][a-z-]*\w)", page.read_text("utf-8"))
    )

    assert named - known == set()


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_metrics_exist(page: Path, source: str):
    """Each metric on a page is named in the code that counts it."""
    named = set(re.findall(r"`(bubu_[a-z0-9_]+)(?:[{ `=<>])", page.read_text("utf-8")))
    names = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in named}

    assert {name for name in names - {"bubu_storage", "bubu_operator"} if f'"{name}' not in source} == set()


@pytest.mark.parametrize("name", REASONED)
def test_reasons_exist(name: str):
    """Each word in CamelCase is a reason, a kind, or one of the known others."""
    known = (
        {str(word) for words in VOCABULARIES for word in words} | {kind.KIND for kind in KINDS} | KUBERNETES
    )
    page = re.sub(
        r"^```.*?^```$", "", (DOCS / f"{name}.md").read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][A-Za-z]*)+|[A-Z][a-z]{5,})`", page))

    assert named - known == set()


@pytest.mark.parametrize("page", NOW, ids=name_of)
def test_values_of_the_chart_exist(page: Path):
    """Each dotted name that begins with one of the chart's sections leads to a value."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    sections = {name for name, value in values.items() if isinstance(value, dict)}
    wrong: list[str] = []
    for path in re.findall(r"`([a-z]\w*(?:\.\w+)+)(?:[=:][^`]*)?`", page.read_text("utf-8")):
        first, *rest = path.split(".")
        if first not in sections or path.endswith((".py", ".md", ".yaml", ".json")):
            continue
        place = values[first]
        for name in rest:
            if not isinstance(place, dict) or (place and name not in place):
                wrong.append(path)
                break
            place = place.get(name, {})

    assert wrong == []
