"""The demo is a promise of the README: it must hold on both stores, and fail loudly when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("store", ["file", pytest.param("s3", marks=pytest.mark.s3)])
def test_demo_holds_every_promise(store: str) -> None:
    """``make demo`` runs from the first step to the last, ends with 0 and says so."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo", "--store", store],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Every promise held." in done.stdout
    assert done.stderr == ""
