"""Backends on fresh buckets of a real S3 server, versitygw."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.settings import S3Settings

pytest.register_assert_rewrite("bubu_storage.testing")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.s3server import VersityGateway


@pytest.fixture
def s3_settings(s3_server: VersityGateway, bucket: str) -> S3Settings:
    """Settings of a fresh bucket."""
    return s3_server.settings(bucket)


@pytest.fixture(scope="session")
def shared_s3_backend(s3_server: VersityGateway) -> Iterator[S3Backend]:
    """One backend for many tests: opening one takes longer than most of them."""
    bucket = s3_server.create_bucket(f"shared-{secrets.token_hex(6)}")
    with closing(S3Backend(s3_server.settings(bucket))) as backend:
        yield backend


@pytest.fixture
def open_s3() -> Iterator[Callable[[S3Settings], S3Backend]]:
    """Opens backends and closes them after the test."""
    opened: list[S3Backend] = []

    def open_one(settings: S3Settings) -> S3Backend:
        opened.append(S3Backend(settings))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


@pytest.fixture
def s3_backend(s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]) -> S3Backend:
    """A backend on a fresh bucket."""
    return open_s3(s3_settings)


@pytest.fixture
def raw_client(s3_server: VersityGateway) -> Iterator[Any]:
    """The SDK's own client, to look at the bucket from outside."""
    with closing(s3_server.client()) as client:
        yield client
