"""The page on logs is about the fields, levels and lines that the code writes."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bubu_operator.observability.logging import LEVELS, QUIET

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "operator" / "bubu_operator"
PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
ALWAYS = {"time", "level", "logger", "message"}


def section(title: str) -> str:
    """The text below a heading."""
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[tuple[str, str]]:
    """The first two cells of each row that begins with a word in code style."""
    return re.findall(r"^\| `([^`]+)` \| (.+?) \|$", text, re.MULTILINE)


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Each call of a logger in our package: its module, its message ("" where it varies), its fields."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                if isinstance(of, ast.Name) and of.id == "logger":
                    texts = [part.value for part in node.args for part in ast.walk(part) if _is_text(part)]
                    for text in texts or [""]:
                        yield module, text, _fields(node, functions)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _fields(call: ast.Call, functions: dict[str, ast.FunctionDef]) -> set[str]:
    """Keys of what is given as ``extra``, those of a function that makes a part of it included."""
    found: set[str] = set()
    waiting: list[ast.AST] = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Dict):
                found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                waiting.append(functions[node.func.id])
    return found


def test_the_table_of_fields_has_each_that_is_written_and_no_other():
    """A field that the code adds is told of on the page."""
    told = {name for name, _ in rows(section("Fields"))}
    written = set[str]().union(*(fields for _, _, fields in calls()))

    assert told == written | ALWAYS | {"exception", "object"}
    assert len(written) > 20


def test_levels_are_those_of_the_option_and_one_above():
    """In their order."""
    told = [name for name, _ in rows(section("Levels").split("Of libraries")[0])]

    assert told == [*LEVELS, "critical"]


def test_quiet_libraries_are_told_with_their_levels():
    """Who misses a line of one finds out why."""
    told = rows(section("Levels").split("Of libraries")[1])

    assert {name: level.strip("`") for name, level in told} == {
        name: logging.getLevelName(level).lower() for name, level in QUIET.items()
    }


def test_examples_are_lines_that_the_code_writes():
    """Message, logger and fields of each are those of one call."""
    block = re.search(r"```json\n(.*?)```", section("Examples"), re.DOTALL)
    assert block is not None
    known = list(calls())
    for line in block[1].splitlines():
        shown: dict[str, Any] = json.loads(line)
        fields = set(shown) - ALWAYS
        messages = {text for module, text, given in known if module == shown["logger"] and fields == given}
        assert shown["message"] in messages, line
        assert shown["level"] in LEVELS
