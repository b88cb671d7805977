"""Who may do what: the chart gives what the cluster tests were run with, and no more."""

from __future__ import annotations

import pytest
import yaml

from tests.chart.matrix import MATRIX, TENANT
from tests.chart.rbac_table import PAGE, with_tables
from tests.chart.rendering import FILES, NAMESPACE, Rendered, render
from tests.chart.rights import Right, rights_of

CONTROLLER = "bubu-storage-controller"
WEBHOOK = "bubu-storage-webhook"
PEOPLE = {"bubu-storage-view", "bubu-storage-edit"}


def shipped(*names: str) -> set[Right]:
    """The rights in files that cluster tests install."""
    documents = [
        document for name in names for document in yaml.safe_load_all((FILES / name).read_text()) if document
    ]
    return rights_of(documents)


def given(rendered: Rendered) -> set[Right]:
    """The rights that an installation gives, apart from those of people."""
    return {right for right in rights_of(rendered.installed) if right.role not in PEOPLE}


def test_the_default_rights_are_those_that_cluster_tests_run_with():
    """So every test on an API server is a test of the chart's rights."""
    assert shipped("controller-rbac.yaml", "webhook-rbac.yaml", "webhook-authority-rbac.yaml") == given(
        render()
    )


def test_the_scoped_rights_are_those_that_cluster_tests_run_with():
    """The same for an installation for one namespace; what is bound to nobody yet is a Role there."""
    rendered = given(render({"scopedNamespace": TENANT}))
    on_demand = {right for right in rendered if not right.account}

    assert shipped("scoped-rbac.yaml", "webhook-authority-rbac.yaml") == rendered
    assert {(TENANT, "bubu-storage-secret-reader"), (TENANT, "bubu-storage-prober")} == {
        (right.namespace, right.role) for right in on_demand
    }


@pytest.mark.parametrize("case", MATRIX)
def test_the_webhook_reads_one_secret_at_most(case: str):
    """By name, and none where its certificate comes as files."""
    rights = rights_of(render(MATRIX[case]).installed)
    secrets = {
        right for right in rights if right.account.endswith("-webhook") and right.resource == "secrets"
    }

    builtin = "certificates" not in MATRIX[case].get("webhook", {})
    assert ({"get", "list", "watch"} if builtin else set()) == {right.verb for right in secrets}
    assert {("bubu-storage-webhook-ca", NAMESPACE)} >= {(right.name, right.namespace) for right in secrets}


@pytest.mark.parametrize("case", [case for case in MATRIX if case != "all-secrets"])
def test_the_controller_reads_no_tenants_secret_unasked(case: str):
    """Only in the namespaces that the values list, besides the one Secret of its own."""
    values = MATRIX[case]
    rights = rights_of(render(values).installed)
    places = {
        right.namespace
        for right in rights
        if right.account.endswith("-controller") and right.resource == "secrets" and not right.name
        if right.verb != "create"
    }

    assert set(values.get("tenantSecrets", {}).get("namespaces", [])) == places


def test_all_secrets_are_readable_only_when_asked_for():
    """The mode that the comments warn of."""
    rights = rights_of(render(MATRIX["all-secrets"]).installed)

    assert Right(CONTROLLER, "bubu-storage-secret-reader", "*", "", "secrets", "", "get") in rights


@pytest.mark.parametrize("case", ["tenants", "scoped"])
def test_bindings_that_people_made_are_in_nobodys_way(case: str):
    """Those of messages and documents are called like their role; Helm takes over nothing of another's."""
    bindings = render(MATRIX[case]).of("RoleBinding")
    names = {obj["roleRef"]["name"]: obj["metadata"]["name"] for obj in bindings}

    assert ("bubu-storage-controller-secrets", "bubu-storage-controller-jobs") == (
        names["bubu-storage-secret-reader"],
        names["bubu-storage-prober"],
    )


def test_a_scoped_installation_reaches_no_other_namespace():
    """What it may do everywhere is by name, or a question about a token."""
    rights = given(render(MATRIX["scoped"]))
    everywhere = {right for right in rights if right.namespace == "*"}

    assert {TENANT, NAMESPACE, "*"} == {right.namespace for right in rights}
    assert {"tokenreviews"} == {right.resource for right in everywhere if not right.name}


@pytest.mark.parametrize("case", MATRIX)
def test_nobody_has_more_than_named_verbs(case: str):
    """No asterisks, no escalation, no impersonation, no shell in pods."""
    for right in rights_of(render(MATRIX[case]).objects):
        assert "*" not in {right.group, right.resource, right.verb}
        assert right.verb not in {"escalate", "bind", "impersonate"}
        assert right.resource not in {"pods/exec", "serviceaccounts/token", "roles", "clusterroles"}


def test_people_write_neither_a_status_nor_cluster_wide_kinds():
    """The operator believes the status; cluster-wide kinds reach every namespace."""
    people = {right for right in rights_of(render().installed) if right.role in PEOPLE}
    written = {right.resource for right in people if right.verb not in {"get", "list", "watch"}}

    assert {"storageconfigs", "retentionpolicies"} == written


def test_hooks_do_one_thing():
    """The hook before deletion deletes one object by name; the test reads it."""
    rendered = render()
    hooks = rights_of(obj for obj in rendered.objects if obj not in rendered.installed)

    assert {
        ("bubu-storage-unregister", "mutatingwebhookconfigurations", WEBHOOK, "get"),
        ("bubu-storage-unregister", "mutatingwebhookconfigurations", WEBHOOK, "delete"),
        ("bubu-storage-test", "mutatingwebhookconfigurations", WEBHOOK, "get"),
    } == {(right.account, right.resource, right.name, right.verb) for right in hooks}


def test_further_kinds_of_owners_may_be_read():
    """controller.ownerKinds: get and list, nothing else."""
    values = {"controller": {"ownerKinds": [{"apiGroup": "argoproj.io", "resources": ["workflows"]}]}}
    rights = given(render(values)) - given(render())

    assert {
        Right(CONTROLLER, CONTROLLER, "*", "argoproj.io", "workflows", "", verb) for verb in ("get", "list")
    } == rights


def test_the_documented_rights_are_those_of_the_chart():
    """`python -m tests.chart.rbac_table` writes them."""
    page = PAGE.read_text("utf-8")

    assert with_tables(page) == page
