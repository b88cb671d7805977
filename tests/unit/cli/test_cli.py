"""``bubu-storage``: what it prints and with which code it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bubu_storage import __version__

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "conformance"


@pytest.fixture
def vector_file(tmp_path):
    """Write some of the recorded cases, changed or not, to a file."""
    cases = {case["id"]: case for case in json.loads((GOLDEN / "s0-vectors.json").read_bytes())}

    def write(*case_ids, **expect):
        path = tmp_path / "some.json"
        chosen = [{**cases[name], "expect": {**cases[name]["expect"], **expect}} for name in case_ids]
        path.write_text(json.dumps(chosen))
        return path

    return write


def test_version(run):
    """``--version`` prints the version and ends well."""
    result = run("--version")

    assert (result.exit_code, result.stdout) == (0, f"bubu-storage {__version__}\n")


def test_all_recorded_cases(run):
    """Both files together: nothing fails, and each deviation has one line."""
    result = run("conformance", GOLDEN / "s0-vectors.json", GOLDEN / "applyenv-vectors.json")

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[-1] == "370 passed, 0 failed, 21 deviates"
    assert len(lines) == 22
    assert all(": deviates: " in line for line in lines[:-1])


def test_a_failure_is_shown_and_ends_with_1(run, vector_file):
    """Every difference is printed under its case, and the other cases still run."""
    result = run("conformance", vector_file("s-simple-129", "s-simple-131", result_json="true"))

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "s-simple-129: FAILED",
        "    result: expected true, got null",
        "1 passed, 1 failed, 0 deviates",
    ]


def test_verbose_names_what_passed(run, vector_file):
    """``-v`` lists passed cases too."""
    assert "s-simple-129: passed" in run("conformance", "-v", vector_file("s-simple-129")).stdout


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_bad_file_ends_with_2(run, tmp_path, content):
    """A missing or malformed file is wrong usage, said in one line on standard error."""
    path = tmp_path / "vectors.json"
    if content is not None:
        path.write_text(content)

    result = run("conformance", path)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"bubu-storage: {path}: ")
    assert len(result.stderr.splitlines()) == 1


def test_no_file_ends_with_2(run):
    """So is giving none."""
    assert run("conformance").exit_code == 2


def test_no_command_shows_the_help(run):
    """Without a command the help is shown, and the code says that nothing was done."""
    result = run()

    assert result.exit_code == 2
    assert "conformance" in result.stdout + result.stderr
