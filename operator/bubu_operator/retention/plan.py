"""From a policy and a config to the engine's `PassSpec`; pure.

Tenancy is made here: the policy's namespace is inserted after the store's output or input
prefix, so a rule ``outputs/`` of namespace ``team-a`` covers ``outputs/team-a/`` and no rule
that a tenant can write covers anything else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionCursor, RetentionMode, RetentionPolicySpec
from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.spec import PassSpec, RetentionRule

__all__ = ["CURSOR_FIELDS", "PassPlan", "PlanProblem", "plan_pass", "resume_cursor", "store_prefix"]

CURSOR_FIELDS: dict[RetentionMode, str] = {
    RetentionMode.DRY_RUN: "dryRunCursor",
    RetentionMode.ENFORCE: "cursor",
}
"""Each mode has a cursor of its own: a rehearsal must not move the real one."""


@dataclass(frozen=True, slots=True)
class PlanProblem:
    """The policy cannot be run on this store, and why.

    Attributes:
        reason: for the Ready condition.
        message: for people.
        quiet: nothing is wrong, as with a policy that is suspended: no warning is due.
    """

    reason: Reason
    message: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class PassPlan:
    """A pass that can be run.

    Attributes:
        spec: for the engine.
        fingerprint: changes when the store or the rules change; a cursor of another
            fingerprint is not used, so that changed rules are applied from the start.
    """

    spec: PassSpec
    fingerprint: str


def store_prefix(
    prefix: str, namespace: str, output_prefix: str, input_prefix: str
) -> tuple[str, str] | None:
    """Return (scope, whole prefix) of a rule's prefix in the store; None if it lies in neither.

    ``outputs/`` in namespace ``team-a`` is (``outputs/team-a/``, ``outputs/team-a/``), and
    ``outputs/run-1/`` is (``outputs/team-a/``, ``outputs/team-a/run-1/``).
    """
    for base in (output_prefix, input_prefix):
        root = base.strip("/") + "/"
        if prefix.startswith(root):
            scope = f"{root}{namespace}/"
            return scope, scope + prefix[len(root) :]
    return None


def plan_pass(
    policy: RetentionPolicySpec, *, namespace: str, output_prefix: str, input_prefix: str, store: str
) -> PassPlan | PlanProblem:
    """Resolve a policy's rules and limits for its store.

    Args:
        policy: the parsed spec.
        namespace: the policy's own.
        output_prefix: of the config.
        input_prefix: of the config.
        store: the store's identity.
    """
    rules: list[RetentionRule] = []
    scopes: set[str] = set()
    try:
        for rule in policy.rules:
            placed = store_prefix(rule.prefix, namespace, output_prefix, input_prefix)
            if placed is None:
                return PlanProblem(
                    Reason.PREFIX_OUTSIDE_STORE,
                    f"rule prefix {rule.prefix!r} begins with neither {output_prefix}/ (outputPrefix) nor "
                    f"{input_prefix}/ (inputPrefix) of the store; it would never match anything",
                )
            scopes.add(placed[0])
            within = rule.keep.within_seconds
            if within is None or rule.keep.last_runs is not None:
                return PlanProblem(
                    Reason.INVALID_SPEC,
                    f"rule {rule.prefix!r}: keep.lastRuns is not carried out yet, and is not ignored either",
                )
            rules.append(RetentionRule(placed[1], float(within)))
        spec = PassSpec(
            scopes=tuple(sorted(scopes)),
            rules=tuple(rules),
            min_age_seconds=float(policy.safety.min_age_seconds),
            max_scan=policy.limits.max_scan,
            max_delete=policy.limits.max_delete,
            budget_seconds=float(policy.limits.budget_seconds),
            requests_per_second=float(policy.limits.requests_per_second),
            dry_run=policy.mode is RetentionMode.DRY_RUN,
        )
    except (ConfigurationError, InvalidKeyError, ValueError) as error:
        return PlanProblem(Reason.INVALID_SPEC, str(error))
    return PassPlan(spec, _fingerprint(spec, store))


def resume_cursor(stored: RetentionCursor | None, fingerprint: str) -> Cursor:
    """Return the cursor to resume from; an empty one where the stored one is foreign or unreadable."""
    if stored is None:
        return Cursor()
    data: dict[str, Any] = stored.to_api()
    if data.pop("fingerprint", None) != fingerprint:
        return Cursor()
    try:
        return Cursor.from_dict(data)
    except ConfigurationError:
        return Cursor()


def _fingerprint(spec: PassSpec, store: str) -> str:
    facts = {
        "store": store,
        "scopes": list(spec.scopes),
        "rules": sorted((rule.prefix, rule.keep_within_seconds) for rule in spec.rules),
        "minAge": spec.min_age_seconds,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
