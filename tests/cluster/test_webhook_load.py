"""Pods at a steady rate while the webhook is replaced, re-keyed and killed under them.

Two real processes stand behind a balancer that knows readiness, as behind a Service. The short
form runs everywhere; ``BUBU_LONG_TESTS=1`` runs the whole minute.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.balancer import Balancer
from tests.cluster.certs import ServingFiles, write_private, write_serving_files
from tests.cluster.processes import wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    OPERATOR_NAMESPACE,
    PodStream,
    Webhook,
    config_of,
    install_webhook,
    pod_of,
    register,
    wait_until_called,
)

pytestmark = pytest.mark.cluster

LONG = os.environ.get("BUBU_LONG_TESTS") == "1"
STREAM_SECONDS = 60.0 if LONG else 20.0
DRAIN_SECONDS = 5.0
"""As shipped: longer than any request waits on its way through a busy API server."""
ROTATIONS = 3
MISMATCH = "the key does not belong to the certificate"


@dataclass
class Fleet:
    """Webhook processes behind one balancer, replaced as a Deployment replaces pods."""

    cluster: Cluster
    folder: Path
    kubeconfig: Path
    files: ServingFiles
    balancer: Balancer
    running: list[Webhook] = field(default_factory=list[Webhook])
    started: int = 0

    def add(self) -> Webhook:
        """Start a process and wait until the balancer sends it connections."""
        self.started += 1
        name = f"webhook-{self.started}"
        webhook = Webhook(
            self.cluster, self.folder, self.kubeconfig, self.files, name=name, drain_seconds=DRAIN_SECONDS
        )
        webhook.spawn()
        self.running.append(webhook)
        self.balancer.add(address_of(webhook))
        wait_until(
            lambda: address_of(webhook) in self.balancer.ready() or webhook.has_ended(), 30, f"{name} in turn"
        )
        return webhook

    def end(self, webhook: Webhook) -> None:
        """SIGTERM, as a kubelet: the process drains and ends by itself with 0."""
        webhook.signal(signal.SIGTERM)
        assert webhook.exit_code() == 0
        self.forget(webhook)

    def forget(self, webhook: Webhook) -> None:
        """Take a process that has ended out of the balancer."""
        self.running.remove(webhook)
        self.balancer.remove(address_of(webhook))

    def roll(self) -> None:
        """Replace every process, each new one being ready before its predecessor ends (maxSurge 1)."""
        for old in list(self.running):
            self.add()
            self.end(old)

    def rotate(self, new: ServingFiles) -> None:
        """Replace certificate and key one after the other, as slowly as the processes look."""
        refused = {webhook.name: webhook.log.read_text().count(MISMATCH) for webhook in self.running}
        write_private(self.files.certificate, new.certificate.read_text())
        for webhook in self.running:
            wait_until(
                lambda one=webhook: one.log.read_text().count(MISMATCH) > refused[one.name],
                10,
                f"{webhook.name} to see the half-way pair",
            )
        write_private(self.files.key, new.key.read_text())
        leaf = new.leaf_der
        for webhook in self.running:
            wait_until(
                lambda one=webhook: one.served_certificate() == leaf,
                10,
                f"{webhook.name} to serve the new pair",
            )


def address_of(webhook: Webhook) -> tuple[str, int]:
    """Where a process listens."""
    return (webhook.host, webhook.port)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[ServingFiles]:
    """Serving pairs, each of an authority of its own: the one in use first."""
    return [
        write_serving_files(tmp_path_factory.mktemp("pair"), ["localhost"], ["127.0.0.1"])
        for _ in range(1 + ROTATIONS)
    ]


@pytest.fixture
def fleet(cluster: Cluster, tmp_path: Path, pairs: list[ServingFiles], namespace: str) -> Iterator[Fleet]:
    """Two processes behind a balancer, registered; the namespace of the test has a config."""
    if cluster.callback_host != "127.0.0.1":
        pytest.skip("the balancer listens on loopback, which the API server cannot reach")
    install_webhook(cluster)
    kubeconfig = cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, tmp_path / "kubeconfig")
    files = ServingFiles(
        ca=pairs[0].ca,
        certificate=write_private(tmp_path / "tls.crt", pairs[0].certificate.read_text()),
        key=write_private(tmp_path / "tls.key", pairs[0].key.read_text()),
    )
    with ExitStack() as stack:
        balancer = stack.enter_context(Balancer())
        running = Fleet(cluster, tmp_path, kubeconfig, files, balancer)
        stack.callback(lambda: [webhook.stop() for webhook in running.running])
        cluster.apply(config_of("main", namespace))
        for _ in range(2):
            running.add()
        bundle = "".join(pair.ca.read_text() for pair in pairs)
        name = register(cluster, f"https://127.0.0.1:{balancer.port}/mutate", bundle)
        stack.callback(
            lambda: cluster.kubectl("delete", "mutatingwebhookconfiguration", name, "--ignore-not-found")
        )
        wait_until_called(cluster, namespace)
        yield running


def test_no_pod_fails_or_is_missed_while_the_webhook_is_rolled_and_re_keyed(
    fleet: Fleet, namespace: str, pairs: list[ServingFiles]
):
    """50 pods a second through rolling restarts and certificates replaced half by half: not one lost."""
    spares = iter(pairs[1:])
    with PodStream(fleet.cluster.kubeconfig, namespace) as stream:
        fleet.roll()
        fleet.rotate(next(spares))
        while stream.elapsed_seconds < STREAM_SECONDS - 15:
            fleet.roll()
            spare = next(spares, None)
            if spare is not None:
                fleet.rotate(spare)
        stream.run_until(STREAM_SECONDS)
        report = stream.finish()

    print(f"\nrolled {(fleet.started - 2) // 2} times: {report}")
    assert report.failed == []
    assert report.uninjected == 0
    assert len(report.created) >= 0.9 * 50 * STREAM_SECONDS


def test_a_killed_replica_fails_no_pod(fleet: Fleet, namespace: str):
    """SIGKILL of one of two: the API server goes on without an answer, then with the other's."""
    victim, survivor = fleet.running
    with PodStream(fleet.cluster.kubeconfig, namespace) as stream:
        wait_until(lambda: stream.answered >= 50, 20, "the stream to run")
        killed_at = stream.elapsed_seconds
        victim.signal(signal.SIGKILL)
        victim.exit_code()
        wait_until(
            lambda: fleet.balancer.ready() == [address_of(survivor)], 10, "the balancer to notice the death"
        )
        noticed_at = stream.elapsed_seconds
        stream.run_until(noticed_at + 2)
        report = stream.finish()
    fleet.forget(victim)

    print(f"\nkilled; noticed after {noticed_at - killed_at:.2f} s: {report}")
    assert report.failed == []
    before = [one for one in report.created if one.at_seconds + one.took_seconds < killed_at]
    after = [one for one in report.created if one.at_seconds > noticed_at]
    assert len(after) >= 50
    assert [one for one in (*before, *after) if not one.injected] == []


def test_the_balancer_of_these_tests_sends_nothing_to_a_replica_that_drains(fleet: Fleet, namespace: str):
    """What the other tests rest on: readiness goes off at once, and requests are still answered."""
    leaving, staying = fleet.running
    leaving.signal(signal.SIGTERM)

    wait_until(lambda: fleet.balancer.ready() == [address_of(staying)], 5, "the balancer to see the drain")

    assert leaving.running.is_running()
    assert leaving.reason(pod_of("p", namespace, {"bubustack.io/engram": "x"}), namespace) == "Injected"
    assert leaving.exit_code() == 0
    fleet.forget(leaving)
