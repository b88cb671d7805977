"""A command of ours as a container runs it, without a container: for tests of its manners.

The process is the first one of its own PID namespace (so signals without a handler are kept from it),
has a uid that no passwd knows, an empty environment but for what an image sets, a home that cannot be
written, and a folder for temporary files. Whatever it opens for writing elsewhere is noted by an audit
hook of Python, which its own children inherit.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, cast

from tests.cluster.controller_harness import children_of, until
from tests.cluster.errors import ClusterError
from tests.cluster.processes import Stopwatch

__all__ = ["UID", "Contained", "why_not"]

UID = 65532
UNSHARE = (
    "unshare",
    *("--user", f"--map-user={UID}", f"--map-group={UID}"),
    *("--pid", "--fork", "--kill-child"),
)
ROOT = Path(__file__).resolve().parents[2]
NOTER = """
import os, sys

_allowed = (os.environ["TMPDIR"], "/dev/", "/proc/")
_file = os.path.join(os.environ["TMPDIR"], ".written")
_notes = os.open(_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def _note(event, args):
    if event == "open":
        path, _, flags = args
        if not isinstance(path, (str, bytes)) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in ("os.mkdir", "os.rename", "os.symlink", "os.link"):
        path = args[1] if event != "os.mkdir" else args[0]
    else:
        return
    path = os.fsdecode(path)
    # What is no whole path is one below an open directory, or below the working one, which is read-only.
    if path.startswith("/") and not path.startswith(_allowed):
        os.write(_notes, f"{event} {path}\\n".encode())

sys.addaudithook(_note)
"""


@functools.cache
def why_not() -> str:
    """Why this machine cannot run a command so; "" where it can."""
    try:
        done = subprocess.run(
            [*UNSHARE, "id", "-u"], capture_output=True, text=True, timeout=120, check=False
        )
    except OSError as error:
        return f"unshare cannot be run: {error}"
    if done.returncode != 0 or done.stdout.strip() != str(UID):
        return f"no user namespaces here: {done.stderr.strip()}"
    return ""


class Contained(AbstractContextManager["Contained"]):
    """One process; killed in the end if it still runs.

    Args:
        folder: for its log, its home and its temporary files.
        arguments: of ``bubu-operator``.
        environment: on top of what an image sets.
        interpreter: options of Python.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        interpreter: tuple[str, ...] = ("-W", "error"),
    ) -> None:
        self._folder = folder
        self._command = [*UNSHARE, sys.executable, *interpreter, "-m", "bubu_operator", *arguments]
        for name in ("home", "tmp", "hooks"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "hooks" / "sitecustomize.py").write_text(textwrap.dedent(NOTER), encoding="utf-8")
        (folder / "home").chmod(0o555)
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            # The package where it lies, and the audit hook.
            "PYTHONPATH": os.pathsep.join(
                [str(folder / "hooks"), str(ROOT / "operator"), str(ROOT / "storage_lib")]
            ),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it is a process of its own."""
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder / "home",
            )
        return self

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ClusterError("the process was not started")
        return self._process

    @property
    def pid(self) -> int:
        """Of the process itself, as this machine numbers it; 0 where it is not there (any more)."""
        return next(iter(children_of(self._running.pid)), 0)

    def catches(self, number: int) -> bool:
        """Tell whether the process has a handler for a signal."""
        pid = self.pid
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            return False
        mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
        # unshare itself, before it becomes Python, has none.
        return bool(int(mask, 16) >> (number - 1) & 1)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def wait_exit(self, seconds: float = 10.0) -> int:
        """Wait for its end; return its exit code.

        Raises:
            AssertionError: it still runs.
        """
        watch = Stopwatch()
        while watch.seconds < seconds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._running.wait(0.2)
        raise AssertionError(f"it still runs after {seconds:g} s; its log: {self.log}")

    def wait_said(self, words: str, seconds: float = 60.0) -> None:
        """Wait until its log has these words."""

        def said() -> bool:
            if self._running.poll() is not None and words not in self.log:
                raise ClusterError(f"it ended with {self._running.returncode}; its log: {self.log}")
            return words in self.log

        until(said, f"{words!r} in the log: {self.log}", seconds)

    @property
    def log(self) -> str:
        """What it has written to both of its outputs."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Its log, parsed; fails where a line is no JSON object."""
        lines = [json.loads(line) for line in self.log.splitlines()]
        assert all(isinstance(line, dict) for line in lines), self.log
        return cast("list[dict[str, Any]]", lines)

    @property
    def written(self) -> list[str]:
        """What was opened for writing, or made, outside of the folder for temporary files."""
        return (self._folder / "tmp" / ".written").read_text(encoding="utf-8").splitlines()

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            # --kill-child: its namespace ends with it.
            self._process.kill()
            self._process.wait()
        (self._folder / "home").chmod(0o755)
