"""What earlier passes left in the reserved area is cleared away, and nothing else."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.types import EPOCH
from bubu_storage.errors import PermissionDeniedError, ThrottledError, UnsupportedOperationError
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.mark_keys import MARKS_PREFIX, mark_key
from bubu_storage.retention.registration import foreign_clusters
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.tidy import BUDGET_SECONDS, MOST_ENTRIES, TIDIED_KEY, TidyReport, tidy_store
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend
from tests.unit.retention.world import DAY, World

GRACE_DAYS = 2
CLOCK = ".bubu/retention/clock/0123"
PROBE = ".bubu/probe/0123"
CLAIM = ".bubu/retention/claim.json"


class Permit:
    """Holds until told otherwise."""

    def __init__(self) -> None:
        self.left = 10_000
        self.asked = 0

    def check(self) -> None:
        """Say yes so many times."""
        self.asked += 1
        if self.asked > self.left:
            raise PassStoppedError(StoppedBy.CLAIM_LOST, "lost")


def cluster(name: str) -> str:
    """Return the key of a registration."""
    return f".bubu/retention/clusters/{name}.json"


def tidy(world: World, backend=None, **options) -> TidyReport | None:
    """Tidy a world up, in its own time."""
    arguments = {
        "grace_seconds": GRACE_DAYS * DAY,
        "should_stop": lambda: False,
        "sleep": world.time.sleep,
        "monotonic": world.time.monotonic,
    }
    return tidy_store(backend or world.store, [options.pop("permit", Permit())], **arguments | options)


def left(world: World) -> list[str]:
    """Return what is stored, but for the memory of the tidying."""
    return [key for key in world.all_keys() if key != TIDIED_KEY]


def test_only_what_is_old_enough_goes(world):
    """Each kind has an age of its own; marks of runs that are there stay, whatever their age."""
    stays = {
        CLOCK + "y": 0.9,
        PROBE + "y": 0.9,
        CLOCK + "f": -30,
        cluster("fresh"): 3,
        cluster("silent"): 89,
        mark_key("outputs/a/gone-lately/"): 61,
        mark_key("outputs/a/there/"): 400,
        MARKS_PREFIX + "outputs/a/what-is-this": 400,
        MARKS_PREFIX + "mark": 400,
        CLAIM: 400,
        ".bubu/retention/other": 400,
        ".bubu/other": 400,
        "outputs/a/there/x": 400,
        "clock/x": 400,
    }
    goes = {
        CLOCK: 1.1,
        PROBE: 1.1,
        PROBE + "/part": 1.1,
        cluster("gone"): 91,
        mark_key("outputs/a/gone/"): 63,
        mark_key("outputs/deleted-policy/gone/"): 400,
    }
    for key, age in (stays | goes).items():
        world.put(key, age)

    report = tidy(world)

    assert report is not None
    assert report.problems == []
    assert report.removed == len(goes)
    assert left(world) == sorted(stays)


def test_what_has_no_date_stays(world):
    """Nobody knows how old it is."""
    for key in (CLOCK, PROBE, cluster("gone"), mark_key("outputs/a/gone/")):
        world.store.put_object(key, b"")
        world.store.set_last_modified(key, EPOCH)

    report = tidy(world)

    assert report is not None
    assert report.removed == 0


def test_it_is_done_once_a_day(world):
    """By the date of the object that remembers it."""
    for hours, is_done in ((0, True), (1, False), (22.9, False), (0.2, True), (23, False)):
        world.time.advance(hours * 3600)
        world.put(CLOCK, 2)
        assert (tidy(world) is not None) == is_done
        assert (CLOCK not in world.all_keys()) == is_done


def test_a_memory_of_the_future_or_of_nonsense_does_not_stop_it(world):
    """It begins anew with the first mark."""
    for age, content in ((-30, b"{}"), (2, b"\xff"), (2, b"[]"), (2, b'{"after": "outputs/"}')):
        world.store.put_object(TIDIED_KEY, content)
        world.store.set_last_modified(TIDIED_KEY, world.time.now() - timedelta(days=age))
        world.put(mark_key("outputs/a/gone/"), 100)

        assert tidy(world) is not None
        assert mark_key("outputs/a/gone/") not in world.all_keys()


def test_old_registrations_no_longer_turn_rules_off(world):
    """More of them than are looked at count as another cluster; once they are gone, nobody is there."""
    for number in range(130):
        world.put(cluster(f"gone-{number:03}"), 100)
    assert foreign_clusters(world.store, "ours")

    tidy(world)

    assert not foreign_clusters(world.store, "ours")


def test_a_registration_that_is_renewed_meanwhile_stays(world):
    """It is looked at once more right before."""
    world.put(cluster("back"), 100)

    class Renewing(CountingBackend):
        def list_objects(self, prefix="", **options):
            pages = list(super().list_objects(prefix, **options))
            if prefix.endswith("clusters/"):
                world.put(cluster("back"), 0)
            yield from pages

    tidy(world, Renewing(world.store))

    assert cluster("back") in world.all_keys()


def test_many_marks_are_gone_through_in_several_days(world):
    """At most so many entries each time; the next time goes on behind them, and then from the start again."""
    for number in range(700):
        world.put(f"outputs/a/r{number:04}/x", 100)
        world.put(mark_key(f"outputs/a/r{number:04}/"), 100)
    world.put(mark_key("outputs/a/s/"), 100)
    for _ in range(2):
        counting = CountingBackend(world.store)
        report = tidy(world, counting)
        assert report is not None
        assert 0 < report.listed <= MOST_ENTRIES
        world.time.advance(DAY + 1)
    assert mark_key("outputs/a/s/") not in world.all_keys()
    assert json.loads(world.store.get_object(TIDIED_KEY).read())["after"] == ""
    world.put(mark_key("outputs/a/a/"), 100)

    tidy(world)

    assert mark_key("outputs/a/a/") not in world.all_keys()
    assert len(left(world)) == 1400


def test_time_that_is_used_up_ends_it_until_another_day(world):
    """A slow store is not kept busy; it goes on where it was."""
    for number in range(40):
        world.put(mark_key(f"outputs/a/r{number:04}/"), 100)
    world.put(CLOCK, 2)
    backend = type(world.backend)(world.store, world.time, latency_seconds=1.0)

    before = world.time.seconds
    report = tidy(world, backend)

    assert report is not None
    assert report.problems == []
    assert world.time.seconds - before <= BUDGET_SECONDS + 2
    assert CLOCK not in world.all_keys()
    assert TIDIED_KEY in world.all_keys()


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_nothing_is_deleted_or_written_without_the_permit(world, nth):
    """Who has lost the claim leaves everything to who has it now."""
    for key in (CLOCK, PROBE, cluster("gone")):
        world.put(key, 100)
    permit = Permit()
    permit.left = nth

    report = tidy(world, permit=permit)

    assert report is not None
    assert report.removed == nth
    assert "lost" in report.problems
    assert TIDIED_KEY not in world.all_keys()


def test_who_is_asked_to_stop_does_nothing(world):
    """Before the first request."""
    world.put(CLOCK, 2)

    assert tidy(world, should_stop=lambda: True) is None
    assert world.all_keys() == [CLOCK]


@pytest.mark.parametrize("part", [".bubu/probe/", "clusters/", "tidied"])
def test_what_is_refused_is_told_and_the_rest_is_done(world, part):
    """Rights may end at some prefix; nothing is raised."""
    for key in (CLOCK, PROBE, cluster("gone"), mark_key("outputs/a/gone/")):
        world.put(key, 100)
    backend = FaultBackend(
        world.store, Fault(times=0, key_contains=part, error=lambda: PermissionDeniedError("no"))
    )

    report = tidy(world, backend)

    assert report is not None
    assert report.problems
    if part != "tidied":
        assert all(part in key for key in left(world))
        assert len(left(world)) == 1


def test_a_store_that_throttles_is_left_alone(world):
    """It is of no urgency."""
    for key in (CLOCK, PROBE, cluster("gone")):
        world.put(key, 100)
    backend = FaultBackend(
        world.store, Fault(key_contains="/clock/0", times=0, error=lambda: ThrottledError("slow down"))
    )

    report = tidy(world, backend)

    assert report is not None
    assert report.removed == 0
    assert len(left(world)) == 3


def test_stores_without_batches_or_conditions_are_tidied_too(world):
    """One by one, and without conditions."""

    class Plain(type(world.store)):
        def delete_objects(self, *_args, **_options):
            raise UnsupportedOperationError("no batches")

        def delete_object(self, key, *, if_match=""):
            if if_match:
                raise UnsupportedOperationError("no conditions")
            super().delete_object(key)

    world.store.__class__ = Plain
    for key in (CLOCK, CLOCK + "2", cluster("gone")):
        world.put(key, 100)

    report = tidy(world)

    assert report is not None
    assert report.removed == 3
    assert left(world) == []


def test_half_written_files_go_too(tmp_path):
    """Those that nobody has touched for a day; young ones and objects stay."""
    store = FileBackend(tmp_path)
    store.put_object("outputs/a/r/x", b"x")
    old, young = tmp_path / "outputs/a/r/.bubu-tmp-1", tmp_path / "outputs/a/r/.bubu-tmp-2"
    for path, age in ((old, 2 * DAY), (young, 0)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)

    report = tidy_store(store, [Permit()], grace_seconds=0, should_stop=lambda: False, sleep=time.sleep)

    assert report is not None
    assert report.leftovers == 1
    assert not old.exists()
    assert young.exists()


def test_leftovers_are_looked_for_until_told_to_stop(tmp_path):
    """Stopped early, several calls reach every directory all the same; young empty ones stay."""
    store = FileBackend(tmp_path)
    for number in range(6):
        directory = tmp_path / "outputs" / f"d{number}"
        directory.mkdir(parents=True)
        path = directory / ".bubu-tmp-1"
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    (tmp_path / "outputs/young").mkdir()

    assert store.remove_leftovers(should_stop=lambda: True) == 0
    removed = 0
    for _ in range(2_000):
        looks = iter([False, False, False, True])
        removed += store.remove_leftovers(should_stop=lambda looks=looks: next(looks))
        if removed == 6:
            break
    assert removed == 6
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["young"]
