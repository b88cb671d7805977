"""``kubectl bubu`` on a real API server: as a plugin, with a real webhook and a real store behind it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bubu_operator.injection import inject_template, load_config, pod_template
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster import Cluster
from tests.cluster.certs import write_serving_files
from tests.cluster.processes import wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    INJECTED,
    OPERATOR_NAMESPACE,
    Webhook,
    config_of,
    install_webhook,
    pod_of,
    wait_until_called,
)
from tests.s3server.gateway import VersityGateway

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
ENGRAM = {"bubustack.io/engram": "train"}
INJECT = "storage.bubustack.io/inject"
PLUGIN_FOLDER = Path(sys.executable).parent
LEASE = "bubu-storage-controller"
PATIENT_SECONDS = 240.0
"""Ends a command that hangs; one that only waits for a CPU of a busy machine goes on."""


@dataclass(frozen=True)
class Plugin:
    """The plugin as a person calls it: ``kubectl bubu``, found on PATH."""

    cluster: Cluster
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """A clean one: kubectl and the plugin on PATH, the administrator's kubeconfig."""
        return {
            "PATH": f"{PLUGIN_FOLDER}:{self._kubectl_folder()}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "KUBERC": "off",
            "KUBECACHEDIR": str(self.folder / "cache"),
            "LC_ALL": "C.UTF-8",
        }

    def _kubectl_folder(self) -> Path:
        link = self.folder / "bin" / "kubectl"
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(self.cluster.kubectl_path)
        return link.parent

    def __call__(
        self, *words: str, stdin: str = "", kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; no traceback may ever come out."""
        environment = self.environment | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
        done = subprocess.run(
            ["kubectl", "bubu", *words],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENT_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def webhook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """A webhook process, registered and called."""
    folder = tmp_path_factory.mktemp("webhook")
    install_webhook(cluster)
    if cluster.callback_host is None:
        pytest.skip("the API server cannot reach this machine")
    files = write_serving_files(folder, ["localhost"], [cluster.callback_host])
    kubeconfig = cluster.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, folder / "kubeconfig")
    running = Webhook(cluster, folder, kubeconfig, files, cluster.callback_host)
    running.start()
    running.register()
    probe = cluster.create_namespace("a-kubectl-bubu")
    cluster.apply(config_of("main", probe))
    wait_until_called(cluster, probe)
    try:
        yield running
    finally:
        running.stop()
        cluster.kubectl("delete", "mutatingwebhookconfigurations", "--all")


@pytest.fixture
def bubu(cluster: Cluster, tmp_path: Path) -> Plugin:
    """The plugin, on a cluster that has the CRDs."""
    install_webhook(cluster)
    return Plugin(cluster, tmp_path)


@pytest.fixture
def tenant(cluster: Cluster, namespace: str, tmp_path: Path) -> Path:
    """Kubeconfig of an account that may read pods of its namespace, and nothing else."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "tenant", "namespace": namespace},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "tenant", "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "tenant", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
            "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}],
        },
    )
    return cluster.service_account_kubeconfig(namespace, "tenant", tmp_path / "tenant.kubeconfig")


# -- explain -----------------------------------------------------------------------------


def test_explain_says_what_the_webhook_did(
    cluster: Cluster, webhook: Webhook, namespace: str, bubu: Plugin
) -> None:
    """A pod that went through admission is told with its config, record and containers."""
    cluster.apply(config_of("main", namespace))
    wait_until_called(cluster, namespace)
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod_of("train-1", namespace, ENGRAM)))

    done = bubu("explain", "pod/train-1", "-n", namespace)

    assert (0, "") == (done.returncode, done.stderr)
    for text in (
        f"pod/train-1 in namespace {namespace}",
        "AlreadyInjected",
        "yes: the pod has the label bubustack.io/engram",
        f"StorageConfig {namespace}/main: it is the only one in {namespace}",
        "generation 1",
        "(Current)",
        "container main",
        "key AWS_ACCESS_KEY_ID of Secret minio",
    ):
        assert text in done.stdout
    told = json.loads(bubu("explain", "pod", "train-1", "-n", namespace, "-o", "json").stdout)
    pod = cluster.get("pod", "train-1", "-n", namespace)
    assert [entry["name"] for entry in told["containers"][0]["env"]] == [
        entry["name"] for entry in pod["spec"]["containers"][0]["env"]
    ]


def test_explain_finds_stale_and_missing_injection(
    cluster: Cluster, webhook: Webhook, namespace: str, bubu: Plugin
) -> None:
    """A config that changed, and a pod that came before its config: both with what to do."""
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod_of("early", namespace, ENGRAM)))
    cluster.apply(config_of("main", namespace))
    wait_until_called(cluster, namespace)
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod_of("old", namespace, ENGRAM)))
    cluster.apply(config_of("main", namespace, timeoutSeconds=60))

    early, old = (bubu("explain", f"pod/{name}", "-n", namespace).stdout for name in ("early", "old"))

    assert "(Missing)" in early
    assert "Create the pod again" in early
    assert "(Stale)" in old
    assert "generation 2" in " ".join(old.split())


def test_explain_a_file_against_the_cluster(
    cluster: Cluster, webhook: Webhook, namespace: str, bubu: Plugin
) -> None:
    """A workload from standard input, with the cluster's configs; a refusal names the candidates."""
    cluster.apply(config_of("one", namespace), config_of("two", namespace))
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "trainer", "labels": {"storage.bubustack.io/config": "one"}},
        "spec": {"template": {"metadata": {"labels": ENGRAM}, "spec": pod_of("p", namespace)["spec"]}},
    }

    done = bubu("explain", "-f", "-", "-n", namespace, stdin=json.dumps(workload))

    told = " ".join(done.stdout.split())
    assert 0 == done.returncode
    assert "it gets no storage (Ambiguous)" in told
    assert "one, two" in told
    assert "stands on the Deployment itself, where the webhook does not see it" in told


@pytest.mark.parametrize("default", [True, False])
def test_explain_tells_what_the_webhook_makes_of_a_written_template(
    cluster: Cluster, webhook: Webhook, namespace: str, bubu: Plugin, *, default: bool
) -> None:
    """The workload's own label names a config, its pods ask by themselves: the webhook goes by theirs."""
    configs = (config_of("aa", namespace, default=default), config_of("bb", namespace))
    cluster.apply(*configs)
    cluster.kubectl("label", "namespace", namespace, f"{INJECT}=true")
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": namespace,
            "labels": {INJECT: "true", "storage.bubustack.io/config": "bb"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod_of("p", namespace)["spec"]},
        },
    }
    cluster.apply(deployment)
    template = pod_template(inject_template(deployment, load_config(configs[1])).workload)
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "web-1", "namespace": namespace}

    def is_admitted_so() -> bool:
        """The webhook and the API server learn of namespaces and configs by watches."""
        tried = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod))
        chosen = json.loads(tried.stdout)["metadata"]["labels"]["storage.bubustack.io/injected"]
        return chosen == "aa" if default else chosen == "bb" and "none is marked default" in tried.stderr

    wait_until(is_admitted_so, 20, "the webhook to overrule the template, or to warn")

    done = bubu("explain", "deployment/web", "-n", namespace)

    told = " ".join(done.stdout.split())
    assert f"config StorageConfig {namespace}/bb" in told
    said = f"they get StorageConfig {namespace}/aa" if default else "they keep what the pod template holds"
    assert said in told


def test_what_the_user_may_not_see_is_said(
    cluster: Cluster, namespace: str, bubu: Plugin, tenant: Path
) -> None:
    """Without the right to list configs the answer has gaps: they are named, and the code is 3."""
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod_of("mine", namespace, ENGRAM)))

    done = bubu("explain", "pod/mine", kubeconfig=tenant)

    assert 3 == done.returncode
    for text in (
        "you may not list storageconfigs",
        "you may not list clusterstorageconfigs",
        "you may not get mutatingwebhookconfigurations",
    ):
        assert text in " ".join(done.stdout.split())
    assert "yes: the pod has the label bubustack.io/engram" in done.stdout


def told_by(done: subprocess.CompletedProcess[str]) -> str:
    """What was answered, without the line breaks."""
    return " ".join(done.stdout.split())


def test_explain_knows_what_the_api_server_asks_nobody_about(
    *,
    cluster: Cluster,
    webhook: Webhook,
    namespace: str,
    bubu: Plugin,
    tenant: Path,
    request: pytest.FixtureRequest,
) -> None:
    """A namespace of `webhook.excludedNamespaces`: its pods get nothing, and that is said to who may know."""
    cluster.apply(config_of("main", namespace))
    wait_until_called(cluster, namespace)
    configuration = render_webhook_configuration(
        url=f"https://{webhook.host}:{webhook.port}/mutate",
        ca_bundle_pem=webhook.files.ca.read_text(encoding="ascii"),
    )
    for entry in configuration["webhooks"]:
        entry["namespaceSelector"]["matchExpressions"][0]["values"].append(namespace)
    request.addfinalizer(webhook.register)
    cluster.apply(configuration)
    pod = json.dumps(pod_of("left-out", namespace, ENGRAM))

    def is_left_out() -> bool:
        made = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=pod)
        return INJECTED not in json.loads(made.stdout)["metadata"]["labels"]

    wait_until(is_left_out, 20, "the API server to leave the namespace out")
    cluster.kubectl("create", "-f", "-", input=pod)

    done = bubu("explain", "pod/left-out", "-n", namespace)
    elsewhere = bubu("explain", "pod/left-out", "-n", namespace, "--webhook-configuration", "nowhere")
    unknown = bubu("explain", "pod/left-out", kubeconfig=tenant)

    assert (0, "") == (done.returncode, done.stderr)
    assert "it gets no storage (NotSelected)" in told_by(done)
    assert f"bubu-storage-webhook leaves namespace {namespace} out by its name" in told_by(done)
    assert "webhook.excludedNamespaces" in told_by(done)
    assert "it gets no storage (NoWebhook)" in told_by(elsewhere)
    assert "there is no MutatingWebhookConfiguration nowhere" in told_by(elsewhere)
    assert 3 == unknown.returncode
    assert "is taken for granted" in told_by(unknown)
    reader = f"registration-reader-{namespace}"
    for kind in ("clusterrole", "clusterrolebinding"):
        request.addfinalizer(partial(cluster.kubectl, "delete", kind, reader, "--ignore-not-found"))
    cluster.kubectl(
        *("create", "clusterrole", reader, "--verb", "get", "--resource", "mutatingwebhookconfigurations"),
        *("--resource-name", "bubu-storage-webhook"),
    )
    cluster.kubectl(
        *("create", "clusterrolebinding", reader, "--clusterrole", reader),
        *("--serviceaccount", f"{namespace}:tenant"),
    )

    def is_told() -> bool:
        """The API server learns of bindings by a watch."""
        return "(NotSelected)" in bubu("explain", "pod/left-out", kubeconfig=tenant).stdout

    wait_until(is_told, 20, "the tenant to be told")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("explain", "pod/there-is-none"), 1, "not found"),
        (("explain", "secret/x"), 2, "cannot be explained"),
        (("explain",), 2, "KIND/NAME"),
        (("explain", "-f", "/there/is/no/file"), 2, "cannot read"),
        (("explain", "pod/x", "--context", "nowhere"), 1, "no context 'nowhere'"),
        (("env", "storageconfig/none"), 1, "not found"),
        (("env", "main"), 2, "storageconfig/NAME"),
        (("check", "--kubeconfig", "/there/is/no/file"), 1, "there is no kubeconfig"),
    ],
)
def test_mistakes_are_one_line(bubu: Plugin, words: tuple[str, ...], code: int, text: str) -> None:
    """The exit code tells whose mistake it was; the line says what."""
    done = bubu(*words)

    assert (code, "") == (done.returncode, done.stdout)
    assert text in done.stderr
    if not done.stderr.startswith("Usage"):
        assert 1 == len(done.stderr.strip().splitlines())


def test_forbidden_and_unreachable_are_one_line(cluster: Cluster, bubu: Plugin, tenant: Path) -> None:
    """The server's word and the way out."""
    forbidden = bubu("env", "storageconfig/main", kubeconfig=tenant)
    gone = json.loads(tenant.read_text("utf-8"))
    gone["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere = tenant.with_name("nowhere.kubeconfig")
    nowhere.write_text(json.dumps(gone), "utf-8")
    unreachable = bubu("check", kubeconfig=nowhere)

    for done, text in ((forbidden, "ask for that right"), (unreachable, "cannot reach https://127.0.0.1:1")):
        assert (1, "") == (done.returncode, done.stdout)
        assert text in done.stderr
        assert 1 == len(done.stderr.strip().splitlines())


# -- check -------------------------------------------------------------------------------


def lease(renewed: datetime) -> Json:
    """The controller's Lease."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": OPERATOR_NAMESPACE},
        "spec": {
            "holderIdentity": "controller-0",
            # Long, so that a slow machine does not let it run out on the way.
            "leaseDurationSeconds": 200,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Json]:
    """The worst finding of each area."""
    rank = {"ok": 0, "warn": 1, "fail": 2}
    result: dict[str, Json] = {}
    for finding in json.loads(done.stdout)["findings"]:
        known = result.get(finding["area"])
        if known is None or rank[finding["status"]] > rank[known["status"]]:
            result[finding["area"]] = finding
    return result


def test_check_of_an_installation_that_is_well(cluster: Cluster, webhook: Webhook, bubu: Plugin) -> None:
    """CRDs, Lease, webhook, authority, a real dry run: ok; a config that nobody probed: a warning."""
    cluster.apply(lease(datetime.now(UTC)))

    done = bubu("check", "-n", "a-kubectl-bubu", "-o", "json")

    found = findings(done)
    for area in ("api server", "crds", "controller", "webhook", "certificate", "endpoints", "dry run"):
        assert "ok" == found[area]["status"], found[area]
    assert "StorageConfig a-kubectl-bubu/main injected" in found["dry run"]["text"]
    assert "warn" == found["storageconfig"]["status"]
    assert 3 == done.returncode


def test_check_finds_what_is_broken(cluster: Cluster, webhook: Webhook, bubu: Plugin) -> None:
    """A controller that stopped, a store that does not answer, drift: each with a way out."""
    namespace = cluster.create_namespace("a-broken")
    cluster.apply(lease(datetime.now(UTC) - timedelta(minutes=5)), config_of("main", namespace))
    status = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": type_,
                "status": value,
                "reason": reason,
                "message": "told",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for type_, value, reason in (
                ("Ready", "False", "BucketNotFound"),
                ("InjectionDrift", "True", "PodsStale"),
            )
        ],
    }
    cluster.kubectl(
        *("patch", "storageconfig", "main", "-n", namespace, "--subresource=status", "--type=merge", "-p"),
        json.dumps({"status": status}),
    )

    done = bubu("check", "-n", namespace)

    told = " ".join(done.stdout.split())
    assert 1 == done.returncode
    assert "has not renewed its Lease" in told
    assert "is not ready: BucketNotFound: told" in told
    assert "InjectionDrift: PodsStale: told" in told
    assert f"kubectl -n {namespace} describe storageconfig main" in told
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_check_sees_a_webhook_that_is_away(cluster: Cluster, webhook: Webhook, bubu: Plugin) -> None:
    """Nothing refuses a pod then; the dry run is what tells, and strict namespaces are named."""
    cluster.apply(lease(datetime.now(UTC)))
    webhook.stop()
    try:
        done = bubu("check", "-n", "a-kubectl-bubu", "-o", "json")
    finally:
        webhook.start()

    assert 1 == done.returncode
    assert "comes back without it" in findings(done)["dry run"]["text"]


def test_check_names_configs_that_no_pod_gets_by_itself(
    cluster: Cluster, webhook: Webhook, namespace: str, bubu: Plugin
) -> None:
    """Two of a namespace, none marked default; the dry run names one, so the rest is seen to work."""
    cluster.apply(config_of("aa", namespace), config_of("bb", namespace))
    wait_until_called(cluster, "a-kubectl-bubu")

    def is_tried() -> bool:
        """The webhook learns of configs by a watch."""
        found = findings(bubu("check", "-n", namespace, "-o", "json"))
        assert "warn" == found["selection"]["status"]
        assert "(Ambiguous)" in found["selection"]["text"]
        assert "none is marked default: aa, bb" in found["selection"]["text"]
        return f"that names aa comes back with StorageConfig {namespace}/aa" in found["dry run"]["text"]

    wait_until(is_tried, 20, "the pod that names a config")


def test_check_tells_of_a_certificate_that_is_not_trusted(
    cluster: Cluster, webhook: Webhook, tmp_path: Path, bubu: Plugin, request: pytest.FixtureRequest
) -> None:
    """With the API server's own words where it refuses the pod; else as one of two causes."""
    strict = cluster.create_namespace("a-strict-stranger", {"storage.bubustack.io/strict": "true"})
    request.addfinalizer(partial(cluster.kubectl, "delete", "namespace", strict, "--wait=false"))
    cluster.apply(config_of("main", strict))
    stranger = write_serving_files(tmp_path, ["localhost"], [webhook.host])
    request.addfinalizer(partial(wait_until_called, cluster, "a-kubectl-bubu"))
    request.addfinalizer(webhook.register)
    cluster.apply(
        render_webhook_configuration(
            url=f"https://{webhook.host}:{webhook.port}/mutate",
            ca_bundle_pem=stranger.ca.read_text(encoding="ascii"),
        )
    )

    def dry_run_in(namespace: str) -> Json:
        return findings(bubu("check", "-n", namespace, "-o", "json"))["dry run"]

    wait_until(
        lambda: "cannot call webhook" in dry_run_in(strict)["text"], 20, "the API server to refuse the pod"
    )
    refused, passed = dry_run_in(strict), dry_run_in("a-kubectl-bubu")

    assert ["fail", "fail"] == [refused["status"], passed["status"]]
    assert "x509" in refused["text"]
    assert "does not trust the webhook's certificate" in refused["remedy"]
    assert "comes back without it" in passed["text"]
    assert "x509" in passed["remedy"]


def test_check_follows_the_service_to_its_addresses(cluster: Cluster, bubu: Plugin) -> None:
    """A webhook behind a Service is as well as its EndpointSlices; strict namespaces depend on it."""
    configuration = render_webhook_configuration(service_name="elsewhere")
    configuration["metadata"]["name"] = "elsewhere"
    for entry in configuration["webhooks"]:
        entry["objectSelector"] = {"matchLabels": {"nobody": "has-this"}}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "elsewhere-1",
            "namespace": OPERATOR_NAMESPACE,
            "labels": {"kubernetes.io/service-name": "elsewhere"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.9.9.1"], "conditions": {"ready": False}}],
    }
    strict = cluster.create_namespace("a-strict", {"storage.bubustack.io/strict": "true"})
    cluster.apply(configuration, endpoints)
    words = ("check", "-n", strict, "--webhook-configuration", "elsewhere", "-o", "json")

    away = findings(bubu(*words))
    ready = [{"addresses": [f"10.9.9.{number}"], "conditions": {"ready": True}} for number in (1, 2)]
    cluster.apply({**endpoints, "endpoints": ready})
    back = findings(bubu(*words))
    cluster.kubectl("delete", "mutatingwebhookconfiguration", "elsewhere")
    cluster.kubectl("delete", "namespace", strict, "--wait=false")

    assert ["fail", "fail", "fail"] == [
        away[area]["status"] for area in ("certificate", "endpoints", "strict")
    ]
    assert "no pod that asks for storage can start" in away["strict"]["text"]
    assert ["ok", "ok"] == [back[area]["status"] for area in ("endpoints", "strict")]
    assert "2 ready addresses" in back["endpoints"]["text"]


def test_check_without_rights_says_which(bubu: Plugin, tenant: Path) -> None:
    """Every look that is refused is a warning with the right to ask for."""
    done = bubu("check", "-o", "json", kubeconfig=tenant)

    found = findings(done)
    assert 3 == done.returncode
    for area in ("crds", "controller", "webhook", "dry run", "storageconfig", "retentionpolicy"):
        assert "warn" == found[area]["status"]
        assert "ask for the right to" in found[area]["remedy"]


# -- env ---------------------------------------------------------------------------------


def test_a_laptop_reaches_the_teams_store(
    cluster: Cluster, namespace: str, bubu: Plugin, s3_server: VersityGateway, bucket: str
) -> None:
    """``eval "$(kubectl bubu env …)"``, and ``bubu-storage ls`` lists the bucket; no secret was printed."""
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="outputs/flows/run-1/body.json", Body=b"{}")
    client.close()
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "minio", "namespace": namespace},
            "stringData": {"root.user": s3_server.access_key, "root.password": s3_server.secret_key},
        },
        config_of(
            "main",
            namespace,
            s3={
                "bucket": bucket,
                "endpoint": s3_server.endpoint,
                "region": s3_server.region,
                "authentication": {
                    "secretRef": {
                        "name": "minio",
                        "keys": {"accessKeyID": "root.user", "secretAccessKey": "root.password"},
                    }
                },
            },
        ),
    )
    printed = bubu("env", "storageconfig/main", "-n", namespace)
    assert (0, "") == (printed.returncode, printed.stderr)
    assert s3_server.access_key not in printed.stdout
    assert s3_server.secret_key not in printed.stdout

    script = f'eval "$(kubectl bubu env bsc/main -n {shlex.quote(namespace)})" && bubu-storage ls -r'
    stale = {"BUBU_STORAGE_PATH": "/stale", "BUBU_S3_TLS": "false"}
    for shell in ("sh", "bash"):
        done = subprocess.run(
            [shell, "-c", script],
            env=bubu.environment | stale,
            capture_output=True,
            text=True,
            timeout=PATIENT_SECONDS,
            check=False,
        )
        assert (0, "outputs/flows/run-1/body.json\n") == (done.returncode, done.stdout), done.stderr


def test_a_secret_that_cannot_be_read_stops_the_shell(cluster: Cluster, namespace: str, bubu: Plugin) -> None:
    """Going on without keys would mean going on with the laptop's own."""
    cluster.apply(config_of("main", namespace))

    done = subprocess.run(
        ["bash", "-c", f'eval "$(kubectl bubu env bsc/main -n {namespace})"; echo went on'],
        env=bubu.environment,
        capture_output=True,
        text=True,
        timeout=PATIENT_SECONDS,
        check=False,
    )

    assert "went on" not in done.stdout
    assert "cannot be read from the Secret" in done.stderr
    assert "port-forward -n minio service/minio 9000:9000" in done.stderr


def test_the_authority_goes_to_a_file_only_when_asked(
    cluster: Cluster, namespace: str, bubu: Plugin, tmp_path: Path
) -> None:
    """``--ca-file`` writes the ConfigMap's text and points AWS_CA_BUNDLE at it."""
    config = config_of("main", namespace)
    config["spec"]["s3"] |= {
        "endpoint": "https://minio.minio.svc:9000",
        "tls": {"caBundle": {"configMapRef": {"name": "ca", "key": "ca.crt"}}},
    }
    cluster.apply(
        config,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": namespace},
            "data": {"ca.crt": "PEM\n"},
        },
    )
    path = tmp_path / "ca bundle.pem"

    plain = bubu("env", "storageconfig/main", "-n", namespace)
    asked = bubu("env", "storageconfig/main", "-n", namespace, "--ca-file", str(path))

    assert "AWS_CA_BUNDLE" not in plain.stdout
    assert "--ca-file" in plain.stderr
    assert f"export AWS_CA_BUNDLE={shlex.quote(str(path))}" in asked.stdout
    assert "PEM\n" == path.read_text("utf-8")


def test_a_cluster_wide_config_reads_the_namespaces_own_secret(
    cluster: Cluster, namespace: str, bubu: Plugin
) -> None:
    """As pods do; a namespace that it is not for is said."""
    name = f"shared-{namespace}"
    cluster.apply(
        {
            "apiVersion": "storage.bubustack.io/v1alpha1",
            "kind": "ClusterStorageConfig",
            "metadata": {"name": name},
            "spec": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}},
                "s3": {
                    "bucket": "shared",
                    "authentication": {
                        "secretRef": {"name": "bubu-s3", "controllerNamespace": "storage-system"}
                    },
                },
            },
        }
    )

    done = bubu("env", f"cbsc/{name}", "-n", namespace)
    cluster.kubectl("delete", "clusterstorageconfig", name)

    assert 0 == done.returncode
    assert f"-n {namespace} get secret bubu-s3" in done.stdout
    assert "storage-system" not in done.stdout
    assert f"is not for namespace {namespace}" in done.stderr


def test_kubectl_lists_the_plugin(bubu: Plugin) -> None:
    """It is found by its name on PATH, and nothing of kubectl's stands in its way."""
    done = subprocess.run(
        ["kubectl", "plugin", "list", "--name-only"],
        env=bubu.environment | {"PATH": f"{PLUGIN_FOLDER}{os.pathsep}{bubu.folder / 'bin'}"},
        capture_output=True,
        text=True,
        timeout=PATIENT_SECONDS,
        check=False,
    )

    assert "kubectl-bubu" in done.stdout.split()
