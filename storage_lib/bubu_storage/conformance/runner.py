"""Runs cases one by one and tells wanted deviations from failures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bubu_storage.conformance.applyenv import compare_apply_env
from bubu_storage.conformance.cases import Case, CaseReport, Kind, Verdict, load_cases, shorten
from bubu_storage.conformance.storage import Observation, compare, observe
from bubu_storage.payload.codec import encode

__all__ = ["STANCES", "run_case", "run_file"]

STANCES: Final = {
    "fix:1": "nesting of data is not counted as a chain of references, so deep data comes back",
    "fix:2": "values whose names collide get an object each",
    "fix:3": "a field named 'input' gets another object when input.json is needed for the whole",
    "fix:4": "a key cannot lead out of the run's directory; a run id that does is refused",
    "fix:5": "a value that already is a reference is left as it is",
    "fix:20": "a selector loads only what it leads through",
    "peer_lossy": "integers keep all their digits",
}
"""What we do instead, by the stance that a case names."""


def run_file(path: Path) -> Iterator[CaseReport]:
    """Run every case of a file, in its order.

    Raises:
        VectorFileError: before the first case, when the file is no vector file.
    """
    kind, cases = load_cases(path)
    return (run_case(kind, case) for case in cases)


def run_case(kind: Kind, case: Case) -> CaseReport:
    """Run one case; an unexpected exception is a failure of that case and not of the run."""
    case_id, stance = case["id"], case.get("stance")
    try:
        if kind is Kind.APPLY_ENV:
            found, outcome = compare_apply_env(case), ""
        else:
            with tempfile.TemporaryDirectory(prefix="bubu-conformance-") as directory:
                seen = observe(case, Path(directory))
            found = compare(case, seen)
            outcome = _summary(seen)
    except Exception as error:  # noqa: BLE001 - one broken case must not hide the others
        return CaseReport(case_id, Verdict.FAILED, (f"{type(error).__name__}: {error}",))
    if stance:
        reason = STANCES.get(stance, "a marked defect of the recorded implementation")
        return CaseReport(case_id, Verdict.DEVIATES, (f"{stance}: {reason}; {outcome or 'see tests'}",))
    return CaseReport(case_id, Verdict.FAILED if found else Verdict.PASSED, tuple(found))


def _summary(seen: Observation) -> str:
    if seen.error is not None:
        return shorten(f"{type(seen.error).__name__}: {seen.error}")
    return f"result {shorten(encode(seen.result).decode('utf-8'))}"
