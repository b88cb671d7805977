"""Fixtures: Prometheus' programs, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.monitoring.programs import ensure_promtool


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The executable."""
    return ensure_promtool()
