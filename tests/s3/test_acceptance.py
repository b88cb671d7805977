"""The S3 backend passes the acceptance suite on a real S3 server, also behind each decorator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.backend.decorated import ON_SERVERS, OnStore, matrix, on_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bubu_storage.backend.types import ObjectBackend


class OnVersityGateway(OnStore):
    """In a bucket of versitygw, which ignores the ETags of the keys in DeleteObjects."""

    honours_conditional_batch = False

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Iterator[ObjectBackend]:
        """An empty one."""
        yield from on_server(request, own="s3_backend", shared="shared_s3_backend")


globals().update(matrix(OnVersityGateway, names=ON_SERVERS))
