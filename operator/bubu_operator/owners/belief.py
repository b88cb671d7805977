"""Whether a complete reading of owners is to be believed, given those before it; pure but for its memory.

The first reading of a pass is compared with the counts of an earlier pass. Later ones are compared owner
by owner: whoever was live, and is gone without having been seen in one of the last phases, is missing.
Invariants: what was not believed changes nothing; a reading in which more than half of the live owners
are missing is not believed, however slowly they went during a pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from bubu_operator.owners.census import Anomaly, Census, compare, dropped
from bubu_operator.owners.kinds import KindKey, OwnerKind
from bubu_operator.owners.relations import Reading

__all__ = ["Belief"]


class Belief:
    """What has been believed so far.

    Args:
        before: of the last pass.
        acknowledged: token of the anomaly that was approved.

    Attributes:
        census: of the last reading that was believed.
    """

    def __init__(self, before: Census, acknowledged: str) -> None:
        self.census = before
        self._acknowledged = acknowledged
        self._watched: dict[KindKey, set[str]] | None = None
        self._watched_count = 0

    def take(self, reading: Reading, kinds: Iterable[OwnerKind]) -> Anomaly | None:
        """Believe a reading, or say what is odd about it."""
        live = sum(record.live for records in reading.values() for record in records.values())
        now = Census(live, sum(map(len, reading.values())), frozenset(kind.name for kind in kinds))
        if self._watched is None:
            anomaly = compare(self.census, now)
        else:
            anomaly = self._missing(self._watched, reading, now)
        if anomaly is not None and anomaly.token != self._acknowledged:
            return anomaly
        if self._watched is None or anomaly is not None or live > self._watched_count:
            self._watched = {
                kind: {run for run, record in records.items() if record.live}
                for kind, records in reading.items()
            }
            self._watched_count = live
        else:
            _forget_ended(self._watched, reading)
        self.census = now
        return None

    def _missing(self, watched: dict[KindKey, set[str]], reading: Reading, now: Census) -> Anomaly | None:
        missing = sum(
            run not in records
            for kind, runs in watched.items()
            for records in (reading.get(kind, {}),)
            for run in runs
        )
        if 2 * missing <= self._watched_count:
            return None
        return dropped(self.census, now, missing=missing, of=self._watched_count)


def _forget_ended(watched: dict[KindKey, set[str]], reading: Reading) -> None:
    """Whoever has been seen to end may go."""
    for kind, runs in watched.items():
        records = reading.get(kind, {})
        runs.difference_update([run for run in runs if run in records and not records[run].live])
