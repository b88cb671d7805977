"""A second look at a due run right before its deletion.

Listing and deleting are never one step, so a deletion is based only on what was listed a
few seconds before. This module says what "fresh" means and looks again when it no longer
holds: at the whole run where the limits allow, else at as much of it as they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.retention.cursor import RunProgress
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.rules import Decision, RunFacts
from bubu_storage.retention.scan import MAX_HELD_OBJECTS, MAX_PAGE_SIZE, Listing, Member, OpenRun
from bubu_storage.retention.spec import PassSpec

__all__ = ["FRESH_SECONDS", "Looker", "View"]

FRESH_SECONDS: Final = 5.0
"""Age of a listing up to which deletions may be based on it."""


@dataclass(frozen=True, slots=True)
class View:
    """What a look at a run right before deleting it showed.

    Attributes:
        facts: of all members that were looked at.
        last_key: the last of them.
        candidates: members behind the position, as many as may be held.
        candidates_at: when the first of them was listed, by the monotonic clock.
        has_more: there are further members behind the candidates, as far as was looked.
        ended: the look reached the end of the run.
        is_collecting: the whole run had been looked at just before; this look was only for
            fresh candidates.
    """

    facts: RunFacts
    last_key: str
    candidates: list[Member]
    candidates_at: float
    has_more: bool
    ended: bool
    is_collecting: bool


class Looker:
    """Lists runs again.

    Args:
        backend: the store.
        gate: lets each request through.
        spec: rules and limits.
        ledger: the books; looks count as scans.
        judge: judges runs again.
    """

    def __init__(
        self, backend: ObjectBackend, gate: Gate, spec: PassSpec, ledger: Ledger, judge: Judge
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._spec = spec
        self._ledger = ledger
        self._judge = judge

    @property
    def fresh_seconds(self) -> float:
        """Age up to which a listing is fresh."""
        # A slow store or a low request rate must not make every listing too old before its first batch.
        return FRESH_SECONDS + self._gate.slack_seconds

    def is_fresh(self, listed_at: float, *, share: float = 1.0) -> bool:
        """Tell whether what was listed at this time is at most (a share of) so old."""
        return self._gate.now - listed_at <= self.fresh_seconds * share

    def _stays_fresh(self, candidates_at: float) -> bool:
        """Tell whether candidates will still be fresh when the rest of the scan is used up."""
        pages = ceil(self._ledger.scan_left / MAX_PAGE_SIZE)
        return self.is_fresh(candidates_at - pages * self._gate.latency_seconds)

    def decide(self, facts: RunFacts) -> Decision:
        """Judge a run by what is known now."""
        return self._judge.decide(facts)

    def look(self, run: RunProgress, *, is_collecting: bool, is_first: bool) -> View:
        """List the run again: judge all that can be seen, hold what may be deleted next.

        Members before the position (failed before, or new) are looked at too, but for at
        most half of the scan that is left, so that they cannot block the rest for ever.

        Args:
            run: the run and the position in it.
            is_collecting: only fresh candidates are wanted.
            is_first: nothing better can be had by leaving the run to the next pass, so a
                part of it must do if the whole is too much.
        """
        ledger, gate = self._ledger, self._gate
        held_most = min(ledger.delete_left, MAX_HELD_OBJECTS)
        # Kept back to list the candidates once more, should looking ahead take too long.
        reserve = min(held_most, ledger.scan_left // 2)
        before_left = 0 if is_collecting else ledger.scan_left // 2
        start = run.position if before_left == 0 else ""
        seen = OpenRun(run.prefix, at=gate.now, hold=False)
        candidates: list[Member] = []
        candidates_at = gate.now
        has_more = ended = False
        listing = Listing(self._backend, gate, run.prefix, start, scans=ledger.scans)
        try:
            while ledger.scan_left:
                is_behind = seen.last_key >= run.position or start == run.position
                page = listing.next_page(
                    ledger.scan_left if is_behind else min(ledger.scan_left, before_left)
                )
                if page is None:
                    ended = True
                    break
                ledger.relisted += len(page)
                if not candidates:
                    candidates_at = gate.now
                for entry in page:
                    seen.add(entry)
                    if entry.key <= run.position:
                        before_left -= 1
                    elif len(candidates) < held_most:
                        candidates.append((entry.key, entry.size_bytes, entry.etag))
                    else:
                        has_more = True
                if not self.decide(seen.facts(complete=True)).is_due:
                    break
                if before_left <= 0 and seen.last_key < run.position:
                    start = run.position
                    listing.seek(start)
                if is_collecting:
                    is_enough = len(candidates) == held_most or not self.is_fresh(candidates_at, share=0.5)
                else:
                    is_late = ledger.scan_left <= reserve and not self._stays_fresh(candidates_at)
                    is_enough = is_first and bool(candidates) and (is_late or gate.is_past(0.5))
                if is_enough:
                    break
        finally:
            listing.close()
        return View(
            seen.facts(complete=True),
            seen.last_key,
            candidates,
            candidates_at,
            has_more,
            ended,
            is_collecting,
        )
