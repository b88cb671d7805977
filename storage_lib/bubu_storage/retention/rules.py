"""The decision: facts about one run directory, a spec and a clock go in, a reason comes out.

Pure and total: no I/O, no clock of its own, never raises. The chain is an ordered tuple of
*keep* rules; the first that speaks decides, and only a run on which all are silent is due.
So deleting needs every rule's consent, and a new keep is one more entry in the chain.

A run is judged by its newest member: any young, future-dated, undated or reserved member
keeps all of it. A run that was not seen whole is kept before anything else is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from bubu_storage.retention.spec import PassSpec, RetentionRule, run_prefix_of
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "DUE_REASONS",
    "FUTURE_TOLERANCE_SECONDS",
    "KEEP_CHAIN",
    "KEPT_REASONS",
    "PROVISIONAL_REASONS",
    "Decision",
    "PassSpec",
    "Question",
    "Reason",
    "RetentionRule",
    "RunFacts",
    "decide_loose",
    "decide_run",
    "has_date",
    "is_reserved",
    "run_prefix_of",
]

FUTURE_TOLERANCE_SECONDS: Final = 300.0
"""An object dated further ahead of the store's clock than this is reported as future-dated.

Within the tolerance it is simply young. Either way it is kept.
"""


class Reason(StrEnum):
    """Why objects were kept or deleted: feeds reports, conditions, metric labels and docs."""

    KEPT_WITHIN = "KeptWithin"
    """A rule's keep.within still covers the newest member of the run."""
    KEPT_MIN_AGE = "KeptMinAge"
    """The newest member is younger than the policy's minimum age."""
    KEPT_NO_RULE = "KeptNoRule"
    """No rule covers the run."""
    KEPT_FUTURE_DATE = "KeptFutureDate"
    """A member is dated in the future of the store's clock: clocks or data are wrong."""
    KEPT_UNKNOWN_DATE = "KeptUnknownDate"
    """The store gave no usable date for a member."""
    KEPT_NOT_IN_RUN = "KeptNotInRun"
    """The object lies directly in the scope, in no run directory."""
    KEPT_RESERVED = "KeptReserved"
    """The object, or a member of its run, belongs to the reserved area ``.bubu/``."""
    KEPT_RUN_INCOMPLETE = "KeptRunIncomplete"
    """The pass ended inside the run; a later pass goes on there and counts it again."""
    KEPT_RUN_TAIL = "KeptRunTail"
    """Met behind a run that was already decided in this cycle; the next cycle sees it whole."""
    KEPT_NEWER_MEMBER = "KeptNewerMember"
    """The run was due, and the listing made before deleting showed that it no longer is."""
    KEPT_LIVE = "KeptLive"
    """The owner of the run is live: it exists and has not come to its end."""
    KEPT_REFERENCED = "KeptReferenced"
    """A live owner refers to an object of the run, directly or through stored documents."""
    KEPT_LAST_RUNS = "KeptLastRuns"
    """The run is among the newest of its story that a rule's keep.lastRuns keeps."""
    KEPT_NO_OWNER_LIST = "KeptNoOwnerList"
    """A rule needs to know the owners (keep.lastRuns), and nobody can list them here."""
    KEPT_ORPHAN = "KeptOrphan"
    """The run has no owner, and orphans are only reported."""
    KEPT_ORPHAN_GRACE = "KeptOrphanGrace"
    """The run has no owner, but has not been seen without one for long enough."""
    KEPT_SHARED_STORE = "KeptSharedStore"
    """The run has no owner here, but other clusters use the store, and may own it."""
    DUE = "Due"
    """Would be deleted; what a dry run reports."""
    DUE_DEFERRED = "DueDeferred"
    """Due, left to the next pass by a limit or a stop; counted again there."""
    DELETED = "Deleted"
    """Deleted."""
    DELETE_FAILED = "DeleteFailed"
    """The store refused to delete it; tried again in the next cycle."""


KEPT_REASONS: Final = frozenset(reason for reason in Reason if reason.value.startswith("Kept"))
"""Reasons that leave an object where it is because it must, or may, be kept."""

DUE_REASONS: Final = frozenset({Reason.DUE, Reason.DUE_DEFERRED, Reason.DELETED, Reason.DELETE_FAILED})
"""Reasons of objects that were judged due in this pass, whatever became of them."""

PROVISIONAL_REASONS: Final = frozenset({Reason.KEPT_RUN_INCOMPLETE, Reason.DUE_DEFERRED})
"""Reasons of objects that a later pass of the same cycle counts again."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RESERVED_INNER: Final = "/" + RESERVED_PREFIX


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a listing told about one run directory.

    Attributes:
        prefix: the run directory, ``/``-terminated.
        objects: members seen.
        size_bytes: their total length.
        newest: date of the newest dated member; None if no member has a date.
        undated: members without a usable date.
        reserved: members in a reserved area.
        complete: every member was seen: the listing passed the end of the run.
    """

    prefix: str
    objects: int = 0
    size_bytes: int = 0
    newest: datetime | None = None
    undated: int = 0
    reserved: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Input of every rule in the chain.

    Attributes:
        facts: the run.
        rules: the rules that cover it, in no particular order.
        min_age_seconds: the policy's minimum age.
        now: the store's clock.
    """

    facts: RunFacts
    rules: tuple[RetentionRule, ...]
    min_age_seconds: float
    now: datetime

    @property
    def age_seconds(self) -> float:
        """Age of the newest member; negative if it is dated in the future."""
        if self.facts.newest is None:
            return 0.0
        return (self.now - self.facts.newest).total_seconds()


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one run.

    Attributes:
        reason: `Reason.DUE`, or why the run is kept.
        rule: the rule with the longest prefix that covers the run; None if there is none.
        overdue_seconds: for a due run, since when it could have been deleted; else 0.
    """

    reason: Reason
    rule: RetentionRule | None = None
    overdue_seconds: float = 0.0

    @property
    def is_due(self) -> bool:
        """True if nothing keeps the run."""
        return self.reason is Reason.DUE


def has_date(when: datetime) -> bool:
    """Tell whether a listed date can be reckoned with.

    A naive date has no meaning, and the epoch is what stores answer that know none: it
    must not pass for "very old".
    """
    return when.tzinfo is not None and when > _EPOCH


def is_reserved(key: str) -> bool:
    """Tell whether a key lies in a reserved area: ``.bubu/`` of the store or of any folder.

    Folders count because a store may be a view on a folder of another one.
    """
    return key.startswith(RESERVED_PREFIX) or _RESERVED_INNER in key


def keep_incomplete(question: Question) -> Reason | None:
    """A run that was not seen whole is never deleted from."""
    return None if question.facts.complete else Reason.KEPT_RUN_INCOMPLETE


def keep_reserved(question: Question) -> Reason | None:
    """Our own objects are no data."""
    return Reason.KEPT_RESERVED if question.facts.reserved else None


def keep_unknown_date(question: Question) -> Reason | None:
    """What has no date has no age."""
    facts = question.facts
    return Reason.KEPT_UNKNOWN_DATE if facts.undated or facts.newest is None else None


def keep_future_date(question: Question) -> Reason | None:
    """A date in the future says that some clock is wrong; nobody deletes by a wrong clock."""
    return Reason.KEPT_FUTURE_DATE if question.age_seconds < -FUTURE_TOLERANCE_SECONDS else None


def keep_no_rule(question: Question) -> Reason | None:
    """Only what a rule covers can be deleted."""
    return None if question.rules else Reason.KEPT_NO_RULE


def keep_min_age(question: Question) -> Reason | None:
    """Young data may still be in use, whatever the rules say."""
    return Reason.KEPT_MIN_AGE if question.age_seconds <= question.min_age_seconds else None


def keep_within(question: Question) -> Reason | None:
    """Keep wins: one rule that still keeps the run is enough, whatever its prefix."""
    age_seconds = question.age_seconds
    if any(age_seconds <= rule.keep_within_seconds for rule in question.rules):
        return Reason.KEPT_WITHIN
    return None


KEEP_CHAIN: Final[tuple[Callable[[Question], Reason | None], ...]] = (
    keep_incomplete,
    keep_reserved,
    keep_unknown_date,
    keep_future_date,
    keep_no_rule,
    keep_min_age,
    keep_within,
)
"""Asked in this order; the first that answers names the reason."""


def decide_run(facts: RunFacts, spec: PassSpec, now: datetime) -> Decision:
    """Judge one run directory.

    Args:
        facts: what was seen of it.
        spec: rules and minimum age.
        now: the store's clock, timezone-aware.

    Returns:
        `Reason.DUE` with the rule that allows the deletion and how long overdue it is, or
        the reason why the run is kept.
    """
    rules = tuple(rule for rule in spec.rules if rule.covers(facts.prefix))
    question = Question(facts, rules, spec.min_age_seconds, now)
    # Of equal prefixes the one that keeps longest is named: it is the one that decided.
    longest = max(rules, key=lambda rule: (len(rule.prefix), rule.keep_within_seconds), default=None)
    for rule in KEEP_CHAIN:
        if (reason := rule(question)) is not None:
            return Decision(reason, longest)
    due_after = max(spec.min_age_seconds, *(rule.keep_within_seconds for rule in rules))
    return Decision(Reason.DUE, longest, question.age_seconds - due_after)


def decide_loose(key: str) -> Reason:
    """Give the reason for which an object outside every run directory is kept."""
    return Reason.KEPT_RESERVED if is_reserved(key) else Reason.KEPT_NOT_IN_RUN
