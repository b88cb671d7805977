"""``python -m tests.monitoring ensure``: build promtool and Prometheus if the cache lacks them."""

from __future__ import annotations

import argparse
import sys

from tests.cluster.errors import ClusterError
from tests.cluster.processes import exit_on_signals
from tests.monitoring.programs import ensure_prometheus, ensure_promtool


def main() -> int:
    """Run the command line; 0 when done, 1 with one message when not, 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="build promtool and Prometheus unless they are in the cache")
    parser.parse_args()
    try:
        with exit_on_signals():
            for ensure in (ensure_promtool, ensure_prometheus):
                print(f"monitoring: {ensure()}")
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
