"""Objects and values that pages show are ones that the cluster and the chart take.

Here their shape is judged, without a cluster; ``tests/cluster/test_docs.py`` gives them to a real
API server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import yaml

from bubu_operator.api.v1alpha1 import API_VERSION, KINDS
from tests.unit.docs.pages import (
    CHART,
    DOCS,
    PAGES,
    VALUES_MARK,
    Block,
    Command,
    Manifest,
    blocks_of,
    commands_of,
    manifests_of,
    values_of,
)

MODELS = {kind.KIND: kind for kind in KINDS}
MANIFESTS = [manifest for page in PAGES for manifest in manifests_of(page)]
OURS = [manifest for manifest in MANIFESTS if manifest.body["apiVersion"] == API_VERSION]
VALUES = [found for page in PAGES for found in values_of(page)]
HELM = [
    command
    for page in PAGES
    for command in commands_of(page, "helm")
    if command.words[1] in {"install", "upgrade", "template"}
]
WHOLE_PAGES = (
    "README", "install", "upgrade", "gitops", "private-clusters", "multi-tenant", "workload-identity",
    "troubleshooting", "security",
)  # fmt: skip
"""Pages for people who paste: every YAML block is something whole."""


def defaults() -> dict[str, Any]:
    """Return the chart's values."""
    return cast("dict[str, Any]", yaml.safe_load((CHART / "values.yaml").read_text("utf-8")))


def unknown_paths(values: dict[str, Any], known: dict[str, Any], above: str = "") -> Iterator[str]:
    """Name what the chart has no value for; below an empty map anything goes."""
    for name, value in values.items():
        path = f"{above}{name}"
        if name not in known:
            yield path
        elif isinstance(value, dict) and isinstance(known[name], dict) and known[name]:
            yield from unknown_paths(cast("dict[str, Any]", value), known[name], f"{path}.")


def settings_of(command: Command) -> dict[str, Any]:
    """Return what the ``--set`` options of a command line set, as values."""
    found: dict[str, Any] = {}
    words = [word.removeprefix("--set=") for word in command.words if word.startswith("--set=")]
    words += [after for word, after in zip(command.words, command.words[1:], strict=False) if word == "--set"]
    for word in words:
        path, _, value = word.partition("=")
        *above, last = path.split(".")
        place = found
        for name in above:
            place = cast("dict[str, Any]", place.setdefault(name, {}))
        place[last] = yaml.safe_load(value) if not value.startswith("{") else value
    return found


def test_there_are_objects_values_and_commands():
    """So that a changed fence does not make the other tests empty."""
    assert {kind.KIND for kind in KINDS} == {manifest.body["kind"] for manifest in OURS}
    assert len(VALUES) >= 8
    assert len(HELM) >= 2


@pytest.mark.parametrize("manifest", OURS, ids=str)
def test_an_object_of_ours_is_valid(manifest: Manifest):
    """By the models that the CRDs are made from."""
    body = {**manifest.body, "metadata": {"uid": "", "generation": 1, **manifest.body["metadata"]}}

    MODELS[manifest.body["kind"]].model_validate(body)


@pytest.mark.parametrize(
    "block",
    [block for name in WHOLE_PAGES for block in blocks_of(DOCS / f"{name}.md") if block.language == "yaml"],
    ids=str,
)
def test_a_block_for_pasting_is_whole(block: Block):
    """Each document has a kind, or the block says that it is values; no fragment stands alone."""
    documents = list(yaml.safe_load_all(block.text))

    assert block.text.startswith(VALUES_MARK) or all(
        {"apiVersion", "kind", "metadata"} <= document.keys() for document in documents
    )


@pytest.mark.parametrize(("where", "values"), VALUES, ids=[where for where, _ in VALUES])
def test_values_are_values_of_the_chart(where: str, values: dict[str, Any]):
    """No page shows a value that was renamed."""
    assert values
    assert list(unknown_paths(values, defaults())) == []


@pytest.mark.parametrize("command", HELM, ids=str)
def test_helm_sets_what_the_chart_has(command: Command):
    """And names the chart of this repository."""
    assert list(unknown_paths(settings_of(command), defaults())) == []
    charts = [word for word in command.words if word.startswith("charts/")]
    assert [chart for chart in charts if not (CHART.parents[1] / chart / "Chart.yaml").exists()] == []


def test_a_wrong_value_is_noticed():
    """The judge of these tests is one."""
    assert list(unknown_paths({"image": {"tags": "x"}, "webhok": {}}, defaults())) == ["image.tags", "webhok"]
