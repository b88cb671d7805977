"""The alert rules: promtool's own tests of them, and that each has what an on-call person needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from bubu_operator.observability.controller_metrics import ControllerMetrics
from bubu_operator.observability.process_metrics import process_registry
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from tests.monitoring.rules import ALERTS_FILE, ROOT, Alert, alerts, metrics_of

CASES_FILE = Path(__file__).with_name("alerts.test.yaml")
NAMES = [alert.name for alert in alerts()]


def run(promtool: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [str(promtool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def cases() -> list[dict[str, Any]]:
    """Return the test groups of promtool's file."""
    return yaml.safe_load(CASES_FILE.read_text("utf-8"))["tests"]


def exported() -> dict[str, set[str]]:
    """Return every series name that both roles can show, with its labels."""
    names: dict[str, set[str]] = {}
    for registry in (ControllerMetrics().registry, WebhookMetrics().registry, process_registry()):
        names |= _names(registry)
    return names


def _names(registry: CollectorRegistry) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for collector in registry._collector_to_names:  # pyright: ignore[reportPrivateUsage] - there is no public list
        labels = set[str](getattr(collector, "_labelnames", ()))
        for metric in collector.collect():
            name = metric.name + ("_total" if metric.type == "counter" else "")
            names[name] = labels
            if metric.type == "histogram":
                names |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": labels | {"le"}}
    return names


def test_promtool_finds_no_fault(promtool: Path):
    """Syntax, types, templates and duplicates."""
    result = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS_FILE)

    assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_fires_when_it_should_and_not_in_a_healthy_system(promtool: Path):
    """By the simulated series of alerts.test.yaml."""
    result = run(promtool, "test", "rules", CASES_FILE)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(name: str):
    """Under its name; the healthy system counts for all."""
    samples = [
        check["exp_samples"]
        for case in cases()
        if case["name"].startswith(f"{name} ")
        for check in case["promql_expr_test"]
    ]
    assert any(samples), "no case in which it fires"
    assert not all(samples), "no case in which it does not"


@pytest.mark.parametrize(("mutant", "expr"), [("deaf", "vector(1) > 1"), ("jumpy", "vector(1)")])
def test_the_cases_notice_alerts_that_are_deaf_or_jumpy(
    mutant: str, expr: str, promtool: Path, tmp_path: Path
):
    """Each of them by its own cases, so none is a test that cannot fail."""
    document = yaml.safe_load(ALERTS_FILE.read_text("utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            rule |= {"expr": expr, "for": "0s"}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document))
    whole = yaml.safe_load(CASES_FILE.read_text("utf-8"))
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(whole | {"rule_files": ["rules.yaml"]}))

    result = run(promtool, "test", "rules", tmp_path / "cases.yaml")

    assert result.returncode == 1
    noticed = set(re.findall(r'expr: "ALERTS\{alertname=\\"(\w+)', result.stdout + result.stderr))
    assert noticed >= set(NAMES), (mutant, sorted(set(NAMES) - noticed))


def test_the_healthy_system_is_one_of_everything_that_alerts_ask_for():
    """A metric that is missing there would say nothing about the alert."""
    healthy = next(case for case in cases() if case["name"].startswith("a healthy system"))
    given = {name for series in healthy["input_series"] for name in metrics_of(series["series"])}
    asked = {name for alert in alerts() for name in metrics_of(alert.expr)}

    assert asked - given - {"bubu_injection_unconfigured_pods"} == set()


@pytest.mark.parametrize("alert", alerts(), ids=NAMES)
def test_alerts_ask_only_for_what_our_processes_show(alert: Alert):
    """A misspelt metric would never fire, and never be missed."""
    asked = metrics_of(alert.expr)

    assert asked or "up{" in alert.expr
    assert asked - exported().keys() == set()


def test_the_cases_use_labels_that_the_metrics_have():
    """Besides those that Prometheus adds to each target."""
    added = {"job", "instance", "namespace", "pod"}
    for case in cases():
        for series in case["input_series"]:
            name, _, rest = series["series"].partition("{")
            if name != "up":
                labels = {pair.partition("=")[0].strip() for pair in rest.rstrip("}").split('",')}
                assert exported()[name] - {"namespace"} <= labels <= exported()[name] | added, series


@pytest.mark.parametrize("alert", alerts(), ids=NAMES)
def test_each_alert_says_what_is_wrong_and_where_to_read_on(alert: Alert):
    """Severity of three; a sentence; an explanation; an entry of the runbook that exists."""
    assert alert.severity in {"critical", "warning", "info"}
    assert alert.annotations["summary"].endswith(".")
    assert len(alert.annotations["description"]) > len(alert.annotations["summary"]) / 2
    page, _, anchor = alert.annotations["runbook_url"].partition("#")
    assert anchor == alert.name.lower()
    assert f"\n### {alert.name}\n" in (ROOT / page).read_text("utf-8")


def test_the_page_lists_the_alerts():
    """In the order of the file, with their severity and a link to the runbook."""
    page = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(runbook\.md#(\w+)\) \| (\w+) \|$", page, re.MULTILINE)

    assert listed == [(alert.name, alert.name.lower(), alert.severity) for alert in alerts()]
