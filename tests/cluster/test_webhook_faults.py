"""What the webhook does while things around it break: the API server, the network, its own rights.

Faults that reach beyond one webhook happen on control planes of their own. The short form runs
everywhere; ``BUBU_LONG_TESTS=1`` runs each fault as long as it may last in life.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from bubu_operator.observability.webhook_metrics import FallbackOutcome
from tests.cluster import Cluster, ClusterOptions, KubectlError, PrerequisiteError
from tests.cluster.certs import ServingFiles, write_serving_files
from tests.cluster.cut_proxy import CutProxy
from tests.cluster.etcd_gateway import compact, current_revision
from tests.cluster.late_webhook import LateWebhook
from tests.cluster.local import LocalProvider
from tests.cluster.processes import Stopwatch, free_port, wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    FILES,
    INJECTED,
    OPERATOR_NAMESPACE,
    Json,
    Webhook,
    config_of,
    env_of,
    install_webhook,
    pod_of,
    register,
    through_proxy,
    wait_until_called,
)

pytestmark = pytest.mark.cluster

LONG = os.environ.get("BUBU_LONG_TESTS") == "1"
PAUSE_SECONDS = 90.0 if LONG else 8.0
CUTTING_SECONDS = 30.0 if LONG else 8.0
CATCH_UP_SECONDS = 15.0
ENGRAM = {"bubustack.io/engram": "resize"}
STRICT_LABEL = "storage.bubustack.io/strict"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ServingFiles:
    """A serving pair for loopback."""
    return write_serving_files(tmp_path_factory.mktemp("pair"), ["localhost"], ["127.0.0.1"])


@contextmanager
def webhook_on(
    cluster: Cluster, folder: Path, files: ServingFiles, proxy: CutProxy | None = None
) -> Generator[Webhook]:
    """A ready process on a cluster, reached through a proxy where one is given."""
    install_webhook(cluster)
    kubeconfig = cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, folder / "kubeconfig")
    if proxy is not None:
        kubeconfig = through_proxy(kubeconfig, proxy.port, folder / "proxied")
    webhook = Webhook(cluster, folder, kubeconfig, files)
    try:
        webhook.start()
        yield webhook
    finally:
        webhook.stop()


@contextmanager
def own_cluster(*apiserver_arguments: str) -> Generator[Cluster]:
    """A control plane that may be broken."""
    options = ClusterOptions(
        scheduler=False, controller_manager=False, apiserver_arguments=apiserver_arguments
    )
    try:
        cluster = LocalProvider().start(options)
    except PrerequisiteError as error:
        pytest.skip(str(error))
    with cluster:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
        yield cluster


def api_server_of(cluster: Cluster) -> tuple[str, int]:
    """Address of the API server; the tests that need it run where it is local."""
    parts = urlsplit(cluster.server)
    if parts.hostname != "127.0.0.1" or parts.port is None:
        pytest.skip("the proxy stands in front of loopback API servers only")
    return (parts.hostname, parts.port)


def chosen(webhook: Webhook, namespace: str) -> str:
    """The config that a pod of the namespace would get; "" for none."""
    response = webhook.review(pod_of("p", namespace, ENGRAM), namespace)
    return str(response["auditAnnotations"].get("config", ""))


def seconds_until(condition: Callable[[], bool], timeout_seconds: float, what: str) -> float:
    """Wait for a condition and tell how long it took."""
    began = time.monotonic()
    wait_until(condition, timeout_seconds, what)
    return time.monotonic() - began


def create(cluster: Cluster, pod: Json, *options: str) -> Json:
    """Create a pod; returns it as stored."""
    done = cluster.kubectl("create", "-o", "json", "-f", "-", *options, input=json.dumps(pod))
    return dict(json.loads(done.stdout))


def test_reviews_go_on_while_the_api_server_hangs(tmp_path: Path, files: ServingFiles):
    """Paused, not gone: the copy serves, readiness stays, and afterwards it catches up by itself."""
    with own_cluster() as cluster, webhook_on(cluster, tmp_path, files) as webhook:
        cluster.apply(config_of("main", "team"))
        wait_until(lambda: chosen(webhook, "team") != "", 10, "the config to be known")
        server = next(one for one in cluster.processes if one.name == "kube-apiserver")
        assert server.popen is not None

        server.popen.send_signal(signal.SIGSTOP)
        looks = _live_looks(webhook)
        slowest, answered = 0.0, 0
        began, pace = time.monotonic(), threading.Event()
        try:
            while time.monotonic() - began < PAUSE_SECONDS:
                pace.wait(0.05)
                watch = Stopwatch()
                assert chosen(webhook, "team") == "StorageConfig team/main"
                slowest, answered = max(slowest, watch.seconds), answered + 1
                assert webhook.status("/readyz") == 200
            stale_seconds = webhook.metric("bubu_webhook_cache_age_seconds", resource="storageconfigs")
            assert _live_looks(webhook) == looks, "nobody asked the API server"
        finally:
            server.popen.send_signal(signal.SIGCONT)
        cluster.apply(config_of("other", "team", default=True))
        took = seconds_until(
            lambda: chosen(webhook, "team") == "StorageConfig team/other", CATCH_UP_SECONDS, "the new config"
        )

    print(
        f"\n{answered} reviews in a pause of {PAUSE_SECONDS:g} s, slowest {slowest:.3f} s; up in {took:.1f} s"
    )
    assert slowest < 1.0
    assert stale_seconds > PAUSE_SECONDS / 2


def _live_looks(webhook: Webhook) -> float:
    """How often reviews had to ask the API server."""
    outcomes = [outcome.value for outcome in FallbackOutcome]
    return sum(webhook.metric("bubu_webhook_fallback_reads_total", outcome=one) for one in outcomes)


def test_nothing_is_missed_while_the_watch_is_cut_every_second(
    cluster: Cluster, namespace: str, tmp_path: Path, files: ServingFiles
):
    """Configs come, change and go; each is known soon although no connection lives for long."""
    with (
        CutProxy(api_server_of(cluster)) as proxy,
        webhook_on(cluster, tmp_path, files, proxy) as webhook,
    ):
        began = last_cut = time.monotonic()
        cuts, slowest, number = 0, 0.0, 0

        def seen(expected: str) -> Callable[[], bool]:
            def look() -> bool:
                nonlocal cuts, last_cut
                if time.monotonic() - last_cut >= 1.0:
                    cuts, last_cut = cuts + (proxy.cut() > 0), time.monotonic()
                return chosen(webhook, namespace) == expected

            return look

        while time.monotonic() - began < CUTTING_SECONDS or number < 2 or cuts < CUTTING_SECONDS / 3:
            number += 1
            name, text = f"config-{number}", f"StorageConfig {namespace}/config-{number}"
            cluster.apply(config_of(name, namespace))
            slowest = max(slowest, seconds_until(seen(text), CATCH_UP_SECONDS, f"{name} to be known"))
            cluster.kubectl("delete", "storageconfig", name, "-n", namespace)
            slowest = max(slowest, seconds_until(seen(""), CATCH_UP_SECONDS, f"{name} to be forgotten"))

    print(f"\n{number} configs came and went during {cuts} cuts; the slowest was known after {slowest:.1f} s")


def test_a_forgotten_version_leads_to_a_new_list_with_all_deletions(tmp_path: Path, files: ServingFiles):
    """The store compacts what a webhook missed: it lists again, and what went meanwhile is gone."""
    with ExitStack() as stack:
        # Without its cache the API server asks the store for old versions, as it does after a restart.
        cluster = stack.enter_context(own_cluster("--watch-cache=false"))
        proxy = stack.enter_context(CutProxy(api_server_of(cluster)))
        webhook = stack.enter_context(webhook_on(cluster, tmp_path, files, proxy))
        cluster.apply(config_of("goes", "team"))
        wait_until(lambda: chosen(webhook, "team") == "StorageConfig team/goes", 10, "the config to be known")
        lists = webhook.metric("bubu_webhook_cache_lists_total", resource="storageconfigs")

        proxy.pause()
        cluster.kubectl("delete", "storageconfig", "goes", "-n", "team")
        cluster.apply(config_of("comes", "team"))
        before = current_revision(cluster)
        assert compact(cluster) >= before
        proxy.cut()
        proxy.resume()
        took = seconds_until(
            lambda: chosen(webhook, "team") == "StorageConfig team/comes", CATCH_UP_SECONDS, "the new list"
        )

        wait_until(
            lambda: webhook.metric("bubu_webhook_cache_lists_total", resource="storageconfigs") > lists,
            10,
            "the list to be counted",
        )
        gone = webhook.metric("bubu_webhook_cache_errors_total", resource="storageconfigs", error="gone")
    print(f"\nafter the compaction the copy was right in {took:.1f} s")
    assert gone >= 1


def test_a_webhook_whose_rights_are_taken_serves_what_it_knows(
    cluster: Cluster, namespace: str, tmp_path: Path, files: ServingFiles
):
    """It goes on with the copy, says so in log and metrics, and follows again once it may."""
    with (
        CutProxy(api_server_of(cluster)) as proxy,
        webhook_on(cluster, tmp_path, files, proxy) as webhook,
    ):
        cluster.apply(config_of("main", namespace))
        wait_until(lambda: chosen(webhook, namespace) != "", 10, "the config to be known")
        cluster.kubectl("delete", "clusterrolebinding", ACCOUNT)
        try:

            def is_failing() -> bool:
                proxy.cut()  # an open watch outlives the rights with which it was opened
                return webhook.metric("bubu_webhook_cache_failing", resource="storageconfigs") == 1

            wait_until(is_failing, 20, "the webhook to notice")
            cluster.apply(config_of("other", namespace, default=True))
            assert chosen(webhook, namespace) == f"StorageConfig {namespace}/main"
            assert webhook.status("/readyz") == 200
            wait_until(lambda: "forbidden" in webhook.log.read_text(), 10, "the log to say why")
        finally:
            rbac = yaml.safe_load_all((FILES / "webhook-rbac.yaml").read_text())
            cluster.apply(*(document for document in rbac if document))
        took = seconds_until(
            lambda: chosen(webhook, namespace) == f"StorageConfig {namespace}/other",
            CATCH_UP_SECONDS,
            "the webhook to follow again",
        )
        wait_until(
            lambda: webhook.metric("bubu_webhook_cache_failing", resource="storageconfigs") == 0,
            10,
            "the metric to say so",
        )
    print(f"\nwith its rights back the webhook was right in {took:.1f} s")


@pytest.fixture
def registered(cluster: Cluster, namespace: str, tmp_path: Path, files: ServingFiles) -> Iterator[Webhook]:
    """A process that the API server calls for the test's namespace, which has the config ``main``."""
    if cluster.callback_host != "127.0.0.1":
        pytest.skip("the API server cannot reach loopback")
    with webhook_on(cluster, tmp_path, files) as webhook:
        cluster.apply(config_of("main", namespace))
        webhook.register()
        try:
            wait_until_called(cluster, namespace)
            yield webhook
        finally:
            cluster.kubectl(
                "delete", "mutatingwebhookconfiguration", "bubu-storage-webhook", "--ignore-not-found"
            )


def test_a_container_that_a_later_webhook_adds_is_injected_too(
    cluster: Cluster, namespace: str, registered: Webhook, files: ServingFiles
):
    """With reinvocationPolicy IfNeeded ours is asked again because the pod has changed after it."""
    name = f"zz-late-{namespace}"

    def reviewed() -> float:
        return registered.metric("bubu_webhook_review_duration_seconds_count", entry="ignore")

    with LateWebhook(files) as late:
        cluster.apply(late.configuration(name, namespace))
        try:
            pod = pod_of("two", namespace, ENGRAM)

            def has_late() -> bool:
                stored = create(cluster, pod, "--dry-run=server")
                return len(stored["spec"]["containers"]) == 2

            wait_until(has_late, 10, "the other webhook to be called")
            before = reviewed()
            stored = create(cluster, pod)
            # Counted once the answer has left.
            wait_until(lambda: reviewed() >= before + 2, 10, "both reviews to be counted")
            after = reviewed()
        finally:
            cluster.kubectl("delete", "mutatingwebhookconfiguration", name)

    assert late.calls >= 2
    assert after - before == 2
    assert env_of(stored, "late")["BUBU_STORAGE_S3_BUCKET"]["value"] == "flows"
    assert env_of(stored, "late") == env_of(stored, "main")
    assert stored["metadata"]["labels"][INJECTED] == "main"


def test_without_a_webhook_pods_are_created_unless_their_namespace_is_strict(
    cluster: Cluster, namespace: str, registered: Webhook, files: ServingFiles
):
    """The policy is Ignore for most, and Fail where the namespace says that no pod may go without."""
    strict = cluster.create_namespace(f"{namespace}-strict", {STRICT_LABEL: "true"})
    try:
        cluster.apply(config_of("main", strict))
        wait_until(lambda: chosen(registered, strict) != "", 10, "the config to be known")
        assert INJECTED in create(cluster, pod_of("up", strict, ENGRAM))["metadata"]["labels"]

        register(cluster, f"https://127.0.0.1:{free_port()}/mutate", files.ca.read_text())

        def is_refused() -> bool:
            pod = json.dumps(pod_of("probe", strict, ENGRAM))
            done = cluster.kubectl("create", "--dry-run=server", "-f", "-", input=pod, check=False)
            return done.returncode != 0 and "failed calling webhook" in done.stderr

        wait_until(is_refused, 15, "the strict namespace to refuse")
        with pytest.raises(KubectlError, match=r"strict-engrams\.storage\.bubustack\.io"):
            create(cluster, pod_of("down", strict, ENGRAM))
        assert env_of(create(cluster, pod_of("unasking", strict))) == {}
        stored = create(cluster, pod_of("down", namespace, ENGRAM))
        assert env_of(stored) == {}
        assert INJECTED not in stored["metadata"]["labels"]
    finally:
        cluster.kubectl("delete", "namespace", strict, "--wait=false")
