"""A pass whose claim ends while a deletion is on its way out: what went is counted, what did not is not."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.errors import NotSentError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.runner import run_pass
from tests.unit.retention.world import DAY, spec_of

OLD = time.time() - 40 * DAY


class Ending:
    """A claim that allows so many looks, and no more ever after."""

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.is_over = False
        self._lock = threading.Lock()

    def look(self) -> None:
        """The last look of a backend."""
        with self._lock:
            self.left -= 1
            self.is_over = self.is_over or self.left < 0
        self.check()

    def check(self) -> None:
        """See `Permit`."""
        if self.is_over:
            raise PassStoppedError(StoppedBy.CLAIM_LOST, "the claim is over")


def filled(root: Path, runs: int, members: int) -> FileBackend:
    """Return a store of old runs with members in the run and below it."""
    store = FileBackend(root, fsync=False)
    for run in range(runs):
        for member in range(members):
            key = f"outputs/a/r{run:03}/{'d/' if member % 3 == 1 else ''}o{member:04}"
            store.put_object(key, b"x" * 10)
            os.utime(root / key, (OLD, OLD))
    return store


def keys_of(store: FileBackend | S3Backend) -> list[str]:
    """Return what is in a store."""
    return [entry.key for page in store.list_objects() for entry in page.objects]


def run(store, cursor: Cursor | None = None, *, concurrency: int, permits=()) -> PassReport:
    """Run one pass without other limits."""
    spec = spec_of(max_scan=100_000, max_delete=100_000, budget_seconds=60.0)
    return run_pass(store, spec, cursor, concurrency=concurrency, permits=permits)


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("looks", [0, 1, 7, 40, 119])
def test_a_batch_of_files_that_ends_in_its_middle_is_booked(tmp_path: Path, concurrency: int, looks: int):
    """Exactly what was removed counts, the reason is the claim's, and the next pass finishes."""
    store = filled(tmp_path, 12, 10)
    claim = Ending(looks)
    with store.guard_deletions(claim.look):
        report = run(store, concurrency=concurrency, permits=[claim])

    left = keys_of(store)
    assert len(left) == 120 - looks
    assert report.stopped_by is StoppedBy.CLAIM_LOST
    assert report.attempted == report.deleted.objects == looks
    assert (report.failed.objects, report.error_count) == (0, 0)
    assert [key for key in left if key <= report.cursor.after] == []
    final = run(store, report.cursor, concurrency=concurrency)
    assert final.complete_cycle
    assert final.deleted.objects == 120 - looks
    assert keys_of(store) == []


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_look_that_says_no_without_a_permit_ends_the_pass_too(tmp_path: Path, concurrency: int):
    """Nothing but the backend knows: the pass still ends, by the look's own reason."""
    store = filled(tmp_path, 12, 10)
    claim = Ending(30)
    with store.guard_deletions(claim.look):
        report = run(store, concurrency=concurrency)

    assert report.stopped_by is StoppedBy.CLAIM_LOST
    assert report.attempted == report.deleted.objects == 30


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("is_single", [False, True])
def test_a_bucket_gets_nothing_after_a_look_that_says_no(
    s3_server, bucket, concurrency: int, is_single: bool
):
    """The SDK does not try again, nothing is charged, and the connections serve the next pass."""
    with closing(S3Backend(s3_server.settings(bucket))) as store:
        store.bulk_delete_is_emulated = is_single
        for run_number in range(6):
            key = f"outputs/a/r{run_number}/o"
            store.put_object(key, b"x")
            os.utime(s3_server.root / bucket / key, (OLD, OLD))
        claim = Ending(0)
        with store.guard_deletions(claim.look):
            report = run(store, concurrency=concurrency, permits=[])

        assert report.stopped_by is StoppedBy.CLAIM_LOST
        assert (report.attempted, report.deleted.objects, report.failed.objects) == (0, 0, 0)
        assert claim.left >= (-6 if is_single else -1)
        assert len(keys_of(store)) == 6
        assert run(store, report.cursor, concurrency=concurrency).deleted.objects == 6


def test_a_single_deletion_says_that_it_was_not_sent(s3_server, bucket):
    """Whoever deletes without a pass hears it, with what the look said; once."""
    with closing(S3Backend(s3_server.settings(bucket))) as store:
        store.put_object("a", b"x")
        claim = Ending(0)
        with store.guard_deletions(claim.look):
            with pytest.raises(NotSentError) as caught:
                store.delete_object("a")
            with pytest.raises(NotSentError):
                store.delete_objects(["a"])

        assert isinstance(caught.value.said, PassStoppedError)
        assert claim.left == -2
        assert keys_of(store) == ["a"]
