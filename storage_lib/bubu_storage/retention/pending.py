"""Decisions that wait for being acted on, in the order of their keys.

A due run may be sent in several requests, and answers may come in any order; `Pending` knows which of
its members are done with. Invariant: a member is done with once, by whatever way; the run is settled
when none is left, and only then the cursor may pass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bubu_storage.retention.cursor import Phase, RunProgress
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.relist import View
from bubu_storage.retention.rules import Decision, RunFacts
from bubu_storage.retention.scan import Member

__all__ = ["Part", "Pending", "Sent", "instalment_of", "members_of", "outcome_of"]


@dataclass(slots=True)
class Pending:
    """One decision.

    Attributes:
        last_key: the last key that it is about.
        reason: what it is, or becomes.
        size_bytes: of the objects that it is about.
        facts: of the run; None for an object outside every run.
        decision: the verdict on the run.
        members: what is to be deleted of a due run; None for what is kept.
        listed_at: when the first member was listed.
        version: of the judge, when the run was last judged.
        judged: what the run is judged by again.
        position: in the run, before the first of the members.
        is_instalment: the members are a part of the run, and others follow.
        sent: how many members, from the first on, were handed over.
        end: how many, from the first on, are to be sent; fewer than there are once the rest is spared.
        uncharged: members that were not sent yet, nor counted against the limit of deletions.
        failed: members that the store refused to delete, and their length.
        newer: members that were found to be replaced since they were listed, and their length.
        spared: members that are kept although they were due before, and their length.
        is_abandoned: the listing has become too old; what is left is to be looked at again.
    """

    last_key: str
    reason: Reason
    size_bytes: int
    facts: RunFacts | None = None
    decision: Decision | None = None
    members: Sequence[Member] | None = None
    listed_at: float = 0.0
    version: int = 0
    judged: RunFacts | None = None
    position: str = ""
    is_instalment: bool = False
    sent: int = 0
    end: int = 0
    uncharged: int = 0
    failed: tuple[int, int] = (0, 0)
    newer: tuple[int, int] = (0, 0)
    spared: tuple[int, int] = (0, 0)
    is_abandoned: bool = False
    _done: bytearray = field(default_factory=bytearray)
    _done_count: int = 0
    _done_bytes: int = 0
    _leading: int = 0

    def __post_init__(self) -> None:
        if self.members is not None:
            self.end = self.uncharged = len(self.members)
            self._done = bytearray(self.end)
            self.judged = self.judged or self.facts

    @property
    def is_begun(self) -> bool:
        """Whether a member was done with."""
        return self._done_count > 0

    @property
    def left(self) -> int:
        """How many members are not done with."""
        return len(self._done) - self._done_count

    @property
    def left_bytes(self) -> int:
        """The length of the run without the members that are done with."""
        return max(0, self.size_bytes - self._done_bytes)

    @property
    def is_settled(self) -> bool:
        """Whether the cursor may pass it."""
        return self.members is None or not self.left

    @property
    def progress(self) -> RunProgress:
        """How far the deletion of the run has got: up to where all members are done with."""
        facts = self.known
        found = self._done.find(0, self._leading)
        self._leading = len(self._done) if found < 0 else found
        position = self.members[self._leading - 1][0] if self.members and self._leading else self.position
        facts = replace(facts, objects=max(0, facts.objects - self._done_count), size_bytes=self.left_bytes)
        return RunProgress(facts, Phase.SWEEPING, position)

    @property
    def known(self) -> RunFacts:
        """The facts of a run."""
        if self.facts is None:
            raise ValueError(f"{self.last_key!r} is no run")
        return self.facts

    @property
    def verdict(self) -> Decision:
        """The verdict on a run."""
        if self.decision is None:
            raise ValueError(f"{self.last_key!r} is no run")
        return self.decision

    def finish(self, start: int, stop: int) -> int:
        """Be done with these members, none of which was before; return their length."""
        count = stop - start
        self._done[start:stop] = b"\1" * count
        self._done_count += count
        size_bytes = sum([member[1] for member in (self.members or ())[start:stop]])
        self._done_bytes += size_bytes
        return size_bytes

    def spare(self, start: int, stop: int) -> None:
        """Keep these members after all."""
        size_bytes = self.finish(start, stop)
        self.spared = self.spared[0] + stop - start, self.spared[1] + size_bytes

    def spare_unsent(self, decision: Decision) -> int:
        """Keep what was not handed over yet by a new verdict; return how many members that is."""
        start, stop = self.sent, self.end
        self.end = start
        self.decision = decision
        self.reason = decision.reason
        if stop > start:
            self.spare(start, stop)
        return stop - start


class Part(NamedTuple):
    """Members of one run that go out in one request."""

    pending: Pending
    start: int
    stop: int


class Sent(NamedTuple):
    """What became of an instalment.

    Attributes:
        run: the run's new state.
        failed: members that the store refused to delete.
        newer: members that were replaced since they were listed.
        is_all: every candidate was dealt with.
    """

    run: RunProgress
    failed: int
    newer: int
    is_all: bool


def instalment_of(run: RunProgress, view: View) -> Pending:
    """Return the candidates of a look at a run as something to be sent."""
    return Pending(
        view.last_key,
        Reason.DELETED,
        run.facts.size_bytes,
        run.facts,
        members=view.candidates,
        listed_at=view.candidates_at,
        position=run.position,
        is_instalment=True,
    )


def members_of(part: Part) -> Sequence[Member]:
    """Return the members that a part is about."""
    return (part.pending.members or ())[part.start : part.stop]


def outcome_of(*, failed: int, newer: int) -> Reason:
    """Return what became of a run none of whose members was spared before it was sent."""
    if newer:
        return Reason.KEPT_NEWER_MEMBER
    return Reason.DELETE_FAILED if failed else Reason.DELETED
