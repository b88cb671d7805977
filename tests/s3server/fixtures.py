"""pytest plugin: one S3 server per session, and a bucket of its own for each test."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.cluster.fixtures import prepare_before_tests
from tests.s3server.gateway import VersityGateway, ensure_versitygw

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["bucket", "s3_server"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses the server, so that ``-m "not s3"`` deselects it."""
    for item in items:
        if "s3_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.s3)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build the server if a selected test needs it."""
    if any(item.get_closest_marker("s3") for item in session.items):
        prepare_before_tests(session, ensure_versitygw)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGateway]:
    """A running S3 server over a temporary folder."""
    with VersityGateway(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: VersityGateway) -> str:
    """The name of a fresh, empty bucket."""
    return s3_server.create_bucket(f"b-{secrets.token_hex(6)}")
