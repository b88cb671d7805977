"""The command in the Job's pod loads what it needs and no more."""

from __future__ import annotations

import subprocess
import sys


def test_neither_kubernetes_nor_kopf_is_loaded():
    """The pod has no API server to talk to, and little memory; boto3 comes with a bucket only."""
    script = (
        "import sys, bubu_operator.probe.run; "
        "print([name for name in ('kopf', 'kubernetes', 'boto3', 'uvicorn') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
