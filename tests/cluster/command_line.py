"""What the command lines of the test programs have in common: how a run ends, and ``ensure``.

Exit codes: 0 done, 1 not possible (one message says why), 2 bad usage, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tests.cluster.errors import ClusterError
from tests.cluster.processes import exit_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ensure_command", "run_command"]


def run_command(run: Callable[[], int], *, when_interrupted: str = "") -> int:
    """Run a command and return its exit code; what it cannot do is one message.

    Args:
        run: does the work.
        when_interrupted: what is said after Ctrl-C; nothing if empty.
    """
    try:
        with exit_on_signals():
            return run()
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if when_interrupted:
            print(when_interrupted, file=sys.stderr)
        return 130


def ensure_command(program: str, description: str | None, text: str, *builds: Callable[[], object]) -> int:
    """Be a program whose one command is ``ensure``: build what the cache lacks, and print what each gives.

    Args:
        program: how it is called, for the usage.
        description: of the program.
        text: what ``ensure`` does, for the usage.
        builds: called one after the other.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_subparsers(dest="command", required=True).add_parser("ensure", help=text)
    parser.parse_args()

    def run() -> int:
        for build in builds:
            print(build())
        return 0

    return run_command(run)
