"""The table of accepted and refused objects, shared by the cluster tests and the unit tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from bubu_operator.api.v1alpha1 import API_VERSION

__all__ = ["CASES", "CrdCase"]


@dataclass(frozen=True, slots=True)
class CrdCase:
    """One object and the verdict on it.

    Attributes:
        kind: of the object.
        name: what is special about it.
        body: the whole object.
        refused: part of the message with which it is refused; "" if it is accepted.
    """

    kind: str
    name: str
    body: dict[str, Any]
    refused: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def _load(path: Path) -> list[CrdCase]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = str(document["kind"])
    cases: list[CrdCase] = []
    for row in cast("list[dict[str, Any]]", document["cases"]):
        unknown = row.keys() - {"name", "metadata", "spec", "refused"}
        if unknown:
            raise ValueError(f"{path}: {row['name']}: unknown keys {unknown}")
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": row.get("metadata", {"name": "case"}),
        }
        if "spec" in row:
            body["spec"] = row["spec"]
        cases.append(CrdCase(kind, str(row["name"]), body, str(row.get("refused", ""))))
    return cases


CASES: tuple[CrdCase, ...] = tuple(
    case for path in sorted((Path(__file__).parent / "crd_cases").glob("*.yaml")) for case in _load(path)
)
