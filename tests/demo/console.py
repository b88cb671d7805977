"""How the demo talks: numbered steps with their time, checks that must hold, plain tables.

A check that does not hold raises `DemoFailedError`; nothing is ever printed as done that
was not checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.cluster.processes import wait_until

__all__ = ["DemoFailedError", "Narrator"]


class DemoFailedError(Exception):
    """A promise of the demo does not hold; the message says which."""


class Narrator:
    """Prints what happens, with the seconds since the start in front."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._start = time.monotonic()
        self._step = 0

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._start

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Open a numbered step and close it with the time it took."""
        self._step += 1
        began = time.monotonic()
        self.console.print(f"\n[bold]{self._step:>2}. {escape(title)}[/bold]")
        yield
        self.console.print(f"    [dim]{time.monotonic() - began:.1f} s[/dim]")

    def say(self, text: str) -> None:
        """Print one line of a step."""
        self.console.print(f"    {escape(text)}")

    def check(self, holds: bool, promise: str, otherwise: str = "") -> None:
        """Print a promise that holds, or end the demo.

        Raises:
            DemoFailedError: when it does not hold; ``otherwise`` says what was seen.
        """
        if not holds:
            raise DemoFailedError(f"{promise}: no. {otherwise}".strip())
        self.done(promise)

    def require(self, holds: bool, otherwise: str) -> None:
        """End the demo unless this holds; nothing is printed where it does.

        Raises:
            DemoFailedError: it does not.
        """
        if not holds:
            raise DemoFailedError(otherwise)

    def done(self, text: str) -> None:
        """Print what has just been waited for, and so holds."""
        self.console.print(f"    [green]✓[/green] {escape(text)}")

    def output(self, command: str, text: str) -> None:
        """Print a command and what it answered, as on a terminal."""
        self.console.print(f"    [cyan]$ {escape(command)}[/cyan]")
        for line in text.rstrip().splitlines():
            self.console.print(f"    {escape(line)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        for line in self._lines(table):
            self.console.print(f"    {line}", markup=False)

    def _lines(self, table: Table) -> list[str]:
        with self.console.capture() as captured:
            self.console.print(table, soft_wrap=False, width=max(60, self.console.width - 4))
        return captured.get().rstrip().splitlines()

    def wait(
        self,
        what: str,
        condition: Callable[[], bool],
        *,
        deadline_seconds: float,
        describe: Callable[[], str] = lambda: "",
    ) -> None:
        """Wait until ``condition`` holds.

        Raises:
            DemoFailedError: after ``deadline_seconds``; ``describe`` says how things stood.
        """
        try:
            wait_until(condition, deadline_seconds, what)
        except TimeoutError as error:
            raise DemoFailedError(
                f"{what} did not happen within {deadline_seconds:g} s. {describe()}".strip()
            ) from error
