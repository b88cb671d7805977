"""Injection into the templates of every kind on a real API server, hostile ones and refusals included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import RBAC, ROOT, ControllerProcess, install, until
from tests.cluster.template_harness import (
    ASKED,
    DIGEST,
    KINDS,
    Workload,
    apply_config,
    events_about,
    template_of,
)

pytestmark = pytest.mark.cluster

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def controller(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    """A controller that watches the test's namespace."""
    install(cluster)
    (tmp_path / "stores").mkdir()
    with ControllerProcess(cluster, tmp_path, namespaces=[namespace], roots=[tmp_path / "stores"]) as running:
        yield running
    assert "Traceback" not in running.log


def test_every_kind_is_injected_once_and_back_again(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """Ours in front, one generation; without the label the template is its user's again, every byte."""
    apply_config(cluster, namespace, controller.root / "a")
    workloads = [Workload(cluster, namespace, kind) for kind in KINDS]
    before: dict[str, Any] = {}
    for workload in workloads:
        workload.create(workload.manifest())
        before[workload.kind] = workload.template()
        workload.label("storage.bubustack.io/inject=true")

    for workload in workloads:
        until(lambda found=workload: found.path(), f"injection into a {workload.kind}", 15)
        found = workload.read()
        assert list(workload.env())[-1] == "OWN", "ours come first, so that $(BUBU_…) resolves"
        assert found["metadata"]["generation"] == 2
        until(
            lambda found=workload: [reason for reason, _ in events_about(found)] == ["Injected"], "one event"
        )
        workload.label("storage.bubustack.io/inject-")

    for workload in workloads:
        until(lambda found=workload: not found.path(), f"removal from a {workload.kind}", 15)
        found = workload.read()
        assert template_of(found) == before[workload.kind]
        assert not any("bubustack" in key for key in found["metadata"].get("annotations", {}))
        assert found["metadata"]["generation"] == 3


def test_the_examples_are_injected(cluster: Cluster, namespace: str, controller: ControllerProcess) -> None:
    """The workloads of ``docs/examples`` as they are: labelled on the workload itself."""
    apply_config(cluster, namespace, controller.root / "a")
    for name in ("deployment", "cronjob"):
        found = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
        workload = Workload(cluster, namespace, found["kind"], found["metadata"]["name"])
        cluster.kubectl("apply", "-n", namespace, "-f", EXAMPLES / f"{name}.yaml")
        until(workload.path, f"injection into the example {name}", 15)


def test_a_changed_config_reaches_each_kind_as_it_should(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """Without rolloutOnChange a CronJob follows, the others say it once and keep what they have."""
    apply_config(cluster, namespace, controller.root / "a")
    workloads = [Workload(cluster, namespace, kind) for kind in KINDS]
    for workload in workloads:
        workload.create(workload.manifest(labels=ASKED))
    for workload in workloads:
        until(lambda found=workload: found.path(), "injection", 15)

    apply_config(cluster, namespace, controller.root / "b")

    *rolling, job = workloads
    until(lambda: job.path() == f"{controller.root}/b", "the CronJob to follow", 15)
    for workload in rolling:
        until(
            lambda found=workload: "ConfigChanged" in dict(events_about(found)),
            f"the word on a {workload.kind}",
            15,
        )
        found = workload.read()
        mark = found["metadata"]["annotations"]["storage.bubustack.io/outdated"]
        assert mark.startswith(f"StorageConfig {namespace}/main ")
        # The API server counts a Deployment's annotations, too; pods are made from the template alone.
        assert found["metadata"]["generation"] == 2 + (workload.kind == "Deployment")
        assert workload.path() == f"{controller.root}/a"

    apply_config(cluster, namespace, controller.root / "b", rollout=True)
    for workload in rolling:
        until(lambda found=workload: found.path() == f"{controller.root}/b", f"a {workload.kind} to roll", 30)
        metadata = workload.read()["metadata"]
        assert "storage.bubustack.io/outdated" not in metadata["annotations"]
        mark = json.loads(metadata["annotations"]["storage.bubustack.io/rollout"])
        assert mark["generation"] == metadata["generation"]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_a_config_that_changes_after_a_release_restarts_nothing(
    cluster: Cluster, namespace: str, controller: ControllerProcess, kind: str
) -> None:
    """The user's new image is one change, the config's new path another: without rolloutOnChange it waits."""
    apply_config(cluster, namespace, controller.root / "a")
    web = Workload(cluster, namespace, kind)
    web.create(web.manifest(labels=ASKED))
    until(web.path, "injection", 15)
    before = web.read()["metadata"]["annotations"][DIGEST]
    cluster.kubectl("set", "image", web.reference, "-n", namespace, "main=example/app:2")
    until(lambda: web.read()["metadata"]["annotations"][DIGEST] != before, "the release to be noted", 15)
    released = web.template()

    apply_config(cluster, namespace, controller.root / "b")

    until(lambda: "ConfigChanged" in dict(events_about(web)), "the word of it", 15)
    assert web.template() == released


def test_a_roll_out_that_is_undone(cluster: Cluster, namespace: str, controller: ControllerProcess) -> None:
    """``kubectl rollout undo`` brings an older template back, and the annotations with it: put right once."""
    apply_config(cluster, namespace, controller.root / "a")
    web = Workload(cluster, namespace)
    web.create(web.manifest())
    bare = web.template()

    def revisions() -> int:
        return len(cluster.get("replicasets", "-n", namespace, "-l", "app=web")["items"])

    until(lambda: revisions() == 1, "the bare ReplicaSet", 15)
    web.label("storage.bubustack.io/inject=true")
    until(lambda: web.path() and revisions() == 2, "the injected ReplicaSet", 15)
    injected = web.template()

    cluster.kubectl("rollout", "undo", web.reference, "-n", namespace)
    until(web.path, "the injection again", 15)
    assert web.template() == injected
    # Created, injected, undone, injected.
    assert web.read()["metadata"]["generation"] == 4

    web.label("storage.bubustack.io/inject-")
    until(lambda: web.template() == bare, "the bare template", 15)
    until(lambda: revision_of(web) == "5", "the bare revision", 15)
    cluster.kubectl("rollout", "undo", web.reference, "-n", namespace)
    until(lambda: web.read()["metadata"]["generation"] == 7, "ours to be taken out of the older template", 15)
    assert web.template() == bare


def revision_of(workload: Workload) -> str:
    """Return the number that the deployment controller gave the present template."""
    return str(workload.read()["metadata"]["annotations"].get("deployment.kubernetes.io/revision"))


def test_what_does_not_roll_by_itself_is_said_and_not_waited_for(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """OnDelete, a paused Deployment, a partition over all pods: written one after the other, with a word."""
    apply_config(cluster, namespace, controller.root / "a", rollout=True)
    made: list[tuple[Workload, dict[str, Any], str]] = [
        (
            Workload(cluster, namespace, "DaemonSet", "a"),
            {"updateStrategy": {"type": "OnDelete"}},
            "OnDelete",
        ),
        (Workload(cluster, namespace, "Deployment", "b"), {"paused": True}, "paused"),
        (
            Workload(cluster, namespace, "StatefulSet", "c"),
            {"updateStrategy": {"type": "OnDelete"}},
            "OnDelete",
        ),
        (
            Workload(cluster, namespace, "StatefulSet", "d"),
            {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 5}}},
            "partition",
        ),
    ]
    for workload, spec, _ in made:
        workload.create(workload.manifest(labels=ASKED, replicas=1, **spec))
    for workload, _, said in made:
        until(lambda found=workload: found.path(), "injection", 15)
        until(
            lambda found=workload, words=said: words in dict(events_about(found)).get("Injected", ""),
            f"an event that says {said}",
        )

    apply_config(cluster, namespace, controller.root / "b", rollout=True)

    for workload, _, _ in made:
        until(lambda found=workload: found.path() == f"{controller.root}/b", f"{workload.reference}", 30)


def test_hostile_templates(cluster: Cluster, namespace: str, controller: ControllerProcess) -> None:
    """Duplicate names and thousands of variables go in and out unharmed."""
    apply_config(cluster, namespace, controller.root / "a")
    twice = [
        {"name": "D", "value": "1"},
        {"name": "OWN", "value": "$(BUBU_STORAGE_PATH)"},
        {"name": "D", "value": "2"},
    ]
    many = [{"name": f"V{number}", "value": "x" * 20} for number in range(2000)]
    cases = {"twice": twice, "many": many}
    for name, env in cases.items():
        workload = Workload(cluster, namespace, name=name)
        workload.create(workload.manifest(labels=ASKED, env=env))
    for name, env in cases.items():
        workload = Workload(cluster, namespace, name=name)
        until(workload.path, f"injection into {name}", 15)
        container = workload.template()["spec"]["containers"][0]
        assert container["env"][-len(env) :] == env
        workload.label("storage.bubustack.io/inject-")
        until(lambda found=workload: not found.path(), f"removal from {name}", 15)
        assert workload.template()["spec"]["containers"][0]["env"] == env


def test_a_refusal_by_a_policy_is_said_and_tried_again(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """An admission policy that forbids our variables: an event with its words, no loop, no traceback."""
    name = f"no-bubu-{namespace}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [
                    {
                        "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                        "resources": ["deployments"],
                    }
                ],
            },
            "validations": [
                {
                    "expression": "!object.spec.template.spec.containers.exists(c, has(c.env) && "
                    "c.env.exists(e, e.name.startsWith('BUBU_')))",
                    "message": "variables of a storage are not allowed here",
                }
            ],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    web, probe = Workload(cluster, namespace), Workload(cluster, namespace, name="probe")
    cluster.apply(policy, binding)
    try:
        manifest = json.dumps(probe.manifest(env=[{"name": "BUBU_X", "value": "1"}]))
        until(
            lambda: (
                cluster.kubectl(
                    "create", "--dry-run=server", "-f", "-", input=manifest, check=False
                ).returncode
                != 0
            ),
            "the policy to hold",
            30,
        )
        apply_config(cluster, namespace, controller.root / "a")
        web.create(web.manifest(labels=ASKED))

        until(lambda: "InjectionRefused" in dict(events_about(web)), "the refusal's event", 15)
        assert "not allowed here" in dict(events_about(web))["InjectionRefused"]
        assert web.read()["metadata"]["generation"] == 1
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name)
    until(
        lambda: (
            cluster.kubectl("create", "--dry-run=server", "-f", "-", input=manifest, check=False).returncode
            == 0
        ),
        "the policy to be gone",
        30,
    )
    web.label("storage.bubustack.io/config=main")
    until(web.path, "injection without the policy", 15)


def test_rights_that_are_taken_away(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """Without the right to patch: said on the workload, nothing ends; with it again, injected."""
    install(cluster)
    (tmp_path / "stores").mkdir()
    account = "no-patch"
    role = next(
        document
        for document in yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
        if document["kind"] == "ClusterRole" and document["metadata"]["name"] == "bubu-storage-controller"
    )
    role["metadata"]["name"] = role_name = f"no-patch-{namespace}"
    whole = json.loads(json.dumps(role))
    for rule in role["rules"]:
        if "deployments" in rule["resources"]:
            rule["verbs"].remove("patch")
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}},
        role,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role_name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role_name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    )
    web = Workload(cluster, namespace)
    try:
        with ControllerProcess(
            cluster,
            tmp_path,
            namespaces=[namespace],
            roots=[tmp_path / "stores"],
            account=(namespace, account),
        ) as controller:
            apply_config(cluster, namespace, controller.root / "a")
            web.create(web.manifest(labels=ASKED))
            until(lambda: "InjectionRefused" in dict(events_about(web)), "the refusal's event", 15)
            assert "deployments" in dict(events_about(web))["InjectionRefused"]

            cluster.apply(whole)
            web.label("storage.bubustack.io/config=main")
            until(web.path, "injection with the right", 30)
        assert "Traceback" not in controller.log
    finally:
        cluster.kubectl("delete", "clusterrolebinding,clusterrole", role_name)


def test_pods_that_a_quota_refuses_hold_up_nobody_else(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The template is written, its pods are refused, and time ends the wait for them."""
    install(cluster)
    (tmp_path / "stores").mkdir()
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none", "namespace": namespace},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    with ControllerProcess(
        cluster,
        tmp_path,
        namespaces=[namespace],
        roots=[tmp_path / "stores"],
        arguments=["--rollout-timeout-seconds", "3"],
    ) as controller:
        apply_config(cluster, namespace, controller.root / "a", rollout=True)
        workloads = [Workload(cluster, namespace, name=name) for name in ("a", "b")]
        for workload in workloads:
            workload.create(workload.manifest(labels=ASKED, replicas=1))
            until(workload.path, "injection", 15)

        apply_config(cluster, namespace, controller.root / "b", rollout=True)

        for workload in workloads:
            until(lambda found=workload: found.path() == f"{controller.root}/b", workload.reference, 30)
        assert "no longer waited for" in controller.log
    assert DIGEST in workloads[0].read()["metadata"]["annotations"]
