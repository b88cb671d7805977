"""The bound on what one cycle may find due before a person has to agree.

Invariant: an enforcing pass hands no run over for deletion that would bring the objects found due
in the present cycle, over all its passes, above the bound. What was handed over counts at once,
also while its deletion is still under way.
"""

from __future__ import annotations

from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.spec import PassSpec
from bubu_storage.retention.tally import CycleTally

__all__ = ["DueBound"]


class DueBound:
    """Counts due objects of a cycle against ``PassSpec.max_due_objects``.

    Args:
        spec: the bound; a dry run has none, since it deletes nothing.
        cycle: what the cycle's earlier passes found.
    """

    def __init__(self, spec: PassSpec, cycle: CycleTally) -> None:
        self._most = None if spec.dry_run else spec.max_due_objects
        self._due = cycle.due

    def fits(self, facts: RunFacts) -> bool:
        """Tell whether a due run may be handed over for deletion."""
        return self._most is None or self._due + facts.objects <= self._most

    def take(self, facts: RunFacts) -> None:
        """Count a run that is handed over."""
        self._due += facts.objects

    def exceeded_by(self, facts: RunFacts) -> PassStoppedError:
        """Say why the pass ends before this run."""
        return PassStoppedError(
            StoppedBy.APPROVAL_REQUIRED,
            f"{self._due} objects were due in this cycle, and {facts.prefix!r} has {facts.objects} more; "
            f"{self._most} may go without an approval",
        )
