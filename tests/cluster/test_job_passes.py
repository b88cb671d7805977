"""Retention passes by agents in Jobs: real controller, Job controller, API server and S3 server.

The pods' commands run as processes of this machine (`MiniKubelet`), with the tokens that the API server
makes for them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    only_child,
    until,
    within,
)
from tests.cluster.kubelet import MiniKubelet
from tests.cluster.token_service import TokenService
from tests.s3server.gateway import VersityGateway

pytestmark = pytest.mark.cluster

API = "storage.bubustack.io/v1alpha1"
IMAGE = "registry.test/bubu-storage:1"
PLANTED = "PLANTEDsecretVALUE0123456789"
ROLE = "arn:aws:iam::111122223333:role/flows"
DAY = 86400.0
SLOW = {"maxScan": 20000, "maxDelete": 10000, "requestsPerSecond": 1}
ARGUMENTS = (
    *("--job-image", IMAGE, "--job-pass-address", "127.0.0.1:0", "--job-pass-advertise", "127.0.0.1"),
)


@dataclass
class Team:
    """A namespace whose store only its own pods reach, and controllers that watch it alone."""

    cluster: Cluster
    namespace: str
    folder: Path
    controllers: list[ControllerProcess] = field(default_factory=list[ControllerProcess])

    def controller(self) -> ControllerProcess:
        """Make a controller (not started), with an identity of its own that nobody must get."""
        leaky = {"AWS_ACCESS_KEY_ID": "AKIACONTROLLERSOWN00", "AWS_SECRET_ACCESS_KEY": "controllers-own"}
        made = ControllerProcess(
            self.cluster, self.folder, namespaces=[self.namespace], arguments=ARGUMENTS, environment=leaky
        )
        self.controllers.append(made)
        return made

    def account(self) -> None:
        """Create ServiceAccount ``runner``."""
        metadata = {"name": "runner", "namespace": self.namespace}
        self.cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})

    def kubelet(self, **options: Any) -> MiniKubelet:
        """Make a kubelet."""
        return MiniKubelet(self.cluster, self.namespace, self.folder / "kubelet", **options)

    def store(self, spec: dict[str, Any]) -> None:
        """Apply StorageConfig ``main``."""
        metadata = {"name": "main", "namespace": self.namespace}
        self.cluster.apply({"apiVersion": API, "kind": "StorageConfig", "metadata": metadata, "spec": spec})

    def policy(self, **spec: Any) -> None:
        """Apply RetentionPolicy ``tidy``."""
        defaults = {
            "mode": "Enforce",
            "interval": "1s",
            "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
            "limits": {"maxScan": 20000, "maxDelete": 10000},
            "safety": {"maxDuePercent": 100},
        }
        metadata = {"name": "tidy", "namespace": self.namespace}
        body = {"apiVersion": API, "kind": "RetentionPolicy", "metadata": metadata, "spec": defaults | spec}
        self.cluster.apply(body)

    def found(self) -> dict[str, Any]:
        """Return the policy."""
        return self.cluster.get("retentionpolicy", "tidy", "-n", self.namespace)

    def config(self) -> dict[str, Any]:
        """Return the config."""
        return self.cluster.get("storageconfig", "main", "-n", self.namespace)

    def ready(self) -> None:
        """Wait until the store has been probed, by a Job, too."""
        until(lambda: condition(self.config()).get("status") == "True", "the store is ready", 60)

    def wait(self, check: Callable[[dict[str, Any]], Any], what: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until the policy's status is as wanted; return it."""
        last: dict[str, Any] = {}

        def there() -> bool:
            nonlocal last
            last = self.found().get("status") or {}
            return bool(check(last))

        try:
            until(there, what, seconds)
        except AssertionError:
            raise AssertionError(f"not within {seconds:g} s: {what}; status: {last}") from None
        return last

    def reason(self, reason: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until the policy's Ready has a reason; return that condition."""
        status = self.wait(lambda s: condition({"status": s}).get("reason") == reason, reason, seconds)
        return condition({"status": status})

    def jobs(self) -> list[dict[str, Any]]:
        """Return the Jobs of agents."""
        items = self.cluster.get("jobs", "-n", self.namespace, "-l", "storage.bubustack.io/pass-of")["items"]
        return [item for item in items if "deletionTimestamp" not in item["metadata"]]

    def only_agent(self, node: MiniKubelet) -> tuple[str, int]:
        """Return the uid and the process of the pass's Job, once the rehearsal before it is gone."""
        found: list[tuple[str, int]] = []

        def alone() -> bool:
            jobs = [job["metadata"] for job in self.jobs()]
            found[:] = [(job["uid"], pid) for job in jobs for pid in node.pids_of(job["name"])]
            return len(jobs) == len(found) == len(node.pids) == 1

        until(alone, "one Job with one agent", 10)
        return found[0]

    def everything(self) -> str:
        """Return all that the API server can show of this namespace, as text."""
        kinds = "jobs,pods,events.events.k8s.io,storageconfigs,retentionpolicies"
        return json.dumps(self.cluster.get(kinds, "-n", self.namespace)["items"])


@dataclass(frozen=True)
class Files:
    """Objects of a store that are files below a folder."""

    root: Path
    namespace: str

    def fill(self, old: int, young: int, objects: int = 2) -> set[str]:
        """Write runs of 40 and of 2 days; return the keys of all that must stay, neighbours' included."""
        keep: set[str] = set()
        for number in range(old + young):
            is_old = number < old
            for index in range(objects):
                key = f"outputs/{self.namespace}/run-{number * 7919 % (old + young):05d}/o{index}"
                self.write(key, 40 if is_old else 2)
                if not is_old:
                    keep.add(key)
        for key in (
            f"outputs/{self.namespace}-other/run-1/o0",
            f"outputs/someone/{self.namespace}/o0",
            f"inputs/{self.namespace}/run-1/o0",
            "unrelated/run-1/o0",
        ):
            self.write(key, 400)
            keep.add(key)
        return keep

    def write(self, key: str, days: float) -> None:
        """Write one object of an age."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
        when = time.time() - days * DAY
        os.utime(path, (when, when))

    def keys(self) -> set[str]:
        """Return the keys of all data."""
        return {
            str(Path(folder, name).relative_to(self.root))
            for folder, _, names in os.walk(self.root)
            for name in names
            if ".bubu" not in Path(folder).parts and not name.startswith(".")
        }


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with CRDs and rights."""
    if cluster.provider != "local":
        pytest.skip("a real kubelet would pull the image; the small one needs the pods for itself")
    install(cluster)
    return cluster


@pytest.fixture
def team(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[Team]:
    """A team that has let the controller start Jobs; its controllers must not have stumbled."""
    cluster = installed
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
    made = Team(cluster, namespace, tmp_path)
    try:
        yield made
    finally:
        for controller in made.controllers:
            controller.stop()
    for controller in made.controllers:
        assert "Traceback" not in controller.log
        assert "controllers-own" not in controller.log


@pytest.fixture
def claim(team: Team) -> Iterator[Files]:
    """A bound claim that many nodes may mount; yields its folder."""
    name = f"pv-{team.namespace}"
    team.cluster.apply(claim_of(team.namespace, name))
    team.cluster.apply(volume_of(name))
    try:
        yield Files(team.folder / "claim", team.namespace)
    finally:
        team.cluster.kubectl("delete", "pv", name, "--wait=false", "--ignore-not-found")


def s3(bucket: str, endpoint: str) -> dict[str, Any]:
    """Make the spec of a bucket reached under account ``runner``."""
    authentication = {"serviceAccount": {"name": "runner"}}
    store = {"bucket": bucket, "region": "us-east-1", "endpoint": endpoint, "authentication": authentication}
    return {"s3": store}


def deleting(status: dict[str, Any]) -> bool:
    """Tell whether a pass is under way that has deleted something."""
    last: dict[str, Any] = status.get("lastPass") or {}
    return status.get("totals", {}).get("deletedObjects", 0) > 0 and "finishTime" not in last


CLAIM = {"file": {"volumeClaimName": "flows"}}


def test_a_bucket_under_an_account_is_cleaned(team: Team, s3_server: VersityGateway, bucket: str) -> None:
    """A whole Enforce pass by a Job deletes what is due and nothing else; no secret is anywhere."""
    files = Files(s3_server.root / bucket, team.namespace)
    keep = files.fill(old=120, young=30)
    token = team.folder / "token"
    token.write_text(PLANTED)
    with TokenService() as service:
        service.grants[ROLE, PLANTED] = (s3_server.access_key, s3_server.secret_key)

        def cloud(_account: dict[str, Any]) -> dict[str, str]:
            return {
                "AWS_ROLE_ARN": ROLE,
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                "AWS_ENDPOINT_URL_STS": service.endpoint,
            }

        team.account()
        controller = team.controller()
        controller.start()
        seen = ""
        with team.kubelet(cloud=cloud) as node:
            team.store(s3(bucket, s3_server.endpoint))
            team.ready()
            team.policy()
            until(team.jobs, "the Job of the agent")
            seen += team.everything()
            status = team.wait(
                lambda s: s.get("totals", {}).get("deletedObjects", 0) >= 240, "everything due is deleted"
            )
            seen += team.everything()
            agents = [name for name in node.environments if "bubu-pass" in name]
            logs = "".join(log.read_text() for log in node.logs.values())

    assert files.keys() == keep
    assert status["totals"]["deletedObjects"] == 240
    assert agents
    assert node.errors == []
    seen += logs + controller.log
    for secret in (PLANTED, s3_server.secret_key, *node.tokens):
        assert secret not in seen
    assert len(node.tokens) == len(agents), "each agent had one token, the probes none"


def test_a_claim_is_cleaned(team: Team, claim: Files) -> None:
    """The pod mounts it; what is due goes, the rest and the neighbours stay, and so do no Jobs."""
    keep = claim.fill(old=60, young=20)
    team.controller().start()
    with team.kubelet(claims={"flows": claim.root}):
        team.store(CLAIM)
        team.ready()
        team.policy(interval="1h")
        status = team.wait(lambda s: s.get("totals", {}).get("deletedObjects", 0) >= 120, "deletions")
        until(lambda: not team.jobs(), "the Job is deleted")

    assert claim.keys() == keep
    assert status["totals"]["deletedObjects"] == 120


def test_an_agent_is_killed_in_the_middle(team: Team, claim: Files) -> None:
    """The pass ends with the reason, nothing kept is lost, and the next pass goes on by another Job."""
    keep = claim.fill(old=800, young=20, objects=10)
    team.controller().start()
    with team.kubelet(claims={"flows": claim.root}) as node:
        team.store(CLAIM)
        team.ready()
        team.policy(limits=SLOW)
        team.wait(deleting, "deletions")
        _, pid = team.only_agent(node)
        os.kill(pid, signal.SIGKILL)

        status = team.wait(lambda s: "channel to the agent" in json.dumps(s), "the pass says why")
        assert keep <= claim.keys()
        assert status["totals"]["deletedObjects"] < 8000
        team.policy()
        until(lambda: claim.keys() == keep, "the rest is deleted", 90)
        assert len([name for name in node.environments if "bubu-pass" in name]) >= 2


def test_the_controller_is_killed_in_the_middle(team: Team, claim: Files) -> None:
    """Process and agent die with it; nothing kept is lost; the next one deletes its Job and goes on."""
    keep = claim.fill(old=800, young=20, objects=10)
    first = team.controller()
    first.start()
    with team.kubelet(claims={"flows": claim.root}) as node:
        team.store(CLAIM)
        team.ready()
        team.policy(limits=SLOW)
        team.wait(deleting, "deletions")
        job, agent = team.only_agent(node)
        child = only_child(first.pid)

        first.kill()

        within(lambda: not alive(child) and not alive(agent), "the pass and its agent to end", 5)
        left = claim.keys()
        assert keep < left
        team.policy()
        team.controller().start()
        until(lambda: claim.keys() == keep, "the next controller finishes", 90)
        assert job not in {one["metadata"]["uid"] for one in team.jobs()}


def test_an_account_that_is_gone(team: Team, s3_server: VersityGateway, bucket: str) -> None:
    """No pod can run under it: the policy says so, and goes on once it is there again."""
    files = Files(s3_server.root / bucket, team.namespace)
    keep = files.fill(old=5, young=5)
    credentials = team.folder / "credentials"
    credentials.write_text(
        f"[default]\naws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {s3_server.secret_key}\n"
    )

    def cloud(_account: dict[str, Any]) -> dict[str, str]:
        return {"AWS_SHARED_CREDENTIALS_FILE": str(credentials)}

    team.account()
    team.controller().start()
    with team.kubelet(cloud=cloud):
        team.store(s3(bucket, s3_server.endpoint))
        team.ready()
        team.cluster.kubectl("delete", "serviceaccount", "runner", "-n", team.namespace)
        team.policy()
        found = team.reason("ServiceAccountNotFound")
        assert found["status"] == "False"
        assert '"runner" not found' in found["message"]

        team.account()
        until(lambda: files.keys() == keep, "the pass runs", 90)


def test_a_claim_that_is_not_bound(team: Team, claim: Files) -> None:
    """Nothing is mounted that is not bound (any more): the policy says so, and there is no Job."""
    claim.fill(old=5, young=0)
    team.controller().start()
    with team.kubelet(claims={"flows": claim.root}):
        team.store(CLAIM)
        team.ready()
        before = claim.keys()
        team.cluster.kubectl("delete", "pvc", "flows", "-n", team.namespace)
        team.cluster.apply(claim_of(team.namespace, "no-such-volume"))
        team.policy()
        found = team.reason("PassJobRefused")

        assert "claim flows is Pending" in found["message"]
        assert team.jobs() == []
        assert claim.keys() == before


def test_without_the_right_the_message_is_the_command(team: Team, claim: Files) -> None:
    """Run as it stands, it lets the pass run; this controller is for one namespace, which has the role."""
    keep = claim.fill(old=5, young=5)
    role: dict[str, Any] = team.cluster.get("clusterrole", "bubu-storage-prober")
    metadata = {"name": "bubu-storage-prober", "namespace": team.namespace}
    team.cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": role["rules"],
        }
    )
    team.controller().start()
    with team.kubelet(claims={"flows": claim.root}):
        team.store(CLAIM)
        team.ready()
        team.cluster.kubectl("delete", "rolebinding", "bubu-storage-prober", "-n", team.namespace)
        team.policy()
        found = team.reason("PassJobRefused")
        _, _, command = found["message"].partition("kubectl ")

        team.cluster.kubectl(*command.split())

        team.policy(interval="2s")  # looked at in this moment, and not in a minute
        until(lambda: claim.keys() == keep, "the pass runs", 120)
