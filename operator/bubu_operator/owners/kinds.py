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
    "complete_kinds",
    "kinds_text",
    "phase_of",
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
class OwnerKind:
    """One kind of owners.

    Attributes:
        group: "" for the core group.
        version: as ``v1alpha1``.
        kind: as it stands in objects.
        phase_path: names of the fields that lead to the phase; empty where it is not known.
        ended_phases: phases of objects that have come to their end.
    """

    group: str
    version: str
    kind: str
    phase_path: tuple[str, ...] = ()
    ended_phases: frozenset[str] = frozenset()

    @classmethod
    def named(
        cls, group: str, version: str, kind: str, phase_path: str = "", ended_phases: Iterable[str] = ()
    ) -> OwnerKind:
        """Return the kind that a policy names; what it leaves open of a known kind is filled in.

        Args:
            group: "" for the core group.
            version: as ``v1``.
            kind: as it stands in objects.
            phase_path: as ``status.phase`` or ``.status.phase``; "" where there is none.
            ended_phases: see `OwnerKind`.
        """
        path = tuple(part for part in phase_path.split(".") if part)
        made = cls(group, version, kind, path, frozenset(ended_phases))
        known = next((known for known in DEFAULT_KINDS if known.key == made.key), None)
        if known is None:
            return made
        return replace(
            made,
            phase_path=made.phase_path or known.phase_path,
            ended_phases=made.ended_phases or known.ended_phases,
        )

    @property
    def key(self) -> KindKey:
        """The kind without its version."""
        return KindKey(self.group, self.kind)

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


def complete_kinds(named: Sequence[OwnerKind]) -> tuple[OwnerKind, ...]:
    """Return the kinds to list: each once, and StoryRun and StepRun only together.

    The other one of the two is taken in the version of the one that is named.
    """
    chosen = {kind.key: kind for kind in named}
    for known, other in (DEFAULT_KINDS, DEFAULT_KINDS[::-1]):
        if known.key in chosen and other.key not in chosen:
            chosen[other.key] = replace(other, version=chosen[known.key].version)
    return tuple(chosen.values())


def phase_of(obj: JsonObject, kind: OwnerKind) -> str | None:
    """Return an object's phase; None where it has none, or where its kind's phase is not known."""
    if not kind.phase_path:
        return None
    *folders, last = kind.phase_path
    for name in folders:
        obj = section(obj, name)
    value: object = obj.get(last)
    return value if isinstance(value, str) else None


def kinds_text(kinds: Iterable[OwnerKind]) -> str:
    """Name kinds in a message."""
    return " and ".join(str(kind) for kind in kinds)
