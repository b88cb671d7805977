"""A mark of a run whose owner was seen never counts again, whatever becomes of the pass that saw it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from bubu_storage.errors import (
    OwnersUnknownError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.mark_keys import mark_key
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.testing.fakes import SimulatedCrash
from tests.unit.retention.test_judge import ENDED
from tests.unit.retention.test_owned_passes import GRACE, OwnedWorld, orphan_spec
from tests.unit.retention.world import DAY

OWNED = replace(ENDED, rank=1)
RUNS = ("r1", "r2", "r3")


def returned(*, batch: bool = True, concurrency: int = 1) -> OwnedWorld:
    """Return a world of three marked runs whose owners have come back."""
    world = OwnedWorld(batch=batch, concurrency=concurrency)
    for run in RUNS:
        world.fill(f"outputs/a/{run}/", 1, 40)
        world.mark(f"outputs/a/{run}/", GRACE / DAY + 1)
    world.owners.set(**dict.fromkeys(RUNS, OWNED))
    return world


def lengths(world: OwnedWorld) -> dict[str, int]:
    """Return how long each mark is; an empty one is void."""
    return {entry.key: entry.size_bytes for entry in world.listed(".bubu/retention/marks/")}


def assert_the_grace_begins_anew(world: OwnedWorld, *runs: str) -> None:
    """The owners go; the runs stay for the grace from the first pass that does not see them, and then go."""
    world.owners.set(**dict.fromkeys(runs, None))
    for report in world.cycle(orphan_spec()):
        assert report.deleted.objects == 0
    world.time.advance(GRACE - 60)
    for report in world.cycle(orphan_spec()):
        assert report.deleted.objects == 0
    world.time.advance(120)
    assert sum(report.deleted.objects for report in world.cycle(orphan_spec())) == len(runs)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("batch", [True, False])
def test_a_mark_that_no_deletion_is_left_for_is_made_void(batch, concurrency):
    """Writing needs no deletion; so all marks are void when the cursor has passed their runs."""
    world = returned(batch=batch, concurrency=concurrency)

    report = world.run(orphan_spec(max_delete=1))

    assert report.complete_cycle
    assert report.attempted == 1
    assert sorted(lengths(world).values()) == [0, 0]
    assert_the_grace_begins_anew(world, *RUNS)


@pytest.mark.parametrize("max_scan", [1, 2, 3, 5, 50])
def test_it_is_the_same_where_marks_cannot_be_listed(max_scan):
    """Marks that are asked for one by one are made void as well."""
    world = returned()

    world.cycle(orphan_spec(max_scan=max_scan, max_delete=1))

    assert not any(lengths(world).values())
    assert_the_grace_begins_anew(world, *RUNS)


def test_a_mark_that_cannot_be_deleted_is_made_void():
    """The error is noted, the pass goes on; later the empty object is cleared away."""
    world = returned()
    world.backend.refuse = lambda _key: PermissionDeniedError("retained")

    report = world.run(orphan_spec())

    assert report.complete_cycle
    assert report.error_count == 3
    assert list(lengths(world).values()) == [0, 0, 0]
    world.backend.refuse = lambda _key: None
    assert world.run(orphan_spec()).attempted == 3
    assert world.marks() == []


def test_a_mark_that_cannot_be_deleted_singly_is_made_void():
    """On a store without batches, too."""
    world = returned(batch=False)

    def refuse(_index: int, kind: str, keys: tuple[str, ...]) -> None:
        if kind == "delete":
            raise PermissionDeniedError("retained", key=keys[0])

    world.backend.before = refuse
    report = world.run(orphan_spec())

    assert report.complete_cycle
    assert report.error_count == 3
    assert list(lengths(world).values()) == [0, 0, 0]


def test_a_void_mark_is_not_written_again_and_again():
    """While the owner stays, and no deletion is left, it is left as it is."""
    world = returned()
    world.run(orphan_spec(max_delete=1))
    world.backend.requests.clear()

    world.backend.refuse = lambda _key: PermissionDeniedError("retained")
    world.run(orphan_spec())

    assert world.requests_of("put") == []


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_mark_that_can_neither_be_deleted_nor_written_stops_the_pass_before_its_run(concurrency):
    """What was decided before it is acted on all the same; the next pass begins in front of it."""
    world = returned(concurrency=concurrency)
    world.fill("outputs/a/r0/", 1, 40)
    world.owners.set(r0=ENDED)
    world.backend.refuse = lambda key: PermissionDeniedError("retained") if "marks" in key else None

    def before(_index: int, kind: str, _keys: tuple[str, ...]) -> None:
        if kind == "put":
            raise UnavailableError("read only")

    world.backend.before = before
    spec = orphan_spec(max_scan=5)
    report = world.run(spec)

    assert report.stopped_by is StoppedBy.STORE_ERROR
    assert "marks a run that has an owner now" in report.message
    assert report.cursor.after < "outputs/a/r1/"
    assert "outputs/a/r0/o00000" not in world.data()
    world.backend.before = lambda *_: None
    world.backend.refuse = lambda _key: None
    world.cycle(spec)
    assert world.marks() == []


def test_no_checkpoint_is_behind_a_run_whose_mark_still_counts():
    """Killed at any request, with deletions refused or not: what the cursor has passed is void."""
    for is_refused in (False, True):
        for nth in range(1, 40):
            world = returned()
            world.fill("outputs/a/r0/", 1, 40)
            world.owners.set(r0=ENDED)
            if is_refused:
                world.backend.refuse = lambda key: PermissionDeniedError("kept") if "marks" in key else None
            calls = 0

            def before(*_: object) -> None:
                nonlocal calls
                calls += 1
                if calls == nth:  # noqa: B023 - asked in this round alone
                    raise SimulatedCrash("killed")

            world.backend.before = before
            with suppress(SimulatedCrash):
                world.run(orphan_spec(max_delete=2))
            left = lengths(world)
            for run in RUNS:
                has_passed = world.cursor.after > f"outputs/a/{run}/" or calls < nth
                assert not (has_passed and left.get(mark_key(f"outputs/a/{run}/")))
            if calls < nth:
                break
        else:
            raise AssertionError("the pass had more requests than were tried")


def test_an_owner_that_comes_right_before_the_deletion_voids_the_mark():
    """The run is judged again, spared, and its grace begins anew."""
    world = OwnedWorld()
    world.fill("outputs/a/r1/", 1, 40)
    world.mark("outputs/a/r1/", GRACE / DAY + 1)

    def before(_index: int, kind: str, keys: tuple[str, ...]) -> None:
        if kind == "list" and world.owners.version == 1:
            world.owners.set(r1=OWNED)
            world.time.advance(11)

    world.backend.before = before
    report = world.run(orphan_spec())

    assert report.by_reason.keys() == {Reason.KEPT_LAST_RUNS}
    assert not any(lengths(world).values())
    assert_the_grace_begins_anew(world, "r1")


def test_a_run_whose_owner_came_before_its_mark_was_written_is_not_marked():
    """The mark would have a date at which the run was known to have an owner."""
    world = OwnedWorld()
    world.fill("outputs/a/r0/", 1, 40)
    world.fill("outputs/a/r1/", 1, 40)
    world.owners.set(r0=ENDED)

    def before(_index: int, kind: str, keys: tuple[str, ...]) -> None:
        if kind == "list" and world.owners.version == 2:
            world.owners.set(r1=OWNED)
            world.time.advance(11)

    world.backend.before = before
    report = world.run(orphan_spec())

    assert report.deleted.objects == 1
    assert world.marks() == []


def test_the_owners_are_looked_at_again_before_marks_are_written():
    """A mark is dated when it is written: one by an old look would tell of a time when an owner was there."""
    world = OwnedWorld()
    world.fill("outputs/a/r1/", 1, 40)
    world.fill("outputs/a/r2/", 1, 40)

    def before(_index: int, kind: str, keys: tuple[str, ...]) -> None:
        if kind == "list" and world.owners.version == 1:
            world.owners.set(r1=OWNED)
            world.time.advance(11)

    world.backend.before = before
    world.run(orphan_spec())

    assert world.marks() == ["outputs/a/r2/"]


def test_a_store_that_writes_nothing_at_all_keeps_its_orphans():
    """Refused with a condition and without one, a mark is given up: the error is noted, the pass goes on."""
    world = OwnedWorld()
    world.fill("outputs/a/r1/", 1, 40)

    def before(_index: int, kind: str, keys: tuple[str, ...]) -> None:
        if kind == "put":
            raise UnsupportedOperationError("read only")

    world.backend.before = before
    report = world.run(orphan_spec())

    assert report.complete_cycle
    assert report.error_count == 1
    assert world.data() == ["outputs/a/r1/o00000"]


def test_nothing_is_marked_while_it_is_unknown_who_owns_runs():
    """The look before that fails: the pass says so, and the next cycle marks."""
    world = OwnedWorld()
    world.fill("outputs/a/r1/", 1, 40)

    def before(_index: int, kind: str, keys: tuple[str, ...]) -> None:
        if kind == "list" and world.owners.error is None:
            world.owners.error = OwnersUnknownError("the list broke off")
            world.time.advance(11)

    world.backend.before = before
    assert world.run(orphan_spec()).stopped_by is StoppedBy.OWNERS_UNKNOWN
    assert world.marks() == []

    world.backend.before = lambda *_: None
    world.owners.error = None
    for _ in range(2):
        world.cycle(orphan_spec())
    assert world.marks() == ["outputs/a/r1/"]


def test_the_mark_of_a_run_that_a_pass_resumed_and_could_not_delete_whole_stays():
    """It is no stray one: the listing of marks began before the run, the scan behind it."""
    world = OwnedWorld()
    keys = world.fill("outputs/a/r1/", 5, 40)
    world.fill("outputs/a/r2/", 1, 1)
    world.mark("outputs/a/r1/", GRACE / DAY + 1)
    world.backend.refuse = lambda key: PermissionDeniedError("retained") if key == keys[4] else None

    world.cycle(orphan_spec(max_delete=2))

    assert world.data() == [keys[4], "outputs/a/r2/o00000"]
    assert "outputs/a/r1/" in world.marks()
    world.backend.refuse = lambda _key: None
    world.cursor = Cursor()
    assert world.run(orphan_spec()).deleted.objects == 1
