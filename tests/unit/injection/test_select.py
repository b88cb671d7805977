"""The config that a pod gets: order of the steps, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bubu_operator.injection import Demand, InjectionConfig, SelectionReason, demand_for, select_config
from tests.unit.injection.builders import S3, config

CONFIG = "storage.bubustack.io/config"
INJECT = "storage.bubustack.io/inject"
ENGRAM = "bubustack.io/engram"
ALL: dict[str, Any] = {"namespaceSelector": {}}
DELETING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def select(
    *configs: InjectionConfig,
    pod: dict[str, str] | None = None,
    namespace: dict[str, str] | None = None,
    shared: tuple[InjectionConfig, ...] = (),
):
    """Run the selection in namespace flows."""
    return select_config(pod or {}, "flows", namespace or {}, configs, shared)


@pytest.mark.parametrize(
    ("pod", "namespace", "demand"),
    [
        ({}, {}, Demand.NOT_ASKED),
        ({INJECT: "true"}, {}, Demand.POD_LABEL),
        ({INJECT: "true"}, {INJECT: "false"}, Demand.POD_LABEL),
        ({INJECT: "false"}, {INJECT: "true"}, Demand.POD_OPTED_OUT),
        ({INJECT: "false", ENGRAM: "x"}, {}, Demand.POD_OPTED_OUT),
        ({ENGRAM: ""}, {}, Demand.ENGRAM),
        ({ENGRAM: "x"}, {INJECT: "false"}, Demand.NAMESPACE_OPTED_OUT),
        ({}, {INJECT: "true"}, Demand.NAMESPACE_LABEL),
        ({INJECT: "maybe"}, {INJECT: "true"}, Demand.NAMESPACE_LABEL),
        ({INJECT: "maybe"}, {INJECT: "maybe"}, Demand.NOT_ASKED),
    ],
)
def test_who_wants_injection(pod: dict[str, str], namespace: dict[str, str], demand: Demand):
    """The pod's word outranks the namespace's; "false" wins over an engram label."""
    assert demand_for(pod, namespace) is demand
    assert demand.wanted == (demand in (Demand.POD_LABEL, Demand.ENGRAM, Demand.NAMESPACE_LABEL))


def test_the_pods_label_comes_first():
    """It beats the namespace's label, the default mark and the cluster."""
    selection = select(
        config("a", default=True), config("b"), config("c"), pod={CONFIG: "b"}, namespace={CONFIG: "c"}
    )

    assert selection.config is not None
    assert (selection.config.name, selection.reason) == ("b", SelectionReason.POD_LABEL)


def test_the_namespaces_label_comes_second():
    """It beats the default mark."""
    selection = select(config("a", default=True), config("b"), namespace={CONFIG: "b"})

    assert selection.config is not None
    assert (selection.config.name, selection.reason) == ("b", SelectionReason.NAMESPACE_LABEL)


def test_an_empty_label_names_nothing():
    """``storage.bubustack.io/config: ""`` is as if it were not there."""
    assert select(config("a"), pod={CONFIG: ""}).reason is SelectionReason.ONLY_CONFIG


def test_the_only_config_then_the_default():
    """One is taken; of several the marked one; configs of other namespaces do not count."""
    assert select(config("a"), config("x", "other")).reason is SelectionReason.ONLY_CONFIG
    selection = select(config("a"), config("b", default=True))
    assert selection.config is not None
    assert (selection.config.name, selection.reason) == ("b", SelectionReason.DEFAULT_CONFIG)


def test_several_without_a_mark_are_refused_by_name():
    """The message names the candidates and both ways out."""
    selection = select(config("two"), config("one"))

    assert (selection.config, selection.reason) == (None, SelectionReason.AMBIGUOUS)
    for text in ("one, two", "spec.default", CONFIG):
        assert text in selection.message


def test_several_marked_default_are_refused_by_name():
    """Two marks are no mark; the unmarked third is not named."""
    selection = select(config("one", default=True), config("two", default=True), config("three"))

    assert selection.reason is SelectionReason.AMBIGUOUS
    assert "one, two;" in selection.message


def test_a_long_list_of_candidates_is_cut():
    """Five names and how many more."""
    selection = select(*(config(f"c{number}") for number in range(9)))

    assert "c0, c1, c2, c3, c4 and 4 more" in selection.message


def test_ambiguity_does_not_fall_through_to_the_cluster():
    """A namespace with an unclear choice does not silently get the cluster's store."""
    selection = select(config("a"), config("b"), shared=(config("s", "", **ALL),))

    assert selection.reason is SelectionReason.AMBIGUOUS


@pytest.mark.parametrize(
    ("selector", "labels", "chosen"),
    [
        (None, {"team": "x"}, False),
        ({}, {}, True),
        ({"matchLabels": {"team": "x"}}, {"team": "x"}, True),
        ({"matchLabels": {"team": "x"}}, {"team": "y"}, False),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, {"team": "y"}, True),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, {"team": "y"}, False),
        (
            {"matchExpressions": [{"key": "team", "operator": "In", "values": ["x", "y"]}]},
            {"team": "y"},
            True,
        ),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["x"]}]}, {}, True),
        (
            {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
            {"a": "1"},
            False,
        ),
    ],
)
def test_cluster_configs_by_selector(selector: Any, labels: dict[str, str], chosen: bool):
    """As the API server judges; without a selector a cluster config serves nobody."""
    more = {} if selector is None else {"namespaceSelector": selector}
    selection = select(namespace=labels, shared=(config("s", "", **more),))

    assert (selection.config is not None) is chosen
    assert selection.reason is (SelectionReason.CLUSTER_CONFIG if chosen else SelectionReason.NO_CONFIG)


def test_the_namespaces_own_config_beats_the_clusters():
    """The nearer one wins."""
    selection = select(config("a"), shared=(config("s", "", **ALL),))

    assert selection.config is not None
    assert selection.config.name == "a"


def test_two_matching_cluster_configs_are_refused_by_name():
    """There is no default among them."""
    selection = select(shared=(config("s2", "", **ALL), config("s1", "", **ALL)))

    assert selection.reason is SelectionReason.AMBIGUOUS
    assert "s1, s2" in selection.message


def test_a_label_may_name_a_cluster_config():
    """If it selects the namespace; one of the namespace's own by that name comes first."""
    shared = (config("s", "", **ALL), config("other", "", **ALL))
    selection = select(config("a"), pod={CONFIG: "s"}, shared=shared)
    assert selection.config is not None
    assert (selection.config.kind, selection.reason) == ("ClusterStorageConfig", SelectionReason.POD_LABEL)
    selection = select(config("s"), pod={CONFIG: "s"}, shared=shared)
    assert selection.config is not None
    assert selection.config.kind == "StorageConfig"


def test_a_named_cluster_config_of_others_is_refused():
    """A label is no way around the selector."""
    selection = select(pod={CONFIG: "s"}, shared=(config("s", ""),))

    assert (selection.config, selection.reason) == (None, SelectionReason.NAMESPACE_NOT_SELECTED)
    assert "namespaceSelector" in selection.message


@pytest.mark.parametrize("where", ["pod", "namespace"])
@pytest.mark.parametrize("text", ["CALL +1-555 your storage is gone", "Main", "a\nb", "-x-", "x" * 254])
def test_a_label_that_can_be_no_name_is_not_quoted(where: str, text: str):
    """Whoever reaches the webhook may send any text, and the message becomes an event in that namespace."""
    selection = select(config("a"), **{where: {CONFIG: text}})

    assert (selection.config, selection.reason) == (None, SelectionReason.CONFIG_NOT_FOUND)
    assert f"the label {CONFIG} of" in selection.message
    assert "is no name that a config can have" in selection.message
    assert text not in selection.message


@pytest.mark.parametrize("where", ["pod", "namespace"])
def test_a_named_config_that_is_missing_is_explained(where: str):
    """The message names config, namespace, and whose label it is; nothing else is chosen instead."""
    selection = select(config("a"), **{where: {CONFIG: "gone"}})

    assert (selection.config, selection.reason) == (None, SelectionReason.CONFIG_NOT_FOUND)
    for text in (
        "'gone'",
        "namespace flows",
        f"label {CONFIG} of {'the pod' if where == 'pod' else 'namespace'}",
    ):
        assert text in selection.message


def test_a_config_that_is_being_deleted_is_not_chosen():
    """Not as the only one, not as a candidate, not by name."""
    dying = config("a", metadata=DELETING)

    assert select(dying).reason is SelectionReason.NO_CONFIG
    assert select(dying, config("b")).reason is SelectionReason.ONLY_CONFIG
    assert select(shared=(config("s", "", metadata=DELETING, **ALL),)).reason is SelectionReason.NO_CONFIG
    named = select(dying, pod={CONFIG: "a"})
    assert (named.config, named.reason) == (None, SelectionReason.CONFIG_DELETING)
    assert "being deleted" in named.message


def test_an_invalid_config_keeps_its_place_and_is_refused():
    """An older CRD may have let it pass; nobody else's config is taken instead."""
    invalid = config("bad", s3={**S3, "bucket": "no/bucket"}, default=True)

    selection = select(invalid, config("good"))

    assert (selection.config, selection.reason) == (None, SelectionReason.INVALID_CONFIG)
    assert "StorageConfig flows/bad" in selection.message
    assert "bucket" in selection.message
    shared = config("s", "", s3={}, **ALL)
    assert select(shared=(shared,)).reason is SelectionReason.INVALID_CONFIG


def test_nothing_at_all():
    """The message says what to create."""
    selection = select()

    assert (selection.config, selection.reason) == (None, SelectionReason.NO_CONFIG)
    assert "create one" in selection.message
