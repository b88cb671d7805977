"""``python -m tests.monitoring.record FOLDER [--minutes 12]``: real metrics of an eventful time.

Two controllers and two webhook replicas work on a real API server while pods come and go, stores fill and
are cleaned, and things go wrong: the webhook is away, the leader is killed, an S3 server is down. A real
Prometheus scrapes them all. Its data stay in FOLDER for scripts/dashboard_picture to draw from.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from bubu_operator.errors import KubeApiError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import Resource
from bubu_operator.webhook.configuration import render_webhook_configuration
from bubu_storage.backend.factory import open_backend
from tests.cluster.balancer import Balancer
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, install
from tests.cluster.processes import ManagedProcess, exit_on_signals, free_port, spawn
from tests.cluster.providers import start_cluster
from tests.monitoring.rules import FILES
from tests.monitoring.server import OPERATOR_NAMESPACE, PrometheusServer, Target
from tests.s3server import VersityGateway

API = "storage.bubustack.io/v1alpha1"
DAY = 86400.0
TEAMS = ("team-a", "team-b", "team-c")
PODS = Resource("", "v1", "pods", "Pod")
SCRAPE_SECONDS = 5
PODS_PER_SECOND = 6
PODS_KEPT = 150
EVENTS = {
    0.30: "the webhook is away",
    0.36: "the webhook is back",
    0.52: "the leader is killed",
    0.70: "the S3 server is down",
    0.80: "the S3 server is back",
}


class Recording:
    """Everything that runs while Prometheus looks on."""

    def __init__(self, cluster: Cluster, workdir: Path, gateway: VersityGateway, balancer: Balancer) -> None:
        self._cluster = cluster
        self._workdir = workdir
        self._gateway = gateway
        self._balancer = balancer
        self._files = workdir / "stores"
        self._files.mkdir()
        self._client = KubeClient.load(str(cluster.kubeconfig))
        self._over = threading.Event()
        self._random = random.Random(7)
        self._webhooks: list[ManagedProcess] = []
        self._webhook_ports = [(free_port(), free_port()) for _ in range(2)]
        self._controllers: list[ControllerProcess] = []

    # -- the system ----------------------------------------------------------------------

    def install(self) -> list[Target]:
        """Apply everything, start both roles twice, and return whom to scrape."""
        install(self._cluster)
        for name in ("webhook-rbac.yaml", "webhook-authority-rbac.yaml"):
            self._cluster.apply(*(doc for doc in yaml.safe_load_all((FILES / name).read_text()) if doc))
        self._cluster.apply(
            render_webhook_configuration(url=f"https://127.0.0.1:{self._balancer.port}/mutate")
        )
        for _ in range(2):
            controller = ControllerProcess(
                self._cluster,
                self._workdir,
                roots=[self._files],
                leader_elect=True,
                arguments=[
                    *("--webhook-authority", "--heal-interval-seconds", "10"),
                    *("--probe-interval-seconds", "10"),
                ],
            )
            controller.start()
            self._controllers.append(controller)
        self.start_webhooks()
        for team in TEAMS:
            self._cluster.create_namespace(team)
            self._cluster.kubectl(
                "create", "rolebinding", "bubu-storage-secrets", "-n", team,
                "--clusterrole=bubu-storage-secret-reader",
                f"--serviceaccount={OPERATOR_NAMESPACE}:bubu-storage-controller",
            )  # fmt: skip
        self._apply_stores()
        return [
            *(Target(f"bubu-storage-controller-{n}", one.port) for n, one in enumerate(self._controllers)),
            *(Target(f"bubu-storage-webhook-{n}", port) for n, (_, port) in enumerate(self._webhook_ports)),
        ]

    def start_webhooks(self) -> None:
        """Start both replicas."""
        kubeconfig = self._workdir / "webhook.kubeconfig"
        self._cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, "bubu-storage-webhook", kubeconfig)
        for number, (port, metrics_port) in enumerate(self._webhook_ports):
            command = [
                *(sys.executable, "-m", "bubu_operator", "webhook", "--kubeconfig", str(kubeconfig)),
                *("--host", "127.0.0.1", "--port", str(port), "--dns-name", "127.0.0.1"),
                *("--metrics-host", "127.0.0.1", "--metrics-port", str(metrics_port)),
                *("--drain-seconds", "0.2", "--log-level", "warning"),
            ]
            log = self._workdir / f"webhook-{number}.log"
            self._webhooks.append(spawn(f"webhook-{number}", command, log=log))
            self._balancer.add(("127.0.0.1", port))

    def stop_webhooks(self) -> None:
        """End both replicas, as a broken roll-out would."""
        for port, _ in self._webhook_ports:
            self._balancer.remove(("127.0.0.1", port))
        while self._webhooks:
            self._webhooks.pop().stop(grace_seconds=5.0)

    def kill_leader(self) -> None:
        """SIGKILL the controller that leads; it is started anew, as a kubelet does."""
        leader = next((one for one in self._controllers if one.leads), self._controllers[0])
        leader.kill()
        leader.launch()

    def stop(self) -> None:
        """End everything."""
        self._over.set()
        self.stop_webhooks()
        for controller in self._controllers:
            with contextlib.suppress(AssertionError):
                controller.stop()
        self._client.close()

    def _apply_stores(self) -> None:
        settings = self._gateway.settings("flows")
        secret = {
            "AWS_ACCESS_KEY_ID": self._gateway.access_key,
            "AWS_SECRET_ACCESS_KEY": self._gateway.secret_key,
        }
        s3 = {
            "bucket": "flows",
            "region": settings.region,
            "endpoint": self._gateway.endpoint,
            "authentication": {"secretRef": {"name": "flows"}},
        }
        self._object("Secret", "flows", "team-a", api="v1", stringData=secret)
        self._object("StorageConfig", "main", "team-a", spec={"s3": s3})
        self._object("StorageConfig", "main", "team-b", spec={"file": {"path": str(self._files / "b")}})
        shared = {"file": {"path": str(self._files / "shared")}, "namespaceSelector": {}}
        self._object("ClusterStorageConfig", "shared", spec=shared)
        rules = [{"prefix": "outputs/", "keep": {"within": "7d"}}]
        usual = {"interval": "15s", "rules": rules, "safety": {"maxDuePercent": 100}}
        enforce = usual | {"mode": "Enforce", "limits": {"maxScan": 5000, "maxDelete": 60}}
        self._object("RetentionPolicy", "weekly", "team-a", spec=enforce)
        self._object("RetentionPolicy", "weekly", "team-b", spec=enforce)
        self._object(
            "ClusterRetentionPolicy",
            "shared",
            spec=usual | {"storageRef": {"name": "shared"}, "mode": "DryRun"},
        )

    def _object(self, kind: str, name: str, namespace: str = "", api: str = API, **rest: Any) -> None:
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        self._cluster.apply({"apiVersion": api, "kind": kind, "metadata": metadata, **rest})

    # -- what goes on --------------------------------------------------------------------

    def work(self) -> None:
        """Let pods come and go, and stores fill, until the end."""
        threading.Thread(target=self._pods, daemon=True).start()
        threading.Thread(target=self._runs, daemon=True).start()

    def _pods(self) -> None:
        known: list[tuple[str, str]] = []
        for number in itertools.count():
            if self._over.wait(self._random.expovariate(PODS_PER_SECOND)):
                return
            team = self._random.choice(TEAMS)
            pod = {
                "metadata": {"name": f"step-{number}", "labels": {"bubustack.io/engram": "step"}},
                "spec": {"containers": [{"name": "main", "image": "registry.example/engram:1"}]},
            }
            with contextlib.suppress(KubeApiError):
                self._client.create(PODS, pod, team)
                known.append((team, f"step-{number}"))
            if len(known) > PODS_KEPT:
                old_team, name = known.pop(0)
                with contextlib.suppress(KubeApiError):
                    self._client.delete(PODS, name, old_team)

    def _runs(self) -> None:
        with contextlib.closing(open_backend(self._gateway.settings("flows"))) as backend:
            for number in itertools.count():
                if self._over.wait(1.0):
                    return
                when = time.time() - (8 * DAY if number % 3 else 1 * DAY)
                for item in range(self._random.randrange(1, 6)):
                    key = f"run-{number:06d}/{item}.json"
                    body = b"x" * self._random.randrange(500, 60_000)
                    with contextlib.suppress(Exception):
                        backend.put_object(f"outputs/team-a/{key}", body)
                        stored = self._gateway.path_of("flows", f"outputs/team-a/{key}")
                        os.utime(stored, (when, when))
                    for root, team in (("b", "team-b"), ("shared", "team-c")):
                        path = self._files / root / "outputs" / team / key
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(body)
                        os.utime(path, (when, when))


def record(folder: Path, minutes: float) -> None:
    """Run the scene and leave the data, and when what happened, in ``folder``."""
    story: list[tuple[float, str]] = []
    with contextlib.ExitStack() as stack:
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bubu-record-")))
        cluster = stack.enter_context(start_cluster())
        balancer = stack.enter_context(Balancer())
        gateway = stack.enter_context(VersityGateway())
        gateway.create_bucket("flows")
        scene = Recording(cluster, workdir, gateway, balancer)
        stack.callback(scene.stop)
        targets = scene.install()
        stack.enter_context(PrometheusServer(folder, targets, scrape_seconds=SCRAPE_SECONDS))
        scene.work()
        began = time.time()
        acts = {
            "the webhook is away": scene.stop_webhooks,
            "the webhook is back": scene.start_webhooks,
            "the leader is killed": scene.kill_leader,
            "the S3 server is down": lambda: _signal(gateway, "STOP"),
            "the S3 server is back": lambda: _signal(gateway, "CONT"),
        }
        for share, what in EVENTS.items():
            _sleep_until(began + share * minutes * 60)
            print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
            story.append((time.time(), what))
            acts[what]()
        _sleep_until(began + minutes * 60)
        ended = time.time()
    (folder / "story.json").write_text(json.dumps({"from": began, "to": ended, "events": story}))


def _signal(gateway: VersityGateway, name: str) -> None:
    if gateway.pid is not None:
        os.kill(gateway.pid, getattr(signal, f"SIG{name}"))


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.record", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=12.0)
    arguments = parser.parse_args()
    with exit_on_signals():
        record(arguments.folder.absolute(), arguments.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
