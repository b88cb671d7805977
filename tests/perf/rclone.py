"""rclone, a peer of the benchmarks: built once by Go, kept in the cache of built programs.

``python -m tests.perf.rclone`` builds it and prints the path of the executable.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cluster.build import Program, given_or_built

__all__ = ["BINARY_VARIABLE", "VERSION", "ensure_rclone"]

VERSION = "v1.75.1"
BINARY_VARIABLE = "BUBU_RCLONE"
_PROGRAM = Program(
    name="rclone",
    title=f"the benchmarks' peer rclone {VERSION}",
    version=VERSION,
    go_arguments=("install", "-v", f"github.com/rclone/rclone@{VERSION}"),
)


def ensure_rclone(report: Callable[[str], None] | None = None) -> Path:
    """Return rclone's executable: ``$BUBU_RCLONE``, or the one in the cache, built first if needed.

    Raises:
        PrerequisiteError: it must be built and Go is missing, or ``$BUBU_RCLONE`` is no program.
        BuildError: Go failed.
    """
    return given_or_built(_PROGRAM, BINARY_VARIABLE, report)


if __name__ == "__main__":
    print(ensure_rclone())
