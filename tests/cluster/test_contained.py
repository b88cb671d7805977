"""The roles on a real API server as a container runs them: PID 1, a nameless uid, nowhere to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.certs import write_serving_files
from tests.cluster.cluster import Cluster
from tests.cluster.contained import Contained, why_not
from tests.cluster.controller_harness import ACCOUNT, NAMESPACE, condition, install, until
from tests.cluster.retention_world import World, finished
from tests.cluster.webhook_harness import ACCOUNT as WEBHOOK_ACCOUNT
from tests.cluster.webhook_harness import install_webhook

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can"),
]
SECONDS = 20.0
"""Far below the half a minute that a kubelet waits; most of it is for a machine that is busy."""


def assert_manners(process: Contained) -> None:
    """Nothing was written outside of the folder for it, and each line of the log is one JSON object."""
    assert process.written == []
    for line in process.messages:
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert line["level"] in ("debug", "info", "warning"), line


def last_words(process: Contained) -> str:
    """Return the last message of its own: the interpreter, which shows all warnings here, may end later.

    On a machine that is busy it finds sockets that were about to be closed.
    """
    own = [line for line in process.messages if "ResourceWarning: unclosed transport" not in line["message"]]
    return str(own[-1]["message"])


def test_a_controller_works_and_ends(cluster: Cluster, namespace: str, tmp_path: Path):
    """Kopf watches, stores are probed, a pass runs in a process of its own; then SIGTERM ends it with 0."""
    install(cluster)
    (tmp_path / "tmp").mkdir()
    world = World(cluster, namespace, tmp_path / "tmp")
    world.fill(old=2, young=1)
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT, tmp_path / "kubeconfig")
    arguments = (
        *("controller", "--namespace", namespace, "--no-leader-elect", "--allow-local-root", str(world.root)),
        *("--health-host", "127.0.0.1", "--health-port", "0", "--heal-interval-seconds", "0"),
    )
    with Contained(tmp_path, *arguments, environment={"KUBECONFIG": str(kubeconfig)}) as controller:
        controller.wait_said("the controller works")
        world.config()
        world.policy(mode="Enforce")
        world.wait(finished, "a pass", 60)
        until(
            lambda: condition(cluster.get("storageconfig", "main", "-n", namespace)).get("status") == "True",
            "the probe",
        )
        controller.signal()

        assert controller.wait_exit(SECONDS) == 0, controller.log
    assert len(world.objects()) == 1
    assert_manners(controller)
    assert last_words(controller) == "the controller has stopped"


def test_a_webhook_works_and_ends(cluster: Cluster, tmp_path: Path):
    """With certificates from files; SIGTERM drains it, and it ends with 0."""
    install_webhook(cluster)
    files = write_serving_files(tmp_path, ["localhost"], ["127.0.0.1"])
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, WEBHOOK_ACCOUNT, tmp_path / "kubeconfig")
    arguments = (
        *("webhook", "--tls-cert", str(files.certificate), "--tls-key", str(files.key)),
        *("--host", "127.0.0.1", "--port", "0", "--metrics-host", "127.0.0.1", "--metrics-port", "0"),
        *("--drain-seconds", "0.5", "--log-level", "debug"),
    )
    with Contained(tmp_path, *arguments, environment={"KUBECONFIG": str(kubeconfig)}) as webhook:
        webhook.wait_said('"message": "ready"')
        webhook.signal()

        assert webhook.wait_exit(SECONDS) == 0, webhook.log
    assert_manners(webhook)
    assert last_words(webhook) == "webhook stopped"
