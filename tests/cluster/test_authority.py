"""The built-in authority with real processes behind a real API server: rotations nobody notices.

Durations are seconds instead of months. A client trusts exactly the caBundle that the API server
holds at the moment of its connection, or held a while before.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from bubu_operator.certificates.issuing import UnusableAuthorityError, load_trusted
from bubu_operator.certificates.stored import AuthorityState, Stored, decode
from bubu_operator.errors import KubeApiError
from bubu_operator.kube.client import KubeClient, PatchType
from bubu_operator.kube.resources import MUTATING_WEBHOOKS, SECRETS
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster import Cluster
from tests.cluster.controller_harness import RBAC, ControllerProcess, install, until
from tests.cluster.handshakes import BundleFollower, Handshakes
from tests.cluster.processes import ManagedProcess, free_port, spawn, tail, wait_until

FILES = RBAC.parent
NAMESPACE = "bubu-storage-system"
SECRET = "bubu-storage-webhook-ca"
NAME = "bubu-storage-webhook"
SERVICE_NAME = f"{NAME}.{NAMESPACE}.svc"
PROPAGATION_SECONDS = 5
LAG_SECONDS = 2.0
"""How late the slowest of our clients hears of a change; less than the propagation time, by what a busy
machine may add."""

STEADY = f"ca=10m,leaf=2m,propagation={PROPAGATION_SECONDS}s,slack=2s"
ROTATING = f"ca=27s,leaf=9s,propagation={PROPAGATION_SECONDS}s,slack=3s"
"""A leaf is renewed three seconds before its end."""

pytestmark = pytest.mark.cluster


@dataclass
class Replica:
    """A webhook process without any certificate file."""

    kubeconfig: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: ManagedProcess | None = None

    @property
    def log(self) -> Path:
        """Where it writes."""
        return self.folder / f"webhook-{self.port}.log"

    def start(self) -> None:
        """Start without waiting."""
        self.process = spawn(
            "webhook",
            [
                *(sys.executable, "-W", "error", "-m", "bubu_operator", "webhook"),
                *("--kubeconfig", str(self.kubeconfig), "--host", "127.0.0.1", "--port", str(self.port)),
                *("--metrics-host", "127.0.0.1", "--metrics-port", "0"),
                *("--dns-name", "127.0.0.1", "--drain-seconds", "0.2"),
            ],
            log=self.log,
        )

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop(grace_seconds=10)

    def said(self, words: str) -> bool:
        """Tell whether the log has a line with these words."""
        return words in self.log.read_text()


@dataclass
class Field:
    """The cluster with everything of the authority, empty at the beginning of a test."""

    cluster: Cluster
    client: KubeClient
    folder: Path
    stack: contextlib.ExitStack

    def controller(self, lifetimes: str = STEADY) -> ControllerProcess:
        """Start a controller that keeps the authority; it is stopped in the end."""
        process = ControllerProcess(
            self.cluster,
            self.folder,
            namespaces=["default"],
            arguments=["--webhook-authority", "--authority-lifetimes", lifetimes],
        )
        self.stack.callback(process.stop)
        process.start()
        return process

    def replica(self) -> Replica:
        """Start a webhook; it is stopped in the end."""
        kubeconfig = self.cluster.service_account_kubeconfig(
            NAMESPACE, NAME, self.folder / "webhook.kubeconfig"
        )
        replica = Replica(kubeconfig, self.folder)
        replica.start()
        self.stack.callback(replica.stop)
        return replica

    def register(self, ca_pem: str = "") -> None:
        """Apply the webhook's configuration, without caBundle unless one is given."""
        self.cluster.apply(
            render_webhook_configuration(url="https://127.0.0.1:1/mutate", ca_bundle_pem=ca_pem)
        )

    def follow(self) -> BundleFollower:
        """Follow caBundle."""
        return self.stack.enter_context(BundleFollower(self.client, NAME))

    def stored(self) -> Stored | None:
        """The Secret's content."""
        listed = self.client.list(SECRETS, NAMESPACE, field_selector=f"metadata.name={SECRET}")
        return decode(listed.items[0].get("data")) if listed.items else None

    def state(self) -> AuthorityState:
        """The Secret's content, which must be there and sound."""
        stored = self.stored()
        assert stored is not None
        assert stored.problems == ()
        return stored.state

    def signing(self) -> str:
        """Fingerprint of who signs; "" for nobody."""
        stored = self.stored()
        if stored is None or stored.state.signing is None:
            return ""
        return stored.state.signing.certificate.fingerprint

    def bundles(self) -> list[str]:
        """CaBundle of every entry, PEM."""
        found = self.client.get(MUTATING_WEBHOOKS, NAME)
        webhooks = cast("list[dict[str, Any]]", found["webhooks"])
        values = [str(item["clientConfig"].get("caBundle") or "") for item in webhooks]
        return [base64.b64decode(value).decode(errors="replace") for value in values]

    def settled(self) -> bool:
        """Every entry trusts exactly what the Secret says, and somebody signs."""
        if not self.signing():
            return False
        with contextlib.suppress(UnusableAuthorityError):
            return self._agreed()
        return False

    def _agreed(self) -> bool:
        wanted = set(self.state().trusted)
        return all(bundle and set(load_trusted(bundle)) == wanted for bundle in self.bundles())

    def rotate(self, value: str) -> None:
        """Ask for a rotation, as a person would."""
        annotation = f"storage.bubustack.io/rotate-authority={value}"
        self.cluster.kubectl("annotate", "secret", SECRET, "-n", NAMESPACE, "--overwrite", annotation)

    def clear(self) -> None:
        """Take away what tests leave behind."""
        self.cluster.kubectl("delete", "secret", SECRET, "-n", NAMESPACE, "--ignore-not-found")
        self.cluster.kubectl("delete", "mutatingwebhookconfiguration", NAME, "--ignore-not-found")

    def shaking(
        self, follower: BundleFollower, replica: Replica, threads: int = 4, resting_seconds: float = 0.0
    ) -> Handshakes:
        """Clients of a replica: half of them hear of caBundle late."""
        fresh = follower.bundle
        late = functools.partial(follower.bundle, LAG_SECONDS)
        sources: list[Callable[[], str]] = [late if number % 2 else fresh for number in range(threads)]
        return Handshakes(
            "127.0.0.1", replica.port, sources, server_name=SERVICE_NAME, resting_seconds=resting_seconds
        )

    def serving(self, follower: BundleFollower, replica: Replica) -> bool:
        """One handshake succeeds."""
        if not follower.bundle():
            return False
        with self.shaking(follower, replica, threads=1) as probe:
            wait_until(lambda: probe.done + len(probe.failures) > 0, 10, "a handshake")
        return not probe.failures


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """Accounts and rights exactly as shipped."""
    install(cluster)
    for name in ("webhook-rbac.yaml", "webhook-authority-rbac.yaml"):
        documents = yaml.safe_load_all((FILES / name).read_text())
        cluster.apply(*(document for document in documents if document))
    return cluster


@pytest.fixture
def field_(installed: Cluster, tmp_path: Path) -> Iterator[Field]:
    """Nothing there yet."""
    with KubeClient.load(str(installed.kubeconfig)) as client, contextlib.ExitStack() as stack:
        made = Field(installed, client, tmp_path, stack)
        made.clear()
        stack.callback(made.clear)
        yield made


def started(field_: Field, lifetimes: str = STEADY) -> tuple[ControllerProcess, Replica, BundleFollower]:
    """A controller, a replica that serves, and who follows caBundle."""
    field_.register()
    controller = field_.controller(lifetimes)
    replica = field_.replica()
    follower = field_.follow()
    wait_until(lambda: field_.serving(follower, replica), 30, f"the replica to serve\n{tail(replica.log)}")
    return controller, replica, follower


def report(name: str, shaken: Handshakes) -> None:
    """Say how much was tried."""
    print(
        f"\n{name}: {shaken.done} handshakes in {shaken.seconds:.0f} s "
        f"({shaken.done / shaken.seconds:.0f}/s), {len(shaken.failures)} failed, {len(shaken.leaves)} leaves"
    )


def test_a_fresh_installation_serves_at_once(field_: Field):
    """Nothing to wait for where nobody trusts anything yet; every entry gets the same bundle."""
    _, replica, _ = started(field_)

    assert field_.settled()
    assert len(set(field_.bundles())) == 1
    assert len(field_.state().trusted) == 1
    assert not replica.said("Traceback")


def test_nobody_notices_two_whole_rotations(field_: Field):
    """New authority known first, then signing, the old one dropped; each replica renews; none fails."""
    _, replica, follower = started(field_, ROTATING)
    other = field_.replica()
    wait_until(lambda: field_.serving(follower, other), 20, "the second replica")
    signers = [field_.signing()]

    def rotated_twice() -> bool:
        now = field_.signing()
        if now and now != signers[-1]:
            signers.append(now)
        return len(signers) >= 3

    with field_.shaking(follower, replica) as shaken, field_.shaking(follower, other, 2) as also:
        wait_until(rotated_twice, 80, "two rotations")
        wait_until(
            lambda: signers[0] not in {item.fingerprint for item in field_.state().trusted},
            40,
            "the first authority to be dropped",
        )
    report("rotation", shaken)
    report("rotation, second replica", also)

    assert shaken.failures == []
    assert also.failures == []
    assert shaken.done > 500
    assert len(shaken.leaves) >= 4


def test_two_controllers_converge_on_one_authority(field_: Field):
    """They do not know of each other; a rotation with both of them at work is as quiet as with one."""
    field_.register()
    with ThreadPoolExecutor(2) as threads:
        controllers = list(threads.map(field_.controller, [STEADY, STEADY]))
    replica = field_.replica()
    follower = field_.follow()
    wait_until(lambda: field_.serving(follower, replica), 30, "the replica to serve")
    first = field_.signing()
    assert len(field_.state().trusted) == 1

    with field_.shaking(follower, replica) as shaken:
        field_.rotate("a")
        wait_until(lambda: field_.signing() not in ("", first), 30, "the rotation")
        wait_until(field_.settled, 10, "caBundle to follow")
        second = field_.signing()
        wait_until(lambda: replica.said("AuthorityChanged"), 20, "the replica to follow")
    report("two controllers", shaken)

    assert shaken.failures == []
    assert field_.signing() == second
    assert [item.fingerprint for item in field_.state().trusted] == [second, first]
    # Neither undid what the other did: made, begun, promoted.
    assert field_.state().revision == 3
    for controller in controllers:
        assert "Traceback" not in controller.log
        assert "changed by somebody else, or set back" not in controller.log


def test_a_replica_that_starts_in_the_midst_of_a_rotation(field_: Field):
    """Killed and started again while a new authority waits: it signs by the one that may."""
    _, replica, follower = started(
        field_, STEADY.replace(f"propagation={PROPAGATION_SECONDS}s", "propagation=12s")
    )
    first = field_.signing()
    field_.rotate("a")
    wait_until(lambda: field_.state().upcoming is not None and field_.settled(), 20, "the rotation's begin")

    assert replica.process is not None
    assert replica.process.popen is not None
    replica.process.popen.send_signal(signal.SIGKILL)
    replica.process.popen.wait()
    replica.start()
    wait_until(lambda: field_.serving(follower, replica), 20, "the replica to serve again")
    assert field_.signing() == first
    with field_.shaking(follower, replica) as shaken:
        wait_until(lambda: field_.signing() not in ("", first), 30, "the new authority to sign")
        wait_until(lambda: replica.said("AuthorityChanged"), 20, "the replica to follow")
    report("restart", shaken)

    assert shaken.failures == []


def test_damage_is_healed_without_a_failed_handshake(field_: Field):
    """Secret deleted, emptied, a key damaged, one of another pair, caBundle edited: all as before, said."""
    controller, replica, follower = started(field_)
    before = field_.state()
    assert before.signing is not None

    def patch(data: dict[str, Any]) -> None:
        field_.client.patch(SECRETS, SECRET, {"data": data}, NAMESPACE)

    def back() -> bool:
        stored = field_.stored()
        return (
            stored is not None
            and stored.problems == ()
            and stored.state.signing == before.signing
            and field_.settled()
        )

    names = ["signing.crt", "signing.key", "ca.crt", "state.json"]
    garbage = base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nnonsense\n").decode()
    with field_.shaking(follower, replica, resting_seconds=0.005) as shaken:
        field_.client.delete(SECRETS, SECRET, NAMESPACE)
        wait_until(back, 20, "the Secret to come back")
        for damage in (
            dict.fromkeys(names),
            {"signing.key": garbage},
            {"signing.crt": base64.b64encode(b"\xff\x00").decode()},
            {"state.json": base64.b64encode(b"[" * 5000).decode(), "ca.crt": None},
        ):
            patch(damage)
            wait_until(back, 20, f"healing after {damage}")
            enough = shaken.done + 100
            wait_until(lambda enough=enough: shaken.done + len(shaken.failures) >= enough, 20, "handshakes")
    report("damage", shaken)

    assert shaken.failures == []
    assert "Traceback" not in controller.log
    assert not replica.said("Traceback")
    assert "the Secret is gone" in controller.log
    for key in (
        before.signing.key_pem.splitlines()[1],
        base64.b64encode(before.signing.key_pem.encode()).decode(),
    ):
        assert key not in controller.log
        assert not replica.said(key)


def test_a_ca_bundle_that_somebody_edits_is_put_right(field_: Field):
    """Emptied, filled with garbage or with another's authority: replaced within a second or so, said."""
    controller, _, _ = started(field_)
    other = field_.state().trusted[0].pem
    from tests.cluster.certs import write_serving_files

    foreign = write_serving_files(field_.folder, ["x"], []).ca.read_bytes()
    for value in (b"", b"garbage", foreign, other.encode() + foreign):
        field_.client.patch(
            MUTATING_WEBHOOKS,
            NAME,
            [
                {
                    "op": "add",
                    "path": "/webhooks/1/clientConfig/caBundle",
                    "value": base64.b64encode(value).decode(),
                }
            ],
            patch_type=PatchType.JSON,
        )
        wait_until(field_.settled, 10, "caBundle to be put right")

    assert "holds what is not of this authority" in controller.log
    assert "Traceback" not in controller.log


def test_a_secret_that_is_lost_with_the_controllers_memory(field_: Field):
    """Deleted while no controller ran: the old authority stays trusted, a new one is made known first."""
    controller, replica, follower = started(field_)
    first = field_.signing()
    assert controller.stop() == 0
    field_.client.delete(SECRETS, SECRET, NAMESPACE)

    with field_.shaking(follower, replica) as shaken:
        second = field_.controller()
        wait_until(lambda: field_.signing() not in ("", first), 30, "a new authority to sign")
        wait_until(lambda: replica.said("AuthorityChanged"), 20, "the replica to follow")
    report("lost Secret", shaken)

    assert shaken.failures == []
    assert first in {item.fingerprint for item in field_.state().trusted}
    assert "stay trusted for a while" in second.log


def test_a_configuration_that_is_not_there_is_waited_for(field_: Field):
    """Said once; when it comes, caBundle is written at once."""
    controller = field_.controller()
    wait_until(lambda: bool(field_.signing()), 20, "the authority")
    wait_until(lambda: "caBundle waits for it" in controller.log, 10, "the words")

    field_.register()

    wait_until(field_.settled, 10, "caBundle")
    warnings = [line for line in controller.messages if line["level"] == "warning"]
    assert len([line for line in warnings if "caBundle waits for it" in line["message"]]) == 1
    wait_until(lambda: "webhook authority: over" in controller.log, 10, "the end of the trouble")


def test_cert_managers_injector_is_left_alone(field_: Field):
    """Two writers would take turns; who is to write is said."""
    field_.register()
    annotation = "cert-manager.io/inject-ca-from=x/y"
    field_.cluster.kubectl("annotate", "mutatingwebhookconfiguration", NAME, annotation)
    controller = field_.controller()

    wait_until(lambda: "cert-manager writes caBundle there" in controller.log, 20, "the words")
    assert field_.bundles() == [""] * len(field_.bundles())


def test_a_replica_without_an_authority_says_what_is_missing(field_: Field):
    """It waits, not ready, and starts to serve as soon as there is one."""
    replica = field_.replica()
    wait_until(lambda: replica.said("a controller that runs with"), 20, "the words")
    assert replica.process is not None
    assert replica.process.is_running()

    field_.register()
    field_.controller()
    follower = field_.follow()
    wait_until(lambda: field_.serving(follower, replica), 30, "the replica to serve")


def test_rights_are_for_one_secret(field_: Field):
    """The replica reads one Secret by name and nothing else; the controller changes that one alone."""

    def may(account: str, verb: str, resource: str) -> bool:
        who = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
        done = field_.cluster.kubectl("auth", "can-i", verb, resource, "-n", NAMESPACE, who, check=False)
        return done.stdout.strip() == "yes"

    keeper = "bubu-storage-controller"
    # The API server learns of rights that were given by a watch.
    for account, verb in ((NAME, "get"), (NAME, "watch"), (keeper, "update")):
        until(lambda who=account, what=verb: may(who, what, f"secrets/{SECRET}"), f"{account} may {verb}")
    for account, verb, resource in (
        (NAME, "get", "secrets"),
        (NAME, "list", "secrets"),
        (NAME, "update", f"secrets/{SECRET}"),
        (NAME, "patch", f"mutatingwebhookconfigurations/{NAME}"),
        (keeper, "get", "secrets"),
        (keeper, "list", "secrets"),
        (keeper, "update", "secrets/other"),
        (keeper, "delete", f"secrets/{SECRET}"),
        (keeper, "patch", "mutatingwebhookconfigurations/other"),
    ):
        assert not may(account, verb, resource), (account, verb, resource)


def test_another_writer_of_ca_bundle_is_not_answered_without_end(field_: Field):
    """A tool that empties it again and again: put right at once at first, then at a pace, and said."""
    controller, _, _ = started(field_)

    def generation() -> int:
        return int(field_.client.get(MUTATING_WEBHOOKS, NAME)["metadata"]["generation"])

    stop = threading.Event()

    def empty() -> None:
        path = "/webhooks/0/clientConfig/caBundle"
        with KubeClient.load(str(field_.cluster.kubeconfig)) as client:
            while not stop.wait(0.02):
                entry = client.get(MUTATING_WEBHOOKS, NAME)["webhooks"][0]
                if entry["clientConfig"].get("caBundle"):
                    emptied = [{"op": "add", "path": path, "value": ""}]
                    with contextlib.suppress(KubeApiError):
                        client.patch(MUTATING_WEBHOOKS, NAME, emptied, patch_type=PatchType.JSON)

    before = generation()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(empty)
        try:
            wait_until(lambda: "keeps writing" in controller.log, 10, "the words")
            stop.wait(4)
            # Two for each time: one to empty it, one to put it right.
            assert generation() - before < 2 * 9
        finally:
            stop.set()
    wait_until(field_.settled, 10, "caBundle to be put right")
    assert "Traceback" not in controller.log
