"""Where the clock that a store answers by is not the one that dates its objects, the earlier counts."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import PermissionDeniedError, ThrottledError
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.spec import RetentionRule
from bubu_storage.testing.fakes import Fault, FaultBackend
from tests.unit.retention.world import World, spec_of

HOUR = 3600.0
MIN_AGE = HOUR / 2
SPEC = spec_of(rules=(RetentionRule("outputs/a/", MIN_AGE),), min_age_seconds=MIN_AGE)


class OtherClock(FileBackend):
    """A directory on another machine's disk, whose clock is so far off."""

    def __init__(self, path, off_seconds):
        super().__init__(path)
        self._root = path
        self.off_seconds = off_seconds

    def put_object(self, key, body, **options):
        """Write; the other machine dates the file."""
        etag = super().put_object(key, body, **options)
        self.date(key)
        return etag

    def date(self, key, age_seconds=0.0):
        """Give a file the date that it has by the other machine's clock."""
        when = time.time() + self.off_seconds - age_seconds
        os.utime(self._root / key, (when, when))


def keys(store):
    """Return what is stored."""
    return [entry.key for page in store.list_objects("") for entry in page.objects]


@pytest.mark.parametrize("off_hours", [-1, 1])
def test_nothing_within_the_minimum_age_goes(tmp_path, off_hours):
    """Neither where objects are dated an hour behind this machine's clock, nor where an hour ahead."""
    store = OtherClock(tmp_path, off_hours * HOUR)
    store.put_object("outputs/a/new/x", b"x")
    store.put_object("outputs/a/old/x", b"x")
    store.date("outputs/a/old/x", age_seconds=MIN_AGE + 2 * HOUR)

    report = run_pass(store, SPEC, stamps_clock=True)

    assert report.stopped_by is StoppedBy.END_OF_CYCLE
    assert keys(store) == ["outputs/a/new/x"]
    assert report.by_reason.keys() == {
        Reason.DELETED,
        Reason.KEPT_MIN_AGE if off_hours < 0 else Reason.KEPT_FUTURE_DATE,
    }
    assert report.clock_skew_seconds == pytest.approx(min(0, off_hours) * HOUR, abs=60)


def test_a_dry_run_writes_nothing(tmp_path):
    """Whatever it is told."""
    store = OtherClock(tmp_path, -HOUR)
    store.put_object("outputs/a/new/x", b"x")
    store.put_object = None

    assert run_pass(store, spec_of(dry_run=True), stamps_clock=True).complete_cycle


def test_its_requests_count_and_are_tried_again(tmp_path):
    """As all others of the pass."""
    world = World()
    backend = FaultBackend(
        world.store, Fault(key_contains="/clock/", error=lambda: ThrottledError("slow down"))
    )

    report = run_pass(
        backend, spec_of(), stamps_clock=True, sleep=world.time.sleep, wall_clock=world.time.now
    )

    assert report.complete_cycle
    assert report.requests >= 8
    assert report.server_time is not None
    assert abs(report.server_time - world.time.now()) < timedelta(seconds=5)
    assert world.all_keys() == []


def test_a_store_that_refuses_to_date_an_object_is_not_swept(tmp_path):
    """Nobody knows how old its objects are."""
    world = World()
    world.fill("outputs/a/r1/", 1, 40)
    backend = FaultBackend(
        world.store, Fault(times=0, key_contains="/clock/", error=lambda: PermissionDeniedError("no"))
    )

    report = run_pass(backend, spec_of(), stamps_clock=True)

    assert report.stopped_by is StoppedBy.STORE_ERROR
    assert len(world.all_keys()) == 1
