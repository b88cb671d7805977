"""The chart's own suites, with snapshots: what a change of a template changes is seen in the diff.

``BUBU_UPDATE_SNAPSHOTS=1 pytest tests/chart/test_suites.py`` writes the snapshots anew.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.chart.programs import ensure_helm_unittest
from tests.chart.rendering import CHART, helm_environment


def test_the_suites_of_the_chart(tmp_path: Path):
    """helm-unittest over charts/bubu-storage-operator/tests; no snapshot is left over or missing."""
    options = ["--update-snapshot"] if os.environ.get("BUBU_UPDATE_SNAPSHOTS") else ["--strict"]
    before = {path: path.read_text() for path in (CHART / "tests").rglob("*.snap")}

    done = subprocess.run(
        [str(ensure_helm_unittest()), *options, "--color=false", str(CHART)],
        env=helm_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    if not os.environ.get("BUBU_UPDATE_SNAPSHOTS"):
        # Without this a snapshot that is missing is written, and the test passes.
        assert before == {path: path.read_text() for path in (CHART / "tests").rglob("*.snap")}
        assert before
