"""One cluster with two nodes, one release of the chart and one S3 server for all tests of this folder.

What has to be built is built before the first test, with its progress visible. Each test leaves the
release installed and whole, with the usual values; so they may run in any order.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart.programs import ensure_helm
from tests.cluster.fixtures import prepare_before_tests
from tests.e2e.real_pods.release import Release
from tests.e2e.real_pods.tenants import Tenant
from tests.image.built_image import REFERENCE, ensure_image
from tests.node.node_cluster import NodeCluster
from tests.node.packages import ensure_packages, why_no_node
from tests.node.programs import ensure_programs
from tests.s3server.gateway import VersityGateway, ensure_versitygw

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Installed:
    """The release, and how long a user waited for it.

    Attributes:
        release: the release.
        began: when ``helm install`` was called, on the monotonic clock.
        seconds: how long it took.
    """

    release: Release
    began: float
    seconds: float


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what is missing, where one of our tests was selected and can run."""

    def prepare() -> None:
        if os.environ.get("BUBU_REQUIRE_NODE"):
            ensure_packages(_report)
        if not why_no_node():
            ensure_programs()
            ensure_helm(_report)
            ensure_versitygw(_report)
            ensure_image(_report)

    if any(item.path.parent == HERE for item in session.items):
        prepare_before_tests(session, prepare)


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> Iterator[NodeCluster]:
    """A cluster with two nodes that have the image."""
    why = why_no_node()
    if why:
        (pytest.fail if os.environ.get("BUBU_REQUIRE_NODE") else pytest.skip)(why)
    failed_before = request.session.testsfailed
    began = time.monotonic()
    running = NodeCluster.start()
    try:
        running.load_image(ensure_image(_report).archive)
        print(f"\ncluster with the image on both nodes: {time.monotonic() - began:.1f} s")
        yield running
    finally:
        running.stop(keep_logs=request.session.testsfailed > failed_before)


@pytest.fixture(scope="session")
def s3(node: NodeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGateway]:
    """An S3 server that pods reach; its objects are files of this machine, which tests can age."""
    with VersityGateway(tmp_path_factory.mktemp("s3"), host=node.host_address) as server:
        yield server


@pytest.fixture(scope="session")
def installed(node: NodeCluster) -> Installed:
    """The chart, installed once."""
    repository, _, tag = REFERENCE.rpartition(":")
    release = Release(node.cluster, repository, tag)
    began = time.monotonic()
    return Installed(release, began, release.install())


@pytest.fixture
def release(installed: Installed) -> Release:
    """The release, installed with the usual values."""
    return installed.release


@pytest.fixture
def tenant_on(node: NodeCluster, s3: VersityGateway, installed: Installed) -> Iterator[Callable[..., Tenant]]:
    """Make namespaces with a store of a kind (``s3`` or ``claim``) and labels; they go after the test."""
    made: list[Tenant] = []

    def make(store: str, **labels: str) -> Tenant:
        tenant = (
            Tenant.on_s3(node, s3, REFERENCE, **labels)
            if store == "s3"
            else Tenant.on_claim(node, REFERENCE, **labels)
        )
        made.append(tenant)
        return tenant

    yield make
    for tenant in made:
        tenant.delete()
