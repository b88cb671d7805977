"""The S3 backend passes the acceptance suite on a real S3 server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bubu_storage.testing.acceptance import BackendAcceptance

if TYPE_CHECKING:
    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.backend.types import ObjectBackend


class TestVersityGateway(BackendAcceptance):
    """In a bucket of versitygw."""

    @pytest.fixture
    def backend(self, s3_backend: S3Backend) -> ObjectBackend:
        """An empty one."""
        return s3_backend
