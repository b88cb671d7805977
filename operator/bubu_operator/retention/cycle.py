"""Which pass comes next: a rehearsal, an enforcing one, or none before somebody approves; pure.

A policy in mode Enforce deletes nothing before a whole dry cycle of the same fingerprint is
complete, and nothing at all when that cycle found more due than ``safety.maxDuePercent``, until
exactly that plan is approved. While it deletes, each cycle may find at most its share due; one
that would go beyond ends, and a rehearsal comes first again.

Invariants: an approval is of one plan, by its hash, and lets go as many objects as that plan
had, no more; a rehearsal of other rules, another store or other owners counts for nothing; the
namespaces that a cluster-wide policy deletes from were all in its last whole dry cycle.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_facts import CycleSummary
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode, RetentionPolicy
from bubu_operator.api.v1alpha1.retention_status import RetentionCursor
from bubu_operator.retention.annotations import APPROVE_ANNOTATION, approved_hash, asked_now
from bubu_operator.retention.plan import PassPlan
from bubu_storage.retention.tally import CycleTally

__all__ = [
    "Stage",
    "StageKind",
    "acknowledged_owners",
    "approval_of",
    "covered_namespaces",
    "covers",
    "decide_stage",
    "due_percent",
    "is_over_share",
    "plan_hash",
    "share_of",
    "staged_plan",
]

_COVERED_CHARACTERS: Final = 6
_WHOLE: Final = 100


class StageKind(StrEnum):
    """What the next pass is."""

    DRY_RUN = "DryRun"
    """The policy only rehearses."""
    REHEARSE = "Rehearse"
    """The policy is to delete, and a dry cycle comes first."""
    ENFORCE = "Enforce"
    """It deletes."""
    APPROVAL_REQUIRED = "ApprovalRequired"
    """No pass before somebody approves, or asks for a new rehearsal by run-now."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The answer of `decide_stage`.

    Attributes:
        kind: see `StageKind`.
        message: for people; why.
        reason: for the Ready condition where it is not simply that the store was found.
        max_due_objects: for the engine; None is no bound.
        namespaces: of a cluster-wide policy: those that the pass may cover.
        plan_hash: of the plan that waits for an approval, or was approved.
    """

    kind: StageKind
    message: str
    reason: Reason | None = None
    max_due_objects: int | None = None
    namespaces: tuple[str, ...] = ()
    plan_hash: str | None = None

    @property
    def mode(self) -> RetentionMode:
        """Of the pass: whose cursor it moves, and whether it may delete."""
        return RetentionMode.ENFORCE if self.kind is StageKind.ENFORCE else RetentionMode.DRY_RUN

    @property
    def is_blocked(self) -> bool:
        """Tell whether no pass may run."""
        return self.kind is StageKind.APPROVAL_REQUIRED


def decide_stage(policy: RetentionPolicy | ClusterRetentionPolicy, plan: PassPlan) -> Stage:
    """Return what the policy's next pass is."""
    status, everywhere = policy.status, plan.namespaces
    if policy.spec.mode is RetentionMode.DRY_RUN:
        return Stage(StageKind.DRY_RUN, "mode is DryRun: nothing is deleted", namespaces=everywhere)
    rehearsal = _complete(status.rehearsal, plan.fingerprint)
    if rehearsal is None:
        return _rehearse(everywhere, "a whole dry cycle precedes the first deletion of this spec")
    percent = policy.spec.safety.max_due_percent
    cycle = _complete(status.cycle, plan.fingerprint)
    if cycle is None:
        approved = is_approved(policy, rehearsal)
        if is_over_share(rehearsal.due_objects, rehearsal.decided_objects, percent) and not approved:
            return _over_share(policy, plan, rehearsal)
        bound = share_of(rehearsal.decided_objects, percent)
        if approved and bound is not None:
            bound = max(bound, rehearsal.due_objects)
    else:
        # What was due in the last cycle is gone, or it is found due once more in this one.
        bound = share_of(cycle.decided_objects - cycle.due_objects, percent)
    namespaces = tuple(covered_namespaces(everywhere, rehearsal.covered or ""))
    if everywhere and not namespaces:
        return _rehearse(everywhere, "no namespace of the last dry cycle is left; a new one comes first")
    if len(namespaces) < len(everywhere) and cycle is not None and _is_at_start(status.cursor, plan):
        # Only after a cycle that deleted: where namespaces come all the time, both take turns.
        return _rehearse(everywhere, "namespaces have come; a dry cycle with them precedes deletions there")
    return Stage(
        StageKind.ENFORCE,
        "what is due is deleted",
        max_due_objects=bound,
        namespaces=namespaces,
        plan_hash=rehearsal.plan_hash,
    )


def staged_plan(plan: PassPlan, stage: Stage) -> PassPlan:
    """Return the plan as the stage has it: mode, bound, and only the namespaces that it may cover."""
    if plan.namespaces:
        plan = plan.within(stage.namespaces)
    spec = replace(
        plan.spec,
        dry_run=stage.mode is RetentionMode.DRY_RUN,
        max_due_objects=stage.max_due_objects,
    )
    return replace(plan, spec=spec)


def _rehearse(namespaces: tuple[str, ...], why: str) -> Stage:
    return Stage(StageKind.REHEARSE, why, Reason.REHEARSING, namespaces=namespaces)


def _over_share(
    policy: RetentionPolicy | ClusterRetentionPolicy, plan: PassPlan, rehearsal: CycleSummary
) -> Stage:
    if asked_now(policy) or not _is_at_start(policy.status.dry_run_cursor, plan):
        return _rehearse(plan.namespaces, "a new dry cycle was asked for")
    asked = approved_hash(policy)
    stale = f"; the approval of {asked} is of another plan and does not count" if asked else ""
    return Stage(
        StageKind.APPROVAL_REQUIRED,
        f"{rehearsal.due_objects} of {rehearsal.decided_objects} objects are due "
        f"({rehearsal.due_percent} %), and safety.maxDuePercent is {policy.spec.safety.max_due_percent}: "
        f"look at what is due, then set the annotation {APPROVE_ANNOTATION} to {rehearsal.plan_hash}{stale}",
        Reason.APPROVAL_REQUIRED,
        namespaces=plan.namespaces,
        plan_hash=rehearsal.plan_hash,
    )


def _complete(summary: CycleSummary | None, fingerprint: str) -> CycleSummary | None:
    """Return a summary if it is whole and of these rules."""
    if summary is None or summary.complete_time is None or summary.fingerprint != fingerprint:
        return None
    return summary


def _is_at_start(cursor: RetentionCursor | None, plan: PassPlan) -> bool:
    """Tell whether the next pass with this cursor begins a cycle."""
    if cursor is None or cursor.fingerprint != plan.fingerprint:
        return True
    return not cursor.after and cursor.run is None


# --- approvals ---------------------------------------------------------------------------------


def approval_of(policy: RetentionPolicy | ClusterRetentionPolicy) -> str | None:
    """Return the plan that is approved: by the annotation if it names the present one, else as before."""
    status = policy.status
    asked = approved_hash(policy)
    if asked and asked == status.plan_hash:
        return asked
    return status.approved_plan


def is_approved(policy: RetentionPolicy | ClusterRetentionPolicy, rehearsal: CycleSummary) -> bool:
    """Tell whether exactly the plan of this rehearsal is approved."""
    return rehearsal.plan_hash is not None and rehearsal.plan_hash in {
        approved_hash(policy),
        policy.status.approved_plan,
    }


def acknowledged_owners(policy: RetentionPolicy | ClusterRetentionPolicy) -> str:
    """Return the token of the problem with owners that somebody says is none; "" for none.

    The hash that people approve is of this one occurrence: the same problem, when it comes
    again, has another.
    """
    owners = policy.status.owners
    if owners is None or owners.problem_hash is None or approved_hash(policy) != owners.problem_hash:
        return ""
    return owners.problem_token or ""


def plan_hash(fingerprint: str, tally: CycleTally) -> str:
    """Return the name of what a whole cycle found due; another run, or one object more, is another plan."""
    facts = [fingerprint, tally.decided, tally.due, tally.due_bytes, tally.digest]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


# --- shares ------------------------------------------------------------------------------------


def is_over_share(due: int, decided: int, percent: int) -> bool:
    """Tell whether more is due than a share of what was decided; 100 percent is no limit."""
    return due * _WHOLE > decided * percent


def share_of(objects: int, percent: int) -> int | None:
    """Return how many of some objects may be due; None for no limit."""
    return None if percent >= _WHOLE else max(0, objects) * percent // _WHOLE


def due_percent(due: int, decided: int) -> int:
    """Return the share that is due, rounded up, so that one object above a limit shows."""
    return 0 if decided <= 0 else min(_WHOLE, -(-due * _WHOLE // decided))


# --- namespaces --------------------------------------------------------------------------------


def covers(namespaces: Iterable[str]) -> str:
    """Return digests of namespaces, as a status has them: the same for the same set, six characters each."""
    return "".join(sorted({_short(name) for name in namespaces}))


def covered_namespaces(namespaces: Iterable[str], covered: str) -> Iterable[str]:
    """Yield those namespaces whose digests are there."""
    known = {
        covered[start : start + _COVERED_CHARACTERS] for start in range(0, len(covered), _COVERED_CHARACTERS)
    }
    return (name for name in namespaces if _short(name) in known)


def _short(namespace: str) -> str:
    digest = hashlib.sha256(namespace.encode()).digest()[:4]
    return base64.urlsafe_b64encode(digest).decode()[:_COVERED_CHARACTERS]
