"""The command line: ``python -m tests.node ensure | base-image``.

Exit codes: 0 done, 1 not possible (one message says why), 2 bad usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tests.cluster.errors import ClusterError
from tests.cluster.processes import exit_on_signals
from tests.node.base_image import ensure_base_image
from tests.node.packages import ensure_packages

if TYPE_CHECKING:
    from collections.abc import Sequence


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.node", description="A Kubernetes cluster with a real node, without Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="install packages and build programs, with progress")
    commands.add_parser("base-image", help="print the base image to build upon, making it where needed")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with exit_on_signals():
            if options.command == "base-image":
                print(ensure_base_image(_progress), flush=True)
            else:
                ensure_packages(_progress)
            return 0
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
