"""The fast S3 engine passes the acceptance suite on moto's server, by itself and behind all decorators."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.s3_obstore import ObstoreBackend
from tests.unit.backend.decorated import emptied, matrix
from tests.unit.backend.test_acceptance import OnMoto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bubu_storage.backend.types import ObjectBackend
    from bubu_storage.settings import S3Settings


@pytest.fixture(scope="module")
def shared_fast_backend(new_moto_bucket: Callable[[], S3Settings]) -> Iterator[ObstoreBackend]:
    """One backend for many tests: opening one takes longer than most of them."""
    with closing(ObstoreBackend(new_moto_bucket())) as backend:
        yield backend


class OnMotoByObstore(OnMoto):
    """In a bucket of moto's server, over real HTTP."""

    @pytest.fixture
    def store(self, shared_fast_backend: ObstoreBackend) -> Iterator[ObjectBackend]:
        """An empty one."""
        yield from emptied(shared_fast_backend)


globals().update(matrix(OnMotoByObstore, names=()))
