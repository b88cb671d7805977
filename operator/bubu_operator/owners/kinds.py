"""Which kinds of objects own runs, and how one sees that a run has ended; pure.

Invariants: a kind whose phase is not known has no ended objects: that an object exists means that it
is live. StoryRun and StepRun belong together: whoever names one of them means both, because a run is a
story run and its steps, and neither can be judged without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bubu_operator.kube.resources import JsonObject, section

__all__ = [
    "DEFAULT_KINDS",
    "ENDED_PHASES",
    "RUNS_GROUP",
    "RUNS_VERSION",
    "STEP_RUN",
    "STORY_RUN",
    "KindKey",
    "OwnerKind",
    "PhaseReader",
    "has_ended",
    "phase_of",
    "wanted_kinds",
]

RUNS_GROUP: Final = "runs.bubustack.io"
RUNS_VERSION: Final = "v1alpha1"
ENDED_PHASES: Final = frozenset(
    {"Succeeded", "Failed", "Finished", "Canceled", "Compensated", "Timeout", "Aborted", "Skipped"}
)
"""Phases that a StoryRun or StepRun never leaves; any other one, or none, means that it is live."""


@dataclass(frozen=True, slots=True, order=True)
class KindKey:
    """A kind, whatever its version: the same objects are served in all of them."""

    group: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


@dataclass(frozen=True, slots=True)
class PhaseReader:
    """How another policy sees that objects of a kind have ended.

    Attributes:
        phase_path: see `OwnerKind`.
        ended_phases: see `OwnerKind`.
        namespaces: where that policy has a say; None for everywhere.
    """

    phase_path: tuple[str, ...]
    ended_phases: frozenset[str]
    namespaces: frozenset[str] | None = None

    def reads(self, namespace: str) -> bool:
        """Tell whether objects of a namespace are read in this way, too."""
        return self.namespaces is None or namespace in self.namespaces


@dataclass(frozen=True, slots=True)
class OwnerKind:
    """One kind of owners.

    Attributes:
        group: "" for the core group.
        version: as ``v1alpha1``.
        kind: as it stands in objects.
        phase_path: names of the fields that lead to the phase; empty where it is not known.
        ended_phases: phases of objects that have come to their end.
        readers: other policies that name the kind: an object has ended where all agree.
        is_borrowed: only other policies name the kind; ``phase_path`` and ``ended_phases`` say nothing.
        namespaces: of a borrowed kind: where its objects own runs; None for everywhere.
    """

    group: str
    version: str
    kind: str
    phase_path: tuple[str, ...] = ()
    ended_phases: frozenset[str] = frozenset()
    readers: tuple[PhaseReader, ...] = ()
    is_borrowed: bool = False
    namespaces: frozenset[str] | None = None

    @classmethod
    def named(
        cls, group: str, version: str, kind: str, phase_path: str, ended_phases: Iterable[str]
    ) -> OwnerKind:
        """Return a kind as a policy names it.

        Args:
            group: "" for the core group.
            version: as ``v1``.
            kind: as it stands in objects.
            phase_path: as ``status.phase``; "" where there is none.
            ended_phases: see `OwnerKind`.
        """
        path = tuple(part for part in phase_path.split(".") if part)
        return cls(group, version, kind, path, frozenset(ended_phases))

    @property
    def key(self) -> KindKey:
        """The kind without its version."""
        return KindKey(self.group, self.kind)

    @property
    def name(self) -> str:
        """How statuses call it: ``StoryRun.v1alpha1.runs.bubustack.io``."""
        return f"{self.kind}.{self.version}.{self.group}" if self.group else f"{self.kind}.{self.version}"

    @property
    def api_version(self) -> str:
        """What objects carry as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.api_version} {self.kind}"


STORY_RUN: Final = OwnerKind(RUNS_GROUP, RUNS_VERSION, "StoryRun", ("status", "phase"), ENDED_PHASES)
STEP_RUN: Final = OwnerKind(RUNS_GROUP, RUNS_VERSION, "StepRun", ("status", "phase"), ENDED_PHASES)
DEFAULT_KINDS: Final = (STORY_RUN, STEP_RUN)
"""Owners where a policy names none."""


def wanted_kinds(named: Sequence[OwnerKind]) -> tuple[tuple[OwnerKind, ...], tuple[OwnerKind, ...]]:
    """Return the kinds that must be served, and those that count only where they are.

    A policy's own kinds must be. The usual two count always, and where one of them is named the other
    one is taken in the same version: neither can be judged without the other.
    """
    must = {kind.key: kind for kind in named}
    for known, other in (DEFAULT_KINDS, DEFAULT_KINDS[::-1]):
        if known.key in must and other.key not in must:
            must[other.key] = replace(other, version=must[known.key].version)
    may = () if STORY_RUN.key in must else DEFAULT_KINDS
    return tuple(must.values()), may


def phase_of(obj: JsonObject, kind: OwnerKind) -> str | None:
    """Return an object's phase; None where it has none, or where its kind's phase is not known."""
    return _phase_at(obj, kind.phase_path)


def has_ended(obj: JsonObject, kind: OwnerKind, namespace: str) -> bool:
    """Tell whether an object of a namespace has come to its end, for all that have a say in it."""
    readers = [reader for reader in kind.readers if reader.reads(namespace)]
    if kind.is_borrowed:
        if not readers:
            return False
    elif phase_of(obj, kind) not in kind.ended_phases:
        return False
    return all(_phase_at(obj, reader.phase_path) in reader.ended_phases for reader in readers)


def _phase_at(obj: JsonObject, path: tuple[str, ...]) -> str | None:
    if not path:
        return None
    *folders, last = path
    for name in folders:
        obj = section(obj, name)
    value: object = obj.get(last)
    return value if isinstance(value, str) else None
