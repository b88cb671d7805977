"""The chart on a real API server: what Helm does to CRDs and to what the controller has written.

There are no nodes, so nothing waits for pods, and the hook before deletion is left out; the tests
on a node run it.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from bubu_operator.webhook.configuration import WEBHOOK_NAME
from tests.chart.installing import HelmCluster
from tests.chart.matrix import TENANT
from tests.chart.programs import ensure_helm, ensure_helm3
from tests.chart.rendering import CHART, NAMESPACE, ChartError, hook_of, render
from tests.cluster.certs import write_serving_files
from tests.cluster.controller_harness import ControllerProcess, nudge_crds, until
from tests.cluster.errors import KubectlError
from tests.cluster.providers import start_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CRDS = CHART.parents[1] / "crds"
KIND = "mutatingwebhookconfiguration"
BUILDS_HELM_3 = pytest.mark.skipif(
    os.environ.get("BUBU_LONG_TESTS") != "1", reason="builds Helm 3, which takes minutes: BUBU_LONG_TESTS=1"
)
NO_HOOKS = "--no-hooks"
CRD_NAMES = sorted(yaml.safe_load(path.read_text())["metadata"]["name"] for path in CRDS.glob("*.yaml"))
CONFIG: dict[str, Any] = {
    "apiVersion": "storage.bubustack.io/v1alpha1",
    "kind": "StorageConfig",
    "metadata": {"name": "main", "namespace": TENANT},
    "spec": {"file": {"path": "/var/run/bubu", "emptyDir": {}}},
}


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A control plane of our own: these tests delete CRDs."""
    running = start_cluster()
    try:
        running.create_namespace(TENANT)
        yield running
    finally:
        running.stop(keep_logs=False)


@pytest.fixture
def bare(own_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without anything of ours, before and after."""
    _clear(own_cluster)
    yield own_cluster
    _clear(own_cluster)


def _clear(cluster: Cluster) -> None:
    release = HelmCluster(cluster)
    if release.run("list", "--short").strip():
        release.uninstall(NO_HOOKS)
    cluster.kubectl("delete", "crd", *CRD_NAMES, "--ignore-not-found", "--wait=false")
    until(lambda: not _left_after_a_nudge(cluster), "CRDs to be finalized")


def _left_after_a_nudge(cluster: Cluster) -> list[str]:
    """Names of our CRDs that are still there, each nudged."""
    left = crds_of(cluster)
    if left:
        nudge_crds(cluster, *left)
    return left


def crds_of(cluster: Cluster) -> list[str]:
    """Names of our CRDs that are there."""
    found = cluster.get("crd")["items"]
    return sorted(one["metadata"]["name"] for one in found if one["metadata"]["name"] in CRD_NAMES)


def authorities(cluster: Cluster) -> set[str]:
    """The different caBundles of our entries; "" for none."""
    configuration = cluster.get(KIND, WEBHOOK_NAME)
    return {entry["clientConfig"].get("caBundle", "") for entry in configuration["webhooks"]}


def older_crds(folder: Path) -> Path:
    """Our CRDs with another text inside, as a version before this one would have."""
    for path in CRDS.glob("*.yaml"):
        text = path.read_text().replace("description: Whether the store can be used.", "description: Older.")
        document = cast("dict[str, Any]", yaml.safe_load(text))
        columns = document["spec"]["versions"][0]["additionalPrinterColumns"]
        columns[0]["description"] = "Older."
        (folder / path.name).write_text(yaml.safe_dump(document))
    return folder


def has_older(cluster: Cluster) -> bool:
    """Whether the cluster has the older text in any CRD's spec."""
    return any("Older." in json.dumps(cluster.get("crd", name)["spec"]) for name in CRD_NAMES)


@pytest.mark.parametrize("options", [(), ("--server-side=false",)], ids=["server-side", "client-side"])
def test_an_upgrade_leaves_the_authority_that_the_controller_wrote(
    bare: Cluster, tmp_path: Path, options: tuple[str, ...]
):
    """Written by a real controller with the chart's rights; kept when other fields of the entries change."""
    release = HelmCluster(bare)
    release.install(None, *options)
    with ControllerProcess(
        bare,
        tmp_path,
        leader_elect=True,
        arguments=("--webhook-authority", "--authority-lifetimes", "propagation=1s"),
    ):
        until(lambda: len(authorities(bare)) == 1 and authorities(bare) != {""}, "caBundle to be written")
    # No controller any more: whoever restores it now is nobody.
    written = authorities(bare)

    release.upgrade({"webhook": {"timeoutSeconds": 7}, "image": {"tag": "next"}}, *options)

    entries = bare.get(KIND, WEBHOOK_NAME)["webhooks"]
    assert {7} == {entry["timeoutSeconds"] for entry in entries}
    assert written == authorities(bare)


def test_an_authority_of_the_users_own_takes_the_place_of_the_controllers(bare: Cluster, tmp_path: Path):
    """Helm says who wrote caBundle and stops; with --force-conflicts the user's is there, and stays."""
    release = HelmCluster(bare)
    release.install()
    with ControllerProcess(
        bare,
        tmp_path,
        leader_elect=True,
        arguments=("--webhook-authority", "--authority-lifetimes", "propagation=1s"),
    ):
        until(lambda: len(authorities(bare)) == 1 and authorities(bare) != {""}, "caBundle to be written")
    ca = write_serving_files(tmp_path, ["a"], []).ca.read_text("ascii")
    values = {"webhook": {"certificates": {"mode": "secret", "secret": {"name": "my-tls"}, "caBundle": ca}}}

    bare.kubectl("scale", "-n", NAMESPACE, "deployment/bubu-storage-controller", "--replicas=0")

    with pytest.raises(ChartError, match="conflict"):
        release.upgrade(values)
    release.upgrade(values, "--force-conflicts")

    assert 2 == bare.get("deployment", "bubu-storage-controller", "-n", NAMESPACE)["spec"]["replicas"]

    own = {base64.b64encode(ca.encode("ascii")).decode("ascii")}
    assert own == authorities(bare)
    release.upgrade(values)
    assert own == authorities(bare)


@BUILDS_HELM_3
def test_the_upgrade_from_helm_3_leaves_it_too(bare: Cluster, tmp_path: Path):
    """Helm 3 installs, Helm 4 goes on; what another wrote is not theirs."""
    release = HelmCluster(bare)
    release.install(program=ensure_helm3())
    bundle = base64.b64encode(write_serving_files(tmp_path, ["a"], []).ca.read_bytes()).decode("ascii")
    patch = [{"op": "add", "path": f"/webhooks/{n}/clientConfig/caBundle", "value": bundle} for n in range(6)]
    bare.kubectl(
        "patch", KIND, WEBHOOK_NAME, "--type=json", "--field-manager=controller", "-p", json.dumps(patch)
    )

    for program, seconds in ((ensure_helm3(), 6), (ensure_helm(), 7), (ensure_helm(), 8)):
        release.upgrade({"webhook": {"timeoutSeconds": seconds}}, program=program)
        assert {bundle} == authorities(bare)


def test_crds_and_what_is_of_them_survive_the_release(bare: Cluster):
    """Uninstalled and installed again: configs are where they were, the registration was gone."""
    release = HelmCluster(bare)
    release.install()
    bare.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in CRD_NAMES))
    bare.apply(CONFIG)

    release.uninstall(NO_HOOKS)

    assert CRD_NAMES == crds_of(bare)
    assert bare.kubectl("get", KIND, WEBHOOK_NAME, check=False).returncode != 0
    release.install()
    assert "main" == bare.get("storageconfig", "main", "-n", TENANT)["metadata"]["name"]


def test_a_release_can_be_moved_to_another_namespace(bare: Cluster):
    """What stayed of the old one is taken over when Helm is told so, and only then."""
    HelmCluster(bare).install()
    bare.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in CRD_NAMES))
    bare.apply(CONFIG)
    HelmCluster(bare).uninstall(NO_HOOKS)
    moved = HelmCluster(bare, "moved", "elsewhere")

    with pytest.raises(ChartError, match="cannot be imported into the current release"):
        moved.install()
    moved.install(None, "--take-ownership", "--force-conflicts")

    assert "main" == bare.get("storageconfig", "main", "-n", TENANT)["metadata"]["name"]
    moved.uninstall(NO_HOOKS)


def test_a_binding_made_by_hand_stays_beside_the_charts(bare: Cluster):
    """First by the command that messages show, then by the values; neither is in the other's way."""
    release = HelmCluster(bare)
    release.install()
    role = "bubu-storage-secret-reader"
    account = f"{NAMESPACE}:bubu-storage-controller"
    by_hand = (
        "create",
        "rolebinding",
        role,
        "-n",
        TENANT,
        "--clusterrole",
        role,
        "--serviceaccount",
        account,
    )
    bare.kubectl(*by_hand)

    release.upgrade({"tenantSecrets": {"namespaces": [TENANT]}})

    names = {one["metadata"]["name"] for one in bare.get("rolebinding", "-n", TENANT)["items"]}
    assert {role, "bubu-storage-controller-secrets"} <= names
    release.uninstall(NO_HOOKS)
    names = {one["metadata"]["name"] for one in bare.get("rolebinding", "-n", TENANT)["items"]}
    assert {role} == names
    bare.kubectl("delete", "rolebinding", role, "-n", TENANT)


def test_crds_stay_when_they_are_switched_off(bare: Cluster):
    """crds.enabled is changed to false: whoever does that takes them over, and loses nothing."""
    release = HelmCluster(bare)
    release.install()

    release.upgrade({"crds": {"enabled": False}})

    assert CRD_NAMES == crds_of(bare)


def test_an_upgrade_brings_new_crds(bare: Cluster, tmp_path: Path):
    """They are templates; what is in a chart's crds/ folder Helm never upgrades."""
    release = HelmCluster(bare)
    release.install()
    bare.kubectl("apply", "--server-side", "--force-conflicts", "-f", older_crds(tmp_path))
    assert has_older(bare)

    # What kubectl wrote last is kubectl's: Helm 4 says so, unless told to take it.
    with pytest.raises(ChartError, match="conflict"):
        release.upgrade(None, "--server-side=true")
    release.upgrade(None, "--server-side=true", "--force-conflicts")

    assert not has_older(bare)


@pytest.mark.parametrize("how", [("--server-side",), ()], ids=["server-side", "client-side"])
@pytest.mark.parametrize("major", [4, pytest.param(3, marks=BUILDS_HELM_3)])
def test_crds_that_kubectl_applied_before_are_taken_over(
    bare: Cluster, tmp_path: Path, how: tuple[str, ...], major: int
):
    """Also when they are older. Without being told so, Helm refuses to touch what it did not make."""
    bare.kubectl("apply", *how, "-f", older_crds(tmp_path))
    release = HelmCluster(bare)
    program = ensure_helm() if major == 4 else ensure_helm3()
    # What others applied is theirs only to Helm 4, which applies on the server itself.
    take = ("--take-ownership", "--force-conflicts") if major == 4 else ("--take-ownership",)
    with pytest.raises(ChartError, match="cannot be imported into the current release"):
        release.install(program=program)

    release.install(None, *take, program=program)

    assert not has_older(bare)
    release.uninstall(NO_HOOKS, program=program)
    assert CRD_NAMES == crds_of(bare)


def test_crds_applied_by_kubectl_can_stay_kubectls(bare: Cluster):
    """With crds.enabled=false in either order, and the chart never touches them."""
    bare.kubectl("apply", "--server-side", "-f", CRDS)
    release = HelmCluster(bare)

    release.install({"crds": {"enabled": False}})
    bare.kubectl("apply", "--server-side", "-f", CRDS)
    release.uninstall(NO_HOOKS)

    assert CRD_NAMES == crds_of(bare)


def test_kubectl_may_apply_crds_after_the_release(bare: Cluster):
    """The other order: neither conflicts with the other as long as they say the same."""
    release = HelmCluster(bare)
    release.install()

    bare.kubectl("apply", "--server-side", "-f", CRDS)
    release.upgrade()
    bare.kubectl("apply", "-f", CRDS)
    release.upgrade()

    assert CRD_NAMES == crds_of(bare)


def test_a_second_installation_for_one_namespace_fits_beside(bare: Cluster):
    """Another prefix, another namespace, the first one's CRDs: no object is in two releases."""
    first = HelmCluster(bare)
    first.install()
    second = HelmCluster(bare, "team", "team-operator")
    values = {"namePrefix": "team", "scopedNamespace": TENANT, "crds": {"enabled": False}}

    second.install(values | {"rbac": {"aggregate": False}})

    assert {"bubu-storage-webhook", "team-webhook"} == {
        one["metadata"]["name"] for one in bare.get(KIND)["items"]
    }
    second.uninstall(NO_HOOKS)
    assert ["bubu-storage-webhook"] == [one["metadata"]["name"] for one in bare.get(KIND)["items"]]


def test_the_schema_is_heard_before_anything_is_made(bare: Cluster):
    """A wrong value leaves the cluster as it was."""
    with pytest.raises(ChartError, match="specifications of the schema"):
        HelmCluster(bare).install({"log": {"level": "loud"}})

    assert [] == crds_of(bare)
    with pytest.raises(KubectlError):
        bare.kubectl("get", KIND, WEBHOOK_NAME)


def test_the_hook_before_deletion_takes_the_registration_away(bare: Cluster, tmp_path: Path):
    """Its command under its account's own rights: what Helm registered goes, and a second time is fine."""
    HelmCluster(bare).install()
    hooks = [obj for obj in render().objects if hook_of(obj) == "pre-delete"]
    (job,) = [obj for obj in hooks if obj["kind"] == "Job"]
    bare.apply(*(obj for obj in hooks if obj["kind"] != "Job"))
    pod = job["spec"]["template"]["spec"]
    kubeconfig = bare.service_account_kubeconfig(NAMESPACE, pod["serviceAccountName"], tmp_path / "hook")

    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "bubu_operator", *pod["containers"][0]["args"]],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr

    assert [] == bare.get(KIND)["items"]
    bare.kubectl(
        "delete",
        "-f",
        "-",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": hooks}),
        check=False,
    )
