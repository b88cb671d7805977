"""Where a pass stopped and the next one goes on; small, JSON-able, kept by the caller.

The cursor is the last *decided* key in byte order of whole keys, plus, when a pass ended
inside a run directory that is too large for its limits, what is known about that run. An
empty cursor is the start of a cycle. Losing one, or going back to an older one, costs time
and never data: whatever is deleted is judged again by a listing of the same pass. With it
travels the tally of what the cycle has decided up to there; they are only ever stored together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.tally import CycleTally

__all__ = ["Cursor", "Phase", "RunProgress"]


class Phase(StrEnum):
    """How far a run directory has got that takes several passes."""

    SCANNING = "Scanning"
    """Its members are being looked at; ``position`` is the last one seen."""
    SWEEPING = "Sweeping"
    """Seen whole and found due; ``position`` is the last member sent for deletion."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run directory that the next pass goes on with.

    Attributes:
        facts: what was seen so far; while sweeping, ``objects`` and ``size_bytes`` are
            what is left.
        phase: see `Phase`.
        position: key of the last member dealt with, "" for none.
    """

    facts: RunFacts
    phase: Phase
    position: str = ""

    @property
    def prefix(self) -> str:
        """The run directory."""
        return self.facts.prefix


@dataclass(frozen=True, slots=True)
class Cursor:
    """Resume point of a policy on one store.

    Attributes:
        after: the last decided key; "" at the start of a cycle.
        run: the run directory in the middle of which the last pass ended, if it did.
        cycle: what the present cycle has decided up to here.
    """

    after: str = ""
    run: RunProgress | None = field(default=None)
    cycle: CycleTally = field(default_factory=CycleTally)

    @property
    def is_start(self) -> bool:
        """True at the start of a cycle."""
        return not self.after and self.run is None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; ``run`` and ``cycle`` are absent when there is nothing to say."""
        data: dict[str, Any] = {"after": self.after}
        if self.run is not None:
            facts = self.run.facts
            data["run"] = {
                "prefix": facts.prefix,
                "phase": self.run.phase.value,
                "position": self.run.position,
                "newest": facts.newest.isoformat() if facts.newest is not None else None,
                "objects": facts.objects,
                "bytes": facts.size_bytes,
                "undated": facts.undated,
                "reserved": facts.reserved,
            }
        if self.cycle != CycleTally():
            data["cycle"] = self.cycle.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; an empty mapping is the start of a cycle.

        Raises:
            ConfigurationError: this is no cursor. The way out is an empty one.
        """
        try:
            run = data.get("run")
            cycle = data.get("cycle")
            return cls(
                _text(data.get("after", "")),
                None if run is None else _run(run),
                CycleTally() if cycle is None else CycleTally.from_dict(cycle),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(
                f"this is no retention cursor ({error}); start again with an empty one"
            ) from error


def _run(data: Mapping[str, Any]) -> RunProgress:
    phase = Phase(data["phase"])
    newest = data["newest"]
    facts = RunFacts(
        prefix=_text(data["prefix"]),
        objects=_count(data["objects"]),
        size_bytes=_count(data["bytes"]),
        newest=None if newest is None else _aware(datetime.fromisoformat(newest)),
        undated=_count(data["undated"]),
        reserved=_count(data["reserved"]),
        complete=phase is Phase.SWEEPING,
    )
    position = _text(data["position"])
    if not facts.prefix.endswith("/") or (position and not position.startswith(facts.prefix)):
        raise ValueError(f"position {position!r} is not in run directory {facts.prefix!r}")
    return RunProgress(facts, phase, position)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {value!r}")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"count expected, not {value!r}")
    return value


def _aware(when: datetime) -> datetime:
    if when.tzinfo is None:
        raise ValueError(f"date without timezone: {when}")
    return when
