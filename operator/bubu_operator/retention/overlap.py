"""Who else has objects where a policy may delete, and what that protects; pure.

`plan` keeps a policy inside ``<prefix>/<namespace>/`` of its config. That alone is not enough
when several configs share a bucket: a prefix is free text, so one config's part may lie
inside another's. Invariants: a policy whose part lies inside somebody else's is refused; what
others have inside its own part is kept; what any other policy on the same objects keeps is
kept. Nothing here ever allows a deletion that the policy's own rules do not.

Buckets are told apart by name only: one server can have many addresses, and taking two
buckets for one costs at most a refusal that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicySpec
from bubu_operator.retention.plan import PassPlan, PlanProblem, store_prefix
from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.retention.spec import PassSpec, RetentionRule, run_prefix_of
from bubu_storage.wire import RESERVED_PREFIX

__all__ = ["FOR_EVER_SECONDS", "OtherPolicy", "Place", "guard_plan"]

FOR_EVER_SECONDS: Final = 1e11
"""What belongs to somebody else is kept for this long, about three thousand years."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a config's objects are.

    Attributes:
        owner: the config, for messages.
        base: of the store, ``/``-terminated; equal or nested exactly as the stores are.
        roots: output and input prefix, ``/``-terminated.
        namespace: the only one that uses it; "" where many may (a cluster-wide config).
    """

    owner: str
    base: str
    roots: tuple[str, ...]
    namespace: str

    def parts(self) -> Iterator[str]:
        """Yield what belongs to this config as a whole, from the base on."""
        for root in self.roots:
            yield f"{self.base}{root}{self.namespace}/" if self.namespace else f"{self.base}{root}"
        yield self.base + RESERVED_PREFIX


@dataclass(frozen=True, slots=True)
class OtherPolicy:
    """Another policy of the same namespace, suspended or not.

    Attributes:
        name: for messages.
        spec: as parsed.
        place: of its config.
    """

    name: str
    spec: RetentionPolicySpec
    place: Place


def guard_plan(
    plan: PassPlan, own: Place, namespace: str, places: Iterable[Place], policies: Iterable[OtherPolicy]
) -> PassPlan | PlanProblem:
    """Return the plan with what others have and keep added to what is kept, or why it must not run.

    The fingerprint stays: a protection that comes or goes must not send the cursor back, and
    whatever is deleted is judged by the rules of the pass that deletes it.

    Args:
        plan: of the policy's own rules.
        own: place of the policy's config.
        namespace: the policy's.
        places: of every config that is known; the own one among them does no harm.
        policies: all others of this namespace.
    """
    added: dict[RetentionRule, None] = {}
    for place in places:
        for scope in plan.spec.scopes:
            if _is_inside(own.base + scope, place):
                return PlanProblem(
                    Reason.PREFIX_OVERLAPS,
                    f"what this policy would clean, {scope!r}, lies inside the part of {place.owner}: give "
                    "the config an outputPrefix and an inputPrefix that are not below those of another "
                    "config on the same store",
                )
            for part in _parts_inside(own.base + scope, place):
                run = run_prefix_of(part[len(own.base) :], scope)
                added[RetentionRule(run, FOR_EVER_SECONDS)] = None
    try:
        for policy in policies:
            for rule in _keeps_of(policy, plan.spec, own, namespace):
                added[rule] = None
        # Only rules inside the coverage of own ones are added: they keep more, and never allow more.
        rules = (*plan.spec.rules, *(rule for rule in added if _is_covered(rule, plan.spec.rules)))
        return replace(plan, spec=replace(plan.spec, rules=rules))
    except (ConfigurationError, InvalidKeyError) as error:
        return PlanProblem(Reason.INVALID_SPEC, str(error))


def _is_inside(scope: str, place: Place) -> bool:
    """Tell whether a scope lies inside a namespace's part, or is where a cluster-wide config has many."""
    for root in place.roots:
        whole = place.base + root
        if not scope.startswith(whole):
            continue
        namespaces = scope[len(whole) :].rstrip("/").split("/")
        if not place.namespace and (len(namespaces) > 1 or namespaces == [""]):
            return True
        if len(namespaces) > 1 and namespaces[0] == place.namespace:
            return True
    return scope.startswith(place.base + RESERVED_PREFIX)


def _parts_inside(scope: str, place: Place) -> Iterator[str]:
    for part in place.parts():
        if part.startswith(scope) and part != scope:
            yield part


def _keeps_of(policy: OtherPolicy, spec: PassSpec, own: Place, namespace: str) -> Iterator[RetentionRule]:
    """Yield what another policy keeps of that which ``spec`` may delete."""
    roots = policy.place.roots
    for rule in policy.spec.rules:
        placed = store_prefix(rule.prefix, namespace, roots[0], roots[-1])
        if placed is None:
            continue
        whole = policy.place.base + placed[1]
        within = rule.keep.within_seconds
        if within is None or rule.keep.last_runs is not None:
            seconds = FOR_EVER_SECONDS
        else:
            seconds = float(max(within, policy.spec.safety.min_age_seconds))
        for mine in spec.rules:
            covered = own.base + mine.prefix
            if covered.startswith(whole):
                yield RetentionRule(mine.prefix, seconds)
            elif whole.startswith(covered):
                inner = whole[len(own.base) :]
                scope = spec.scope_of(inner) or ""
                yield RetentionRule(run_prefix_of(inner, scope) or mine.prefix, seconds)


def _is_covered(rule: RetentionRule, own: Sequence[RetentionRule]) -> bool:
    return any(rule.prefix.startswith(mine.prefix) for mine in own)
