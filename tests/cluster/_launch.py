"""Become another program that dies with its parent.

Run as ``python -I -S _launch.py PARENT_PID PROGRAM ARG…``. The parent-death signal is set here, in
the child and before ``exec``, because doing it between fork and exec of a threaded Python is unsafe.
The check of the parent's pid closes the gap in which the parent dies before the signal is set.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the signal, make sure that the parent still lives, and exec."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    # Python ignores SIGPIPE at start-up and exec would hand that on.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(program[0], program)  # noqa: S606 -- becoming the program is the point


if __name__ == "__main__":
    main()
