"""How many owners there were and are, and whether the difference is credible; pure.

A list that is complete by all signs may still be wrong: of another cluster, of a cluster that was just
restored, of a kind that somebody is removing. Such lists are short. So before anything is deleted by a
list, its count of live owners is compared with the last one, and a list that has shrunk beyond belief is
not used until somebody has said that it is right.

Invariants: a kind that was listed before and is gone is never believed by itself; nor is a list in which
more than half of the owners that were live are gone without having been seen to end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bubu_operator.owners.kinds import KindKey, OwnerKind

__all__ = [
    "NO_CENSUS",
    "Anomaly",
    "Census",
    "OwnersProblem",
    "compare",
    "dropped",
    "key_of_name",
    "missing_kinds",
]


class OwnersProblem(StrEnum):
    """Why there is no list of owners: the ``code`` of an `OwnersUnknownError`, and a condition's reason."""

    UNKNOWN = "OwnersUnknown"
    """The API server failed, refused, or does not serve what was named."""
    KIND_VANISHED = "OwnerKindVanished"
    """A kind that was listed before is not served any more."""
    LIVE_DROPPED = "LiveCountDropped"
    """Far fewer owners are live than before."""


def key_of_name(name: str) -> KindKey:
    """Return the kind of a name such as ``StoryRun.v1alpha1.runs.bubustack.io``, its version left out."""
    kind, _, rest = name.partition(".")
    return KindKey(rest.partition(".")[2], kind)


@dataclass(frozen=True, slots=True)
class Census:
    """What is remembered of a complete list from pass to pass.

    Attributes:
        live: owners in no phase that is known to be their last one.
        existing: all owners, live ones included.
        kinds: names of the kinds that were listed, `OwnerKind.name`.
    """

    live: int = 0
    existing: int = 0
    kinds: frozenset[str] = frozenset()


NO_CENSUS: Final = Census()
"""Of a policy whose owners have never been listed."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A list of owners that is not believed until somebody says that it is right.

    Attributes:
        problem: what is odd.
        message: the same in a sentence.
        token: names this very finding; approving another one does not help.
    """

    problem: OwnersProblem
    message: str
    token: str


def missing_kinds(before: Census, listed: Iterable[OwnerKind]) -> Anomaly | None:
    """Say whether a kind that was listed before is not listed now, in any version."""
    now = {kind.key for kind in listed}
    gone = sorted(name for name in before.kinds if key_of_name(name) not in now)
    if not gone:
        return None
    return Anomaly(
        OwnersProblem.KIND_VANISHED,
        f"the API server does not serve {' and '.join(gone)} any more, so nobody can tell which runs are "
        "live. Install what defines it again; or, if it is gone for good, approve that runs are judged "
        "without it",
        _token(OwnersProblem.KIND_VANISHED, gone),
    )


def compare(before: Census, now: Census) -> Anomaly | None:
    """Compare the counts of a complete list with those before; None if the new one is credible."""
    # Owners that ended and still exist have been seen to end; the others are gone without a word.
    newly_ended = max(0, (now.existing - now.live) - (before.existing - before.live))
    missing = before.live - now.live - newly_ended
    return dropped(before, now, missing=missing, of=before.live) if 2 * missing > before.live else None


def dropped(before: Census, now: Census, *, missing: int, of: int) -> Anomaly:
    """Say that live owners are missing.

    Args:
        before: counts of the last list that was believed.
        now: of the one that is not.
        missing: owners that were live and are gone.
        of: owners that were live.
    """
    return Anomaly(
        OwnersProblem.LIVE_DROPPED,
        f"of {of} live owners {missing} are gone, and nobody has seen them end; {now.live} are live now. If "
        "that is as it should be, approve it",
        # Counts move all the time: it is the same finding until what is left halves once more.
        _token(OwnersProblem.LIVE_DROPPED, [before.live, before.existing, now.live.bit_length()]),
    )


def _token(problem: OwnersProblem, facts: object) -> str:
    return hashlib.sha256(json.dumps([problem.value, facts]).encode()).hexdigest()[:16]
