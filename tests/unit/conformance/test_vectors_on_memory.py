"""The recorded cases hold on a store in memory as they do on files."""

from __future__ import annotations

import pytest

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.conformance.storage import compare, observe
from tests.unit.conformance.store_cases import store_cases

CASES = store_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_storage_case(case, tmp_path):
    """Result, error class, middle value and all objects are the recorded ones."""
    assert compare(case, observe(case, tmp_path, MemoryBackend())) == []
    assert list(tmp_path.iterdir()) == []


def test_no_case_got_lost():
    """What is left out is about file systems, or needs no store."""
    assert len(CASES) == 292
