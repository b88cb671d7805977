"""What the tests of the CRDs share: the table of accepted and refused objects, and the CRDs in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from bubu_operator.api.v1alpha1 import API_VERSION, KINDS
from tests.cluster.controller_harness import until, wait_served

if TYPE_CHECKING:
    from tests.cluster import Cluster

__all__ = ["CASES", "CRDS", "REPOSITORY", "CrdCase", "install_crds"]

REPOSITORY = Path(__file__).parents[2]
CRDS = REPOSITORY / "crds"


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


def install_crds(cluster: Cluster) -> None:
    """Apply our CRDs and wait until the API server serves and explains them."""
    cluster.kubectl("apply", "-f", CRDS)
    wait_served(cluster, *(kind.PLURAL for kind in KINDS))

    def explained() -> bool:
        # Descriptions come later than the kinds themselves, in two forms that are made apart.
        forms = ("plaintext", "plaintext-openapiv2")
        words = [("explain", kind.PLURAL, f"--output={form}") for kind in KINDS for form in forms]
        return all(cluster.kubectl(*one, check=False).returncode == 0 for one in words)

    until(explained, "the kinds to be explained", 30)
