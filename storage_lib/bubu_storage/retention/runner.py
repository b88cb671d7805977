"""One retention pass over a store: scan, decide, sweep, report.

The caller owns everything around it: when passes run, where cursors and reports are kept
(one cursor a mode), that no two enforcing passes run on one store at a time.

Invariants (the safety contract; each has tests):

* at most ``max_scan`` list entries and ``max_delete`` deletions; no request after the time
  budget or after ``should_stop`` said so; never more than ``requests_per_second``;
* nothing outside the scopes is ever listed, nothing in the reserved area ever deleted;
* ages are reckoned by the store's clock, read once at the start of the pass, so that what
  is written meanwhile is younger than anything that can be due; where the clock that answers
  is not the one that dates objects (a file store on another machine's disk), by the earlier;
* the process may be killed at any moment: a later pass from any checkpoint's cursor (or
  from none) deletes nothing that must be kept, and from the last one scans at most one page
  again;
* every due run goes within a bounded number of passes, also when some keys cannot be
  deleted, and also when a run is larger than the limits of a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import ceil

from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.gate import Permit
from bubu_storage.retention.one_pass import OnePass
from bubu_storage.retention.owners import OwnerSource, boot_seconds
from bubu_storage.retention.pipeline import DEFAULT_CONCURRENCY, MAX_CONCURRENCY
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.report import PassReport, RunOutcome
from bubu_storage.retention.spec import PassSpec

__all__ = ["DEFAULT_CONCURRENCY", "boot_seconds", "run_pass"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _useful(concurrency: int, spec: PassSpec) -> int:
    """Return how many requests in flight a pass can make use of: not more than go out in a second.

    Raises:
        ConfigurationError: it is out of range.
    """
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ConfigurationError(f"concurrency is {concurrency}; it must be 1 to {MAX_CONCURRENCY} requests")
    rate = spec.requests_per_second
    return min(concurrency, max(1, ceil(rate))) if rate > 0 else concurrency


def run_pass(
    backend: ObjectBackend,
    spec: PassSpec,
    cursor: Cursor | None = None,
    *,
    monotonic: Callable[[], float] = boot_seconds,
    sleep: Callable[[float], None] = time.sleep,
    wall_clock: Callable[[], datetime] = _utc_now,
    on_checkpoint: Callable[[PassReport], None] | None = None,
    on_run: Callable[[RunOutcome], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    owners: OwnerSource | None = None,
    permits: Sequence[Permit] = (),
    shared_store: bool = False,
    reference_cache: ReferenceCache | None = None,
    concurrency: int = 1,
    conditional_batches: bool = False,
    stamps_clock: bool = False,
) -> PassReport:
    """Run one pass and return what it did; errors of the store end it, they are not raised.

    Args:
        backend: the store.
        spec: what may be seen, kept and deleted, and the limits.
        cursor: where the last pass of this mode ended; None or empty starts a cycle.
        monotonic: seconds for budget, pace and freshness.
        sleep: waits, for pace and back-off.
        wall_clock: local time, for the report only: ages go by the store's clock.
        on_checkpoint: given the report so far after every page and every batch of
            deletions; its cursor may be stored then.
        on_run: given each run when it has been dealt with (what a plan lists).
        should_stop: asked before each request; True ends the pass in good order.
        owners: who owns runs; None where nobody knows, and rules that need it keep.
        permits: what must hold whenever a deletion is sent.
        shared_store: other clusters use the store too, so a run without an owner here is none.
        reference_cache: what is known from earlier passes of documents that live runs refer
            to; None where nothing is to be kept.
        concurrency: most deletions in flight, `DEFAULT_CONCURRENCY` for speed; fewer where the
            request rate is lower. With 1, everything happens in the calling thread, one request
            after the other. With more, pages are listed ahead and deletions overlap, in threads:
            ``monotonic``, ``sleep``, ``should_stop`` and ``permits`` may be asked in any of them,
            everything else in the calling one.
        conditional_batches: delete only what still has the ETag that was listed; what has another
            one is kept. Only for stores that were seen to honour it in the requests that are used:
            others refuse it, or silently ignore it (`bubu_storage.backend.probe`).
        stamps_clock: write an object to see what date the store gives it, and reckon by that where
            it is earlier than the store's own word. For whoever holds the store's claim; a dry run
            never writes.

    Returns:
        The report. ``stopped_by`` says why the pass ended, ``cursor`` where to go on.

    Raises:
        Exception: only what a callback raises, or a fault of the backend outside its
            contract; the last checkpoint's cursor is good then.
        ConfigurationError: ``concurrency`` is out of range.
    """
    run = OnePass(
        backend,
        spec,
        cursor or Cursor(),
        monotonic=monotonic,
        sleep=sleep,
        wall_clock=wall_clock,
        on_checkpoint=on_checkpoint,
        on_run=on_run,
        should_stop=should_stop,
        owners=owners,
        permits=permits,
        shared_store=shared_store,
        reference_cache=ReferenceCache() if reference_cache is None else reference_cache,
        concurrency=_useful(concurrency, spec),
        conditional_batches=conditional_batches,
        stamps_clock=stamps_clock and not spec.dry_run,
    )
    return run.execute()
