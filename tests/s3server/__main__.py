"""``python -m tests.s3server ensure``: build the S3 server if the cache lacks it."""

from __future__ import annotations

import argparse
import sys

from tests.cluster.errors import ClusterError
from tests.cluster.processes import exit_on_signals
from tests.s3server.gateway import ensure_versitygw


def main() -> int:
    """Run the command line; 0 when done, 1 with one message when not, 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.s3server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="build versitygw unless it is in the cache")
    parser.parse_args()
    try:
        with exit_on_signals():
            print(f"S3 server: {ensure_versitygw()}")
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
