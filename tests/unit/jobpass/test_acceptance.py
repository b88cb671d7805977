"""A store behind an agent is a store like any other: the acceptance suite, over a real socket.

Outside of what an agent is for, and left out: objects above a frame are not written (they are read,
in pieces), and nothing is copied. The agent of these tests has every right; what a real one refuses
is in ``test_rights.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.testing.acceptance import BackendAcceptance
from tests.unit.jobpass.pairs import agent_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bubu_storage.backend.types import ObjectBackend

pytest.register_assert_rewrite("bubu_storage.testing")


class _ByAgent(BackendAcceptance):
    """The suite with the sizes that go through an agent."""

    __test__ = False
    copies = False
    big_bytes = 300_000

    def test_failing_source_stores_nothing(self, backend: ObjectBackend) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in the suite, with a source that breaks within what may be written."""
        super().test_failing_source_stores_nothing(backend, 10)


class TestMemory(_ByAgent):
    """In memory."""

    __test__ = True

    @pytest.fixture
    def backend(self) -> Iterator[ObjectBackend]:
        """An empty one."""
        with agent_of(MemoryBackend(), chunk_bytes=100_000) as remote:
            yield remote


class TestFile(_ByAgent):
    """On files."""

    __test__ = True
    keeps_content_type = False
    keeps_metadata = False

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[ObjectBackend]:
        """An empty one."""
        with agent_of(FileBackend(tmp_path / "store"), chunk_bytes=100_000) as remote:
            yield remote
