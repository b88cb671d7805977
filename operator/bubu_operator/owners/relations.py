"""From single owners to what holds for runs: who is live, who is the newest, what is referred to; pure.

Life goes from parents to children: a step of a live story run is live, and so is a story run that a live
one has started. An owner's object may be read a moment after its parent's, so two successive readings are
put together, and nothing is let go by the first one that would let it go: a reference can be handed on
from an owner that ends to one that is made, and in one reading both of them may be missed.

Invariants: what is live, or referred to by a live owner, in either reading is so in the result; circles of
parents end; a run with several owners has the best of what they give it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from bubu_operator.owners.extract import OwnerRecord
from bubu_operator.owners.kinds import STORY_RUN, KindKey
from bubu_storage.retention.owners import OwnerFacts

__all__ = ["Reading", "Related", "combine", "rank_story_runs", "relate"]

Reading: TypeAlias = Mapping[KindKey, Mapping[str, OwnerRecord]]
"""All owners of all kinds, by the names of their runs."""


@dataclass(frozen=True, slots=True)
class Related:
    """What a reading says of runs.

    Attributes:
        owners: by the name of the run.
        references: keys that live owners refer to.
    """

    owners: dict[str, OwnerFacts]
    references: frozenset[str]


def relate(current: Reading, before: Reading) -> Related:
    """Judge all owners.

    Args:
        current: the latest reading.
        before: the one before.
    """
    ranks = rank_story_runs(current.get(STORY_RUN.key, {}))
    known: dict[tuple[bool, int | None], OwnerFacts] = {}
    owners: dict[str, OwnerFacts] = {}
    references: set[str] = set()
    for kind, records, inherited in _with_life(combine(current, before)):
        now = current.get(kind, {})
        for run, record in records.items():
            live = record.live or run in inherited
            # One that is gone had a place among others that we do not know any more: unknown keeps.
            rank = ranks.get(record.ranked_as) if run in now else None
            other = owners.get(run)
            if other is not None:
                live, rank = live or other.live, _better(rank, other.rank)
            facts = known.get((live, rank))
            owners[run] = facts or known.setdefault((live, rank), OwnerFacts(live, rank))
            if record.references and (record.live or run in inherited):
                references.update(record.references)
    return Related(owners, frozenset(references))


def combine(current: Reading, before: Reading) -> Reading:
    """Put two readings together so that neither of them lets go what the other one holds."""
    combined: dict[KindKey, Mapping[str, OwnerRecord]] = {}
    for kind in {**before, **current}:
        now, old = current.get(kind, {}), before.get(kind, {})
        changed = {
            run: _both(now.get(run), record) for run, record in old.items() if now.get(run) is not record
        }
        combined[kind] = {**now, **changed} if changed else now
    return combined


def _both(now: OwnerRecord | None, old: OwnerRecord) -> OwnerRecord:
    if now is None:
        return old
    return replace(
        now,
        live=now.live or old.live,
        parents=tuple(dict.fromkeys((*now.parents, *old.parents))),
        references=tuple(sorted({*now.references, *old.references})),
    )


def _better(one: int | None, other: int | None) -> int | None:
    """Return the rank that keeps more; one that is unknown keeps always."""
    return None if one is None or other is None else min(one, other)


def rank_story_runs(story_runs: Mapping[str, OwnerRecord]) -> dict[str, int]:
    """Return the places of story runs among those of the same story: by creation, then name; 1 is newest."""
    by_story: dict[str, list[OwnerRecord]] = {}
    for record in story_runs.values():
        if record.story:
            by_story.setdefault(record.story, []).append(record)
    ranks: dict[str, int] = {}
    for records in by_story.values():
        records.sort(key=lambda record: (record.created, record.run), reverse=True)
        ranks.update((record.run, rank) for rank, record in enumerate(records, 1))
    return ranks


def _with_life(reading: Reading) -> Iterator[tuple[KindKey, Mapping[str, OwnerRecord], set[str]]]:
    """Yield the owners of each kind, and those among them that are live by a parent."""
    children: dict[tuple[KindKey, str], list[tuple[KindKey, str]]] = {}
    for kind, records in reading.items():
        for run, record in records.items():
            if not record.live:
                for parent in record.parents:
                    children.setdefault(parent, []).append((kind, run))
    inherited: dict[KindKey, set[str]] = {kind: set() for kind in reading}
    waiting = [parent for parent in children if _is_live(reading, parent)]
    while waiting:
        # Each parent is taken out once: circles end.
        for child in children.pop(waiting.pop(), ()):
            inherited[child[0]].add(child[1])
            if child in children:
                waiting.append(child)
    for kind, records in reading.items():
        yield kind, records, inherited[kind]


def _is_live(reading: Reading, owner: tuple[KindKey, str]) -> bool:
    record = reading.get(owner[0], {}).get(owner[1])
    return record is not None and record.live
