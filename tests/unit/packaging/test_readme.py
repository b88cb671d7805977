"""What the README and the package's own help promise a Python developer really runs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import bubu_storage
from bubu_storage import StorageManager

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def pod_environment(monkeypatch, tmp_path):
    """The environment of a pod with a file store."""
    monkeypatch.setenv("BUBU_STORAGE_PROVIDER", "file")
    monkeypatch.setenv("BUBU_STORAGE_PATH", str(tmp_path / "store"))
    for name in ("BUBU_STORAGE_OUTPUT_PREFIX", "BUBU_MAX_INLINE_SIZE", "BUBU_MAX_RECURSION_DEPTH"):
        monkeypatch.delenv(name, raising=False)


def run(source: str) -> dict[str, object]:
    """Run a snippet as a program of its own and return its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(source, "snippet", "exec"), names)  # noqa: S102 - the point of this test
    return names


def test_there_are_snippets():
    """So that a changed fence does not make the other tests empty."""
    assert len(BLOCKS) >= 2
    assert README.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("source", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_each_snippet_runs(source):
    """As it stands, by copy and paste."""
    run(source)


def test_the_reference_shown_in_the_first_snippet_is_the_real_one(tmp_path):
    """The comment shows the document that dehydrate returns, and where the object lies."""
    shown = re.search(r'# \{"report": \{"\$bubuStorageRef": "([^"]+)", …\}, "pages": 12\}', BLOCKS[0])
    assert shown is not None

    small = run(BLOCKS[0])["small"]

    assert small["pages"] == 12
    assert small["report"]["$bubuStorageRef"] == shown.group(1)
    assert (tmp_path / "store" / shown.group(1)).is_file()


def test_the_package_s_own_example_runs():
    """``help(bubu_storage)`` shows one as well."""
    source = re.search(r"^::\n\n(.*?)^\S", bubu_storage.__doc__, re.DOTALL | re.MULTILINE)
    assert source is not None

    names = run("result = {'text': 'x' * 5000}\n" + textwrap.dedent(source.group(1)))

    assert names["again"] == names["result"]
    assert "$bubuStorageRef" in names["small"]["text"]


def test_every_method_named_in_the_readme_exists():
    """A renamed method must not live on in prose."""
    named = set(re.findall(r"(?:StorageManager|storage)\.([a-z_]+)\(", README))
    assert {"from_env", "in_memory", "dehydrate", "hydrate", "write_blob", "list_objects"} <= named
    assert all(hasattr(StorageManager, name) for name in named)


def test_every_public_method_is_described():
    """``help(StorageManager)`` leaves no question open: each method and property has its text."""
    public = [name for name in vars(StorageManager) if not name.startswith("_")]
    assert public
    assert [name for name in public if not (getattr(StorageManager, name).__doc__ or "").strip()] == []
