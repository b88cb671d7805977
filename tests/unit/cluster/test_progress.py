"""What a long-running program says is seen while it works, and it ends when it should."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, wants_logs
from tests.cluster.progress import Ended, Pace, clock, run_with_progress

WAITS = """
import os, sys, time
patience = time.monotonic() + 60
while not os.path.exists(sys.argv[1]) and time.monotonic() < patience: time.sleep(0.01)
"""


def python(source: str, *arguments: object) -> list[str]:
    """Return a command that runs some Python."""
    return [sys.executable, "-c", source, *map(str, arguments)]


def said(source: str) -> tuple[list[str], Ended]:
    """Run some Python; return the lines that were seen, and its end."""
    lines: list[str] = []

    def see(line: str) -> bool:
        lines.append(line)
        return True

    return lines, run_with_progress(python(source), see)


def test_a_line_is_seen_while_the_program_works(tmp_path: Path):
    """It goes on only after somebody has seen it."""
    sign = tmp_path / "seen"

    def see(line: str) -> bool:
        assert line == "at work"
        sign.touch()
        return True

    ended = run_with_progress(
        python(f"print('at work', flush=True)\n{WAITS}\nsys.exit(not os.path.exists(sys.argv[1]))", sign), see
    )

    assert ended == Ended(0, "    at work")


def test_every_end_of_a_line_ends_one():
    """Programs write progress with carriage returns; both outputs are one; the last line may have no end."""
    lines, _ = said(
        "import os\n"
        r"os.write(1, b'one\rtwo\r\n'); os.write(2, b'\xe2\x82'); os.write(1, b'\xac \xff  \n\nlast')"
    )

    assert lines == ["one", "two", "\N{EURO SIGN} \N{REPLACEMENT CHARACTER}", "", "last"]


def test_last_words_are_those_that_count_and_the_last_of_them():
    """So that an error says why, and is no page long."""
    ended = run_with_progress(
        python("for number in range(9): print(number)\nraise SystemExit(3)"),
        lambda line: line != "7",
        kept_lines=3,
    )

    assert ended == Ended(3, "    5\n    6\n    8")


def test_a_silent_program_still_shows_that_it_works(tmp_path: Path):
    """The pace does not depend on its lines."""
    sign = tmp_path / "seen"
    seen: list[float] = []

    def call(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == 3:
            sign.touch()

    run_with_progress(python(WAITS, sign), lambda _line: True, pace=Pace(0.3, call))

    assert sign.exists()
    assert seen == sorted(seen)
    assert seen[2] >= 0.9


def test_what_takes_too_long_is_killed_and_says_so():
    """The reason is among the last words."""
    ended = run_with_progress(
        python("import time\ntime.sleep(300)"), lambda _line: True, deadline_seconds=0.3
    )

    assert ended.code == -9
    assert re.fullmatch(r"    given up after 0:[0-9]{2}", ended.last_lines)


@pytest.mark.parametrize("deadline_seconds", [None, 60.0])
def test_only_a_program_with_a_deadline_is_killed_when_we_are_interrupted(
    tmp_path: Path, deadline_seconds: float | None
):
    """An installation is let finish what it has begun."""
    sign, done = tmp_path / "sign", tmp_path / "done"
    source = f"print('begun', flush=True)\n{WAITS}\nopen(sys.argv[2], 'w').close()"

    def interrupt(_line: str) -> bool:
        if deadline_seconds is None:
            sign.touch()
        raise SystemExit

    with pytest.raises(SystemExit):
        run_with_progress(python(source, sign, done), interrupt, deadline_seconds=deadline_seconds)

    assert done.exists() == (deadline_seconds is None)


def test_it_runs_where_and_with_what_it_is_told(tmp_path: Path):
    """Its own environment and folder are not ours."""
    lines: list[str] = []
    run_with_progress(
        python("import os\nprint(os.getcwd(), os.environ['ONLY'], 'HOME' in os.environ)"),
        lambda line: not lines.append(line),
        folder=tmp_path,
        env={"ONLY": "this"},
    )

    assert lines == [f"{os.path.realpath(tmp_path)} this False"]


def test_times_are_minutes_and_seconds():
    """As people read them."""
    assert [clock(seconds) for seconds in (0, 9.9, 125, 3600)] == ["0:00", "0:09", "2:05", "60:00"]


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (None, False),
        (KeyboardInterrupt, False),
        (SystemExit, False),
        (ValueError, True),
        (AssertionError, True),
    ],
)
def test_logs_are_kept_after_an_error_and_not_after_a_wish_to_end(
    error: type[BaseException] | None, kept: bool, tmp_path: Path
):
    """Where nothing went wrong, nobody will read them."""
    seen: list[bool] = []
    cluster = Cluster("local", "test", tmp_path, "", "", tmp_path, None, tmp_path, on_stop=seen.append)

    def body() -> None:
        with cluster:
            if error:
                raise error

    if error:
        with pytest.raises(error):
            body()
    else:
        body()

    assert (wants_logs(error), seen) == (kept, [kept])
