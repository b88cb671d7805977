"""The command line: ``python -m tests.cluster ensure | up | down | status``.

Exit codes: 0 done, 1 not possible (one message says why), 2 bad usage, 3 from ``status`` when no
complete cluster runs, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.command_line import run_command
from tests.cluster.providers import choose_provider
from tests.cluster.standing import REPOSITORY, StandingCluster

if TYPE_CHECKING:
    from collections.abc import Sequence


_ENVIRONMENT = """\
environment:
  BUBU_TEST_CLUSTER         kubeconfig, kind or local: use this one, whatever else is found
  KUBECONFIG                a test cluster to use; anything that does not look like one is refused
  BUBU_TEST_CLUSTER_ALLOW   name of a context that may be used although it does not look like one
  BUBU_TEST_CALLBACK_HOST   address of this machine that the KUBECONFIG cluster can reach (webhooks)
  BUBU_CACHE_DIR            where built programs are kept (default: ~/.cache/bubu-storage-operator)
"""


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="A Kubernetes API server for tests and for playing: the test cluster that KUBECONFIG "
        "selects, kind where Docker runs, else a control plane built from source.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_ENVIRONMENT,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ensure", help="build what is needed, with progress; nothing if it is in the cache")
    for name, text in (
        ("up", "start a cluster that keeps running"),
        ("down", "stop what up started"),
        ("status", "say what runs"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--home",
            type=Path,
            default=REPOSITORY / ".cluster",
            help="folder of the cluster's state (default: .cluster in the repository)",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options), when_interrupted="interrupted")


def _run(options: argparse.Namespace) -> int:
    if options.command == "ensure":
        provider = choose_provider()
        provider.prepare(_say)
        _say(f"Kubernetes API server: ready to start ({provider.name})")
        return 0
    standing = StandingCluster(options.home.absolute())
    if options.command == "up":
        standing.up(_say)
    elif options.command == "down":
        standing.down(_say)
    elif not standing.status(_say):
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
