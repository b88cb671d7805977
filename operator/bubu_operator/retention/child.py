"""``bubu-operator retention-pass``: one pass in a process of its own.

Reads one document from stdin, runs the engine, writes checkpoints and the report to
stdout. Invariants: stdin is the lifeline: the moment it ends, the parent is gone and this
process exits at once, wherever it is (the engine may be killed anywhere); a line ``stop``
ends the pass in good order; no request is sent to the store after the time until which the
parent is known to lead, and one that is still under way soon afterwards is cut off by the
process's end, so a parent that was stopped cannot delete through us. No Kubernetes and no
Kopf is loaded here. Nothing but protocol lines can reach stdout, whatever a library prints.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import IO, Final

from bubu_operator.jobpass.opening import open_store
from bubu_operator.retention.document import STOP_LINE, LineType, PassDocument, PassLine, read_until
from bubu_storage.errors import StorageError
from bubu_storage.retention.report import PassReport
from bubu_storage.retention.runner import boot_seconds, run_pass

__all__ = ["main", "run_child"]

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PARENT_GONE: Final = 4
EXIT_LEADERSHIP_OVER: Final = 5

CUT_OFF_SECONDS: Final = 1.5
"""After the end of the parent's leadership, for a request that was sent before; a successor begins later."""

LOOK_SECONDS: Final = 0.25
"""Between two looks at the clock: a wait stands still while the machine sleeps, the leadership does not."""


class _Validity:
    """Until when the parent leads; None for ever."""

    def __init__(self, valid_until: float | None) -> None:
        self._valid_until = valid_until

    def extend(self, valid_until: float) -> None:
        if self._valid_until is not None:
            self._valid_until = max(self._valid_until, valid_until)

    def remaining_seconds(self) -> float:
        return float("inf") if self._valid_until is None else self._valid_until - boot_seconds()


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
    validity = _Validity(document.valid_until)
    threading.Thread(
        target=_lifeline, args=(stdin, rest, stop, validity), name="lifeline", daemon=True
    ).start()

    def send(kind: LineType, report: PassReport) -> None:
        try:
            out.write(PassLine(kind, report).to_line())
            out.flush()
        except OSError:
            os._exit(EXIT_PARENT_GONE)  # nobody hears us any more: the same as stdin's end

    try:
        with contextlib.closing(open_store(document.settings)) as backend:
            report = run_pass(
                backend,
                document.spec,
                document.cursor,
                on_checkpoint=lambda report: send(LineType.CHECKPOINT, report),
                should_stop=lambda: stop.is_set() or validity.remaining_seconds() <= 0,
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


def _lifeline(descriptor: int, data: bytes, stop: threading.Event, validity: _Validity) -> None:
    wanted = STOP_LINE.strip()
    while True:
        *lines, data = data.split(b"\n")
        for line in lines:
            text = line.decode("utf-8", errors="replace").strip()
            if text == wanted:
                stop.set()
            elif (until := read_until(text)) is not None:
                validity.extend(until)
        if _wait_for_data(descriptor, validity):
            try:
                chunk = os.read(descriptor, 4096)
            except OSError:
                chunk = b""
            if not chunk:
                os._exit(EXIT_PARENT_GONE)
            data += chunk


def _wait_for_data(descriptor: int, validity: _Validity) -> bool:
    """Wait for something to read; the process does not outlive the parent's leadership here."""
    left = validity.remaining_seconds() + CUT_OFF_SECONDS
    if left == float("inf"):
        return True
    readable, _, _ = select.select([descriptor], [], [], min(LOOK_SECONDS, max(0.0, left)))
    if not readable and validity.remaining_seconds() + CUT_OFF_SECONDS <= 0:
        os._exit(EXIT_LEADERSHIP_OVER)
    return bool(readable)
