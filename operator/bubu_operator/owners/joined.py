"""Owners that other policies know on the same part of a store, joined to a policy's own; pure.

What a neighbour's owners keep alive is kept by every policy that reaches it. Invariants: joining never
lets anything go: an object has ended only where everybody who names its kind says so; a policy of one
namespace has a say in that namespace alone; kinds that only neighbours name are no part of what a policy
itself has found, so it notices neither that they come nor that they go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from bubu_operator.owners.kinds import KindKey, OwnerKind, PhaseReader, wanted_kinds

__all__ = ["NOTHING_JOINED", "JoinedKinds", "NeighbourOwners", "join_kinds"]


@dataclass(frozen=True, slots=True)
class NeighbourOwners:
    """What one neighbour says of owners.

    Attributes:
        policy: its kind and name, for messages.
        kinds: that it names.
        namespaces: in which it has a say; None wherever the pass reaches.
    """

    policy: str
    kinds: tuple[OwnerKind, ...] = ()
    namespaces: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class JoinedKinds:
    """The kinds of neighbours.

    Attributes:
        readers: for the kinds that the policy itself lists.
        borrowed: kinds that it does not.
    """

    readers: Mapping[KindKey, tuple[PhaseReader, ...]] = field(
        default_factory=dict[KindKey, tuple[PhaseReader, ...]]
    )
    borrowed: tuple[OwnerKind, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.readers or self.borrowed)

    def read(self, kind: OwnerKind) -> OwnerKind:
        """Return one of the policy's own kinds as it is read together with neighbours."""
        readers = self.readers.get(kind.key)
        if readers is None:
            # It has come to be served since the kinds were joined.
            readers = next((other.readers for other in self.borrowed if other.key == kind.key), ())
        return replace(kind, readers=readers) if readers else kind


NOTHING_JOINED: Final = JoinedKinds()


def join_kinds(own: Iterable[OwnerKind], neighbours: Iterable[NeighbourOwners]) -> JoinedKinds:
    """Join what neighbours say to a policy's own kinds.

    Args:
        own: kinds that the policy lists.
        neighbours: those whose kinds can be listed. One that names none reads the usual ones as usual.
    """
    mine = {kind.key: kind for kind in own}
    wishes: dict[KindKey, list[tuple[OwnerKind, frozenset[str] | None]]] = {}
    for neighbour in neighbours:
        must, may = wanted_kinds(neighbour.kinds)
        for kind in (*must, *(kind for kind in may if kind.key in mine)):
            wishes.setdefault(kind.key, []).append((kind, neighbour.namespaces))
    readers: dict[KindKey, tuple[PhaseReader, ...]] = {}
    borrowed: list[OwnerKind] = []
    for key, wanted in wishes.items():
        if key in mine:
            if found := _readers(wanted, mine[key]):
                readers[key] = found
        else:
            everywhere = _together(where for _, where in wanted)
            found = _readers(wanted, None)
            borrowed.append(replace(wanted[0][0], readers=found, is_borrowed=True, namespaces=everywhere))
    return JoinedKinds(readers, tuple(sorted(borrowed, key=lambda kind: kind.key)))


def _readers(
    wanted: Iterable[tuple[OwnerKind, frozenset[str] | None]], own: OwnerKind | None
) -> tuple[PhaseReader, ...]:
    """Return who reads a kind in which way, where that says more than the policy's own way."""
    ways: dict[tuple[tuple[str, ...], frozenset[str]], list[frozenset[str] | None]] = {}
    for kind, namespaces in wanted:
        if own is None or kind.phase_path != own.phase_path or not kind.ended_phases >= own.ended_phases:
            ways.setdefault((kind.phase_path, kind.ended_phases), []).append(namespaces)
    return tuple(PhaseReader(path, phases, _together(where)) for (path, phases), where in ways.items())


def _together(namespaces: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    found: set[str] = set()
    for each in namespaces:
        if each is None:
            return None
        found |= each
    return frozenset(found)
