"""An installation for one namespace: both processes with the shipped rights, none of them cluster-wide."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster.certs import write_serving_files
from tests.cluster.claims import claim_of, volume_of
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, condition, install, until
from tests.cluster.kubelet import MiniKubelet
from tests.cluster.retention_world import World, finished
from tests.cluster.template_harness import ASKED, Workload, events_about
from tests.cluster.webhook_harness import (
    FILES,
    INJECTED,
    Json,
    Webhook,
    config_of,
    env_of,
    pod_of,
    wait_until_called,
)

pytestmark = pytest.mark.cluster

OPERATOR_NAMESPACE = "bubu-storage-system"
ASKS = {"bubustack.io/engram": "resize"}
KIND = "mutatingwebhookconfiguration"
JOBS = (
    *("--job-image", "registry.test/bubu-storage:1"),
    *("--job-pass-address", "127.0.0.1:0", "--job-pass-advertise", "127.0.0.1"),
)


@dataclass
class Scoped:
    """A namespace, an operator's namespace beside it, and the accounts with the shipped rights there."""

    cluster: Cluster
    namespace: str
    folder: Path
    webhook: Webhook
    operator_namespace: str
    configuration: str
    world: World = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(self.cluster, self.namespace, self.folder)

    def controller(self, *arguments: str) -> ControllerProcess:
        """A controller as such an installation starts it (not started)."""
        return self.world.controller(
            "--webhook-configuration",
            self.configuration,
            *arguments,
            account=(self.operator_namespace, "bubu-storage-controller"),
            operator_namespace=self.operator_namespace,
            leader_elect=True,
        )

    def create(self, pod: Json) -> Json:
        """Create a pod; return it as stored."""
        done = self.cluster.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(pod))
        return cast("Json", json.loads(done.stdout))


def rights(namespace: str, operator_namespace: str, configuration: str) -> Iterator[dict[str, Any]]:
    """The shipped file for these namespaces; what has no namespace gets a name of its own."""
    text = (FILES / "scoped-rbac.yaml").read_text(encoding="utf-8")
    text = text.replace("resourceNames: [bubu-storage-webhook]", f"resourceNames: [{configuration}]")
    text = text.replace("team-a", namespace).replace(OPERATOR_NAMESPACE, operator_namespace)
    for document in yaml.safe_load_all(text):
        if document["kind"].startswith("Cluster"):
            document["metadata"]["name"] += f"-{namespace}"
            if "roleRef" in document:
                document["roleRef"]["name"] += f"-{namespace}"
        yield document


@contextmanager
def installation(cluster: Cluster, folder: Path) -> Generator[Scoped]:
    """Rights, one config, the webhook, ready and registered for the namespace alone; gone afterwards."""
    install(cluster)
    host = cluster.callback_host
    if host is None:
        pytest.skip("the API server cannot reach this machine")
    namespace = cluster.create_namespace(f"t-{secrets.token_hex(5)}")
    operator_namespace = cluster.create_namespace(f"{namespace}-op")
    configuration = f"webhook-{namespace}"
    shipped = list(rights(namespace, operator_namespace, configuration))
    cluster.apply(*shipped)
    files = write_serving_files(folder, ["localhost"], [host])
    kubeconfig = cluster.service_account_kubeconfig(
        operator_namespace, "bubu-storage-webhook", folder / "webhook.kubeconfig"
    )
    arguments = ("--namespace", namespace, "--operator-namespace", operator_namespace)
    webhook = Webhook(cluster, folder, kubeconfig, files, host, arguments=arguments)
    webhook.start()
    cluster.apply(
        render_webhook_configuration(
            url=f"https://{host}:{webhook.port}/mutate",
            ca_bundle_pem=files.ca.read_text(encoding="ascii"),
            operator_namespace=operator_namespace,
            only_namespace=namespace,
            name=configuration,
        )
    )
    made = Scoped(cluster, namespace, folder, webhook, operator_namespace, configuration)
    made.world.config()
    try:
        wait_until_called(cluster, namespace)
        yield made
    finally:
        for controller in made.world.controllers:
            controller.stop()
        cluster.kubectl("delete", KIND, configuration, "--ignore-not-found")
        webhook.stop()
        for document in shipped:
            if document["kind"].startswith("Cluster"):
                cluster.kubectl("delete", document["kind"], document["metadata"]["name"])
        cluster.kubectl("delete", "namespace", namespace, operator_namespace, "--wait=false")


@pytest.fixture(scope="module")
def scoped(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoped]:
    """One that most of the tests share."""
    with installation(cluster, tmp_path_factory.mktemp("scoped")) as made:
        yield made


@pytest.fixture
def fresh(cluster: Cluster, tmp_path: Path) -> Iterator[Scoped]:
    """One of a test's own, which plays the kubelet there."""
    if cluster.provider != "local":
        pytest.skip("these tests play the kubelet")
    with installation(cluster, tmp_path) as made:
        yield made


def test_no_right_reaches_beyond_the_namespace(scoped: Scoped):
    """Nothing can be listed or watched across namespaces, and no Secret read at all, by either account."""
    kinds = (
        "storageconfigs.storage.bubustack.io",
        "clusterstorageconfigs.storage.bubustack.io",
        "retentionpolicies.storage.bubustack.io",
        "clusterretentionpolicies.storage.bubustack.io",
        *("pods", "namespaces", "secrets", "configmaps", "deployments.apps", "cronjobs.batch"),
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    )
    for account in ("bubu-storage-controller", "bubu-storage-webhook"):
        user = f"--as=system:serviceaccount:{scoped.operator_namespace}:{account}"
        for kind in kinds:
            for verb in ("list", "watch", "delete"):
                said = scoped.cluster.kubectl(
                    "auth", "can-i", verb, kind, "--all-namespaces", user, check=False
                )
                assert said.stdout.strip() == "no", (account, verb, kind)
        said = scoped.cluster.kubectl(
            "auth", "can-i", "get", "secrets", "-n", scoped.namespace, user, check=False
        )
        assert said.stdout.strip() == "no", account


def test_the_webhook_injects_its_namespace_and_lets_others_alone(
    scoped: Scoped, request: pytest.FixtureRequest
):
    """A pod here gets its storage; one elsewhere is not asked about, and let through where it is."""
    cluster, webhook = scoped.cluster, scoped.webhook
    other = cluster.create_namespace(f"{scoped.namespace}-b")
    request.addfinalizer(lambda: cluster.kubectl("delete", "namespace", other, "--wait=false"))
    cluster.apply(config_of("main", other))

    mine = scoped.create(pod_of("mine", scoped.namespace, ASKS))
    theirs = scoped.create(pod_of("theirs", other, ASKS))

    assert env_of(mine)["BUBU_STORAGE_PATH"]["value"] == str(scoped.world.store)
    assert INJECTED not in theirs["metadata"]["labels"]
    assert webhook.metric("bubu_webhook_reviews_total", reason="OtherNamespace") == 0
    response = webhook.review(pod_of("theirs", other, ASKS), other)
    assert response["allowed"] is True
    assert response["auditAnnotations"] == {"reason": "OtherNamespace"}
    assert not {"patch", "warnings"} & response.keys()
    # Counted when the answer has left.
    until(lambda: webhook.metric("bubu_webhook_reviews_total", reason="OtherNamespace") == 1, "the count")
    assert "forbidden" not in webhook.log.read_text(encoding="utf-8")


def test_the_webhook_follows_the_labels_of_its_namespace(scoped: Scoped, request: pytest.FixtureRequest):
    """They are watched: once the namespace opts out, its pods are let alone."""
    label = ("label", "namespace", scoped.namespace)
    pod = pod_of("p", scoped.namespace, ASKS)
    assert scoped.webhook.reason(pod, scoped.namespace) == "Injected"
    request.addfinalizer(
        lambda: until(lambda: scoped.webhook.reason(pod, scoped.namespace) == "Injected", "the label to go")
    )
    request.addfinalizer(lambda: scoped.cluster.kubectl(*label, "storage.bubustack.io/inject-"))

    scoped.cluster.kubectl(*label, "storage.bubustack.io/inject=false")

    until(
        lambda: scoped.webhook.reason(pod, scoped.namespace) == "NamespaceOptedOut",
        "the label to be heard of",
    )


def test_a_cluster_wide_config_is_not_known(scoped: Scoped, request: pytest.FixtureRequest):
    """It may not be read, and is not asked for: a pod that names it gets nothing, and is told so."""
    shared: Json = {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "ClusterStorageConfig",
        "metadata": {"name": scoped.namespace},
        "spec": {"file": {"emptyDir": {}}},
    }
    scoped.cluster.apply(shared)
    request.addfinalizer(
        lambda: scoped.cluster.kubectl("delete", "clusterstorageconfig", scoped.namespace, "--wait=false")
    )

    names_it = {**ASKS, "storage.bubustack.io/config": scoped.namespace}
    response = scoped.webhook.review(pod_of("p", scoped.namespace, names_it), scoped.namespace)

    assert "patch" not in response
    assert response["auditAnnotations"]["reason"] == "ConfigNotFound"
    assert len(response["warnings"]) == 1
    assert "forbidden" not in scoped.webhook.log.read_text(encoding="utf-8")


def test_the_controller_probes_injects_cleans_and_heals(scoped: Scoped):
    """All of its work within the namespace; what it goes without is said once, and nothing fails."""
    cluster, world, place = scoped.cluster, scoped.world, scoped.namespace
    lacking = pod_of("lacking", place, ASKS)
    cluster.kubectl("delete", "storageconfig", "main", "-n", place)
    until(lambda: scoped.webhook.reason(lacking, place) == "NoConfig", "the webhook to forget the config")
    assert INJECTED not in scoped.create(lacking)["metadata"]["labels"]
    world.config()
    world.fill(old=2, young=1)
    web = Workload(cluster, place)
    web.create(web.manifest(labels=ASKED))

    controller = scoped.controller("--heal-interval-seconds", "1")
    controller.start()
    world.policy(mode="Enforce", storageRef={"name": "main"})
    world.wait(finished, "a pass", 60)

    def of_config(type_: str) -> str:
        found = condition(cluster.get("storageconfig", "main", "-n", place), type_)
        return str(found.get("status"))

    assert len(world.objects()) == 1
    until(lambda: of_config("Ready") == "True", "the probe")
    until(lambda: of_config("InjectionDrift") == "True", "the sweep that finds the pod")
    until(lambda: web.path() == str(world.store), "the template to be injected")
    problems = [
        item["message"]
        for item in controller.messages
        # That a pod lacks its storage is what was to be found.
        if item["level"] not in ("debug", "info") and not item["logger"].endswith(".heal_report")
    ]
    assert len(problems) == 1, problems
    assert "ClusterStorageConfigs may not be read" in problems[0]
    assert "by the uid of namespace" in controller.log
    assert "forbidden" not in controller.log


def test_the_command_of_a_message_names_the_role_of_the_namespace(scoped: Scoped):
    """Run as it stands, it lets the controller read the Secret; a ClusterRole of that name there is not."""
    cluster, place = scoped.cluster, scoped.namespace
    s3 = {"bucket": "flows", "endpoint": "http://127.0.0.1:9", "authentication": {"secretRef": {"name": "k"}}}
    keyed = config_of("keyed", place)
    cluster.apply(keyed | {"spec": {"s3": s3}})
    controller = scoped.controller()

    def ready() -> Json:
        return condition(cluster.get("storageconfig", "keyed", "-n", place), "Ready")

    try:
        controller.start()
        until(lambda: ready().get("reason") == "SecretForbidden", "the refusal")
        _, _, command = ready()["message"].partition("kubectl ")
        assert "--role bubu-storage-secret-reader" in command
        cluster.kubectl(*command.split())

        until(lambda: ready().get("reason") == "SecretNotFound", "the right to read it")
    finally:
        controller.stop()
        cluster.kubectl("delete", "storageconfig", "keyed", "-n", place)
        # The other tests of this installation are about what it may do by itself.
        cluster.kubectl(
            "delete", "rolebinding", "bubu-storage-secret-reader", "-n", place, "--ignore-not-found"
        )


def restarted(workload: Workload) -> str:
    """What the last restart for healing has written on the pod template, "" without one."""
    annotations: Json = workload.template()["metadata"].get("annotations") or {}
    return str(annotations.get("storage.bubustack.io/restarted-at", ""))


def test_owners_of_missed_and_of_stale_pods_are_restarted(fresh: Scoped):
    """By `rolloutOnChange`, once each: pods came while the webhook was away, and then the config changes."""
    cluster, place, world = fresh.cluster, fresh.namespace, fresh.world
    web = Workload(cluster, place)
    template = {"metadata": {"labels": {"app": web.name, **ASKS}}, "spec": pod_of("x", place)["spec"]}
    fresh.webhook.stop()
    web.create(web.manifest(replicas=1, template=template))
    web.roll_until_done()
    fresh.webhook.start()
    world.config(injection={"rolloutOnChange": True})

    def drift() -> str:
        found = condition(cluster.get("storageconfig", "main", "-n", place), "InjectionDrift")
        return str(found.get("reason"))

    controller = fresh.controller("--heal-interval-seconds", "1")
    controller.start()
    first = until(lambda: restarted(web), "the restart of what was missed", 30)
    web.roll_until_done()
    until(lambda: drift() == "PodsUpToDate", "its new pod to be seen", 30)
    world.config(injection={"rolloutOnChange": True}, timeoutSeconds=77)
    until(lambda: restarted(web) != first, "the restart of what is stale", 30)
    web.roll_until_done()
    until(lambda: drift() == "PodsUpToDate", "its newer pod to be seen", 30)

    expected = {"InjectionMissing", "RestartedForInjection", "InjectionStale"}
    until(lambda: expected <= {reason for reason, _ in events_about(web)}, "an event of each")
    for sign in ("forbidden", "Traceback"):
        assert sign not in controller.log


def test_jobs_probe_and_clean_a_claim(fresh: Scoped, request: pytest.FixtureRequest):
    """Once the command of the condition has run, which names the Role: one Job probes, others clean."""
    cluster, place, world = fresh.cluster, fresh.namespace, fresh.world
    cluster.kubectl("label", "namespace", place, "pod-security.kubernetes.io/enforce=restricted")
    volume = f"pv-{place}"
    cluster.apply(volume_of(volume), claim_of(place, volume))
    request.addfinalizer(lambda: cluster.kubectl("delete", "pv", volume, "--wait=false"))
    world.fill(old=20, young=5)
    spec = {"file": {"volumeClaimName": "flows"}}
    cluster.kubectl("delete", "storageconfig", "main", "-n", place)
    cluster.apply(config_of("main", place) | {"spec": spec})
    controller = fresh.controller(*JOBS)

    def ready() -> Json:
        return condition(cluster.get("storageconfig", "main", "-n", place))

    controller.start()
    with MiniKubelet(cluster, place, fresh.folder / "kubelet", claims={"flows": world.store}) as node:
        until(lambda: "kubectl " in ready().get("message", ""), "the controller to ask for the right")
        _, _, command = ready()["message"].partition("kubectl ")
        assert "--role bubu-storage-prober" in command
        cluster.kubectl(*command.split())
        until(lambda: ready().get("status") == "True", "the probe by a Job", 60)
        world.policy(mode="Enforce", interval="1h", storageRef={"name": "main"})
        world.wait(finished, "a pass by a Job", 60)

    assert len(world.objects()) == 5
    for job in ("bubu-probe", "bubu-pass"):
        assert any(name.startswith(job) for name in node.environments), node.environments.keys()
    assert node.errors == []
    for sign in ("forbidden", "Traceback"):
        assert sign not in controller.log
