"""The pytest plugin of the library: fixtures for people who test their own workflow steps.

It is loaded by pytest wherever the library is installed, so it imports nothing before a fixture
is asked for. Nothing is contacted, and no environment variable is read::

    def test_my_step(storage):
        document = storage.dehydrate({"text": "x" * 5000}, run_id="default/run-1")
        result = my_step(storage, document)
        assert storage.hydrate(result) == {"text": "X" * 5000}

``storage`` is made of two more fixtures, and a test module or ``conftest.py`` that defines one of
these anew changes it: ``storage_settings`` for other limits, ``storage_backend`` for another store,
for example one that fails on purpose (`bubu_storage.testing.fakes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bubu_storage import StorageManager
    from bubu_storage.backend.types import ObjectBackend
    from bubu_storage.settings import ManagerSettings

__all__ = ["storage", "storage_backend", "storage_settings"]


@pytest.fixture
def storage_settings() -> ManagerSettings:
    """Limits and prefixes of the manager ``storage``; the defaults, without Prometheus metrics."""
    from bubu_storage.settings import ManagerSettings as Settings  # noqa: PLC0415 - only when asked for

    return Settings(metrics_enabled=False)


@pytest.fixture
def storage_backend() -> ObjectBackend:
    """The store behind ``storage``: in memory and empty, for this test alone."""
    from bubu_storage.backend.memory import MemoryBackend  # noqa: PLC0415 - only when asked for

    return MemoryBackend()


@pytest.fixture
def storage(storage_settings: ManagerSettings, storage_backend: ObjectBackend) -> Iterator[StorageManager]:
    """A storage manager on ``storage_backend``, for this test alone; no environment is read."""
    from bubu_storage import StorageManager as Manager  # noqa: PLC0415 - only when asked for

    with Manager(storage_settings, storage_backend) as manager:
        yield manager
