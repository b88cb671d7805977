"""The judge of a pass: applies the rules to runs with all that is known at this moment.

`rules` is pure and knows neither clock nor cluster; the judge brings both, and what it learns from
owners, references and marks. It judges every run twice: when the listing has passed it, and again right
before its members are sent for deletion, because what protects a run may have come into being in between.

Invariants: all runs of a pass are judged by one reading of the store's clock; what the judge has once
learnt to protect stays protected until the end of the pass, so an owner that vanishes meanwhile makes no
orphan; no verdict is given before the owners were seen and all that they refer to was followed, and none
that a deletion may be based on while the last look at the owners is older than `OWNERS_FRESH_SECONDS`.
May be asked by several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

from bubu_storage.backend.types import EPOCH
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.marks import MARK_LIFE_SECONDS, MarkBook
from bubu_storage.retention.owners import (
    OWNERS_FRESH_SECONDS,
    OwnerFacts,
    OwnerSource,
    OwnerView,
    boot_seconds,
    run_name_of,
)
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.references import Follower
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import NOTHING_KNOWN, Decision, RunContext, RunFacts, decide_run
from bubu_storage.retention.spec import PassSpec, RuleIndex, run_prefix_of

__all__ = ["Judge", "more_protective"]

_MOST_LOOKS: Final = 5
"""Looks at the owners, one after the other, of which one must be over while it is still fresh."""


def more_protective(one: OwnerFacts, other: OwnerFacts) -> OwnerFacts:
    """Return what protects a run at least as much as either.

    It is live if one of them is, and has the better rank, or none (which is not known to be a bad one)
    if one of them has none.
    """
    rank = None if one.rank is None or other.rank is None else min(one.rank, other.rank)
    return OwnerFacts(one.live or other.live, rank)


class Judge:
    """Judges the runs of one pass.

    Args:
        spec: rules and minimum age.
        now: the store's clock, read once at the start of the pass.
        owners: who owns runs; None where nobody knows.
        follower: follows what live owners refer to; None if references protect only what they name.
        marks: since when runs have been without an owner; None where nothing is known of that.
        is_shared_store: other clusters use the store too.
        clock: the one that views of the owners are dated by.

    Attributes:
        version: grows whenever a verdict may have changed; runs judged at an earlier version are to be
            judged again before anything of them is deleted.
    """

    def __init__(
        self,
        spec: PassSpec,
        now: datetime,
        *,
        owners: OwnerSource | None = None,
        follower: Follower | None = None,
        marks: MarkBook | None = None,
        is_shared_store: bool = False,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._spec = spec
        self._index = RuleIndex(spec.rules)
        self._now = now
        self._source = owners
        self._follower = follower
        self._marks = marks
        self._is_shared_store = is_shared_store
        self._clock = clock
        graces = [rule.orphan_grace_seconds or 0.0 for rule in spec.rules]
        self._oldest_mark_seconds = max(graces) + MARK_LIFE_SECONDS
        self._lock = threading.RLock()
        self._view: OwnerView | None = None
        self._owners: dict[str, OwnerFacts] = {}
        self._roots: frozenset[str] = frozenset()
        self._referenced: set[str] = set()
        self.version = 0
        if marks is not None:
            marks.is_owned = self._is_owned
            marks.look = self.refresh

    @property
    def is_fresh(self) -> bool:
        """True while deletions may be based on what is known of the owners."""
        if self._source is None:
            return True
        view = self._view
        return view is not None and self._clock() - view.observed_at <= OWNERS_FRESH_SECONDS

    def decide(self, facts: RunFacts) -> Decision:
        """Judge a run by what is known now.

        Raises:
            PassStoppedError: the run's mark has to be read, and cannot be.
        """
        with self._lock:
            if self._source is None:
                return self._judge(facts)
            owner = self._owners.get(run_name_of(facts.prefix))
            context = RunContext(
                are_owners_known=self._view is not None,
                owner=owner,
                is_referenced=facts.prefix in self._referenced,
                is_shared_store=self._is_shared_store,
            )
            if self._marks is None or self._view is None:
                return self._judge(facts, context)
            self._marks.note(facts.prefix, has_owner=owner is not None)
            return self._by_mark(facts, context, self._marks)

    def refresh(self) -> None:
        """Make sure that what protects runs was looked up recently enough to delete by it.

        To be called before the first verdict and right before each batch; returns at once while the last
        look is recent enough. New references are followed before it returns.

        Raises:
            PassStoppedError: it cannot be known at present what is protected: nothing may be deleted.
        """
        if self._source is None:
            return
        with self._lock:
            for _ in range(_MOST_LOOKS):
                if self.is_fresh:
                    return
                self._look(self._source)
            if not self.is_fresh:
                raise PassStoppedError(
                    StoppedBy.OWNERS_UNKNOWN,
                    "the owners of runs could not be listed, and what they refer to followed, within "
                    f"{OWNERS_FRESH_SECONDS:g} s in {_MOST_LOOKS} attempts; nothing is deleted by older ones",
                )

    def _judge(self, facts: RunFacts, context: RunContext = NOTHING_KNOWN) -> Decision:
        return decide_run(facts, self._spec, self._now, context, index=self._index)

    def _by_mark(self, facts: RunFacts, context: RunContext, marks: MarkBook) -> Decision:
        """Judge a run, with its mark where that matters; have it marked where only time is missing."""
        decision = self._judge(facts, context)
        if decision.reason is not Reason.KEPT_ORPHAN_GRACE:
            return decision
        marked_at = marks.date_of(facts.prefix)
        if marked_at is None:
            marks.wish(facts.prefix, replaces=False)
            return decision
        is_past = marked_at <= EPOCH or (self._now - marked_at).total_seconds() > self._oldest_mark_seconds
        if is_past or (facts.newest is not None and facts.newest >= marked_at):
            marks.wish(facts.prefix, replaces=True)
            return decision
        marked = RunContext(
            context.are_owners_known, context.owner, context.is_referenced, marked_at, context.is_shared_store
        )
        return self._judge(facts, marked)

    def _is_owned(self, run_prefix: str) -> bool:
        return run_name_of(run_prefix) in self._owners

    def _look(self, source: OwnerSource) -> None:
        """Observe the owners once more and follow what is new."""
        # Half of the time that a view counts: what the source has at hand may do, if it still lasts a while.
        not_before = self._clock() - OWNERS_FRESH_SECONDS / 2
        try:
            view = source.observe(not_before)
        except OwnersUnknownError as error:
            raise PassStoppedError(
                StoppedBy.OWNERS_UNKNOWN, f"it is unknown which runs are live: {error}", error
            ) from error
        if view.observed_at > self._clock():
            raise PassStoppedError(
                StoppedBy.OWNERS_UNKNOWN,
                "the list of the owners of runs is dated in the future, so it is unknown how old it is",
            )
        self._follow(view.references)
        known = self._view
        if known is None or known.version != view.version:
            self._merge(view)
        self._view = view

    def _follow(self, references: frozenset[str]) -> None:
        """Protect the runs of all objects that can be reached from these."""
        new = references - self._roots
        if not new:
            return
        reached = new if self._follower is None else self._follower.follow(sorted(new))
        self._roots |= new
        before = len(self._referenced)
        for key in reached:
            scope = self._spec.scope_of(key)
            if scope is not None and (run_prefix := run_prefix_of(key, scope)):
                self._referenced.add(run_prefix)
        if len(self._referenced) > before:
            self.version += 1

    def _merge(self, view: OwnerView) -> None:
        """Take over what a view says, but for what would protect less than what was known."""
        merged = dict(view.owners)
        for name, known in self._owners.items():
            seen = merged.get(name)
            if seen != known:
                merged[name] = known if seen is None else more_protective(known, seen)
        if self._view is None or merged != self._owners:
            self.version += 1
        self._owners = merged
