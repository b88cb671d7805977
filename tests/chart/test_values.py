"""The values: each has its comment and its schema, and what is wrong is refused with words that help."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
import yaml

from scripts.chart import read_values
from tests.chart.rendering import CHART, ChartError, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEXT = (CHART / "values.yaml").read_text()
DIGEST = "sha256:" + "0" * 64


def test_every_value_has_a_schema():
    """What is in values.yaml is allowed by name; free maps are objects of Kubernetes."""
    for value in read_values(TEXT):
        node = SCHEMA
        for part in value.path:
            if "properties" not in node:
                break
            node = node["properties"][part]


def test_every_schema_has_a_value():
    """Nothing is allowed that values.yaml does not show; Helm itself gives `global` to included charts."""
    missing: list[str] = []

    def walk(node: dict[str, Any], value: Any, path: str) -> None:
        for key, below in node.get("properties", {}).items():
            if key not in value:
                missing.append(f"{path}{key}")
            elif isinstance(value[key], dict):
                walk(below, value[key], f"{path}{key}.")

    walk(SCHEMA, yaml.safe_load(TEXT), "")
    optional = {"global"} | {f"{role}.resources.claims" for role in ("controller", "webhook")}
    assert optional == set(missing)


def test_no_object_takes_unknown_keys():
    """A typing error is an error, not a value that does nothing."""

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            node = cast("dict[str, Any]", node)
            if "properties" in node:
                assert node.get("additionalProperties") is False, path
            for key, below in node.items():
                walk(below, f"{path}/{key}")

    walk({key: value for key, value in SCHEMA.items() if key != "definitions"}, "")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 3}, "replicas"),
    ({"controller": {"replica": 3}}, "replica"),
    ({"controller": {"replicas": 0}}, "replicas"),
    ({"controller": {"replicas": "2"}}, "replicas"),
    ({"controller": {"maxParallelPasses": 0}}, "maxParallelPasses"),
    ({"controller": {"probeIntervalSeconds": 0.5}}, "probeIntervalSeconds"),
    ({"controller": {"healIntervalSeconds": -1}}, "healIntervalSeconds"),
    ({"controller": {"allowLocalRoots": ["stores"]}}, "allowLocalRoots"),
    ({"controller": {"ownerKinds": ["jobs"]}}, "ownerKinds"),
    ({"controller": {"ownerKinds": [{"apiGroup": "batch", "resources": []}]}}, "ownerKinds"),
    ({"controller": {"extraArgs": [1]}}, "extraArgs"),
    ({"controller": {"podLabels": {"app.kubernetes.io/component": "x"}}}, "podLabels"),
    ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels"),
    ({"commonLabels": {"a": 1}}, "commonLabels"),
    ({"namePrefix": ""}, "namePrefix"),
    ({"namePrefix": "Bubu"}, "namePrefix"),
    ({"scopedNamespace": "a,b"}, "scopedNamespace"),
    ({"image": {"repository": ""}}, "repository"),
    ({"image": {"tag": 1.0}}, "tag"),
    ({"image": {"tag": "a b"}}, "tag"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
    ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
    ({"crds": {"keep": "yes"}}, "keep"),
    ({"log": {"level": "trace"}}, "level"),
    ({"log": {"format": "text"}}, "format"),
    ({"tenantSecrets": {"mode": "all"}}, "mode"),
    ({"tenantSecrets": {"namespaces": "team-a"}}, "namespaces"),
    ({"tenantSecrets": {"namespaces": ["a", "a"]}}, "namespaces"),
    ({"tenantJobs": {"namespaces": ["*"]}}, "namespaces"),
    ({"webhook": {"failurePolicy": "Fail"}}, "failurePolicy"),
    ({"webhook": {"timeoutSeconds": 31}}, "timeoutSeconds"),
    ({"webhook": {"reinvocationPolicy": "Always"}}, "reinvocationPolicy"),
    ({"webhook": {"drainSeconds": -1}}, "drainSeconds"),
    ({"webhook": {"port": 0}}, "port"),
    ({"webhook": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "maxUnavailable"),
    ({"webhook": {"podDisruptionBudget": {"maxUnavailable": "some"}}}, "maxUnavailable"),
    ({"webhook": {"certificates": {"mode": "letsencrypt"}}}, "mode"),
    ({"webhook": {"certificates": {"caBundle": "LS0t"}}}, "caBundle"),
    ({"networkPolicy": {"apiServerCIDRs": ["10.0.0.1"]}}, "apiServerCIDRs"),
    ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts"),
    ({"monitoring": {"podMonitor": True}}, "podMonitor"),
    *(
        ({"monitoring": {"prometheusRule": {"runbookBaseUrl": url}}}, "runbookBaseUrl")
        for url in (
            "docs",
            "//git.example/docs",
            "ftp://git.example/docs",
            "https://",
            "https:///docs",
            "https://git.example/docs\n",
            " https://git.example/docs",
            "https://git.example/docs//",
            "https://git.example/docs?ref=main",
            "https://git.example/docs#top",
            "https://user:password@git.example/docs",
            "https://git.example/{{ $labels.pod }}",
        )
    ),
    ({"uninstallHook": {"enabled": None, "x": 1}}, "uninstallHook"),
    ({"helmTest": {"namespace": "A"}}, "namespace"),
]

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"webhook": {"certificates": {"mode": "secret"}}}, "name the Secret"),
    ({"webhook": {"certificates": {"mode": "certManager"}}}, "name an issuer"),
    (
        {"webhook": {"certificates": {"caBundle": "-----BEGIN CERTIFICATE-----"}}},
        "written by the controller",
    ),
    ({"webhook": {"hostNetwork": True}}, "the kubelet's"),
    ({"scopedNamespace": "bubu-storage-system"}, "the operator's own namespace"),
    ({"scopedNamespace": "kube-system"}, "one of the cluster's own"),
    ({"scopedNamespace": "a", "tenantSecrets": {"mode": "cluster"}}, "contradict"),
    ({"scopedNamespace": "a", "tenantSecrets": {"namespaces": ["b"]}}, "no other namespace"),
    ({"scopedNamespace": "a", "webhook": {"excludedNamespaces": ["b"]}}, "empty webhook.excludedNamespaces"),
    ({"tenantSecrets": {"mode": "none", "namespaces": ["b"]}}, "mode namespaces"),
    ({"tenantJobs": {"namespaces": ["b"]}, "controller": {"jobs": {"enabled": False}}}, "enable Jobs"),
    ({"webhook": {"metricsPort": 10250}}, "two different ports"),
]


@pytest.mark.parametrize(("values", "named"), WRONG, ids=[json.dumps(values) for values, _ in WRONG])
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], named: str):
    """By the schema, before anything is rendered."""
    with pytest.raises(ChartError) as caught:
        render(values)

    assert "values don't meet the specifications of the schema" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(("values", "words"), CONTRADICTIONS, ids=[words for _, words in CONTRADICTIONS])
def test_values_that_contradict_each_other_are_refused_in_a_sentence(values: dict[str, Any], words: str):
    """What a schema cannot say, with the way out."""
    with pytest.raises(ChartError) as caught:
        render(values)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"repository": "r.example/x", "tag": "1"}, "r.example/x:1"),
        ({"repository": "r.example/x", "tag": "1", "digest": DIGEST}, f"r.example/x@{DIGEST}"),
        ({}, "bubu-storage-operator:0.1.0"),
    ],
)
def test_the_image_is_named_by_tag_or_digest(image: dict[str, str], expected: str):
    """The chart's version is the tag unless something else is said."""
    (found,) = {
        deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        for deployment in render({"image": image}).of("Deployment")
    }

    assert expected == found
