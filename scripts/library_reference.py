"""Write docs/reference/library.md from the library's own docstrings.

``python scripts/library_reference.py`` writes it, ``--check`` exits with 1 when it is stale.
Public is what ``__all__`` of the library and of ``PACKAGES`` names.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TARGET: Final = ROOT / "docs" / "reference" / "library.md"

PAGES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "The manager",
        "What a workflow step uses.",
        (
            "bubu_storage.manager",
            "bubu_storage.shared",
            "bubu_storage.payload.refs",
            "bubu_storage.payload.paths",
        ),
    ),
    ("Context", "Facts of the step that runs, for this thread or task.", ("bubu_storage.payload.context",)),
    ("Settings", "Plain frozen data; nothing here contacts anything.", ("bubu_storage.settings",)),
    ("Backends", "One bucket, or one directory, of objects.", ("bubu_storage.backend.types",)),
)
INTRODUCTION: Final = """\
Made from the docstrings by `make generate`. A guide: [guide.md](../guide.md); Go names and their
Python forms: [go-names.md](go-names.md). Names can be imported from `bubu_storage` itself
unless their heading says otherwise."""
PACKAGES: Final = ("bubu_storage.backend", "bubu_storage.testing")
CONTRACTS: Final = ("ObjectBackend", "BatchDeleter", "BackendCopier", "StorageManager")
ERRORS: Final = "bubu_storage.errors"
CONSTANTS: Final = "bubu_storage.wire"
_SECTION: Final = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
_ITEM: Final = re.compile(r"^(\S[^:]*): (.*)$")


def main() -> int:
    """Write or check the page."""
    text = render()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text("utf-8") == text:
            return 0
        print(f"{TARGET.relative_to(ROOT)} is stale; run make generate", file=sys.stderr)
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


def render() -> str:
    """Return the page."""
    library = importlib.import_module("bubu_storage")
    names = {name: getattr(library, name) for name in library.__all__ if not name.startswith("__")}
    homes = {name: library._HOME[name] for name in names}  # noqa: SLF001 - the library's own table
    parts = ["# The library, name by name", INTRODUCTION]
    shown: set[str] = set()
    for title, text, modules in PAGES:
        parts += [f"## {title}", text]
        for name, thing in names.items():
            if homes[name] in modules:
                parts += _entry(name, thing)
                shown.add(name)
    rest = sorted(
        name for name, home in homes.items() if name not in shown and home not in {ERRORS, CONSTANTS}
    )
    if rest:
        parts += ["## More"]
        for name in rest:
            parts += _entry(name, names[name])
    parts += ["## Errors", f"```\n{_error_tree()}\n```"]
    for name, thing in names.items():
        if homes[name] == ERRORS:
            parts += _entry(name, thing)
    for package in PACKAGES:
        module = importlib.import_module(package)
        parts += [f"## `{package}`", _prose(module)]
        for name in module.__all__:
            if name not in names:
                parts += _entry(name, getattr(module, name))
    parts += ["## Constants", "| name | value |\n|---|---|\n" + "\n".join(_constants(names, homes))]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _constants(names: dict[str, Any], homes: dict[str, str]) -> list[str]:
    return [f"| `{name}` | `{names[name]!r}` |" for name in names if homes[name] == CONSTANTS]


def _error_tree() -> str:
    text = inspect.getdoc(importlib.import_module(ERRORS)) or ""
    return inspect.cleandoc(text.partition("::\n\n")[2])


def _entry(name: str, thing: Any) -> list[str]:
    if not (inspect.isclass(thing) or callable(thing)):
        return []
    parts = [f"### `{name}`"]
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return [*parts, _prose(thing)]
    if inspect.isclass(thing) and issubclass(thing, enum.Enum):
        return [*parts, _prose(thing), "\n".join(f"* `{member.name}`: `{member.value}`" for member in thing)]
    signature = _signature(thing)
    if signature:
        parts.append(f"```python\n{name}{signature}\n```")
    parts.append(_prose(thing))
    if inspect.isclass(thing):
        parts += _members(thing)
    return parts


def _members(thing: type) -> list[str]:
    """Return the entries of a class's own members; those of a contract are described there."""
    parts: list[str] = []
    known: set[str] = set()
    kept: list[str] = []
    for contract in CONTRACTS:
        base = getattr(importlib.import_module("bubu_storage"), contract)
        names = {name for name in dir(base) if not name.startswith("_")}
        if thing is not base and names <= set(dir(thing)):
            known |= names
            kept.append(f"[`{contract}`](#{contract.lower()})")
    if kept:
        parts.append(f"Has all of {', '.join(kept)}.")
    fields = (
        {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set[str]()
    )
    for name in dir(thing):
        found = inspect.getattr_static(thing, name)
        if name.startswith(("_", "test_")) or name in fields or name in known:
            continue
        value = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        if isinstance(found, property):
            parts += [f"#### `.{name}`", _prose(found)]
        elif inspect.isfunction(value) and value.__module__.startswith("bubu_storage"):
            parts += [
                f"#### `.{name}{_signature(value, method=not isinstance(found, staticmethod))}`",
                _prose(value),
            ]
    return parts


def _signature(thing: Any, *, method: bool = False) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = list(signature.parameters.values())
    if method:
        parameters = parameters[1:]
    if inspect.isclass(thing) and getattr(thing, "_is_protocol", False):
        return ""
    if inspect.isclass(thing):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    text = str(_unquoted(signature.replace(parameters=parameters)))
    # Where something lies in memory differs from run to run.
    return re.sub(r" at 0x[0-9a-f]+>", ">", text.replace("<factory>", "…"))


class _Bare:
    """An annotation that shows as its text, without quotes."""

    def __init__(self, text: Any) -> None:
        self._text = text if isinstance(text, str) else inspect.formatannotation(text)

    def __repr__(self) -> str:
        return self._text


def _unquoted(signature: inspect.Signature) -> inspect.Signature:
    empty = inspect.Parameter.empty
    parameters = [
        one if one.annotation is empty else one.replace(annotation=_Bare(one.annotation))
        for one in signature.parameters.values()
    ]
    returned = signature.return_annotation
    return signature.replace(
        parameters=parameters, return_annotation=returned if returned is empty else _Bare(returned)
    )


def _prose(thing: Any) -> str:
    """Turn a Google-style docstring into Markdown."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    out: list[str] = []
    in_section = False
    for line in lines:
        section = _SECTION.match(line)
        if section:
            in_section = True
            out += ["", f"{section.group(1)}:", ""]
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            item = _ITEM.match(line.strip())
            out.append(f"* `{item.group(1)}`: {item.group(2)}" if item else f"* {line.strip()}")
        elif in_section and line.startswith("     "):
            out.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            out.append(line)
    text = "\n".join(out).replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


if __name__ == "__main__":
    sys.exit(main())
