"""How many owners there were and are, and whether the difference is credible; pure.

A list that is complete by all signs may still be wrong: of another cluster, of a cluster that was just
restored, of a kind that somebody is removing. Such lists are short. So before anything is deleted by a
list, its count of live owners is compared with the last one, and a list that has shrunk beyond belief is
not used until somebody has said that it is right.

Invariants: a kind that was listed before and is gone is never believed by itself; nor is a count of live
owners that fell by more than half, unless owners that ended and still exist account for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, cast

from bubu_storage.errors import ConfigurationError

__all__ = ["Anomaly", "Census", "KindCount", "OwnersProblem", "compare", "vanished"]


class OwnersProblem(StrEnum):
    """Why there is no list of owners: the ``code`` of an `OwnersUnknownError`."""

    KIND_VANISHED = "OwnerKindVanished"
    """A kind that was served before is not any more."""
    KIND_NOT_SERVED = "OwnerKindNotServed"
    """A kind that was named is not served."""
    FORBIDDEN = "OwnersForbidden"
    """The controller may not list or read a kind."""
    LIVE_DROPPED = "LiveOwnersDropped"
    """Far fewer owners are live than before."""
    INCOMPLETE = "OwnersIncomplete"
    """The API server failed, or its list has a gap."""


@dataclass(frozen=True, slots=True)
class KindCount:
    """Objects of one kind.

    Attributes:
        live: in no phase that is known to be their last one.
        ended: in such a phase, but still there.
    """

    live: int
    ended: int


@dataclass(frozen=True, slots=True)
class Census:
    """Counts of one complete list; what is kept of it from pass to pass.

    Attributes:
        kinds: by the text of a `KindKey`.
    """

    kinds: Mapping[str, KindCount] = field(default_factory=dict[str, KindCount])

    @property
    def live(self) -> int:
        """All live owners."""
        return sum(count.live for count in self.kinds.values())

    @property
    def ended(self) -> int:
        """All owners that ended and still exist."""
        return sum(count.ended for count in self.kinds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it for a status: ``{"StoryRun.runs.bubustack.io": {"live": 3, "ended": 9}}``."""
        return {
            name: {"live": count.live, "ended": count.ended} for name, count in sorted(self.kinds.items())
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigurationError: it is something else.
        """
        try:
            kinds = {str(name): _count(value) for name, value in data.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"these are no counts of owners: {error!r}") from error
        return cls(kinds)


def _count(value: object) -> KindCount:
    counts = cast("dict[str, Any]", value)
    live, ended = counts["live"], counts["ended"]
    if type(live) is not int or type(ended) is not int or live < 0 or ended < 0:
        raise ValueError("counts are whole numbers")
    return KindCount(live, ended)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A list of owners that is not believed until somebody says that it is right.

    Attributes:
        problem: what is odd.
        message: the same in a sentence.
        token: names this very finding; acknowledging another one does not help.
    """

    problem: OwnersProblem
    message: str
    token: str


def compare(before: Census, now: Census) -> Anomaly | None:
    """Compare a complete list with the one before; None if the new one is credible."""
    gone = sorted(before.kinds.keys() - now.kinds.keys())
    if gone:
        return vanished(gone[0])
    # Who ended and still exists has been seen to end.
    newly_ended = max(0, now.ended - before.ended)
    if 2 * (now.live + newly_ended) >= before.live:
        return None
    return Anomaly(
        OwnersProblem.LIVE_DROPPED,
        f"of {before.live} live owners {now.live} are left and {newly_ended} more have ended; the others are "
        "gone without having been seen to end. If that is as it should be, approve it",
        # Counts move all the time: the same finding until what is left halves once more.
        _token(OwnersProblem.LIVE_DROPPED, [before.to_dict(), now.live.bit_length()]),
    )


def vanished(kind: str) -> Anomaly:
    """Say that a kind that was there before is not served any more."""
    return Anomaly(
        OwnersProblem.KIND_VANISHED,
        f"the API server does not serve {kind} any more, so nobody can tell which runs are live. Install it "
        "again; or, if it is gone for good, approve that runs are judged without it",
        _token(OwnersProblem.KIND_VANISHED, kind),
    )


def _token(problem: OwnersProblem, facts: object) -> str:
    text = json.dumps([problem.value, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
