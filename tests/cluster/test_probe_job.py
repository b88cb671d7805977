"""Stores that only a tenant's own pods reach, probed by a Job: real controller, Job controller, S3 server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.claims import claim_of, volume_of
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import (
    ACCOUNT,
    NAMESPACE,
    ControllerProcess,
    alive,
    condition,
    install,
    until,
)
from tests.cluster.kubelet import Ended, MiniKubelet
from tests.cluster.token_service import TokenService
from tests.s3server.gateway import VersityGateway

pytestmark = pytest.mark.cluster

API = "storage.bubustack.io/v1alpha1"
IMAGE = "registry.test/bubu-storage:1"
PLANTED = "PLANTEDsecretVALUE0123456789"
PAUSE_SECONDS = 20.0
"""Between two probes by a Job: ten times the controller's interval."""
CREDENTIALS = "test.bubustack.io/credentials-file"


@dataclass(frozen=True, slots=True)
class Team:
    """A namespace with the restricted pod security level, in which the controller may start Jobs."""

    cluster: Cluster
    namespace: str
    folder: Path

    def account(self, access: str = "", secret: str = "") -> None:
        """Create ServiceAccount ``runner``, bound to an identity if there is one."""
        annotations: dict[str, str] = {}
        if access:
            file = self.folder / "credentials"
            file.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
            annotations[CREDENTIALS] = str(file)
        metadata = {"name": "runner", "namespace": self.namespace, "annotations": annotations}
        self.cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})

    def kubelet(self, **options: Any) -> MiniKubelet:
        """Make a kubelet; the cloud's webhook gives what an account is annotated with."""

        def annotated(account: dict[str, Any]) -> dict[str, str]:
            annotations: dict[str, str] = account["metadata"].get("annotations") or {}
            file = annotations.get(CREDENTIALS)
            return {"AWS_SHARED_CREDENTIALS_FILE": file} if file else {}

        options.setdefault("cloud", annotated)
        return MiniKubelet(self.cluster, self.namespace, self.folder / "kubelet", **options)

    def store(self, spec: dict[str, Any]) -> None:
        """Apply StorageConfig ``main``."""
        metadata = {"name": "main", "namespace": self.namespace}
        self.cluster.apply({"apiVersion": API, "kind": "StorageConfig", "metadata": metadata, "spec": spec})

    def found(self) -> dict[str, Any]:
        """Return the StorageConfig."""
        return self.cluster.get("storageconfig", "main", "-n", self.namespace)

    def settled(self, reason: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until Ready has a reason for the current spec; return the object."""
        last: dict[str, Any] = {}

        def there() -> bool:
            nonlocal last
            last = self.found()
            ready = condition(last)
            generation = last["metadata"]["generation"]
            return ready.get("reason") == reason and ready["observedGeneration"] == generation

        try:
            until(there, "", seconds)
        except AssertionError:
            raise AssertionError(f"Ready never had reason {reason}: {condition(last)}") from None
        return last

    def jobs(self) -> list[dict[str, Any]]:
        """Return the Jobs of the namespace."""
        return self.cluster.get("jobs", "-n", self.namespace)["items"]

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods of the namespace."""
        return self.cluster.get("pods", "-n", self.namespace)["items"]


@pytest.fixture(scope="module")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """One controller with an image for Jobs, and an identity of its own that nobody must get."""
    if cluster.provider != "local":
        pytest.skip("a real kubelet would pull the image; the small one needs the pods for itself")
    install(cluster)
    leaky = {"AWS_ACCESS_KEY_ID": "AKIACONTROLLERSOWN00", "AWS_SECRET_ACCESS_KEY": "controllers-own-secret"}
    arguments = ("--job-image", IMAGE, "--allow-loopback-endpoints")
    workdir = tmp_path_factory.mktemp("probe-jobs")
    with ControllerProcess(cluster, workdir, arguments=arguments, environment=leaky) as controller:
        yield controller
        assert "Traceback" not in controller.log
        assert PLANTED not in controller.log
        assert "controllers-own-secret" not in controller.log


@pytest.fixture
def team(world: ControllerProcess, cluster: Cluster, namespace: str, tmp_path: Path) -> Team:
    """A team that has let the controller start Jobs, as the documentation says."""
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bubu-storage-prober"}
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "bubu-storage-prober", "namespace": namespace},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        }
    )
    return Team(cluster, namespace, tmp_path)


def s3(bucket: str, endpoint: str, name: str = "runner") -> dict[str, Any]:
    """Make the spec of a bucket reached under an account."""
    authentication = {"serviceAccount": {"name": name}}
    return {
        "s3": {
            "bucket": bucket,
            "region": "us-east-1",
            "endpoint": endpoint,
            "authentication": authentication,
        }
    }


def test_a_store_is_probed_under_the_tenants_account(
    team: Team, s3_server: VersityGateway, bucket: str
) -> None:
    """Ready with capabilities; the pod had the account's identity alone, no token; Job and pod are gone."""
    team.account(s3_server.access_key, s3_server.secret_key)
    began = time.monotonic()
    with team.kubelet() as node:
        team.store(s3(bucket, s3_server.endpoint))
        found = team.settled("ProbeSucceeded")
        until(lambda: not team.jobs() and not team.pods(), "Job and pod deleted")
    seconds = time.monotonic() - began

    assert condition(found)["status"] == "True"
    assert "under service account runner" in condition(found)["message"]
    assert set(found["status"]["capabilities"]) >= {"Read", "Write", "List", "Delete", "BulkDelete"}
    assert found["status"]["probeLatencyMilliseconds"] > 0
    assert found["status"]["lastProbeTime"]
    assert 1 <= len(node.environments) <= 1 + seconds / PAUSE_SECONDS
    for environment in node.environments.values():
        assert "AWS_ACCESS_KEY_ID" not in environment
        assert environment["BUBU_STORAGE_S3_BUCKET"] == bucket
    assert s3_server.secret_key not in "".join(log.read_text() for log in node.logs.values())
    assert node.errors == []


def test_a_projected_token_is_exchanged_for_the_role(
    team: Team, s3_server: VersityGateway, bucket: str
) -> None:
    """As on a cloud: the token service refuses the account until it is bound; the token stays in the pod."""
    token = team.folder / "token"
    token.write_text(PLANTED)
    role = "arn:aws:iam::111122223333:role/flows"
    with TokenService() as service:

        def cloud(_account: dict[str, Any]) -> dict[str, str]:
            return {
                "AWS_ROLE_ARN": role,
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                "AWS_ENDPOINT_URL_STS": service.endpoint,
            }

        team.account()
        with team.kubelet(cloud=cloud) as node:
            team.store(s3(bucket, s3_server.endpoint))
            refused = team.settled("Unauthenticated")
            service.grants[role, PLANTED] = (s3_server.access_key, s3_server.secret_key)
            found = team.settled("ProbeSucceeded")

    assert service.asked.count(role) >= 2
    assert f"exchanged for role {role} (AccessDenied)" in condition(refused)["message"]
    assert condition(found)["status"] == "True"
    logs = "".join(log.read_text() for log in node.logs.values())
    assert PLANTED not in logs + json.dumps([refused, found])


def test_passes_are_still_refused_with_a_reason(team: Team, s3_server: VersityGateway, bucket: str) -> None:
    """The store works for pods, and the controller has no identity for a pass: the policy says so."""
    team.account(s3_server.access_key, s3_server.secret_key)
    rule = {"prefix": "outputs/", "keep": {"within": "30d"}}
    policy = {
        "apiVersion": API,
        "kind": "RetentionPolicy",
        "metadata": {"name": "clean", "namespace": team.namespace},
        "spec": {"storageRef": {"kind": "StorageConfig", "name": "main"}, "rules": [rule]},
    }

    def refused() -> bool:
        ready = condition(team.cluster.get("retentionpolicy", "clean", "-n", team.namespace))
        return ready.get("reason") == "StorageNotReady" and "no retention pass can run" in ready["message"]

    with team.kubelet():
        team.store(s3(bucket, s3_server.endpoint))
        team.settled("ProbeSucceeded")
        team.cluster.apply(policy)
        until(refused, "the policy says why")


def test_an_account_of_the_wrong_identity(team: Team, s3_server: VersityGateway, bucket: str) -> None:
    """Refused by the store; its secret is in no status and no log; bound rightly, it gets well by itself."""
    team.account(s3_server.access_key, PLANTED)
    with team.kubelet() as node:
        team.store(s3(bucket, s3_server.endpoint))
        found = team.settled("Unauthenticated")

        assert condition(found)["status"] == "False"
        assert condition(found, "Reconciled")["status"] == "True"
        assert PLANTED not in json.dumps(found)
        assert PLANTED not in "".join(log.read_text() for log in node.logs.values())

        team.account(s3_server.access_key, s3_server.secret_key)
        team.settled("ProbeSucceeded")


def test_an_account_without_an_identity(team: Team, s3_server: VersityGateway, bucket: str) -> None:
    """Said as such: the store is not asked anonymously."""
    team.account()
    with team.kubelet():
        team.store(s3(bucket, s3_server.endpoint))
        found = team.settled("Unauthenticated")

    assert "the pod got no identity" in condition(found)["message"]


def test_a_bucket_that_is_missing_and_a_spec_that_changes(
    team: Team, s3_server: VersityGateway, bucket: str
) -> None:
    """A corrected spec is probed at once, whatever pause the failure had earned."""
    team.account(s3_server.access_key, s3_server.secret_key)
    with team.kubelet():
        team.store(s3("no-such-bucket-here", s3_server.endpoint))
        found = team.settled("BucketNotFound")
        assert "no-such-bucket-here" in condition(found)["message"]

        team.store(s3(bucket, s3_server.endpoint))
        found = team.settled("ProbeSucceeded")

    assert found["status"]["observedGeneration"] == 2


def test_a_hanging_endpoint_and_a_spec_that_changes_meanwhile(
    team: Team, s3_server: VersityGateway, bucket: str
) -> None:
    """The Job of the old spec and its process go; the new spec has its answer."""
    team.account(s3_server.access_key, s3_server.secret_key)
    with socket.create_server(("127.0.0.1", 0)) as silent, team.kubelet() as node:
        team.store(s3(bucket, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        (pid,) = until(lambda: node.pids, "the probe runs")
        (old,) = team.jobs()
        team.settled("ProbeJobRunning")

        team.store(s3(bucket, s3_server.endpoint))
        team.settled("ProbeSucceeded")
        until(lambda: not alive(pid), "the old probe's end")

        assert old["metadata"]["uid"] not in {job["metadata"]["uid"] for job in team.jobs()}


def test_a_hanging_endpoint(team: Team) -> None:
    """Its own deadline ends the probe with the reason Timeout."""
    team.account("AKIAPLANTED000000000", PLANTED)
    with socket.create_server(("127.0.0.1", 0)) as silent, team.kubelet():
        team.store(s3("flows", f"http://127.0.0.1:{silent.getsockname()[1]}"))
        found = team.settled("Timeout")

    assert PLANTED not in json.dumps(found)


def test_a_metadata_service_is_no_store(team: Team) -> None:
    """The pod refuses what the controller refuses."""
    team.account("AKIAPLANTED000000000", PLANTED)
    with team.kubelet():
        team.store(s3("flows", "http://169.254.169.254"))
        team.settled("EndpointNotAllowed")


def test_a_job_that_no_node_takes(team: Team) -> None:
    """The scheduler's own words are the message; the config goes at once, and its Job with it."""
    team.account()
    team.store(s3("flows", "http://127.0.0.1:9"))

    found = team.settled("ProbeJobStuck")

    assert condition(found)["status"] == "Unknown"
    assert "Unschedulable" in condition(found)["message"]
    assert condition(found, "Reconciled")["status"] == "False"
    assert len(team.jobs()) == 1
    assert "finalizers" not in found["metadata"]
    team.cluster.kubectl("delete", "storageconfig", "main", "-n", team.namespace, "--timeout=50s")
    until(lambda: not team.jobs() and not team.pods(), "Job and pod gone", 30)


def test_an_image_that_cannot_be_pulled(team: Team) -> None:
    """The kubelet's reason is the message."""
    team.account()
    with team.kubelet(missing_images={IMAGE}):
        team.store(s3("flows", "http://127.0.0.1:9"))
        found = team.settled("ProbeJobStuck")

        until(
            lambda: "ErrImagePull" in condition(team.found())["message"],
            "the kubelet's reason",
        )
    assert condition(found)["status"] == "Unknown"


def test_an_account_that_does_not_exist(team: Team) -> None:
    """Named in the condition: no pod of the team could run either."""
    team.store(s3("flows", "http://127.0.0.1:9", "nobody"))

    found = team.settled("ServiceAccountNotFound")

    assert condition(found)["status"] == "False"
    assert '"nobody" not found' in condition(found)["message"]


def test_without_the_right_the_message_is_the_command(
    world: ControllerProcess, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """Run as it stands, it lets the Job be created."""
    team = Team(cluster, namespace, tmp_path)
    team.store(s3("flows", "http://127.0.0.1:9", "default"))
    found = team.settled("NoCredentials")
    assert condition(found)["status"] == "Unknown"
    _, _, command = condition(found)["message"].partition("kubectl ")

    cluster.kubectl(*command.split())

    until(team.jobs, "the Job")


def test_a_quota_that_allows_no_job(team: Team) -> None:
    """The API server's refusal is the message."""
    team.account()
    metadata = {"name": "none", "namespace": team.namespace}
    spec = {"hard": {"count/jobs.batch": "0"}}
    team.cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec})
    until(
        lambda: "hard" in team.cluster.get("resourcequota", "none", "-n", team.namespace)["status"],
        "the quota is in force",
    )
    team.store(s3("flows", "http://127.0.0.1:9"))

    found = team.settled("ProbeJobRefused")

    assert condition(found)["status"] == "Unknown"
    assert "exceeded quota" in condition(found)["message"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", "ProbeResultUnreadable"),
        ("nonsense", "ProbeResultUnreadable"),
        ("[" * 4000, "ProbeResultUnreadable"),
        ('{"version":2,"reason":"ProbeSucceeded"}', "ProbeResultUnreadable"),
        ('{"version":1,"reason":"RetentionPolicyOfSomebodyElse"}', "ProbeResultUnreadable"),
        (
            json.dumps({"version": 1, "reason": "ProbeSucceeded", "message": "x" * 5000}),
            "ProbeResultUnreadable",
        ),
        (
            json.dumps(
                {"version": 1, "reason": "StoreError", "message": f"\x1b[2J\nAWS_SECRET_ACCESS_KEY={PLANTED}"}
            ),
            "StoreError",
        ),
    ],
    ids=["empty", "text", "nested", "version", "reason", "oversized", "secret"],
)
def test_a_result_that_the_tenant_has_forged(team: Team, message: str, reason: str) -> None:
    """It becomes fixed words and bounded, scrubbed text, whatever it says."""
    team.account()

    def forged(_pod: dict[str, Any]) -> Ended:
        return Ended(1, message)

    with team.kubelet(play=forged):
        team.store(s3("flows", "http://127.0.0.1:9"))
        found = team.settled(reason)

    text = json.dumps(found["status"])
    assert PLANTED not in text
    assert "\\u001b" not in text
    assert "SomebodyElse" not in text
    assert len(condition(found)["message"]) <= 1000


def test_a_killed_controllers_job_is_adopted(
    world: ControllerProcess, team: Team, s3_server: VersityGateway, bucket: str
) -> None:
    """SIGKILL while the Job runs: the next controller takes its result and starts no second one."""
    created: set[str] = set()

    def look() -> list[str]:
        found = [job["metadata"]["uid"] for job in team.jobs()]
        created.update(found)
        return found

    team.account(s3_server.access_key, s3_server.secret_key)
    team.store(s3(bucket, s3_server.endpoint))
    until(look, "the Job")
    world.kill()
    with team.kubelet() as node:
        try:
            until(lambda: look() and not node.pids and node.environments, "the probe has run, nobody listens")
        finally:
            # Other tests need it, too.
            world.start()
        team.settled("ProbeSucceeded")
        until(lambda: not look(), "the Job is deleted")

        assert len(created) == 1
        assert len(node.environments) == 1


def test_a_shared_claim_is_probed_by_a_pod_that_mounts_it(team: Team) -> None:
    """Missing, not bound, bound and shared: each has its answer, and the last is probed for real."""
    team.store({"file": {"volumeClaimName": "flows"}})
    assert condition(team.settled("ClaimNotFound"))["status"] == "False"

    name = f"pv-{team.namespace}"
    team.cluster.apply(claim_of(team.namespace, name))
    assert condition(team.settled("NotProbed"))["status"] == "Unknown"

    folder = team.folder / "claim"
    try:
        with team.kubelet(claims={"flows": folder}):
            team.cluster.apply(volume_of(name))
            found = team.settled("ProbeSucceeded")
    finally:
        team.cluster.kubectl("delete", "pv", name, "--wait=false", "--ignore-not-found")
    assert "mounts claim flows" in condition(found)["message"]
    assert list(folder.rglob("probe/*")) == []


@pytest.mark.parametrize(
    ("verb", "resource", "here"),
    [
        ("create", "jobs.batch", True),
        ("list", "jobs.batch", True),
        ("delete", "jobs.batch", True),
        ("patch", "jobs.batch", False),
        ("create", "pods", False),
        ("get", "secrets", False),
        ("list", "events.events.k8s.io", True),
        ("get", "persistentvolumeclaims", True),
        ("get", "serviceaccounts", False),
    ],
)
def test_rights_are_granted_by_namespace(
    world: ControllerProcess, team: Team, verb: str, resource: str, here: bool
) -> None:
    """Nothing of this is a right in the whole cluster, and only what is needed is one in a namespace."""

    def may(verb: str, resource: str, place: str) -> bool:
        done = team.cluster.kubectl(
            "auth", "can-i", verb, resource, place, kubeconfig=world.kubeconfig, check=False
        )
        return done.stdout.strip() == "yes"

    # The API server learns of bindings by a watch.
    until(lambda: may("create", "jobs.batch", f"--namespace={team.namespace}"), "the binding to count")
    for place, expected in (("--all-namespaces", False), (f"--namespace={team.namespace}", here)):
        assert may(verb, resource, place) == expected
