"""Who owns the runs of a store, as somebody who knows tells it: an API server, or a file.

The library asks no API server itself; it is given an `OwnerSource`. A run is named
``<namespace>/<run id>``: the last two segments of its directory.

Invariants: a view is complete or it is not given at all (the source raises); it never mixes two
observations; what it says holds for the moment at which its observation *began*.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

__all__ = ["OWNERS_FRESH_SECONDS", "OwnerFacts", "OwnerSource", "OwnerView", "boot_seconds", "run_name_of"]

OWNERS_FRESH_SECONDS: Final = 10.0
"""Age of a view up to which deletions may be based on it."""

_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Return seconds that never go back and, where the system can, count time asleep."""
    return time.clock_gettime(_BOOT_CLOCK)


@dataclass(frozen=True, slots=True)
class OwnerFacts:
    """What is known of the owner of one run.

    Attributes:
        live: the owner exists and is in no phase that is known to be its last one, or a run that it
            belongs to is live.
        rank: place among the runs of the same story, by creation, 1 for the newest; None where the
            owner belongs to no story.
    """

    live: bool
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class OwnerView:
    """One complete observation of all owners.

    Attributes:
        version: equal versions have equal content.
        observed_at: when the observation began, on `boot_seconds`.
        owners: every existing owner by the name of its run, ``<namespace>/<run id>``; a run that is
            not in it has none.
        references: keys of objects that specs and states of live owners refer to.
    """

    version: int
    observed_at: float
    owners: Mapping[str, OwnerFacts] = field(default_factory=dict[str, OwnerFacts])
    references: frozenset[str] = frozenset()


class OwnerSource(Protocol):
    """Tells who owns runs."""

    def observe(self, not_before: float) -> OwnerView:
        """Return a view whose observation began at ``not_before`` (boot seconds) or later.

        Raises:
            OwnersUnknownError: there is no complete and credible view; the text says why.
        """
        ...


def run_name_of(run_prefix: str) -> str:
    """Return ``<namespace>/<run id>`` of a run directory; the id alone where there is no folder above it."""
    return "/".join(run_prefix.rstrip("/").split("/")[-2:])
