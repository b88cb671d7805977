"""The operator's two processes, started as they would run in a cluster: own accounts, own rights."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

import yaml

from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster import Cluster
from tests.cluster.processes import ManagedProcess, free_port, spawn, tail
from tests.demo.console import DemoFailedError, Narrator

__all__ = ["OperatorProcesses"]

FILES = Path(__file__).resolve().parents[2] / "charts" / "bubu-storage-operator" / "files"
READY_SECONDS = 30.0


class OperatorProcesses:
    """Controller and webhook of one demo."""

    namespace = "bubu-storage-system"
    controller_account = "bubu-storage-controller"
    webhook_account = "bubu-storage-webhook"

    def __init__(self, cluster: Cluster, workdir: Path, *, allow_local_root: Path) -> None:
        self._cluster = cluster
        self._workdir = workdir
        self._allow_local_root = allow_local_root
        self._processes: list[ManagedProcess] = []
        self._host = cluster.callback_host or "127.0.0.1"
        self._webhook_port = free_port()
        self._webhook: ManagedProcess | None = None

    def start(self, narrator: Narrator) -> None:
        """Apply the RBAC, start both processes and register the webhook.

        Raises:
            DemoFailedError: a process does not become ready.
        """
        cluster = self._cluster
        cluster.create_namespace(self.namespace)
        for name in ("controller-rbac.yaml", "webhook-rbac.yaml", "webhook-authority-rbac.yaml"):
            cluster.apply(*(doc for doc in yaml.safe_load_all((FILES / name).read_text()) if doc))
        # Without a caBundle: the controller makes the authority, and writes it here.
        cluster.apply(render_webhook_configuration(url=f"https://{self._host}:{self._webhook_port}/mutate"))
        health_port = free_port()
        controller = self._spawn(
            "controller", self.controller_account,
            "--allow-local-root", str(self._allow_local_root),
            "--allow-loopback-endpoints",
            "--webhook-authority",
            "--heal-interval-seconds", "2",
            "--health-host", "127.0.0.1", "--health-port", str(health_port),
        )  # fmt: skip
        self._wait_ready(narrator, controller, health_port)
        self.start_webhook(narrator)
        narrator.wait(
            "the authority in the webhook's registration", self._is_trusted, deadline_seconds=READY_SECONDS
        )
        narrator.done(
            f"controller ready, pid {controller.pid}, as {self.controller_account}, holding the Lease"
        )
        narrator.done(f"webhook ready, as {self.webhook_account}, with a certificate that it signed itself")
        for account in (self.controller_account, self.webhook_account):
            verdict = cluster.kubectl(
                "auth", "can-i", "list", "secrets", "--all-namespaces",
                f"--as=system:serviceaccount:{self.namespace}:{account}", check=False,
            )  # fmt: skip
            narrator.check(
                verdict.stdout.strip() == "no", f"{account} may not list Secrets", verdict.stdout.strip()
            )

    def start_webhook(self, narrator: Narrator) -> None:
        """Start the webhook and wait until it would be sent requests."""
        metrics_port = free_port()
        self._webhook = self._spawn(
            "webhook", self.webhook_account,
            "--host", self._host, "--port", str(self._webhook_port), "--dns-name", self._host,
            "--metrics-host", "127.0.0.1", "--metrics-port", str(metrics_port),
            "--drain-seconds", "0.2",
        )  # fmt: skip
        self._wait_ready(narrator, self._webhook, metrics_port)

    def stop_webhook(self) -> None:
        """End the webhook, as an outage would."""
        if self._webhook is not None:
            self._webhook.stop(grace_seconds=10.0)

    def _is_trusted(self) -> bool:
        name = render_webhook_configuration()["metadata"]["name"]
        entries = self._cluster.get("mutatingwebhookconfiguration", name)["webhooks"]
        return all(entry["clientConfig"].get("caBundle") for entry in entries)

    def stop(self) -> None:
        """End both processes, the webhook first."""
        for process in reversed(self._processes):
            process.stop(grace_seconds=10.0)

    def _spawn(self, role: str, account: str, *options: str) -> ManagedProcess:
        kubeconfig = self._cluster.service_account_kubeconfig(
            self.namespace, account, self._workdir / f"{role}.kubeconfig"
        )
        process = spawn(
            role,
            [sys.executable, "-m", "bubu_operator", role, "--kubeconfig", str(kubeconfig), *options],
            log=self._workdir / f"{role}.log",
        )
        self._processes.append(process)
        return process

    def _wait_ready(self, narrator: Narrator, process: ManagedProcess, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)

        def ready() -> bool:
            if not process.is_running():
                raise DemoFailedError(f"the {process.name} ended early:\n{tail(process.log)}")
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                return False
            return response.status == http.client.OK

        try:
            narrator.wait(
                f"the {process.name} becoming ready",
                ready,
                deadline_seconds=READY_SECONDS,
                describe=lambda: "\n" + tail(process.log),
            )
        finally:
            connection.close()
