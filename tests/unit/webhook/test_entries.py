"""Which entry the API server asks about a pod, judged as the API server judges."""

from __future__ import annotations

from typing import Any

import pytest

from bubu_operator.webhook.configuration import NAME_LABEL, render_webhook_configuration
from bubu_operator.webhook.entries import entry_for, selects

Json = dict[str, Any]
ASKS = {"storage.bubustack.io/inject": "true"}


def without(*namespaces: str) -> Json:
    """Our configuration, and further namespaces that it leaves out."""
    configuration = render_webhook_configuration()
    for entry in configuration["webhooks"]:
        entry["namespaceSelector"]["matchExpressions"][0]["values"] += namespaces
    return configuration


def test_a_namespace_that_is_left_out_by_name_is_asked_about_by_nobody():
    """Others are, by the entry that their pod's label means."""
    configuration = without("quiet")

    assert entry_for(configuration, ASKS, {NAME_LABEL: "quiet"}) is None
    entry = entry_for(configuration, ASKS, {NAME_LABEL: "flows"})
    assert entry is not None
    assert entry["name"] == "pods.storage.bubustack.io"


def test_a_long_list_of_namespaces_selects_as_a_short_one():
    """The limits of our own kinds are not the API's: the pods elsewhere are still asked about."""
    configuration = without(*(f"quiet-{number}" for number in range(200)))

    assert entry_for(configuration, ASKS, {NAME_LABEL: "quiet-150"}) is None
    assert entry_for(configuration, ASKS, {NAME_LABEL: "flows"}) is not None


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (None, {}, True),
        ({}, {"a": "1"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchLabels": {"a": "1"}}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Later"}]}, {"a": "1"}, False),
    ],
)
def test_a_selector_means_what_it_means_to_the_api_server(
    selector: Json | None, labels: dict[str, str], expected: bool
):
    """None and an empty one select everything, an operator that nobody knows nothing."""
    assert selects({"namespaceSelector": selector}, "namespaceSelector", labels) is expected
