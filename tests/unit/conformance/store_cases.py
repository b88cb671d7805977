"""Which recorded cases speak of a store at all, and may hence be run on any store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "conformance"

STORE_OPERATIONS = {
    "dehydrate",
    "dehydrate_inputs",
    "dehydrate_inputs_max",
    "delete",
    "hydrate",
    "hydrate_storage_refs_only",
    "list",
    "read_blob",
    "round_trip",
    "round_trip_inputs",
    "write_blob",
}


def store_cases() -> list[dict[str, Any]]:
    """Return the cases that hold on any store: not those about the faults of a file system."""
    cases = json.loads((GOLDEN / "s0-vectors.json").read_bytes())
    return [
        case
        for case in cases
        if "stance" not in case
        and case["op"] in STORE_OPERATIONS
        and case["expect"].get("error", {}).get("class") != "filesystem"
    ]
