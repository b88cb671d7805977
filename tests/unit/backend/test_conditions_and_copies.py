"""Conditional requests and copies without a server, as the acceptance suite has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.testing.acceptance_conditions import ConditionAcceptance
from bubu_storage.testing.acceptance_copy import CopyAcceptance

if TYPE_CHECKING:
    from pathlib import Path

    from bubu_storage.backend.types import ObjectBackend


class TestMemory(ConditionAcceptance, CopyAcceptance):
    """In memory."""

    @pytest.fixture
    def backend(self) -> ObjectBackend:
        """An empty one."""
        return MemoryBackend()


class TestFile(ConditionAcceptance, CopyAcceptance):
    """On files."""

    keeps_content_type = False
    keeps_metadata = False

    @pytest.fixture
    def backend(self, tmp_path: Path) -> ObjectBackend:
        """An empty one."""
        return FileBackend(tmp_path / "store", fsync=False)
