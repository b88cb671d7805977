"""Write what the Helm chart takes from elsewhere, and the table of its values.

``python scripts/chart.py`` writes, ``--check`` exits with 1 when something is stale:

- copies of ``crds/*.yaml`` in the chart, since Helm packs nothing from outside a chart's folder;
- the chart's version and the image tag it stands for, which are the library's version;
- ``docs/reference/chart-values.md``, from the comments in ``values.yaml``.

Each key of ``values.yaml`` has its comment right above it; a key without one is an error.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "charts" / "bubu-storage-operator"
VALUES: Final = CHART / "values.yaml"
TABLE: Final = ROOT / "docs" / "reference" / "chart-values.md"
VERSION: Final = ROOT / "storage_lib" / "bubu_storage" / "_version.py"
_KEY: Final = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z][\w-]*):(?P<rest>.*)")
_INTRODUCTION: Final = """\
# Values of the chart

Made from [values.yaml](../../charts/bubu-storage-operator/values.yaml) by `make generate`. What is not
here is refused, and so is what has another form (`values.schema.json`). How to install, and which
values belong together: [chart](../chart.md).
"""


@dataclass(frozen=True, slots=True)
class Value:
    """One key of the values.

    Attributes:
        path: from the top, as for ``--set``.
        about: its comment.
        default: None for one that holds further keys.
    """

    path: tuple[str, ...]
    about: str
    default: Any


def main() -> int:
    """Write or check everything."""
    wanted = expected()
    if "--check" in sys.argv[1:]:
        stale = [
            path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text
        ]
        stale += leftovers(wanted)
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale; run make generate", file=sys.stderr)
        return 1 if stale else 0
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    for path in leftovers(wanted):
        path.unlink()
    return 0


def expected() -> dict[Path, str]:
    """Return every file that this script writes."""
    files = {CHART / "files" / "crds" / path.name: path.read_text("utf-8") for path in _crds()}
    chart = CHART / "Chart.yaml"
    files[chart] = with_version(chart.read_text("utf-8"), VERSION.read_text("utf-8"))
    files[TABLE] = table(read_values(VALUES.read_text("utf-8")))
    return files


def leftovers(wanted: dict[Path, str]) -> list[Path]:
    """Return copies of CRDs that are not there any more."""
    return sorted(set((CHART / "files" / "crds").glob("*")) - set(wanted))


def with_version(chart: str, module: str) -> str:
    """Return Chart.yaml with the version that a Python module says."""
    found = re.search(r'^__version__ = "([^"]+)"$', module, re.MULTILINE)
    if found is None:
        raise ValueError(f"{VERSION.relative_to(ROOT)} names no version")
    return re.sub(r"(?m)^(version|appVersion): .*$", rf"\1: {found[1]}", chart)


def read_values(text: str) -> list[Value]:
    """Return all keys of the values in their order, each with its comment.

    Raises:
        ValueError: a key has no comment.
    """
    found: list[Value] = []
    above: list[str] = []
    path: list[str] = []
    whole = yaml.safe_load(text)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("#"):
            above.append(line.strip().removeprefix("#").strip())
            continue
        key = _KEY.fullmatch(line)
        if key is None:
            above = []
            continue
        depth = len(key["indent"]) // 2
        path = [*path[:depth], key["key"]]
        if not above:
            raise ValueError(f"values.yaml line {number}: {'.'.join(path)} has no comment above it")
        value: Any = whole
        for part in path:
            value = value[part]
        # One that is written in its own line is a value as a whole: a map of labels.
        holds_keys = isinstance(value, dict) and bool(value) and not key["rest"].strip()
        found.append(Value(tuple(path), " ".join(above), None if holds_keys else json.dumps(value)))
        above = []
    return found


def table(values: list[Value]) -> str:
    """Return the page."""
    lines = [_INTRODUCTION, "## For everything", "", *_HEAD]
    section = ""
    for value in values:
        top = value.path[0]
        if value.default is None and len(value.path) == 1:
            lines += ["", f"## {top}", "", value.about, "", *_HEAD]
            section = top
            continue
        if top != section and section:
            # A plain value after a group: begin the general table anew.
            lines += ["", "## More", "", *_HEAD]
            section = ""
        default = "" if value.default is None else f"`{value.default}`"
        lines.append(f"| `{'.'.join(value.path)}` | {default} | {_cell(value.about)} |")
    return "\n".join(lines) + "\n"


_HEAD: Final = ("| value | default | meaning |", "|---|---|---|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text_of(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def _crds() -> list[Path]:
    return sorted((ROOT / "crds").glob("*.yaml"))


if __name__ == "__main__":
    sys.exit(main())
