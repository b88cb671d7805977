"""A real Prometheus scrapes both roles: reference, alerts and dashboard are of what it gets."""

from __future__ import annotations

import http.client
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, install, until
from tests.cluster.processes import free_port, spawn
from tests.cluster.webhook_harness import install_webhook
from tests.monitoring.rules import ROOT, alerts, panels
from tests.monitoring.server import OPERATOR_NAMESPACE, PrometheusServer, Target
from tests.monitoring.test_dashboard import filled

pytestmark = pytest.mark.cluster

PAGE = (ROOT / "docs" / "reference" / "operator-metrics.md").read_text("utf-8")
API = "storage.bubustack.io/v1alpha1"


def scraped(port: int) -> str:
    """Return what a process shows, "" while it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def names_in(text: str) -> set[str]:
    """Return the names of metrics as the page writes them, without their helpers."""
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }


def names_of_page(*headings: str) -> set[str]:
    """Return the names in some sections' tables."""
    found: set[str] = set()
    for heading in headings:
        section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        found |= set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def ports(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A controller, which leads, and a webhook; where each shows its metrics."""
    workdir = tmp_path_factory.mktemp("monitoring")
    install(cluster)
    install_webhook(cluster)
    kubeconfig = workdir / "webhook.kubeconfig"
    cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, "bubu-storage-webhook", kubeconfig)
    port, metrics_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "bubu_operator", "webhook", "--kubeconfig", str(kubeconfig)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--metrics-host", "127.0.0.1", "--metrics-port", str(metrics_port)),
    ]
    webhook = spawn("webhook", command, log=workdir / "webhook.log")
    try:
        with ControllerProcess(cluster, workdir, roots=[workdir]) as controller:
            until(lambda: scraped(metrics_port), "the webhook shows its metrics", 30)
            yield controller.port, metrics_port
    finally:
        webhook.stop(grace_seconds=5.0)


def test_the_reference_lists_exactly_what_the_processes_show(ports: tuple[int, int]):
    """Name by name, for each role."""
    texts = [until(lambda port=port: scraped(port), f"metrics on port {port}", 30) for port in ports]
    controller, webhook = map(names_in, texts)

    assert controller == names_of_page("Controller", "Process")
    assert webhook == names_of_page("Webhook", "Process")


def test_prometheus_takes_the_alerts_and_keeps_our_labels(
    cluster: Cluster, namespace: str, ports: tuple[int, int], tmp_path: Path
):
    """A tenant's namespace stays, a cluster-wide object has none, all else gets the operator's."""
    store = tmp_path / "store"
    store.mkdir()
    spec = {"file": {"path": str(store)}}
    here = {"name": f"in-{namespace}", "namespace": namespace}
    everywhere = {"name": f"of-{namespace}"}
    selector = {"namespaceSelector": {"matchLabels": {"nobody": "has-this"}}}
    cluster.apply(
        {"apiVersion": API, "kind": "StorageConfig", "metadata": here, "spec": spec},
        {"apiVersion": API, "kind": "ClusterStorageConfig", "metadata": everywhere, "spec": spec | selector},
    )
    targets = [Target(name, port) for name, port in zip(("controller", "webhook"), ports, strict=True)]
    with PrometheusServer(tmp_path / "prometheus", targets, scrape_seconds=5) as server:

        def stores() -> dict[str, str | None]:
            found = server.query("bubu_store_ready")
            return {one["metric"]["name"]: one["metric"].get("namespace") for one in found}

        until(lambda: {here["name"], everywhere["name"]} <= stores().keys(), "both stores are scraped", 30)
        seen = stores()
        until(lambda: len(server.query("up == 1")) == 2, "both are scraped", 30)
        # A scrape that came too late leaves no value for a moment.
        (leader,) = until(lambda: server.query("bubu_controller_leader"), "the leader's metric", 30)
        rules = [rule for group in server.api("rules")["groups"] for rule in group["rules"]]
        for panel in panels():
            for target in panel["targets"]:
                server.query(filled(target["expr"]))
    cluster.kubectl("delete", "clusterstorageconfig", everywhere["name"])

    assert (seen[here["name"]], seen[everywhere["name"]]) == (namespace, None)
    assert leader["metric"]["namespace"] == OPERATOR_NAMESPACE
    assert {rule["name"] for rule in rules} == {alert.name for alert in alerts()}
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
