"""Fixtures of the retention tests."""

from __future__ import annotations

import pytest

from tests.unit.retention.world import World


@pytest.fixture
def world() -> World:
    """An empty store in fake time that deletes in batches."""
    return World()


@pytest.fixture
def single_world() -> World:
    """An empty store in fake time that deletes one by one."""
    return World(batch=False)
