"""The benchmark runs; its numbers are for people and are not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_benchmark_gives_a_ratio_for_each_row():
    """Both servers start, every answer is right, and three comparisons are printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.bench_webhook", "--requests", "80"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()].count("ratio") == 3
