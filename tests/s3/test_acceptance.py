"""The S3 backend passes the acceptance suite on a real S3 server, also behind each decorator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.backend.decorated import OnStore, emptied, matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.backend.types import ObjectBackend


class OnVersityGateway(OnStore):
    """In a bucket of versitygw, which ignores the ETags of the keys in DeleteObjects."""

    honours_conditional_batch = False

    @pytest.fixture
    def store(self, shared_s3_backend: S3Backend) -> Iterator[ObjectBackend]:
        """An empty one."""
        yield from emptied(shared_s3_backend)


globals().update(matrix(OnVersityGateway))
