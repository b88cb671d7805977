"""What the chart and the docs give a Prometheus: targets that exist, unchanged alerts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import Rendered, render
from tests.monitoring.rules import ALERTS_FILE, ROOT, dashboard
from tests.monitoring.server import JOB

MONITORS = {"PodMonitor": "podMonitor", "ServiceMonitor": "serviceMonitor"}


@pytest.fixture(scope="module")
def everything() -> Rendered:
    """The chart with all of monitoring."""
    switches = ("podMonitor", "serviceMonitor", "prometheusRule", "dashboard")
    monitoring: dict[str, dict[str, Any]] = {name: {"enabled": True} for name in switches}
    monitoring["prometheusRule"]["runbookBaseUrl"] = "https://git.example/v1"
    return render({"monitoring": monitoring})


def alerts_with_links(base: str | None) -> dict[str, Any]:
    """Return the file of alerts with its links below an address, or with none of them."""
    document = yaml.safe_load(ALERTS_FILE.read_text("utf-8"))
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        link = rule["annotations"].pop("runbook_url")
        if base:
            rule["annotations"]["runbook_url"] = base + link
    return document


@pytest.mark.chart
def test_each_pod_monitor_selects_the_pods_of_one_role_and_a_port_that_they_have(everything: Rendered):
    """By labels and names of the Deployments."""
    pods = {
        deployment["metadata"]["name"]: deployment["spec"]["template"]
        for deployment in everything.of("Deployment")
    }
    for monitor in everything.of("PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (found,) = (name for name, pod in pods.items() if wanted <= pod["metadata"]["labels"].items())
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        ports = {
            port["name"] for container in pods[found]["spec"]["containers"] for port in container["ports"]
        }
        assert found == monitor["metadata"]["name"]
        assert endpoint["port"] in ports
    assert {one["metadata"]["name"] for one in everything.of("PodMonitor")} == pods.keys()


@pytest.mark.chart
def test_each_service_monitor_selects_one_service_with_the_port(everything: Rendered):
    """The Service for reviews must not be scraped."""
    for monitor in everything.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        (_,) = (
            service
            for service in everything.of("Service")
            if wanted <= service["metadata"]["labels"].items()
            and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        )
    assert len(everything.of("ServiceMonitor")) == 2


@pytest.mark.chart
@pytest.mark.parametrize("kind", MONITORS)
def test_monitors_give_the_job_its_name_and_keep_our_labels(kind: str, everything: Rendered):
    """As the alerts expect."""
    for monitor in everything.of(kind):
        spec = monitor["spec"]
        (endpoint,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
        assert endpoint["honorLabels"] is True
        assert monitor["metadata"]["labels"][spec["jobLabel"]] == JOB


@pytest.mark.chart
def test_rules_and_dashboard_are_the_files(everything: Rendered):
    """Templates of Prometheus and Grafana come through Helm unharmed."""
    (rule,) = everything.of("PrometheusRule")
    (shown,) = (
        one for one in everything.of("ConfigMap") if one["metadata"]["labels"].get("grafana_dashboard")
    )

    assert rule["spec"] == alerts_with_links("https://git.example/v1/")
    assert [json.loads(text) for text in shown["data"].values()] == [dashboard()]


@pytest.mark.chart
def test_no_alert_has_a_link_that_leads_nowhere():
    """Half an address is none: a receiver that makes a button of it may refuse the notification."""
    (rule,) = render({"monitoring": {"prometheusRule": {"enabled": True}}}).of("PrometheusRule")

    assert rule["spec"] == alerts_with_links(None)


@pytest.mark.chart
def test_nothing_of_it_is_there_by_default():
    """A cluster without the Prometheus operator takes the chart."""
    kinds = {one["kind"] for one in render().objects}

    assert kinds & {*MONITORS, "PrometheusRule"} == set()


def test_the_configuration_in_the_docs_is_one_that_prometheus_takes(promtool: Path, tmp_path: Path):
    """With the job's name and the labels that the alerts expect."""
    page = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(- job_name:.*?)^```$", page, re.DOTALL | re.MULTILINE)
    jobs = yaml.safe_load(block)
    path = tmp_path / "prometheus.yaml"
    path.write_text(yaml.safe_dump({"scrape_configs": jobs, "rule_files": [str(ALERTS_FILE)]}))

    command = [str(promtool), "check", "config", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    assert result.returncode == 0, result.stdout + result.stderr
    assert [(job["job_name"], job["honor_labels"]) for job in jobs] == [(JOB, True)]
