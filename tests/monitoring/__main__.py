"""``python -m tests.monitoring ensure``: build promtool and Prometheus if the cache lacks them."""

from __future__ import annotations

import sys

from tests.cluster.command_line import ensure_command
from tests.monitoring.programs import ensure_prometheus, ensure_promtool

if __name__ == "__main__":
    sys.exit(
        ensure_command(
            "python -m tests.monitoring",
            __doc__,
            "build promtool and Prometheus unless they are in the cache",
            lambda: f"monitoring: {ensure_promtool()}",
            lambda: f"monitoring: {ensure_prometheus()}",
        )
    )
