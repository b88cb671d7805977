"""The webhook as a real process behind a real API server: own account, own rights, own TLS."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import PODS
from tests.cluster import Cluster
from tests.cluster.certs import write_serving_files
from tests.cluster.processes import Stopwatch, wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    INJECTED,
    OPERATOR_NAMESPACE,
    RECORD,
    Json,
    Webhook,
    config_of,
    env_of,
    install_webhook,
    patched,
    pod_of,
    review_of,
)

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def webhook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """The process, ready and registered."""
    folder = tmp_path_factory.mktemp("webhook")
    install_webhook(cluster)
    host = cluster.callback_host
    if host is None:
        pytest.skip("the API server cannot reach this machine")
    files = write_serving_files(folder, ["localhost"], [host])
    kubeconfig = cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, folder / "kubeconfig")
    # A test looks at the process while it drains.
    running = Webhook(cluster, folder, kubeconfig, files, host, drain_seconds=8.0)
    running.start()
    running.register()
    # The API server learns of webhook configurations by a watch: wait until it calls us.
    probe = cluster.create_namespace("webhook-registered", {"storage.bubustack.io/inject": "true"})
    pod = json.dumps(pod_of("probe", probe))
    wait_until(
        lambda: (
            "Warning: bubu-storage"
            in cluster.kubectl("create", "--dry-run=server", "-f", "-", input=pod).stderr
        ),
        15,
        "the API server to call the webhook",
    )
    try:
        yield running
    finally:
        cluster.kubectl(
            "delete", "mutatingwebhookconfiguration", "bubu-storage-webhook", "--ignore-not-found"
        )
        cluster.kubectl("delete", "namespace", probe, "--wait=false")
        running.stop()


def create(cluster: Cluster, pod: Json, *options: str) -> tuple[Json, str]:
    """Create a pod; returns it as stored, and what kubectl said on stderr."""
    done = cluster.kubectl("create", "-o", "json", "-f", "-", *options, input=json.dumps(pod))
    return cast("Json", json.loads(done.stdout)), done.stderr


def test_a_labelled_pod_gets_its_environment(webhook: Webhook, namespace: str):
    """An engram pod carries store, credentials under both names, limits, label and record, ours first."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    pod = pod_of("engram", namespace, {"bubustack.io/engram": "invoices"})
    pod["spec"]["containers"][0]["env"] = [{"name": "WHERE", "value": "$(BUBU_STORAGE_S3_BUCKET)/x"}]
    pod["spec"]["initContainers"] = [
        {"name": "setup", "image": "i"},
        {"name": "sidecar", "image": "i", "restartPolicy": "Always"},
    ]
    webhook.wait_known(namespace)

    stored, stderr = create(cluster, pod)

    assert "Warning" not in stderr
    for container in ("main", "setup", "sidecar"):
        env = env_of(stored, container)
        assert env["BUBU_STORAGE_PROVIDER"]["value"] == "s3"
        assert env["BUBU_STORAGE_S3_ENDPOINT"]["value"] == "http://minio.minio.svc:9000"
        for name in ("AWS_SECRET_ACCESS_KEY", "BUBU_S3_SECRET_ACCESS_KEY"):
            assert env[name]["valueFrom"]["secretKeyRef"] == {"name": "minio", "key": "AWS_SECRET_ACCESS_KEY"}
        assert env["AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    assert list(env_of(stored))[-1] == "WHERE"
    assert stored["metadata"]["labels"][INJECTED] == "main"
    assert json.loads(stored["metadata"]["annotations"][RECORD])["config"]["name"] == "main"


def test_a_file_store_gets_volume_and_mounts(webhook: Webhook, namespace: str):
    """The claim is mounted into every container at the configured path."""
    cluster = webhook.cluster
    cluster.apply(
        {**config_of("files", namespace), "spec": {"file": {"volumeClaimName": "flows", "path": "/data"}}}
    )
    webhook.wait_known(namespace, "files")

    stored, _ = create(cluster, pod_of("p", namespace, {"storage.bubustack.io/inject": "true"}))

    volumes = {volume["name"]: volume for volume in stored["spec"]["volumes"]}
    assert volumes["bubu-storage"]["persistentVolumeClaim"] == {"claimName": "flows"}
    mounts = stored["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "bubu-storage", "mountPath": "/data"} in mounts
    assert env_of(stored)["BUBU_STORAGE_PATH"]["value"] == "/data"


def test_pods_that_did_not_ask_are_untouched(webhook: Webhook, namespace: str):
    """Without a label nothing happens, and "false" beats everything else."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))

    plain, _ = create(cluster, pod_of("plain", namespace))
    opted_out, _ = create(
        cluster,
        pod_of("out", namespace, {"bubustack.io/engram": "x", "storage.bubustack.io/inject": "false"}),
    )

    for stored in (plain, opted_out):
        assert env_of(stored) == {}
        assert INJECTED not in stored["metadata"].get("labels", {})
        assert RECORD not in stored["metadata"].get("annotations", {})


def test_a_labelled_namespace_asks_for_all_its_pods(webhook: Webhook, namespace: str):
    """Namespace label: every pod; the pod's own "false" opts out again; the config label names the config."""
    cluster = webhook.cluster
    cluster.apply(config_of("one", namespace), config_of("two", namespace))
    cluster.kubectl(
        *("label", "namespace", namespace, "storage.bubustack.io/inject=true"),
        "storage.bubustack.io/config=two",
    )
    cluster.apply(
        config_of("one", namespace)
    )  # a later event: the label's has passed the watch, or soon will

    def stored_config() -> str:
        stored, _ = create(cluster, pod_of("p", namespace), "--dry-run=server")
        return str(stored["metadata"].get("labels", {}).get(INJECTED, ""))

    wait_until(lambda: stored_config() == "two", 10, "the namespace's label to count")
    stored, _ = create(cluster, pod_of("out", namespace, {"storage.bubustack.io/inject": "false"}))
    assert env_of(stored) == {}
    stored, _ = create(cluster, pod_of("named", namespace, {"storage.bubustack.io/config": "one"}))
    assert stored["metadata"]["labels"][INJECTED] == "one"


def test_a_namespace_that_opts_out(webhook: Webhook, namespace: str):
    """Its engrams are left alone; a pod that asks by its own label is injected all the same."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    cluster.kubectl("label", "namespace", namespace, "storage.bubustack.io/inject=false")
    webhook.wait_known(namespace)
    pod = pod_of("engram", namespace, {"bubustack.io/engram": "x"})
    wait_until(
        lambda: webhook.reason(pod, namespace) == "NamespaceOptedOut", 10, "the namespace's label to count"
    )

    engram, _ = create(cluster, pod)
    asking, _ = create(cluster, pod_of("asking", namespace, {"storage.bubustack.io/inject": "true"}))

    assert env_of(engram) == {}
    assert "BUBU_STORAGE_PROVIDER" in env_of(asking)


def test_a_cluster_wide_config_serves_namespaces_that_it_selects(webhook: Webhook, namespace: str):
    """A namespace without a config of its own gets the one whose selector matches its labels."""
    cluster = webhook.cluster
    shared = config_of("", "")
    shared["kind"] = "ClusterStorageConfig"
    shared["metadata"] = {"name": f"shared-{namespace}"}
    shared["spec"]["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    cluster.apply(shared)
    try:
        webhook.wait_known(namespace, f"shared-{namespace}")
        stored, _ = create(cluster, pod_of("p", namespace, {"storage.bubustack.io/inject": "true"}))
    finally:
        cluster.kubectl("delete", "clusterstorageconfig", f"shared-{namespace}")

    assert stored["metadata"]["labels"][INJECTED] == f"shared-{namespace}"
    assert "BUBU_STORAGE_PROVIDER" in env_of(stored)


def test_a_pod_without_a_config_is_created_with_a_warning(webhook: Webhook, namespace: str):
    """The creator sees why nothing was injected, for no config and for several."""
    cluster = webhook.cluster
    labels = {"storage.bubustack.io/inject": "true"}

    stored, stderr = create(cluster, pod_of("none", namespace, labels))
    assert env_of(stored) == {}
    assert (
        f"Warning: bubu-storage: no storage was injected: namespace {namespace} has no StorageConfig"
        in stderr
    )

    _, stderr = create(cluster, pod_of("n", namespace, {**labels, "storage.bubustack.io/config": "gone"}))
    assert "no StorageConfig 'gone'" in stderr

    cluster.apply(config_of("one", namespace), config_of("two", namespace))

    def refusal() -> str:
        return create(cluster, pod_of("p", namespace, labels), "--dry-run=server")[1]

    wait_until(lambda: "one, two" in refusal(), 10, "both configs to be known")
    assert "none is marked default" in refusal()


def test_what_the_user_sets_is_kept_with_a_warning(webhook: Webhook, namespace: str):
    """Credentials of the pod's own stay, no half of ours beside them."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    pod = pod_of("p", namespace, {"storage.bubustack.io/inject": "true"})
    pod["spec"]["containers"][0]["env"] = [{"name": "AWS_ACCESS_KEY_ID", "value": "mine"}]
    webhook.wait_known(namespace)

    stored, stderr = create(cluster, pod)

    assert "container main keeps its own credentials (AWS_ACCESS_KEY_ID)" in stderr
    env = env_of(stored)
    assert env["AWS_ACCESS_KEY_ID"]["value"] == "mine"
    assert not {"AWS_SECRET_ACCESS_KEY", "BUBU_S3_ACCESS_KEY_ID"} & env.keys()
    assert "BUBU_STORAGE_S3_BUCKET" in env


def test_injecting_an_injected_pod_changes_nothing(webhook: Webhook, namespace: str):
    """A second call in one admission, a stored pod that is created again: no patch."""
    cluster = webhook.cluster
    cluster.apply(
        {**config_of("main", namespace), "spec": {**config_of("main", namespace)["spec"], "default": True}}
    )
    labels = {"storage.bubustack.io/inject": "true"}
    webhook.wait_known(namespace)
    webhook.register("zz-bubu-storage-again")
    try:
        once, _ = create(cluster, pod_of("once", namespace, labels))
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", "zz-bubu-storage-again")
    assert "BUBU_STORAGE_PROVIDER" in env_of(once)

    again = {**once, "metadata": {**once["metadata"], "name": "again"}}
    for key in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        again["metadata"].pop(key, None)
    response = webhook.review(again, namespace)
    assert response["allowed"] is True
    assert "patch" not in response
    assert response["auditAnnotations"]["reason"] == "AlreadyInjected"

    cluster.apply({**config_of("files", namespace), "spec": {"file": {"volumeClaimName": "c"}}})
    wait_until(
        lambda: "patch" in webhook.review(_named(again, "files"), namespace),
        10,
        "the second config to be known",
    )
    switched = patched(_named(again, "files"), webhook.review(_named(again, "files"), namespace))
    fresh = _named(pod_of("again", namespace, labels), "files")
    wanted = patched(fresh, webhook.review(fresh, namespace))
    assert env_of(switched) == env_of(wanted)
    assert "AWS_ACCESS_KEY_ID" not in env_of(switched)
    stored, _ = create(cluster, switched, "--dry-run=server")
    assert env_of(stored)["BUBU_STORAGE_PROVIDER"]["value"] == "file"


def _named(pod: Json, config: str) -> Json:
    metadata = pod["metadata"]
    labels = {**metadata["labels"], "storage.bubustack.io/config": config}
    return {**pod, "metadata": {**metadata, "labels": labels}}


def test_mirror_pods_are_left_alone(webhook: Webhook, namespace: str):
    """A kubelet can show its static pods in a namespace that asks: one with our Secret would be refused."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    labels = {"storage.bubustack.io/inject": "true"}
    ordinary = pod_of("ordinary", namespace, labels)
    wait_until(lambda: "patch" in webhook.review(ordinary, namespace), 10, "the config to be known")
    mirror = pod_of("static-node1", namespace, labels, nodeName="node1", automountServiceAccountToken=False)
    mirror["metadata"]["annotations"] = {
        "kubernetes.io/config.mirror": "4d9d",
        "kubernetes.io/config.hash": "4d9d",
    }

    stored, stderr = create(cluster, mirror)

    assert env_of(stored) == {}
    assert stderr == ""


def test_injected_pods_pass_the_restricted_standard(webhook: Webhook, namespace: str):
    """What is added is allowed there: references, a ConfigMap volume, a claim, a scratch volume."""
    cluster = webhook.cluster
    cluster.kubectl(
        "label",
        "namespace",
        namespace,
        "pod-security.kubernetes.io/enforce=restricted",
        "pod-security.kubernetes.io/enforce-version=latest",
    )
    with_authority = config_of("authority", namespace)
    with_authority["spec"]["s3"]["endpoint"] = "https://minio.minio.svc:9000"
    with_authority["spec"]["s3"]["tls"] = {"caBundle": {"configMapRef": {"name": "ca", "key": "ca.crt"}}}
    stores: dict[str, Json] = {
        "claim": {"volumeClaimName": "c"},
        "scratch": {"emptyDir": {"medium": "Memory"}},
    }
    cluster.apply(
        with_authority,
        *({**config_of(name, namespace), "spec": {"file": file}} for name, file in stores.items()),
    )
    for name in ("authority", *stores):
        webhook.wait_known(namespace, name)
        pod = pod_of(
            name, namespace, {"storage.bubustack.io/inject": "true", "storage.bubustack.io/config": name}
        )
        pod["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        pod["spec"]["containers"][0]["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }

        stored, _ = create(cluster, pod)

        assert stored["metadata"]["labels"][INJECTED] == name
        assert stored["spec"]["volumes"][-1]["name"].startswith("bubu-storage")


def test_many_pods_at_once_while_the_webhook_hangs(webhook: Webhook, namespace: str):
    """Each is created within timeoutSeconds, without injection; afterwards all are injected."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    labels = {"storage.bubustack.io/inject": "true"}
    wait_until(
        lambda: "patch" in webhook.review(pod_of("p", namespace, labels), namespace),
        10,
        "the config to be known",
    )
    process = webhook.process
    assert process is not None
    assert process.popen is not None
    with KubeClient.load(str(cluster.kubeconfig)) as client:

        def create_fifty(prefix: str, at_once: int) -> tuple[int, float]:
            """How many were injected, and how long the slowest took."""

            def one(number: int) -> tuple[bool, float]:
                pod = pod_of(f"{prefix}-{number}", namespace, labels)
                watch = Stopwatch()
                stored = client.create(PODS, pod, namespace, timeout_seconds=60)
                return INJECTED in stored["metadata"]["labels"], watch.seconds

            with ThreadPoolExecutor(at_once) as threads:
                done = list(threads.map(one, range(50)))
            return sum(injected for injected, _ in done), max(seconds for _, seconds in done)

        process.popen.send_signal(signal.SIGSTOP)
        try:
            injected, slowest = create_fifty("hung", 50)
        finally:
            process.popen.send_signal(signal.SIGCONT)
        assert injected == 0
        assert slowest < 15  # one timeout of 5 s, not one for each entry, and 50 at a time
        wait_until(lambda: webhook.status("/readyz") == 200, 10, "the webhook to answer again")
        webhook.wait_known(namespace)
        assert create_fifty("after", 8)[0] == 50


def test_dry_runs_are_injected_and_leave_nothing(webhook: Webhook, namespace: str):
    """--dry-run=server shows the injected pod."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    webhook.wait_known(namespace)

    shown, _ = create(cluster, pod_of("dry", namespace, {"bubustack.io/engram": "x"}), "--dry-run=server")

    assert "BUBU_STORAGE_PROVIDER" in env_of(shown)
    assert cluster.get("pods", "-n", namespace)["items"] == []


def test_pods_of_controllers_are_injected(webhook: Webhook, namespace: str):
    """A Job's pod has a generated name; the webhook works from the request's namespace."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    webhook.wait_known(namespace)
    template = {
        "metadata": {"labels": {"bubustack.io/engram": "x"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]},
    }
    cluster.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job", "namespace": namespace},
            "spec": {"template": template},
        }
    )

    wait_until(lambda: bool(cluster.get("pods", "-n", namespace)["items"]), 20, "the Job's pod")
    stored = cluster.get("pods", "-n", namespace)["items"][0]
    assert stored["metadata"]["labels"][INJECTED] == "main"
    assert "BUBU_STORAGE_PROVIDER" in env_of(stored)


def test_reviews_of_three_megabytes(webhook: Webhook, namespace: str):
    """The largest pods that can be stored are injected, larger ones answered, larger bodies refused."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    pod = pod_of("big", namespace, {"storage.bubustack.io/inject": "true"})
    filler = [{"name": f"FILL_{number}", "value": "x" * 99_000} for number in range(31)]
    pod["spec"]["containers"][0]["env"] = filler

    def reason() -> str:
        return str(webhook.review(pod, namespace)["auditAnnotations"]["reason"])

    wait_until(lambda: reason() == "PodTooLarge", 10, "the config to be known")
    pod["spec"]["containers"][0]["env"] = filler[:28]  # the API server takes 3 MiB
    shown, stderr = create(cluster, pod, "--dry-run=server")
    assert "BUBU_STORAGE_PROVIDER" not in env_of(shown)
    assert "the pod is larger" in stderr
    pod["spec"]["containers"][0]["env"] = filler[:12]  # and etcd 1.5 MiB
    stored, _ = create(cluster, pod)
    assert "BUBU_STORAGE_PROVIDER" in env_of(stored)


def test_a_pod_that_just_fits_is_still_created(webhook: Webhook, namespace: str):
    """Injection would push it beyond what etcd takes, and the creator would get the blame."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    pod = pod_of("brim", namespace, {"storage.bubustack.io/inject": "true"})
    wait_until(lambda: "patch" in webhook.review(pod, namespace), 10, "the config to be known")
    pod["spec"]["containers"] = [
        {"name": f"c{number}", "image": "i", "env": [{"name": "FILL", "value": "x" * 25_500}]}
        for number in range(60)
    ]

    stored, stderr = create(cluster, pod)

    assert INJECTED not in stored["metadata"]["labels"]
    assert "the pod would be larger" in stderr

    status, body = webhook.post(b" " * (9 * 1024 * 1024))
    assert status == 413
    assert b"larger than" in body


def test_bad_requests_are_told_what_is_wrong(webhook: Webhook):
    """Neither a traceback nor a hang: a status and a sentence; the process goes on."""
    good = json.loads(review_of(pod_of("p", "default"), "default"))
    no_uid = {**good, "request": {key: value for key, value in good["request"].items() if key != "uid"}}
    cases: list[tuple[bytes, str, int, bytes]] = [
        (b"", "application/json", 400, b"empty"),
        (b"{", "application/json", 400, b"not JSON"),
        (b"\xff\xfe", "application/json", 400, b"not UTF-8"),
        (b"[" * 100_000, "application/json", 400, b"nested too deeply"),
        (b"[]", "application/json", 400, b"no object"),
        (json.dumps({**good, "kind": "Pod"}).encode(), "application/json", 400, b'kind is "Pod"'),
        (
            json.dumps({**good, "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
            "application/json",
            400,
            b"v1beta1",
        ),
        (json.dumps(no_uid).encode(), "application/json", 400, b"request.uid is missing"),
        (json.dumps(good).encode(), "text/plain", 415, b"only application/json"),
    ]
    for body, content_type, status, text in cases:
        got, answer = webhook.post(body, content_type=content_type)
        assert (got, text in answer) == (status, True), (body[:40], got, answer)
        assert b"Traceback" not in answer

    assert webhook.post(b"{}", path="/elsewhere")[0] == 404
    assert webhook.status("/mutate") == 405
    malformed: list[Any] = [
        {"spec": None},
        {"spec": {"containers": "x"}},
        None,
        [],
        {"metadata": 3, "spec": {}},
    ]
    for pod in malformed:
        response = webhook.review(pod, "default")
        assert response["allowed"] is True
        assert "patch" not in response
        assert response["warnings"]
    assert webhook.status("/healthz") == 200
    assert "Traceback" not in webhook.log.read_text()


def test_the_certificate_is_swapped_while_serving(webhook: Webhook, namespace: str, tmp_path: Path):
    """Certificate and key are replaced one after the other: no pod is missed, no handshake fails."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    labels = {"storage.bubustack.io/inject": "true"}
    old_files, old_leaf = webhook.files, webhook.served_certificate()
    old_pair = (old_files.certificate.read_text(), old_files.key.read_text())
    new = write_serving_files(tmp_path, ["localhost"], [webhook.host])
    webhook.register(ca_pem=old_files.ca.read_text() + new.ca.read_text())

    def pod_is_injected() -> bool:
        stored, _ = create(cluster, pod_of("p", namespace, labels), "--dry-run=server")
        return "BUBU_STORAGE_PROVIDER" in env_of(stored)

    wait_until(pod_is_injected, 10, "the config to be known")
    try:
        old_files.certificate.write_text(new.certificate.read_text())
        wait_until(
            lambda: "the key does not belong to the certificate" in webhook.log.read_text(), 10, "the refusal"
        )
        assert webhook.served_certificate() == old_leaf
        assert pod_is_injected()

        old_files.key.write_text(new.key.read_text())
        wait_until(lambda: webhook.served_certificate() != old_leaf, 10, "the new certificate")
        wait_until(pod_is_injected, 10, "the API server to trust the new authority")
        webhook.files = new
        assert webhook.status("/readyz") == 200
    finally:
        webhook.files = old_files
        old_files.certificate.write_text(old_pair[0])
        old_files.key.write_text(old_pair[1])
        wait_until(lambda: webhook.served_certificate() == old_leaf, 10, "the first certificate again")
        webhook.register()
    key_lines = old_pair[1].splitlines()[1:-1]
    assert not any(line in webhook.log.read_text() for line in key_lines)


def test_pods_are_created_while_the_webhook_is_down(webhook: Webhook, namespace: str):
    """SIGTERM drains and ends with 0; failurePolicy Ignore lets pods through; afterwards all is as before."""
    cluster = webhook.cluster
    cluster.apply(config_of("main", namespace))
    labels = {"storage.bubustack.io/inject": "true"}
    webhook.wait_known(namespace)
    webhook.signal(signal.SIGTERM)
    try:
        wait_until(lambda: webhook.status("/readyz") == 503, 5, "readiness to go off")
        assert webhook.review(pod_of("p", namespace, labels), namespace)["allowed"] is True
        assert webhook.exit_code() == 0

        stored, _ = create(cluster, pod_of("down", namespace, labels))
        assert env_of(stored) == {}
    finally:
        webhook.stop()
        webhook.start()
    stored, _ = create(cluster, pod_of("up", namespace, labels))
    assert "BUBU_STORAGE_PROVIDER" in env_of(stored)


def test_the_account_may_read_no_secret(webhook: Webhook):
    """The role is what the webhook needs, and no more."""
    cluster = webhook.cluster

    def may(verb: str, resource: str) -> str:
        who = f"--as=system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}"
        return cluster.kubectl("auth", "can-i", verb, resource, "-A", who, check=False).stdout.strip()

    assert may("watch", "storageconfigs.storage.bubustack.io") == "yes"
    assert may("list", "namespaces") == "yes"
    for verb, resource in (
        ("get", "secrets"),
        ("list", "pods"),
        ("patch", "storageconfigs"),
        ("create", "events"),
    ):
        assert may(verb, resource) == "no", (verb, resource)
