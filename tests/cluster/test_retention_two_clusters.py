"""Two clusters on one bucket of a real S3 server: one deletes at a time, and each knows of the other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import (
    ACCOUNT,
    NAMESPACE,
    ControllerProcess,
    condition,
    install,
    until,
)
from tests.cluster.providers import start_cluster
from tests.cluster.retention_world import API
from tests.s3server.gateway import VersityGateway

pytestmark = pytest.mark.cluster

CLAIM = ".bubu/retention/claim.json"
REGISTRATIONS = ".bubu/retention/clusters/"
TEAM = "team"


@pytest.fixture(scope="module")
def other_cluster() -> Iterator[Cluster]:
    """A second control plane."""
    running = start_cluster()
    try:
        yield running
    finally:
        running.stop(keep_logs=False)


class Side:
    """One cluster's part: a namespace, a config with credentials, a policy, a controller."""

    def __init__(self, cluster: Cluster, workdir: Path, namespace: str) -> None:
        install(cluster)
        self.cluster = cluster
        self.namespace = cluster.create_namespace(namespace)
        self.uid = str(cluster.get("namespace", "kube-system")["metadata"]["uid"])
        workdir.mkdir()
        self.controller = ControllerProcess(cluster, workdir, namespaces=[namespace])

    def config(self, gateway: VersityGateway, bucket: str) -> None:
        """Apply the Secret, the right to read it, and the StorageConfig."""
        settings = gateway.settings(bucket)
        keys = {
            "AWS_ACCESS_KEY_ID": settings.access_key_id,
            "AWS_SECRET_ACCESS_KEY": settings.secret_access_key,
        }
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
        metadata = {"name": "keys", "namespace": self.namespace}
        binding: dict[str, Any] = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader", "namespace": self.namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "bubu-storage-secret-reader",
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        }
        config: dict[str, Any] = {
            "apiVersion": API,
            "kind": "StorageConfig",
            "metadata": {"name": "main", "namespace": self.namespace},
            "spec": {
                "s3": {
                    "bucket": bucket,
                    "region": settings.region,
                    "endpoint": settings.endpoint,
                    "authentication": {"secretRef": {"name": "keys"}},
                }
            },
        }
        secret: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}
        self.cluster.apply(secret, binding, config)

    def policy(self, **spec: Any) -> None:
        """Apply the policy."""
        defaults: dict[str, Any] = {
            "mode": "Enforce",
            "interval": "1s",
            "safety": {"maxDuePercent": 100, "minAge": "5m"},
            "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
        }
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": "RetentionPolicy",
                "metadata": {"name": "tidy", "namespace": self.namespace},
                "spec": defaults | spec,
            }
        )

    def read(self) -> dict[str, Any]:
        """Return the policy."""
        return self.cluster.get("retentionpolicy", "tidy", "-n", self.namespace)

    def status(self) -> dict[str, Any]:
        """Return its status."""
        return self.read().get("status") or {}

    def reconciled(self) -> dict[str, Any]:
        """Return its condition Reconciled."""
        return condition(self.read(), "Reconciled")


def keys(gateway: VersityGateway, bucket: str, prefix: str) -> set[str]:
    """List keys."""
    listed = gateway.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
    return {item["Key"] for item in listed.get("Contents", [])}


@pytest.fixture
def sides(
    cluster: Cluster, other_cluster: Cluster, namespace: str, tmp_path: Path
) -> Iterator[tuple[Side, Side]]:
    """The two; their controllers are stopped afterwards and must not have stumbled."""
    first = Side(cluster, tmp_path / "one", f"{namespace}-x")
    second = Side(other_cluster, tmp_path / "two", TEAM)
    try:
        yield first, second
    finally:
        for side in (first, second):
            side.controller.stop()
    for side in (first, second):
        assert "Traceback" not in side.controller.log


def test_one_at_a_time_and_both_know_of_each_other(
    sides: tuple[Side, Side], s3_server: VersityGateway, bucket: str
) -> None:
    """While one holds the claim the other says who does, and deletes nothing; later it goes on by itself.

    The claim that the first meets is written here in the name of the second and held for a while: those
    of real passes alternate too fast to be caught at it.
    """
    first, second = sides
    assert first.uid != second.uid
    client = s3_server.client()
    for side in sides:
        for number in range(3):
            client.put_object(Bucket=bucket, Key=f"outputs/{side.namespace}/run-{number}/data", Body=b"x")
        side.config(s3_server, bucket)
        side.policy()
        side.controller.start()

    for side in sides:
        until(lambda side=side: side.status().get("cycle"), f"cycles of {side.namespace}", 60)

    assert keys(s3_server, bucket, REGISTRATIONS) == {f"{REGISTRATIONS}{side.uid}.json" for side in sides}
    for side, other in ((first, second), (second, first)):
        until(
            lambda side=side, other=other: (
                [one["cluster"] for one in side.status().get("sharedWith", [])] == [other.uid]
            ),
            "the other cluster in the status",
        )
    check_turns(s3_server, bucket, first, second)
    for side in sides:
        check_no_secret(side, s3_server.settings(bucket).secret_access_key)


def check_turns(gateway: VersityGateway, bucket: str, first: Side, second: Side) -> None:
    """Hold the claim in the second cluster's name: the first one waits; without it, it goes on."""
    second.controller.stop()
    client = gateway.client()
    until(lambda: CLAIM not in keys(gateway, bucket, CLAIM), "a moment without a claim", 30)
    end = "2126-01-01T00:00:00+00:00"
    claim = {
        "version": 1,
        "holder": f"{second.uid}/{second.namespace}/tidy/2026-01-01T00:00:00Z",
        "cluster": second.uid,
        "token": "0" * 32,
        "acquiredAt": end,
        "renewedAt": end,
        "expiresAt": end,
        "ttlSeconds": 60.0,
        "sequence": 1,
    }

    def held() -> bool:
        client.put_object(Bucket=bucket, Key=CLAIM, Body=json.dumps(claim).encode())
        return first.reconciled().get("reason") == "StoreClaimed"

    until(held, "the reason", 30)
    message = first.reconciled()["message"]
    assert second.uid in message
    assert "2126-01-01" in message
    passes = first.status()["totals"]["passes"]
    until(lambda: first.status()["totals"]["passes"] >= passes + 2, "further tries, no loop", 20)
    assert len(keys(gateway, bucket, f"outputs/{first.namespace}/")) == 3

    client.delete_object(Bucket=bucket, Key=CLAIM)
    until(lambda: first.reconciled().get("reason") == "PassSucceeded", "the next pass", 30)


def check_no_secret(side: Side, secret_key: str) -> None:
    """The credentials are in no status, event, log or metric."""
    metrics = side.controller.health("/metrics")[1] if side.controller.running else ""
    events = side.cluster.kubectl("get", "events.events.k8s.io", "-n", side.namespace, "-o", "json").stdout
    for text in (json.dumps(side.read()), events, side.controller.log, metrics):
        assert secret_key not in text
