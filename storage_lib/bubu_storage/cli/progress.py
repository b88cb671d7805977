"""One line of progress on standard error: only where a person watches, at most ten times a second."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import click

from bubu_storage.cli.show import human_bytes, plural

__all__ = ["Progress"]

_INTERVAL_SECONDS: Final = 0.1
_BAR_CELLS: Final = 20


class Progress:
    """Counts objects and bytes, from any thread; draws from whichever counts.

    Args:
        verb: what is being done, as "copying".
        shown: whether to draw; by default where standard error is a terminal.
        total_bytes: for a bar; None where it is not known.
        monotonic: clock, in seconds.
    """

    def __init__(
        self,
        verb: str,
        *,
        shown: bool | None = None,
        total_bytes: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verb = verb
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._drawn_at = monotonic()
        self._started = self._drawn_at
        self._width = 0
        self.total_bytes = total_bytes
        self.objects = 0
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()
        self._shown = False

    def clear(self) -> None:
        """Make room for another line."""
        with self._lock:
            if self._width:
                click.echo("\r" + " " * self._width + "\r", nl=False, err=True)
                self._width = 0

    def add(self, *, objects: int = 0, size_bytes: int = 0) -> None:
        """Count what has been done since."""
        with self._lock:
            self.objects += objects
            self.size_bytes += size_bytes
            if not self._shown:
                return
            now = self._monotonic()
            if now - self._drawn_at < _INTERVAL_SECONDS:
                return
            self._drawn_at = now
            line = self._line(now)
            padding = " " * max(0, self._width - len(line))
            self._width = len(line)
            click.echo(f"\r{line}{padding}", nl=False, err=True)

    def _line(self, now: float) -> str:
        rate = human_bytes(int(self.size_bytes / max(now - self._started, 0.001)))
        if self.total_bytes:
            share = min(1.0, self.size_bytes / self.total_bytes)
            cells = int(share * _BAR_CELLS)
            bar = "#" * cells + "-" * (_BAR_CELLS - cells)
            amount = f"{human_bytes(self.size_bytes)} of {human_bytes(self.total_bytes)} [{bar}] {share:.0%}"
            return f"{self._verb}: {amount}, {rate}/s"
        line = f"{self._verb}: {plural(self.objects, 'object')}"
        return f"{line}, {human_bytes(self.size_bytes)}, {rate}/s" if self.size_bytes else line
