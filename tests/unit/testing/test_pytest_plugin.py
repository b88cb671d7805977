"""The fixtures for people who test their own steps, in pytest processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bubu_storage.testing import pytest_plugin

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/testing.md"

HOSTILE = {
    "BUBU_STORAGE_PROVIDER": "s3",
    "BUBU_STORAGE_S3_ENDPOINT": "http://127.0.0.1:1",
    "BUBU_MAX_INLINE_SIZE": "no number",
    "BUBU_MAX_RECURSION_DEPTH": "1",
    "BUBU_STORAGE_TIMEOUT": "1ns",
    "BUBU_STORAGE_OUTPUT_PREFIX": "elsewhere",
    "BUBU_S3_TLS": "",
}
"""Settings with which nothing would work, if anybody read them."""


def run_pytest(folder: Path, *arguments: str, **env: str) -> str:
    """Run pytest on a folder, in a fresh process; it must pass. Return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BUBU_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *arguments, str(folder)],
        cwd=folder,
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def examples() -> list[str]:
    """Return the programs of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_documented_examples_run(tmp_path: Path) -> None:
    """Each as a test module, with nothing but the library installed and a hostile environment."""
    for number, example in enumerate(examples()):
        (tmp_path / f"test_example_{number}.py").write_text(example, encoding="utf-8")
    assert len(examples()) == 3
    assert "3 passed" in run_pytest(tmp_path, **HOSTILE)


def test_example_of_the_docstring_runs(tmp_path: Path) -> None:
    """The five lines that one sees in an editor."""
    _, _, text = (pytest_plugin.__doc__ or "").partition("::\n")
    lines = [line for line in text.splitlines() if line.startswith("    ") or not line]
    step = (
        "def my_step(storage, document):\n"
        "    text = storage.hydrate(document)['text']\n"
        "    return storage.dehydrate({'text': text.upper()}, run_id='default/run-2')\n"
    )
    example = "\n".join(line.removeprefix("    ") for line in lines)
    assert "def test_my_step(storage)" in example
    (tmp_path / "test_it.py").write_text(step + example, encoding="utf-8")
    assert "1 passed" in run_pytest(tmp_path)


def test_each_test_has_a_store_of_its_own(tmp_path: Path) -> None:
    """Nothing is left of one test in the next, and the fixtures of a test belong together."""
    test = (
        "import pytest\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_it(number, storage, storage_backend, storage_settings):\n"
        "    assert list(storage_backend.list_objects()) == []\n"
        "    storage.write_blob('a/b', b'x')\n"
        "    assert [o.key for p in storage_backend.list_objects() for o in p.objects] == ['a/b']\n"
        "    assert storage.settings is storage_settings\n"
    )
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    assert "2 passed" in run_pytest(tmp_path)


def test_no_metrics_are_counted(storage: object) -> None:
    """Tests say nothing about a store, and a test of the metrics is not disturbed."""
    from prometheus_client import REGISTRY

    def written() -> float:
        return REGISTRY.get_sample_value("storage_bytes_transferred", {"direction": "write"}) or 0.0

    before = written()
    storage.write_blob("a", b"x")  # type: ignore[attr-defined]
    assert before == written()


def test_loading_the_plugin_costs_nothing(tmp_path: Path) -> None:
    """A project that merely has the library installed pays for no import of it."""
    heavy = (
        "boto3",
        "botocore",
        "obstore",
        "prometheus_client",
        "bubu_storage.manager",
        "bubu_storage.backend",
    )
    test = (
        "import sys\n"
        "def test_it(request):\n"
        "    assert request.config.pluginmanager.has_plugin('bubu_storage')\n"
        f"    assert [name for name in {heavy!r} if name in sys.modules] == []\n"
    )
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    assert "1 passed" in run_pytest(tmp_path)


def test_fixtures_are_described() -> None:
    """``pytest --fixtures`` shows a line for each."""
    for name in pytest_plugin.__all__:
        fixture = getattr(pytest_plugin, name)
        assert isinstance(fixture.__doc__, str)
        assert fixture.__doc__.endswith(".")


def test_example_has_five_lines() -> None:
    """Short enough to be read before it is believed."""
    first = examples()[0]
    body = first[first.index("def test_my_step") :].strip().splitlines()
    assert len(body) == 5


@pytest.mark.parametrize("name", pytest_plugin.__all__)
def test_page_names_every_fixture(name: str) -> None:
    """What there is can be found."""
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
