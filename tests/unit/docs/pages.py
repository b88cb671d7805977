"""The pages of the documentation, taken apart: headings, links, blocks, manifests and command lines.

Tests judge what a page says by what it would do, so everything that looks like something to
type or to apply is found here, with the line it stands on. Nothing here knows what is right.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

__all__ = [
    "CHART",
    "DOCS",
    "PAGES",
    "ROOT",
    "Block",
    "Command",
    "Manifest",
    "anchors_of",
    "blocks_of",
    "commands_of",
    "links_of",
    "manifests_of",
    "name_of",
    "prose_of",
    "values_of",
]

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
CHART = ROOT / "charts" / "bubu-storage-operator"
PAGES = sorted([*DOCS.rglob("*.md"), *CHART.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])

VALUES_MARK = "# values.yaml"
"""First line of a YAML block that holds values of the chart."""

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_HEREDOC = re.compile(r"<<-?\s*'?(?P<mark>\w+)'?[^\n]*\n(?P<text>.*?)^(?P=mark)$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_SEPARATOR = re.compile(r"\$\(|\)|\||&&|;")
_PLACEHOLDER = re.compile(r"^[\[(]|^(?:…|\.\.\.)$|[\])]$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object of Kubernetes in a page, or in a file beside it."""

    where: str
    body: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.where}-{self.body['kind']}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command line of a page, in words; ``words[0]`` is the program."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}-{' '.join(self.words[:4])}"


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, without their indentation."""
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            re.sub(rf"^ {{{len(match['indent'])}}}", "", match["text"], flags=re.MULTILINE),
        )
        for match in _FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """Return a page's text without its fenced blocks; lines keep their numbers."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text("utf-8"))


def links_of(page: Path) -> list[str]:
    """Return the targets of all relative links, anchors included."""
    return _LINK.findall(prose_of(page))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a page's headings have where it is shown."""
    found: dict[str, int] = {}
    anchors: set[str] = set()
    for title in _HEADING.findall(prose_of(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        anchors.add(f"{slug}-{count}" if count else slug)
    return anchors


def manifests_of(page: Path) -> list[Manifest]:
    """Return the objects of YAML blocks and here-documents: whatever has both apiVersion and kind."""
    found: list[Manifest] = []
    for block in blocks_of(page):
        texts = [block.text] if block.language == "yaml" else []
        texts.extend(match["text"] for match in _HEREDOC.finditer(block.text))
        for text in texts:
            found.extend(
                Manifest(str(block), cast("dict[str, Any]", document))
                for document in yaml.safe_load_all(text)
                if isinstance(document, dict) and {"apiVersion", "kind"} <= document.keys()
            )
    return found


def values_of(page: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the chart's values that a page shows: marked blocks, and those inside GitOps objects."""
    found = [
        (str(block), cast("dict[str, Any]", yaml.safe_load(block.text)))
        for block in blocks_of(page)
        if block.language == "yaml" and block.text.startswith(VALUES_MARK)
    ]
    for manifest in manifests_of(page):
        spec = cast("dict[str, Any]", manifest.body.get("spec", {}))
        match manifest.body["kind"]:
            case "HelmRelease":
                found.append((str(manifest), spec["values"]))
            case "Application":
                found.append((str(manifest), spec["source"]["helm"]["valuesObject"]))
            case _:
                pass
    return found


def commands_of(page: Path, *programs: str) -> list[Command]:
    """Return the command lines of a page that begin with one of some programs, as in ``"kubectl bubu"``."""
    found: list[Command] = []
    for where, line in _lines(page):
        words = _words(line)
        for program in programs:
            start = program.split()
            if words[: len(start)] == start and len(words) > len(start):
                found.append(Command(where, (program, *words[len(start) :])))
    return found


def _lines(page: Path) -> Iterator[tuple[str, str]]:
    for block in blocks_of(page):
        if block.language not in {"console", "sh"}:
            continue
        text = _HEREDOC.sub("\n", block.text).replace("\\\n", " ")
        for line in text.splitlines():
            if block.language == "sh" or line.startswith("$ "):
                yield from ((str(block), part) for part in _SEPARATOR.split(line.removeprefix("$ ")))
    text = prose_of(page)
    for match in _INLINE.finditer(text):
        where = f"{name_of(page)}:{text.count(chr(10), 0, match.start()) + 1}"
        yield from ((where, part) for part in _SEPARATOR.split(match[1]))


def _words(line: str) -> list[str]:
    """Split as a shell does, without comments, redirections, assignments, and placeholders for more."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        words = line.split()
    while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
        words = words[1:]
    kept: list[str] = []
    for word in words:
        if word in {"&", ">", "2>", "<"} or word.startswith(("<<", ">")):
            break
        if not _PLACEHOLDER.search(word):
            kept.append(word)
    return kept
