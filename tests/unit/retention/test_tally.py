"""The tally of a cycle: what it counts, how it travels, and that no cut or crash makes it count twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_storage.errors import ConfigurationError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.tally import CycleTally
from bubu_storage.testing.fakes import CountingBackend, FaultBackend, SimulatedCrash, crash_points
from tests.unit.retention.world import World, spec_of

RUNS = {"r0": (2, 40), "r1": (7, 40), "r2": (3, 1), "r3": (1, 40), "r4": (5, 40), "r5": (2, 0)}
OBJECTS, DUE = 20, 15


def filled() -> World:
    """Due and kept runs of several sizes."""
    world = World()
    for name, (count, age_days) in RUNS.items():
        world.fill(f"outputs/a/{name}/", count, age_days)
    return world


def test_objects_and_runs_are_counted_apart():
    """A run may be counted in instalments; its name enters the digest once."""
    tally = CycleTally().with_objects(3, 30, is_due=False).with_objects(2, 20, is_due=True)

    assert tally == CycleTally(decided=5, due=2, due_bytes=20)
    assert tally.with_due_run("o/a/r/").digest != ""
    assert replace(tally.with_due_run("o/a/r/"), digest="") == tally


def test_orphans_are_counted_apart_and_travel_along():
    """They say nothing of what is due; a tally of before they were counted has none."""
    tally = CycleTally(decided=5, due=2, due_bytes=20).with_orphan(3, 30).with_orphan(1, 1)

    assert (tally.orphans, tally.orphan_bytes) == (4, 31)
    assert replace(tally, orphans=0, orphan_bytes=0) == CycleTally(decided=5, due=2, due_bytes=20)
    assert CycleTally.from_dict(json.loads(json.dumps(tally.to_dict()))) == tally
    old = {"decided": 5, "due": 2, "dueBytes": 20, "digest": ""}
    assert CycleTally.from_dict(old) == CycleTally(decided=5, due=2, due_bytes=20)
    with pytest.raises(ValueError, match="count expected"):
        CycleTally.from_dict(tally.to_dict() | {"orphans": -1})


def test_the_digest_is_a_chain_over_due_runs_in_order():
    """It depends on which runs are due and on their order, and on nothing that was not due."""
    one = CycleTally().with_due_run("a/").with_due_run("b/")
    same = CycleTally().with_objects(9, 9, is_due=False).with_due_run("a/").with_due_run("b/")
    others = [
        CycleTally().with_due_run("b/").with_due_run("a/"),
        CycleTally().with_due_run("a/b/"),
        CycleTally().with_due_run("a/"),
        CycleTally(),
    ]

    assert one.digest == same.digest
    assert len({one.digest, *(other.digest for other in others)}) == 5
    assert CycleTally().with_due_run("a/").digest == hashlib.sha256(b"\na/").hexdigest()


def test_a_name_that_utf_8_cannot_spell_does_not_stop_a_pass():
    """File stores may hold such names; they are told apart like others."""
    assert CycleTally().with_due_run("a\udcff/").digest != CycleTally().with_due_run("a\udcfe/").digest


tallies = st.builds(
    lambda kept, due, size, runs: CycleTally(kept + due, due, size, CycleTally().with_due_run(runs).digest),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**15),
    st.text(max_size=9),
) | st.just(CycleTally())


@given(tally=tallies, after=st.text(max_size=5))
def test_a_tally_travels_with_its_cursor(tally, after):
    """Through JSON, and an empty one takes no room."""
    cursor = Cursor(after, cycle=tally)
    data = json.loads(json.dumps(cursor.to_dict()))

    assert Cursor.from_dict(data) == cursor
    assert ("cycle" in data) is (tally != CycleTally())


def test_a_cursor_of_an_older_writer_has_counted_nothing():
    """It goes on where it stood; its cycle counts from there."""
    assert Cursor.from_dict({"after": "o/a/r/x"}).cycle == CycleTally()
    assert Cursor.from_dict({"after": "o/a/r/x", "cycle": None}).cycle == CycleTally()


GOOD = {"decided": 3, "due": 2, "dueBytes": 20, "digest": "0" * 64}


@pytest.mark.parametrize(
    "changes",
    [
        {"decided": -1},
        {"decided": 1},
        {"due": True},
        {"due": "2"},
        {"due": -1},
        {"dueBytes": -1},
        {"dueBytes": 1.5},
        {"digest": "0" * 63},
        {"digest": "0" * 65},
        {"digest": "x" * 64},
        {"digest": 5},
        {"digest": b""},
        {"digest": None},
    ],
)
def test_a_damaged_tally_is_refused_with_the_way_out(changes):
    """A hand-edited status is an error that names itself, not a guess."""
    assert Cursor.from_dict({"cycle": GOOD}).cycle == CycleTally(3, 2, 20, "0" * 64)
    with pytest.raises(ConfigurationError, match="start again with an empty one"):
        Cursor.from_dict({"cycle": GOOD | changes})
    with pytest.raises(ConfigurationError, match="start again with an empty one"):
        Cursor.from_dict({"cycle": {key: value for key, value in GOOD.items() if key not in changes}})


def cycle_of(world: World, **changes: object) -> PassReport:
    """Run passes to the end of a cycle and return the last report."""
    return world.cycle(spec_of(**changes), most_passes=200)[-1]


def test_a_cycle_counts_everything_once_and_begins_anew():
    """At its end the report holds the whole cycle; the cursor holds none of it."""
    world = filled()

    last = cycle_of(world, max_scan=7, max_delete=4, dry_run=True)

    assert (last.cycle.decided, last.cycle.due, last.cycle.due_bytes) == (OBJECTS, DUE, 10 * DUE)
    assert last.cursor == Cursor()
    assert cycle_of(world, dry_run=True).cycle == last.cycle


@settings(max_examples=60, deadline=None)
@given(max_scan=st.integers(1, 30), max_delete=st.integers(1, 30))
def test_equal_snapshots_have_equal_tallies_however_they_are_cut(max_scan, max_delete):
    """Also enforcing finds due what the dry cycle found: same objects, same digest."""
    whole = cycle_of(filled(), dry_run=True).cycle

    assert cycle_of(filled(), dry_run=True, max_scan=max_scan).cycle == whole
    assert cycle_of(filled(), max_scan=max_scan, max_delete=max_delete).cycle == whole


def test_a_run_more_or_less_changes_the_digest():
    """Another plan has another name."""
    whole = cycle_of(filled(), dry_run=True).cycle
    other = filled()
    other.store.delete_object("outputs/a/r3/o00000")

    assert cycle_of(other, dry_run=True).cycle.digest != whole.digest


def test_every_report_counts_up_to_its_own_cursor():
    """At each checkpoint: what lies before the cursor or, of a run in parts, before its position."""
    world = filled()
    cycle_of(world, max_scan=5, max_delete=3)

    assert len(world.checkpoints) > 8
    for part in world.checkpoints:
        if not part.complete_cycle:
            assert part.cycle == part.cursor.cycle
    decided = [part.cycle.decided for part in world.checkpoints]
    assert decided == sorted(decided)


@pytest.mark.parametrize("mode", [{"dry_run": True}, {"max_delete": 4}])
def test_a_crash_at_any_request_never_counts_twice(mode):
    """A dry cycle counts exactly; an enforcing one may miss what it deleted and could not write down."""
    spec = spec_of(max_scan=9, **mode)
    whole = cycle_of(filled(), dry_run=True).cycle
    calm = filled()
    counting = CountingBackend(calm.store)
    calm.backend = counting
    calm.cycle(spec)

    points = 0
    for fault in crash_points(counting.total):
        world = filled()
        inner, world.backend = world.backend, FaultBackend(world.store, fault)
        with pytest.raises(SimulatedCrash):
            world.cycle(spec)
        world.backend = inner
        world.cursor = Cursor.from_dict(json.loads(json.dumps(world.cursor.to_dict())))
        end = world.cycle(spec)[-1].cycle
        if spec.dry_run:
            assert end == whole
        else:
            assert DUE - spec.max_delete - 4 <= end.due <= DUE
            assert end.decided - end.due == OBJECTS - DUE
        points += 1
    assert points == 3 * counting.total


class TestApproval:
    """The bound on what may be due in a cycle before somebody agrees."""

    def test_an_enforcing_pass_stops_before_the_bound_is_exceeded(self):
        """What fits is deleted; the run that does not fit stays whole, and the reason is said."""
        world = filled()

        report = world.run(spec_of(max_due_objects=9))

        assert report.stopped_by is StoppedBy.APPROVAL_REQUIRED
        assert report.deleted.objects == report.cycle.due == 9
        assert report.by_reason[Reason.DUE_DEFERRED].objects == 1
        assert "outputs/a/r3/" in report.message
        assert len(world.all_keys("outputs/a/r3/")) == 1

    def test_the_bound_holds_for_the_cycle_not_for_the_pass(self):
        """A pass that goes on from the cursor is stopped at the same place, and deletes nothing more."""
        world = filled()
        world.run(spec_of(max_due_objects=8, max_delete=2))
        before = world.all_keys()

        for _ in range(3):
            report = world.run(spec_of(max_due_objects=8))
            assert report.stopped_by is StoppedBy.APPROVAL_REQUIRED
            assert report.cycle.due <= 8
        assert len(before) - len(world.all_keys()) <= 7

    def test_with_a_higher_bound_it_goes_on(self):
        """The approval raises the bound; the rest of the cycle goes as if nothing had been."""
        world = filled()
        world.run(spec_of(max_due_objects=9))

        report = world.run(spec_of(max_due_objects=DUE))

        assert report.complete_cycle
        assert report.cycle.due == DUE
        assert len(world.all_keys()) == OBJECTS - DUE

    @pytest.mark.parametrize("most", range(DUE + 1))
    @pytest.mark.parametrize(
        "limits", [{}, {"max_scan": 6, "max_delete": 3}, {"max_scan": 2, "max_delete": 1}]
    )
    def test_never_more_than_the_bound_goes(self, most, limits):
        """Whatever the limits of the passes, and although runs are deleted in instalments."""
        world = filled()

        for _ in range(60):
            report = world.run(spec_of(max_due_objects=most, **limits))
            if report.stopped_by in {StoppedBy.APPROVAL_REQUIRED, StoppedBy.END_OF_CYCLE}:
                break

        assert OBJECTS - len(world.all_keys()) <= most
        assert report.stopped_by is (StoppedBy.END_OF_CYCLE if most == DUE else StoppedBy.APPROVAL_REQUIRED)

    def test_a_dry_run_deletes_nothing_and_needs_no_approval(self):
        """It is what an approval is asked for by."""
        assert cycle_of(filled(), dry_run=True, max_due_objects=0).cycle.due == DUE

    def test_a_run_in_the_middle_of_its_deletion_is_not_forgotten(self):
        """Stopped by a lowered bound, the cursor still holds it; raised again, it is finished."""
        world = World()
        world.fill("outputs/a/r1/", 9, 40)
        world.run(spec_of(max_delete=4))
        assert world.cursor.run is not None

        report = world.run(spec_of(max_delete=4, max_due_objects=8))
        assert report.stopped_by is StoppedBy.APPROVAL_REQUIRED
        assert report.by_reason[Reason.DUE_DEFERRED].objects == 5
        assert world.cursor.run is not None
        assert len(world.all_keys()) == 5

        world.cycle(spec_of(max_delete=4, max_due_objects=9))
        assert world.all_keys() == []
