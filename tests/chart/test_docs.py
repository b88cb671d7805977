"""What the documentation says of the chart: Helm takes its values and options, and objects are called so."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.chart.matrix import MATRIX
from tests.chart.rendering import NAMESPACE, Rendered, helm, render
from tests.unit.docs.pages import PAGES, Command, commands_of, values_of
from tests.unit.docs.test_security import rights_of, shown

VALUES = [found for page in PAGES for found in values_of(page)]
HELM = [command for page in PAGES for command in commands_of(page, "helm")]
KUBECTL = [
    command
    for page in PAGES
    for command in commands_of(page, "kubectl")
    if {"logs", "describe", "delete", "rollout"} & set(command.words)
]
CONSTANT = {("lease", "bubu-storage-controller"), ("secret", "bubu-storage-webhook-ca")}
"""What the controller makes and no chart renders."""


@pytest.fixture(scope="module")
def plain() -> Rendered:
    """The chart with its own values."""
    return render()


@pytest.mark.parametrize(("where", "values"), VALUES, ids=[where for where, _ in VALUES])
def test_values_of_a_page_are_taken(where: str, values: dict[str, Any]):
    """By the schema, and by the chart's own rules."""
    assert render(values).installed


@pytest.mark.parametrize("command", HELM, ids=str)
def test_helm_has_these_options(command: Command):
    """Of this version; a renamed option would stop a reader at the first command."""
    options = {word.partition("=")[0] for word in command.words[2:] if word.startswith("--")}
    known = set(re.findall(r"--[\w-]+", helm(command.words[1], "--help")))

    assert options - known == set()


def test_commands_name_objects_that_the_chart_makes(plain: Rendered):
    """Where a page asks for something in the operator's namespace."""
    made = {(obj["kind"].lower(), obj["metadata"]["name"]) for obj in plain.objects} | CONSTANT
    certificates = render(MATRIX["cert-manager"]).of("Certificate")
    made |= {("secret", certificate["spec"]["secretName"]) for certificate in certificates}
    named: set[tuple[str, str]] = set()
    for command in KUBECTL:
        for kind, name in re.findall(r"([a-z]+)[/ ](bubu-[\w-]+)", " ".join(command.words)):
            if kind not in {"n", "namespace", "clusterrole", "rolebinding"}:
                named.add((kind, name))

    assert len(named) >= 5
    assert named - made == set()


def test_the_table_of_rights_is_what_the_chart_gives(plain: Rendered):
    """With its own values, hooks apart."""
    assert rights_of(plain.installed) == shown()


def test_the_account_of_the_hook_may_do_what_the_page_says(plain: Rendered):
    """Get and delete one object, and nothing else."""
    rights = rights_of(obj for obj in plain.objects if "unregister" in obj["metadata"]["name"])

    assert rights == {
        ("unregister", "cluster", "mutatingwebhookconfigurations", "bubu-storage-webhook"): {"get", "delete"}
    }


def test_nothing_that_the_operator_writes_is_rendered(plain: Rendered):
    """So that a GitOps tool has nothing to take back."""
    configuration = plain.one("MutatingWebhookConfiguration", "bubu-storage-webhook")

    assert [entry for entry in configuration["webhooks"] if "caBundle" in entry["clientConfig"]] == []
    assert plain.of("Secret") == plain.of("Lease") == []
    assert NAMESPACE == "bubu-storage-system"
