"""A pass needs the same memory for a hundred thousand objects as for ten thousand."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta

import pytest

from bubu_storage.backend.types import ListedObject, ListPage
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.spec import PassSpec, RetentionRule
from tests.unit.retention.world import DAY, START


class Endless:
    """A store that makes its listing up as it goes and swallows deletions; it holds nothing."""

    name = "endless://"

    def __init__(self, objects: int, members: int) -> None:
        self.objects = objects
        self.members = members
        self.deleted = 0

    def server_time(self):
        """Tell a fixed time."""
        return START

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Make up the next pages."""
        del prefix
        number = int(start_after.rsplit("/", 1)[1]) + 1 if start_after else 0
        while number < self.objects:
            last = min(number + page_size, self.objects)
            yield ListPage(
                tuple(
                    ListedObject(
                        f"outputs/a/run-{at // self.members:09}/{at:09}", 10, "", START - timedelta(days=40)
                    )
                    for at in range(number, last)
                )
            )
            number = last

    def delete_object(self, _key: str) -> None:
        """Count one deletion."""
        self.deleted += 1

    def delete_objects(self, keys) -> dict[str, Exception]:
        """Count a batch of deletions."""
        self.deleted += len(keys)
        return {}


class Crowded(Endless):
    """Answers batches only when so many are in flight, or no more come: everything that may wait, waits."""

    def __init__(self, objects: int, members: int, crowd: int) -> None:
        super().__init__(objects, members)
        self.crowd = crowd
        self.in_flight = 0
        self.changed = threading.Condition()

    def delete_objects(self, keys) -> dict[str, Exception]:
        """Count a batch of deletions, after a while."""
        with self.changed:
            self.in_flight += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.in_flight >= self.crowd, 0.02)
            self.in_flight -= 1
            return super().delete_objects(keys)


def peak_bytes(objects: int, *, dry_run: bool, members: int, concurrency: int = 1) -> int:
    """Return the most memory that one pass over so many objects needed."""
    store = Endless(objects, members) if concurrency == 1 else Crowded(objects, members, concurrency)
    spec = PassSpec(
        ("outputs/a/",),
        (RetentionRule("outputs/a/", 30 * DAY),),
        max_scan=2 * objects,
        max_delete=objects,
        budget_seconds=600,
        dry_run=dry_run,
    )
    tracemalloc.start()
    try:
        report = run_pass(store, spec, concurrency=concurrency)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.stopped_by is StoppedBy.END_OF_CYCLE
    assert report.due.objects == objects
    assert store.deleted == (0 if dry_run else objects)
    return peak


@pytest.mark.parametrize(("dry_run", "members"), [(True, 5), (False, 5), (False, 700)])
def test_memory_does_not_grow_with_the_store(dry_run, members):
    """Ten times the objects, the same peak; a few megabytes in all."""
    small = peak_bytes(10_000, dry_run=dry_run, members=members)
    large = peak_bytes(100_000, dry_run=dry_run, members=members)

    assert large < small * 1.2 + 100_000
    assert large < 8_000_000


def test_memory_is_bounded_with_many_deletions_in_flight():
    """What waits and what is in flight is bounded: twice the objects, the same peak."""
    small = peak_bytes(60_000, dry_run=False, members=50, concurrency=8)
    large = peak_bytes(120_000, dry_run=False, members=50, concurrency=8)

    assert large < 8_000_000
    assert large < small * 1.5 + 2_000_000
