"""The recorded cases, and a way to run one on a fresh store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bubu_storage.conformance.storage import Observation, observe

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "conformance"


@pytest.fixture(scope="session")
def vector_directory() -> Path:
    """Where the vector files are."""
    return GOLDEN


@pytest.fixture(scope="session")
def storage_cases() -> dict[str, dict[str, Any]]:
    """The storage cases by id."""
    return {case["id"]: case for case in json.loads((GOLDEN / "s0-vectors.json").read_bytes())}


@pytest.fixture
def observed(storage_cases, tmp_path) -> Callable[[str], Observation]:
    """Run one storage case by its id and return what happened."""
    return lambda case_id: observe(storage_cases[case_id], tmp_path)
