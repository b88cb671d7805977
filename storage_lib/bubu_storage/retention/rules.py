"""The decision: facts about one run directory, a spec and a clock go in, a reason comes out.

Pure and total: no I/O, no clock of its own, never raises. The chain is an ordered tuple of
*keep* rules; the first that speaks decides, and only a run on which all are silent is due.
So deleting needs every rule's consent, and a new keep is one more entry in the chain.

A run is judged by its newest member: any young, future-dated, undated or reserved member
keeps all of it. A run that was not seen whole is kept before anything else is asked.

Each rule that covers a run must let it go: by age (``keep.within``), by rank among the runs of
its story (``keep.lastRuns``) and, where it has no owner and hence no rank, by how long that has
been so. What is not known keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bubu_storage.retention.owners import OwnerFacts
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.spec import PassSpec, RetentionRule, RuleIndex, run_prefix_of
from bubu_storage.wire import RESERVED_PREFIX

__all__ = [
    "FUTURE_TOLERANCE_SECONDS",
    "KEEP_CHAIN",
    "NOTHING_KNOWN",
    "Decision",
    "PassSpec",
    "Question",
    "RetentionRule",
    "RunContext",
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
class RunContext:
    """What is known of a run besides its listing. Nothing, unless told.

    Attributes:
        are_owners_known: there is a complete list of all owners.
        owner: the run's owner; None where it has none, or nobody knows.
        is_referenced: a live owner refers to an object of the run.
        marked_at: when the run was first noted to have no owner, by the store's clock; None
            where there is no such note.
        is_shared_store: other clusters use the store too, whose owners are not in the list.
    """

    are_owners_known: bool = False
    owner: OwnerFacts | None = None
    is_referenced: bool = False
    marked_at: datetime | None = None
    is_shared_store: bool = False


NOTHING_KNOWN: Final = RunContext()
"""The context where nobody knows owners."""


@dataclass(frozen=True, slots=True)
class Question:
    """Input of every rule in the chain.

    Attributes:
        facts: the run.
        rules: the rules that cover it, in no particular order.
        min_age_seconds: the policy's minimum age.
        now: the store's clock.
        context: what else is known of the run.
    """

    facts: RunFacts
    rules: tuple[RetentionRule, ...]
    min_age_seconds: float
    now: datetime
    context: RunContext = NOTHING_KNOWN

    @property
    def age_seconds(self) -> float:
        """Age of the newest member; negative if it is dated in the future."""
        if self.facts.newest is None:
            return 0.0
        return (self.now - self.facts.newest).total_seconds()

    @property
    def is_orphan(self) -> bool:
        """True if it is known that the run has no owner."""
        return self.context.are_owners_known and self.context.owner is None

    @property
    def counting_rules(self) -> Iterator[RetentionRule]:
        """The rules that keep a number of runs."""
        return (rule for rule in self.rules if rule.keep_last_runs is not None)

    @property
    def marked_seconds(self) -> float | None:
        """How long ago the run was noted to have no owner; None where that does not count.

        A run that has changed since then is another run than the one that was noted.
        """
        marked_at, newest = self.context.marked_at, self.facts.newest
        if marked_at is None or newest is None or not has_date(marked_at) or newest >= marked_at:
            return None
        return (self.now - marked_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one run.

    Attributes:
        reason: `Reason.DUE`, or why the run is kept.
        rule: the rule with the longest prefix that covers the run; None if there is none.
        overdue_seconds: for a due run, since when it could have been deleted; else 0.
        is_orphan: it is known that the run has no owner.
    """

    reason: Reason
    rule: RetentionRule | None = None
    overdue_seconds: float = 0.0
    is_orphan: bool = False

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


def keep_live(question: Question) -> Reason | None:
    """A live run needs its data, whatever the rules say."""
    owner = question.context.owner
    return Reason.KEPT_LIVE if owner is not None and owner.live else None


def keep_referenced(question: Question) -> Reason | None:
    """What a live run refers to, it needs."""
    return Reason.KEPT_REFERENCED if question.context.is_referenced else None


def keep_min_age(question: Question) -> Reason | None:
    """Young data may still be in use, whatever the rules say."""
    return Reason.KEPT_MIN_AGE if question.age_seconds <= question.min_age_seconds else None


def keep_within(question: Question) -> Reason | None:
    """Keep wins: one rule that still keeps the run is enough, whatever its prefix."""
    age_seconds = question.age_seconds
    for rule in question.rules:
        if rule.keep_within_seconds is not None and age_seconds <= rule.keep_within_seconds:
            return Reason.KEPT_WITHIN
    return None


def keep_no_owner_list(question: Question) -> Reason | None:
    """Without a list of owners nobody can say which runs are the last ones."""
    if question.context.are_owners_known or not any(question.counting_rules):
        return None
    return Reason.KEPT_NO_OWNER_LIST


def keep_last_runs(question: Question) -> Reason | None:
    """One rule is enough whose number the run's rank does not exceed; no rank is no proof."""
    owner = question.context.owner
    if owner is None:
        return None
    for rule in question.counting_rules:
        if owner.rank is None or owner.rank <= (rule.keep_last_runs or 0):
            return Reason.KEPT_LAST_RUNS
    return None


def keep_orphan(question: Question) -> Reason | None:
    """The rank of a run without an owner is unknown: a rule that counts keeps it unless told otherwise."""
    if not question.is_orphan:
        return None
    if any(rule.orphan_grace_seconds is None for rule in question.counting_rules):
        return Reason.KEPT_ORPHAN
    return None


def keep_shared_store(question: Question) -> Reason | None:
    """Where other clusters use the store, a run without an owner here may have one there."""
    if not question.is_orphan or not question.context.is_shared_store:
        return None
    return Reason.KEPT_SHARED_STORE if any(question.counting_rules) else None


def keep_orphan_grace(question: Question) -> Reason | None:
    """A run counts as orphaned when it was noted as such longer ago than every rule's grace."""
    if not question.is_orphan:
        return None
    marked_seconds = question.marked_seconds
    for rule in question.counting_rules:
        if marked_seconds is None or marked_seconds <= (rule.orphan_grace_seconds or 0.0):
            return Reason.KEPT_ORPHAN_GRACE
    return None


KEEP_CHAIN: Final[tuple[Callable[[Question], Reason | None], ...]] = (
    keep_incomplete,
    keep_reserved,
    keep_unknown_date,
    keep_future_date,
    keep_no_rule,
    keep_live,
    keep_referenced,
    keep_min_age,
    keep_within,
    keep_no_owner_list,
    keep_last_runs,
    keep_orphan,
    keep_shared_store,
    keep_orphan_grace,
)
"""Asked in this order; the first that answers names the reason."""


def decide_run(
    facts: RunFacts,
    spec: PassSpec,
    now: datetime,
    context: RunContext = NOTHING_KNOWN,
    *,
    index: RuleIndex | None = None,
) -> Decision:
    """Judge one run directory.

    Args:
        facts: what was seen of it.
        spec: rules and minimum age.
        now: the store's clock, timezone-aware.
        context: what else is known of it.
        index: of the spec's rules, where many runs are judged by them; None makes one for this run.

    Returns:
        `Reason.DUE` with the rule that allows the deletion and how long overdue it is, or
        the reason why the run is kept.
    """
    rules = (index or RuleIndex(spec.rules)).covering(facts.prefix)
    question = Question(facts, rules, spec.min_age_seconds, now, context)
    # Of equal prefixes the one that keeps longest is named: it is the one that decided.
    longest = max(rules, key=_rule_order, default=None)
    for keep in KEEP_CHAIN:
        if (reason := keep(question)) is not None:
            return Decision(reason, longest, is_orphan=question.is_orphan)
    return Decision(Reason.DUE, longest, _overdue_seconds(question), question.is_orphan)


def _rule_order(rule: RetentionRule) -> tuple[int, float, int]:
    return len(rule.prefix), rule.keep_within_seconds or 0.0, rule.keep_last_runs or 0


def _overdue_seconds(question: Question) -> float:
    """Tell for how long nothing has kept a due run, as far as anybody knows.

    Ages and marks have dates. When a run fell out of the last ones of its story has none, so a
    run that a rank lets go counts as due since just now: an alarm that nobody can trust would
    be worse than none.
    """
    keeps = [rule.keep_within_seconds or 0.0 for rule in question.rules]
    seconds = question.age_seconds - max(question.min_age_seconds, *keeps)
    graces = [rule.orphan_grace_seconds or 0.0 for rule in question.counting_rules]
    if not graces:
        return seconds
    if question.marked_seconds is None:
        return 0.0
    return min(seconds, question.marked_seconds - max(graces))


def decide_loose(key: str) -> Reason:
    """Give the reason for which an object outside every run directory is kept."""
    return Reason.KEPT_RESERVED if is_reserved(key) else Reason.KEPT_NOT_IN_RUN
