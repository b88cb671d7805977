"""What people ask of a retention policy by annotations: a pass now, an approval; pure.

A value is acted on once: a run-now value that was acted on is in the status, and an approval
names the one finding that it is about by a hash that no other has.
"""

from __future__ import annotations

from typing import Final

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy

__all__ = ["APPROVE_ANNOTATION", "RUN_NOW_ANNOTATION", "approved_hash", "asked_now", "run_now_value"]

RUN_NOW_ANNOTATION: Final = "storage.bubustack.io/run-now"
"""On a policy: a new value asks for a pass at once."""

APPROVE_ANNOTATION: Final = "storage.bubustack.io/approve"
"""On a policy: the hash of the plan, or of the problem with owners, that somebody agrees to."""

MAX_RUN_NOW_CHARACTERS: Final = 1024
MAX_APPROVAL_CHARACTERS: Final = 63


def run_now_value(policy: RetentionPolicy | ClusterRetentionPolicy) -> str | None:
    """Return the value of the run-now annotation, as far as a status can hold it; None for none."""
    return str(policy.metadata.annotations.get(RUN_NOW_ANNOTATION, ""))[:MAX_RUN_NOW_CHARACTERS] or None


def asked_now(policy: RetentionPolicy | ClusterRetentionPolicy) -> bool:
    """Tell whether a pass was asked for that was not made yet."""
    value = run_now_value(policy)
    return value is not None and value != policy.status.last_run_now


def approved_hash(policy: RetentionPolicy | ClusterRetentionPolicy) -> str:
    """Return the hash that the approve annotation names; "" for none."""
    return str(policy.metadata.annotations.get(APPROVE_ANNOTATION, "")).strip()[:MAX_APPROVAL_CHARACTERS]
