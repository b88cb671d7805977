"""Other managers of the same objects on a real API server: nobody's apply fights with ours.

What was measured here is the ground of ADR 0013.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bubu_operator.injection.environment import OUR_VOLUMES
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ControllerProcess, install, until
from tests.cluster.template_harness import ASKED, KINDS, Workload, apply_config, events_about

pytestmark = pytest.mark.cluster

MANAGER = "bubu-storage-controller"


@pytest.fixture
def controller(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    """A controller that watches the test's namespace, with a config to inject."""
    install(cluster)
    (tmp_path / "stores").mkdir()
    with ControllerProcess(cluster, tmp_path, namespaces=[namespace], roots=[tmp_path / "stores"]) as running:
        apply_config(cluster, namespace, running.root / "a")
        yield running
    assert "Traceback" not in running.log


def written(workload: Workload) -> dict[str, Any]:
    """Return what people and we write: Kubernetes' own controllers may write after every change."""
    found = workload.cluster.get(workload.reference, "-n", workload.namespace, "--show-managed-fields")
    metadata = found["metadata"]
    managers = [entry for entry in metadata["managedFields"] if entry["manager"] != "kube-controller-manager"]
    notes = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if not key.startswith("deployment.kubernetes.io/")
    }
    return {
        "spec": found["spec"],
        "generation": metadata["generation"],
        "labels": metadata.get("labels"),
        "annotations": notes,
        "managedFields": managers,
    }


def server_side(workload: Workload, manifest: dict[str, Any], *options: str) -> None:
    """Apply as Argo CD and Flux do, without force: a conflict is an error."""
    workload.cluster.kubectl(
        *("apply", "--server-side", "--field-manager=argocd", *options, "-f", "-"), input=json.dumps(manifest)
    )


def drift(workload: Workload, manifest: dict[str, Any], *options: str) -> str:
    """Return what a GitOps tool would call out of sync."""
    done = workload.cluster.kubectl("diff", *options, "-f", "-", input=json.dumps(manifest), check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def owned(workload: Workload) -> dict[str, Any]:
    """Return the fields that the API server keeps as ours."""
    found = workload.cluster.get(workload.reference, "-n", workload.namespace, "--show-managed-fields")
    mine = [entry for entry in found["metadata"]["managedFields"] if entry["manager"] == MANAGER]
    assert len(mine) == 1
    assert mine[0]["operation"] == "Update"
    fields: dict[str, Any] = mine[0]["fieldsV1"]
    return fields


def leaves(fields: dict[str, Any], path: str = "") -> set[str]:
    """Flatten managed fields to the paths that hold nothing below."""
    found: set[str] = set()
    for key, below in fields.items():
        found |= leaves(below, f"{path}/{key}") if below else {f"{path}/{key}"}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_server_side_apply_of_the_bare_manifest(
    cluster: Cluster, namespace: str, controller: ControllerProcess, kind: str
) -> None:
    """Again and again: no conflict, no change, no drift; and we own our fields and not one more."""
    web = Workload(cluster, namespace, kind)
    manifest = web.manifest(labels=ASKED)
    server_side(web, manifest)
    until(web.path, "injection", 15)
    before = written(web)

    for _ in range(3):
        server_side(web, manifest)
        server_side(web, manifest, "--force-conflicts")

    assert written(web) == before
    assert drift(web, manifest, "--server-side", "--field-manager=argocd") == ""
    # Whoever makes a map or a list has it; what is in it stays each writer's own.
    made = ("/f:annotations/.", "/f:volumeMounts/.", "/f:volumes/.")
    paths = {path for path in leaves(owned(web)) if not path.endswith(made)}
    ours = ("bubustack.io", "BUBU_", *(json.dumps(name) for name in OUR_VOLUMES), '/k:{"mountPath":')
    assert [path for path in sorted(paths) if not any(word in path for word in ours)] == []
    assert any("BUBU_STORAGE_PATH" in path for path in paths)
    until(lambda: [reason for reason, _ in events_about(web)] == ["Injected"], "one event")
    assert "Traceback" not in controller.log


def test_git_changes_what_is_its_own(cluster: Cluster, namespace: str, controller: ControllerProcess) -> None:
    """Variables come and go, a container is dropped: each time what git says plus ours, ours first."""
    web = Workload(cluster, namespace)
    manifest = web.manifest(labels=ASKED)
    containers: list[dict[str, Any]] = manifest["spec"]["template"]["spec"]["containers"]
    containers.append({"name": "side", "image": "example/side:1"})
    server_side(web, manifest)
    until(lambda: web.path() and "BUBU_STORAGE_PATH" in web.env(1), "injection", 15)

    containers[0]["env"] = [{"name": "FIRST", "value": "$(BUBU_STORAGE_PATH)"}, {"name": "OWN", "value": "2"}]
    server_side(web, manifest)
    names = list(web.env())
    assert names[-2:] == ["FIRST", "OWN"]
    assert names.index("BUBU_STORAGE_PATH") < names.index("FIRST")
    assert web.env()["OWN"] == "2"

    # What server-side apply of ours would make impossible: the container would be left without an image.
    containers.pop()
    server_side(web, manifest)
    assert [item["name"] for item in web.template()["spec"]["containers"]] == ["main"]
    until(lambda: "side" not in record(web), "our record to follow", 15)
    assert drift(web, manifest, "--server-side", "--field-manager=argocd") == ""
    assert "Traceback" not in controller.log


def record(workload: Workload) -> str:
    """Return the record of what was injected."""
    text: str = workload.template()["metadata"]["annotations"]["storage.bubustack.io/injection"]
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_client_side_apply_of_the_bare_manifest(
    cluster: Cluster, namespace: str, controller: ControllerProcess, kind: str
) -> None:
    """``kubectl apply`` as people run it: what git never had, it does not take away."""
    web = Workload(cluster, namespace, kind)
    manifest = json.dumps(web.manifest(labels=ASKED))
    cluster.kubectl("apply", "-f", "-", input=manifest)
    until(web.path, "injection", 15)
    generation = web.read()["metadata"]["generation"]

    for _ in range(3):
        cluster.kubectl("apply", "-f", "-", input=manifest)

    assert web.path() == f"{controller.root}/a"
    assert web.read()["metadata"]["generation"] == generation
    assert drift(web, web.manifest(labels=ASKED)) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_replace_is_put_back_once(
    cluster: Cluster, namespace: str, controller: ControllerProcess, kind: str
) -> None:
    """``kubectl replace`` takes everything out that is not in the file: written once more, no loop."""
    web = Workload(cluster, namespace, kind)
    web.create(web.manifest(labels=ASKED))
    until(web.path, "injection", 15)
    injected = web.template()

    cluster.kubectl("replace", "-f", "-", input=json.dumps(web.manifest(labels=ASKED)))
    until(web.path, "injection once more", 15)

    assert web.template() == injected
    # Created, injected, replaced, injected: whatever the controller does for another one, this stays.
    assert web.read()["metadata"]["generation"] == 4
    other = Workload(cluster, namespace, kind, "other")
    other.create(other.manifest(labels=ASKED))
    until(other.path, "another one", 15)
    assert web.read()["metadata"]["generation"] == 4
    assert controller.log.count("InjectionReverted") == 0


def test_who_undoes_it_again_and_again_wins(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """After three rounds the operator stops, and says who did it; the user's next change starts anew."""
    web = Workload(cluster, namespace)
    manifest = web.manifest(labels=ASKED)
    manifest["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "example.com/v1", "kind": "Machine", "name": "maker",
            "uid": f"00000000-0000-0000-0000-{secrets.token_hex(6)}", "controller": True,
        }
    ]  # fmt: skip
    # A kind that the cluster does not know: the garbage collector cannot tell that its owner is gone.
    web.create(manifest)
    for _ in range(3):
        until(web.path, "injection", 15)
        cluster.kubectl(*("replace", "--field-manager=machine", "-f", "-"), input=json.dumps(manifest))

    until(lambda: "InjectionReverted" in dict(events_about(web)), "the word of it", 15)
    note = dict(events_about(web))["InjectionReverted"]
    assert "managed by Machine maker" in note
    assert "kubectl-create" in note
    assert web.path() == ""
    generation = web.read()["metadata"]["generation"]

    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "example/app:2"
    cluster.kubectl("replace", "-f", "-", input=json.dumps(manifest))
    until(web.path, "injection after the user's change", 15)
    assert web.read()["metadata"]["generation"] == generation + 2
    assert "Traceback" not in controller.log


def test_a_variable_that_git_sets_and_the_config_overrides(
    cluster: Cluster, namespace: str, controller: ControllerProcess
) -> None:
    """The one true conflict, told by the API server to an apply without force; force is a fight that ends."""
    apply_config(cluster, namespace, controller.root / "a", conflictPolicy="Override")
    web = Workload(cluster, namespace)
    env = [{"name": "BUBU_STORAGE_PATH", "value": "/their/own"}, {"name": "OWN", "value": "1"}]
    manifest = web.manifest(labels=ASKED, env=env)
    server_side(web, manifest)
    until(lambda: web.path() == f"{controller.root}/a", "the override", 15)

    def undone() -> bool:
        server_side(web, manifest, "--force-conflicts")
        return "InjectionReverted" in dict(events_about(web))

    until(undone, "the end of the fight", 60)
    assert "argocd" in dict(events_about(web))["InjectionReverted"]
