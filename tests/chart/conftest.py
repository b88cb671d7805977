"""Helm is there before the first test of the chart, built with visible progress outside any time limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chart.programs import ensure_helm, ensure_helm3, ensure_helm_unittest, ensure_kubeconform
from tests.cluster.fixtures import prepare_before_tests

HERE = Path(__file__).parent
WITHOUT_HELM = "test_drift.py"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that renders the chart, so that ``-m "not chart"`` deselects it."""
    for item in items:
        if item.path.parent == HERE and item.path.name != WITHOUT_HELM:
            item.add_marker(pytest.mark.chart)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build Helm and its companions if a selected test needs them."""
    if any(item.get_closest_marker("chart") for item in session.items):
        more = (ensure_helm3,) if os.environ.get("BUBU_LONG_TESTS") == "1" else ()

        def prepare() -> None:
            for ensure in (ensure_helm, ensure_kubeconform, ensure_helm_unittest, *more):
                ensure()

        prepare_before_tests(session, prepare)
