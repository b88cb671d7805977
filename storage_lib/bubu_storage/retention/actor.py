"""What acts on decisions, and the actor of a dry run, which holds no store and so cannot delete."""

from __future__ import annotations

from typing import Protocol

from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.rules import Decision
from bubu_storage.retention.scan import OpenRun

__all__ = ["Actor", "DryRun"]


class Actor(Protocol):
    """What becomes of decisions; told in byte order of keys."""

    def keep_object(self, key: str, size_bytes: int, reason: Reason) -> None:
        """Take note of an object outside every run, which is kept."""
        ...

    def keep_run(self, run: OpenRun, decision: Decision) -> None:
        """Take note of a run that is kept."""
        ...

    def delete_run(self, run: OpenRun, decision: Decision) -> None:
        """Take on a due run.

        Raises:
            PassStoppedError: a limit is reached.
        """
        ...

    def settle(self) -> None:
        """Get on with what was taken on so far; called after each page.

        Raises:
            PassStoppedError: a limit is reached, or the store failed.
        """
        ...

    def finish(self) -> None:
        """Act on everything taken on so far; called before the pass ends in good order.

        Raises:
            PassStoppedError: a limit is reached, or the store failed.
        """
        ...

    def close(self) -> None:
        """Wait for what is under way and book it; leave the rest to the next pass. Twice is fine."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether everything taken on was acted on, so the cursor stands behind it."""
        ...


class DryRun:
    """Reports what would be deleted. ``maxDelete`` does not apply: nothing is deleted.

    Args:
        ledger: the books.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def keep_object(self, key: str, size_bytes: int, reason: Reason) -> None:
        """See `Actor`."""
        self._ledger.pass_object(key, size_bytes, reason)

    def keep_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`."""
        self._pass(run, decision)

    def delete_run(self, run: OpenRun, decision: Decision) -> None:
        """See `Actor`: nothing is deleted."""
        self._pass(run, decision)

    def settle(self) -> None:
        """See `Actor`: there is nothing to do."""

    def finish(self) -> None:
        """See `Actor`: there is nothing to do."""

    def close(self) -> None:
        """See `Actor`: there is nothing to do."""

    @property
    def is_settled(self) -> bool:
        """See `Actor`: always."""
        return True

    def _pass(self, run: OpenRun, decision: Decision) -> None:
        facts = run.facts(complete=True)
        self._ledger.count(decision.reason, facts.objects, facts.size_bytes)
        self._ledger.pass_run(facts, decision, run.last_key, decision.reason)
