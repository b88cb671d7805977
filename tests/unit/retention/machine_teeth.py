"""Engines that are broken in one way each; `directed_teeth` names a test that fails on each of them.

The state machine finds most of them by itself within a few hundred examples; docs/testing.md says which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from bubu_storage.retention import claim, judge, rules
from bubu_storage.retention.approval import DueBound
from bubu_storage.retention.claim import StoreClaim
from bubu_storage.retention.delete import Deleter
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.judge import Judge
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.marks import MarkBook
from bubu_storage.retention.one_pass import OnePass
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.references import Follower
from bubu_storage.retention.relist import Looker
from bubu_storage.retention.rules import Question
from bubu_storage.retention.scan import Listing, OpenRun
from bubu_storage.retention.sweep import Sweeper

Sabotage = Callable[[], AbstractContextManager[Any]]
SABOTAGES: dict[str, Sabotage] = {}


def sabotage(work: Callable[[], Generator[None]]) -> Sabotage:
    """Register a way to break the engine."""
    made = contextlib.contextmanager(work)
    SABOTAGES[work.__name__] = made
    return made


def without(keep: str) -> Sabotage:
    """Break the engine by taking one rule out of the chain."""

    def made() -> AbstractContextManager[Any]:
        chain = tuple(one for one in rules.KEEP_CHAIN if one.__name__ != keep)
        assert len(chain) == len(rules.KEEP_CHAIN) - 1
        return mock.patch.object(rules, "KEEP_CHAIN", chain)

    SABOTAGES[f"no_{keep}"] = made
    return made


for _keep in rules.KEEP_CHAIN:
    without(_keep.__name__)


@sabotage
def owners_looked_at_once() -> Generator[None]:
    """The owners are looked at when the pass begins, and never again."""
    with mock.patch.object(Judge, "is_fresh", property(lambda self: self._view is not None)):
        yield


@sabotage
def owners_for_a_minute() -> Generator[None]:
    """A view of the owners counts for a minute."""
    with mock.patch.object(judge, "OWNERS_FRESH_SECONDS", 60.0):
        yield


@sabotage
def never_judged_again() -> Generator[None]:
    """What becomes protected while a pass is under way is not asked about again."""
    constant = property(lambda _self: 0, lambda _self, _value: None)
    with mock.patch.object(Judge, "version", constant, create=True):
        yield


@sabotage
def references_one_level_deep() -> Generator[None]:
    """Documents are not read."""
    with mock.patch.object(Follower, "_take", return_value=None):
        yield


@sabotage
def references_not_remembered() -> Generator[None]:
    """Only what owners refer to at first is followed."""
    original = Judge._follow

    def follow(self: Judge, references: frozenset[str]) -> None:
        if self._view is None:
            original(self, references)

    with mock.patch.object(Judge, "_follow", follow):
        yield


@sabotage
def stale_documents() -> Generator[None]:
    """What a document referred to once is believed for ever."""

    def ask(self: Follower, step: Any) -> Any:
        known = self._cache._entries.get(step.key)
        return known if known is not None else original(self, step)

    original = Follower._ask
    with mock.patch.object(Follower, "_ask", ask):
        yield


@sabotage
def owners_that_vanish_are_forgotten() -> Generator[None]:
    """An owner that vanishes in the middle of a pass makes an orphan."""

    def merge(self: Judge, view: Any) -> None:
        self._owners = dict(view.owners)
        self.version += 1

    with mock.patch.object(Judge, "_merge", merge):
        yield


@sabotage
def no_permits() -> Generator[None]:
    """The claim is not asked about before deletions."""
    with mock.patch.object(Gate, "turn_to_delete", Gate.turn), mock.patch.object(StoreClaim, "check"):
        yield


@sabotage
def no_margin() -> Generator[None]:
    """A claim counts to its very end, and a deletion under way beyond."""
    settings = claim.ClaimSettings
    with mock.patch.object(settings, "margin_seconds", property(lambda self: -self.request_timeout_seconds)):
        yield


@sabotage
def claims_are_over_at_once() -> Generator[None]:
    """Whoever comes takes the claim over."""
    with mock.patch.object(claim, "claim_over", return_value=True):
        yield


@sabotage
def renewed_without_looking() -> Generator[None]:
    """A claim that another took over is renewed all the same."""

    def renew(self: StoreClaim) -> None:
        self._lost = ""
        self._extend(self._monotonic())

    with mock.patch.object(StoreClaim, "renew", renew):
        yield


@sabotage
def marks_a_day_off() -> Generator[None]:
    """Marks are taken for a day and a half older than they are."""
    original = MarkBook.date_of

    def date_of(self: MarkBook, run_prefix: str) -> datetime | None:
        found = original(self, run_prefix)
        return found and found - timedelta(hours=36)

    with mock.patch.object(MarkBook, "date_of", date_of):
        yield


@sabotage
def marks_of_earlier_runs() -> Generator[None]:
    """A mark counts whenever its run was written."""
    with (
        mock.patch.object(
            Question,
            "marked_seconds",
            property(lambda q: q.context.marked_at and (q.now - q.context.marked_at).total_seconds()),
        ),
        mock.patch.object(Judge, "_by_mark", _by_any_mark),
    ):
        yield


def _by_any_mark(self: Judge, facts: Any, context: Any, book: MarkBook) -> Any:
    decision = rules.decide_run(facts, self._spec, self._now, context)
    if decision.reason is not Reason.KEPT_ORPHAN_GRACE:
        return decision
    marked_at = book.date_of(facts.prefix)
    if marked_at is None:
        book.wish(facts.prefix, replaces=False)
        return decision
    return rules.decide_run(facts, self._spec, self._now, replace(context, marked_at=marked_at))


@sabotage
def marks_stay_when_owners_come() -> Generator[None]:
    """A mark is neither removed nor made void when the run has an owner."""
    with mock.patch.object(MarkBook, "_remove"), mock.patch.object(MarkBook, "_make_void", return_value={}):
        yield


@sabotage
def dry_runs_mark() -> Generator[None]:
    """A dry run writes marks."""
    original = MarkBook.__init__

    def init(self: MarkBook, backend: Any, gate: Any, spec: Any, ledger: Any) -> None:
        original(self, backend, gate, spec, ledger)
        self._writes_left = 5

    with mock.patch.object(MarkBook, "__init__", init):
        yield


@sabotage
def age_by_the_local_clock() -> Generator[None]:
    """Ages are reckoned by the clock of this machine."""
    original = OnePass._server_time

    def server_time(self: Any) -> datetime:
        original(self)
        return self._wall_clock()

    with mock.patch.object(OnePass, "_server_time", server_time):
        yield


@sabotage
def age_of_the_oldest_member() -> Generator[None]:
    """A run is as old as its first member."""
    original = OpenRun.add

    def add(self: OpenRun, entry: Any) -> None:
        newest = self._newest
        original(self, entry)
        self._newest = newest or self._newest

    with mock.patch.object(OpenRun, "add", add):
        yield


@sabotage
def cursor_before_acting() -> Generator[None]:
    """The cursor moves over what was only queued."""
    original = Sweeper._take_on

    def take_on(self: Sweeper, pending: Any) -> None:
        original(self, pending)
        self._ledger.after = max(self._ledger.after, pending.last_key)

    with mock.patch.object(Sweeper, "_take_on", take_on):
        yield


@sabotage
def cursor_stands_still() -> Generator[None]:
    """The cursor is not moved at all."""
    with mock.patch.object(Ledger, "_move_past"):
        yield


@sabotage
def old_listings() -> Generator[None]:
    """A listing counts for ever."""
    with mock.patch.object(Looker, "is_fresh", return_value=True):
        yield


@sabotage
def ends_are_believed() -> Generator[None]:
    """A listing that breaks off has ended."""
    original = Listing._next_page

    def next_page(self: Listing, limit: int) -> Any:
        self._is_fresh = True
        pages = self._pages
        found = original(self, limit)
        return found if pages is None or pages is self._pages else None

    with mock.patch.object(Listing, "_next_page", next_page):
        yield


@sabotage
def order_is_believed() -> Generator[None]:
    """Keys may come in any order."""

    def checked(self: Listing, objects: Any) -> Any:
        self._position = objects[-1].key
        return objects

    with mock.patch.object(Listing, "_checked", checked):
        yield


@sabotage
def no_limit_of_deletions() -> Generator[None]:
    """Deletions are not counted."""
    with mock.patch.object(Sweeper, "_charge"):
        yield


@sabotage
def no_bound_of_due_objects() -> Generator[None]:
    """Nobody has to agree."""
    with mock.patch.object(DueBound, "fits", return_value=True):
        yield


@sabotage
def failed_batches_are_not_charged() -> Generator[None]:
    """A batch of unknown outcome does not count against the limit."""
    original = Deleter._charge_for

    def charge_for(self: Deleter, keys: Any) -> None:
        if len(keys) < 2:
            original(self, keys)

    with mock.patch.object(Deleter, "_charge_for", charge_for):
        yield


@sabotage
def digest_by_pages() -> Generator[None]:
    """What is planned depends on how a cycle is cut into passes."""
    original = Ledger._move_past

    def move_past(self: Ledger, key: str) -> None:
        original(self, key)
        self.cycle = replace(self.cycle, due_bytes=self.cycle.due_bytes + (self.scan_left == 0))

    with mock.patch.object(Ledger, "_move_past", move_past):
        yield


@sabotage
def undated_is_old() -> Generator[None]:
    """What has no date is very old."""
    with mock.patch("bubu_storage.retention.scan.has_date", lambda when: when.tzinfo is UTC):
        yield
