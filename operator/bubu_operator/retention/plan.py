"""From a policy and a config to the engine's `PassSpec`; pure.

Tenancy is made here: the namespace is inserted after the store's output or input prefix, so a
rule ``outputs/`` in namespace ``team-a`` covers ``outputs/team-a/``, and no rule that a tenant
can write covers anything else. A cluster-wide policy's rules are placed in this way in every
namespace that its config selects.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import (
    OrphanAction,
    Orphans,
    RetentionCursor,
    RetentionMode,
    RetentionRuleSpec,
    RetentionSpec,
)
from bubu_operator.owners.joined import NeighbourOwners
from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.spec import PassSpec, RetentionRule

__all__ = [
    "CURSOR_FIELDS",
    "MAX_SCOPES",
    "PassPlan",
    "PlanProblem",
    "orphan_grace",
    "plan_cluster_pass",
    "plan_pass",
    "resume_cursor",
    "store_prefix",
]

MAX_SCOPES: Final = 10_000
"""Parts of a store, one a namespace and prefix, that a cluster-wide policy covers at most."""


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
        fingerprint: changes when the store, or anything that decides about a run, changes; a
            cursor or a rehearsal of another fingerprint is not used, so that changed rules are
            applied from the start. Limits and mode are not in it, nor are the namespaces of a
            cluster-wide policy: they come and go, and cycles would never end.
        namespaces: of a cluster-wide policy: all that the pass covers, sorted. Empty for a
            policy of one namespace.
        scope_namespaces: of a cluster-wide policy: the namespace of each of ``spec.scopes``.
        neighbours: what other policies that reach the same part of the store say of owners. Like
            what they keep, it is no part of the fingerprint: it can only keep more.
    """

    spec: PassSpec
    fingerprint: str
    namespaces: tuple[str, ...] = ()
    scope_namespaces: tuple[str, ...] = ()
    neighbours: tuple[NeighbourOwners, ...] = ()

    def within(self, namespaces: Iterable[str]) -> PassPlan:
        """Return the plan for some of a cluster-wide policy's namespaces only; at least one."""
        wanted = frozenset(namespaces)
        scopes = tuple(
            scope
            for scope, namespace in zip(self.spec.scopes, self.scope_namespaces, strict=True)
            if namespace in wanted
        )
        if len(scopes) == len(self.spec.scopes):
            return self
        rules = tuple(rule for rule in self.spec.rules if _holds(scopes, rule.prefix))
        return replace(
            self,
            spec=replace(self.spec, scopes=scopes, rules=rules),
            namespaces=tuple(name for name in self.namespaces if name in wanted),
            scope_namespaces=tuple(name for name in self.scope_namespaces if name in wanted),
        )


def _holds(scopes: Sequence[str], prefix: str) -> bool:
    """Tell whether a prefix lies in one of some scopes, which are sorted and do not overlap."""
    position = bisect_right(scopes, prefix)
    return position > 0 and prefix.startswith(scopes[position - 1])


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


def orphan_grace(orphans: Orphans) -> float | None:
    """Return after how many seconds without an owner a counting rule lets a run go; None for never."""
    return float(orphans.grace_seconds) if orphans.action is OrphanAction.DELETE else None


def plan_pass(
    policy: RetentionSpec,
    *,
    namespace: str,
    output_prefix: str,
    input_prefix: str,
    store: str,
    owner_kinds: Sequence[str] = (),
) -> PassPlan | PlanProblem:
    """Resolve the rules and limits of a policy of one namespace for its store.

    Args:
        policy: the parsed spec.
        namespace: the policy's own.
        output_prefix: of the config.
        input_prefix: of the config.
        store: the store's identity.
        owner_kinds: names of the kinds whose objects are listed as owners; none where nobody
            knows owners. Another set of kinds decides differently, so it starts anew.
    """
    placed = _place(policy, (namespace,), output_prefix, input_prefix)
    if isinstance(placed, PlanProblem):
        return placed
    spec = placed[0]
    facts = {
        "store": store,
        "scopes": list(spec.scopes),
        "rules": sorted(_rule_facts(rule.prefix, rule) for rule in spec.rules),
    }
    return PassPlan(spec, _fingerprint(facts, policy, owner_kinds))


def plan_cluster_pass(
    policy: RetentionSpec,
    *,
    namespaces: Iterable[str],
    output_prefix: str,
    input_prefix: str,
    store: str,
    owner_kinds: Sequence[str] = (),
) -> PassPlan | PlanProblem:
    """Resolve the rules and limits of a cluster-wide policy for its store.

    Args:
        policy: the parsed spec.
        namespaces: all that the ClusterStorageConfig's selector selects now.
        output_prefix: of the config.
        input_prefix: of the config.
        store: the store's identity.
        owner_kinds: see `plan_pass`.
    """
    names = tuple(sorted(set(namespaces)))
    if not names:
        return PlanProblem(
            Reason.NO_NAMESPACES,
            "the namespaceSelector of the ClusterStorageConfig selects no namespace: nothing to clean",
            quiet=True,
        )
    if len(names) > MAX_SCOPES:  # before anything is made for each of them
        return _too_many(len(names))
    placed = _place(policy, names, output_prefix, input_prefix)
    if isinstance(placed, PlanProblem):
        return placed
    spec, owners = placed
    facts = {
        "store": store,
        "prefixes": [output_prefix, input_prefix],
        "rules": sorted(
            _rule_facts(rule.prefix, _rule(rule.prefix, rule, policy.orphans)) for rule in policy.rules
        ),
    }
    return PassPlan(
        spec,
        _fingerprint(facts, policy, owner_kinds),
        namespaces=names,
        scope_namespaces=tuple(owners[scope] for scope in spec.scopes),
    )


def _place(
    policy: RetentionSpec, namespaces: Sequence[str], output_prefix: str, input_prefix: str
) -> tuple[PassSpec, dict[str, str]] | PlanProblem:
    """Return the engine's spec, and the namespace of each scope."""
    rules: list[RetentionRule] = []
    scopes: dict[str, str] = {}
    try:
        for rule in policy.rules:
            for namespace in namespaces:
                placed = store_prefix(rule.prefix, namespace, output_prefix, input_prefix)
                if placed is None:
                    return PlanProblem(
                        Reason.PREFIX_OUTSIDE_STORE,
                        f"rule prefix {rule.prefix!r} begins with neither {output_prefix}/ (outputPrefix) "
                        f"nor {input_prefix}/ (inputPrefix) of the store; it would never match anything",
                    )
                scopes[placed[0]] = namespace
                rules.append(_rule(placed[1], rule, policy.orphans))
            if len(scopes) > MAX_SCOPES:
                return _too_many(len(namespaces))
        spec = PassSpec(
            scopes=tuple(scopes),
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
    return spec, scopes


def _too_many(namespaces: int) -> PlanProblem:
    return PlanProblem(
        Reason.TOO_MANY_NAMESPACES,
        f"the ClusterStorageConfig selects {namespaces} namespaces, and one policy covers at most "
        f"{MAX_SCOPES} parts of a store, one for each namespace and prefix: narrow its namespaceSelector, or "
        "write a RetentionPolicy in each namespace",
    )


def _rule(prefix: str, rule: RetentionRuleSpec, orphans: Orphans) -> RetentionRule:
    keep = rule.keep
    within = keep.within_seconds
    return RetentionRule(
        prefix,
        None if within is None else float(within),
        keep_last_runs=keep.last_runs,
        orphan_grace_seconds=None if keep.last_runs is None else orphan_grace(orphans),
    )


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


def _rule_facts(prefix: str, rule: RetentionRule) -> str:
    facts = [prefix, rule.keep_within_seconds, rule.keep_last_runs, rule.orphan_grace_seconds]
    return json.dumps(facts)


def _fingerprint(facts: dict[str, Any], policy: RetentionSpec, owner_kinds: Sequence[str]) -> str:
    everything = facts | {
        "minAge": policy.safety.min_age_seconds,
        "owners": [owner.to_api() for owner in policy.owners or ()],
        "ownerKinds": sorted(owner_kinds),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
