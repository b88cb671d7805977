"""pytest plugin: one cluster with nodes per session.

Tests that use it are marked ``node``. Where no node can run they are skipped with the reason; with
``BUBU_REQUIRE_NODE=1`` (as CI sets it) what is missing is installed, and what cannot be is a failure.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cluster.errors import PrerequisiteError
from tests.cluster.fixtures import prepare_before_tests
from tests.node.node_cluster import NodeCluster
from tests.node.packages import ensure_packages, why_no_node
from tests.node.programs import ensure_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REQUIRE_VARIABLE", "node_cluster", "node_is_required"]

REQUIRE_VARIABLE = "BUBU_REQUIRE_NODE"


def node_is_required() -> bool:
    """Tell whether a machine that cannot run nodes is a failure."""
    return os.environ.get(REQUIRE_VARIABLE) == "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses the nodes, and skip those that cannot run here."""
    chosen = [item for item in items if "node_cluster" in getattr(item, "fixturenames", ())]
    for item in chosen:
        item.add_marker(pytest.mark.node)
    if node_is_required():
        return
    marked = [item for item in items if item.get_closest_marker("node")]
    reason = why_no_node() if marked else ""
    for item in marked if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Install and build what a selected test needs."""
    marked = [item for item in session.items if item.get_closest_marker("node")]
    if any(not item.get_closest_marker("skip") for item in marked):
        prepare_before_tests(session, _prepare)


def _prepare() -> None:
    if node_is_required():
        ensure_packages(lambda line: print(line, file=sys.stderr, flush=True))
    reason = why_no_node()
    if reason:
        raise PrerequisiteError(f"{REQUIRE_VARIABLE}=1, and {reason}.")
    ensure_programs()


@pytest.fixture(scope="session")
def node_cluster(request: pytest.FixtureRequest) -> Iterator[NodeCluster]:
    """A running cluster with two nodes; its logs are kept if any test failed."""
    failed_before = request.session.testsfailed
    running = NodeCluster.start()
    try:
        yield running
    finally:
        failed = request.session.testsfailed > failed_before
        running.stop(keep_logs=failed)
        if failed:
            print(f"\nlogs of the cluster with nodes are kept in {running.logs}")
