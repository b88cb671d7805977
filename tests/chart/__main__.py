"""``python -m tests.chart ensure``: build Helm and its companions if the cache lacks them."""

from __future__ import annotations

import argparse
import sys

from tests.chart.programs import ensure_helm, ensure_helm_unittest, ensure_kubeconform
from tests.cluster.errors import ClusterError
from tests.cluster.processes import exit_on_signals


def main() -> int:
    """Run the command line; 0 when done, 1 with one message when not, 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.chart", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "ensure", help="build Helm, kubeconform and helm-unittest unless they are in the cache"
    )
    parser.parse_args()
    try:
        with exit_on_signals():
            for ensure in (ensure_helm, ensure_kubeconform, ensure_helm_unittest):
                print(ensure())
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
