"""What the entries' policies, live reads, owner events and the metrics port do behind a real API server."""

from __future__ import annotations

import copy
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from bubu_operator.errors import KubeApiError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import PODS
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster import Cluster
from tests.cluster.certs import write_serving_files
from tests.cluster.processes import Stopwatch, free_port, wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    INJECTED,
    OPERATOR_NAMESPACE,
    Json,
    Webhook,
    config_of,
    env_of,
    install_webhook,
    pod_of,
    review_of,
)

pytestmark = pytest.mark.cluster

ASKS = {"storage.bubustack.io/inject": "true"}
STRICT = {"storage.bubustack.io/strict": "true"}
CONFIGURATION = "bubu-storage-webhook"


def create(cluster: Cluster, pod: Json, *options: str) -> tuple[Json | None, str]:
    """Create a pod; returns it as stored (None when it was refused), and what kubectl said."""
    done = cluster.kubectl("create", "-o", "json", "-f", "-", *options, input=json.dumps(pod), check=False)
    return (json.loads(done.stdout) if done.returncode == 0 else None), done.stderr


def label(cluster: Cluster, namespace: str, labels: dict[str, str]) -> None:
    """Label a namespace."""
    cluster.kubectl("label", "namespace", namespace, *(f"{key}={value}" for key, value in labels.items()))


def unregister(cluster: Cluster, name: str = CONFIGURATION) -> None:
    """Take the configuration away."""
    cluster.kubectl("delete", "mutatingwebhookconfiguration", name, "--ignore-not-found")


@pytest.fixture(scope="module")
def webhook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """A process, ready and registered."""
    folder = tmp_path_factory.mktemp("policy")
    if cluster.callback_host is None:
        pytest.skip("the API server cannot reach this machine")
    install_webhook(cluster)
    files = write_serving_files(folder, ["localhost"], [cluster.callback_host])
    kubeconfig = cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, folder / "kubeconfig")
    running = Webhook(cluster, folder, kubeconfig, files, cluster.callback_host)
    running.start()
    running.register()
    probe = cluster.create_namespace("policy-registered", STRICT)
    wait_until(
        lambda: create(cluster, pod_of("probe", probe, ASKS), "--dry-run=server")[0] is None,
        15,
        "the API server to call the webhook",
    )
    try:
        yield running
    finally:
        unregister(cluster)
        cluster.kubectl("delete", "namespace", probe, "--wait=false")
        running.stop()


def test_a_strict_namespace_starts_no_pod_without_its_storage(webhook: Webhook, namespace: str):
    """Refused with the cause and the way out; a pod that does not ask is created; with a config all are."""
    cluster = webhook.cluster
    label(cluster, namespace, STRICT)
    # The API server learns of labels by a watch.
    wait_until(
        lambda: create(cluster, pod_of("p", namespace, ASKS), "--dry-run=server")[0] is None,
        15,
        "the label to count",
    )

    refused, why = create(cluster, pod_of("p", namespace, ASKS))
    plain, _ = create(cluster, pod_of("plain", namespace))

    assert refused is None
    assert "strict-pods.storage.bubustack.io" in why
    assert f"namespace {namespace} has no StorageConfig" in why
    assert "Forbidden" in why
    assert plain is not None
    cluster.apply(config_of("main", namespace))
    webhook.wait_known(namespace)
    stored, said = create(cluster, pod_of("p", namespace, ASKS))
    assert stored is not None
    assert "BUBU_STORAGE_PROVIDER" in env_of(stored)
    assert said == ""
    for labels in ({"result": "denied", "reason": "NoConfig"}, {"result": "injected"}):
        # Counted once the answer has left.
        wait_until(
            lambda wanted=labels: webhook.metric("bubu_webhook_reviews_total", entry="strict", **wanted) >= 1,
            10,
            f"the review to be counted: {labels}",
        )


def test_a_config_that_vanished_is_explained(webhook: Webhook, namespace: str):
    """The pod comes a moment after its deletion."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    pod = pod_of("p", namespace, {**ASKS, "storage.bubustack.io/config": "main"})
    wait_until(lambda: webhook.reason(pod, namespace) == "Injected", 10, "the config to be known")
    cluster.kubectl("delete", "storageconfig", "main", "-n", namespace)
    wait_until(lambda: webhook.reason(pod, namespace) != "Injected", 10, "the deletion to be known")

    stored, said = create(cluster, pod)

    assert stored is not None
    assert f"StorageConfig {namespace}/main was deleted" in said


def test_each_pod_is_sent_once(webhook: Webhook, namespace: str):
    """Whichever entries there are, one review a pod, strict or not."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    pods = [
        pod_of("engram", namespace, {"bubustack.io/engram": "x"}),
        pod_of("asks", namespace, {**ASKS, "bubustack.io/engram": "x"}),
        pod_of("other", namespace),
    ]
    wait_until(lambda: webhook.reason(pods[1], namespace) == "Injected", 10, "the config to be known")
    for labels in (ASKS, STRICT):
        label(cluster, namespace, labels)
        entry = "strict" if labels is STRICT else "ignore"

        def reviewed(entry: str = entry) -> float:
            return webhook.metric("bubu_webhook_review_duration_seconds_count", entry=entry)

        def other_is_sent() -> bool:
            before = reviewed()
            create(cluster, pods[2], "--dry-run=server")
            return reviewed() == before + 1

        wait_until(other_is_sent, 10, "the API server to see the namespace's label")
        for pod in pods:
            before = reviewed()
            stored, _ = create(cluster, pod, "--dry-run=server")
            assert stored is not None
            assert INJECTED in stored["metadata"]["labels"]
            # Counted once the answer has left.
            wait_until(lambda seen=before, count=reviewed: count() > seen, 10, "the review to be counted")
            assert reviewed() == before + 1, pod["metadata"]["name"]


def test_conditions_alone_keep_system_namespaces_and_mirror_pods_out(webhook: Webhook, namespace: str):
    """A webhook that is down, Fail, and without our selector of namespaces: their pods are never sent."""
    cluster = webhook.cluster
    configuration: Any = copy.deepcopy(
        render_webhook_configuration(
            url=f"https://{webhook.host}:{free_port()}/mutate", ca_bundle_pem=webhook.files.ca.read_text()
        )
    )
    configuration["metadata"]["name"] = "aa-down"
    for entry in configuration["webhooks"]:
        entry["failurePolicy"] = "Fail"
        selector = entry["namespaceSelector"]
        selector["matchExpressions"] = [
            item for item in selector["matchExpressions"] if item["key"] != "kubernetes.io/metadata.name"
        ]
    cluster.kubectl(
        "wait", "-n", OPERATOR_NAMESPACE, "--for=create", "serviceaccount/default", "--timeout=120s"
    )
    mirror = pod_of("static", namespace, ASKS, nodeName="n", automountServiceAccountToken=False)
    mirror["metadata"]["annotations"] = {
        "kubernetes.io/config.mirror": "4d",
        "kubernetes.io/config.hash": "4d",
    }
    cluster.apply(configuration)
    try:
        wait_until(
            lambda: create(cluster, pod_of("p", namespace, ASKS), "--dry-run=server")[0] is None,
            15,
            "the API server to call the webhook that is down",
        )
        for where in ("kube-system", "kube-public", "kube-node-lease", OPERATOR_NAMESPACE):
            pod = pod_of("p", where, ASKS, automountServiceAccountToken=False)
            stored, said = create(cluster, pod, "--dry-run=server")
            assert stored is not None, said
        stored, said = create(cluster, mirror, "--dry-run=server")
        assert stored is not None, said
    finally:
        unregister(cluster, "aa-down")


def test_while_it_is_down_strict_refuses_and_the_others_start(webhook: Webhook, namespace: str):
    """By the API server, from the entries' failurePolicy; system namespaces do not notice."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    strict = cluster.create_namespace(f"{namespace}-strict", STRICT)
    cluster.apply(config_of("main", strict))
    webhook.wait_known(strict)
    webhook.stop()
    try:
        stored, _ = create(cluster, pod_of("p", namespace, ASKS))
        refused, why = create(cluster, pod_of("p", strict, ASKS))
        plain, _ = create(cluster, pod_of("plain", strict))
        out, _ = create(cluster, pod_of("out", strict, {"storage.bubustack.io/inject": "false"}))
    finally:
        webhook.start()

    assert stored is not None
    assert env_of(stored) == {}
    assert refused is None
    assert "failed calling webhook" in why
    assert plain is not None
    assert out is not None
    again, _ = create(cluster, pod_of("p", strict, ASKS))
    assert again is not None
    assert INJECTED in again["metadata"]["labels"]
    cluster.kubectl("delete", "namespace", strict, "--wait=false")


def test_the_owner_of_pods_without_a_config_gets_one_event(webhook: Webhook, namespace: str):
    """Of several pods, by kind, name and uid; a dry run leaves none; the account may do no more than that."""
    cluster = webhook.cluster
    template = {"metadata": {"labels": {**ASKS, "app": "x"}}, "spec": pod_of("x", namespace)["spec"]}
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "never",
        "uid": "u-never",
        "controller": True,
    }
    dry = pod_of("dry", namespace, ASKS)
    dry["metadata"]["ownerReferences"] = [owner]
    create(cluster, dry, "--dry-run=server")
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}}, "template": template},
        }
    )

    def events() -> list[Json]:
        items: list[Json] = cluster.get("events.events.k8s.io", "-n", namespace)["items"]
        return [item for item in items if item.get("reportingController") == "storage.bubustack.io/webhook"]

    wait_until(lambda: bool(events()), 20, "the event")
    wait_until(lambda: len(cluster.get("pods", "-n", namespace)["items"]) == 3, 20, "all three pods")
    (event,) = events()
    uid = cluster.get("replicaset", "web", "-n", namespace)["metadata"]["uid"]
    regarding = event["regarding"]
    assert (regarding["kind"], regarding["name"], regarding["uid"]) == ("ReplicaSet", "web", uid)
    assert (event["type"], event["reason"], event["action"]) == ("Warning", "NoConfig", "Inject")
    assert f"namespace {namespace} has no StorageConfig" in event["note"]
    assert "Injection" not in cluster.kubectl("describe", "pods", "-n", namespace).stdout
    assert (
        "no storage was injected" in cluster.kubectl("describe", "replicaset", "web", "-n", namespace).stdout
    )

    def may(verb: str, resource: str) -> str:
        who = f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}"
        return cluster.kubectl("auth", "can-i", verb, resource, "-A", who, check=False).stdout.strip()

    assert may("create", "events.events.k8s.io") == "yes"
    for verb in ("get", "list", "patch", "delete"):
        assert may(verb, "events.events.k8s.io") == "no"


@pytest.fixture
def blind(webhook: Webhook, namespace: str) -> Iterator[Webhook]:
    """A second process that may get objects and not list them: its cache stays cold for ever."""
    cluster = webhook.cluster
    names = {"name": "blind", "namespace": namespace}
    rules = [
        {"apiGroups": ["storage.bubustack.io"], "resources": ["*"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    ]
    role = f"blind-{namespace}"
    group = "rbac.authorization.k8s.io"
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": names},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", **names}],
        },
    )
    path = webhook.folder / f"{namespace}.kubeconfig"
    kubeconfig = cluster.service_account_kubeconfig(namespace, "blind", path)
    running = Webhook(
        cluster, webhook.folder, kubeconfig, webhook.files, webhook.host, name=f"blind-{namespace}"
    )
    running.spawn()
    wait_until(lambda: running.status("/healthz") == 200 or running.has_ended(), 30, "it to answer")
    try:
        yield running
    finally:
        running.stop()
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", role, "--ignore-not-found")


def test_a_cold_cache_is_helped_out_by_a_live_read(blind: Webhook, namespace: str):
    """A config that is named is found without a list; what cannot be read is answered by policy, in time."""
    blind.cluster.apply(config_of("main", namespace))
    named = pod_of("p", namespace, {**ASKS, "storage.bubustack.io/config": "main"})

    assert blind.status("/readyz") == 503
    # What was not readable within a second is asked for again, and is counted as what it was.
    wait_until(lambda: blind.reason(named, namespace) == "Injected", 10, "the live read")
    failed = blind.metric("bubu_webhook_fallback_reads_total", outcome="failed")
    watch = Stopwatch()
    lenient = blind.review(pod_of("p", namespace, ASKS), namespace)
    status, body = blind.post(review_of(pod_of("p", namespace, ASKS), namespace), path="/mutate/strict")
    took = watch.seconds

    assert lenient["allowed"] is True
    assert "just started" in lenient["warnings"][0]
    denied = json.loads(body)["response"]
    assert (status, denied["allowed"], denied["status"]["code"]) == (200, False, 503)
    assert took < 4
    assert blind.metric("bubu_webhook_fallback_reads_total", outcome="found") == 1
    assert blind.metric("bubu_webhook_fallback_reads_total", outcome="failed") == failed + 2
    assert blind.metric("bubu_webhook_ready") == 0
    forbidden = {"resource": "storageconfigs", "error": "forbidden"}
    wait_until(
        lambda: blind.metric("bubu_webhook_cache_errors_total", **forbidden) >= 1, 10, "the list's refusal"
    )
    wait_until(
        lambda: blind.metric("bubu_webhook_cache_failing", resource="namespaces") == 1, 10, "the trouble"
    )


def test_a_refusal_of_the_moment_asks_to_try_again(blind: Webhook, namespace: str):
    """503 and Retry-After reach the creator, whose client may try again by itself."""
    cluster = blind.cluster
    cluster.apply(config_of("main", namespace))
    label(cluster, namespace, STRICT)
    blind.register("zz-blind")
    headers: list[str] = []
    try:
        with KubeClient.load(str(cluster.kubeconfig)) as client:

            def is_refused() -> bool:
                try:
                    client.create(PODS, pod_of("p", namespace, ASKS), namespace)
                except KubeApiError as error:
                    headers.append(f"{error.status} {error}")
                    return True
                with suppress(KubeApiError):
                    client.delete(PODS, "p", namespace)
                return False

            wait_until(is_refused, 15, "the refusal")
        said = cluster.kubectl(
            *("create", "-v=8", "-f", "-"), input=json.dumps(pod_of("q", namespace, ASKS)), check=False
        ).stderr
    finally:
        unregister(cluster, "zz-blind")
    assert headers[-1].startswith("503 ")
    assert "just started" in headers[-1]
    assert "Retry-After: 1" in said


def test_bodies_that_never_end_are_given_up(webhook: Webhook):
    """A chunked body that stalls: 408 within seconds, and the process goes on."""
    context = ssl.create_default_context(cafile=str(webhook.files.ca))
    head = (
        b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n'
    )
    before = webhook.metric("bubu_webhook_reviews_total", result="error", reason="TooSlow")
    watch = Stopwatch()
    with (
        socket.create_connection((webhook.host, webhook.port), timeout=90) as plain,
        context.wrap_socket(plain, server_hostname=webhook.host) as secured,
    ):
        secured.sendall(head)
        answer = secured.recv(65536)

    assert answer.startswith(b"HTTP/1.1 408")
    assert watch.seconds < 20
    assert webhook.metric("bubu_webhook_reviews_total", result="error", reason="TooSlow") == before + 1
    assert webhook.status("/healthz") == 200


def test_metrics_of_a_healthy_replica(webhook: Webhook, namespace: str):
    """Cache, certificate, readiness, latency; nothing in flight."""
    webhook.cluster.apply(config_of("main", namespace))
    pod = pod_of("p", namespace, ASKS)
    wait_until(lambda: webhook.reason(pod, namespace) == "Injected", 10, "the config to be known")

    for resource in ("storageconfigs", "clusterstorageconfigs", "namespaces"):
        assert webhook.metric("bubu_webhook_cache_lists_total", resource=resource) >= 1
        assert webhook.metric("bubu_webhook_cache_age_seconds", resource=resource) < 200
        assert webhook.metric("bubu_webhook_cache_failing", resource=resource) == 0
    assert webhook.metric("bubu_webhook_cache_objects", resource="storageconfigs") >= 1
    assert webhook.metric("bubu_webhook_certificate_not_after_timestamp_seconds") > time.time()
    assert webhook.metric("bubu_webhook_ready") == 1
    wait_until(lambda: webhook.metric("bubu_webhook_reviews_in_flight") == 0, 10, "nothing in flight")
    assert webhook.metric("bubu_webhook_event_loop_lag_seconds_count") > 0
