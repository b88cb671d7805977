"""The webhook configuration: which pods are asked about, and by which entry."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path
from typing import Any

import yaml

from bubu_operator.api.v1alpha1.common import LabelSelector
from bubu_operator.injection import demand_for
from bubu_operator.webhook.configuration import render_webhook_configuration

FILE = (
    Path(__file__).resolve().parents[3]
    / "charts"
    / "bubu-storage-operator"
    / "files"
    / "webhook-configuration.yaml"
)


def entries_for(pod: dict[str, str], namespace: dict[str, str]) -> list[str]:
    """Names of the entries whose selectors match."""

    def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        return LabelSelector.model_validate(selector).matches(labels)

    return [
        entry["name"]
        for entry in render_webhook_configuration()["webhooks"]
        if matches(entry["namespaceSelector"], namespace) and matches(entry["objectSelector"], pod)
    ]


def test_each_pod_that_wants_injection_meets_exactly_one_entry():
    """Selectors and `demand_for` say the same, for every combination of labels."""
    inject = [{}, *({"storage.bubustack.io/inject": value} for value in ("true", "false", "other"))]
    engram = [{}, {"bubustack.io/engram": ""}, {"bubustack.io/engram": "x"}]
    for own, kind, namespace in itertools.product(inject, engram, inject):
        pod = {**own, **kind}
        labels = {**namespace, "kubernetes.io/metadata.name": "flows"}

        expected = 1 if demand_for(pod, labels).wanted else 0
        assert len(entries_for(pod, labels)) == expected, (pod, labels)


def test_system_namespaces_and_our_own_are_never_matched():
    """Not even when everything asks for it."""
    labels = {"storage.bubustack.io/inject": "true"}
    for name in ("kube-system", "kube-public", "kube-node-lease", "bubu-storage-system"):
        assert entries_for(labels, {**labels, "kubernetes.io/metadata.name": name}) == []


def test_the_cluster_works_without_us():
    """Ignore, a short timeout, creations of pods only."""
    for entry in render_webhook_configuration()["webhooks"]:
        assert entry["failurePolicy"] == "Ignore"
        assert entry["timeoutSeconds"] == 5
        assert entry["sideEffects"] == "NoneOnDryRun"
        assert entry["rules"][0]["operations"] == ["CREATE"]
        assert entry["rules"][0]["resources"] == ["pods"]


def test_client_by_service_or_by_url():
    """The chart uses the Service and leaves caBundle out; tests and demo use a URL and give one."""
    service = render_webhook_configuration()["webhooks"][0]["clientConfig"]
    assert service["service"]["path"] == "/mutate"
    assert "caBundle" not in service
    by_url = render_webhook_configuration(url="https://127.0.0.1:1/mutate", ca_bundle_pem="PEM")
    client = by_url["webhooks"][2]["clientConfig"]
    assert client["url"] == "https://127.0.0.1:1/mutate"
    assert base64.b64decode(client["caBundle"]) == b"PEM"
    assert "service" not in client


def test_the_file_of_the_chart_is_up_to_date():
    """Rewrite it with ``python -m bubu_operator.webhook.configuration``."""
    assert yaml.safe_load(FILE.read_text()) == render_webhook_configuration()
