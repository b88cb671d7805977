"""The command line: ``python -m tests.node ensure | up | down | status | load | base-image``.

Exit codes: 0 done, 1 not possible (one message says why), 2 bad usage, 3 from ``status`` when no
complete cluster runs, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.command_line import run_command
from tests.node.base_image import ensure_base_image
from tests.node.packages import ensure_packages
from tests.node.programs import ensure_programs
from tests.node.runs import sweep
from tests.node.standing import HOME, StandingNodes

if TYPE_CHECKING:
    from collections.abc import Sequence


def _say(line: str) -> None:
    print(line, flush=True)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.node",
        description="A Kubernetes cluster with two real nodes on this machine: as root, without Docker.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="install packages and build programs, with progress")
    commands.add_parser("base-image", help="print the base image to build upon, making it where needed")
    for name, text in (
        ("up", "start a cluster that keeps running"),
        ("down", "stop what up started"),
        ("status", "say what runs"),
        ("load", "give every node the images of an archive"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--home", type=Path, default=HOME, help="folder of the cluster (default: .cluster/node)"
        )
        if name == "load":
            command.add_argument("archive", type=Path, help="what docker save or buildah push wrote")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options), when_interrupted="interrupted")


def _run(options: argparse.Namespace) -> int:
    if options.command == "base-image":
        _say(ensure_base_image(_progress))
        return 0
    if options.command == "ensure":
        ensure_packages(_say)
        ensure_programs(_say)
        _say("A cluster with nodes: ready to start")
        return 0
    standing = StandingNodes(options.home.absolute())
    if options.command == "up":
        standing.up(_say)
    elif options.command == "down":
        standing.down(_say)
        sweep()
    elif options.command == "load":
        standing.load(options.archive, _say)
    elif not standing.status(_say):
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
