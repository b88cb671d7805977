"""Owners that other policies name where a pass is to delete: which of them can be listed, and what if not.

Invariants: a neighbour whose owners cannot be listed is never ignored: what it has a say in is kept. Where
that is in some namespaces of a cluster-wide policy, only these are; else the policy waits. Either way the
neighbour is named. What is asked of the API server is bounded, however many neighbours there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.owners.gather import Gatherer
from bubu_operator.owners.joined import NOTHING_JOINED, JoinedKinds, NeighbourOwners, join_kinds
from bubu_operator.owners.kinds import KindKey, OwnerKind, wanted_kinds
from bubu_operator.owners.reading import places_of
from bubu_operator.retention.overlap import keep_whole
from bubu_operator.retention.plan import PassPlan, PlanProblem
from bubu_storage.errors import OwnersUnknownError

__all__ = ["MOST_BORROWED_KINDS", "JoinedPlan", "join_neighbours", "without_orphan_rules"]

MOST_BORROWED_KINDS: Final = 32
"""Kinds that only neighbours name, listed by one pass."""

_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class JoinedPlan:
    """A pass together with what its neighbours know of owners.

    Attributes:
        plan: keeps everything where a neighbour's owners cannot be listed.
        joined: kinds to list besides the policy's own.
        missing: for people: where nothing is deleted, and why; "" for nowhere.
    """

    plan: PassPlan
    joined: JoinedKinds = NOTHING_JOINED
    missing: str = ""


def join_neighbours(
    plan: PassPlan, own: Sequence[OwnerKind], gatherer: Gatherer, *, namespace: str | None
) -> JoinedPlan | PlanProblem:
    """Join the kinds of a plan's neighbours to the policy's own, or say why its pass must not run.

    Args:
        plan: with its neighbours.
        own: kinds that the policy itself lists.
        gatherer: asks.
        namespace: in which owners are listed; None for all.
    """
    # Those with a say everywhere come first: they must not find the places taken.
    neighbours = sorted(plan.neighbours, key=lambda one: (one.namespaces is not None, one.policy))
    refused = _refused(neighbours, {kind.key for kind in own}, gatherer, namespace)
    for neighbour, why in refused:
        if not plan.namespaces or neighbour.namespaces is None:
            return PlanProblem(
                Reason.OWNERS_UNKNOWN,
                f"{neighbour.policy} is about the same part of the store and names owners that cannot be "
                f"listed, so nobody can tell what it protects: {why}",
            )
    unheard = {neighbour for neighbour, _ in refused}
    kept = sorted({name for neighbour in unheard for name in neighbour.namespaces or ()})
    joined = join_kinds(own, (neighbour for neighbour in neighbours if neighbour not in unheard))
    if not kept:
        return JoinedPlan(plan, joined)
    return JoinedPlan(keep_whole(plan, kept), joined, _missing(kept, refused))


def without_orphan_rules(plan: PassPlan) -> PassPlan:
    """Return the plan of a policy that knows no owners: those of neighbours make no orphans of runs."""
    rules = tuple(
        rule if rule.orphan_grace_seconds is None else replace(rule, orphan_grace_seconds=None)
        for rule in plan.spec.rules
    )
    return replace(plan, spec=replace(plan.spec, rules=rules))


def _refused(
    neighbours: Iterable[NeighbourOwners], mine: set[KindKey], gatherer: Gatherer, namespace: str | None
) -> list[tuple[NeighbourOwners, str]]:
    """Return the neighbours of whose kinds some cannot be listed, and why."""
    refused: list[tuple[NeighbourOwners, str]] = []
    heard: list[tuple[NeighbourOwners, list[OwnerKind]]] = []
    where: dict[KindKey, OwnerKind] = {}
    for neighbour in neighbours:
        borrowed = [kind for kind in wanted_kinds(neighbour.kinds)[0] if kind.key not in mine]
        if not borrowed:
            continue
        if len(where.keys() | {kind.key for kind in borrowed}) > MOST_BORROWED_KINDS:
            refused.append(
                (neighbour, f"one pass lists at most {MOST_BORROWED_KINDS} kinds that only others name")
            )
            continue
        heard.append((neighbour, borrowed))
        for kind in borrowed:
            where[kind.key] = _wider(where.get(kind.key), kind, neighbour.namespaces)
    check = _Check(gatherer, where, namespace)
    for neighbour, borrowed in heard:
        if why := next(filter(None, (check.trouble(kind, neighbour) for kind in borrowed)), None):
            refused.append((neighbour, why))
    return refused


def _wider(known: OwnerKind | None, kind: OwnerKind, namespaces: frozenset[str] | None) -> OwnerKind:
    if known is None:
        return replace(kind, namespaces=namespaces)
    together = None if known.namespaces is None or namespaces is None else known.namespaces | namespaces
    return replace(known, namespaces=together)


class _Check:
    """Tries each list once."""

    def __init__(self, gatherer: Gatherer, where: dict[KindKey, OwnerKind], namespace: str | None) -> None:
        self._gatherer = gatherer
        self._where = where
        self._namespace = namespace
        self._known: dict[tuple[str, str | None], str] = {}

    def trouble(self, kind: OwnerKind, neighbour: NeighbourOwners) -> str:
        """Say why a kind cannot be listed for a neighbour; "" if it can."""
        for place in places_of(self._where[kind.key], self._namespace):
            if place is None or neighbour.namespaces is None or place in neighbour.namespaces:
                if (kind.name, place) not in self._known:
                    self._known[kind.name, place] = self._try(kind, place)
                if why := self._known[kind.name, place]:
                    return why
        return ""

    def _try(self, kind: OwnerKind, place: str | None) -> str:
        try:
            self._gatherer.check_list(self._gatherer.resource_of(kind), place)
        except OwnersUnknownError as error:
            return error.message
        return ""


def _missing(kept: Sequence[str], refused: Sequence[tuple[NeighbourOwners, str]]) -> str:
    policies = sorted({neighbour.policy for neighbour, _ in refused})
    more = f" and {len(policies) - _NAMED} more policies" if len(policies) > _NAMED else ""
    spaces = f"namespace {kept[0]}" if len(kept) == 1 else f"{len(kept)} namespaces, {kept[0]} first,"
    return (
        f"nothing is deleted in {spaces} because owners that policies there name cannot be listed, by "
        f"{', '.join(policies[:_NAMED])}{more}: {refused[0][1]}"
    )
