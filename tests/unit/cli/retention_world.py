"""What tests of ``retention`` and ``lock`` share: a store of old and young runs, and a policy."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400.0

POLICY: dict[str, Any] = {
    "apiVersion": "storage.bubustack.io/v1alpha1",
    "kind": "RetentionPolicy",
    "metadata": {"name": "clean", "namespace": "team-a"},
    "spec": {"mode": "Enforce", "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}]},
}


def put(backend: Any, folder: Path, key: str, age_days: float) -> None:
    """Store an object that looks this old."""
    backend.put_object(key, b"x" * 10)
    then = time.time() - age_days * DAY
    os.utime(folder / "store" / key, (then, then))


def fill(backend: Any, folder: Path) -> None:
    """Two old runs of two objects, three young ones, another namespace's, and a loose object."""
    for run, age in (("old-1", 60), ("old-2", 45), ("young-1", 3), ("young-2", 3), ("young-3", 0)):
        for name in ("a.json", "b.json"):
            put(backend, folder, f"outputs/team-a/{run}/{name}", age)
    put(backend, folder, "outputs/team-a/loose.json", 90)
    put(backend, folder, "outputs/team-b/old/a.json", 90)


def with_spec(**changes: Any) -> dict[str, Any]:
    """Return the policy with other fields in its spec."""
    return POLICY | {"spec": POLICY["spec"] | changes}


def write(folder: Path, document: Any, name: str = "policy.json") -> Path:
    """Write a document to a file."""
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def lines_of(result: Any) -> list[dict[str, Any]]:
    """Return the JSON documents that a command printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]
