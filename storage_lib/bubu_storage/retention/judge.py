"""The judge of a pass: applies the rules to runs with all that is known at this moment.

`rules` is pure and knows neither clock nor cluster; the judge brings both. It judges every run twice:
when the listing has passed it, and again right before its members are sent for deletion, because what
protects a run may have come into being in between.

Invariants: all runs of a pass are judged by one reading of the store's clock; what the judge has once
learnt to protect stays protected until the end of the pass.
"""

from __future__ import annotations

from datetime import datetime

from bubu_storage.retention.rules import Decision, RunFacts, decide_run
from bubu_storage.retention.spec import PassSpec

__all__ = ["Judge"]


class Judge:
    """Judges the runs of one pass.

    Args:
        spec: rules and minimum age.
        now: the store's clock, read once at the start of the pass.

    Attributes:
        version: grows whenever a verdict may have changed; runs judged at an earlier version are to be
            judged again before anything of them is deleted.
    """

    def __init__(self, spec: PassSpec, now: datetime) -> None:
        self._spec = spec
        self._now = now
        self.version = 0

    def decide(self, facts: RunFacts) -> Decision:
        """Judge a run by what is known now."""
        return decide_run(facts, self._spec, self._now)

    def refresh(self) -> None:
        """Make sure that what protects runs was looked up recently enough to delete by it.

        To be called right before each batch; returns at once while the last look is recent enough.

        Raises:
            PassStoppedError: it cannot be known at present what is protected: nothing may be deleted.
        """
