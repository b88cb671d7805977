"""What administrators do to a running release: rotate its authority, upgrade it, uninstall it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import wait_until
from tests.cluster.webhook_harness import pod_of
from tests.e2e.real_pods.release import NAMESPACE, Release
from tests.e2e.real_pods.streams import STRICT, UNRESTRICTED, stream_of, wait_injected
from tests.e2e.real_pods.tenants import Tenant
from tests.image.built_image import ensure_image
from tests.image.container import ImageFiles
from tests.node.node_cluster import NodeCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

MakeTenant = Callable[..., Tenant]
SECRET = "bubu-storage-webhook-ca"
PREVIOUS = "0.0.9"
ENGRAM = {"bubustack.io/engram": "try"}
KINDS = ("storageconfigs", "clusterstorageconfigs", "retentionpolicies", "clusterretentionpolicies")


@pytest.fixture
def this_version_afterwards(release: Release) -> Iterator[None]:
    """Put the release back to this version, however the test ends."""
    yield
    release.upgrade()


def test_rotating_the_authority_under_load_costs_no_pod(release: Release, tenant_on: MakeTenant) -> None:
    """A new authority is announced, signs, and replaces the one before, while pods are created."""
    tenant = tenant_on("s3", **UNRESTRICTED, **STRICT)
    wait_injected(tenant)
    before = release.ca_bundle()
    with stream_of(tenant) as stream:
        stream.run_until(1)
        release.cluster.kubectl(
            *("annotate", "secret", SECRET, "-n", NAMESPACE, "--overwrite"),
            f"storage.bubustack.io/rotate-authority={time.time_ns()}",
        )
        wait_until(lambda: bool(release.ca_bundle() - before), 30, "a new authority in caBundle")
        # Announced for 3 s, then it signs; the old one goes when the last leaf of it is over.
        wait_until(lambda: not before & release.ca_bundle(), 90, "the authority before to be gone")
        stream.run_until(stream.elapsed_seconds + 2)
        report = stream.finish()

    print(f"\nrotation: {report}")
    assert [] == report.failed
    assert 0 == report.uninjected


@pytest.mark.usefixtures("this_version_afterwards")
def test_upgrading_under_load_costs_no_pod(
    node: NodeCluster, release: Release, tenant_on: MakeTenant, tmp_path: Path
) -> None:
    """``helm upgrade`` replaces every pod while others are created, and none of those misses its storage.

    There is no earlier release yet: the version before is this tree under a lower chart version, and an
    image that differs in its labels only. So this shows the roll-out, not that two versions get along.
    """
    old = Release(node.cluster, release.repository, PREVIOUS)
    labels = {"org.opencontainers.image.version": PREVIOUS}
    image = ImageFiles(ensure_image(print).archive)
    node.load_image(image.relabelled(tmp_path / "old.tar", f"{old.repository}:{old.tag}", labels))
    old.upgrade(chart=release.chart_of_version(PREVIOUS, tmp_path))
    tenant = tenant_on("s3", **UNRESTRICTED, **STRICT)
    wait_injected(tenant)
    before = {*release.pods("webhook"), *release.pods("controller")}
    with stream_of(tenant) as stream:
        stream.run_until(1)
        seconds = release.upgrade()
        stream.run_until(stream.elapsed_seconds + 2)
        report = stream.finish()

    print(f"\nhelm upgrade {seconds:.1f} s: {report}")
    assert set() == before & {*release.pods("webhook"), *release.pods("controller")}
    assert [] == report.failed
    assert 0 == report.uninjected


def test_uninstalling_leaves_pods_creatable_and_data_in_place(
    release: Release, tenant_on: MakeTenant
) -> None:
    """No webhook is asked any more, even for strict namespaces; configs and data stay, and are adopted."""
    plain, strict = tenant_on("s3", **UNRESTRICTED), tenant_on("claim", **UNRESTRICTED, **STRICT)
    for tenant in (plain, strict):
        tenant.wait_ready()
    written = plain.run_pod("produce", "run-1")
    uid, keys = plain.get("bsc", "main")["metadata"]["uid"], plain.objects()
    try:
        release.uninstall()
        for tenant in (plain, strict):
            pod = json.dumps(pod_of("at-once", tenant.namespace, ENGRAM))
            tenant.cluster.kubectl("create", "-f", "-", input=pod)
        for kind in KINDS:
            release.cluster.kubectl("get", f"crd/{kind}.storage.bubustack.io")
        assert uid == plain.get("bsc", "main")["metadata"]["uid"]
        assert keys == plain.objects()
        left = release.cluster.kubectl("get", "deployments,jobs,secrets", "-n", NAMESPACE, "-o", "name")
        assert set() == {name for name in left.stdout.split() if SECRET not in name}
    finally:
        seconds = release.install()

    print(f"\ninstalled again in {seconds:.1f} s")
    for tenant in (plain, strict):
        wait_injected(tenant)
        tenant.wait_ready()
    assert uid == plain.get("bsc", "main")["metadata"]["uid"]
    read = plain.run_pod("consume", json.dumps(written["travelling"]))
    assert written["document"] == read["document"]
