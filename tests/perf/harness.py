"""What the benchmarks share: medians of interleaved rounds, ratios, goals, and how they are shown.

A benchmark measures ours and its peers in the same run and prints ratios, never bare times:
machines differ, ratios much less. Peers are measured in turn within each round, so that a
disturbance hits all of them, and each round begins with another one, so that none always finds what
the same one has left behind (a disk that is still writing, say). Where a peer would take minutes, its
rate is measured on fewer objects, and the figures say on how many.

``--json`` prints the same as JSON on standard output (progress goes to standard error), ``--check``
exits with 1 when a goal is missed, ``--rounds`` and ``--scale`` shorten a run (a scaled run says so, and
is no measurement for the record), ``--only`` leaves cases out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

__all__ = ["Goal", "Options", "Report", "Rounds", "parse_options"]

_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of a benchmark.

    Attributes:
        json: print JSON instead of tables.
        check: exit with 1 when a goal is missed.
        rounds: how often everything is measured; the median counts.
        scale: factor for the numbers of objects, at most 1.
        only: text that the names of cases to run must contain.
    """

    json: bool
    check: bool
    rounds: int
    scale: float
    only: str

    def count(self, full: int) -> int:
        """Return a number of objects, scaled; at least 1."""
        return max(1, round(full * self.scale))

    def wants(self, case: str) -> bool:
        """Tell whether a case of this name is to be run."""
        return self.only in case


def parse_options(description: str, arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    parser.add_argument(
        "--rounds", type=int, default=_ROUNDS, help="the median of so many counts (default 5)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the numbers of objects, up to 1")
    parser.add_argument("--only", default="", help="run only cases whose name contains this")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or not 0 < given.scale <= 1:
        parser.error("--rounds must be 1 or more, --scale above 0 and at most 1")
    return Options(given.json, given.check, given.rounds, given.scale, given.only)


class Rounds:
    """Measures several contestants in turn, several times.

    Args:
        rounds: how often.
        title: of the case, for progress lines on standard error.
        keep_order: begin each round with the first contestant: the others build on it.
    """

    def __init__(self, rounds: int, title: str, *, keep_order: bool = False) -> None:
        self._rounds = rounds
        self._title = title
        self._keep_order = keep_order
        self._contestants: dict[str, Callable[[], float | None]] = {}

    def add(self, name: str, run: Callable[[], float | None]) -> None:
        """Add a contestant.

        Args:
            name: as shown.
            run: does the work once. A number that it returns is the measurement (set-up left
                out); None means that the time of the whole call is, in seconds.
        """
        self._contestants[name] = run

    def medians(self) -> dict[str, float]:
        """Run everything and return the median of each contestant."""
        seen: dict[str, list[float]] = {name: [] for name in self._contestants}
        contestants = list(self._contestants.items())
        for number in range(self._rounds):
            first = 0 if self._keep_order else number % len(contestants)
            for name, run in contestants[first:] + contestants[:first]:
                started = time.perf_counter()
                value = run()
                value = time.perf_counter() - started if value is None else value
                seen[name].append(value)
                print(f"  {self._title}, round {number + 1}: {name} {value:.4g}", file=sys.stderr, flush=True)
        return {name: statistics.median(values) for name, values in seen.items()}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a number is held against.

    Attributes:
        text: as shown, such as ``>= 0.9``.
        reached: whether it is.
    """

    text: str
    reached: bool

    @classmethod
    def at_least(cls, value: float, wanted: float) -> Goal:
        """A number that must not be smaller."""
        return cls(f">= {wanted:g}", value >= wanted)

    @classmethod
    def below(cls, value: float, wanted: float) -> Goal:
        """A number that must stay below."""
        return cls(f"< {wanted:g}", value < wanted)


@dataclass(frozen=True, slots=True)
class _Line:
    case: str
    figures: dict[str, str]
    ratio: str
    value: float
    goal: Goal | None


@dataclass(slots=True)
class Report:
    """Collects the results of a benchmark and shows them.

    Attributes:
        title: of the benchmark.
        options: its command line.
    """

    title: str
    options: Options
    _lines: list[_Line] = field(default_factory=list[_Line])

    def add(
        self, case: str, ratio: str, value: float, *, figures: dict[str, str], goal: Goal | None = None
    ) -> None:
        """Add a result.

        Args:
            case: what was measured.
            ratio: what the value is, such as ``ours / boto3``.
            value: the ratio (or another number with a goal).
            figures: the numbers behind it, with units, by contestant.
            goal: what is wanted; None for a ratio that is merely reported.
        """
        self._lines.append(_Line(case, figures, ratio, value, goal))

    def finish(self) -> int:
        """Show everything; return the exit code.

        Raises:
            SystemExit: ``--only`` left nothing to run, which must not look like a success.
        """
        if not self._lines:
            print(f"no case of this benchmark has {self.options.only!r} in its name", file=sys.stderr)
            raise SystemExit(2)
        missed = [line for line in self._lines if line.goal is not None and not line.goal.reached]
        if self.options.json:
            lines = [asdict(line) for line in self._lines]
            full = self.options.scale == 1.0
            print(json.dumps({"title": self.title, "full": full, "results": lines}, indent=2))
        else:
            self._print_table()
        if missed and self.options.check:
            for line in missed:
                goal = line.goal.text if line.goal else ""
                print(
                    f"MISSED: {line.case}: {line.ratio} is {line.value:.3g}, wanted {goal}", file=sys.stderr
                )
            return 1
        return 0

    def _print_table(self) -> None:
        print(
            f"\n{self.title}" + ("" if self.options.scale == 1.0 else f" (scaled by {self.options.scale:g})")
        )
        case = ""
        shown: dict[str, str] = {}
        for line in self._lines:
            if line.case != case:
                case, shown = line.case, {}
                print(f"  {case}")
            new = {name: text for name, text in line.figures.items() if shown.get(name) != text}
            shown |= new
            if new:
                print(f"      {', '.join(f'{name} {text}' for name, text in new.items())}")
            goal = "" if line.goal is None else f"   goal {line.goal.text}: {_verdict(line.goal)}"
            print(f"      {line.ratio} = {line.value:.3g}{goal}")


def _verdict(goal: Goal) -> str:
    return "reached" if goal.reached else "MISSED"
