"""A whole cycle of retention passes, one after the other, for the command line.

Invariants: memory does not grow with the store; what is under way when the caller asks to stop comes to its
end, and the cursor says where to go on; a cycle that makes no progress ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.gate import Permit
from bubu_storage.retention.owners import OwnerSource
from bubu_storage.retention.reasons import PROVISIONAL_REASONS, Reason
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.report import PassReport, RunOutcome, StoppedBy, Tally
from bubu_storage.retention.runner import DEFAULT_CONCURRENCY, run_pass
from bubu_storage.retention.spec import PassSpec

__all__ = ["Cycle", "CycleLimits", "CycleTotals", "fingerprint_of", "hash_of_plan"]

_BY_LIMIT: Final = frozenset({StoppedBy.MAX_SCAN, StoppedBy.MAX_DELETE, StoppedBy.BUDGET_SECONDS})
_PASSES_WITHOUT_PROGRESS: Final = 3
_HASH_CHARACTERS: Final = 16


def fingerprint_of(spec: PassSpec, store: str) -> str:
    """Return a text that changes with the store and with all that decides, not with limits."""
    rules = [
        (rule.prefix, rule.keep_within_seconds, rule.keep_last_runs, rule.orphan_grace_seconds)
        for rule in spec.rules
    ]
    facts = {
        "store": store,
        "scopes": list(spec.scopes),
        "rules": sorted(rules, key=repr),
        "minAge": spec.min_age_seconds,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_HASH_CHARACTERS]


def hash_of_plan(fingerprint: str, report: PassReport) -> str:
    """Return what names a plan: the rules, and exactly the runs that are due by them.

    Args:
        fingerprint: see `fingerprint_of`.
        report: of the last pass of a whole cycle.
    """
    cycle = report.cycle
    text = f"{fingerprint} {cycle.due} {cycle.due_bytes} {cycle.digest}"
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]


@dataclass(frozen=True, slots=True)
class CycleLimits:
    """When to end before the end of the cycle.

    Attributes:
        passes: most passes; None for no limit.
        objects: most objects sent for deletion; None for no limit.
    """

    passes: int | None = None
    objects: int | None = None


@dataclass(slots=True)
class CycleTotals:
    """What the passes of a cycle have come to.

    Attributes:
        by_reason: objects that were decided, provisional reasons left out.
        passes: how many there were.
        runs: run directories decided.
        attempted: objects sent for deletion.
        at_limit: a limit of the caller's ended it.
        errors: texts of the first errors.
        last: the report of the last pass.
    """

    by_reason: dict[Reason, Tally] = field(default_factory=dict[Reason, Tally])
    passes: int = 0
    runs: int = 0
    attempted: int = 0
    at_limit: bool = False
    error_count: int = 0
    errors: list[str] = field(default_factory=list[str])
    last: PassReport | None = None

    @property
    def is_complete(self) -> bool:
        """Whether everything in the scopes was decided."""
        return self.last is not None and self.last.complete_cycle

    def tally(self, *reasons: Reason) -> Tally:
        """Return the objects of some reasons."""
        return sum((self.by_reason.get(reason, Tally()) for reason in reasons), Tally())

    def add(self, report: PassReport) -> None:
        """Count a pass."""
        self.passes += 1
        self.runs += report.runs_scanned
        self.attempted += report.attempted
        self.error_count += report.error_count
        for reason, tally in report.by_reason.items():
            if reason not in PROVISIONAL_REASONS:
                self.by_reason[reason] = self.by_reason.get(reason, Tally()) + tally
        room = 10 - len(self.errors)
        self.errors += [f"{sample.key}: {sample.message}" for sample in report.errors[: max(room, 0)]]
        self.last = report


@dataclass(slots=True)
class Cycle:
    """Passes over one store until everything is decided.

    Attributes:
        backend: the store.
        spec: of each pass.
        owners: who owns runs, where that is known.
        shared_store: others use the store too.
        permits: what must hold when a deletion is sent.
        should_stop: asked before each request.
        on_run: given each run that was decided.
        on_checkpoint: given the report so far of the pass under way.
    """

    backend: ObjectBackend
    spec: PassSpec
    owners: OwnerSource | None
    shared_store: bool
    should_stop: Callable[[], bool]
    on_run: Callable[[RunOutcome], None]
    on_checkpoint: Callable[[PassReport], None]
    permits: Sequence[Permit] = ()

    def run(self, cursor: Cursor | None = None, limits: CycleLimits | None = None) -> CycleTotals:
        """Run passes to the end of the cycle, to a limit, or to what ends a pass otherwise."""
        limits = limits or CycleLimits()
        cursor = cursor or Cursor()
        totals = CycleTotals()
        stuck = 0
        cache = ReferenceCache()
        while True:
            left = None if limits.objects is None else limits.objects - totals.attempted
            if (left is not None and left <= 0) or (
                limits.passes is not None and totals.passes >= limits.passes
            ):
                totals.at_limit = True
                return totals
            spec = (
                self.spec if left is None else replace(self.spec, max_delete=min(self.spec.max_delete, left))
            )
            report = run_pass(
                self.backend,
                spec,
                cursor,
                owners=self.owners,
                shared_store=self.shared_store,
                permits=self.permits,
                should_stop=self.should_stop,
                on_run=self._on_run,
                on_checkpoint=self.on_checkpoint,
                reference_cache=cache,
                stamps_clock=bool(self.permits),
                concurrency=DEFAULT_CONCURRENCY,
            )
            totals.add(report)
            if report.complete_cycle or report.stopped_by not in _BY_LIMIT:
                return totals
            stuck = stuck + 1 if report.cursor == cursor and not report.attempted else 0
            if stuck >= _PASSES_WITHOUT_PROGRESS:
                return totals
            cursor = report.cursor

    def _on_run(self, outcome: RunOutcome) -> None:
        if outcome.reason not in PROVISIONAL_REASONS:
            self.on_run(outcome)
