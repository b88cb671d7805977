"""Conditional requests and copies in memory, as the acceptance suite has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.testing.acceptance_conditions import ConditionAcceptance
from bubu_storage.testing.acceptance_copy import CopyAcceptance

if TYPE_CHECKING:
    from bubu_storage.backend.types import ObjectBackend


class TestMemory(ConditionAcceptance, CopyAcceptance):
    """In memory."""

    @pytest.fixture
    def backend(self) -> ObjectBackend:
        """An empty one."""
        return MemoryBackend()
