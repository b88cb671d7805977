"""Retention: bounded, resumable passes that delete whole runs which nothing keeps.

A library over `ObjectBackend`; it knows neither Kubernetes nor the environment. The shape
is gather (`scan`), decide (`rules`, pure), act (`sweep`, `delete`), report (`report`);
`run_pass` wires them. `PassSpec` is what a policy comes down to, `Cursor` where a pass goes
on, `PassReport` what it did.
"""

from __future__ import annotations

from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.report import Mode, PassReport, RunOutcome, StoppedBy, Tally
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.retention.tally import CycleTally

__all__ = [
    "Cursor",
    "CycleTally",
    "Mode",
    "PassReport",
    "PassSpec",
    "Reason",
    "ReferenceCache",
    "RetentionRule",
    "RunOutcome",
    "StoppedBy",
    "Tally",
    "run_pass",
]
