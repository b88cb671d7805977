"""What all benchmarks share: medians, turns, goals, output and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.perf import stores
from tests.perf.harness import Goal, Report, Rounds, parse_options

if TYPE_CHECKING:
    from pathlib import Path


def report_of(*arguments: str) -> Report:
    """A benchmark with this command line."""
    return Report("A title", parse_options("About", arguments))


def test_each_round_begins_with_another_contestant() -> None:
    """So that none always runs behind the same one; the median of each counts."""
    turns: list[str] = []
    rounds = Rounds(3, "case")
    for name, values in {"a": [5.0, 1.0, 3.0], "b": [7.0, 9.0, 8.0]}.items():
        rounds.add(name, lambda name=name, values=values: turns.append(name) or values.pop())
    assert {"a": 3.0, "b": 8.0} == rounds.medians()
    assert list("abbaab") == turns


def test_order_is_kept_on_demand() -> None:
    """Where one hands over what another one has measured."""
    turns: list[str] = []
    rounds = Rounds(2, "case", keep_order=True)
    for name in "ab":
        rounds.add(name, lambda name=name: turns.append(name) or 1.0)
    rounds.medians()
    assert list("abab") == turns


@pytest.mark.parametrize(
    ("value", "arguments", "code"), [(1.0, ["--check"], 0), (0.5, ["--check"], 1), (0.5, [], 0)]
)
def test_missed_goal_is_an_exit_code_where_it_was_asked_for(
    value: float, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is told in any case."""
    report = report_of(*arguments)
    report.add("case", "ours / theirs", value, figures={"ours": "1/s"}, goal=Goal.at_least(value, 0.9))
    assert code == report.finish()
    shown = capsys.readouterr()
    assert ("reached" if value > 0.9 else "MISSED") in shown.out
    assert code == shown.err.count("MISSED: case: ours / theirs is 0.5, wanted >= 0.9")


def test_json_alone_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes elsewhere; a scaled run says so."""
    report = report_of("--json", "--scale", "0.5")
    rounds = Rounds(1, "case")
    rounds.add("ours", lambda: 2.0)
    report.add("case", "ours", rounds.medians()["ours"], figures={"ours": "2/s"}, goal=Goal.below(2.0, 3.0))
    assert 0 == report.finish()
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert ("A title", False) == (answer["title"], answer["full"])
    goal = {"text": "< 3", "reached": True}
    assert {
        "case": "case",
        "figures": {"ours": "2/s"},
        "ratio": "ours",
        "value": 2.0,
        "goal": goal,
    } in answer["results"]
    assert "round 1: ours 2" in shown.err


def test_nothing_to_run_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt ``--only`` must not look like goals that were reached."""
    report = report_of("--check", "--only", "throughputt")
    assert not report.options.wants("throughput")
    with pytest.raises(SystemExit) as caught:
        report.finish()
    assert 2 == caught.value.code
    assert "throughputt" in capsys.readouterr().err


def test_a_case_is_named_once_with_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Several ratios of one case stand below one another."""
    report = report_of()
    for name in ("boto3", "rclone"):
        report.add("the case", f"ours / {name}", 2.0, figures={"ours": "2/s", name: "1/s"})
    report.finish()
    shown = capsys.readouterr().out
    assert (1, 1, 1) == (shown.count("the case"), shown.count("ours 2/s"), shown.count("rclone 1/s"))


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--scale", "0"], ["--scale", "2"]])
def test_numbers_out_of_range_are_refused(arguments: list[str]) -> None:
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        parse_options("About", arguments)


def test_folder_lies_in_memory_only_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many containers have 64 MB there; the folder is gone afterwards."""
    monkeypatch.setattr(stores, "_MEMORY", tmp_path)
    with stores.folder_in_memory(needed_bytes=1, needed_files=1) as folder:
        assert tmp_path == folder.parent
    assert not folder.exists()
    with stores.folder_in_memory(needed_bytes=1 << 60) as folder:
        assert tmp_path != folder.parent
