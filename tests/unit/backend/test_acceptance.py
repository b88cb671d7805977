"""Every backend that needs no server of its own passes the acceptance suite, also behind each decorator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.testing.acceptance_ranges import IGNORED_RANGES
from tests.unit.backend.decorated import ON_SERVERS, OnStore, matrix, on_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bubu_storage.backend.types import ObjectBackend


class OnMemory(OnStore):
    """In memory."""

    @pytest.fixture
    def store(self) -> ObjectBackend:
        """An empty one."""
        return MemoryBackend()


class OnFile(OnStore):
    """On files, as in production."""

    keeps_content_type = False
    keeps_metadata = False

    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectBackend:
        """An empty one."""
        return FileBackend(tmp_path / "store")


class OnFileWithoutFsync(OnFile):
    """On files, for tests and caches."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectBackend:
        """An empty one."""
        return FileBackend(tmp_path / "store", fsync=False)


class OnMoto(OnStore):
    """In a bucket of moto's server, over real HTTP."""

    writers = 4
    honours_large_compare_and_swap = False
    honours_conditional_batch = False
    conditions_are_atomic = False  # it looks, then acts, with no lock
    # A copy of an object made of parts has the checksum of the parts there, as if it were the whole's.
    large_copy_bytes = 1024 * 1024
    # It takes any unit for bytes, and stumbles over a header without "=".
    ignored_ranges = tuple(one for one in IGNORED_RANGES if one not in {"lines=0-1", "bytes"})

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Iterator[ObjectBackend]:
        """An empty one."""
        yield from on_server(request, own="moto_backend", shared="shared_moto_backend")


globals().update(matrix(OnMemory, OnFile))
globals().update(matrix(OnMoto, names=ON_SERVERS))
globals().update(matrix(OnFileWithoutFsync, names=()))
