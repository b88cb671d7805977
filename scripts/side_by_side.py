"""Run the tests in two lanes side by side: those without a cluster, and those on one.

``python -m scripts.side_by_side [PYTEST ARGUMENTS]`` is what ``make test`` calls. Cluster tests mostly
wait and the others mostly compute, so that together they take little longer than the slower lane alone.

- Every test runs in exactly one lane; markers decide which. Arguments are handed to every run; ``-m``
  selects among the tests of each lane, and a run that is left without tests is no failure unless all are.
- A failure is shown at once and stops nothing; the reports come whole when a run ends, never mixed, and
  the names of all failures once more at the end. ``build/tests/LANE.log`` holds all that a lane printed.
- Ctrl-C and SIGTERM reach every process of every lane, which gets the time to stop what it started; a
  second one kills. A lane dies with this process, and its children do not ignore SIGINT even if this one
  was started so, as shells start what they put into the background.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.errors import StartError
from tests.cluster.processes import ManagedProcess, spawn

ROOT: Final = Path(__file__).resolve().parents[1]
LOGS: Final = ROOT / "build" / "tests"
HEARTBEAT_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 60.0
NO_TESTS: Final = 5
"""pytest's exit code where nothing was selected."""

_OUTCOME: Final = re.compile(
    r"^(?P<test>\S.*?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*?(?:\[ *(?P<percent>\d+)%\])?$"
)
_DOTS: Final = re.compile(r"^(?:\S+\.py )?[.FEsxX]+ +\[ *(?P<percent>\d+)%\]$")
_REPORT: Final = re.compile(r"^=+ (FAILURES|ERRORS|warnings summary|slowest .*|short test summary info) =+$")
_SUMMARY: Final = re.compile(r"^=+ short test summary info =+$")
_TOTALS: Final = re.compile(r"^(?:=+ )?(?=.*\bin [0-9.]+s)(?P<counts>no tests|(?:\d+ [a-z]+(?:, )?)+)")
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) \S")


@dataclass(frozen=True, slots=True)
class Lane:
    """Tests that run one after the other.

    Attributes:
        name: stands before its lines, and is the name of its log.
        selections: an expression of markers for each of its runs of pytest, in order.
    """

    name: str
    selections: tuple[str, ...]


LANES: Final = (
    Lane("units", ("not cluster and not node", "node")),
    Lane("cluster", ("cluster and not node",)),
)


def commands(lane: Lane, arguments: Sequence[str]) -> list[list[str]]:
    """Return the command line of each run of a lane; each lane keeps pytest's cache for itself."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", dest="markers", default="")
    own, rest = parser.parse_known_args(list(arguments))
    cache = f"cache_dir=.pytest_cache/{lane.name}"
    return [
        [
            *(sys.executable, "-m", "pytest", "-v", "-o", cache, *rest),
            *("-m", f"({selection}) and ({own.markers})" if own.markers else selection),
        ]
        for selection in lane.selections
    ]


class LaneRun:
    """One lane at work: follows what its processes write, and remembers what matters.

    Attributes:
        codes: the exit codes of the runs that have ended.
        counts: passed, failed and so on, over all of its runs.
        failures: the lines that name what failed.
    """

    def __init__(
        self, lane: Lane, todo: Sequence[Sequence[str]], log: Path, say: Callable[[str], None]
    ) -> None:
        self.lane = lane
        self.codes: list[int] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._todo = [list(command) for command in todo]
        self._log = log
        self._say = say
        self._process: ManagedProcess | None = None
        self._rest = b""
        self._percent = 0
        self._totals = ""
        self._report: list[str] = []
        self._summary: list[str] | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # whoever still writes the old one keeps it
        log.touch()
        self._output = log.open("rb")

    @property
    def is_done(self) -> bool:
        """Tell whether all of its runs have ended."""
        return self._process is None and not self._todo

    @property
    def progress(self) -> str:
        """Where it is, for the heartbeat."""
        runs = len(self.codes) + len(self._todo) + (self._process is not None)
        if self.is_done:
            return f"{self.lane.name} done"
        part = f" of run {len(self.codes) + 1}/{runs}" if runs > 1 else ""
        # pytest names a test when it begins: a line without an end tells what runs now.
        name = self._rest.decode(errors="replace").split(" ")[0]
        now = f" ({name})" if "::" in name else ""
        return f"{self.lane.name} {self._percent}%{part}{now}"

    def step(self) -> None:
        """Read what there is to read, and go on to the next run where one has ended."""
        if self._process is None:
            if self._todo:
                self._percent = 0
                self._process = spawn(self.lane.name, self._todo.pop(0), log=self._log, cwd=ROOT)
            return
        ended = not self._process.is_running()
        self._read()
        if not ended:
            return
        if self._rest:
            self._line(self._rest.decode(errors="replace"))
            self._rest = b""
        code = self._process.popen.returncode if self._process.popen else 1
        self._process = None
        self._conclude(code)

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the run under way, and begin no other."""
        self._todo.clear()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Let go of the log."""
        self._output.close()

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._output.read()).split(b"\n")
        for line in lines:
            self._line(line.decode(errors="replace").rstrip("\r"))

    def _line(self, line: str) -> None:
        if totals := _TOTALS.match(line):
            self._totals = totals["counts"]
        if self._report or _REPORT.match(line):
            self._report.append(line)
            if _SUMMARY.match(line):
                self._summary = []
            elif self._summary is not None and _FAILED.match(line):
                self._summary.append(line)
        elif found := _OUTCOME.match(line) or _DOTS.match(line):
            self._percent = int(found["percent"] or self._percent)
            if found.groupdict().get("outcome") in {"FAILED", "ERROR"}:
                self._say(f"[{self.lane.name}] {found['test']} {found['outcome']}")
        elif line:
            self._say(f"[{self.lane.name}] {line}")

    def _conclude(self, code: int) -> None:
        """Take in what the run that has just ended came to."""
        self.codes.append(code)
        # The last such line alone: what a test has printed may look like one.
        for count, what in re.findall(r"(\d+) ([a-z]+)", self._totals):
            self.counts["error" if what == "errors" else what] += int(count)
        if self._report:
            self._say(f"[{self.lane.name}] report of run {len(self.codes)}:")
            self._say("\n".join(self._report))
        self.failures += self._summary or []
        if not self._totals or (code not in {0, NO_TESTS} and not self._summary):
            # Exit code 0 as well: code under test that leaves the process must not pass for success.
            self.failures.append(f"pytest ended with {code} and without a summary: see {self._log}")
        if code not in {0, 1, NO_TESTS}:
            self._todo.clear()
        self._totals, self._report, self._summary = "", [], None


class Runner:
    """All lanes, until each has ended."""

    def __init__(self, runs: Sequence[LaneRun], say: Callable[[str], None]) -> None:
        self._runs = runs
        self._say = say
        self._signals: list[int] = []

    def receive(self, number: int, _frame: object = None) -> None:
        """Remember a signal; the loop acts on it."""
        self._signals.append(number)

    def run(self, heartbeat_seconds: float = HEARTBEAT_SECONDS, grace_seconds: float = GRACE_SECONDS) -> int:
        """Work until all lanes have ended; return the exit code."""
        began = beat = time.monotonic()
        acted, kill_at = 0, float("inf")
        while not all(run.is_done for run in self._runs):
            for run in self._runs:
                run.step()
            now = time.monotonic()
            if len(self._signals) > acted or now > kill_at:
                first = acted == 0
                acted = max(len(self._signals), 1)
                kill_at = now + grace_seconds if first else float("inf")
                self._say("stopping; once more kills" if first else "killing what is left")
                for run in self._runs:
                    run.signal(signal.SIGINT if first else signal.SIGKILL)
            if now - beat >= heartbeat_seconds:
                beat = now
                clock = time.strftime("%M:%S", time.gmtime(now - began))
                self._say(f"{clock}  " + ", ".join(run.progress for run in self._runs))
            time.sleep(0.1)
        if self._signals:
            return 128 + self._signals[0]
        return self._conclude()

    def _conclude(self) -> int:
        totals: Counter[str] = Counter()
        for run in self._runs:
            totals += run.counts
            for line in run.failures:
                self._say(f"[{run.lane.name}] {line}")
        words = [f"{totals['passed']} passed", f"{totals['failed'] + totals['error']} failed"]
        self._say(", ".join([*words, f"{totals['skipped']} skipped"]))
        codes = {abs(code) for run in self._runs for code in run.codes}
        if codes == {NO_TESTS}:
            return NO_TESTS
        return max(codes - {NO_TESTS}) or int(any(run.failures for run in self._runs))


def main(arguments: Sequence[str], lanes: Sequence[Lane] = LANES, logs: Path = LOGS) -> int:
    """Run the lanes; return the exit code: 0 where everything passed."""

    def say(text: str) -> None:
        print(text, flush=True)

    runs = [LaneRun(lane, commands(lane, arguments), logs / f"{lane.name}.log", say) for lane in lanes]
    runner = Runner(runs, say)
    # Handlers, even where SIGINT was ignored: what is caught is at its default again in the children.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, runner.receive)
    say("\n".join(f"[{lane.name}] all that it prints: {logs / lane.name}.log" for lane in lanes))
    try:
        return runner.run()
    except StartError as error:
        say(str(error))
        return 1
    finally:
        for run in runs:
            run.signal(signal.SIGKILL)
            run.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
