"""Injection into Deployments on a real API server: once, only what is asked, and back again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, condition, install, until

pytestmark = pytest.mark.cluster

API = "storage.bubustack.io/v1alpha1"
DIGEST = "storage.bubustack.io/template-digest"


@pytest.fixture
def controller(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    """A controller that watches the test's namespace."""
    install(cluster)
    (tmp_path / "stores").mkdir()
    with ControllerProcess(cluster, tmp_path, namespaces=[namespace], roots=[tmp_path / "stores"]) as running:
        yield running
    assert "Traceback" not in running.log


class Workload:
    """One Deployment of a namespace."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "web") -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name

    def apply(self, *, labels: dict[str, str] | None = None, image: str = "example/app:1") -> None:
        """Create it."""
        self.cluster.kubectl(
            "apply", "-f", "-",
            input=json.dumps(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels or {}},
                    "spec": {
                        "replicas": 0,
                        "selector": {"matchLabels": {"app": self.name}},
                        "template": {
                            "metadata": {"labels": {"app": self.name}},
                            "spec": {
                                "containers": [
                                    {"name": "main", "image": image, "env": [{"name": "OWN", "value": "1"}]}
                                ]
                            },
                        },
                    },
                }
            ),
        )  # fmt: skip

    def read(self) -> dict[str, Any]:
        """Return it."""
        return self.cluster.get("deployment", self.name, "-n", self.namespace)

    def env(self) -> dict[str, Any]:
        """Return the environment of its container, by name."""
        container = self.read()["spec"]["template"]["spec"]["containers"][0]
        return {item["name"]: item.get("value") for item in container.get("env", [])}

    def label(self, text: str) -> None:
        """Set or remove a label."""
        self.cluster.kubectl("label", f"deployment/{self.name}", "-n", self.namespace, "--overwrite", text)


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> Workload:
    """The Deployment (not yet created)."""
    return Workload(cluster, namespace)


def config(cluster: Cluster, namespace: str, path: Path, *, rollout: bool = False) -> None:
    """Apply a StorageConfig and wait until the controller has looked at it."""
    cluster.apply(
        {
            "apiVersion": API,
            "kind": "StorageConfig",
            "metadata": {"name": "main", "namespace": namespace},
            "spec": {"file": {"path": str(path)}, "injection": {"rolloutOnChange": rollout}},
        }
    )

    def seen() -> bool:
        found = cluster.get("storageconfig", "main", "-n", namespace)
        return condition(found).get("observedGeneration") == found["metadata"]["generation"]

    until(seen, "the config to be looked at")


def test_a_labelled_deployment_is_injected_once(controller: ControllerProcess, web: Workload) -> None:
    """Environment, volume, event; afterwards the template stands still, also over a restart."""
    config(web.cluster, web.namespace, controller.root / "a")
    web.apply(labels={"storage.bubustack.io/inject": "true"})

    until(lambda: "BUBU_STORAGE_PROVIDER" in web.env(), "injection", 10)

    env = web.env()
    assert (env["BUBU_STORAGE_PROVIDER"], env["OWN"]) == ("file", "1")
    assert list(env)[-1] == "OWN", "ours come first, so that $(BUBU_…) resolves"
    found = web.read()
    assert DIGEST in found["metadata"]["annotations"]
    assert not any("kopf" in key for key in found["metadata"]["annotations"])
    assert found["metadata"]["generation"] == 2
    controller.stop()
    controller.start()
    # Naming the config that it has anyway makes the new process judge it; a second Deployment that
    # is injected afterwards shows that it has.
    web.label("storage.bubustack.io/config=main")
    other = Workload(web.cluster, web.namespace, "other")
    other.apply(labels={"storage.bubustack.io/inject": "true"})
    until(lambda: "BUBU_STORAGE_PROVIDER" in other.env(), "the other's injection", 10)
    # Its digest follows the label, which counts as a generation; what pods are made from does not change.
    assert web.read()["spec"]["template"] == found["spec"]["template"]

    def told() -> dict[str, list[str]]:
        items = web.cluster.get("events.events.k8s.io", "-n", web.namespace)["items"]
        told = [(item["regarding"]["name"], item["reason"]) for item in items]
        return {name: [reason for whose, reason in told if whose == name] for name in ("web", "other")}

    # An event follows what it is about.
    until(lambda: told()["other"], "the other's event")
    assert told() == {"web": ["Injected"], "other": ["Injected"]}


def test_removing_the_label_takes_out_what_is_ours(controller: ControllerProcess, web: Workload) -> None:
    """The template is again what its user wrote, and no trace of ours is left."""
    config(web.cluster, web.namespace, controller.root / "a")
    web.apply()
    before = web.read()["spec"]["template"]
    web.label("storage.bubustack.io/inject=true")
    until(lambda: "BUBU_STORAGE_PROVIDER" in web.env(), "injection", 10)

    web.label("storage.bubustack.io/inject-")

    until(lambda: "BUBU_STORAGE_PROVIDER" not in web.env(), "removal", 10)
    found = web.read()
    assert found["spec"]["template"] == before
    assert DIGEST not in found["metadata"].get("annotations", {})


def test_a_changed_config_waits_or_rolls_as_it_says(controller: ControllerProcess, web: Workload) -> None:
    """Without rolloutOnChange only a changed template brings the new config; with it, the config does."""
    config(web.cluster, web.namespace, controller.root / "a")
    web.apply(labels={"storage.bubustack.io/inject": "true"})
    until(lambda: web.env().get("BUBU_STORAGE_PATH") == f"{controller.root}/a", "injection", 10)

    config(web.cluster, web.namespace, controller.root / "b")
    web.cluster.kubectl("scale", "deployment/web", "-n", web.namespace, "--replicas=0")
    assert web.env()["BUBU_STORAGE_PATH"] == f"{controller.root}/a"

    web.cluster.kubectl("set", "image", "deployment/web", "-n", web.namespace, "main=example/app:2")
    until(lambda: web.env().get("BUBU_STORAGE_PATH") == f"{controller.root}/b", "the user's change", 10)

    config(web.cluster, web.namespace, controller.root / "c", rollout=True)
    until(lambda: web.env().get("BUBU_STORAGE_PATH") == f"{controller.root}/c", "the roll-out", 10)


def test_a_deployment_before_its_config(controller: ControllerProcess, web: Workload) -> None:
    """GitOps applies in any order: a warning at first, injection as soon as there is a config."""
    web.apply(labels={"storage.bubustack.io/inject": "true"})

    def warned() -> bool:
        items = web.cluster.get("events.events.k8s.io", "-n", web.namespace)["items"]
        return any(item["reason"] == "NoConfig" and item["type"] == "Warning" for item in items)

    until(warned, "the warning", 10)

    config(web.cluster, web.namespace, controller.root / "a")

    until(lambda: "BUBU_STORAGE_PROVIDER" in web.env(), "injection", 10)


def test_others_are_left_alone(controller: ControllerProcess, web: Workload) -> None:
    """A Deployment that does not ask is never written to."""
    config(web.cluster, web.namespace, controller.root / "a")
    web.apply(labels={"storage.bubustack.io/inject": "false"})
    web.cluster.kubectl("label", "deployment/web", "-n", web.namespace, "other=1")
    config(web.cluster, web.namespace, controller.root / "b", rollout=True)

    found = web.cluster.get("deployment", "web", "-n", web.namespace, "--show-managed-fields")["metadata"]
    managers = {entry["manager"] for entry in found["managedFields"]}

    assert found["generation"] == 1
    assert not any("bubu" in manager for manager in managers)
