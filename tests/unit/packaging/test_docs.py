"""What the guide shows really runs, block after block, as a reader would type it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import bubu_storage.backend
import bubu_storage.testing
from bubu_storage import environment
from bubu_storage.settings import ManagerSettings

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
GUIDE = (DOCS / "guide.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])


def test_the_guide_runs_from_beginning_to_end(storage, tmp_path, monkeypatch):
    """All blocks in one program; then its own test is run as pytest would."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guide"}
    assert len(BLOCKS) >= 7

    for block in BLOCKS:
        exec(compile(block.replace("/tmp/bubu-guide", str(tmp_path)), "guide", "exec"), names)  # noqa: S102

    names["test_my_step"](storage)
    names["storage"].close()


def test_the_guide_names_real_variables_and_their_defaults():
    """Each variable of the table is read somewhere, and the defaults are those of the code."""
    rows = re.findall(r"^\| (`BUBU_[^|]+) \| ([^|]+) \|", GUIDE, re.MULTILINE)
    named = {name: default for cell, default in rows for name in re.findall(r"`(BUBU_\w+)`", cell)}
    source = Path(environment.__file__).read_text("utf-8")
    settings = ManagerSettings()

    assert len(named) >= 8
    assert [name for name in named if f'"{name}"' not in source] == []
    assert named["BUBU_MAX_INLINE_SIZE"] == str(settings.max_inline_size_bytes)
    assert named["BUBU_MAX_HYDRATED_SIZE"] == str(settings.max_hydrated_size_bytes)
    assert named["BUBU_STORAGE_TIMEOUT"] == f"{settings.timeout_seconds:.0f}s"
    assert named["BUBU_STORAGE_CONCURRENCY"] == str(settings.max_workers)
    assert settings.cache_size_bytes == 0
    assert settings.cache_ttl_seconds == 300


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """A link to a file of the repository names one that exists."""
    broken = [
        target for target in LINK.findall(page.read_text("utf-8")) if not (page.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("package", [bubu_storage.backend, bubu_storage.testing], ids=["backend", "testing"])
def test_every_name_of_a_package_can_be_imported_from_it(package):
    """And is listed for completion; an unknown one is an AttributeError as usual."""
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = package.there_is_no_such_name


def test_the_page_of_variables_has_every_one_and_no_other():
    """What the library reads is documented, and what is documented is read."""
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    library = Path(environment.__file__).parent
    sources = "".join(path.read_text("utf-8") for path in sorted(library.rglob("*.py")))
    read = set(re.findall(r'"(BUBU_[A-Z0-9]+_[A-Z0-9_]+)"', sources))

    assert len(read) >= 36
    assert set(re.findall(r"`(BUBU_\w+)`", page)) == read


def test_each_resilience_case_has_a_test_and_each_number_a_case():
    """The numbered promises of the page about failing stores are those that tests name."""
    page = (DOCS / "resilience.md").read_text("utf-8").partition("## Cases")[2]
    promised = set(re.findall(r"^(\d+)\. ", page, re.MULTILINE))
    sources = "".join(path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))

    assert len(promised) >= 20
    assert set(re.findall(r"\(resilience case (\d+)\)", sources)) == promised
