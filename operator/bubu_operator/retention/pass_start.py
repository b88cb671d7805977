"""What is known when a pass starts and holds until it ends; pure.

It places the pass in its cycle: when that began, and which namespaces it has covered since then.
That is taken from the cursor before the pass and not while it runs, for a checkpoint may have
ended the cycle already.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode, RetentionPolicy
from bubu_operator.kube.conditions import format_time
from bubu_operator.retention.annotations import run_now_value
from bubu_operator.retention.cycle import approval_of, covered_namespaces, covers
from bubu_operator.retention.plan import PassPlan, resume_cursor

__all__ = ["PassStart"]


@dataclass(frozen=True, slots=True)
class PassStart:
    """What is known when a pass starts and holds until it ends; made by `of`.

    Attributes:
        started: wall clock.
        mode: of this pass: DryRun, too, for a rehearsal of a policy that is to delete.
        generation: of the spec that it follows.
        fingerprint: kept with the cursor, see `plan.PassPlan`.
        passes, deleted_objects, deleted_bytes: totals before this pass.
        run_now: value of the annotation that it acts on.
        max_scan, max_delete: limits of the policy; 0 where they are not known.
        approved_plan: the plan that somebody approved; None for none.
        cycle_start: when the cycle began, as a status has it; "" where that is not known, and
            then nothing is concluded from its end.
        covered: of a cluster-wide policy's rehearsal: see `cycle.covers`.
    """

    started: datetime
    mode: RetentionMode
    generation: int
    fingerprint: str
    passes: int
    deleted_objects: int
    deleted_bytes: int
    run_now: str | None
    max_scan: int = 0
    max_delete: int = 0
    approved_plan: str | None = None
    cycle_start: str = ""
    covered: str = ""

    @classmethod
    def of(
        cls, policy: RetentionPolicy | ClusterRetentionPolicy, plan: PassPlan, *, started: datetime
    ) -> Self:
        """Return the start of a policy's pass, of the plan that `cycle.staged_plan` returned."""
        status, spec = policy.status, plan.spec
        totals = status.totals
        stored = status.dry_run_cursor if spec.dry_run else status.cursor
        covered = ""
        if stored is None or resume_cursor(stored, plan.fingerprint).is_start:
            cycle_start, namespaces = format_time(started), plan.namespaces
        else:
            begun = stored.cycle_start_time
            cycle_start = "" if begun is None else format_time(begun)
            namespaces = tuple(covered_namespaces(plan.namespaces, stored.covered or ""))
        if spec.dry_run:
            covered = covers(namespaces)
        return cls(
            started=started,
            mode=RetentionMode.DRY_RUN if spec.dry_run else RetentionMode.ENFORCE,
            generation=policy.metadata.generation,
            fingerprint=plan.fingerprint,
            passes=totals.passes if totals is not None else 0,
            deleted_objects=totals.deleted_objects if totals is not None else 0,
            deleted_bytes=totals.deleted_bytes if totals is not None else 0,
            run_now=run_now_value(policy),
            max_scan=spec.max_scan,
            max_delete=spec.max_delete,
            approved_plan=approval_of(policy),
            cycle_start=cycle_start,
            covered=covered,
        )

    @property
    def start_time(self) -> str:
        """As it is in the status; tells whose pass ``lastPass`` is."""
        return format_time(self.started)
