"""Fixtures that tests on a cluster share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import install
from tests.cluster.retention_world import World


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with CRDs and the controller's rights; modules that need more have their own."""
    install(cluster)
    return cluster


@pytest.fixture
def world(installed: Cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    """A namespace with a store; its controllers are stopped afterwards and must not have stumbled."""
    with World.running(installed, namespace, tmp_path) as made:
        yield made
