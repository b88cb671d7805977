"""rclone, a peer of the benchmarks: built once by Go, kept in the cache of built programs.

``python -m tests.perf.rclone`` builds it and prints the path of the executable.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cluster.build import Program, ensure_program
from tests.cluster.errors import PrerequisiteError

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
    given = os.environ.get(BINARY_VARIABLE)
    if given:
        if shutil.which(given) is None:
            raise PrerequisiteError(f"{BINARY_VARIABLE}={given} is not an executable file.")
        return Path(given).absolute()
    return ensure_program(_PROGRAM, report) / "rclone"


if __name__ == "__main__":
    print(ensure_rclone())
