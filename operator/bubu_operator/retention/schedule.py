"""When the next pass of a policy is due, and why; pure.

The interval counts from the end of the last pass. A spec that changed, a pass that was cut
short, a new value of the run-now annotation and the pass after a rehearsal are due at once;
suspension outranks all. The passes of a rehearsal keep the interval like all others: what
``limits`` say about the load on a store is a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode, RetentionPolicy
from bubu_operator.retention.annotations import RUN_NOW_ANNOTATION, asked_now, run_now_value
from bubu_operator.retention.cycle import Stage, StageKind
from bubu_storage.retention.report import StoppedBy

__all__ = ["RUN_NOW_ANNOTATION", "Due", "DueReason", "decide_due"]


class DueReason(StrEnum):
    """Why a pass is due when it is."""

    FIRST = "First"
    SPEC_CHANGED = "SpecChanged"
    INTERRUPTED = "Interrupted"
    RUN_NOW = "RunNow"
    INTERVAL = "Interval"
    CLOCK_SET_BACK = "ClockSetBack"
    REHEARSED = "Rehearsed"
    APPROVAL_REQUIRED = "ApprovalRequired"
    SUSPENDED = "Suspended"


@dataclass(frozen=True, slots=True)
class Due:
    """The answer of `decide_due`.

    Attributes:
        at: when; None for never (suspended).
        reason: why then.
        run_now: value of the annotation that this pass acts on; None if it has none.
    """

    at: datetime | None
    reason: DueReason
    run_now: str | None


def decide_due(
    policy: RetentionPolicy | ClusterRetentionPolicy, now: datetime, stage: Stage | None = None
) -> Due:
    """Return when the policy's next pass is due; never later than one interval from now.

    Args:
        policy: as read.
        now: wall clock.
        stage: what the pass would be, where that is known.
    """
    last = policy.status.last_pass
    asked = run_now_value(policy)
    if policy.spec.suspend:
        return Due(None, DueReason.SUSPENDED, asked)
    if stage is not None and stage.is_blocked:
        return Due(None, DueReason.APPROVAL_REQUIRED, asked)
    if asked_now(policy):
        return Due(now, DueReason.RUN_NOW, asked)
    if last is None or last.start_time is None:
        return Due(now, DueReason.FIRST, asked)
    if last.observed_generation != policy.metadata.generation:
        return Due(now, DueReason.SPEC_CHANGED, asked)
    finished = last.finish_time
    if finished is None or last.stopped_by == StoppedBy.STOPPED.value:
        return Due(now, DueReason.INTERRUPTED, asked)
    if finished > now:
        # The clock was set back: how long ago the last pass ended is unknown, and waiting until the
        # clock is there again could take for ever. The pass that starts now puts the time right.
        return Due(now, DueReason.CLOCK_SET_BACK, asked)
    if (
        stage is not None
        and stage.kind is StageKind.ENFORCE
        and last.complete_cycle
        and last.mode == RetentionMode.DRY_RUN.value
    ):
        return Due(now, DueReason.REHEARSED, asked)
    return Due(finished + timedelta(seconds=policy.spec.interval_seconds), DueReason.INTERVAL, asked)
