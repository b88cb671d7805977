"""Whether a complete reading of owners is to be believed, given those before it; pure but for its memory.

Readings are compared owner by owner: whoever was live, and is gone without having been seen in one of
the last phases, is missing. Where nobody remembers who was live (after a restart), the counts of an earlier
pass have to do: they take a run that ended and was removed in between for one that is missing.
Invariants: what was not believed changes nothing; a reading in which more than half of the live owners
are missing is not believed, however slowly they went during a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from bubu_operator.owners.census import Anomaly, Census, compare, dropped
from bubu_operator.owners.kinds import KindKey, OwnerKind
from bubu_operator.owners.relations import Reading

__all__ = ["Belief", "LiveRuns"]

LiveRuns: TypeAlias = Mapping[KindKey, frozenset[str]]
"""The runs of live owners, by kind."""


class Belief:
    """What has been believed so far.

    Args:
        before: of the last pass.
        acknowledged: token of the anomaly that was approved.
        remembered: what was believed in the last pass, by this process; it counts if that left this
            very census.

    Attributes:
        census: of the last reading that was believed.
        live: who was live in it; None where nobody remembers.
    """

    def __init__(self, before: Census, acknowledged: str, remembered: Belief | None = None) -> None:
        self.census = before
        self.live: LiveRuns | None = None
        if remembered is not None and remembered.census == before:
            self.live = remembered.live
        self._acknowledged = acknowledged
        # Who was live when this pass began, or later when there were more, and has not been seen to end.
        self._watched = self.live
        self._watched_count = before.live
        self._is_first = True

    def take(self, reading: Reading, kinds: Iterable[OwnerKind]) -> Anomaly | None:
        """Believe a reading, or say what is odd about it."""
        live = {
            kind: frozenset(run for run, record in records.items() if record.live)
            for kind, records in reading.items()
        }
        count = sum(map(len, live.values()))
        now = Census(count, sum(map(len, reading.values())), frozenset(kind.name for kind in kinds))
        if self._watched is None:
            anomaly = compare(self.census, now)
        else:
            anomaly = self._missing(self._watched, reading, now)
        if anomaly is not None and anomaly.token != self._acknowledged:
            return anomaly
        if self._watched is None or self._is_first or anomaly is not None or count > self._watched_count:
            self._watched, self._watched_count = live, count
        else:
            self._watched = _without_ended(self._watched, reading)
        self._is_first = False
        self.census, self.live = now, live
        return None

    def _missing(self, watched: LiveRuns, reading: Reading, now: Census) -> Anomaly | None:
        missing = sum(
            run not in records
            for kind, runs in watched.items()
            for records in (reading.get(kind, {}),)
            for run in runs
        )
        if 2 * missing <= self._watched_count:
            return None
        return dropped(self.census, now, missing=missing, of=self._watched_count)


def _without_ended(watched: LiveRuns, reading: Reading) -> LiveRuns:
    """Whoever has been seen to end may go."""
    left: dict[KindKey, frozenset[str]] = {}
    for kind, runs in watched.items():
        records = reading.get(kind, {})
        ended = {run for run in runs if run in records and not records[run].live}
        left[kind] = runs - ended if ended else runs
    return left
