"""What commands print: sizes, times, tables, JSON, and the stream that takes them.

Tables are for people (short sizes, control characters made visible, so that a key can never
move a terminal's cursor); JSON is for programs (exact, one document a line). Times are ISO 8601, UTC.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from bubu_storage.backend.types import EPOCH
from bubu_storage.cli.failures import Failure

__all__ = ["Out", "discard_stdout", "exact_json", "human_bytes", "iso_time", "plural", "printable", "table"]

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_SHORT = 10


def human_bytes(size_bytes: int) -> str:
    """Return a size for people: ``17 B``, ``1.2 KiB``, ``640 MiB``."""
    if size_bytes < _STEP:
        return f"{size_bytes} B"
    value = float(size_bytes)
    unit = ""
    for unit in _UNITS:  # noqa: B007 - the last one is used for all that is larger
        value /= _STEP
        if value < _STEP - 0.5:
            break
    return f"{value:.1f} {unit}" if value < _SHORT - 0.05 else f"{value:.0f} {unit}"


def iso_time(moment: datetime) -> str:
    """Return a time as ``2026-11-21T09:03:08Z``; "" where the store gave none."""
    if moment == EPOCH:
        return ""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def printable(text: str) -> str:
    """Return a text for a table: characters that print nothing are written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape", "backslashreplace").decode("ascii")
        for mark in text
    )


def plural(count: int, noun: str) -> str:
    """Return ``1 object``, ``1,234 objects``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def exact_json(value: Any) -> str:
    """Return one line of JSON; characters that print nothing are escaped, since it may be read by eye too."""
    line = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    if line.isprintable():
        return line
    return "".join(mark if mark.isprintable() else json.dumps(mark)[1:-1] for mark in line)


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> list[str]:
    """Return aligned lines; the last column is not padded."""
    every = [header, *rows] if header else list(rows)
    if not every:
        return []
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]) - 1)]
    return [
        "  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in every
    ]


class Out:
    """Standard output as bytes: UTF-8 whatever the locale says."""

    def __init__(self) -> None:
        self._stream: IO[bytes] = sys.stdout.buffer

    def line(self, text: str) -> None:
        """Write one line."""
        self.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def json(self, value: Any) -> None:
        """Write one line of JSON."""
        self.line(exact_json(value))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes as they are.

        Raises:
            Failure: standard output is full or closed.
            BrokenPipeError: its reader went away.
        """
        with _said_aloud():
            self._stream.write(data)

    def flush(self) -> None:
        """Hand over what has been written: readers see pages as they come, and a gone reader is noticed."""
        with _said_aloud():
            self._stream.flush()


@contextlib.contextmanager
def _said_aloud() -> Generator[None]:
    """Give the system's errors the name of what they are about."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise Failure(f"standard output cannot be written: {error.strerror}") from error


def discard_stdout() -> None:
    """Let the interpreter's own last flush go nowhere instead of failing aloud."""
    with contextlib.suppress(Exception):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
