"""The dashboard: every expression is valid and asks for what our processes show; the layout is whole."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.monitoring.rules import dashboard, metrics_of, panels
from tests.monitoring.test_alerts import exported

EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]
}
WIDTH = 24


def filled(expr: str) -> str:
    """Return an expression with Grafana's variables replaced."""
    return expr.replace("$__rate_interval", "2m").replace("$namespace", ".*")


def test_promtool_parses_every_expression(promtool: Path, tmp_path: Path):
    """As rules, which a Prometheus has to understand."""
    rules = [{"record": f"panel:n{n}", "expr": filled(expr)} for n, expr in enumerate(EXPRESSIONS.values())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    command = [str(promtool), "check", "rules", "--lint=none", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(rules)} rules found" in result.stdout


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_panels_ask_only_for_what_our_processes_show(name: str):
    """And group by labels that are there."""
    expr = EXPRESSIONS[name]
    metrics = metrics_of(expr)
    labels = {"alertname", "pod", "namespace"}.union(*(exported()[metric] for metric in metrics))

    assert metrics or "ALERTS{" in expr
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
        assert set(grouped.split(", ")) <= labels


def test_legends_name_labels_that_the_expression_leaves():
    """A legend with a label that is aggregated away is empty."""
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_every_panel_has_its_place():
    """Within the width, over nobody else; each has a number and a description of its own."""
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))
    assert all(panel["description"].endswith(".") for panel in panels())


def test_the_rows_and_variables_are_those_of_the_docs():
    """Health comes first."""
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    variables = [variable["name"] for variable in dashboard()["templating"]["list"]]

    assert rows == ["Health", "Injection", "Retention", "Stores", "Processes"]
    assert variables == ["datasource", "namespace"]


def test_every_panel_asks_the_chosen_data_source():
    """So that it can be imported anywhere."""
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
