"""The controller's side of a pass's process: start, listen, stop, and never leave one behind.

Invariants: the document goes through a pipe; the write end of that pipe stays open while
this object lives and is inherited by nobody, so a dead controller ends its passes; every
process that was started is waited for; a process that does not obey is killed by its pid;
whatever it writes, a bounded part of it is remembered; its temporary files go with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final, Self

from bubu_operator.jobpass.settings import AgentSettings
from bubu_operator.retention.document import STOP_LINE, PassDocument, PassLine, until_line
from bubu_operator.retention.owner_answers import OwnerAnswers
from bubu_operator.retention.store_facts import StoreFacts
from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.owners import OwnerSource

__all__ = ["PassEnded", "PassProcess", "pass_command"]

STDERR_TAIL_BYTES: Final = 4096
STDIN_WAIT_SECONDS: Final = 1.0
MAX_LINE_BYTES: Final = 4 << 20
"""A report is some kilobytes; what is longer is none."""

MAX_WAITING_LINES: Final = 256
"""Of checkpoints that nobody has fetched yet the oldest are dropped: each says more than the one before."""

_READ_BYTES: Final = 1 << 16


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
    """One pass under way; use as a context manager, leaving it kills what still runs.

    Args:
        document: for the process; whether it may ask for owners is filled in.
        environment: of the process.
        command: another one than `pass_command`.
        owners: who answers it; asked in a thread of its own. None where nobody knows.

    Raises:
        OSError: no process could be started, or no thread to listen to it; nothing is left behind.

    Attributes:
        facts: what the process told of its store; None until then.
        reference_cache: what is to go into the next pass's document; None where nothing is.
    """

    def __init__(
        self,
        document: PassDocument,
        *,
        environment: Mapping[str, str],
        command: Sequence[str] | None = None,
        owners: OwnerSource | None = None,
    ) -> None:
        document = replace(document, owners=owners is not None)
        self.facts: StoreFacts | None = None
        self.reference_cache: Mapping[str, Any] | None = None
        self._lines: queue.Queue[PassLine | PassEnded] = queue.Queue(MAX_WAITING_LINES)
        self._stderr = bytearray()
        self._stderr_lock = threading.Lock()
        self._stdin_lock = threading.Lock()
        self._document_sent = threading.Event()
        self._granted_until = document.valid_until
        # A process that is killed cannot tidy up after itself.
        self._scratch = tempfile.TemporaryDirectory(prefix="bubu-pass-", ignore_cleanup_errors=True)
        try:
            self._process = self._start(list(command or pass_command()), dict(environment), document)
        except OSError:
            self._scratch.cleanup()
            raise
        self._answers: OwnerAnswers | None = None
        self._threads = [
            threading.Thread(target=self._read_errors, name=f"pass-{self.pid}-err", daemon=True),
            threading.Thread(target=self._read_lines, name=f"pass-{self.pid}-out", daemon=True),
            # In a thread: a document may be larger than a pipe holds, and the process may not be reading yet.
            threading.Thread(
                target=self._begin, args=(document.to_line(),), name=f"pass-{self.pid}-in", daemon=True
            ),
        ]
        try:
            if owners is not None:
                self._answers = OwnerAnswers(owners, self._tell_patiently, name=f"pass-{self.pid}-owners")
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:
            # Where threads have run out, a process that nobody listens to would wait for ever, and take more.
            self.close()
            raise OSError(f"nobody can listen to it: {error}") from error

    def _start(
        self, command: list[str], environment: dict[str, str], document: PassDocument
    ) -> subprocess.Popen[bytes]:
        settings = document.settings
        # A session of its own: Ctrl-C in a terminal is for the controller, which then asks its passes.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | {"TMPDIR": self._scratch.name},
            close_fds=True,
            pass_fds=(settings.descriptor,) if isinstance(settings, AgentSettings) else (),
            start_new_session=True,
        )

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

    def grant(self, valid_until: float) -> None:
        """Tell it that the controller leads until then, on `boot_seconds`; nothing if it knows that.

        A pass whose document holds no end needs none of this, and is told nothing.
        """
        granted = self._granted_until
        if granted is None or valid_until <= granted or not self._document_sent.is_set():
            return
        if self._tell(until_line(valid_until)):
            self._granted_until = valid_until

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def close(self) -> None:
        """Kill it if it still runs, wait for it, and release everything."""
        if self._answers is not None:
            self._answers.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()
        self._pipe(self._process.stdout).close()
        self._pipe(self._process.stderr).close()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _begin(self, document: str) -> None:
        self._tell(document)
        self._document_sent.set()

    def _tell(self, line: str) -> bool:
        # A process that died has closed its end; its exit is reported by the reader.
        if not self._stdin_lock.acquire(timeout=STDIN_WAIT_SECONDS):
            return False
        try:
            return self._write(line.encode())
        finally:
            self._stdin_lock.release()

    def _tell_patiently(self, line: bytes) -> bool:
        with self._stdin_lock:
            return self._write(line)

    def _write(self, line: bytes) -> bool:
        with contextlib.suppress(OSError, ValueError):
            stdin = self._pipe(self._process.stdin)
            stdin.write(line)
            stdin.flush()
            return True
        return False

    def _read_lines(self) -> None:
        for line in _lines_of(self._pipe(self._process.stdout).fileno()):
            try:
                self._take(PassLine.from_line(line))
            except ConfigurationError as error:
                self._note(f"{error}\n".encode())
            except Exception as error:  # noqa: BLE001 - whoever follows the pass waits for its end, told below
                self._note(f"a line of the pass cannot be read: {type(error).__name__}\n".encode())
        exit_code = self._process.wait()
        self._threads[0].join()
        self._put(PassEnded(exit_code, self._stderr.decode("utf-8", errors="replace")))

    def _take(self, line: PassLine) -> None:
        """Answer a question, remember what is only to be remembered, hand on the rest."""
        if line.question is not None:
            if self._answers is None or not self._answers.ask(line.question):
                self._note(b"the pass asked for owners out of turn\n")
        elif line.facts is not None:
            self.facts = line.facts
        elif line.cache is not None:
            self.reference_cache = line.cache
        else:
            self._put(line)

    def _put(self, line: PassLine | PassEnded) -> None:
        while True:
            try:
                return self._lines.put_nowait(line)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._lines.get_nowait()

    def _read_errors(self) -> None:
        descriptor = self._pipe(self._process.stderr).fileno()
        while chunk := os.read(descriptor, _READ_BYTES):
            self._note(chunk)

    def _note(self, text: bytes) -> None:
        with self._stderr_lock:
            self._stderr += text
            del self._stderr[:-STDERR_TAIL_BYTES]

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise AssertionError("all three streams are pipes")
        return stream


def _lines_of(descriptor: int) -> Iterator[bytes]:
    """Yield whole lines; one that is too long is cut, so that it counts as none of ours."""
    held = bytearray()
    while chunk := os.read(descriptor, _READ_BYTES):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield bytes(held) + line
            held.clear()
        held += rest
        del held[MAX_LINE_BYTES:]
    if held:
        yield bytes(held)
