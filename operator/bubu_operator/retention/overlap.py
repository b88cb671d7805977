"""Who else has objects where a policy may delete, and what that protects; pure.

`plan` keeps a policy inside ``<prefix>/<namespace>/`` of its config. That alone is not enough
when several configs share a bucket: a prefix is free text, so one config's part may lie
inside another's. Invariants: a policy whose part lies inside somebody else's is refused; what
others have inside its own part is kept; what any other policy on the same objects keeps is
kept, whether that is of the same namespace, of another one or cluster-wide, and also while it
is suspended or rehearses. Nothing here ever allows a deletion that the policy's own rules do not.

Buckets are told apart by name only: one server can have many addresses, and taking two
buckets for one costs at most a refusal that says so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionSpec
from bubu_operator.owners.joined import NeighbourOwners
from bubu_operator.owners.kinds import OwnerKind
from bubu_operator.retention.plan import PassPlan, PlanProblem, orphan_grace, store_prefix
from bubu_storage.errors import ConfigurationError, InvalidKeyError
from bubu_storage.retention.rules import is_reserved
from bubu_storage.retention.spec import PassSpec, RetentionRule, run_prefix_of
from bubu_storage.wire import RESERVED_PREFIX

__all__ = ["FOR_EVER_SECONDS", "OtherPolicy", "Place", "guard_plan", "keep_whole", "owner_kinds"]

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
    """Another policy, suspended or not.

    Attributes:
        name: for messages, its kind included.
        spec: as parsed.
        place: of its config.
        namespaces: where its rules hold: its own one, or those that its config selects. None:
            wherever the policy that is guarded reaches, as with one of the same namespace.
    """

    name: str
    spec: RetentionSpec
    place: Place
    namespaces: tuple[str, ...] | None = None


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
        policies: all others that may reach the same objects.
    """
    runs: list[str] = []
    scopes = _Prefixes(plan.spec.scopes, own.base)
    for place in places:
        for part in place.parts():
            for scope in scopes.below(part):
                if _is_inside(own.base + scope, place):
                    return PlanProblem(
                        Reason.PREFIX_OVERLAPS,
                        f"what this policy would clean, {scope!r}, lies inside the part of {place.owner}: "
                        "give the config an outputPrefix and an inputPrefix that are not below those of "
                        "another config on the same store",
                    )
            runs += (run_prefix_of(part[len(own.base) :], scope) for scope in scopes.above(part))
    try:
        # A reserved folder that is a run directory itself needs no rule: the engine keeps it for ever.
        added = dict.fromkeys(RetentionRule(run, FOR_EVER_SECONDS) for run in runs if not is_reserved(run))
        mine = _Prefixes((rule.prefix for rule in plan.spec.rules), own.base)
        everywhere = plan.namespaces or (namespace,)
        neighbours: list[NeighbourOwners] = []
        for policy in policies:
            keeps = [
                rule
                for each in (everywhere if policy.namespaces is None else policy.namespaces)
                for rule in _keeps_of(policy, each, plan.spec, mine, own)
            ]
            added.update(dict.fromkeys(keeps))
            if keeps:
                where = None if policy.namespaces is None else frozenset(policy.namespaces)
                neighbours.append(NeighbourOwners(policy.name, owner_kinds(policy.spec), where))
        # Only rules inside the coverage of own ones are added: they keep more, and never allow more.
        rules = (*plan.spec.rules, *(rule for rule in added if mine.reach(rule.prefix)))
        return replace(plan, spec=replace(plan.spec, rules=rules), neighbours=tuple(neighbours))
    except (ConfigurationError, InvalidKeyError) as error:
        return PlanProblem(Reason.INVALID_SPEC, str(error))


def keep_whole(plan: PassPlan, namespaces: Iterable[str]) -> PassPlan:
    """Return a cluster-wide policy's plan that keeps everything in some of its namespaces."""
    wanted = frozenset(namespaces)
    kept = [
        RetentionRule(scope, FOR_EVER_SECONDS)
        for scope, namespace in zip(plan.spec.scopes, plan.scope_namespaces, strict=True)
        if namespace in wanted
    ]
    return replace(plan, spec=replace(plan.spec, rules=(*plan.spec.rules, *kept))) if kept else plan


def owner_kinds(spec: RetentionSpec) -> tuple[OwnerKind, ...]:
    """Return the kinds of owners that a policy names."""
    return tuple(
        OwnerKind.named(owner.group, owner.version, owner.kind, owner.phase_path, owner.ended_phases)
        for owner in spec.owners or ()
    )


class _Prefixes:
    """Some prefixes of one store, found by what lies around them without looking at each."""

    def __init__(self, prefixes: Iterable[str], base: str) -> None:
        self._base = base
        self._sorted = sorted(set(prefixes))
        self._known = frozenset(self._sorted)

    def below(self, place: str) -> Iterator[str]:
        """Yield those that lie in a place, which may be the prefix itself; named from the root on."""
        if self._base.startswith(place):
            yield from self._sorted
        elif place.startswith(self._base):
            inner = place[len(self._base) :]
            for position in range(bisect_left(self._sorted, inner), len(self._sorted)):
                if not self._sorted[position].startswith(inner):
                    return
                yield self._sorted[position]

    def above(self, place: str) -> Iterator[str]:
        """Yield those that a place lies in, shortest first, itself left out."""
        if place.startswith(self._base):
            inner = place[len(self._base) :]
            yield from (part for part in _folders(inner) if part in self._known and part != inner)

    def reach(self, prefix: str) -> bool:
        """Tell whether a prefix of the store is one of them or lies in one."""
        return any(part in self._known for part in _folders(prefix))


def _folders(prefix: str) -> Iterator[str]:
    """Yield the folders of a prefix from the root on, itself last."""
    end = prefix.find("/")
    while end >= 0:
        yield prefix[: end + 1]
        end = prefix.find("/", end + 1)


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


def _keeps_of(
    policy: OtherPolicy, namespace: str, spec: PassSpec, mine: _Prefixes, own: Place
) -> Iterator[RetentionRule]:
    """Yield what another policy keeps, in one namespace, of that which ``spec`` may delete."""
    roots = policy.place.roots
    for rule in policy.spec.rules:
        placed = store_prefix(rule.prefix, namespace, roots[0], roots[-1])
        if placed is None:
            continue
        whole = policy.place.base + placed[1]
        keep = rule.keep
        seconds = float(max(keep.within_seconds or 0, policy.spec.safety.min_age_seconds))
        grace = None if keep.last_runs is None else orphan_grace(policy.spec.orphans)
        prefixes = list(mine.below(whole))
        if any(True for _ in mine.above(whole)):
            # About a part of what an own rule covers; if of a run directory, about all of it: runs go whole.
            inner = whole[len(own.base) :]
            prefixes.append(run_prefix_of(inner, spec.scope_of(inner) or ""))
        for prefix in prefixes:
            yield RetentionRule(prefix, seconds, keep_last_runs=keep.last_runs, orphan_grace_seconds=grace)
