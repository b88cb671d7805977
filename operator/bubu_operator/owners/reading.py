"""Readings of all owners: the first one whole, later ones by what has changed; I/O by `gather`.

A later reading lists metadata alone, which is a fraction of the objects, and fetches the objects whose
version is another one. A kind that only policies of some namespaces name is read there, and nothing of
it counts anywhere else. Invariants: a reading holds every object that its lists held; an object that
changed, or went, after its list was made is held as live, for nobody has seen it as it was; a
reading that changes nothing *is* the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.kube.resources import JsonObject, Resource, metadata_of
from bubu_operator.owners.extract import OwnerRecord, extract
from bubu_operator.owners.gather import Gatherer
from bubu_operator.owners.kinds import OwnerKind
from bubu_operator.owners.relations import Reading

__all__ = ["FEW_CHANGES", "Served", "places_of", "read_again", "read_all"]

FEW_CHANGES: Final = 20
SHARE_OF_CHANGES: Final = 20
MOST_FETCHED: Final = 1_000
"""Beyond these (absolute; one in so many; absolute) a whole list costs less than objects one by one."""

FEW_NAMESPACES: Final = 8
"""A kind that counts in more namespaces than these is listed in all at once."""

Served = Mapping[OwnerKind, Resource]
"""The kinds that are listed, and where."""


@dataclass(frozen=True, slots=True)
class _Head:
    """An object of which only the metadata has been seen."""

    namespace: str
    name: str
    version: str

    @property
    def run(self) -> str:
        return f"{self.namespace}/{self.name}"


def places_of(kind: OwnerKind, namespace: str | None) -> tuple[str | None, ...]:
    """Return where a kind is listed: namespaces, or None for all at once.

    Args:
        kind: see `OwnerKind.namespaces`.
        namespace: the only one of a reading; None for all.
    """
    if namespace is not None or kind.namespaces is None:
        return (namespace,)
    return tuple(sorted(kind.namespaces)) if len(kind.namespaces) <= FEW_NAMESPACES else (None,)


def read_all(gatherer: Gatherer, served: Served, namespace: str | None) -> Reading:
    """Read all owners as they are.

    Raises:
        OwnersUnknownError: there is no complete list.
    """
    return {kind.key: _read_kind(gatherer, kind, resource, namespace) for kind, resource in served.items()}


def read_again(gatherer: Gatherer, served: Served, namespace: str | None, before: Reading) -> Reading:
    """Read all owners, given an earlier reading; it is returned itself where nothing has changed.

    Raises:
        OwnersUnknownError: there is no complete list.
    """
    reading = {
        kind.key: _read_kind_again(gatherer, kind, resource, namespace, before.get(kind.key, {}))
        for kind, resource in served.items()
    }
    unchanged = reading.keys() == before.keys() and all(reading[key] is before[key] for key in reading)
    return before if unchanged else reading


def _read_kind(
    gatherer: Gatherer, kind: OwnerKind, resource: Resource, namespace: str | None
) -> dict[str, OwnerRecord]:
    return {
        record.run: record
        for place in places_of(kind, namespace)
        for record in gatherer.read_list(resource, place, lambda obj: extract(obj, kind))
        if _counts(kind, record.run)
    }


def _counts(kind: OwnerKind, run: str) -> bool:
    """Tell whether an object owns the run of its name."""
    return kind.namespaces is None or run.partition("/")[0] in kind.namespaces


def _read_kind_again(
    gatherer: Gatherer,
    kind: OwnerKind,
    resource: Resource,
    namespace: str | None,
    old: Mapping[str, OwnerRecord],
) -> Mapping[str, OwnerRecord]:
    found = [
        item
        for place in places_of(kind, namespace)
        for item in gatherer.read_list(resource, place, _known_or_head(old), metadata_only=True)
        if _counts(kind, item.run)
    ]
    changed = sum(isinstance(item, _Head) for item in found)
    if not changed and len(found) == len(old):
        return old
    if changed > min(MOST_FETCHED, max(FEW_CHANGES, len(found) // SHARE_OF_CHANGES)):
        return _read_kind(gatherer, kind, resource, namespace)
    records = (_fetch(gatherer, kind, resource, item) if isinstance(item, _Head) else item for item in found)
    return {record.run: record for record in records}


def _known_or_head(old: Mapping[str, OwnerRecord]) -> Callable[[JsonObject], OwnerRecord | _Head]:
    def convert(obj: JsonObject) -> OwnerRecord | _Head:
        metadata = metadata_of(obj)
        namespace, name = str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
        version = str(metadata.get("resourceVersion") or "")
        record = old.get(f"{namespace}/{name}")
        if record is not None and version and record.version == version:
            return record
        return _Head(namespace, name, version)

    return convert


def _fetch(gatherer: Gatherer, kind: OwnerKind, resource: Resource, head: _Head) -> OwnerRecord:
    obj = gatherer.read_object(resource, head.namespace, head.name)
    if obj is None:
        # It was there when the list was made. The next reading will not find it.
        return OwnerRecord(head.run, "", live=True)
    record = extract(obj, kind)
    return record if record.version == head.version else replace(record, version="", live=True)
