"""Every backend that needs no server of its own passes the acceptance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.testing.acceptance import BackendAcceptance
from bubu_storage.testing.fakes import CountingBackend, FaultBackend

if TYPE_CHECKING:
    from pathlib import Path

    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.backend.types import ObjectBackend


class TestMemory(BackendAcceptance):
    """In memory."""

    @pytest.fixture
    def backend(self) -> ObjectBackend:
        """An empty one."""
        return MemoryBackend()


class TestFile(BackendAcceptance):
    """On files, as in production."""

    keeps_content_type = False
    keeps_metadata = False

    @pytest.fixture
    def backend(self, tmp_path: Path) -> ObjectBackend:
        """An empty one."""
        return FileBackend(tmp_path / "store")


class TestFileWithoutFsync(BackendAcceptance):
    """On files, for tests and caches."""

    keeps_content_type = False
    keeps_metadata = False

    @pytest.fixture
    def backend(self, tmp_path: Path) -> ObjectBackend:
        """An empty one."""
        return FileBackend(tmp_path / "store", fsync=False)


class TestWrapped(BackendAcceptance):
    """The wrappers for tests are backends themselves."""

    @pytest.fixture
    def backend(self) -> ObjectBackend:
        """An empty one."""
        return FaultBackend(CountingBackend(MemoryBackend()))


class TestMoto(BackendAcceptance):
    """In a bucket of moto's server, over real HTTP."""

    writers = 4

    @pytest.fixture
    def backend(self, moto_backend: S3Backend) -> ObjectBackend:
        """An empty one."""
        return moto_backend
