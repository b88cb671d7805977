"""The recorded cases of the Go implementation hold in a bucket as they do on files."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.conformance.storage import compare, observe
from tests.unit.conformance.store_cases import store_cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bubu_storage.backend.types import ObjectBackend
    from tests.s3server import VersityGateway


@pytest.fixture(scope="module")
def store(s3_server: VersityGateway) -> Iterator[S3Backend]:
    """One bucket for all cases."""
    bucket = s3_server.create_bucket(f"v-{secrets.token_hex(6)}")
    backend = S3Backend(s3_server.settings(bucket))
    yield backend
    backend.close()


@pytest.fixture
def empty_store(store: ObjectBackend) -> Iterator[ObjectBackend]:
    """The bucket, emptied after the test."""
    yield store
    for page in store.list_objects():
        for item in page.objects:
            store.delete_object(item.key)


@pytest.mark.parametrize("case", store_cases(), ids=lambda case: case["id"])
def test_storage_case(case: dict[str, Any], tmp_path: Path, empty_store: ObjectBackend) -> None:
    """Result, error class, middle value and all objects are the recorded ones."""
    assert compare(case, observe(case, tmp_path, empty_store)) == []
