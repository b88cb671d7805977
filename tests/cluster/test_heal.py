"""Healing on a real control plane, behind a real webhook that is sometimes away.

Deployments, Jobs and their pods are Kubernetes' own; only the kubelet is played, so that a test
decides when a roll-out ends.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.certs import write_serving_files
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, condition, install, until
from tests.cluster.webhook_harness import INJECTED, Json, Webhook, config_of, install_webhook, pod_of

pytestmark = pytest.mark.cluster

DOMAIN = "storage.bubustack.io"
RESTARTED = f"{DOMAIN}/restarted-at"
ASKING = {"bubustack.io/engram": "resize"}


@pytest.fixture(scope="module")
def webhook(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """A webhook that is registered; tests start and stop the process."""
    if cluster.provider != "local" or cluster.callback_host is None:
        pytest.skip("these tests play the kubelet, and need the API server to call back")
    install(cluster)
    install_webhook(cluster)
    folder = tmp_path_factory.mktemp("heal")
    host = cluster.callback_host
    files = write_serving_files(folder, ["localhost"], [host])
    kubeconfig = cluster.service_account_kubeconfig(
        "bubu-storage-system", "bubu-storage-webhook", folder / "kubeconfig"
    )
    made = Webhook(cluster, folder, kubeconfig, files, host)
    made.register()
    try:
        yield made
    finally:
        cluster.kubectl(
            "delete", "mutatingwebhookconfiguration", "bubu-storage-webhook", "--ignore-not-found"
        )
        made.stop()


@pytest.fixture
def up(webhook: Webhook, namespace: str) -> Iterator[Webhook]:
    """The webhook, working and called by the API server."""
    webhook.start()
    webhook.cluster.apply(config_of("main", namespace))
    until(lambda: _injects(webhook.cluster, namespace), "the API server to call the webhook")
    yield webhook
    webhook.stop()


def _injects(cluster: Cluster, namespace: str) -> bool:
    pod = json.dumps(pod_of("probe", namespace, ASKING))
    made = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=pod)
    return INJECTED in json.loads(made.stdout)["metadata"]["labels"]


@pytest.fixture
def controller(webhook: Webhook, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    """A controller that sweeps the test's namespace every second; not yet started."""
    made = ControllerProcess(
        webhook.cluster, tmp_path, namespaces=[namespace], arguments=["--heal-interval-seconds", "1"]
    )
    yield made
    made.stop()
    assert "Traceback" not in made.log


class Workload:
    """A Deployment of two pods; `settle` plays the kubelet, the controllers are Kubernetes' own."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        labels = {"app": name, **ASKING}
        template = {"metadata": {"labels": labels}, "spec": pod_of("x", namespace)["spec"]}
        create(
            cluster,
            "Deployment",
            name,
            namespace,
            apiVersion="apps/v1",
            spec={"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template},
        )
        self.settle()

    def restarted(self) -> str:
        """Return the annotation of a restart on its pod template, "" without one."""
        found = self.cluster.get("deployment", self.name, "-n", self.namespace)
        annotations: Json = found["spec"]["template"]["metadata"].get("annotations") or {}
        return str(annotations.get(RESTARTED, ""))

    def note_restart(self, text: str) -> None:
        """Write what a restart would have left, and let the pods be replaced."""
        patch = {"spec": {"template": {"metadata": {"annotations": {RESTARTED: text}}}}}
        self.cluster.kubectl(
            *("patch", "deployment", self.name, "-n", self.namespace, "--type=merge", "-p", json.dumps(patch))
        )
        self.settle()

    def settle(self) -> None:
        """Make every pod ready that comes, until the roll-out is done."""
        reference, selector = f"deployment/{self.name}", f"app={self.name}"
        until(
            lambda: make_ready(self.cluster, reference, selector, self.namespace),
            f"the roll-out of {self.name}",
            40,
        )


def make_ready(cluster: Cluster, reference: str, selector: str, namespace: str) -> bool:
    """Play the kubelet for the pods of a workload; tell whether its roll-out is done."""
    ready = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    for pod in cluster.get("pods", "-n", namespace, "-l", selector)["items"]:
        if pod["status"].get("phase") != "Running":
            cluster.kubectl(
                *("patch", "pod", pod["metadata"]["name"], "-n", namespace),
                *("--subresource=status", "--type=merge", "-p", json.dumps(ready)),
                check=False,
            )
    words = cluster.kubectl("rollout", "status", reference, "-n", namespace, "--watch=false", check=False)
    return any(said in words.stdout for said in ("successfully rolled out", "roll out complete"))


def create(cluster: Cluster, kind: str, name: str, namespace: str, **more: Any) -> Json:
    """Create an object; ``metadata`` may hold more than its name."""
    metadata = {"name": name, "namespace": namespace, **more.pop("metadata", {})}
    body = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}
    done = cluster.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(body))
    made: Json = json.loads(done.stdout)
    return made


def drift(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """The config's condition InjectionDrift."""
    return condition(cluster.get("storageconfig", "main", "-n", namespace), "InjectionDrift")


def wait_for_drift(cluster: Cluster, namespace: str, reason: str, words: str = "") -> dict[str, Any]:
    """Wait until the condition has a reason, and its message some words."""

    def said() -> dict[str, Any] | None:
        found = drift(cluster, namespace)
        return found if found.get("reason") == reason and words in found["message"] else None

    try:
        return until(said, f"InjectionDrift to be {reason} {words}", 30)
    except AssertionError:
        raise AssertionError(f"not {reason} {words}: {drift(cluster, namespace)}") from None


def events_of(cluster: Cluster, namespace: str, reason: str) -> list[tuple[str, str]]:
    """Kind and name of all that have an event of a reason."""
    items = cluster.get("events.events.k8s.io", "-n", namespace)["items"]
    return sorted(
        (item["regarding"]["kind"], item["regarding"]["name"]) for item in items if item["reason"] == reason
    )


def metric(controller: ControllerProcess, start: str) -> float:
    """The value of the first series that begins with a text; 0 without one."""
    with urllib.request.urlopen(f"http://127.0.0.1:{controller.port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start)), 0.0)


def pods_column(cluster: Cluster, namespace: str) -> str:
    """What kubectl prints for people below PODS."""
    head, row = cluster.kubectl("get", "bsc", "main", "-n", namespace).stdout.splitlines()
    at = head.index("PODS")
    return row[at:].split()[0]


def rollout(cluster: Cluster, namespace: str, **spec: Any) -> None:
    """Let the config restart owners."""
    cluster.apply(config_of("main", namespace, injection={"rolloutOnChange": True}, **spec))


def test_missed_pods_are_found_said_and_healed(
    up: Webhook, controller: ControllerProcess, namespace: str
) -> None:
    """Outage, condition, event on the Deployment, metric, PODS; then one restart, and all is well."""
    cluster = up.cluster
    healthy = Workload(cluster, namespace, "healthy")
    up.stop()
    missed = Workload(cluster, namespace, "missed")
    controller.start()

    said = wait_for_drift(cluster, namespace, "PodsNotInjected")

    assert said["status"] == "True"
    assert said["message"].startswith("2 of 4 pods that this config is meant for run without it: ")
    assert f"Deployment {namespace}/missed (2 pods)" in said["message"]
    assert f"kubectl rollout restart deployment/missed -n {namespace}" in said["message"]
    assert pods_column(cluster, namespace) == "2"
    name = f'bubu_injection_pods{{kind="StorageConfig",name="main",namespace="{namespace}",state='
    until(lambda: metric(controller, name + '"missing"') == 2, "the metric of missed pods")
    until(lambda: metric(controller, name + '"current"') == 2, "the metric of the others")
    until(lambda: metric(controller, "bubu_heal_last_success_timestamp_seconds") > 0, "the time")

    rollout(cluster, namespace)

    wait_for_drift(cluster, namespace, "PodsNotInjected", "nothing is restarted: the webhook cannot be asked")
    assert missed.restarted() == ""

    up.start()
    at = until(missed.restarted, "the restart", 30)
    wait_for_drift(cluster, namespace, "PodsNotInjected", "restarted lately (1 of 3)")
    missed.settle()
    wait_for_drift(cluster, namespace, "PodsUpToDate")

    assert at.endswith(" 1")
    assert missed.restarted() == at
    pods = cluster.get("pods", "-n", namespace, "-l", "app=missed")["items"]
    assert {pod["metadata"]["annotations"].get(RESTARTED) for pod in pods} == {at}, "by this help is known"
    assert healthy.restarted() == ""
    for event in ("InjectionMissing", "RestartedForInjection"):
        until(lambda reason=event: events_of(cluster, namespace, reason), f"the event {event}")
        assert events_of(cluster, namespace, event) == [("Deployment", "missed")]
    assert pods_column(cluster, namespace) == "4"


def test_a_changed_config_restarts_owners_one_at_a_time(
    up: Webhook, controller: ControllerProcess, namespace: str
) -> None:
    """Stale pods: the first owner in order is restarted; the second only once that has helped."""
    cluster = up.cluster
    rollout(cluster, namespace)
    first, second = (Workload(cluster, namespace, name) for name in ("alpha", "beta"))
    controller.start()
    wait_for_drift(cluster, namespace, "PodsUpToDate")

    rollout(cluster, namespace, timeoutSeconds=77)

    until(first.restarted, "the first restart", 30)
    said = wait_for_drift(
        cluster, namespace, "PodsStale", "no other owner is restarted until that has helped"
    )
    assert " carry an older form of it" in said["message"]
    assert second.restarted() == ""
    first.settle()
    until(second.restarted, "the second restart", 40)
    second.settle()
    wait_for_drift(cluster, namespace, "PodsUpToDate")
    expected = [("Deployment", "alpha"), ("Deployment", "beta")]
    until(lambda: events_of(cluster, namespace, "InjectionStale") == expected, "an event on each of them")


def test_restarts_that_do_not_help_come_to_an_end(
    up: Webhook, controller: ControllerProcess, namespace: str, tmp_path: Path
) -> None:
    """What was tried is on the template: a new process goes on counting, waits, and gives up."""
    cluster = up.cluster
    rollout(cluster, namespace)
    up.stop()
    missed, other = (Workload(cluster, namespace, name) for name in ("missed", "other"))
    up.start()
    controller.start()
    value = until(missed.restarted, "the restart", 30)
    controller.stop()
    time, form, _ = value.split()
    assert other.restarted() == ""

    def tried(text: str) -> None:
        up.stop()
        missed.note_restart(text)
        up.start()

    tried(f"{time} {form} 2")
    controller.start()
    wait_for_drift(cluster, namespace, "PodsNotInjected", "restarted lately (2 of 3)")
    controller.stop()
    tried(f"2020-01-01T00:00:00Z {form} 2")
    controller.start()
    assert until(lambda: missed.restarted() != f"2020-01-01T00:00:00Z {form} 2" and missed.restarted(), "", 30
                 ).endswith(f"{form} 3")  # fmt: skip
    controller.stop()
    tried(f"2020-01-01T00:00:00Z {form} 3")
    controller.start()

    wait_for_drift(cluster, namespace, "PodsNotInjected", "given up after 3 restarts")

    assert missed.restarted() == f"2020-01-01T00:00:00Z {form} 3"
    assert other.restarted() == ""
    until(lambda: metric(controller, "bubu_heal_given_up") == 1, "the metric")


def test_jobs_bare_pods_and_the_opted_out_are_told_of_and_left_alone(
    up: Webhook, controller: ControllerProcess, namespace: str
) -> None:
    """A Job's pod gets a message and an event on the Job; finished pods and "false" are no drift."""
    cluster = up.cluster
    rollout(cluster, namespace)
    up.stop()
    left = Workload(cluster, namespace, "left")
    cluster.kubectl("annotate", "deployment/left", "-n", namespace, f"{DOMAIN}/heal=false")
    spec = pod_of("x", namespace)["spec"]
    template = {"metadata": {"labels": ASKING}, "spec": {**spec, "restartPolicy": "Never"}}
    create(cluster, "Job", "once", namespace, apiVersion="batch/v1", spec={"template": template})
    until(lambda: cluster.get("pods", "-n", namespace, "-l", "job-name=once")["items"], "the Job's pod")
    for name, labels in (("out", {**ASKING, f"{DOMAIN}/inject": "false"}), ("plain", {}), ("ended", ASKING)):
        create(cluster, "Pod", name, namespace, metadata={"labels": labels}, spec=spec)
    cluster.kubectl(
        *("patch", "pod", "ended", "-n", namespace, "--subresource=status", "--type=merge"),
        *("-p", '{"status": {"phase": "Succeeded"}}'),
    )
    up.start()
    controller.start()

    said = wait_for_drift(cluster, namespace, "PodsNotInjected", "heal is false")

    assert said["message"].startswith("3 of 3 pods ")
    assert (
        "pods of Jobs, of other controllers and of none get it when they are created anew" in said["message"]
    )
    assert left.restarted() == ""
    expected = [("Deployment", "left"), ("Job", "once")]
    until(lambda: events_of(cluster, namespace, "InjectionMissing") == expected, "an event on each owner")


def test_a_pod_with_no_use_for_the_config_is_no_drift(
    up: Webhook, controller: ControllerProcess, namespace: str
) -> None:
    """Its only container is not among those that the config names: nothing is missing, sweep after sweep."""
    cluster = up.cluster
    cluster.apply(config_of("main", namespace, injection={"containers": ["elsewhere"]}))
    until(lambda: not _injects(cluster, namespace), "the webhook to know the new config")
    Workload(cluster, namespace, "web")
    controller.start()

    wait_for_drift(cluster, namespace, "PodsUpToDate")

    seen = metric(controller, 'bubu_heal_sweeps_total{result="complete"}')
    until(lambda: metric(controller, 'bubu_heal_sweeps_total{result="complete"}') > seen + 1, "more sweeps")
    assert drift(cluster, namespace)["reason"] == "PodsUpToDate"
    assert events_of(cluster, namespace, "InjectionMissing") == []


def test_pods_that_find_no_config_are_events_and_a_metric(
    up: Webhook, controller: ControllerProcess, namespace: str
) -> None:
    """They are no drift of any config."""
    cluster = up.cluster
    labels = {**ASKING, f"{DOMAIN}/config": "nowhere"}
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod_of("lost", namespace, labels)))
    controller.start()

    until(lambda: events_of(cluster, namespace, "ConfigNotFound"), "the event")

    assert set(events_of(cluster, namespace, "ConfigNotFound")) == {("Pod", "lost")}
    until(
        lambda: metric(controller, 'bubu_injection_unconfigured_pods{reason="ConfigNotFound"}') == 1,
        "the metric",
    )
    wait_for_drift(cluster, namespace, "PodsUpToDate")


def test_without_the_right_to_read_pods_that_is_said(
    webhook: Webhook, namespace: str, tmp_path: Path
) -> None:
    """The condition is Unknown and says which right is missing; the log says it once; no crash."""
    cluster = webhook.cluster
    cluster.kubectl("create", "serviceaccount", "poor", "-n", namespace)
    cluster.apply(config_of("main", namespace))
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "poor", "namespace": namespace},
        "rules": [
            {"apiGroups": [DOMAIN], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": ["apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        ],
    }
    cluster.apply(role)
    cluster.kubectl(
        *("create", "rolebinding", "poor", "-n", namespace, "--role=poor"),
        f"--serviceaccount={namespace}:poor",
    )
    poor = ControllerProcess(
        cluster,
        tmp_path,
        namespaces=[namespace],
        account=(namespace, "poor"),
        arguments=["--heal-interval-seconds", "1"],
    )
    with poor:
        said = wait_for_drift(cluster, namespace, "PodsForbidden")
        until(lambda: metric(poor, 'bubu_heal_sweeps_total{result="forbidden"}') > 2, "more sweeps")

    assert said["status"] == "Unknown"
    assert "pods" in said["message"]
    assert "controller-rbac.yaml" in said["message"]
    assert "Traceback" not in poor.log
    warned = [item for item in poor.messages if "not swept" in item["message"]]
    assert len(warned) == 1


def test_a_cluster_wide_config_over_namespaces(
    webhook: Webhook, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A controller of the whole cluster: pods of two namespaces, a StatefulSet, and a Job of a CronJob."""
    cluster = webhook.cluster
    team = namespace
    second = cluster.create_namespace(f"{namespace}-b", {"team": team})
    cluster.kubectl("label", "namespace", namespace, f"team={team}")
    shared = {
        "apiVersion": f"{DOMAIN}/v1alpha1",
        "kind": "ClusterStorageConfig",
        "metadata": {"name": team},
        "spec": {
            "namespaceSelector": {"matchLabels": {"team": team}},
            "file": {"volumeClaimName": "flows"},
            "injection": {"rolloutOnChange": True},
        },
    }
    cluster.apply(shared)
    request.addfinalizer(lambda: cluster.kubectl("delete", "clusterstorageconfig", team, "--wait=false"))
    request.addfinalizer(lambda: cluster.kubectl("delete", "namespace", second, "--wait=false"))
    spec = {**pod_of("x", namespace)["spec"]}
    labels = {"app": "db", **ASKING}
    create(
        cluster,
        "StatefulSet",
        "db",
        namespace,
        apiVersion="apps/v1",
        spec={
            "serviceName": "db",
            "replicas": 1,
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    )
    until(lambda: make_ready(cluster, "statefulset/db", "app=db", namespace), "the StatefulSet's pod")
    job = {"metadata": {"labels": ASKING}, "spec": {**spec, "restartPolicy": "Never"}}
    create(
        cluster, "CronJob", "nightly", second, apiVersion="batch/v1",
        spec={"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": job}}},
    )  # fmt: skip
    cluster.kubectl("create", "job", "nightly-1", "-n", second, "--from=cronjob/nightly")
    until(lambda: cluster.get("pods", "-n", second)["items"], "the Job's pod")

    def said(words: str) -> bool:
        found = condition(cluster.get("clusterstorageconfig", team), "InjectionDrift")
        return found.get("reason") == "PodsNotInjected" and words in found["message"]

    with ControllerProcess(cluster, tmp_path, arguments=["--heal-interval-seconds", "1"]) as controller:
        until(lambda: said("nothing is restarted: the webhook cannot be asked"), "the drift", 30)
        until(lambda: said(f"CronJob {second}/nightly (1 pod)"), "the CronJob's name")
        expected = [("CronJob", "nightly")]
        until(lambda: events_of(cluster, second, "InjectionMissing") == expected, "the CronJob's event")
        webhook.start()
        try:
            until(lambda: events_of(cluster, namespace, "RestartedForInjection"), "the restart", 30)
        finally:
            webhook.stop()
        assert controller.stop() == 0

    template = cluster.get("statefulset", "db", "-n", namespace)["spec"]["template"]
    assert template["metadata"]["annotations"][RESTARTED].endswith(" 1")
    assert "Traceback" not in controller.log
