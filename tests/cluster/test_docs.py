"""What the pages of the documentation show is taken by a real API server, and does what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.cluster import controller_harness
from tests.cluster.certs import write_serving_files
from tests.cluster.webhook_harness import ACCOUNT, OPERATOR_NAMESPACE, Webhook, env_of, install_webhook
from tests.unit.docs.pages import DOCS, PAGES, Manifest, manifests_of, name_of

if TYPE_CHECKING:
    from tests.cluster import Cluster

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
FOREIGN = {"HelmRelease", "Application"}
"""Kinds of GitOps tools, which are not installed here."""

SHOWN = {
    page: found
    for page in PAGES
    if (found := [one for one in manifests_of(page) if one.body["kind"] not in FOREIGN])
}
TEAMS = DOCS / "multi-tenant.md"
CONTROLLER = f"system:serviceaccount:{controller_harness.NAMESPACE}:{controller_harness.ACCOUNT}"


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with the CRDs and the rights of both roles."""
    controller_harness.install(cluster)
    install_webhook(cluster)
    return cluster


@pytest.mark.parametrize("page", SHOWN, ids=name_of)
def test_objects_of_a_page_are_taken(installed: Cluster, namespace: str, page: Path):
    """As a dry run, with unknown fields an error; each in this test's namespace, for theirs are not there."""
    for manifest in SHOWN[page]:
        body: Json = json.loads(json.dumps(manifest.body))
        metadata: Json = body["metadata"]
        if "namespace" in metadata:
            metadata["namespace"] = namespace
        if body["kind"] == "Namespace":
            metadata["name"] = f"{namespace}-{metadata['name']}"
        # Pods are only admitted under an account that is there.
        dry = [] if body["kind"] == "ServiceAccount" else ["--dry-run=server"]

        done = installed.kubectl(
            *("apply", *dry, "--validate=strict", "-n", namespace, "-f", "-"),
            input=json.dumps(body),
            check=False,
        )

        assert (0, "") == (done.returncode, done.stderr), manifest


def two_teams() -> list[Manifest]:
    """Return the large example: the objects of the page's longest block."""
    longest = max(
        (manifest.where for manifest in SHOWN[TEAMS]), key=[one.where for one in SHOWN[TEAMS]].count
    )
    return [manifest for manifest in SHOWN[TEAMS] if manifest.where == longest]


@pytest.fixture
def teams(installed: Cluster) -> Iterator[Cluster]:
    """Both teams' objects, applied as the page has them; gone afterwards."""
    objects = [manifest.body for manifest in two_teams()]
    spaces = [obj for obj in objects if obj["kind"] == "Namespace"]
    try:
        for space in spaces:
            installed.create_namespace(space["metadata"]["name"], space["metadata"].get("labels"))
        document = {"apiVersion": "v1", "kind": "List", "items": objects}
        installed.kubectl("apply", "--validate=strict", "-f", "-", input=json.dumps(document))
        yield installed
    finally:
        for obj in objects:
            if obj["kind"].startswith("Cluster"):
                installed.kubectl("delete", obj["kind"], obj["metadata"]["name"], "--ignore-not-found")
        names = [space["metadata"]["name"] for space in spaces]
        installed.kubectl("delete", "namespace", *names, "--ignore-not-found", timeout_seconds=300.0)


def injected(cluster: Cluster, namespace: str) -> dict[str, Json]:
    """Return the environment that an engram of a namespace gets."""
    pod: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step", "namespace": namespace, "labels": {"bubustack.io/engram": "step"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example.com/engrams/step:1.0.0"}]},
    }
    done = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(pod))
    return env_of(cast("Json", json.loads(done.stdout)))


def may(cluster: Cluster, verb: str, what: str, namespace: str, who: str = CONTROLLER) -> bool:
    """Ask whether somebody, by default the controller, may do something in a namespace."""
    done = cluster.kubectl("auth", "can-i", verb, what, "-n", namespace, "--as", who, check=False)
    return done.stdout.strip() == "yes"


def test_two_teams_get_what_the_page_says(teams: Cluster, tmp_path: Path):
    """Each its own bucket and Secret; the controller reads Secrets where it was let in, and nowhere else."""
    if teams.callback_host is None:
        pytest.skip("the API server cannot reach this machine")
    files = write_serving_files(tmp_path, ["localhost"], [teams.callback_host])
    kubeconfig = teams.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, tmp_path / "kubeconfig")
    webhook = Webhook(teams, tmp_path, kubeconfig, files, teams.callback_host)
    webhook.start()
    try:
        webhook.register()
        controller_harness.until(
            lambda: "BUBU_STORAGE_PROVIDER" in injected(teams, "team-a"), "the API server to call the webhook"
        )

        own, shared = injected(teams, "team-a"), injected(teams, "team-b")
    finally:
        webhook.stop()
        teams.kubectl("delete", "mutatingwebhookconfigurations", "--all")

    assert ("team-a-flows", "shared-flows") == (
        own["BUBU_STORAGE_S3_BUCKET"]["value"],
        shared["BUBU_STORAGE_S3_BUCKET"]["value"],
    )
    assert ("minio", "bubu-s3") == (
        own["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"],
        shared["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"],
    )
    for name, space in (("minio", "team-a"), ("bubu-s3", "team-b"), ("bubu-s3", "storage-system")):
        teams.get("secret", name, "-n", space)
    spaces = ("team-a", "storage-system", "team-b", "default")
    for space in spaces[:2]:
        controller_harness.until(
            lambda where=space: may(teams, "get", "secrets", where), f"{space} to let it"
        )
    assert [True, True, False, False] == [may(teams, "get", "secrets", space) for space in spaces]
    assert not may(teams, "create", "jobs.batch", "team-a")


@pytest.mark.parametrize(
    ("role", "secrets", "jobs"), [("admin", True, True), ("edit", False, False), ("view", False, False)]
)
def test_who_may_let_the_controller_in(
    installed: Cluster, namespace: str, role: str, secrets: bool, jobs: bool
):
    """A team's administrator, with no help of the platform; no other of the usual roles."""
    person = f"person-{namespace}"
    installed.kubectl(
        "create", "rolebinding", role, f"--clusterrole={role}", f"--user={person}", "-n", namespace
    )

    # The API server learns of bindings by a watch.
    controller_harness.until(
        lambda: may(installed, "list", "pods", namespace, person), "the binding to be known"
    )

    def lets_in(name: str) -> bool:
        done = installed.kubectl(
            *("create", "rolebinding", name, f"--clusterrole={name}", "-n", namespace, "--as", person),
            f"--serviceaccount={controller_harness.NAMESPACE}:{controller_harness.ACCOUNT}",
            check=False,
        )
        if done.returncode:
            print(done.stderr)
        return done.returncode == 0

    assert (secrets, jobs) == (lets_in("bubu-storage-secret-reader"), lets_in("bubu-storage-prober"))
