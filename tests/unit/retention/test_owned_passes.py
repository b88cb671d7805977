"""Whole passes where owners are known: marks, references and live runs, with crashes and limits."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from bubu_storage.errors import (
    OwnersUnknownError,
    PermissionDeniedError,
    ThrottledError,
    UnsupportedOperationError,
)
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.mark_keys import MARKS_PREFIX, mark_key, run_of_mark
from bubu_storage.retention.owners import OwnerFacts
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.references import ReferenceCache
from bubu_storage.retention.report import PassReport, StoppedBy, Tally
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.testing.fakes import CountingBackend, FaultBackend, SimulatedCrash, crash_points
from tests.unit.retention.test_judge import ENDED, LIVE, Owners
from tests.unit.retention.world import DAY, World, spec_of

GRACE = 2 * DAY
RULE = RetentionRule("outputs/a/", None, 5, GRACE)


def orphan_spec(**changes: object) -> PassSpec:
    """Return an enforcing pass whose rule keeps five runs of each story and lets orphans go."""
    return spec_of(**{"rules": (RULE,)} | changes)


class OwnedWorld(World):
    """A world in which somebody knows the owners."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.owners = Owners(self.time)

    def run(self, spec: PassSpec, **options: object) -> PassReport:
        """Run one pass that knows the owners."""
        return super().run(spec, **{"owners": self.owners} | options)

    def marks(self) -> list[str]:
        """Return the runs that have a mark."""
        return [key[len(MARKS_PREFIX) : -len("mark")] for key in self.all_keys(MARKS_PREFIX)]

    def data(self) -> list[str]:
        """Return the keys that are data."""
        return [key for key in self.all_keys() if not key.startswith(".bubu/")]

    def mark(self, run_prefix: str, age_days: float) -> None:
        """Mark a run as if so long ago."""
        self.put(mark_key(run_prefix), age_days)

    def requests_of(self, *kinds: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return what was asked of the store."""
        return [(request.kind, request.keys) for request in self.backend.requests if request.kind in kinds]


@pytest.fixture
def owned() -> OwnedWorld:
    """An empty store with known owners."""
    return OwnedWorld()


def test_a_mark_lies_beside_its_run_in_the_reserved_area():
    """Its key tells the run; nothing else is taken for a mark."""
    key = mark_key("outputs/a/r1/")

    assert key == ".bubu/retention/marks/outputs/a/r1/mark"
    assert run_of_mark(key, "outputs/a/") == "outputs/a/r1/"
    for other in (
        key + "x",
        key[:-5] + "xmark",
        mark_key("outputs/a/"),
        mark_key("outputs/a/r1/x/"),
        mark_key("outputs/b/r1/"),
        "x" + key,
        ".bubu/retention/marks/mark",
    ):
        assert run_of_mark(other, "outputs/a/") == ""


class TestLifeOfAnOrphan:
    """From the first observation without an owner to the end of its data."""

    def test_it_is_marked_first_and_goes_after_the_grace(self, owned):
        """Two complete observations, more than the grace apart; then nothing of it is left."""
        owned.fill("outputs/a/r1/", 3, 40)

        first = owned.run(orphan_spec())
        assert first.by_reason == {Reason.KEPT_ORPHAN_GRACE: Tally(3, 30)}
        assert first.orphans == Tally(3, 30)
        assert owned.marks() == ["outputs/a/r1/"]

        owned.time.advance(GRACE - 60)
        second = owned.run(orphan_spec())
        assert second.by_reason == {Reason.KEPT_ORPHAN_GRACE: Tally(3, 30)}
        assert [kind for kind, _ in owned.requests_of("put")] == ["put"]

        owned.time.advance(120)
        last = owned.run(orphan_spec())
        assert last.deleted == last.orphans == Tally(3, 30)
        assert owned.all_keys() == []

    def test_an_owner_that_comes_back_takes_the_mark_away(self, owned):
        """If it goes again, the grace begins anew."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.run(orphan_spec())
        owned.owners.set(r1=replace(ENDED, rank=1))
        owned.time.advance(GRACE)

        assert owned.run(orphan_spec()).by_reason == {Reason.KEPT_LAST_RUNS: Tally(1, 10)}
        assert owned.marks() == []

        owned.owners.set(r1=None)
        owned.time.advance(GRACE)
        assert owned.run(orphan_spec()).by_reason == {Reason.KEPT_ORPHAN_GRACE: Tally(1, 10)}
        assert owned.marks() == ["outputs/a/r1/"]

    def test_a_mark_that_outlived_its_run_does_not_shorten_the_grace_of_the_next(self, owned):
        """A run of the same name is younger than the mark; it is marked anew when its owner goes."""
        owned.mark("outputs/a/r1/", 100)
        owned.fill("outputs/a/r1/", 1, 40)

        report = owned.run(orphan_spec())
        assert report.by_reason == {Reason.KEPT_ORPHAN_GRACE: Tally(1, 10)}
        assert owned.listed(MARKS_PREFIX)[0].last_modified >= owned.time.now() - timedelta(seconds=5)

        owned.time.advance(GRACE + 10)
        assert owned.run(orphan_spec()).deleted == Tally(1, 10)

    def test_a_mark_from_before_an_owner_was_known_is_too_old(self, owned):
        """After a long time without passes, an owner may have come and gone unseen."""
        owned.fill("outputs/a/r1/", 1, 100)
        owned.mark("outputs/a/r1/", 40)

        assert owned.run(orphan_spec()).by_reason == {Reason.KEPT_ORPHAN_GRACE: Tally(1, 10)}
        assert owned.listed(MARKS_PREFIX)[0].last_modified >= owned.time.now() - timedelta(seconds=5)

    def test_in_a_shared_store_nothing_is_marked_or_deleted(self, owned):
        """Whatever marks say."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.mark("outputs/a/r1/", 9)

        report = owned.run(orphan_spec(), shared_store=True)

        assert report.by_reason == {Reason.KEPT_SHARED_STORE: Tally(1, 10)}
        assert owned.requests_of("put", "batch", "delete") == []

    def test_a_dry_run_reads_marks_and_writes_nothing(self, owned):
        """It reports what would go; a run that was never marked by an enforcing pass would not."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.fill("outputs/a/r2/", 1, 40)
        owned.fill("outputs/a/r3/", 1, 40)
        owned.mark("outputs/a/r1/", 3)
        owned.mark("outputs/a/r1-gone/", 3)
        owned.mark("outputs/a/r3/", 1)
        before = owned.listed()

        report = owned.run(orphan_spec(dry_run=True))

        assert report.by_reason == {Reason.DUE: Tally(1, 10), Reason.KEPT_ORPHAN_GRACE: Tally(2, 20)}
        assert owned.listed() == before
        assert owned.requests_of("put", "batch", "delete") == []

    def test_marks_without_runs_are_cleared_away(self, owned):
        """Before, between and behind the runs, and in a scope that is empty; foreign objects stay."""
        spec = orphan_spec(
            scopes=("inputs/a/", "outputs/a/"), rules=(RULE, replace(RULE, prefix="inputs/a/"))
        )
        owned.fill("outputs/a/m/", 1, 40)
        owned.owners.set(m=LIVE)
        for name in ("outputs/a/a/", "outputs/a/m-1/", "outputs/a/n/", "inputs/a/x/", "outputs/a/m/"):
            owned.mark(name, 1)
        owned.mark("outputs/b/a/", 1)
        owned.put(MARKS_PREFIX + "outputs/a/readme", 1)

        report = owned.run(spec)

        assert report.complete_cycle
        assert owned.all_keys(".bubu/") == [MARKS_PREFIX + "outputs/a/readme", mark_key("outputs/b/a/")]
        assert report.attempted == 5
        assert owned.data() == ["outputs/a/m/o00000"]

    def test_orphans_under_rules_by_age_need_no_marks(self, owned):
        """They go by age; nothing is written, and the report tells how many there are."""
        owned.fill("outputs/a/r1/", 2, 40)
        owned.fill("outputs/a/r2/", 3, 9)
        owned.fill("outputs/a/r3/", 4, 9)
        owned.owners.set(r3=ENDED)

        report = owned.run(spec_of())

        assert (report.deleted.objects, report.orphans.objects) == (2, 5)
        assert owned.requests_of("put") == []

    def test_without_owners_nobody_asks_for_marks(self, world):
        """No request more than a pass without owners needs."""
        world.fill("outputs/a/r1/", 1, 40)
        report = world.run(spec_of(rules=(RULE,)))

        assert report.by_reason == {Reason.KEPT_NO_OWNER_LIST: Tally(1, 10)}
        assert report.orphans == Tally()
        assert not any(key.startswith(".bubu/") for request in world.backend.requests for key in request.keys)
        assert {request.kind for request in world.backend.requests} == {"server_time", "list"}


class TestLimitsOfMarks:
    """Marks live within the limits of the pass."""

    @pytest.mark.parametrize("max_scan", [1, 2, 5, 9, 10, 11, 40, 100])
    @pytest.mark.parametrize("read_only", [False, True])
    def test_entries_of_marks_count_and_never_keep_a_pass_from_getting_on(self, owned, max_scan, read_only):
        """Never more than maxScan entries a pass, and the cycle ends; marks are read singly if need be."""
        for number in range(12):
            owned.fill(f"outputs/a/r{number:02}/", 2, 40)
            owned.mark(f"outputs/a/r{number:02}/", 3 if number % 2 else 1)
        spec = orphan_spec(max_scan=max_scan, dry_run=read_only)

        reports = []
        while not reports or not reports[-1].complete_cycle:
            assert len(reports) < 80
            owned.backend.requests.clear()
            reports.append(owned.run(spec))
            assert owned.backend.scanned <= max_scan
            assert reports[-1].scanned <= max_scan

        assert reports[-1].cycle.due == 12
        assert len(owned.data()) == (24 if read_only else 12)

    @pytest.mark.parametrize("max_delete", [1, 2, 3, 5])
    def test_removals_count_as_deletions_and_writes_are_bounded_too(self, owned, max_delete):
        """In no pass more than maxDelete keys are deleted, nor more than that many marks written."""
        for number in range(9):
            owned.fill(f"outputs/a/r{number}/", 1, 40)
            owned.mark(f"outputs/a/s{number}/", 1)
        owned.mark("outputs/a/r3/", 9)
        owned.mark("outputs/a/r8/", 9)
        spec = orphan_spec(max_delete=max_delete)

        for _ in range(60):
            owned.backend.requests.clear()
            report = owned.run(spec)
            assert len(owned.backend.deletions) == report.attempted <= max_delete
            assert len(owned.requests_of("put")) <= max_delete

        assert len(owned.data()) == 7
        assert owned.marks() == [f"outputs/a/r{number}/" for number in (0, 1, 2, 4, 5, 6, 7)]

    def test_orphans_are_marked_also_by_passes_that_end_early(self, owned):
        """A due run that does not fit ends the pass; what was found before it is marked nevertheless."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.fill("outputs/a/r2/", 3, 40)
        owned.fill("outputs/a/r3/", 3, 40)
        owned.owners.set(r2=ENDED, r3=ENDED)

        report = owned.run(orphan_spec(max_delete=4))

        assert report.stopped_by is StoppedBy.MAX_DELETE
        assert owned.marks() == ["outputs/a/r1/"]

    def test_a_pass_that_must_stop_writes_no_more(self, owned):
        """Marks are no reason to go on after the caller said stop."""
        owned.fill("outputs/a/r1/", 1, 40)
        stop: list[bool] = []
        owned.backend.after = lambda _index, kind, _keys: stop.append(True) if kind == "list" else None

        report = owned.run(orphan_spec(), should_stop=lambda: bool(stop))

        assert report.stopped_by is StoppedBy.STOPPED
        assert owned.marks() == []

    def test_marks_are_written_and_removed_only_while_every_permit_holds(self, owned):
        """Whoever lost the claim on the store changes nothing in it."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.mark("outputs/a/r0/", 1)

        class Lost:
            def check(self) -> None:
                raise PassStoppedError(StoppedBy.CLAIM_LOST, "another one has it")

        report = owned.run(orphan_spec(), permits=[Lost()])

        assert report.stopped_by is StoppedBy.CLAIM_LOST
        assert owned.marks() == ["outputs/a/r0/"]
        assert owned.requests_of("put", "batch", "delete") == []


class TestStoresOfAllKinds:
    """Marks where the store can less, or says no."""

    def refuse(self, owned: OwnedWorld, kind_: str, *errors: Exception) -> list[Exception]:
        """Let the next requests of a kind fail; return what is left to fail by."""
        left = list(errors)

        def before(_index: int, kind: str, keys: tuple[str, ...]) -> None:
            if kind == kind_ and left and keys[0].startswith(".bubu/"):
                raise left.pop(0)

        owned.backend.before = before
        return left

    def test_without_conditional_writes_what_is_not_listed_is_written(self, owned):
        """The condition is a second belt."""
        owned.fill("outputs/a/r1/", 1, 40)
        self.refuse(owned, "put", UnsupportedOperationError("no conditions"))

        report = owned.run(orphan_spec())

        assert owned.marks() == ["outputs/a/r1/"]
        assert report.error_count == 0

    def test_a_mark_that_somebody_else_wrote_is_left_as_it_is(self, owned):
        """Put if absent: the first observation counts."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.backend.before = lambda _index, kind, _keys: (
            owned.mark("outputs/a/r1/", 1) if kind == "put" else None
        )

        report = owned.run(orphan_spec())

        assert report.complete_cycle
        assert report.error_count == 0
        assert owned.listed(MARKS_PREFIX)[0].last_modified < owned.time.now() - timedelta(hours=23)

    def test_a_store_that_takes_no_marks_keeps_its_orphans(self, owned):
        """One error is noted, the pass does the rest of its work, and no other mark is tried."""
        for number in range(40):
            owned.fill(f"outputs/a/r{number:02}/", 1, 40)
        owned.fill("outputs/a/z/", 1, 40)
        owned.owners.set(z=ENDED)
        self.refuse(owned, "put", *[PermissionDeniedError("read only")] * 99)

        report = owned.run(orphan_spec())

        assert report.complete_cycle
        assert report.by_reason == {Reason.KEPT_ORPHAN_GRACE: Tally(40, 400), Reason.DELETED: Tally(1, 10)}
        assert 1 <= report.error_count <= 8
        assert report.errors[0].error == "PermissionDeniedError"
        assert report.errors[0].key.startswith(MARKS_PREFIX)

    @pytest.mark.parametrize("max_scan", [2, 2000])
    def test_a_run_whose_mark_has_no_possible_name_is_kept(self, owned, max_scan):
        """Its name is too long for one; other runs are marked as ever, and the pass goes on."""
        long = "outputs/a/r0" + "x" * 995 + "/"
        owned.put(long + "o", 40)
        owned.put("outputs/a/r1/o", 40)

        for _ in range(2):
            reports = owned.cycle(orphan_spec(max_scan=max_scan))
            owned.time.advance(GRACE + 60)
        owned.cycle(orphan_spec(max_scan=max_scan))

        assert owned.data() == [long + "o"]
        assert reports[-1].stopped_by is StoppedBy.END_OF_CYCLE

    @pytest.mark.parametrize("kind", ["put", "batch", "head"])
    def test_a_throttled_request_for_a_mark_is_no_error(self, owned, kind):
        """It is sent again, or left to a later pass."""
        owned.fill("outputs/a/r1/", 2, 40)
        owned.mark("outputs/a/r0/", 1)
        left = self.refuse(owned, kind, ThrottledError("slow down"))

        errors = [
            report.error_count for report in owned.cycle(orphan_spec(max_scan=2 if kind == "head" else 9))
        ]
        owned.cycle(orphan_spec())

        assert left == []
        assert set(errors) == {0}
        assert owned.marks() == ["outputs/a/r1/"]

    def test_a_mark_that_cannot_be_read_ends_the_pass(self, owned):
        """Nobody knows then whether the run may go."""
        owned.fill("outputs/a/r1/", 2, 40)
        self.refuse(owned, "head", PermissionDeniedError("no"))

        owned.run(orphan_spec(max_scan=2))
        report = owned.run(orphan_spec(max_scan=2))

        assert report.stopped_by is StoppedBy.STORE_ERROR
        assert mark_key("outputs/a/r1/") in report.message

    def test_a_policy_without_orphan_rules_does_without_marks(self, owned):
        """If the store does not list them, that is noted, and runs are judged by age as ever."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.fill("outputs/a/r2/", 1, 40)
        owned.owners.set(r2=ENDED)
        asked: list[str] = []
        listing = owned.backend.list_objects

        def list_objects(prefix: str, **options: object):
            if prefix.startswith(".bubu/"):
                asked.append(prefix)
                raise PermissionDeniedError("not for you")
            return listing(prefix, **options)

        owned.backend.list_objects = list_objects

        report = owned.run(spec_of())
        assert report.complete_cycle
        assert report.deleted.objects == 2
        assert (report.error_count, len(asked)) == (1, 1)

        owned.fill("outputs/a/r3/", 1, 40)
        assert owned.run(orphan_spec()).stopped_by is StoppedBy.STORE_ERROR
        assert len(owned.data()) == 1

    def test_a_policy_without_orphan_rules_clears_marks_away_too(self, owned):
        """What another policy marked is not left for one that comes later, once an owner is seen."""
        owned.fill("outputs/a/r1/", 1, 9)
        owned.fill("outputs/a/r2/", 1, 9)
        owned.mark("outputs/a/r1/", 1)
        owned.mark("outputs/a/r2/", 1)
        owned.owners.set(r1=ENDED)

        assert owned.run(spec_of()).complete_cycle
        assert owned.marks() == ["outputs/a/r2/"]

    def test_a_mark_that_cannot_be_deleted_is_noted(self, owned):
        """It stands for nothing, so it does no harm."""
        owned.mark("outputs/a/r0/", 1)
        owned.backend.refuse = lambda _key: PermissionDeniedError("retained")

        report = owned.run(orphan_spec())

        assert report.complete_cycle
        assert report.errors[0].key == mark_key("outputs/a/r0/")

    def test_stores_that_delete_one_by_one_are_cleared_too(self):
        """With and without batches, marks go the same way."""
        owned = OwnedWorld(batch=False)
        for number in range(12):
            owned.mark(f"outputs/a/r{number}/", 1)

        assert owned.run(orphan_spec()).attempted == 12
        assert owned.all_keys() == []


class TestLiveRuns:
    """What is live, or comes to life, is never deleted."""

    def test_a_run_that_comes_to_life_right_before_its_deletion_stays(self, owned):
        """The owners are looked at again before the batch, and the run is judged again."""
        owned.fill("outputs/a/r1/", 2, 40)
        owned.fill("outputs/a/r2/", 2, 40)
        owned.owners.set(r1=ENDED, r2=ENDED)

        def before(_index: int, kind: str, _keys: tuple[str, ...]) -> None:
            if kind == "list" and not owned.owners.owners["a/r1"].live:
                owned.owners.set(r1=LIVE)
                owned.time.advance(11)

        owned.backend.before = before
        report = owned.run(orphan_spec())

        assert report.by_reason == {Reason.KEPT_LIVE: Tally(2, 20), Reason.DELETED: Tally(2, 20)}
        assert owned.data() == ["outputs/a/r1/o00000", "outputs/a/r1/o00001"]

    def test_stored_documents_of_live_runs_protect_what_they_refer_to(self, owned):
        """Followed before the first verdict, in a dry run as well."""
        for name in ("r1", "r2", "r3"):
            owned.fill(f"outputs/a/{name}/", 1, 40)
        owned.owners.set(r1=ENDED, r2=ENDED, r3=ENDED)
        document = json.dumps({"contentType": "json", "data": [{"$bubuStorageRef": "outputs/a/r2/any"}]})
        owned.store.put_object("outputs/a/live/output.json", document.encode())
        owned.owners.set(live=LIVE)
        owned.owners.refer_to("outputs/a/live/output.json")

        dry = owned.run(orphan_spec(dry_run=True))
        assert dry.by_reason[Reason.KEPT_REFERENCED] == Tally(1, 10)
        assert dry.due == Tally(2, 20)

        owned.cursor = Cursor()
        owned.run(orphan_spec())
        assert "outputs/a/r2/o00000" in owned.data()
        assert "outputs/a/r1/o00000" not in owned.data()

    def test_a_document_that_cannot_be_read_stops_the_pass_before_it_lists(self, owned):
        """Nothing is deleted, and the report says which document it is."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.owners.set(r1=ENDED)
        owned.store.put_object("outputs/a/live/output.json", b"{broken")
        owned.owners.refer_to("outputs/a/live/output.json")

        report = owned.run(orphan_spec())

        assert report.stopped_by is StoppedBy.REFERENCES_UNREADABLE
        assert "outputs/a/live/output.json" in report.message
        assert report.scanned == 0
        assert len(owned.data()) == 2

    def test_a_cache_that_is_kept_saves_reading_again(self, owned):
        """Also one that was empty when the first pass began."""
        owned.store.put_object("outputs/a/live/output.json", b"{}")
        owned.owners.refer_to("outputs/a/live/output.json")
        cache = ReferenceCache()

        owned.run(orphan_spec(), reference_cache=cache)
        owned.run(orphan_spec(), reference_cache=cache)

        assert [kind for kind, _ in owned.requests_of("get", "head")] == ["get", "head"]

    def test_unknown_owners_stop_the_pass_before_it_lists(self, owned):
        """An error is no empty list."""
        owned.fill("outputs/a/r1/", 1, 40)
        owned.owners.error = OwnersUnknownError("the list broke off")

        report = owned.run(orphan_spec())

        assert report.stopped_by is StoppedBy.OWNERS_UNKNOWN
        assert "the list broke off" in report.message
        assert report.scanned == 0


def story(batch: bool) -> tuple[OwnedWorld, PassSpec]:
    """Return a world with orphans at every stage, live and ended runs, and limits that bite."""
    owned = OwnedWorld(batch=batch)
    for name, count, age_days in [
        ("fresh", 1, 40),
        ("due", 3, 40),
        ("large", 7, 40),
        ("live", 2, 40),
        ("reborn", 2, 3),
        ("ended", 2, 40),
        ("young", 1, 0),
    ]:
        owned.fill(f"outputs/a/{name}/", count, age_days)
    owned.mark("outputs/a/due/", 3)
    owned.mark("outputs/a/large/", 3)
    owned.mark("outputs/a/live/", 3)
    owned.mark("outputs/a/reborn/", 9)
    owned.mark("outputs/a/vanished/", 9)
    owned.owners.set(live=LIVE, ended=OwnerFacts(live=False, rank=6))
    return owned, orphan_spec(max_scan=12, max_delete=4)


KEPT_RUNS = {"fresh", "live", "reborn", "young"}


def runs_of(owned: OwnedWorld) -> dict[str, int]:
    """Return how many objects each run has."""
    counts: dict[str, int] = {}
    for key in owned.data():
        name = key.split("/")[2]
        counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("batch", [True, False])
def test_a_crash_at_any_request_loses_nothing_and_leaves_no_mark_that_is_too_old(batch):
    """Afterwards passes go on to the same end; marks are at worst missing or about nothing."""
    calm, spec = story(batch)
    counting = CountingBackend(calm.store if batch else Single(calm.store))
    calm.backend = counting
    calm.cycle(spec)
    calm.cycle(spec)
    assert runs_of(calm) == {"fresh": 1, "live": 2, "reborn": 2, "young": 1}
    assert set(calm.marks()) == {"outputs/a/fresh/", "outputs/a/reborn/"}

    points = 0
    for fault in crash_points(counting.total):
        owned, spec = story(batch)
        inner = owned.store if batch else Single(owned.store)
        owned.backend = FaultBackend(inner, fault)
        began = owned.time.now()
        try:
            owned.cycle(spec)
            owned.cycle(spec)
        except SimulatedCrash:
            points += 1
        assert KEPT_RUNS <= runs_of(owned).keys()
        for entry in owned.listed(MARKS_PREFIX):
            if run_of_mark(entry.key, "outputs/a/")[10:-1] in {"fresh", "young", "reborn"}:
                assert entry.last_modified >= began or entry.key == mark_key("outputs/a/reborn/")

        owned.backend = inner
        owned.cursor = Cursor.from_dict(json.loads(json.dumps(owned.cursor.to_dict())))
        for _ in range(3):
            owned.cycle(spec)
        assert runs_of(owned) == runs_of(calm)
        assert set(owned.marks()) == set(calm.marks())
        # Whatever the crash left, the new grace is not over.
        assert all(entry.last_modified >= began for entry in owned.listed(MARKS_PREFIX))
    assert points > 60


class Single:
    """Hides the capability to delete in batches."""

    def __init__(self, inner) -> None:
        self.name = inner.name
        for method in (
            "list_objects",
            "delete_object",
            "server_time",
            "put_object",
            "get_object",
            "head_object",
            "close",
        ):
            setattr(self, method, getattr(inner, method))


def test_with_many_requests_in_flight_it_is_the_same(owned):
    """Real threads and real time: the same runs go, the same marks stay."""
    world, spec = story(batch=True)
    world.time.sleep = lambda _seconds: None
    for _ in range(4):
        report = run_pass(
            world.store,
            replace(spec, max_scan=2000, max_delete=200),
            owners=world.owners,
            monotonic=world.time.monotonic,
            wall_clock=world.time.now,
            concurrency=8,
        )
        assert report.complete_cycle

    assert runs_of(world) == {"fresh": 1, "live": 2, "reborn": 2, "young": 1}
    assert set(world.marks()) == {"outputs/a/fresh/", "outputs/a/reborn/"}
