"""Whole passes over a memory store in fake time: the safety contract line by line."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from bubu_storage.errors import (
    BucketNotFoundError,
    PermissionDeniedError,
    StorageError,
    ThrottledError,
    UnavailableError,
)
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.reasons import PROVISIONAL_REASONS, Reason
from bubu_storage.retention.report import Mode, StoppedBy, Tally
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.spec import RetentionRule
from tests.unit.retention.world import DAY, START, World, spec_of


@pytest.fixture(params=[1, 4], ids=["one by one", "side by side"])
def concurrency(request) -> int:
    """Deletions in flight: what a pass promises does not depend on it."""
    return request.param


@pytest.fixture
def world(concurrency) -> World:
    """An empty store in fake time that deletes in batches."""
    return World(concurrency=concurrency)


@pytest.fixture
def single_world(concurrency) -> World:
    """An empty store in fake time that deletes one by one."""
    return World(batch=False, concurrency=concurrency)


def by_reason(report) -> dict[str, int]:
    """Return objects by reason."""
    return {reason.value: tally.objects for reason, tally in report.by_reason.items()}


def fail(world: World, error: BaseException, *, kind: str, first: int = 0, times: int = 10**9) -> None:
    """Make calls of a kind fail, counted per kind from ``first`` on."""
    seen: Counter[str] = Counter()

    def hook(_index: int, called: str, _keys: tuple[str, ...]) -> None:
        if called == kind:
            seen[kind] += 1
            if first < seen[kind] <= first + times:
                raise error

    world.backend.before = hook


class TestWhatGoes:
    """Decisions as they end up in the store and in the report."""

    def test_old_runs_go_whole_and_the_rest_stays(self, world):
        """The age of a run is that of its newest member."""
        world.fill("outputs/a/old/", 3, 31)
        world.fill("outputs/a/mixed/", 2, 31)
        world.put("outputs/a/mixed/last", 1.5)
        world.put("outputs/a/readme", 99)
        world.put("outputs/b/other", 99)
        world.fill("outputs/ab/run/", 1, 99)

        report = world.run(spec_of())

        assert world.all_keys() == [
            "outputs/a/mixed/last",
            "outputs/a/mixed/o00000",
            "outputs/a/mixed/o00001",
            "outputs/a/readme",
            "outputs/ab/run/o00000",
            "outputs/b/other",
        ]
        assert by_reason(report) == {"Deleted": 3, "KeptWithin": 3, "KeptNotInRun": 1}
        assert (report.deleted, report.kept, report.due) == (Tally(3, 30), Tally(4, 40), Tally(3, 30))
        assert report.stopped_by is StoppedBy.END_OF_CYCLE
        assert report.complete_cycle
        assert report.cursor == Cursor()
        assert report.mode is Mode.ENFORCE

    def test_every_kept_kind_is_told_apart(self, world):
        """One object for each reason that an object can be kept for in a calm pass."""
        scope = "outputs/a/"
        world.put(scope + "young/x", 0.5)
        world.put(scope + "within/x", 10)
        world.put(scope + "future/x", -2)
        world.put(scope + "future/y", 90)
        world.put(scope + "undated/x", 90)
        world.store.set_last_modified(scope + "undated/x", datetime(1970, 1, 1, tzinfo=UTC))
        world.put(scope + ".bubu/x", 90)
        world.put(scope + "run/.bubu/x", 90)
        world.put(scope + "loose", 90)
        world.put("inputs/a/run/x", 90)

        report = world.run(spec_of(scopes=("outputs/a/", "inputs/a/")))

        assert by_reason(report) == {
            "KeptMinAge": 1,
            "KeptWithin": 1,
            "KeptFutureDate": 2,
            "KeptUnknownDate": 1,
            "KeptReserved": 2,
            "KeptNotInRun": 1,
            "KeptNoRule": 1,
        }
        assert world.backend.deletions == []

    def test_the_reserved_area_is_never_listed(self, world):
        """No request ever has a prefix that covers it."""
        world.put(".bubu/claim", 99)
        world.fill("outputs/a/run/", 2, 99)
        world.run(spec_of())

        listed = [key for request in world.backend.requests for key in request.keys]
        assert not [key for key in listed if key.startswith(".bubu/")]
        assert world.all_keys() == [".bubu/claim"]

    def test_ages_go_by_the_clock_of_the_store(self, world):
        """A local clock that is a month ahead or behind changes nothing but the reported skew."""
        world.fill("outputs/a/run/", 1, 29)
        ahead = lambda: world.time.now() + timedelta(days=30)  # noqa: E731  # a clock is a callable
        behind = lambda: world.time.now() - timedelta(days=30)  # noqa: E731  # a clock is a callable

        kept = world.run(spec_of(), wall_clock=ahead)
        world.put("outputs/a/run/o00000", 31)
        gone = world.run(spec_of(), wall_clock=behind)

        assert by_reason(kept) == {"KeptWithin": 1}
        assert kept.clock_skew_seconds == pytest.approx(-30 * DAY, abs=1)
        assert by_reason(gone) == {"Deleted": 1}
        assert gone.clock_skew_seconds == pytest.approx(30 * DAY, abs=1)
        assert gone.server_time == pytest.approx(world.time.now(), abs=timedelta(seconds=1))

    def test_a_marker_object_is_a_member_of_its_run(self, world):
        """``run/`` itself goes with the run; the scope's own marker stays."""
        world.put("outputs/a/", 99)
        world.put("outputs/a/run/", 99)
        world.put("outputs/a/run/x", 99)
        world.run(spec_of())

        assert world.all_keys() == ["outputs/a/"]

    def test_overdue_is_about_what_is_still_there(self, world):
        """What went is only in the lag; what failed is overdue until it is gone."""
        world.put("outputs/a/r1/x", 40)
        world.put("outputs/a/r2/x", 35)
        world.backend.refuse = lambda key: PermissionDeniedError("no") if "/r2/" in key else None

        report = world.run(spec_of())

        assert report.worst_lag_seconds == pytest.approx(10 * DAY, abs=5)
        assert report.oldest_overdue_seconds == pytest.approx(5 * DAY, abs=5)
        assert report.oldest_overdue_key == "outputs/a/r2/"
        world.backend.refuse = lambda _key: None
        assert world.run(spec_of()).oldest_overdue_seconds is None

    def test_outcomes_of_runs_are_told(self, world):
        """A plan can list what each run's fate is and why."""
        world.fill("outputs/a/r1/", 2, 40)
        world.fill("outputs/a/r2/", 1, 3)
        world.run(spec_of())

        told = [(outcome.prefix, outcome.reason, outcome.objects) for outcome in world.outcomes]
        assert told == [
            ("outputs/a/r1/", Reason.DELETED, 2),
            ("outputs/a/r2/", Reason.KEPT_WITHIN, 1),
        ]
        assert world.outcomes[0].overdue_seconds == pytest.approx(10 * DAY, abs=5)


class TestLimits:
    """Never more than allowed, and still everything in the end."""

    def test_the_store_is_never_asked_for_more_than_max_scan(self, world):
        """Page sizes are bounded by what is left of the scan."""
        for number in range(9):
            world.fill(f"outputs/a/r{number}/", 1, 3)
        report = world.run(spec_of(max_scan=4))

        assert report.stopped_by is StoppedBy.MAX_SCAN
        assert report.scanned == world.backend.scanned == 4
        assert max(request.page_size for request in world.backend.requests) == 4
        assert report.cursor.after == "outputs/a/r2/o00000"

    def test_a_cycle_resumes_where_it_stopped_and_wraps_around(self, world):
        """Each object is seen, in order, and the cycle after begins at the start."""
        for number in range(9):
            world.fill(f"outputs/a/r{number}/", 1, 3)
        reports = world.cycle(spec_of(max_scan=4))

        assert sum(report.kept.objects for report in reports) >= 9
        assert world.cursor.is_start
        assert [outcome.prefix for outcome in world.outcomes] == [f"outputs/a/r{n}/" for n in range(9)]

    def test_a_run_that_does_not_fit_any_more_is_left_to_the_next_pass(self, world):
        """Deleted whole, or not at all in this pass."""
        for number in range(3):
            world.fill(f"outputs/a/r{number}/", 4, 40)

        report = world.run(spec_of(max_delete=10))

        assert report.stopped_by is StoppedBy.MAX_DELETE
        assert world.all_keys() == [f"outputs/a/r2/o{n:05}" for n in range(4)]
        assert by_reason(report) == {"Deleted": 8, "DueDeferred": 4}
        assert (report.attempted, report.deleted.objects) == (8, 8)
        assert report.cursor == Cursor("outputs/a/r1/o00003", cycle=report.cycle)
        assert report.oldest_overdue_key == "outputs/a/r2/"
        assert "'outputs/a/r2/' has 4 objects" in report.message
        assert world.run(spec_of(max_delete=10)).deleted.objects == 4

    def test_a_run_larger_than_max_delete_goes_in_instalments(self, world):
        """The cursor carries how far it got; each pass stays within its limits."""
        world.fill("outputs/a/big/", 25, 40)
        world.fill("outputs/a/next/", 1, 40)
        spec = spec_of(max_delete=10, max_scan=100)

        reports = world.cycle(spec)

        assert [report.deleted.objects for report in reports] == [10, 10, 6]
        assert [report.stopped_by for report in reports[:2]] == [StoppedBy.MAX_DELETE] * 2
        assert all(report.relisted <= 25 for report in reports)
        assert reports[0].cursor.run.phase is Phase.SWEEPING
        assert reports[0].cursor.run.position == "outputs/a/big/o00009"
        assert world.all_keys() == []

    @pytest.mark.parametrize(("max_scan", "max_delete"), [(1, 1), (1, 5), (3, 2), (7, 100), (20, 1)])
    def test_a_run_larger_than_max_scan_goes_in_a_bounded_number_of_passes(self, world, max_scan, max_delete):
        """Scanned over several passes, then deleted over several; also with the smallest limits."""
        world.fill("outputs/a/big/", 20, 40)
        world.fill("outputs/a/young/", 3, 1)
        spec = spec_of(max_delete=max_delete, max_scan=max_scan)

        reports = world.cycle(spec, most_passes=70)

        assert world.all_keys() == [f"outputs/a/young/o{n:05}" for n in range(3)]
        assert all(report.scanned <= max_scan for report in reports)
        assert all(report.attempted <= max_delete for report in reports)

    def test_a_young_member_at_the_end_of_a_large_run_keeps_all_of_it(self, world):
        """Nothing is deleted before the run was seen to its end, however many passes that takes."""
        world.fill("outputs/a/big/", 20, 40)
        world.put("outputs/a/big/zzz", 0.5)

        reports = world.cycle(spec_of(max_scan=3, max_delete=2))

        assert world.backend.deletions == []
        assert by_reason(reports[-1])["KeptMinAge"] == 21

    def test_a_run_left_unfinished_is_reported_as_kept(self, world):
        """The members seen so far are neither decided nor lost."""
        world.fill("outputs/a/big/", 20, 40)
        report = world.run(spec_of(max_scan=5))

        assert by_reason(report) == {"KeptRunIncomplete": 5}
        assert report.cursor.run.phase is Phase.SCANNING
        assert report.cursor.run.position == "outputs/a/big/o00004"

    def test_failures_count_as_deletions(self, world):
        """A store that refuses is not asked more often than one that obeys."""
        for number in range(10):
            world.put(f"outputs/a/r{number}/x", 40)
        world.backend.refuse = lambda _key: PermissionDeniedError("no")

        report = world.run(spec_of(max_delete=4))

        assert report.attempted == len(world.backend.deletions) == 4
        assert by_reason(report) == {"DeleteFailed": 4, "DueDeferred": 1}

    def test_the_time_budget_ends_a_pass_between_requests(self, world):
        """What was decided is kept; the next pass goes on."""
        for number in range(2000):
            world.put(f"outputs/a/r{number:05}/x", 3)
        world.backend.latency_seconds = 2.0

        report = world.run(spec_of(budget_seconds=5, max_scan=5000))

        assert report.stopped_by is StoppedBy.BUDGET_SECONDS
        assert report.scanned == 2000
        assert report.cursor.after == "outputs/a/r01998/x"
        assert report.duration_seconds < 5 + 2.0

    def test_the_request_rate_holds_over_all_kinds_of_requests(self, single_world):
        """Listings and single deletions share one cap."""
        single_world.fill("outputs/a/run/", 12, 40)
        report = single_world.run(spec_of(requests_per_second=4, budget_seconds=600))

        times = [request.at for request in single_world.backend.requests]
        assert report.deleted.objects == 12
        assert report.requests >= len(times)
        for first in range(len(times)):
            for last in range(first + 1, len(times)):
                assert last - first <= (times[last] - times[first]) * 4 + 1e-6

    def test_the_caller_can_stop_a_pass(self, world):
        """Asked between requests; the cursor is good."""
        for number in range(6):
            world.fill(f"outputs/a/r{number}/", 1, 40)
        report = world.run(spec_of(), should_stop=lambda: world.backend.calls >= 2)

        assert report.stopped_by is StoppedBy.STOPPED
        assert world.backend.calls == 2
        assert by_reason(report) == {"DueDeferred": 5}
        assert world.run(spec_of()).deleted.objects == 6


class TestCheckpoints:
    """The cursor that may be stored at any time."""

    def test_a_checkpoint_follows_every_page_and_batch(self, world):
        """So a kill costs at most one page of scanning again."""
        for number in range(2500):
            world.put(f"outputs/a/r{number:05}/x", 3)
        world.run(spec_of(max_scan=10_000))

        scanned = [report.scanned for report in world.checkpoints]
        assert all(later - earlier <= 1000 for earlier, later in pairwise(scanned))
        assert all(report.finished_at is None and report.stopped_by is None for report in world.checkpoints)
        positions = [report.cursor.run.position for report in world.checkpoints if report.cursor.run]
        assert positions == [f"outputs/a/r{n:05}/x" for n in (999, 1999, 2499)]

    def test_a_stop_in_the_middle_of_a_run_is_where_the_next_pass_goes_on(self, single_world):
        """The cursor tells the last member that was dealt with."""
        world = single_world
        keys = world.fill("outputs/a/run/", 6, 40)
        world.fill("outputs/a/young/", 1, 0.5)
        report = world.run(spec_of(), should_stop=lambda: len(world.backend.deletions) == 2)

        assert by_reason(report) == {"Deleted": 2, "DueDeferred": 4}
        assert (report.cursor.run.phase, report.cursor.run.position) == (Phase.SWEEPING, keys[1])
        assert world.run(spec_of()).deleted.objects == 4

    def test_a_cursor_in_the_middle_of_a_run_does_not_judge_its_rest(self, world):
        """Old-dated members that appear behind a decided run wait for the next cycle."""
        world.put("outputs/a/run/a", 0.5)
        world.cursor = Cursor("outputs/a/run/a")
        world.put("outputs/a/run/b", 99)

        report = world.run(spec_of())
        again = world.run(spec_of())

        assert by_reason(report) == {"KeptRunTail": 1}
        assert by_reason(again) == {"KeptMinAge": 2}

    def test_a_cursor_of_other_scopes_is_only_a_position(self, world):
        """A changed policy goes on behind the key, and forgets the run it was in."""
        world.put("outputs/a/zz/x", 40)
        facts = RunFacts("elsewhere/run/", 5, 5, START - timedelta(days=99), complete=True)
        world.cursor = Cursor("outputs/a/m", RunProgress(facts, Phase.SWEEPING, "elsewhere/run/x"))

        assert world.run(spec_of()).deleted.objects == 1
        assert world.backend.deletions == ["outputs/a/zz/x"]

    def test_a_cursor_for_a_part_of_a_run_does_not_judge_by_the_part(self, world):
        """Scopes that became wider: what was a run is now a folder of one, and a sibling keeps it."""
        world.fill("outputs/a/run/sub/", 3, 40)
        world.put("outputs/a/run/young", 0.5)
        facts = RunFacts("outputs/a/run/sub/", 3, 30, START - timedelta(days=40), complete=True)
        world.cursor = Cursor("outputs/a/", RunProgress(facts, Phase.SWEEPING))

        report = world.run(spec_of())

        assert by_reason(report) == {"KeptMinAge": 4}
        assert world.backend.deletions == []

    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize("odd", ["undated", "reserved"])
    def test_odd_members_keep_a_run_also_when_an_earlier_pass_saw_them(self, world, odd, dry_run):
        """What the first pass learned of a run is still known to the last."""
        world.fill("outputs/a/run/", 9, 40)
        if odd == "undated":
            world.store.set_last_modified("outputs/a/run/o00000", datetime(1970, 1, 1, tzinfo=UTC))
        else:
            world.put("outputs/a/run/.bubu/x", 40)
        reports = world.cycle(spec_of(max_scan=4, max_delete=3, dry_run=dry_run))

        name = {"undated": "KeptUnknownDate", "reserved": "KeptReserved"}[odd]
        assert by_reason(reports[-1]) == {name: len(world.all_keys())}
        assert world.backend.deletions == []

    def test_a_cursor_behind_everything_ends_the_cycle(self, world):
        """And the one after begins at the start."""
        world.put("outputs/a/r/x", 40)
        world.cursor = Cursor("zzz")

        assert world.run(spec_of()).complete_cycle
        assert world.run(spec_of()).deleted.objects == 1

    def test_rules_that_changed_meanwhile_decide(self, world):
        """A run in the middle of its deletion is judged by the present rules."""
        world.fill("outputs/a/big/", 9, 40)
        world.run(spec_of(max_delete=4))
        longer = spec_of(rules=(RetentionRule("outputs/a/", 50 * DAY),), max_delete=4)

        reports = world.cycle(longer)

        assert len(world.all_keys()) == 5
        assert by_reason(reports[-1]) == {"KeptWithin": 5}

    def test_a_small_unfinished_run_is_scanned_anew_by_the_next_pass(self, world):
        """So that it need not be listed twice; never the run that a pass began with."""
        world.fill("outputs/a/r1/", 8, 40)
        world.fill("outputs/a/r2/", 4, 40)
        report = world.run(spec_of(max_scan=10))

        assert by_reason(report) == {"Deleted": 8, "KeptRunIncomplete": 2}
        assert report.cursor == Cursor("outputs/a/r1/o00007", cycle=report.cycle)
        assert world.run(spec_of(max_scan=10)).relisted == 0

    def test_a_large_unfinished_run_is_not_scanned_anew(self, world):
        """At most a page is ever scanned a second time."""
        world.fill("outputs/a/r1/", 1, 3)
        keys = world.fill("outputs/a/r2/", 3000, 40)

        assert world.run(spec_of(max_scan=2000)).cursor.run.position == keys[1998]

    def test_a_pass_that_is_always_stopped_early_still_gets_on(self, world):
        """One page a pass, in the middle of the run that it began with: the next goes on there."""
        keys = world.fill("outputs/a/run/", 1500, 40)
        report = world.run(spec_of(max_scan=10_000), should_stop=lambda: world.backend.calls == 2)

        assert report.stopped_by is StoppedBy.STOPPED
        assert report.cursor.run.position == keys[999]


class TestFreshness:
    """Deletions are based on what was listed a moment ago, or the run is looked at again."""

    def interfere(self, world: World, at_call: int, action) -> None:
        """Do something right before a call."""

        def hook(index: int, _kind: str, _keys: tuple[str, ...]) -> None:
            if index == at_call:
                action()

        world.backend.before = hook

    def test_a_listing_that_has_become_old_is_made_again(self, world):
        """A young member that arrived behind the listing saves the whole run."""
        world.fill("outputs/a/run/", 1500, 40)

        def stall(report) -> None:
            if report.scanned == 1000:
                world.time.advance(8)
                world.put("outputs/a/run/late", 0)

        report = world.run(spec_of(max_delete=10_000, max_scan=10_000), on_checkpoint=stall)

        assert by_reason(report) == {"KeptNewerMember": 1500}
        assert report.relisted == 1000, "the look ends at the first page that shows a young member"
        assert world.backend.deletions == []

    def test_a_listing_of_a_moment_ago_is_good_enough(self, world):
        """No second listing where the first has just been made: that would double the cost."""
        for number in range(30):
            world.fill(f"outputs/a/r{number}/", 100, 40)
        report = world.run(spec_of(max_delete=10_000, max_scan=10_000))

        assert (report.deleted.objects, report.relisted) == (3000, 0)
        assert report.requests <= 1 + 5 + 5

    def test_a_queue_that_has_become_old_is_looked_at_again(self, single_world):
        """Single deletions are slow: runs further down the queue are listed again, and spared if young."""
        world = single_world
        world.backend.latency_seconds = 1.0
        for name in ("r1", "r2", "r3"):
            world.fill(f"outputs/a/{name}/", 6, 40)

        def act() -> None:
            world.put("outputs/a/r3/late", 0)

        self.interfere(world, 6, act)
        report = world.run(spec_of(budget_seconds=600))

        assert world.all_keys() == ["outputs/a/r3/late", *[f"outputs/a/r3/o{n:05}" for n in range(6)]]
        assert by_reason(report) == {"Deleted": 12, "KeptNewerMember": 6}
        assert report.relisted >= 6
        outcome = world.outcomes[-1]
        assert (outcome.prefix, outcome.reason, outcome.objects) == (
            "outputs/a/r3/",
            Reason.KEPT_NEWER_MEMBER,
            6,
        )

    @pytest.mark.parametrize("late", ["!first", "zzz"])
    def test_a_run_whose_deletion_takes_long_is_looked_at_in_between(self, single_world, late):
        """Wherever in the run the young member turns up, it saves what is left."""
        world = single_world
        world.backend.latency_seconds = 3.0
        world.fill("outputs/a/run/", 12, 40)
        facts = RunFacts("outputs/a/run/", 12, 120, START - timedelta(days=40), complete=True)
        world.cursor = Cursor("", RunProgress(facts, Phase.SWEEPING))
        self.interfere(world, 4, lambda: world.put(f"outputs/a/run/{late}", 0))

        report = world.run(spec_of(budget_seconds=600))

        assert 0 < report.deleted.objects < 8
        assert by_reason(report)["KeptNewerMember"] >= 12 - 8
        assert f"outputs/a/run/{late}" in world.all_keys()

    def test_a_run_that_grew_beyond_what_is_left_is_not_begun(self, single_world):
        """Old-dated members that arrived meanwhile: the run goes whole in the next pass."""
        world = single_world
        world.backend.latency_seconds = 3.0
        world.fill("outputs/a/r1/", 6, 40)
        world.fill("outputs/a/r2/", 4, 40)
        world.fill("outputs/a/r3/", 1, 3)

        def grow() -> None:
            world.put("outputs/a/r2/p", 40)
            world.put("outputs/a/r2/q", 40)

        self.interfere(world, 6, grow)
        spec = spec_of(budget_seconds=600, max_delete=10)
        report = world.run(spec)

        assert (report.stopped_by, report.deleted.objects) == (StoppedBy.MAX_DELETE, 6)
        assert len(world.all_keys("outputs/a/r2/")) == 6
        assert world.run(spec).deleted.objects == 6

    def test_a_run_that_cannot_be_looked_at_whole_any_more_is_left(self, world):
        """The next pass has the scan for it; what changed meanwhile is seen there."""
        world.fill("outputs/a/r0/", 3, 3)
        keys = world.fill("outputs/a/r1/", 6, 40)
        world.fill("outputs/a/r2/", 3, 3)
        spec = spec_of(max_scan=8)
        assert world.run(spec).cursor.run.position == keys[4]
        world.put(keys[4], 0)

        report = world.run(spec)

        assert (report.stopped_by, report.relisted) == (StoppedBy.MAX_SCAN, 4)
        assert world.backend.deletions == []
        assert by_reason(world.run(spec))["KeptNewerMember"] == 6
        assert world.all_keys("outputs/a/r1/") == keys

    def test_what_is_new_in_a_run_that_is_being_deleted_survives(self, world):
        """Deletion is by exact key: an object that was never listed is never deleted."""
        world.fill("outputs/a/run/", 3, 40)
        self.interfere(world, 2, lambda: world.put("outputs/a/run/new", 0))

        world.run(spec_of())

        assert "outputs/a/run/new" in world.all_keys()

    def test_what_an_earlier_pass_saw_is_looked_at_again(self, world):
        """A member that was overwritten after its page was scanned saves the run."""
        keys = world.fill("outputs/a/big/", 8, 40)
        spec = spec_of(max_scan=7, max_delete=3)
        world.run(spec)
        world.put(keys[5], 0)

        world.cycle(spec)

        assert world.all_keys() == keys

    def test_a_large_run_is_looked_at_before_every_instalment(self, world):
        """A young member ahead of the position saves what is left."""
        world.fill("outputs/a/big/", 30, 40)
        spec = spec_of(max_delete=10)
        world.run(spec)
        world.put("outputs/a/big/zzz", 0)

        report = world.run(spec)

        assert by_reason(report)["KeptNewerMember"] == 21
        assert len(world.all_keys("outputs/a/big/")) == 21

    def test_a_young_member_behind_the_position_saves_the_rest_too(self, world):
        """The look begins at the start of the run, not at the position."""
        world.fill("outputs/a/big/", 30, 40)
        spec = spec_of(max_delete=10)
        world.run(spec)
        world.put("outputs/a/big/a", 0)

        report = world.run(spec)

        assert by_reason(report)["KeptNewerMember"] == 21
        assert len(world.all_keys("outputs/a/big/")) == 21

    @pytest.mark.parametrize("max_scan", [6, 100])
    def test_members_that_cannot_be_deleted_do_not_block_a_large_run(self, world, max_scan):
        """More failing keys at its start than a pass may scan: the others still go."""
        keys = world.fill("outputs/a/big/", 40, 40)
        world.backend.refuse = lambda key: PermissionDeniedError("no") if key < keys[15] else None

        reports = world.cycle(spec_of(max_scan=max_scan, max_delete=4), most_passes=60)

        assert world.all_keys() == keys[:15]
        assert sum(report.failed.objects for report in reports) == 15
        assert any(report.errors for report in reports)
        assert max(Counter(world.backend.deletions).values()) == 1

    @pytest.mark.parametrize(("objects", "max_scan", "budget"), [(2500, 5000, 100), (6000, 4000, 1000)])
    def test_a_slow_store_is_not_listed_for_ever(self, world, objects, max_scan, budget):
        """Pages that take longer than freshness lasts still lead to deletions."""
        world.fill("outputs/a/big/", objects, 40)
        world.backend.latency_seconds = 9.0
        spec = spec_of(max_scan=max_scan, max_delete=1000, budget_seconds=budget)

        world.cycle(spec, most_passes=20)

        assert world.all_keys() == []

    def test_a_low_request_rate_is_not_the_end_of_deleting(self, world):
        """One request in ten seconds: each listing is older than freshness, and it still goes on."""
        for name in ("r1", "r2"):
            world.fill(f"outputs/a/{name}/", 3, 40)
        world.cycle(spec_of(requests_per_second=0.1, budget_seconds=60), most_passes=10)

        assert world.all_keys() == []


class TestErrors:
    """A store that fails ends the pass in good order."""

    @pytest.mark.parametrize("error", [UnavailableError("down"), PermissionDeniedError("no ListBucket")])
    def test_a_listing_that_fails_in_the_middle_deletes_nothing_more(self, world, error):
        """The cursor stands at the last decided key, and the next pass goes on."""
        for number in range(30):
            world.put(f"outputs/a/r{number:02}/x", 40)
        world.backend.refuse = lambda _key: None
        fail(world, error, kind="list", first=1)

        report = world.run(spec_of(max_delete=1000))

        assert report.stopped_by is StoppedBy.STORE_ERROR
        assert report.errors[0].message == str(error)
        assert world.all_keys() == ["outputs/a/r29/x"], "the open run was not judged"
        assert report.cursor.after == "outputs/a/r28/x"
        world.backend.before = lambda *_: None
        assert world.run(spec_of()).deleted.objects == 1

    def test_a_store_without_a_clock_deletes_nothing(self, world):
        """No ages without the store's time: the pass ends before anything is listed."""
        world.put("outputs/a/r/x", 40)
        fail(world, UnavailableError("down"), kind="server_time")

        report = world.run(spec_of())

        assert report.stopped_by is StoppedBy.STORE_ERROR
        assert report.server_time is None
        assert "does not tell its time" in report.message
        assert [request.kind for request in world.backend.requests] == []

    def test_a_missing_bucket_ends_the_pass(self, world):
        """The cursor does not move over keys that were not dealt with, not even by what comes after."""
        world.put("outputs/a/r/x", 40)
        world.put("outputs/a/s/x", 3)
        world.put("outputs/a/t", 3)
        fail(world, BucketNotFoundError("no bucket"), kind="batch")

        report = world.run(spec_of())

        assert report.stopped_by is StoppedBy.STORE_ERROR
        assert report.cursor.after == ""
        assert report.errors[0].error == "BucketNotFoundError"

    def test_a_throttling_store_is_waited_for(self, world):
        """Each kind of request backs off and goes on."""
        world.fill("outputs/a/r/", 3, 40)
        seen: Counter[str] = Counter()

        def throttle(_index: int, kind: str, _keys: tuple[str, ...]) -> None:
            seen[kind] += 1
            if seen[kind] == 1:
                raise ThrottledError("slow down", retry_after_seconds=1)

        world.backend.before = throttle
        report = world.run(spec_of())

        assert report.deleted.objects == 3
        assert sum(world.time.slept) == 3

    @pytest.mark.parametrize("kind", ["server_time", "list", "batch"])
    def test_a_store_that_keeps_throttling_is_left_alone(self, world, kind):
        """The pass ends with the reason, and nothing is lost."""
        world.fill("outputs/a/r/", 3, 40)
        fail(world, ThrottledError("slow down"), kind=kind)

        report = world.run(spec_of())

        assert report.stopped_by is StoppedBy.THROTTLED
        assert len(world.all_keys()) == 3
        world.backend.before = lambda *_: None
        assert world.run(spec_of()).deleted.objects == 3

    def test_failed_keys_are_reported_and_tried_again_next_cycle(self, world):
        """Ten samples at most, all of them counted; the cursor moves on."""
        for number in range(15):
            world.put(f"outputs/a/r{number:02}/x", 40)
        world.backend.refuse = lambda key: PermissionDeniedError(f"no: {key}")

        report = world.run(spec_of())

        assert by_reason(report) == {"DeleteFailed": 15}
        assert (report.error_count, len(report.errors)) == (15, 10)
        assert report.errors[0].key == "outputs/a/r00/x"
        assert report.complete_cycle
        world.backend.refuse = lambda _key: None
        assert world.run(spec_of()).deleted.objects == 15

    def test_an_error_of_a_callback_is_not_swallowed(self, world):
        """The caller's own faults are the caller's."""
        world.put("outputs/a/r/x", 40)

        def broken(_report) -> None:
            raise RuntimeError("cannot store the cursor")

        with pytest.raises(RuntimeError, match="cannot store"):
            world.run(spec_of(), on_checkpoint=broken)


class LyingStore:
    """Wraps a watched store and lies in its listings."""

    def __init__(self, world: World, lie) -> None:
        self.inner = world.backend
        self.lie = lie
        self.name = "lying://"
        self.server_time = world.backend.server_time
        self.delete_object = world.backend.delete_object
        self.delete_objects = world.backend.delete_objects

    def list_objects(self, prefix: str = "", *, start_after: str = "", page_size: int = 1000):
        """Lie about a listing."""
        pages = self.inner.list_objects(prefix, start_after=start_after, page_size=page_size)
        yield from self.lie(pages)


class TestLies:
    """Servers that answer wrongly cost time, not data."""

    def test_a_list_that_ends_early_does_not_hide_young_members(self, world):
        """The first listing stops within a run; its young members are found by asking again."""
        world.fill("outputs/a/run/", 5, 40)
        world.put("outputs/a/run/zz", 0)
        told = 0

        def short(pages):
            nonlocal told
            told += 1
            for page in pages:
                yield type(page)(page.objects[:3]) if told == 1 else page
                if told == 1:
                    return

        world.backend = LyingStore(world, short)
        report = world.run(spec_of())

        assert by_reason(report) == {"KeptMinAge": 6}

    def test_a_listing_out_of_order_deletes_nothing(self, world):
        """Directory order instead of byte order: the pass refuses to act on it."""
        world.fill("outputs/a/r1/", 3, 40)
        world.fill("outputs/a/r2/", 3, 40)

        def reverse(pages):
            for page in pages:
                yield type(page)(page.objects[::-1])

        watched, world.backend = world.backend, LyingStore(world, reverse)
        report = world.run(spec_of())

        assert report.stopped_by is StoppedBy.BAD_LISTING
        assert watched.deletions == []
        assert report.cursor == Cursor()
        assert "must ascend in byte order" in report.message

    def test_a_server_that_ignores_start_after_is_noticed(self, world):
        """It would repeat its first page for ever."""
        for number in range(5):
            world.put(f"outputs/a/r{number}/x", 3)
        inner = world.backend

        class Forgetful(LyingStore):
            def list_objects(self, prefix="", *, start_after="", page_size=1000):
                del start_after
                yield from inner.list_objects(prefix, start_after="", page_size=page_size)

        world.backend = Forgetful(world, None)
        world.cursor = Cursor("outputs/a/r2/x")

        assert world.run(spec_of()).stopped_by is StoppedBy.BAD_LISTING


class TestDryRun:
    """Reports what Enforce would do, and writes nothing."""

    def test_nothing_is_written(self, world):
        """Only reading requests are sent, and the store is byte for byte the same."""
        world.fill("outputs/a/old/", 5, 40)
        world.fill("outputs/a/new/", 5, 0.5)
        before = world.listed()

        report = world.run(spec_of(dry_run=True))

        assert world.listed() == before
        assert {request.kind for request in world.backend.requests} == {"server_time", "list"}
        assert by_reason(report) == {"Due": 5, "KeptMinAge": 5}
        assert (report.mode, report.attempted) == (Mode.DRY_RUN, 0)
        assert report.oldest_overdue_key == "outputs/a/old/"

    def test_max_delete_does_not_hold_up_a_report(self, world):
        """All that is due is counted: that is the base of a share of the whole."""
        for number in range(9):
            world.put(f"outputs/a/r{number}/x", 40)

        assert world.run(spec_of(dry_run=True, max_delete=2)).due.objects == 9

    def test_a_cycle_counts_every_object_once(self, world):
        """Over the passes of a cycle the final reasons add up to the store."""
        for number in range(7):
            world.fill(f"outputs/a/r{number}/", 5, 10 * number)
        for dry_run in (True, False):
            total = len(world.all_keys())
            reports = world.cycle(spec_of(dry_run=dry_run, max_scan=8, max_delete=6))
            final = set(Reason) - PROVISIONAL_REASONS
            assert sum(report.total(final).objects for report in reports) == total


def test_errors_never_show_what_is_not_in_their_message(world):
    """Samples hold class, key and message; not the request or its headers."""
    error = StorageError("put failed", code="InternalError")
    error.__cause__ = RuntimeError("Authorization: AWS4 planted-secret")
    world.put("outputs/a/r/x", 40)
    world.backend.refuse = lambda _key: error

    assert "planted-secret" not in str(world.run(spec_of()).to_dict())
