"""The pytest plugin of the library: fixtures for people who test their own workflow steps.

It is loaded by pytest wherever the library is installed, so it imports nothing heavy before a
fixture is asked for::

    def test_my_step(storage):
        result = my_step(storage, {"text": "x" * 5000})
        assert storage.hydrate(result) == {"text": "X" * 5000}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bubu_storage import StorageManager

__all__ = ["storage"]


@pytest.fixture
def storage() -> Iterator[StorageManager]:
    """A storage manager on an empty store in memory, for this test alone; no environment is read."""
    from bubu_storage import StorageManager as Manager  # noqa: PLC0415 - only when a test asks for it

    with Manager.in_memory() as manager:
        yield manager
