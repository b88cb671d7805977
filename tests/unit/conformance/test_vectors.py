"""Every recorded outcome of the Go implementation that is no defect is ours, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bubu_storage.conformance.applyenv import compare_apply_env
from bubu_storage.conformance.storage import compare, observe

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "conformance"
STORAGE = json.loads((GOLDEN / "s0-vectors.json").read_bytes())
APPLY_ENV = json.loads((GOLDEN / "applyenv-vectors.json").read_bytes())
EXACT = [case for case in STORAGE if "stance" not in case]


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case["id"])
def test_storage_case(case, tmp_path):
    """Result, error class, middle value and all files are the recorded ones."""
    assert compare(case, observe(case, tmp_path)) == []


@pytest.mark.parametrize("case", APPLY_ENV, ids=lambda case: case["id"])
def test_apply_env_case(case):
    """The pod afterwards, the verdict and the error class are the recorded ones."""
    assert compare_apply_env(case) == []


def test_no_case_got_lost():
    """A cut-down vector file would make the tests above pass for the wrong reason."""
    assert (len(EXACT), len(STORAGE) - len(EXACT), len(APPLY_ENV)) == (335, 21, 35)
