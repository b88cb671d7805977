"""The chart registers the webhook exactly as the operator's own module says."""

from __future__ import annotations

import os
from typing import Any

import pytest

from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.chart.matrix import MATRIX, TENANT
from tests.chart.programs import ensure_helm, ensure_helm3
from tests.chart.rendering import NAMESPACE, render

OWN = MATRIX["own-secret"]
KIND = "MutatingWebhookConfiguration"


@pytest.mark.parametrize(
    ("values", "namespace", "arguments"),
    [
        ({}, NAMESPACE, {}),
        ({}, "storage", {"operator_namespace": "storage"}),
        (
            {"namePrefix": "second"},
            NAMESPACE,
            {"service_name": "second-webhook", "name": "second-webhook"},
        ),
        ({"scopedNamespace": TENANT}, NAMESPACE, {"only_namespace": TENANT}),
        (
            MATRIX["own-secret"],
            NAMESPACE,
            {"ca_bundle_pem": MATRIX["own-secret"]["webhook"]["certificates"]["caBundle"]},
        ),
    ],
    ids=["default", "namespace", "prefix", "scoped", "caBundle"],
)
def test_the_registration_is_the_operators_own(values: Any, namespace: str, arguments: dict[str, str]):
    """Entry by entry the same, so what is tested of the module holds for the chart."""
    expected = render_webhook_configuration(**arguments)

    found = render(values, namespace=namespace).of(KIND)

    assert [expected["metadata"]["name"]] == [one["metadata"]["name"] for one in found]
    assert expected["webhooks"] == found[0]["webhooks"]


@pytest.mark.parametrize("case", [case for case in MATRIX if case != "own-secret"])
def test_no_authority_is_rendered(case: str):
    """What does not name caBundle does not wipe it, and GitOps tools see no difference."""
    (configuration,) = render(MATRIX[case]).of(KIND)

    assert all("caBundle" not in entry["clientConfig"] for entry in configuration["webhooks"])


def test_excluded_namespaces_are_kept_out_twice():
    """By the selector, which reads a label, and by the condition, which reads the request."""
    (configuration,) = render({"webhook": {"excludedNamespaces": ["loud"]}}).of(
        "MutatingWebhookConfiguration"
    )

    for entry in configuration["webhooks"]:
        assert "loud" in entry["namespaceSelector"]["matchExpressions"][0]["values"]
        assert "'loud'" in entry["matchConditions"][0]["expression"]


def test_cert_manager_is_asked_to_write_the_authority():
    """Its injector takes it from the Certificate that the chart makes."""
    rendered = render(MATRIX["cert-manager"])
    (configuration,) = rendered.of(KIND)

    assert (
        f"{NAMESPACE}/bubu-storage-webhook"
        == configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    )
    certificate = rendered.one("Certificate", "bubu-storage-webhook")
    assert f"bubu-storage-webhook.{NAMESPACE}.svc" in certificate["spec"]["dnsNames"]


@pytest.mark.skipif(
    os.environ.get("BUBU_LONG_TESTS") != "1", reason="builds Helm 3, which takes minutes: BUBU_LONG_TESTS=1"
)
@pytest.mark.parametrize("case", MATRIX)
def test_helm_3_renders_the_same(case: str):
    """And so do tools that have it inside, as Argo CD and Flux."""
    # Only releases of Helm 3 know by themselves for which Kubernetes they render.
    oldest = ["--kube-version=1.30.0"]
    both = [render(MATRIX[case], arguments=oldest, program=helm) for helm in (ensure_helm(), ensure_helm3())]

    # They install kinds that they do not know in another order.
    four, three = (sorted(map(repr, rendered.objects)) for rendered in both)
    assert four == three


def test_two_renderings_are_the_same():
    """Nothing is random and nothing is looked up: Argo CD sees no difference from one sync to the next."""
    # The option changes nothing, but for being another call of Helm.
    assert render(MATRIX["everything"]) == render(MATRIX["everything"], arguments=["--include-crds"])
