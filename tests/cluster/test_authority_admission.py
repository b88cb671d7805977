"""Pods through the real API server while the built-in authority rotates: nobody is refused or missed.

The handshakes of `test_authority` follow caBundle themselves. Here the API server does it, with its own
connections and its own idea of what is trusted: short lifetimes, replicas behind a balancer.
"""

from __future__ import annotations

import http.client
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from bubu_operator.certificates.stored import AuthorityState, decode
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import SECRETS
from tests.cluster import Cluster
from tests.cluster.balancer import Balancer
from tests.cluster.controller_harness import ControllerProcess, install
from tests.cluster.processes import PATIENCE, ManagedProcess, free_port, spawn, tail, wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    FILES,
    OPERATOR_NAMESPACE,
    PodStream,
    config_of,
    install_webhook,
    register,
    wait_until_called,
)

SECRET = "bubu-storage-webhook-ca"
LIFETIMES = "ca=10m,leaf=9s,propagation=5s,slack=3s"
"""The API server has five seconds to hear of a change, and replicas renew three seconds before the end."""
DRAIN_SECONDS = 5.0
"""As shipped."""

pytestmark = pytest.mark.cluster


@dataclass
class Replica:
    """A webhook that signs its own certificate; the balancer sends it connections when it is ready."""

    process: ManagedProcess
    log: Path
    address: tuple[str, int]
    metrics_port: int

    def sample(self, name: str) -> float:
        """A sample of its metrics, without labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=30)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@dataclass
class Installation:
    """Everything of the operator, behind the API server that calls it."""

    cluster: Cluster
    client: KubeClient
    folder: Path
    balancer: Balancer
    stack: ExitStack
    replicas: list[Replica] = field(default_factory=list[Replica])

    def add(self) -> Replica:
        """Start a replica and wait until it is sent connections."""
        kubeconfig = self.cluster.service_account_kubeconfig(
            OPERATOR_NAMESPACE, ACCOUNT, self.folder / "webhook.kubeconfig"
        )
        port, metrics_port = free_port(), free_port()
        log = self.folder / f"webhook-{port}.log"
        process = spawn(
            "webhook",
            [
                *(sys.executable, "-W", "error", "-m", "bubu_operator", "webhook"),
                *("--kubeconfig", str(kubeconfig), "--host", "127.0.0.1", "--port", str(port)),
                *("--metrics-host", "127.0.0.1", "--metrics-port", str(metrics_port)),
                *("--dns-name", "127.0.0.1", "--drain-seconds", str(DRAIN_SECONDS)),
            ],
            log=log,
        )
        self.stack.callback(process.stop, grace_seconds=0.2)
        replica = Replica(process, log, ("127.0.0.1", port), metrics_port)
        self.balancer.add(replica.address)
        wait_until(lambda: replica.address in self.balancer.ready(), 30, f"a replica in turn\n{tail(log)}")
        self.replicas.append(replica)
        return replica

    def end(self, replica: Replica) -> None:
        """SIGTERM, as a kubelet: it drains and ends with 0."""
        popen = replica.process.popen
        assert popen is not None
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(20 * PATIENCE) == 0
        self.balancer.remove(replica.address)
        self.replicas.remove(replica)

    def state(self) -> AuthorityState:
        """The authority's Secret; empty when there is none."""
        found = self.client.list(SECRETS, OPERATOR_NAMESPACE, field_selector=f"metadata.name={SECRET}")
        return decode(found.items[0].get("data")).state if found.items else AuthorityState()

    def signing(self) -> str:
        """Fingerprint of who signs; "" for nobody."""
        signing = self.state().signing
        return "" if signing is None else signing.certificate.fingerprint

    def trusted(self) -> set[str]:
        """Fingerprints of what caBundle is to hold."""
        return {item.fingerprint for item in self.state().trusted}


@pytest.fixture
def installation(cluster: Cluster, tmp_path: Path, namespace: str) -> Iterator[Installation]:
    """A controller with the authority, and two replicas that the API server calls."""
    if cluster.callback_host != "127.0.0.1":
        pytest.skip("the balancer listens on loopback, which the API server cannot reach")
    install(cluster)
    install_webhook(cluster)
    rights = (FILES / "webhook-authority-rbac.yaml").read_text()
    cluster.apply(*(document for document in yaml.safe_load_all(rights) if document))
    cluster.apply(config_of("main", namespace))
    cluster.kubectl("delete", "secret", SECRET, "-n", OPERATOR_NAMESPACE, "--ignore-not-found")
    with ExitStack() as stack:
        stack.callback(
            cluster.kubectl, "delete", "secret", SECRET, "-n", OPERATOR_NAMESPACE, "--ignore-not-found"
        )
        balancer = stack.enter_context(Balancer())
        client = stack.enter_context(KubeClient.load(str(cluster.kubeconfig)))
        # Without caBundle, as it ships: the controller fills it in.
        name = register(cluster, f"https://127.0.0.1:{balancer.port}/mutate", "")
        stack.callback(cluster.kubectl, "delete", "mutatingwebhookconfiguration", name, "--ignore-not-found")
        stack.enter_context(
            ControllerProcess(
                cluster,
                tmp_path,
                namespaces=["default"],
                arguments=["--webhook-authority", "--authority-lifetimes", LIFETIMES],
            )
        )
        made = Installation(cluster, client, tmp_path, balancer, stack)
        made.add()
        made.add()
        wait_until_called(cluster, namespace)
        yield made


def test_no_pod_fails_or_is_missed_during_a_whole_rotation_of_the_authority(
    installation: Installation, namespace: str
):
    """50 pods a second from before the new authority until after the old one, one replica being replaced."""
    first = installation.signing()
    with PodStream(installation.cluster.kubeconfig, namespace) as stream:
        wait_until(lambda: stream.answered >= 25, 20, "the stream to run")
        asked = f"storage.bubustack.io/rotate-authority={namespace}"
        installation.cluster.kubectl("annotate", "secret", SECRET, "-n", OPERATOR_NAMESPACE, asked)
        wait_until(lambda: installation.signing() not in ("", first), 20, "the new authority to sign")
        installation.add()
        installation.end(installation.replicas[0])
        wait_until(lambda: first not in installation.trusted(), 30, "the old authority to be dropped")
        # The API server makes new connections with each change of what it trusts.
        enough = stream.answered + 100
        wait_until(lambda: stream.answered >= enough, 20, "pods with the new authority alone")
        report = stream.finish()

    print(f"\nrotated in {report.wall_seconds:.0f} s: {report}")
    assert report.failed == []
    assert report.uninjected == 0
    assert len(report.created) >= 300
    stayed = installation.replicas[0]
    assert stayed.sample("bubu_webhook_certificate_loads_total") >= 2
    assert stayed.sample("bubu_webhook_certificate_trouble") == 0
    assert stayed.sample("bubu_webhook_certificate_not_after_timestamp_seconds") > 0
    assert "Traceback" not in stayed.log.read_text()
