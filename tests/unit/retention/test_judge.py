"""The judge: fresh views, protection that only grows, references and marks brought to the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

import pytest

from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.judge import Judge, more_protective
from bubu_storage.retention.marks import MARK_LIFE_SECONDS
from bubu_storage.retention.owners import OWNERS_FRESH_SECONDS, OwnerFacts, OwnerView
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.spec import RetentionRule
from tests.unit.retention.world import DAY, START, FakeTime, spec_of

GRACE = 2 * DAY
RULES = (RetentionRule("outputs/a/", None, 5, GRACE),)
LIVE = OwnerFacts(live=True)
ENDED = OwnerFacts(live=False, rank=6)


class Owners:
    """Somebody who knows the owners, with a clock of its own making."""

    def __init__(self, time: FakeTime, owners: Mapping[str, OwnerFacts] | None = None) -> None:
        self.time = time
        self.owners = dict(owners or {})
        self.references: set[str] = set()
        self.version = 1
        self.asked: list[float] = []
        self.takes_seconds = 0.0
        self.is_lazy = False
        self.error: OwnersUnknownError | None = None
        self.last: OwnerView | None = None

    def set(self, **changes: OwnerFacts | None) -> None:
        """Change owners of namespace a; None removes one."""
        for name, facts in changes.items():
            self.owners.pop(f"a/{name}", None)
            if facts is not None:
                self.owners[f"a/{name}"] = facts
        self.version += 1

    def refer_to(self, *keys: str) -> None:
        """Let a live owner refer to these keys."""
        self.references |= set(keys)
        self.version += 1

    def observe(self, not_before: float) -> OwnerView:
        """Look, or give what was seen before if that will do."""
        self.asked.append(not_before)
        if self.error is not None:
            raise self.error
        if self.is_lazy and self.last is not None and self.last.observed_at >= not_before:
            return self.last
        began = self.time.seconds
        self.time.advance(self.takes_seconds)
        self.last = OwnerView(self.version, began, dict(self.owners), frozenset(self.references))
        return self.last


class Graph:
    """Follows references through documents that are only imagined."""

    def __init__(self, edges: Mapping[str, Iterable[str]] | None = None) -> None:
        self.edges = dict(edges or {})
        self.reached: set[str] = set()
        self.asked: list[list[str]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def follow(self, paths: Iterable[str]) -> frozenset[str]:
        """Return what is new."""
        queue = list(paths)
        self.asked.append(list(queue))
        self.meanwhile()
        before = set(self.reached)
        while queue:
            key = queue.pop()
            if key not in self.reached:
                self.reached.add(key)
                queue.extend(self.edges.get(key, ()))
        return frozenset(self.reached - before)


class Marks:
    """Marks that are only imagined."""

    def __init__(self, dates: Mapping[str, datetime] | None = None) -> None:
        self.dates = dict(dates or {})
        self.noted: list[tuple[str, bool]] = []
        self.wished: list[tuple[str, bool]] = []

    def note(self, run_prefix: str, *, has_owner: bool) -> None:
        """Remember that the scan came by."""
        self.noted.append((run_prefix, has_owner))

    def date_of(self, run_prefix: str) -> datetime | None:
        """Return the date."""
        return self.dates.get(run_prefix)

    def wish(self, run_prefix: str, *, replaces: bool) -> None:
        """Remember what is to be written."""
        self.wished.append((run_prefix, replaces))


@pytest.fixture
def time() -> FakeTime:
    """Time that moves when told."""
    return FakeTime()


def judge_of(owners: Owners, *, follower=None, marks=None, rules=RULES, **options) -> Judge:
    """Return a judge that has looked once."""
    judge = Judge(
        spec_of(rules=rules),
        START,
        owners=owners,
        follower=follower,
        marks=marks,
        clock=owners.time.monotonic,
        **options,
    )
    judge.refresh()
    return judge


def run(name: str = "r1", age_days: float = 100, scope: str = "outputs/a/") -> RunFacts:
    """Return a wholly seen run of this age."""
    return RunFacts(f"{scope}{name}/", 1, 1, START - timedelta(days=age_days), complete=True)


def reason(judge: Judge, name: str = "r1", **options) -> Reason:
    """Judge a run."""
    return judge.decide(run(name, **options)).reason


class TestFreshness:
    """No deletion is based on a look that is older than ten seconds."""

    def test_a_fresh_view_is_not_asked_for_again(self, time):
        """At exactly ten seconds it still counts; after that the owners are looked at again."""
        owners = Owners(time)
        judge = judge_of(owners)

        time.advance(OWNERS_FRESH_SECONDS)
        judge.refresh()
        assert judge.is_fresh
        assert len(owners.asked) == 1

        time.advance(0.001)
        assert not judge.is_fresh
        judge.refresh()
        assert judge.is_fresh
        assert len(owners.asked) == 2

    def test_a_view_that_another_asked_for_will_do_while_it_lasts(self, time):
        """At least for half of the time that a view counts."""
        owners = Owners(time)
        judge = judge_of(owners)
        time.advance(60)
        judge.refresh()

        assert owners.asked[-1] == time.seconds - OWNERS_FRESH_SECONDS / 2

    def test_before_the_first_look_nothing_is_fresh(self, time):
        """And nothing is known, so rules by number keep."""
        judge = Judge(spec_of(rules=RULES), START, owners=Owners(time), clock=time.monotonic)

        assert not judge.is_fresh
        assert reason(judge) is Reason.KEPT_NO_OWNER_LIST

    def test_a_look_that_takes_too_long_is_no_ground_to_delete(self, time):
        """A view counts from the beginning of its observation; five in a row that are old end the pass."""
        owners = Owners(time)
        owners.takes_seconds = OWNERS_FRESH_SECONDS + 1

        with pytest.raises(PassStoppedError, match="5 attempts") as caught:
            judge_of(owners)
        assert caught.value.reason is StoppedBy.OWNERS_UNKNOWN
        assert len(owners.asked) == 5

    def test_the_last_attempt_counts(self, time):
        """A look that becomes fast enough at last is taken."""
        owners = Owners(time)
        owners.takes_seconds = OWNERS_FRESH_SECONDS + 1
        original, count = owners.observe, []

        def observe(not_before: float) -> OwnerView:
            count.append(1)
            if len(count) == 5:
                owners.takes_seconds = 0
            return original(not_before)

        owners.observe = observe

        assert judge_of(owners).is_fresh

    def test_unknown_owners_end_the_pass(self, time):
        """An error is no empty list: the first look, or any later one."""
        owners = Owners(time, {"a/r1": LIVE})
        judge = judge_of(owners)
        owners.error = OwnersUnknownError("the list broke off")
        judge.refresh()
        time.advance(11)

        with pytest.raises(PassStoppedError, match="the list broke off") as caught:
            judge.refresh()
        assert caught.value.reason is StoppedBy.OWNERS_UNKNOWN
        assert caught.value.error is owners.error
        with pytest.raises(PassStoppedError):
            judge_of(owners)

    def test_a_view_of_the_future_is_not_believed(self, time):
        """Its clock is another one; it would count as fresh for ever."""
        owners = Owners(time)
        owners.observe = lambda _not_before: OwnerView(1, time.seconds + 0.001)

        with pytest.raises(PassStoppedError, match="dated in the future") as caught:
            judge_of(owners)
        assert caught.value.reason is StoppedBy.OWNERS_UNKNOWN

    def test_where_nobody_knows_owners_nothing_has_to_be_fresh(self):
        """Rules by age need no list."""
        judge = Judge(spec_of(), START)
        judge.refresh()

        assert judge.is_fresh
        assert reason(judge) is Reason.DUE
        assert reason(judge, age_days=29) is Reason.KEPT_WITHIN
        assert judge.version == 0


class TestProtection:
    """What is known of owners reaches the rules, and within a pass only ever protects more."""

    def test_a_run_is_known_by_namespace_and_name(self, time):
        """In every scope of the namespace; a run of that name elsewhere is another run."""
        rules = (
            RetentionRule("outputs/a/", DAY),
            RetentionRule("inputs/a/", DAY),
            RetentionRule("outputs/b/", DAY),
        )
        spec = spec_of(scopes=("outputs/a/", "inputs/a/", "outputs/b/"), rules=rules)
        judge = Judge(spec, START, owners=Owners(time, {"a/r1": LIVE}), clock=time.monotonic)
        judge.refresh()

        assert reason(judge, "r1") is Reason.KEPT_LIVE
        assert reason(judge, "r1", scope="inputs/a/") is Reason.KEPT_LIVE
        assert reason(judge, "r1", scope="outputs/b/") is Reason.DUE
        assert reason(judge, "r2") is Reason.DUE

    def test_live_ranked_and_orphaned_runs_are_told_apart(self, time):
        """Each by its own reason."""
        judge = judge_of(Owners(time, {"a/r1": LIVE, "a/r2": OwnerFacts(live=False, rank=5), "a/r3": ENDED}))

        assert reason(judge, "r1") is Reason.KEPT_LIVE
        assert reason(judge, "r2") is Reason.KEPT_LAST_RUNS
        assert reason(judge, "r3") is Reason.DUE
        assert reason(judge, "r4") is Reason.KEPT_ORPHAN_GRACE
        assert judge.decide(run("r4")).is_orphan
        assert not judge.decide(run("r3")).is_orphan

    def test_an_owner_that_appears_protects_and_raises_the_version(self, time):
        """Runs that were judged before are to be judged again."""
        owners = Owners(time, {"a/r1": ENDED})
        judge = judge_of(owners)
        version = judge.version
        assert reason(judge) is Reason.DUE

        owners.set(r1=LIVE)
        time.advance(11)
        judge.refresh()

        assert judge.version > version
        assert reason(judge) is Reason.KEPT_LIVE

    def test_an_owner_that_ends_or_vanishes_protects_until_the_end_of_the_pass(self, time):
        """No orphan and no ended run comes into being in the middle of a pass."""
        owners = Owners(time, {"a/r1": LIVE, "a/r2": LIVE, "a/r3": ENDED})
        judge = judge_of(owners)
        version = judge.version

        owners.set(r1=None, r2=ENDED, r3=None)
        for _ in range(2):
            time.advance(11)
            judge.refresh()

        assert reason(judge, "r1") is Reason.KEPT_LIVE
        assert reason(judge, "r2") is Reason.KEPT_LIVE
        assert reason(judge, "r3") is Reason.DUE
        assert not judge.decide(run("r3")).is_orphan
        assert judge.version == version

    def test_a_rank_only_gets_better(self, time):
        """A run that was among the last ones stays, and one that becomes one is kept."""
        owners = Owners(time, {"a/r1": OwnerFacts(live=False, rank=5), "a/r2": ENDED, "a/r3": ENDED})
        judge = judge_of(owners)

        owners.set(r1=ENDED, r2=OwnerFacts(live=False, rank=4), r3=OwnerFacts(live=False))
        time.advance(11)
        judge.refresh()

        assert {reason(judge, name) for name in ("r1", "r2", "r3")} == {Reason.KEPT_LAST_RUNS}

    def test_an_equal_view_changes_nothing(self, time):
        """Neither one of equal version nor one of equal content."""
        owners = Owners(time, {"a/r1": ENDED})
        owners.refer_to("outputs/a/r9/x")
        judge = judge_of(owners)
        version = judge.version

        time.advance(11)
        judge.refresh()
        assert judge.version == version
        owners.version += 1
        time.advance(11)
        judge.refresh()
        assert judge.version == version

    def test_a_first_view_without_owners_is_news_too(self, time):
        """From then on it is known that runs have none."""
        assert judge_of(Owners(time)).version > 0

    @pytest.mark.parametrize(
        ("one", "other", "both"),
        [
            ((True, 3), (False, 2), (True, 2)),
            ((False, 3), (True, 4), (True, 3)),
            ((False, None), (False, 2), (False, None)),
            ((False, 2), (False, None), (False, None)),
            ((False, 2), (False, 2), (False, 2)),
        ],
    )
    def test_of_two_facts_the_more_protective_one_counts(self, one, other, both):
        """Live if either is, the better rank, and no rank if either has none."""
        assert more_protective(OwnerFacts(*one), OwnerFacts(*other)) == OwnerFacts(*both)

    def test_other_clusters_in_the_store_turn_orphan_rules_off(self, time):
        """The judge passes on what it was told."""
        marks = Marks({"outputs/a/r1/": START - timedelta(days=9)})

        assert reason(judge_of(Owners(time), marks=marks, is_shared_store=True)) is Reason.KEPT_SHARED_STORE
        assert reason(judge_of(Owners(time), marks=marks)) is Reason.DUE


class TestReferences:
    """Runs that live owners refer to."""

    def test_they_are_followed_before_the_first_verdict(self, time):
        """A referenced object protects its whole run directory, in any scope; others it leaves alone."""
        owners = Owners(time, {"a/r1": ENDED, "a/r2": ENDED, "a/r3": ENDED, "a/live": LIVE})
        owners.refer_to("outputs/a/live/output.json", "outputs/a/loose", "elsewhere/x/y/z")
        graph = Graph(
            {"outputs/a/live/output.json": ["outputs/a/r1/deep/x"], "outputs/a/r1/deep/x": ["outputs/a/r2/y"]}
        )
        judge = judge_of(owners, follower=graph)

        assert reason(judge, "r1") is Reason.KEPT_REFERENCED
        assert reason(judge, "r2") is Reason.KEPT_REFERENCED
        assert reason(judge, "r3") is Reason.DUE
        assert reason(judge, "r") is Reason.KEPT_ORPHAN_GRACE

    def test_new_references_are_followed_by_the_next_refresh(self, time):
        """Only what is new; before it returns the version has grown."""
        owners = Owners(time, {"a/r1": ENDED})
        owners.refer_to("outputs/a/r5/x")
        graph = Graph({"outputs/a/new/x": ["outputs/a/r1/x"]})
        judge = judge_of(owners, follower=graph)
        version = judge.version

        owners.refer_to("outputs/a/new/x")
        time.advance(11)
        judge.refresh()

        assert graph.asked == [["outputs/a/r5/x"], ["outputs/a/new/x"]]
        assert judge.version > version
        assert reason(judge, "r1") is Reason.KEPT_REFERENCED

    def test_a_reference_that_vanishes_protects_until_the_end_of_the_pass(self, time):
        """Whoever dropped it may still be reading."""
        owners = Owners(time, {"a/r1": ENDED})
        owners.refer_to("outputs/a/r1/x")
        judge = judge_of(owners, follower=Graph())
        version = judge.version

        owners.references.clear()
        owners.version += 1
        time.advance(11)
        judge.refresh()

        assert reason(judge, "r1") is Reason.KEPT_REFERENCED
        assert judge.version == version

    def test_a_reference_to_what_is_protected_already_is_no_news(self, time):
        """Nothing has to be judged again for it."""
        owners = Owners(time)
        owners.refer_to("outputs/a/r1/x")
        judge = judge_of(owners, follower=Graph())
        version = judge.version

        owners.refer_to("outputs/a/r1/y", "elsewhere/z")
        time.advance(11)
        judge.refresh()

        assert judge.version == version

    def test_without_somebody_to_follow_them_they_still_protect_what_they_name(self, time):
        """Less is known, nothing is lost that was named."""
        owners = Owners(time, {"a/r1": ENDED})
        owners.refer_to("outputs/a/r1/x")

        assert reason(judge_of(owners), "r1") is Reason.KEPT_REFERENCED

    def test_following_for_long_makes_a_new_look_necessary(self, time):
        """The owners are looked at again until a look is fresh when everything was followed."""
        owners = Owners(time)
        owners.refer_to("outputs/a/r1/x")
        graph = Graph()
        graph.meanwhile = lambda: time.advance(60)
        judge = judge_of(owners, follower=graph)

        assert judge.is_fresh
        assert len(owners.asked) == 2
        assert len(graph.asked) == 1

    def test_a_document_that_cannot_be_read_ends_the_pass(self, time):
        """What the follower says goes through, and the view does not count as seen."""
        owners = Owners(time)
        owners.refer_to("outputs/a/r1/x")

        class Broken(Graph):
            def follow(self, _paths):
                raise PassStoppedError(StoppedBy.REFERENCES_UNREADABLE, "broken")

        judge = Judge(spec_of(), START, owners=owners, follower=Broken(), clock=time.monotonic)
        with pytest.raises(PassStoppedError, match="broken"):
            judge.refresh()
        assert not judge.is_fresh


class TestMarks:
    """Since when a run has been without an owner."""

    def test_a_run_that_only_the_grace_keeps_is_marked(self, time):
        """Once it is known to have no owner; what else keeps a run makes no mark."""
        marks = Marks()
        rules = (*RULES, RetentionRule("outputs/a/old/", 200 * DAY))
        judge = judge_of(Owners(time, {"a/r2": ENDED, "a/r3": LIVE}), marks=marks, rules=rules)

        assert reason(judge, "r1") is Reason.KEPT_ORPHAN_GRACE
        assert reason(judge, "young", age_days=0.5) is Reason.KEPT_MIN_AGE
        assert reason(judge, "old") is Reason.KEPT_WITHIN
        assert reason(judge, "r2") is Reason.DUE
        assert reason(judge, "r3") is Reason.KEPT_LIVE

        assert marks.wished == [("outputs/a/r1/", False)]
        assert [(name[10:-1], has_owner) for name, has_owner in marks.noted] == [
            ("r1", False),
            ("young", False),
            ("old", False),
            ("r2", True),
            ("r3", True),
        ]

    @pytest.mark.parametrize(
        ("days", "reason_"),
        [(1, Reason.KEPT_ORPHAN_GRACE), (2, Reason.KEPT_ORPHAN_GRACE), (2.001, Reason.DUE)],
    )
    def test_the_mark_decides(self, time, days, reason_):
        """It is not written again while it counts."""
        marks = Marks({"outputs/a/r1/": START - timedelta(days=days)})

        assert reason(judge_of(Owners(time), marks=marks)) is reason_
        assert marks.wished == []

    @pytest.mark.parametrize("age_days", [3, 2.9])
    def test_a_mark_that_is_not_newer_than_the_run_is_written_anew(self, time, age_days):
        """It belongs to an earlier run of the same name."""
        marks = Marks({"outputs/a/r1/": START - timedelta(days=3)})

        assert reason(judge_of(Owners(time), marks=marks), age_days=age_days) is Reason.KEPT_ORPHAN_GRACE
        assert marks.wished == [("outputs/a/r1/", True)]

    @pytest.mark.parametrize(("extra", "is_void"), [(0.0, False), (0.001, True)])
    def test_a_mark_does_not_count_for_ever(self, time, extra, is_void):
        """After the longest grace and thirty days more, nobody knows what happened in between."""
        patient = RetentionRule("outputs/a/other/", None, 5, 9 * DAY)
        age = timedelta(seconds=9 * DAY + MARK_LIFE_SECONDS + extra)
        marks = Marks({"outputs/a/r1/": START - age})
        judge = judge_of(Owners(time), marks=marks, rules=(*RULES, patient))

        assert reason(judge) is (Reason.KEPT_ORPHAN_GRACE if is_void else Reason.DUE)
        assert marks.wished == ([("outputs/a/r1/", True)] if is_void else [])

    def test_a_rule_without_a_grace_does_not_lengthen_the_life_of_marks(self, time):
        """Not by a fraction of a second."""
        rules = (RetentionRule("outputs/a/", None, 5, 0.5), RetentionRule("outputs/a/other/", DAY))
        marks = Marks({"outputs/a/r1/": START - timedelta(seconds=MARK_LIFE_SECONDS + 0.75)})

        assert reason(judge_of(Owners(time), marks=marks, rules=rules)) is Reason.KEPT_ORPHAN_GRACE

    def test_everything_known_counts_together_with_the_mark(self, time):
        """A marked orphan that a live run refers to is kept."""
        owners = Owners(time)
        owners.refer_to("outputs/a/r1/x")
        marks = Marks({"outputs/a/r1/": START - timedelta(days=9)})

        assert reason(judge_of(owners, marks=marks), "r1") is Reason.KEPT_REFERENCED

    def test_without_a_list_of_owners_nothing_is_marked(self, time):
        """Nobody can say that a run has none."""
        marks = Marks()
        judge = Judge(spec_of(rules=RULES), START, owners=Owners(time), marks=marks, clock=time.monotonic)

        assert reason(judge) is Reason.KEPT_NO_OWNER_LIST
        assert reason(Judge(spec_of(rules=RULES), START, marks=marks)) is Reason.KEPT_NO_OWNER_LIST
        assert (marks.noted, marks.wished) == ([], [])
