"""``bubu-operator unregister`` as a real process with the rights that it names, and beside a controller."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bubu_operator.webhook import unregister
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import NAMESPACE, ControllerProcess, install, until
from tests.cluster.webhook_harness import FILES, pod_of

pytestmark = pytest.mark.cluster

KIND = "mutatingwebhookconfiguration"


@dataclass
class Hook:
    """An account with the rights of the module's own docstring, for one name of a configuration."""

    cluster: Cluster
    namespace: str
    name: str
    kubeconfig: Path

    def run(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Run the command; return its exit code and its log lines."""
        done = subprocess.run(
            [
                *(sys.executable, "-W", "error", "-m", "bubu_operator", "unregister"),
                *("--kubeconfig", str(self.kubeconfig), "--webhook-configuration", self.name),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return done.returncode, [json.loads(line) for line in done.stderr.splitlines()]

    def register(self, **more: Any) -> None:
        """Register a webhook that nobody answers for, with entries that refuse pods then."""
        configuration = render_webhook_configuration(
            url="https://127.0.0.1:1/mutate", only_namespace=self.namespace, name=self.name
        )
        configuration["metadata"] |= more
        self.cluster.apply(configuration)

    def is_registered(self) -> bool:
        """Tell whether the configuration is there."""
        return self.cluster.kubectl("get", KIND, self.name, check=False).returncode == 0

    def pod_is_refused(self) -> bool:
        """Tell whether a pod that asks for storage cannot be created, even for a try."""
        pod = json.dumps(pod_of("p", self.namespace, {"bubustack.io/engram": "x"}))
        tried = self.cluster.kubectl("create", "--dry-run=server", "-f", "-", input=pod, check=False)
        return tried.returncode != 0


@pytest.fixture
def hook(cluster: Cluster, tmp_path: Path) -> Iterator[Hook]:
    """A strict namespace and the account."""
    name = f"t-{secrets.token_hex(5)}"
    namespace = cluster.create_namespace(name, {"storage.bubustack.io/strict": "true"})
    block = re.search(r"by the name of the configuration::\n\n((?:    .*\n)+)", unregister.__doc__ or "")
    assert block is not None
    rules = yaml.safe_load(block[1].replace("bubu-storage-webhook", name))
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    cluster.apply(
        {**api, "kind": "ClusterRole", "rules": rules},
        {**api, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]},
    )
    kubeconfig = cluster.service_account_kubeconfig(namespace, "default", tmp_path / "kubeconfig")
    try:
        yield Hook(cluster, namespace, name, kubeconfig)
    finally:
        cluster.kubectl("delete", f"{KIND},clusterrole,clusterrolebinding", name, "--ignore-not-found")
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_pods_are_created_again_once_the_registration_is_gone(hook: Hook):
    """Nobody answers for the webhook and the namespace is strict: only its end lets pods start."""
    hook.register()
    until(hook.pod_is_refused, "the API server to ask")

    code, log = hook.run()

    assert code == 0, log
    assert not hook.is_registered()
    until(lambda: not hook.pod_is_refused(), "the API server to ask no more")
    assert hook.run()[0] == 0, "a second run finds nothing to do"


def test_a_controller_that_keeps_the_bundle_does_not_bring_it_back(
    cluster: Cluster, hook: Hook, tmp_path: Path, request: pytest.FixtureRequest
):
    """It patches what is there; what is gone stays gone, and it says that it waits for it."""
    install(cluster)
    documents = list(yaml.safe_load_all((FILES / "webhook-authority-rbac.yaml").read_text()))
    for document in documents:
        for rule in document.get("rules", []):
            if "mutatingwebhookconfigurations" in rule["resources"]:
                rule["resourceNames"] = [hook.name]
        if document["kind"].startswith("Cluster"):
            document["metadata"]["name"] = hook.name + "-authority"
            if "roleRef" in document:
                document["roleRef"]["name"] = hook.name + "-authority"
    cluster.apply(*documents)
    request.addfinalizer(
        lambda: cluster.kubectl("delete", "clusterrole,clusterrolebinding", hook.name + "-authority")
    )
    secret = ("secret", "bubu-storage-webhook-ca", "-n", NAMESPACE)
    request.addfinalizer(lambda: cluster.kubectl("delete", *secret, "--ignore-not-found"))
    hook.register()
    controller = ControllerProcess(
        cluster,
        tmp_path,
        namespaces=[hook.namespace],
        arguments=["--webhook-authority", "--webhook-configuration", hook.name],
    )

    def bundled() -> bool:
        entries = cluster.get(KIND, hook.name)["webhooks"]
        return all("caBundle" in entry["clientConfig"] for entry in entries)

    with controller:
        until(bundled, "caBundle")

        code, log = hook.run()

        assert code == 0, log
        until(lambda: "caBundle waits for it" in controller.log, "the controller to notice", 60)
        assert not hook.is_registered()
    assert "Traceback" not in controller.log


def test_somebody_elses_configuration_is_let_alone(hook: Hook):
    """Exit code 1 and a sentence; it is still there."""
    hook.register(labels={"app.kubernetes.io/name": "somebody"})

    code, (line,) = hook.run()

    assert code == 1
    assert "'somebody'" in line["message"]
    assert hook.is_registered()


def test_a_missing_right_is_one_line(hook: Hook):
    """The account may not read another name: exit code 1, and the rights that are needed."""
    code, (line,) = hook.run("--webhook-configuration", "another")

    assert code == 1
    assert line["level"] == "error"
    assert "get and delete" in line["message"]
    assert "resourceName another" in line["message"]


def test_no_api_server_is_one_line(hook: Hook):
    """Within the time that was given, with the address and the way out."""
    document = json.loads(hook.kubeconfig.read_text(encoding="utf-8"))
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    hook.kubeconfig.write_text(json.dumps(document), encoding="utf-8")

    code, (line,) = hook.run("--timeout-seconds", "1")

    assert code == 1
    assert "127.0.0.1:1" in line["message"]
    assert "kubectl delete mutatingwebhookconfiguration" in line["message"]
