"""Every page can be found, and every link leads to something, down to the heading."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.unit.docs.pages import DOCS, PAGES, ROOT, anchors_of, links_of, name_of

INDEX = DOCS / "README.md"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_link_leads_to_a_file_and_a_heading(page: Path):
    """Also across pages, and after a heading was renamed."""
    broken: list[str] = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            broken.append(link)

    assert broken == []


def test_links_stay_within_the_repository():
    """A page that points outside works on its author's machine only."""
    outside = [
        f"{name_of(page)}: {link}"
        for page in PAGES
        for link in links_of(page)
        if not (page.parent / link.partition("#")[0]).resolve().is_relative_to(ROOT)
    ]

    assert outside == []


def test_every_page_is_on_the_index():
    """A page that nothing leads to is not read; decisions have an index of their own."""
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links_of(INDEX)}
    pages = {page for page in DOCS.rglob("*.md") if page.parent.name != "adr" or page.name == "README.md"}

    assert sorted(name_of(page) for page in pages - linked - {INDEX}) == []


def test_every_decision_is_on_its_index():
    """The same for the folder of decisions."""
    folder = DOCS / "adr"
    linked = {(folder / link).resolve() for link in links_of(folder / "README.md")}

    assert sorted(path.name for path in folder.glob("0*.md") if path not in linked) == []


def test_anchors_are_those_of_the_page_as_shown(tmp_path: Path):
    """Code, links and signs leave their words; a second heading of one text gets a number."""
    page = tmp_path / "page.md"
    page.write_text("# A `kubectl get`: why?\n## [More](x.md) here\n## More here\n```\n# no heading\n```\n")

    assert anchors_of(page) == {"a-kubectl-get-why", "more-here", "more-here-1"}


def test_pages_have_one_title_each():
    """The first line a reader sees says what the page is about."""
    without = [
        name_of(page)
        for page in PAGES
        if not re.match(r"(?:<!--.*?-->\s*)?# \S", page.read_text("utf-8"), re.DOTALL)
    ]

    assert without == []
