"""What has to be said on the command line before ``retention apply`` does what a policy's text does not say.

Invariants: a policy that is suspended or only rehearses deletes nothing unless somebody says so here; one
that looks at owners deletes nothing while nobody says who they are. Nothing is asked of the store.
"""

from __future__ import annotations

from bubu_storage.cli.failures import Refusal
from bubu_storage.cli.retention_policy import RetentionPlan

__all__ = ["check_apply", "missing_owners"]


def check_apply(plan: RetentionPlan, *, enforce: bool, has_owners: bool) -> None:
    """Compare what the policies want with what the command was told.

    Args:
        plan: of all policies.
        enforce: ``--enforce`` is given.
        has_owners: ``--live-refs`` is given.

    Raises:
        Refusal: names the policies and the way out.
    """
    if plan.suspended:
        raise Refusal(
            f"policy {', '.join(plan.suspended)} is suspended; set spec.suspend to false first. Nothing was "
            "deleted"
        )
    if plan.rehearsing and not enforce:
        raise Refusal(
            f"policy {', '.join(plan.rehearsing)} only rehearses (spec.mode is DryRun, or not given, which "
            "means the same in a manifest); set it to Enforce, or add --enforce. Nothing was deleted"
        )
    if not has_owners and (missing := missing_owners(plan)):
        raise Refusal(f"{missing}: give --live-refs FILE. Nothing was deleted")


def missing_owners(plan: RetentionPlan) -> str:
    """Say why the policies cannot be judged without a list of owners; "" where they can."""
    if not plan.needs_owners:
        return ""
    return f"policy {', '.join(plan.needs_owners)} goes by owners (owners, keep.lastRuns or orphans.action)"
