"""``make test``: two lanes of pytest, of which each test is in one, and which end together."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scripts.side_by_side import LANES, NO_TESTS, Lane, LaneRun, Runner, commands

ROOT = Path(__file__).resolve().parents[3]


class Lanes:
    """Lanes of commands of a test's own, and what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.runs: list[LaneRun] = []
        self.runner = Runner(self.runs, self.say)
        self.answers: dict[str, int] = {}

    def say(self, text: str) -> None:
        """Keep a line; send a signal to the runner where one is wanted as an answer to it."""
        self.said.append(text)
        for word, number in self.answers.items():
            if word in text:
                self.runner.receive(number)

    def add(self, name: str, *todo: list[str]) -> LaneRun:
        """Add a lane."""
        self.runs.append(LaneRun(Lane(name, ()), todo, self.folder / "logs" / f"{name}.log", self.say))
        return self.runs[-1]

    def python(self, name: str, code: str) -> LaneRun:
        """Add a lane that runs some Python."""
        return self.add(name, [sys.executable, "-u", "-c", textwrap.dedent(code)])

    def tests(self, name: str, code: str, *arguments: str) -> LaneRun:
        """Add a lane of real tests."""
        return self.add(name, self.pytest(name, code, *arguments))

    def pytest(self, name: str, code: str, *arguments: str) -> list[str]:
        """Write a module of tests; return the command that runs them."""
        module = self.folder / name / "test_it.py"
        module.parent.mkdir()
        module.write_text(textwrap.dedent(code))
        settings = self.folder / name / "pytest.ini"
        settings.write_text("[pytest]\n")
        return [sys.executable, "-m", "pytest", "-v", "-c", str(settings), *arguments, str(module)]


@pytest.fixture
def lanes(tmp_path):
    """Lanes that end with the test."""
    made = Lanes(tmp_path)
    yield made
    for run in made.runs:
        run.signal(signal.SIGKILL)
        run.close()


@pytest.mark.parametrize(("cluster", "node"), list(itertools.product([True, False], repeat=2)))
def test_each_test_is_in_one_run(cluster, node):
    """Whatever its markers are."""
    selections = [one for lane in LANES for one in lane.selections]
    chosen = [one for one in selections if eval(one, {"cluster": cluster, "node": node})]  # noqa: S307

    assert len(chosen) == 1


def test_arguments_go_to_every_run_and_markers_select_within_a_lane():
    """``-m`` does not undo the division into lanes, and no two lanes write one cache."""
    both = [commands(lane, ["-x", "-m", "s3 or slow", "tests/s3", "-k", "a or b"]) for lane in LANES]

    for lane, runs in zip(LANES, both, strict=True):
        assert [run[-1] for run in runs] == [f"({one}) and (s3 or slow)" for one in lane.selections]
        for run in runs:
            assert run[-6:-2] == ["-x", "tests/s3", "-k", "a or b"]
            assert run.count("-m") == 2, "python's and pytest's"
            assert f"cache_dir=.pytest_cache/{lane.name}" in run


def test_without_markers_a_lane_has_its_own():
    """And nothing else is selected."""
    assert [run[-2:] for run in commands(LANES[1], [])] == [["-m", "cluster and not node"]]


def test_a_failure_stops_nothing_and_is_told_whole_at_the_end(lanes):
    """It is named at once, reported when its run ends, and named again last; everything is in the logs."""
    first = "def test_good(): pass\ndef test_bad():\n    print('kept', 'output')\n    assert 1 == 2\n"
    lanes.tests("one", first, "-p", "no:randomly")
    second = lanes.pytest("two", "def test_more(): pass\n")
    lanes.runs[0]._todo.append(second)
    lanes.tests("other", "import pytest\ndef test_fine(): pass\n@pytest.mark.skip\ndef test_away(): pass\n")

    assert lanes.runner.run(heartbeat_seconds=1000) == 1

    at_once, report, named = [
        index for index, text in enumerate(lanes.said) if "test_bad" in text and "collect" not in text
    ]
    assert lanes.said[at_once].startswith("[one] ")
    assert lanes.said[at_once].endswith("test_it.py::test_bad FAILED")
    assert "kept output" in lanes.said[report]
    assert "short test summary info" in lanes.said[report]
    assert named == len(lanes.said) - 2
    assert lanes.said[named].startswith("[one] FAILED ")
    assert lanes.said[-1] == "3 passed, 1 failed, 1 skipped"
    assert "test_good PASSED" in (lanes.folder / "logs" / "one.log").read_text()
    assert "test_more PASSED" in (lanes.folder / "logs" / "one.log").read_text()
    assert "test_fine PASSED" in (lanes.folder / "logs" / "other.log").read_text()


def test_a_lane_without_tests_is_no_failure(lanes):
    """As when a path or ``-k`` selects tests of one lane only."""
    lanes.tests("one", "def test_good(): pass\n")
    lanes.tests("none", "")

    assert lanes.runner.run() == 0
    assert lanes.said[-1] == "1 passed, 0 failed, 0 skipped"


def test_no_test_at_all_is_one(lanes):
    """A word in ``-k`` that nothing has must not look like success."""
    lanes.tests("one", "")
    lanes.tests("two", "")

    assert lanes.runner.run() == NO_TESTS


def test_a_fixture_that_fails_counts(lanes):
    """So does one that fails after its test has passed."""
    lanes.tests(
        "one",
        """
        import pytest
        @pytest.fixture
        def late():
            yield
            raise RuntimeError
        def test_good(late): pass
        """,
    )

    assert lanes.runner.run() == 1
    assert lanes.said[-1] == "1 passed, 1 failed, 0 skipped"
    assert any(text.startswith("[one] ERROR ") for text in lanes.said)


@pytest.mark.parametrize("code", ["__import__('os')._exit(0)", "__import__('os')._exit(3)", "1/0"])
def test_pytest_that_breaks_is_a_failure(lanes, code):
    """And says where to look; a lane that goes on after it would hide it."""
    run = lanes.tests("one", code)
    run._todo.append(lanes.pytest("two", "def test_more(): pass\n"))

    assert lanes.runner.run() != 0
    assert "1 failed" in lanes.said[-1] or any("one.log" in text for text in lanes.said)


def test_a_killed_lane_is_a_failure(lanes):
    """The kernel may end it when memory is short."""
    lanes.python("one", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    assert lanes.runner.run() == 9
    assert "without a summary" in lanes.said[-2]


def test_a_signal_reaches_everything_and_is_waited_for(lanes):
    """Children as well, as Ctrl-C does; what they say while they stop is still shown."""
    lanes.python(
        "one",
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", '''
        import time
        try:
            print("ready", flush=True); time.sleep(300)
        except KeyboardInterrupt:
            time.sleep(0.3); print("child has stopped", flush=True)
        '''.replace("        ", "", 7)])
        try:
            child.wait()
        except KeyboardInterrupt:
            child.wait()
            print("parent has stopped")
        """,
    )
    lanes.runs[0]._todo.append([sys.executable, "-c", "print('another run')"])
    lanes.answers = {"[one] ready": signal.SIGTERM}

    assert lanes.runner.run(heartbeat_seconds=1000) == 128 + signal.SIGTERM
    assert lanes.said[-2:] == ["[one] child has stopped", "[one] parent has stopped"]


STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready")
time.sleep(300)
"""


def test_a_second_signal_kills(lanes):
    """For somebody who does not want to wait."""
    lanes.python("one", STUBBORN)
    lanes.answers = {"[one] ready": signal.SIGINT, "stopping": signal.SIGINT}

    assert lanes.runner.run() == 128 + signal.SIGINT
    assert "killing what is left" in lanes.said


def test_what_does_not_stop_in_time_is_killed(lanes):
    """CI waits for nobody."""
    lanes.python("one", STUBBORN)
    lanes.answers = {"[one] ready": signal.SIGINT}

    assert lanes.runner.run(grace_seconds=0.2) == 128 + signal.SIGINT
    assert "killing what is left" in lanes.said


def test_the_heartbeat_says_how_far_each_lane_is_and_what_runs(lanes):
    """A test that hangs is seen by its name."""
    lanes.tests(
        "one",
        """
        import pathlib, time
        def test_first(): pass
        def test_hangs():
            deadline = time.monotonic() + 120
            while not pathlib.Path(__file__).with_name("go").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        """,
        "-p", "no:randomly",
    )  # fmt: skip
    plain = lanes.say

    def say(text: str) -> None:
        plain(text)
        if "one 50% (" in text and "::test_hangs)" in text:
            (lanes.folder / "one" / "go").touch()

    lanes.runner._say = say

    assert lanes.runner.run(heartbeat_seconds=0) == 0


def test_sigint_is_not_ignored_in_the_lanes(tmp_path):
    """Even where this process ignores it, as what a shell starts in the background does."""
    driver = """
    import sys
    from scripts import side_by_side
    show = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    side_by_side.commands = lambda lane, arguments: [[sys.executable, "-c", show]]
    side_by_side.main([], lanes=[side_by_side.Lane("one", ())], logs=side_by_side.Path(sys.argv[1]))
    """
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'trap "" INT; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            textwrap.dedent(driver),
            tmp_path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "[one] True" in done.stdout, done.stdout + done.stderr
