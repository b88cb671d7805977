"""``bubu-operator retention-pass``: one pass in a process of its own.

Reads one document from stdin, runs the engine, writes checkpoints and the report to
stdout. Invariants: stdin is the lifeline: the moment it ends, the parent is gone and this
process exits at once, wherever it is (the engine may be killed anywhere); a line ``stop``
ends the pass in good order. No Kubernetes and no Kopf is loaded here. Nothing but protocol
lines can reach stdout, whatever a library prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import IO, Final

from bubu_operator.retention.document import STOP_LINE, LineType, PassDocument, PassLine
from bubu_storage.backend.factory import open_backend
from bubu_storage.errors import StorageError
from bubu_storage.retention.report import PassReport
from bubu_storage.retention.runner import run_pass

__all__ = ["main", "run_child"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PARENT_GONE: Final = 4


def main() -> int:
    """Run the pass that stdin describes; return the exit code."""
    # Our own copy of stdout; what anybody else prints goes to stderr.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1) as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        stop = threading.Event()

        def on_term(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, on_term)
        # The lifeline is read unbuffered by descriptor: a thread that blocks in sys.stdin would hold up exit.
        return run_child(sys.stdin.fileno(), out, stop)


def run_child(stdin: int, out: IO[str], stop: threading.Event) -> int:
    """Do the work of `main` on the given descriptor and stream."""
    head, rest = _read_line(stdin)
    try:
        document = PassDocument.from_line(head)
    except StorageError as error:
        out.write(PassLine(LineType.ERROR, message=str(error)).to_line())
        return EXIT_USAGE
    threading.Thread(target=_lifeline, args=(stdin, rest, stop), name="lifeline", daemon=True).start()

    def send(kind: LineType, report: PassReport) -> None:
        try:
            out.write(PassLine(kind, report).to_line())
            out.flush()
        except OSError:
            os._exit(EXIT_PARENT_GONE)  # nobody hears us any more: the same as stdin's end

    try:
        with contextlib.closing(open_backend(document.settings)) as backend:
            report = run_pass(
                backend,
                document.spec,
                document.cursor,
                on_checkpoint=lambda report: send(LineType.CHECKPOINT, report),
                should_stop=stop.is_set,
            )
    except (StorageError, OSError) as error:
        out.write(PassLine(LineType.ERROR, message=f"{type(error).__name__}: {error}").to_line())
        return EXIT_FAILED
    send(LineType.REPORT, report)
    return EXIT_OK


def _read_line(descriptor: int) -> tuple[str, bytes]:
    """Return the first line, and what was read beyond it."""
    data = b""
    while b"\n" not in data:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        data += chunk
    head, _, rest = data.partition(b"\n")
    return head.decode("utf-8", errors="replace"), rest


def _lifeline(descriptor: int, data: bytes, stop: threading.Event) -> None:
    wanted = STOP_LINE.strip().encode()
    while True:
        *lines, data = data.split(b"\n")
        if any(line.strip() == wanted for line in lines):
            stop.set()
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:
            chunk = b""
        if not chunk:
            os._exit(EXIT_PARENT_GONE)
        data += chunk
