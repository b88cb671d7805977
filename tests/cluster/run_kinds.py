"""The kinds of the workflow engine, as far as retention reads them, for clusters that lack them."""

from __future__ import annotations

from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import wait_served

__all__ = ["RUNS_API", "install_run_kinds", "story_run"]

RUNS_API = "runs.bubustack.io/v1alpha1"


def install_run_kinds(cluster: Cluster) -> None:
    """Install StoryRun and StepRun unless they are there."""
    for kind, plural in (("StoryRun", "storyruns"), ("StepRun", "stepruns")):
        name = f"{plural}.runs.bubustack.io"
        if cluster.kubectl("get", "crd", name, check=False).returncode != 0:
            cluster.apply(_definition(kind, plural, name))
        wait_served(cluster, plural)


def story_run(name: str, namespace: str, story: str = "nightly", **spec: Any) -> dict[str, Any]:
    """Make a StoryRun."""
    return {
        "apiVersion": RUNS_API,
        "kind": "StoryRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"storyRef": {"name": story}, **spec},
    }


def _definition(kind: str, plural: str, name: str) -> dict[str, Any]:
    loose: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": "runs.bubustack.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "properties": {"spec": loose, "status": loose}}
                    },
                }
            ],
        },
    }
