"""A moto server over real HTTP, and backends on fresh buckets of it."""

from __future__ import annotations

import logging
import secrets
from contextlib import closing
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.settings import S3Settings

pytest.register_assert_rewrite("bubu_storage.testing")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """URL of a running moto server on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def new_moto_bucket(moto_endpoint: str) -> Iterator[Callable[[], S3Settings]]:
    """Makes a bucket and returns its settings."""
    client = boto3.client(
        "s3",
        endpoint_url=moto_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )

    def make() -> S3Settings:
        name = f"bucket-{secrets.token_hex(6)}"
        client.create_bucket(Bucket=name)
        return S3Settings(
            bucket=name,
            endpoint=moto_endpoint,
            use_path_style=True,
            access_key_id="test-access-key",
            secret_access_key="test-secret-key",
        )

    with closing(client):
        yield make


@pytest.fixture
def moto_settings(new_moto_bucket: Callable[[], S3Settings]) -> S3Settings:
    """Settings of a fresh bucket."""
    return new_moto_bucket()


@pytest.fixture
def moto_backend(moto_settings: S3Settings) -> Iterator[S3Backend]:
    """A backend on a fresh bucket."""
    with closing(S3Backend(moto_settings)) as backend:
        yield backend


@pytest.fixture(scope="session")
def shared_moto_backend(new_moto_bucket: Callable[[], S3Settings]) -> Iterator[S3Backend]:
    """One backend for many tests: opening one takes longer than most of them."""
    with closing(S3Backend(new_moto_bucket())) as backend:
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
