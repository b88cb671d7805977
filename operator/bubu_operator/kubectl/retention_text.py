"""What ``kubectl bubu retention`` says about a policy: pure functions from the policy to words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.common import find_condition
from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_facts import CycleSummary
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode, RetentionPolicy
from bubu_operator.kubectl.failures import one_line
from bubu_operator.kubectl.output import row
from bubu_operator.retention.cycle import is_over_share
from bubu_storage.retention.reasons import KEPT_REASONS

__all__ = ["AnyPolicy", "Pending", "PendingKind", "as_document", "as_text", "bytes_text", "pending_approval"]

AnyPolicy: TypeAlias = RetentionPolicy | ClusterRetentionPolicy

_REASON_WIDTH: Final = 22
_UNIT_STEP: Final = 1024
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KEPT: Final = frozenset(reason.value for reason in KEPT_REASONS)


class PendingKind(StrEnum):
    """What waits for somebody's approval."""

    PLAN = "Plan"
    """More is due than maxDuePercent lets go."""
    OWNERS = "Owners"
    """The list of owners is not believed."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Something that `kubectl bubu retention approve` would approve.

    Attributes:
        kind: what it is.
        hash: value of the annotation.
        text: what is approved by it, in a sentence.
    """

    kind: PendingKind
    hash: str
    text: str


def pending_approval(policy: AnyPolicy) -> Pending | None:
    """Return what waits for approval; None if nothing does."""
    status = policy.status
    owners = status.owners
    if owners is not None and owners.problem and owners.problem_hash:
        return Pending(
            PendingKind.OWNERS,
            owners.problem_hash,
            f"the newer list of owners is right, and runs may be judged by it: {owners.problem}",
        )
    if not status.plan_hash or status.plan_hash == status.approved_plan or not _waits(policy):
        return None
    plan = status.rehearsal
    what = (
        f"{_count(plan.due_objects)} of {_count(plan.decided_objects)} objects "
        f"({plan.due_percent} %, {bytes_text(plan.due_bytes)}) may be deleted"
        if plan is not None
        else "what the last complete dry cycle found due may be deleted"
    )
    return Pending(
        PendingKind.PLAN,
        status.plan_hash,
        f"{what}, {policy.spec.limits.max_delete} objects a pass at most; "
        f"safety.maxDuePercent is {policy.spec.safety.max_due_percent}",
    )


def _waits(policy: AnyPolicy) -> bool:
    """Tell whether a plan waits: the controller says so, or is about to, because the last rehearsal does."""
    status, rehearsal = policy.status, policy.status.rehearsal
    if any(
        item.type == "Ready" and item.reason == Reason.APPROVAL_REQUIRED.value for item in status.conditions
    ):
        return True
    last = status.last_pass
    return (
        policy.spec.mode is RetentionMode.ENFORCE
        and rehearsal is not None
        and rehearsal.complete_time is not None
        and status.cycle is None
        and last is not None
        and last.observed_generation == policy.metadata.generation
        and is_over_share(
            rehearsal.due_objects, rehearsal.decided_objects, policy.spec.safety.max_due_percent
        )
    )


def as_text(policy: AnyPolicy, now: datetime) -> str:
    """Lines for people, aligned, without a trailing newline."""
    metadata, spec, status = policy.metadata, policy.spec, policy.status
    where = f" in namespace {metadata.namespace}" if metadata.namespace else ""
    lines = [f"{policy.KIND.lower()}/{metadata.name}{where}", ""]
    lines += row("result", _verdict(policy))
    if status.storage is not None:
        lines += row("store", f"{status.storage.kind} {status.storage.name}")
    for rule in spec.rules:
        keeps: list[str] = []
        if rule.keep.within is not None:
            keeps.append(f"what is at most {rule.keep.within} old")
        if rule.keep.last_runs is not None:
            keeps.append(f"the newest {rule.keep.last_runs} runs of each story")
        lines += row("keeps", f"{rule.prefix}: {' and '.join(keeps)}")
    lines += row(
        "limits",
        f"{_count(spec.limits.max_scan)} looked at and {_count(spec.limits.max_delete)} deleted a pass, "
        f"every {spec.interval}",
    )
    for title, cycle in (("rehearsal", status.rehearsal), ("cycle", status.cycle)):
        if cycle is not None and cycle.complete_time is not None:
            lines += row(title, _cycle_text(cycle, now))
    lines += [line for title, text in _facts(policy, now) for line in row(title, text)]
    last = status.last_pass
    if last is not None and last.by_reason:
        lines.append("")
        for name, tally in sorted(last.by_reason.items(), key=lambda item: (item[0] in _KEPT, item[0])):
            lines.append(
                f"  {one_line(name):<{_REASON_WIDTH}}{_count(tally.objects):>12}  {bytes_text(tally.bytes)}"
            )
    return "\n".join(line.rstrip() for line in lines)


def _verdict(policy: AnyPolicy) -> str:
    spec, status = policy.spec, policy.status
    ready = find_condition(policy.status.conditions, "Ready")
    if spec.suspend:
        return "no pass is started: spec.suspend is true (Suspended)"
    if ready is None or status.observed_generation != policy.metadata.generation:
        return "no controller has judged its present form yet"
    pending = pending_approval(policy)
    if pending is not None:
        return f"nothing is deleted until somebody approves ({pending.kind}): {pending.text}"
    if ready.status == "False":
        return f"no pass runs ({ready.reason}): {ready.message}"
    reconciled = find_condition(policy.status.conditions, "Reconciled")
    if reconciled is not None and reconciled.status == "False":
        return f"the last pass did not do all that it should ({reconciled.reason}): {reconciled.message}"
    if spec.mode is RetentionMode.DRY_RUN:
        return "it reports what is due and deletes nothing (DryRun)"
    if status.rehearsal is None or status.rehearsal.complete_time is None:
        return "it rehearses: a complete dry cycle comes before the first deletion"
    return "it deletes what is due (Enforce)"


def _facts(policy: AnyPolicy, now: datetime) -> Iterator[tuple[str, str]]:
    status = policy.status
    owners = status.owners
    if owners is not None:
        kinds = f" ({', '.join(owners.kinds)})" if owners.kinds else ""
        yield "owners", f"{_count(owners.live)} live of {_count(owners.existing)}{kinds}"
    if status.orphans is not None and status.orphans.objects:
        found = f"{_count(status.orphans.objects)} objects ({bytes_text(status.orphans.bytes)})"
        yield (
            "orphans",
            f"{found} of runs without an owner; orphans.action is {policy.spec.orphans.action.value}",
        )
    for other in status.shared_with or ():
        yield "shared", f"with cluster {other.cluster}: runs without an owner here may have one there"
    if status.claim is not None and status.claim.holder and not status.claim.ours:
        yield "claim", f"cluster {status.claim.holder} deletes in this store at present"
    if status.estimated_cycle_seconds is not None:
        yield "takes", f"{_span(status.estimated_cycle_seconds)} for a whole cycle at these limits"
    if status.oldest_overdue_seconds is not None:
        yield "overdue", f"the run that should have gone first, since {_span(status.oldest_overdue_seconds)}"
    last = status.last_pass
    if last is not None:
        ended = "running" if last.finish_time is None else f"{_ago(last.finish_time, now)} ago"
        yield "last", f"{ended}: {last.message or f'{_count(last.scanned)} scanned'}"
    if status.next_pass_time is not None:
        left = (status.next_pass_time - now).total_seconds()
        yield "next", "now" if left <= 0 else f"in {_span(left)}"
    if status.totals is not None:
        deleted = f"{_count(status.totals.deleted_objects)} objects"
        size = bytes_text(status.totals.deleted_bytes)
        yield "total", f"{deleted} ({size}) deleted in {_count(status.totals.passes)} passes"


def _cycle_text(cycle: CycleSummary, now: datetime) -> str:
    ended = "" if cycle.complete_time is None else f", complete {_ago(cycle.complete_time, now)} ago"
    return (
        f"{_count(cycle.due_objects)} of {_count(cycle.decided_objects)} objects due "
        f"({cycle.due_percent} %, {bytes_text(cycle.due_bytes)}){ended}"
    )


def as_document(policy: AnyPolicy) -> dict[str, Any]:
    """Plain data for programs: what is pending, and the policy's own status."""
    pending = pending_approval(policy)
    return {
        "kind": policy.KIND,
        "namespace": policy.metadata.namespace,
        "name": policy.metadata.name,
        "mode": policy.spec.mode.value,
        "suspend": policy.spec.suspend,
        "verdict": _verdict(policy),
        "pending": None
        if pending is None
        else {"kind": pending.kind.value, "hash": pending.hash, "text": pending.text},
        "status": policy.status.to_api(),
    }


def bytes_text(size_bytes: int) -> str:
    """Return a size for people, as in 1.5 GiB."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < _UNIT_STEP or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _UNIT_STEP
    raise AssertionError("the last unit takes everything")


def _count(number: int) -> str:
    return f"{number:,}"


def _ago(when: datetime, now: datetime) -> str:
    return _span((now - when).total_seconds())


def _span(seconds: float) -> str:
    left = max(0, round(seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if left >= 2 * size:
            return f"{left // size} {unit}"
    return f"{left} s"
