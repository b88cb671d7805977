"""Whether the API server asks about a pod is told from the registration, in words that name the way out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.errors import KubeForbiddenError
from bubu_operator.injection.select import demand_for
from bubu_operator.injection.unasked import ExcludedReason
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    STORAGE_CONFIGS,
)
from bubu_operator.kubectl.facts import facts_of_cluster
from bubu_operator.kubectl.registration import Registration, unasked_by
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.unit.controllers.fake_api import FakeApi

Json = dict[str, Any]
INJECT = "storage.bubustack.io/inject"
ASKS = {INJECT: "true"}
NAME = "bubu-storage-webhook"
LABELS = st.dictionaries(
    st.sampled_from([INJECT, "bubustack.io/engram", "storage.bubustack.io/strict", "team"]),
    st.sampled_from(["true", "false", "yes", ""]),
)


def registered(*excluded: str, **options: str) -> Registration:
    """Ours, with further namespaces left out as the chart leaves them out."""
    made = render_webhook_configuration(**options)
    for entry in made["webhooks"]:
        entry["namespaceSelector"]["matchExpressions"][0]["values"] += excluded
    return Registration(NAME, made)


def demanding(field: str, **expression: Any) -> Registration:
    """Ours, with one more demand in a selector of every entry."""
    made = registered().configuration
    assert made is not None
    for entry in made["webhooks"]:
        entry[field]["matchExpressions"].append(expression)
    return Registration(NAME, made)


@given(pod=LABELS, namespace=LABELS)
def test_our_own_registration_leaves_out_no_pod_that_asks(pod: dict[str, str], namespace: dict[str, str]):
    """It selects what the webhook's own rule calls asking, and nothing else."""
    told = unasked_by(registered(), pod, "flows", namespace)

    assert (told is None) == demand_for(pod, namespace).wanted


@pytest.mark.parametrize(
    ("registration", "reason", "by_name", "words"),
    [
        (
            Registration("mine", None),
            ExcludedReason.NO_WEBHOOK,
            False,
            ("there is no MutatingWebhookConfiguration mine", "--webhook-configuration"),
        ),
        (
            registered("quiet", "flows"),
            ExcludedReason.NOT_SELECTED,
            True,
            ("leaves namespace flows out by its name", "webhook.excludedNamespaces"),
        ),
        (
            registered(only_namespace="team-a"),
            ExcludedReason.NOT_SELECTED,
            True,
            ("is for namespace team-a alone", "about pods of flows", "--webhook-configuration"),
        ),
        (
            demanding("namespaceSelector", key="team", operator="Exists"),
            ExcludedReason.NOT_SELECTED,
            False,
            ("namespaceSelector selects the labels of namespace flows", "Label the namespace"),
        ),
        (
            demanding("objectSelector", key="team", operator="Exists"),
            ExcludedReason.NOT_SELECTED,
            False,
            ("objectSelector selects the labels of this pod", "Change its labels"),
        ),
        (
            Registration(NAME, {"webhooks": []}),
            ExcludedReason.NOT_SELECTED,
            False,
            ("has no entry whose objectSelector",),
        ),
    ],
    ids=["none", "excluded", "scoped", "namespace", "pod", "empty"],
)
def test_each_way_of_being_left_out_has_its_own_words(
    registration: Registration, reason: ExcludedReason, by_name: bool, words: tuple[str, ...]
):
    """And names the registration, what leaves the pod out, and what to do."""
    told = unasked_by(registration, ASKS, "flows", {})

    assert told is not None
    assert (told.reason, told.by_name) == (reason, by_name)
    for text in (registration.name, *words):
        assert text in told.text


def test_the_other_namespaces_of_a_list_are_asked_about():
    """One that is left out says nothing of its neighbours."""
    assert unasked_by(registered("quiet"), ASKS, "flows", {}) is None
    assert unasked_by(registered(only_namespace="flows"), ASKS, "flows", {}) is None


class Api(FakeApi):
    """One that lets nobody read what is in `hidden`."""

    hidden: tuple[Any, ...] = ()

    def get(self, resource: Any, name: str, namespace: str | None = None) -> Json:
        """Refuse, or answer."""
        if resource in self.hidden:
            raise KubeForbiddenError(f"{resource.plural} is forbidden")
        return super().get(resource, name, namespace)


def facts(api: FakeApi, webhook: str = NAME):
    """What is gathered of ``flows``."""
    return facts_of_cluster(api, "flows", webhook)  # type: ignore[arg-type]


def test_the_registration_is_looked_up_by_its_name():
    """There or not: both are known then."""
    api = Api((NAMESPACES, {"metadata": {"name": "flows"}}), (MUTATING_WEBHOOKS, registered().configuration))

    found = facts(api).registration
    assert found is not None
    assert found.name == NAME
    assert unasked_by(found, ASKS, "flows", {}) is None
    assert facts(api, "mine").registration == Registration("mine", None)
    assert facts(api).gaps == ()
    assert facts(api, "").registration is None


def test_who_may_not_read_the_registration_gets_the_rest():
    """The gap says which right is missing, and what is taken for granted; configs are there."""
    config = {"metadata": {"name": "main", "namespace": "flows"}, "spec": {"file": {"emptyDir": {}}}}
    api = Api((NAMESPACES, {"metadata": {"name": "flows"}}), (STORAGE_CONFIGS, config))
    api.hidden = (MUTATING_WEBHOOKS,)

    found = facts(api)

    assert found.registration is None
    assert [item.name for item in found.configs] == ["main"]
    (gap,) = found.gaps
    assert "you may not get mutatingwebhookconfigurations" in gap
    assert "taken for granted" in gap
    api.hidden = (MUTATING_WEBHOOKS, CLUSTER_STORAGE_CONFIGS)
    assert facts(api, "").gaps == ()
