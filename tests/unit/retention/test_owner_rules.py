"""The decision on a run of which more is known than its listing: live, referenced, ranked, orphaned."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bubu_storage.retention.owners import OwnerFacts
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.rules import (
    FUTURE_TOLERANCE_SECONDS,
    KEEP_CHAIN,
    Decision,
    RunContext,
    RunFacts,
    decide_run,
)
from bubu_storage.retention.spec import PassSpec, RetentionRule
from tests.unit.retention.world import DAY, START, spec_of

RUN = "outputs/a/run-1/"
GRACE = 2 * DAY
LAST_5 = RetentionRule("outputs/a/", None, keep_last_runs=5)
ORPHANS_GO = RetentionRule("outputs/a/", None, keep_last_runs=5, orphan_grace_seconds=GRACE)
WITHIN = RetentionRule("outputs/a/", 30 * DAY)

ENDED = OwnerFacts(live=False, rank=6)
"""An owner that keeps nothing: ended, and not among the last five."""


def run(age_seconds: float = 100 * DAY, **changes: object) -> RunFacts:
    """Return a wholly seen run of this age."""
    fields = {
        "prefix": RUN,
        "objects": 3,
        "size_bytes": 30,
        "newest": START - timedelta(seconds=age_seconds),
        "complete": True,
    } | changes
    return RunFacts(**fields)


def known(owner: OwnerFacts | None = None, **changes: object) -> RunContext:
    """Return what is known where there is a list of owners."""
    return RunContext(are_owners_known=True, owner=owner, **changes)


def marked(seconds_ago: float, **changes: object) -> RunContext:
    """Return what is known of an orphan that was marked so long ago."""
    return known(marked_at=START - timedelta(seconds=seconds_ago), **changes)


def verdict(rules: tuple[RetentionRule, ...], context: RunContext, **changes: object) -> Decision:
    """Judge the run by these rules."""
    return decide_run(run(**changes), spec_of(rules=rules), START, context)


@pytest.mark.parametrize("rules", [(WITHIN,), (LAST_5,), (ORPHANS_GO,), (WITHIN, ORPHANS_GO)])
def test_a_live_owner_protects_against_every_rule(rules):
    """Neither age nor rank matters while the run is live."""
    assert verdict(rules, known(ENDED)).reason is Reason.DUE
    assert verdict(rules, known(OwnerFacts(live=True, rank=6))).reason is Reason.KEPT_LIVE
    assert verdict(rules, known(OwnerFacts(live=True, rank=99))).reason is Reason.KEPT_LIVE


@pytest.mark.parametrize("context", [known(ENDED), marked(3 * DAY)])
def test_a_reference_protects_against_every_rule(context):
    """What a live run refers to stays, whether its own run has ended or lost its owner."""
    rules = (WITHIN, ORPHANS_GO)

    assert verdict(rules, context).reason is Reason.DUE
    assert verdict(rules, replace(context, is_referenced=True)).reason is Reason.KEPT_REFERENCED


def test_live_is_named_before_referenced_and_both_before_age():
    """The chain has an order, so that the same facts always give the same reason."""
    live = OwnerFacts(live=True)

    assert verdict((WITHIN,), known(live, is_referenced=True), age_seconds=0).reason is Reason.KEPT_LIVE
    assert verdict((WITHIN,), known(is_referenced=True), age_seconds=0).reason is Reason.KEPT_REFERENCED
    assert verdict((WITHIN,), known(), age_seconds=0).reason is Reason.KEPT_MIN_AGE
    assert verdict((WITHIN, LAST_5), known(), age_seconds=2 * DAY).reason is Reason.KEPT_WITHIN


def test_what_no_rule_covers_is_not_called_live():
    """Facts about the listing come first; a live run outside every rule is kept for that reason."""
    live = known(OwnerFacts(live=True))

    assert verdict((WITHIN,), live, prefix="outputs/b/run-1/").reason is Reason.KEPT_NO_RULE
    assert verdict((WITHIN,), live, complete=False).reason is Reason.KEPT_RUN_INCOMPLETE
    assert verdict((WITHIN,), live, reserved=1).reason is Reason.KEPT_RESERVED
    assert verdict((WITHIN,), live, undated=1).reason is Reason.KEPT_UNKNOWN_DATE
    assert verdict((WITHIN,), live, age_seconds=-301).reason is Reason.KEPT_FUTURE_DATE


@pytest.mark.parametrize(
    ("rank", "reason"),
    [
        (1, Reason.KEPT_LAST_RUNS),
        (5, Reason.KEPT_LAST_RUNS),
        (6, Reason.DUE),
        (None, Reason.KEPT_LAST_RUNS),
        (0, Reason.KEPT_LAST_RUNS),
    ],
)
def test_the_last_runs_of_a_story_are_kept_whatever_their_age(rank, reason):
    """Up to the number of the rule; an owner without a rank may be one of them."""
    assert verdict((LAST_5,), known(OwnerFacts(live=False, rank=rank))).reason is reason
    assert verdict((ORPHANS_GO,), known(OwnerFacts(live=False, rank=rank))).reason is reason


def test_every_rule_that_covers_a_run_must_let_it_go():
    """Keep wins: the larger number, and any age that still keeps."""
    last_9 = RetentionRule("outputs/a/", None, keep_last_runs=9)
    both = RetentionRule("outputs/a/", 200 * DAY, keep_last_runs=5)

    assert verdict((LAST_5, last_9), known(ENDED)).reason is Reason.KEPT_LAST_RUNS
    assert verdict((last_9, LAST_5), known(ENDED)).reason is Reason.KEPT_LAST_RUNS
    assert verdict((LAST_5, both), known(ENDED)).reason is Reason.KEPT_WITHIN
    assert verdict((LAST_5, both), known(ENDED), age_seconds=201 * DAY).reason is Reason.DUE


def test_an_owner_with_a_low_rank_does_not_shorten_a_keep_by_age():
    """Also a run that is no longer among the last ones is kept while it is young enough."""
    rule = RetentionRule("outputs/a/", 30 * DAY, keep_last_runs=5)

    assert verdict((rule,), known(ENDED), age_seconds=30 * DAY).reason is Reason.KEPT_WITHIN
    assert verdict((rule,), known(ENDED), age_seconds=30 * DAY + 1).reason is Reason.DUE


def test_without_a_list_of_owners_rules_by_number_keep_everything():
    """Nobody can say which runs are the last ones; rules by age work as ever."""
    assert verdict((LAST_5,), RunContext()).reason is Reason.KEPT_NO_OWNER_LIST
    assert verdict((ORPHANS_GO,), RunContext()).reason is Reason.KEPT_NO_OWNER_LIST
    assert verdict((WITHIN, LAST_5), RunContext()).reason is Reason.KEPT_NO_OWNER_LIST
    assert verdict((WITHIN,), RunContext()).reason is Reason.DUE
    assert not verdict((WITHIN,), RunContext()).is_orphan


def test_orphans_are_only_reported_unless_a_rule_says_otherwise():
    """A run without an owner has no rank, so a rule by number keeps it; one rule is enough."""
    assert verdict((LAST_5,), marked(99 * DAY)).reason is Reason.KEPT_ORPHAN
    assert verdict((LAST_5, ORPHANS_GO), marked(99 * DAY)).reason is Reason.KEPT_ORPHAN
    assert verdict((ORPHANS_GO, LAST_5), marked(99 * DAY)).reason is Reason.KEPT_ORPHAN


def test_orphans_under_rules_by_age_are_judged_by_age():
    """They go when they are old enough, marked or not, and are told apart in the report."""
    young, old = (verdict((WITHIN,), known(), age_seconds=days * DAY) for days in (29, 31))

    assert (young.reason, old.reason) == (Reason.KEPT_WITHIN, Reason.DUE)
    assert young.is_orphan
    assert old.is_orphan
    assert old.overdue_seconds == DAY
    assert verdict((WITHIN,), known(is_shared_store=True)).reason is Reason.DUE


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (0.001, Reason.KEPT_ORPHAN_GRACE),
        (GRACE, Reason.KEPT_ORPHAN_GRACE),
        (GRACE + 0.001, Reason.DUE),
        (-5.0, Reason.KEPT_ORPHAN_GRACE),
    ],
)
def test_an_orphan_goes_when_its_mark_is_older_than_the_grace(seconds, reason):
    """Two complete observations, more than the grace apart; the boundary belongs to keeping."""
    decision = verdict((ORPHANS_GO,), marked(seconds))

    assert decision.reason is reason
    assert decision.is_orphan


def test_an_orphan_without_a_mark_has_been_seen_without_owner_only_now():
    """The first observation never deletes."""
    assert verdict((ORPHANS_GO,), known()).reason is Reason.KEPT_ORPHAN_GRACE


@pytest.mark.parametrize("when", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2000, 1, 1)])  # noqa: DTZ001
def test_a_mark_without_a_usable_date_is_none(when):
    """What stores answer that know no date must not pass for "very long ago"."""
    old = run(age_seconds=0, newest=datetime(1971, 1, 1, tzinfo=UTC))
    spec = spec_of(rules=(ORPHANS_GO,))

    assert decide_run(old, spec, START, known(marked_at=when)).reason is Reason.KEPT_ORPHAN_GRACE


@pytest.mark.parametrize(
    ("newest", "reason"),
    [
        (3 * DAY + 1, Reason.DUE),
        (3 * DAY, Reason.KEPT_ORPHAN_GRACE),
        (3 * DAY - 1, Reason.KEPT_ORPHAN_GRACE),
    ],
)
def test_a_run_that_changed_after_its_mark_is_not_the_run_that_was_marked(newest, reason):
    """A mark may outlive its run; a later run of the same name gets a grace of its own."""
    assert verdict((ORPHANS_GO,), marked(3 * DAY), age_seconds=newest).reason is reason


def test_the_longest_grace_counts():
    """Every rule must let the orphan go."""
    patient = replace(ORPHANS_GO, orphan_grace_seconds=4 * DAY)

    assert verdict((ORPHANS_GO, patient), marked(3 * DAY)).reason is Reason.KEPT_ORPHAN_GRACE
    assert verdict((patient, ORPHANS_GO), marked(3 * DAY)).reason is Reason.KEPT_ORPHAN_GRACE
    assert verdict((patient, ORPHANS_GO), marked(5 * DAY)).reason is Reason.DUE


def test_a_shared_store_turns_orphan_rules_off():
    """A run without an owner here may have one in another cluster; runs with owners are not affected."""
    assert verdict((ORPHANS_GO,), marked(9 * DAY, is_shared_store=True)).reason is Reason.KEPT_SHARED_STORE
    assert verdict((ORPHANS_GO,), known(ENDED, is_shared_store=True)).reason is Reason.DUE
    assert verdict((LAST_5,), marked(9 * DAY, is_shared_store=True)).reason is Reason.KEPT_ORPHAN


def test_orphans_keep_their_age():
    """keep.within holds for orphans too: keep wins over orphans.action."""
    rule = replace(ORPHANS_GO, keep_within_seconds=30 * DAY)

    assert verdict((rule,), marked(9 * DAY), age_seconds=29 * DAY).reason is Reason.KEPT_WITHIN
    assert verdict((rule,), marked(9 * DAY), age_seconds=31 * DAY).reason is Reason.DUE


class TestOverdue:
    """For how long a due run could have been gone, as far as anybody knows."""

    def test_an_orphan_is_overdue_since_its_grace_ended(self):
        """Not since its data grew old."""
        assert verdict((ORPHANS_GO,), marked(3 * DAY)).overdue_seconds == DAY

    def test_an_orphan_is_overdue_since_the_last_keep_ended(self):
        """Age and grace both have to be over; the later end counts."""
        rule = replace(ORPHANS_GO, keep_within_seconds=30 * DAY)

        assert verdict((rule,), marked(9 * DAY), age_seconds=31 * DAY).overdue_seconds == DAY
        assert verdict((rule,), marked(2.5 * DAY), age_seconds=90 * DAY).overdue_seconds == DAY / 2

    def test_the_longest_grace_is_what_an_orphan_waited_for(self):
        """Of several rules, the most patient one decides."""
        patient = replace(ORPHANS_GO, orphan_grace_seconds=4 * DAY)

        assert verdict((ORPHANS_GO, patient), marked(5 * DAY)).overdue_seconds == DAY

    def test_nobody_knows_when_a_run_fell_out_of_the_last_ones(self):
        """So it counts as due since just now: an alarm must not start from an age that kept nothing."""
        assert verdict((LAST_5,), known(ENDED)).overdue_seconds == 0
        assert verdict((WITHIN, ORPHANS_GO), known(ENDED)).overdue_seconds == 0

    def test_kept_runs_are_not_overdue(self):
        """Whatever keeps them."""
        assert verdict((ORPHANS_GO,), known()).overdue_seconds == 0
        assert verdict((ORPHANS_GO,), known(OwnerFacts(live=True))).overdue_seconds == 0


@pytest.mark.parametrize("rules", [(RetentionRule(RUN, None, 3), RetentionRule(RUN, None, 7))] * 1)
def test_of_equal_rules_the_one_that_keeps_more_is_named(rules):
    """The named rule is the one that decided, also when only numbers differ."""
    for order in (rules, rules[::-1]):
        assert verdict(order, known(OwnerFacts(live=False, rank=8))).rule == RetentionRule(RUN, None, 7)


def test_what_is_not_said_keeps():
    """A run of which nothing was said is not seen whole, and a decision of which nothing was said is bare."""
    assert RunFacts(RUN) == RunFacts(RUN, 0, 0, None, 0, 0, complete=False)
    unsaid = RunFacts(RUN, newest=START - timedelta(days=99))
    assert decide_run(unsaid, spec_of(), START).reason is Reason.KEPT_RUN_INCOMPLETE
    assert Decision(Reason.DUE) == Decision(Reason.DUE, None, 0.0, is_orphan=False)


def test_every_entry_of_the_chain_can_speak():
    """No keep is dead: for each there are facts for which it alone answers."""
    contexts = {
        "keep_live": (known(OwnerFacts(live=True, rank=6)), (WITHIN,), {}),
        "keep_referenced": (known(is_referenced=True), (WITHIN,), {}),
        "keep_no_owner_list": (RunContext(), (LAST_5,), {}),
        "keep_last_runs": (known(OwnerFacts(live=False, rank=1)), (LAST_5,), {}),
        "keep_orphan": (marked(9 * DAY), (LAST_5,), {}),
        "keep_shared_store": (marked(9 * DAY, is_shared_store=True), (ORPHANS_GO,), {}),
        "keep_orphan_grace": (marked(DAY), (ORPHANS_GO,), {}),
        "keep_within": (known(), (WITHIN,), {"age_seconds": 2 * DAY}),
        "keep_min_age": (known(), (replace(WITHIN, keep_within_seconds=1.0),), {"age_seconds": DAY}),
        "keep_no_rule": (known(), (WITHIN,), {"prefix": "outputs/b/r/"}),
        "keep_future_date": (known(), (WITHIN,), {"age_seconds": -301}),
        "keep_unknown_date": (known(), (WITHIN,), {"undated": 1}),
        "keep_reserved": (known(), (WITHIN,), {"reserved": 1}),
        "keep_incomplete": (known(), (WITHIN,), {"complete": False}),
    }

    assert contexts.keys() == {keep.__name__ for keep in KEEP_CHAIN}
    for context, rules, changes in contexts.values():
        assert not verdict(rules, context, **changes).is_due


ages = st.sampled_from([-400.0, -300.0, 0.0, DAY, DAY + 1, 5 * DAY, 30 * DAY, 30 * DAY + 1, 99 * DAY])
owners = st.none() | st.builds(OwnerFacts, st.booleans(), st.none() | st.integers(1, 8))
rules = st.builds(
    RetentionRule,
    st.sampled_from(["outputs/a/", RUN, "outputs/a/run-2/"]),
    st.none() | st.sampled_from([1.0, 5 * DAY, 30 * DAY]),
    st.integers(1, 6),
    st.none() | st.sampled_from([DAY, 3 * DAY]),
) | st.builds(
    RetentionRule,
    st.sampled_from(["outputs/a/", RUN, "outputs/a/run-2/"]),
    st.sampled_from([1.0, 5 * DAY, 30 * DAY]),
    st.none(),
    st.none() | st.just(DAY),
)
contexts = st.builds(
    RunContext,
    are_owners_known=st.booleans(),
    owner=owners,
    is_referenced=st.booleans(),
    marked_at=st.none() | ages.map(lambda age: START - timedelta(seconds=age)),
    is_shared_store=st.booleans(),
)
facts = st.builds(
    run,
    ages,
    undated=st.sampled_from([0, 0, 0, 1]),
    reserved=st.sampled_from([0, 0, 0, 1]),
    complete=st.sampled_from([True, True, True, False]),
)
specs = st.builds(
    lambda rules, min_age: spec_of(rules=tuple(rules), min_age_seconds=min_age),
    st.lists(rules, min_size=1, max_size=4),
    st.sampled_from([300.0, DAY]),
)


def may_go(facts: RunFacts, spec: PassSpec, context: RunContext) -> bool:
    """Say in one sentence when a run may be deleted. Written anew, not with the code under test."""
    covering = [rule for rule in spec.rules if RUN.startswith(rule.prefix)]
    if not facts.complete or facts.reserved or facts.undated or facts.newest is None or not covering:
        return False
    age = (START - facts.newest).total_seconds()
    owner = context.owner
    is_protected = context.is_referenced or (owner is not None and owner.live)
    is_too_young = age <= spec.min_age_seconds or age < -FUTURE_TOLERANCE_SECONDS
    if is_protected or is_too_young:
        return False

    def lets_go(rule: RetentionRule) -> bool:
        if rule.keep_within_seconds is not None and not age > rule.keep_within_seconds:
            return False
        if rule.keep_last_runs is None:
            return True
        if not context.are_owners_known:
            return False
        if owner is not None:
            return owner.rank is not None and owner.rank > rule.keep_last_runs
        if rule.orphan_grace_seconds is None or context.is_shared_store or context.marked_at is None:
            return False
        is_the_marked_run = facts.newest < context.marked_at
        return is_the_marked_run and START - context.marked_at > timedelta(seconds=rule.orphan_grace_seconds)

    return all(lets_go(rule) for rule in covering)


@given(facts=facts, spec=specs, context=contexts)
def test_a_run_is_due_exactly_when_the_contract_lets_it_go(facts, spec, context):
    """The chain and a sentence written apart from it agree on everything."""
    assert decide_run(facts, spec, START, context).is_due is may_go(facts, spec, context)


more = st.sampled_from(
    ["rule", "live", "reference", "member", "no list", "shared", "mark", "rank", "no rank"]
)


@given(facts=facts, spec=specs, context=contexts, extra=rules, what=more)
def test_more_protection_never_makes_a_kept_run_due(facts, spec, context, extra, what):
    """Adding a rule, an owner that is live, a reference, a younger member, or doubt only ever keeps."""
    before = decide_run(facts, spec, START, context)
    match what:
        case "rule":
            spec = replace(spec, rules=(*spec.rules, extra))
            assume(any(rule.covers(RUN) for rule in spec.rules[:-1]))
        case "live":
            context = replace(context, owner=OwnerFacts(live=True))
        case "reference":
            context = replace(context, is_referenced=True)
        case "member":
            facts = replace(facts, newest=facts.newest + timedelta(days=1))
        case "no list":
            context = replace(context, are_owners_known=False)
        case "shared":
            context = replace(context, is_shared_store=True)
        case "mark":
            context = replace(context, marked_at=None)
        case "rank":
            assume(context.owner is not None and context.owner.rank is not None)
            context = replace(context, owner=replace(context.owner, rank=max(1, context.owner.rank - 1)))
        case _:
            assume(context.owner is not None)
            context = replace(context, owner=replace(context.owner, rank=None))

    assert before.is_due or not decide_run(facts, spec, START, context).is_due


@given(facts=facts, spec=specs, context=contexts)
def test_the_verdict_is_the_same_every_time_and_in_every_order(facts, spec, context):
    """Equal facts, equal verdict; the order of rules is no input."""
    turned = replace(spec, rules=spec.rules[::-1])
    first, second = (decide_run(facts, each, START, context) for each in (spec, turned))

    assert (first.reason, first.overdue_seconds) == (second.reason, second.overdue_seconds)
