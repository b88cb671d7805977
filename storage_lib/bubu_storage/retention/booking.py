"""Books what became of decisions, however they were acted on.

Invariants: a member is booked once; the cursor passes a decision when the books have all of it; what is
still there although it was sent is booked when the cursor passes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from bubu_storage.errors import PreconditionFailedError, StorageError
from bubu_storage.retention.cursor import RunProgress
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.pending import Pending, outcome_of
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.relist import Looker, View
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import Decision, RunFacts
from bubu_storage.retention.spec import PassSpec

__all__ = ["Booking"]

_OWNERS_REASONS: Final = frozenset(
    {
        Reason.KEPT_LIVE,
        Reason.KEPT_REFERENCED,
        Reason.KEPT_LAST_RUNS,
        Reason.KEPT_NO_OWNER_LIST,
        Reason.KEPT_ORPHAN,
        Reason.KEPT_ORPHAN_GRACE,
        Reason.KEPT_SHARED_STORE,
    }
)
"""Reasons that come from what is known of owners, not from the members."""


class Booking:
    """Enters results into the ledger.

    Args:
        spec: the limits.
        ledger: the books.
        looker: judges runs again.
    """

    def __init__(self, spec: PassSpec, ledger: Ledger, looker: Looker) -> None:
        self._spec = spec
        self._ledger = ledger
        self._looker = looker

    def _spare_rest(self, pending: Pending, decision: Decision) -> None:
        """Keep what was not sent yet of a run."""
        pending.spare_unsent(decision)

    def _spare(self, run: RunProgress, view: View, last_key: str, *, was_seen: bool) -> None:
        """Keep a run that was due and no longer is."""
        facts = run.facts if was_seen and not view.ended else view.facts
        decision = self._looker.decide(view.facts)
        if decision.reason not in _OWNERS_REASONS:
            decision = replace(decision, reason=Reason.KEPT_NEWER_MEMBER)
        self._ledger.count(decision.reason, facts.objects, facts.size_bytes)
        self._ledger.pass_run(
            replace(facts, newest=view.facts.newest), decision, max(last_key, run.prefix), decision.reason
        )

    def _pass(self, pending: Pending) -> None:
        """Move the cursor past a decision that has been acted on."""
        ledger = self._ledger
        if pending.facts is None:
            ledger.pass_object(pending.last_key, pending.size_bytes, pending.reason)
            return
        facts, reason = pending.facts, pending.reason
        if pending.members is None:
            ledger.count(reason, facts.objects, facts.size_bytes)
        else:
            self._book_rest(pending)
            if pending.spared[0]:
                ledger.count(reason, *pending.spared)
                facts = replace(facts, objects=pending.spared[0], size_bytes=pending.spared[1])
            else:
                reason = outcome_of(failed=pending.failed[0], newer=pending.newer[0])
        ledger.pass_run(facts, pending.verdict, pending.last_key, reason)

    def _book(self, pending: Pending, start: int, stop: int, failed: Mapping[str, StorageError]) -> int:
        """Book members that were dealt with; return how many of them are gone.

        What is still there is booked when the cursor passes it (`_book_rest`).
        """
        size_bytes = pending.finish(start, stop)
        gone = stop - start
        if failed:
            for key, length, _ in (pending.members or ())[start:stop]:
                if (error := failed.get(key)) is None:
                    continue
                gone -= 1
                size_bytes -= length
                if isinstance(error, PreconditionFailedError):
                    pending.newer = pending.newer[0] + 1, pending.newer[1] + length
                else:
                    pending.failed = pending.failed[0] + 1, pending.failed[1] + length
                    self._ledger.note_error(error, key)
            if pending.newer[0] and not pending.is_instalment:
                self._spare_rest(pending, replace(pending.verdict, reason=Reason.KEPT_NEWER_MEMBER))
        self._ledger.count(Reason.DELETED, gone, size_bytes)
        return gone

    def _book_rest(self, pending: Pending) -> None:
        """Book members that are still there although they were sent."""
        self._ledger.count(Reason.DELETE_FAILED, *pending.failed)
        self._ledger.count(Reason.KEPT_NEWER_MEMBER, *pending.newer)

    def _charge(self, objects: int) -> None:
        self._ledger.attempted += objects

    def _out_of_deletions(self, facts: RunFacts) -> PassStoppedError:
        return PassStoppedError(
            StoppedBy.MAX_DELETE,
            f"{self._ledger.attempted} of {self._spec.max_delete} deletions are used; the next due run "
            f"{facts.prefix!r} has {facts.objects} objects",
        )

    def _out_of_scans(self) -> PassStoppedError:
        return PassStoppedError(
            StoppedBy.MAX_SCAN, f"all {self._spec.max_scan} list entries of the pass are used"
        )
