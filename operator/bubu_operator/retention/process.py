"""The controller's side of a pass's process: start, listen, stop, and never leave one behind.

Invariants: the document goes through a pipe; the write end of that pipe stays open while
this object lives and is inherited by nobody, so a dead controller ends its passes; every
process that was started is waited for; a process that does not obey is killed by its pid.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final, Self

from bubu_operator.retention.document import STOP_LINE, PassDocument, PassLine
from bubu_storage.errors import ConfigurationError

__all__ = ["PassEnded", "PassProcess", "pass_command"]

STDERR_TAIL_BYTES: Final = 4096
STDIN_WAIT_SECONDS: Final = 1.0


def pass_command() -> list[str]:
    """Return the command of a pass: this very interpreter, so that no PATH can lead astray."""
    return [sys.executable, "-m", "bubu_operator", "retention-pass"]


@dataclass(frozen=True, slots=True)
class PassEnded:
    """The process is gone.

    Attributes:
        exit_code: negative for a signal, as ``subprocess`` has it.
        complaint: the end of what it wrote to stderr; to be scrubbed before anybody sees it.
    """

    exit_code: int
    complaint: str


class PassProcess:
    """One pass under way; use as a context manager, leaving it kills what still runs."""

    def __init__(
        self, document: PassDocument, *, environment: Mapping[str, str], command: Sequence[str] | None = None
    ) -> None:
        self._lines: queue.Queue[PassLine | PassEnded] = queue.Queue()
        self._stderr = bytearray()
        self._stdin_lock = threading.Lock()
        # A session of its own: Ctrl-C in a terminal is for the controller, which then asks its passes.
        self._process = subprocess.Popen(
            list(command or pass_command()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            close_fds=True,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_errors, name=f"pass-{self.pid}-err", daemon=True),
            threading.Thread(target=self._read_lines, name=f"pass-{self.pid}-out", daemon=True),
            # In a thread: a document may be larger than a pipe holds, and the process may not be reading yet.
            threading.Thread(
                target=self._tell, args=(document.to_line(),), name=f"pass-{self.pid}-in", daemon=True
            ),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def next(self, timeout_seconds: float) -> PassLine | PassEnded | None:
        """Return the next line or the end; None if there is none in time. The end comes once, last."""
        try:
            return self._lines.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def ask_to_stop(self) -> None:
        """Ask for an end in good order; the report follows."""
        self._tell(STOP_LINE)

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def close(self) -> None:
        """Kill it if it still runs, wait for it, and release everything."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()
        self._pipe(self._process.stdout).close()
        self._pipe(self._process.stderr).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        # A process that died has closed its end; its exit is reported by the reader.
        if not self._stdin_lock.acquire(timeout=STDIN_WAIT_SECONDS):
            return
        try:
            with contextlib.suppress(OSError, ValueError):
                stdin = self._pipe(self._process.stdin)
                stdin.write(line.encode())
                stdin.flush()
        finally:
            self._stdin_lock.release()

    def _read_lines(self) -> None:
        for line in self._pipe(self._process.stdout):
            try:
                self._lines.put(PassLine.from_line(line))
            except ConfigurationError as error:
                self._stderr += f"{error}\n".encode()
        exit_code = self._process.wait()
        self._threads[0].join()
        self._lines.put(PassEnded(exit_code, self._stderr.decode("utf-8", errors="replace")))

    def _read_errors(self) -> None:
        for line in self._pipe(self._process.stderr):
            self._stderr += line
            del self._stderr[:-STDERR_TAIL_BYTES]

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise AssertionError("all three streams are pipes")
        return stream
