"""Prometheus' programs are there before the first test, built visibly and outside any time limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chart.programs import ensure_helm
from tests.cluster.fixtures import prepare_before_tests
from tests.monitoring.programs import ensure_prometheus, ensure_promtool

HERE = Path(__file__).parent
NEEDS_PROMETHEUS = "test_processes.py"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that runs a program of Prometheus', so that ``-m "not prometheus"`` deselects it."""
    for item in items:
        if "promtool" in getattr(item, "fixturenames", ()) or item.path == HERE / NEEDS_PROMETHEUS:
            item.add_marker(pytest.mark.prometheus)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what a selected test needs."""
    ours = [item for item in session.items if item.get_closest_marker("prometheus")]
    if ours:
        prepare_before_tests(session, ensure_promtool)
    if any(item.path == HERE / NEEDS_PROMETHEUS for item in ours):
        prepare_before_tests(session, ensure_prometheus)
    if any(HERE in item.path.parents and item.get_closest_marker("chart") for item in session.items):
        prepare_before_tests(session, ensure_helm)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The executable."""
    return ensure_promtool()
