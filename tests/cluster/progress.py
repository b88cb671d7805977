"""A program that takes long, and people who want to see how far it is.

Its two outputs are one and are read as they come; what happens upon a line, and at a steady pace while
there is none, is the caller's. Everything is called from the thread that asked, so an error of a caller
ends the reading. The caller also says what an end with another code than 0 means.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Ended", "Pace", "clock", "run_with_progress"]

_WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        code: its exit code.
        last_lines: what it said at last, indented, for the message of an error.
    """

    code: int
    last_lines: str


@dataclass(frozen=True, slots=True)
class Pace:
    """What is called while the program works, whether it says something or not.

    Attributes:
        seconds: the time from one call to the next.
        call: gets the seconds since the start.
    """

    seconds: float
    call: Callable[[float], None]


def run_with_progress(
    words: Sequence[str],
    on_line: Callable[[str], bool],
    *,
    folder: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    kept_lines: int = 15,
    pace: Pace | None = None,
    deadline_seconds: float | None = None,
) -> Ended:
    """Run a program to its end.

    Args:
        words: the program and its arguments.
        on_line: gets each line, and says whether it belongs to the last words if this goes wrong.
        folder: where it runs; here if absent.
        env: its environment; ours if absent.
        kept_lines: how many of the last lines are kept.
        pace: what is called at a steady pace.
        deadline_seconds: when it is killed. One without a deadline is never killed, not even when
            this process is interrupted: half an installation is worse than a wait.
    """
    started = time.monotonic()
    last: deque[str] = deque(maxlen=kept_lines)
    with subprocess.Popen(
        words,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.fileno()
        lines = _Lines()
        next_call = started + pace.seconds if pace else 0.0
        try:
            while not lines.ended:
                now = time.monotonic()
                if deadline_seconds is not None and now - started > deadline_seconds:
                    last.append(f"    given up after {clock(now - started)}")
                    process.kill()
                    break
                if pace and now >= next_call:
                    pace.call(now - started)
                    next_call += pace.seconds
                if select.select([output], [], [], _WAIT_SECONDS)[0]:
                    for line in lines.after(os.read(output, 65536)):
                        if on_line(line):
                            last.append(f"    {line}")
        except BaseException:
            if deadline_seconds is not None:
                process.kill()
            raise
    return Ended(process.returncode, "\n".join(last))


class _Lines:
    """Bytes made to lines: any end of a line ends one, as in a text file."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._begun = ""
        self.ended = False

    def after(self, piece: bytes) -> list[str]:
        """Return the lines that a piece completes; an empty piece is the end."""
        self.ended = not piece
        *whole, self._begun = (self._begun + self._decoder.decode(piece, final=self.ended)).split("\n")
        if self.ended and self._begun:
            whole.append(self._begun)
        return [line.rstrip() for line in whole]


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, ``2:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
