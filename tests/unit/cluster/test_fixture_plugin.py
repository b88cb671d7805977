"""How the fixtures mark and prepare test runs, seen from a pytest run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]

TESTS = """
import pytest

def test_plain(): pass
def test_with_cluster(cluster): pass
def test_with_namespace(namespace): pass
def test_with_server(s3_server): pass
def test_with_bucket(bucket): pass

@pytest.fixture
def deep(namespace): pass
def test_with_own_fixture(deep): pass

def test_golden_switch(regenerate_golden, request):
    assert regenerate_golden is request.config.getoption("--regenerate-golden")
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A small test suite that has our plugins."""
    (tmp_path / "test_sample.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import *\nfrom tests.conftest import pytest_plugins\n", encoding="utf-8"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  cluster: c\n  s3: s\n", encoding="utf-8")
    return tmp_path


def run(suite: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the suite in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def selected(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names of the collected tests."""
    return sorted(line.split("::")[1] for line in done.stdout.splitlines() if "::" in line)


def test_tests_are_marked_by_the_fixtures_they_use(suite: Path):
    """Direct or through other fixtures: nobody has to remember a marker."""
    cluster = run(suite, "--collect-only", "-m", "cluster")
    s3 = run(suite, "--collect-only", "-m", "s3")
    neither = run(suite, "--collect-only", "-m", "not cluster and not s3")

    assert selected(cluster) == ["test_with_cluster", "test_with_namespace", "test_with_own_fixture"]
    assert selected(s3) == ["test_with_bucket", "test_with_server"]
    assert selected(neither) == ["test_golden_switch", "test_plain"]


def test_plain_tests_need_nothing(suite: Path):
    """On a machine without Docker and Go the rest of the tests run."""
    done = run(suite, "-m", "not cluster and not s3", PATH="/nowhere")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("marker", ["cluster", "s3"])
def test_missing_prerequisite_ends_the_run_with_its_sentence(suite: Path, marker: str):
    """Not one traceback per test: the run ends before the first, saying what to install."""
    done = run(suite, "-m", marker, PATH="/nowhere")

    assert done.returncode == 1
    assert "https://go.dev/dl/" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert " passed" not in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--regenerate-golden"]])
def test_golden_switch_reaches_tests(suite: Path, arguments: list[str]):
    """The option and the fixture agree."""
    assert run(suite, "-k", "golden_switch", *arguments).returncode == 0
