"""The webhook configuration: which pods are asked about, and by which entry."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bubu_operator.api.v1alpha1.common import LabelSelector
from bubu_operator.errors import OptionsError
from bubu_operator.injection import demand_for
from bubu_operator.webhook import configuration
from bubu_operator.webhook.configuration import render_webhook_configuration

FILE = (
    Path(__file__).resolve().parents[3]
    / "charts"
    / "bubu-storage-operator"
    / "files"
    / "webhook-configuration.yaml"
)


def entries_for(
    pod: dict[str, str], namespace: dict[str, str], rendered: dict[str, Any] | None = None
) -> list[str]:
    """Names of the entries whose selectors match."""

    def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
        return LabelSelector.model_validate(selector).matches(labels)

    return [
        entry["name"]
        for entry in (rendered or render_webhook_configuration())["webhooks"]
        if matches(entry["namespaceSelector"], namespace) and matches(entry["objectSelector"], pod)
    ]


def test_each_pod_that_wants_injection_meets_exactly_one_entry():
    """Selectors and `demand_for` say the same, for every combination of labels."""
    inject = [{}, *({"storage.bubustack.io/inject": value} for value in ("true", "false", "other"))]
    engram = [{}, {"bubustack.io/engram": ""}, {"bubustack.io/engram": "x"}]
    strict = [{}, *({"storage.bubustack.io/strict": value} for value in ("true", "false"))]
    for own, kind, namespace, mode in itertools.product(inject, engram, inject, strict):
        pod = {**own, **kind}
        labels = {**namespace, **mode, "kubernetes.io/metadata.name": "flows"}

        found = entries_for(pod, labels)
        assert len(found) == (1 if demand_for(pod, labels).wanted else 0), (pod, labels)
        is_strict = mode.get("storage.bubustack.io/strict") == "true"
        assert all(name.startswith("strict-") == is_strict for name in found)


def test_system_namespaces_and_our_own_are_never_matched():
    """Not even when everything asks for it; said by selector and by condition."""
    labels = {"storage.bubustack.io/inject": "true"}
    names = ("kube-system", "kube-public", "kube-node-lease", "bubu-storage-system")
    for name, strict in itertools.product(names, ("true", "false")):
        namespace = {**labels, "storage.bubustack.io/strict": strict, "kubernetes.io/metadata.name": name}
        assert entries_for(labels, namespace) == []
    for entry in render_webhook_configuration(operator_namespace="elsewhere")["webhooks"]:
        expression = entry["matchConditions"][0]["expression"]
        assert all(f"'{name}'" in expression for name in (*names[:3], "elsewhere"))


def test_names_of_entries_are_unique():
    """The API server refuses a configuration in which two have one name."""
    names = [entry["name"] for entry in render_webhook_configuration()["webhooks"]]

    assert len(set(names)) == len(names) == 6


def test_the_cluster_works_without_us():
    """Ignore unless the namespace wants it otherwise, a short timeout, creations of pods only."""
    for entry in render_webhook_configuration()["webhooks"]:
        strict = entry["name"].startswith("strict-")
        assert entry["failurePolicy"] == ("Fail" if strict else "Ignore")
        assert entry["clientConfig"]["service"]["path"] == ("/mutate/strict" if strict else "/mutate")
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
    for entry in by_url["webhooks"]:
        client = entry["clientConfig"]
        suffix = "/strict" if entry["failurePolicy"] == "Fail" else ""
        assert client["url"] == f"https://127.0.0.1:1/mutate{suffix}"
        assert base64.b64decode(client["caBundle"]) == b"PEM"
        assert "service" not in client


def test_the_file_of_the_chart_is_up_to_date():
    """Rewrite it with ``python -m bubu_operator.webhook.configuration``."""
    assert yaml.safe_load(FILE.read_text()) == render_webhook_configuration()


def test_an_installation_for_one_namespace_is_asked_about_that_one_only():
    """By selector and by condition; within it, the entries choose as ever."""
    rendered = render_webhook_configuration(only_namespace="flows", name="webhook-of-flows")
    asking = {"storage.bubustack.io/inject": "true"}
    for strict in ("true", "false"):
        labels = {"storage.bubustack.io/strict": strict}
        for place, entries in (("flows", 1), ("other", 0), ("kube-system", 0), ("bubu-storage-system", 0)):
            namespace = {**labels, "kubernetes.io/metadata.name": place}
            assert len(entries_for(asking, namespace, rendered)) == entries, (place, strict)
    for entry in rendered["webhooks"]:
        assert {"name": "the-one-namespace", "expression": "request.namespace == 'flows'"} in entry[
            "matchConditions"
        ]
    assert rendered["metadata"]["name"] == "webhook-of-flows"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("kube-system", "the cluster's own"),
        ("bubu-storage-system", "the operator's own"),
        ("Flows", "no name"),
        ("flows' || true || '", "no name"),
    ],
)
def test_a_namespace_in_which_nothing_is_injected_is_refused(place: str, why: str):
    """The webhook would stand in the way of its own start; and what is no name could become CEL."""
    with pytest.raises(OptionsError, match=why):
        render_webhook_configuration(only_namespace=place)
    done = CliRunner().invoke(configuration._main, ["--only-namespace", place])
    assert done.exit_code == 2
    assert why in " ".join(done.output.split())


def test_the_command_prints_what_is_rendered():
    """As YAML, with the options of the function."""
    done = CliRunner().invoke(configuration._main, ["--only-namespace", "flows", "--name", "mine"])

    assert yaml.safe_load(done.output) == render_webhook_configuration(only_namespace="flows", name="mine")
