"""Many deletions in flight: any order of answers, throttling, small batches, stops, and exact limits."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import ListPage
from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnavailableError,
)
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.owners import OwnerFacts, OwnerView
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.runner import boot_seconds, run_pass
from tests.unit.retention.world import World, spec_of

DEADLINE_SECONDS = 60.0


class Busy:
    """A memory store whose batches can be held up, refused and counted, in real threads and real time."""

    name = "busy://"

    def __init__(self, runs: int, members: int, *, age_days: float = 40.0) -> None:
        self.world = World()
        for number in range(runs):
            self.world.fill(f"outputs/a/r{number:05}/", members, age_days)
        self.store: MemoryBackend = self.world.store
        self.lock = threading.Condition()
        self.in_flight = 0
        self.lingering = 0
        self.most_in_flight = 0
        self.batches: list[tuple[str, ...]] = []
        self.times: list[float] = []
        self.asked_entries = 0
        self.hold = lambda _number, _keys: None
        self.refuse = lambda _number, _keys: {}

    def server_time(self):
        """Pass on the store's clock."""
        self.times.append(time.monotonic())
        return self.store.server_time()

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Pass on a listing and count what is asked for."""
        pages = self.store.list_objects(prefix, start_after=start_after, page_size=page_size)
        while True:
            with self.lock:
                self.times.append(time.monotonic())
                page = next(pages, None)
                self.asked_entries += len(page.objects) if page else 0
            if page is None:
                return
            yield page
            if len(page.objects) < page_size:
                return

    def delete_objects(self, keys: Sequence[str], *, if_match=None) -> dict[str, StorageError]:
        """Pass on a batch."""
        with self.lock:
            self.times.append(time.monotonic())
            number = len(self.batches)
            self.batches.append(tuple(keys))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.lock.notify_all()
        try:
            self.hold(number, keys)
            failed = self.refuse(number, keys)
            if if_match:
                etags = {entry.key: entry.etag for entry in self.world.listed()}
                failed = failed | {
                    key: PreconditionFailedError("another ETag", key=key)
                    for key, etag in if_match.items()
                    if etags.get(key, etag) != etag
                }
            with self.lock:
                self.store.delete_objects([key for key in keys if key not in failed])
            return failed
        finally:
            with self.lock:
                self.in_flight -= 1
                self.lock.notify_all()

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Pass on a deletion as a batch of one."""
        failed = self.delete_objects([key], if_match={key: if_match} if if_match else None)
        if key in failed:
            raise failed[key]

    def linger(self, really: bool) -> None:
        """Let others answer first, as long as there are others that do not wait for that, too."""
        with self.lock:
            answered = len(self.batches) - self.in_flight
            self.lingering += really
            self.lock.notify_all()
            assert not really or self.lock.wait_for(
                lambda: len(self.batches) - self.in_flight > answered or self.lingering == self.in_flight,
                DEADLINE_SECONDS,
            )
            self.lingering -= really

    def wait(self, until) -> None:
        """Wait for a condition of this store."""
        with self.lock:
            assert self.lock.wait_for(until, DEADLINE_SECONDS), "it never came to that"

    def run(self, *, concurrency: int = 4, cursor: Cursor | None = None, **options) -> PassReport:
        """Run one pass in real time."""
        fields = {"max_scan": 100_000, "max_delete": 100_000, "budget_seconds": 60.0}
        callbacks = {
            name: options.pop(name)
            for name in (
                "on_checkpoint",
                "on_run",
                "should_stop",
                "permits",
                "owners",
                "conditional_batches",
                "monotonic",
            )
            if name in options
        }
        return run_pass(self, spec_of(**(fields | options)), cursor, concurrency=concurrency, **callbacks)


def standing() -> float:
    """Return a time that stands still.

    What was listed a second ago no longer waits for a full batch: where batches are counted, a machine
    that pauses must not make them smaller.
    """
    return 1000.0


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Whatever happens in a pass, its threads are gone when it returns."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def decided_before(store: Busy, cursor: Cursor) -> list[str]:
    """Return the keys that are still there although the cursor has passed them."""
    return [key for key in store.world.all_keys() if key <= cursor.after]


def test_batches_overlap_and_everything_goes():
    """Several requests are in flight at once, never more than asked for, each as large as may be."""
    store = Busy(100, 100)
    store.hold = lambda number, _keys: store.wait(lambda: store.most_in_flight >= 4 or number > 6)

    report = store.run(monotonic=standing)

    assert report.complete_cycle
    assert report.deleted.objects == report.attempted == 10_000
    assert store.most_in_flight == 4
    assert all(len(batch) == 1000 for batch in store.batches)
    assert store.world.all_keys() == []


def test_the_cursor_waits_for_what_comes_before():
    """The first batch answers last: no checkpoint before that passes its runs."""
    store = Busy(100, 100)
    seen: list[Cursor] = []

    def hold(number: int, _keys) -> None:
        if number == 0:
            store.wait(lambda: len(store.batches) == 4 and store.in_flight == 1)

    def checkpoint(report: PassReport) -> None:
        seen.append(report.cursor)
        with store.lock:
            assert decided_before(store, report.cursor) == []

    store.hold = hold
    report = store.run(on_checkpoint=checkpoint, max_delete=4000, max_scan=4100, monotonic=standing)

    assert report.deleted.objects == 4000
    assert seen[0].after == ""
    assert seen[-1].after.startswith("outputs/a/r00039/")


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_answers_and_a_stop_anywhere_lose_nothing(seed):
    """From any checkpoint of any pass, everything due goes in the end and what is kept stays."""
    chance = random.Random(seed)
    store = Busy(40, 150)
    kept = store.world.fill("outputs/a/r00013/", 0, 1) + store.world.fill("outputs/a/k/", 50, 1)
    store.world.put("outputs/a/r00020/young", 0.5)
    kept += store.world.all_keys("outputs/a/r00020/")
    store.hold = lambda _number, _keys: store.linger(chance.random() < 0.5)
    cursors = [Cursor()]
    for _ in range(8):
        calls = chance.randrange(3, 25)
        counted = Counter()

        def should_stop(counted=counted, calls=calls) -> bool:
            counted["asked"] += 1
            return counted["asked"] > calls

        def checkpoint(report: PassReport) -> None:
            with store.lock:
                left = [key for key in decided_before(store, report.cursor) if key not in kept]
            assert left == []
            cursors.append(Cursor.from_dict(report.cursor.to_dict()))

        store.run(cursor=chance.choice(cursors), on_checkpoint=checkpoint, should_stop=should_stop)
    assert store.run(cursor=chance.choice(cursors)).complete_cycle
    assert store.run().complete_cycle
    assert store.world.all_keys() == sorted(kept)


def test_a_stop_books_what_is_in_flight():
    """Requests that are under way when the pass ends are waited for and counted."""
    store = Busy(50, 100)
    stopping = threading.Event()

    def hold(_number: int, _keys) -> None:
        store.wait(lambda: store.in_flight == 4 or stopping.is_set())
        stopping.set()

    store.hold = hold
    report = store.run(should_stop=stopping.is_set)

    assert report.stopped_by is StoppedBy.STOPPED
    assert store.in_flight == 0
    gone = 5000 - len(store.world.all_keys())
    assert report.deleted.objects == report.attempted == gone >= 4000
    assert decided_before(store, report.cursor) == []
    assert store.run(cursor=report.cursor).complete_cycle
    assert store.world.all_keys() == []


def test_the_end_of_the_budget_books_what_is_in_flight():
    """The clock runs out while four requests are under way: they count, and nothing more is sent."""
    store = Busy(50, 100)
    late = threading.Event()

    def hold(_number: int, _keys) -> None:
        store.wait(lambda: store.in_flight == 4 or late.is_set())
        late.set()

    store.hold = hold
    report = store.run(monotonic=lambda: standing() + 1000 * late.is_set(), budget_seconds=500.0)

    assert report.stopped_by is StoppedBy.BUDGET_SECONDS
    assert report.deleted.objects == report.attempted == 1000 * len(store.batches) >= 4000
    assert len(store.world.all_keys()) == 5000 - report.deleted.objects


def test_a_callback_that_fails_leaves_nothing_in_flight():
    """The caller's error comes out, after what was under way has come back."""
    store = Busy(50, 100)

    def fail(report: PassReport) -> None:
        if report.deleted.objects:
            raise RuntimeError("cannot store the cursor")

    with pytest.raises(RuntimeError, match="cannot store"):
        store.run(on_checkpoint=fail)

    assert store.in_flight == 0


@pytest.mark.parametrize("per_key", [False, True])
def test_a_throttling_store_gets_fewer_requests_and_loses_none(per_key):
    """SlowDown for the batch or for each key: tried again, fewer at a time, charged once."""
    store = Busy(80, 100)
    refused = []

    def refuse(number: int, keys) -> dict[str, StorageError]:
        if number >= 8 or len(refused) >= 4:
            return {}
        refused.append(number)
        error = ThrottledError("slow down", retry_after_seconds=0.01)
        if per_key:
            return dict.fromkeys(keys[:50], error)
        raise error

    store.refuse = refuse
    store.hold = lambda number, _keys: store.wait(lambda: store.most_in_flight >= 4 or number > 6)
    report = store.run()

    assert refused
    assert report.complete_cycle
    assert report.deleted.objects == report.attempted == 8000
    assert report.failed.objects == 0
    assert store.world.all_keys() == []


def test_a_store_that_only_throttles_is_left_alone():
    """After several reductions without a success the pass ends, and nothing counts as deleted."""
    store = Busy(3, 10)

    def refuse(_number: int, _keys) -> dict[str, StorageError]:
        raise ThrottledError("slow down", retry_after_seconds=31)

    store.refuse = refuse
    report = store.run()

    assert report.stopped_by is StoppedBy.THROTTLED
    assert (report.attempted, report.due.objects) == (0, 30)
    assert report.cursor.after == ""


def test_a_store_that_takes_a_hundred_keys_at_most():
    """Larger batches are refused: smaller ones go, and soon only those are tried."""
    store = Busy(60, 100)
    too_large = []

    def refuse(_number: int, keys) -> dict[str, StorageError]:
        if len(keys) > 100:
            too_large.append(len(keys))
            raise StorageError("MalformedXML: too many keys")
        return {}

    store.refuse = refuse
    report = store.run()

    assert report.complete_cycle
    assert report.deleted.objects == report.attempted == 6000
    assert len(too_large) < 30
    assert max(len(batch) for batch in store.batches[-20:]) == 100
    assert store.world.all_keys() == []


def test_a_store_that_is_down_ends_the_pass():
    """Some requests, not thousands; what may have been deleted is charged once."""
    store = Busy(60, 100)

    def refuse(_number: int, _keys) -> dict[str, StorageError]:
        raise UnavailableError("down")

    store.refuse = refuse
    report = store.run()

    assert report.stopped_by is StoppedBy.STORE_ERROR
    assert len(store.batches) < 120
    assert report.attempted <= 6000
    assert report.deleted.objects == 0
    assert len(store.world.all_keys()) == 6000


def test_a_fatal_error_ends_the_pass_and_charges_nothing():
    """No such bucket: nothing was deleted by anybody."""
    store = Busy(20, 100)

    def refuse(_number: int, _keys) -> dict[str, StorageError]:
        raise BucketNotFoundError("gone")

    store.refuse = refuse
    report = store.run()

    assert report.stopped_by is StoppedBy.STORE_ERROR
    assert report.attempted == 0
    assert report.cursor.after == ""


@pytest.mark.parametrize("max_delete", [1, 999, 1000, 2500, 7050])
def test_max_delete_is_exact(max_delete):
    """What is in flight counts: never a deletion too many, and whole runs only."""
    store = Busy(100, 100)
    store.hold = lambda number, _keys: store.wait(lambda: number == 0 or len(store.batches) > 0)

    report = store.run(max_delete=max_delete)

    sent = sum(len(batch) for batch in store.batches)
    assert sent == report.attempted == (max_delete // 100 * 100 or max_delete)
    assert report.stopped_by is StoppedBy.MAX_DELETE


@pytest.mark.parametrize("max_scan", [20_000, 41_500, 60_001])
def test_max_scan_is_exact_with_pages_listed_ahead(max_scan):
    """Entries that were fetched and not used count as well."""
    store = Busy(0, 0)
    for scope in ("a", "b", "c", "d"):
        for number in range(180):
            store.world.fill(f"outputs/{scope}/r{number:05}/", 100, 1)
    scopes = tuple(f"outputs/{scope}/" for scope in "abcd")

    report = store.run(max_scan=max_scan, scopes=scopes)

    assert store.asked_entries == report.scanned <= max_scan
    assert report.stopped_by is StoppedBy.MAX_SCAN
    decided = sum(tally.objects for tally in report.by_reason.values())
    assert decided >= max_scan * 0.9


def test_the_request_rate_holds_over_all_threads():
    """Listings and deletions, of whatever thread, share one cap."""
    store = Busy(120, 100)
    report = store.run(requests_per_second=40.0, concurrency=8, max_scan=100_000)

    assert report.deleted.objects == 12_000
    times = sorted(store.times)
    for first in range(len(times)):
        for last in range(first + 1, len(times)):
            # Between its turn and the store a request may be held up for a moment.
            assert last - first <= (times[last] - times[first] + 0.05) * 40 + 1


def test_conditional_deletions_keep_what_was_replaced():
    """An object with another ETag stays and is no error, and its run keeps what was not sent yet."""
    store = Busy(30, 100)
    key = "outputs/a/r00004/o00050"

    def hold(number: int, _keys) -> None:
        if number == 0:
            with store.lock:
                store.store.put_object(key, b"new")

    store.hold = hold
    report = store.run(conditional_batches=True)

    assert store.world.all_keys() == [key]
    assert report.by_reason[Reason.KEPT_NEWER_MEMBER].objects == 1
    assert (report.deleted.objects, report.failed.objects, report.error_count) == (2999, 0, 0)


class Owners:
    """Views of owners: the second and later ones know one more live run."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.views = 0

    def observe(self, not_before: float) -> OwnerView:
        """Return a view that began now."""
        del not_before
        self.views += 1
        owners = {} if self.views == 1 else {self.run: OwnerFacts(live=True)}
        return OwnerView(self.views, boot_seconds() + AHEAD[0], owners)


AHEAD = [0.0]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_run_that_became_live_meanwhile_is_spared(concurrency):
    """The owners are looked up again once the last look is old, and right before the batch."""
    store = Busy(60, 100)
    AHEAD[0] = 0.0
    owners = Owners("a/r00050")
    checkpoints = 0

    def checkpoint(report: PassReport) -> None:
        nonlocal checkpoints
        checkpoints += 1
        if report.deleted.objects and not AHEAD[0]:
            AHEAD[0] = 11.0

    report = store.run(
        concurrency=concurrency,
        owners=owners,
        on_checkpoint=checkpoint,
        monotonic=lambda: boot_seconds() + AHEAD[0],
        budget_seconds=500.0,
    )

    assert owners.views >= 2
    assert report.complete_cycle
    assert len(store.world.all_keys("outputs/a/")) == 100
    assert report.by_reason[Reason.KEPT_LIVE].objects == 100


@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_deletion_is_sent_without_its_permit(concurrency):
    """Permits are asked before each request; the first that is gone ends the pass."""
    store = Busy(60, 100)

    class Permit:
        asked = 0

        def check(self) -> None:
            """Allow three deletions."""
            self.asked += 1
            if self.asked > 3:
                raise PassStoppedError(StoppedBy.CLAIM_LOST, "gone")

    permit = Permit()
    report = store.run(concurrency=concurrency, permits=[permit])

    assert report.stopped_by is StoppedBy.CLAIM_LOST
    assert len(store.batches) == 3
    assert report.deleted.objects == report.attempted == 6000 - len(store.world.all_keys())


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_system_that_gives_few_threads(monkeypatch, threads):
    """Those that there are do the work; without any the system's error comes out, and nothing hangs."""
    store = Busy(50, 100)
    start = threading.Thread.start
    started = []

    def few(thread: threading.Thread) -> None:
        if len(started) >= threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    options = {"concurrency": 8, "max_scan": 19_000}
    if threads:
        report = store.run(**options)

        assert report.deleted.objects == report.attempted == 5000
        assert len(started) == threads
    else:
        with pytest.raises(RuntimeError, match="new thread"):
            store.run(**options)

        assert len(store.world.all_keys()) == 5000


@pytest.mark.parametrize("concurrency", [0, -1, 257])
def test_a_concurrency_out_of_range_is_refused(concurrency):
    """Before anything is sent."""
    store = Busy(1, 1)
    with pytest.raises(ConfigurationError, match="1 to 256"):
        store.run(concurrency=concurrency)
    assert store.times == []


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_run_that_grew_takes_no_deletions_of_others(concurrency):
    """Old-dated members turn up in a run whose listing became old: the limit still holds."""
    world = World(concurrency=concurrency)
    world.fill("outputs/a/r1/", 1000, 40)
    world.fill("outputs/a/r2/", 6, 40)
    world.fill("outputs/a/r3/", 1, 1)

    def grow(report: PassReport) -> None:
        if report.scanned == 1000:
            world.time.advance(8)
            for name in "abcde":
                world.put(f"outputs/a/r1/{name}", 40)

    report = world.run(spec_of(max_delete=1006, max_scan=10_000), on_checkpoint=grow)

    assert report.attempted == len(world.backend.deletions) <= 1006
    assert report.relisted > 0
    assert world.cycle(spec_of(max_delete=1006, max_scan=10_000))
    assert world.all_keys() == ["outputs/a/r3/o00000"]


class TestLargeRuns:
    """Runs of more objects than are held in memory: instalments, each with many requests in flight."""

    def test_instalments_overlap(self):
        """Listed a second time, then deleted four batches at a time."""
        store = Busy(1, 12_500)
        store.hold = lambda number, _keys: store.wait(lambda: store.most_in_flight >= 4 or number > 4)

        report = store.run()

        assert report.complete_cycle
        assert report.deleted.objects == report.attempted == 12_500
        assert store.most_in_flight == 4
        assert store.world.all_keys() == []

    def test_a_stop_within_an_instalment_tells_how_far_it_got(self):
        """The position is behind what is surely done with, and the next pass finishes the run."""
        store = Busy(1, 12_500)
        stopping = threading.Event()

        def hold(number: int, _keys) -> None:
            if number == 0:
                store.wait(lambda: len(store.batches) >= 4)
                stopping.set()
                store.wait(lambda: store.in_flight == 1)

        store.hold = hold
        report = store.run(should_stop=stopping.is_set)

        left = store.world.all_keys()
        assert report.stopped_by is StoppedBy.STOPPED
        assert report.deleted.objects == report.attempted == 12_500 - len(left)
        assert report.by_reason[Reason.DUE_DEFERRED].objects == len(left)
        assert [key for key in left if key <= report.cursor.run.position] == []
        assert store.run(cursor=report.cursor).deleted.objects == len(left)
        assert store.world.all_keys() == []

    def test_a_replaced_member_keeps_what_is_left(self):
        """The next look sees the young one, wherever it is."""
        store = Busy(1, 12_500)

        def hold(number: int, keys) -> None:
            if number == 0:
                with store.lock:
                    store.store.put_object(keys[-1], b"new")

        store.hold = hold
        report = store.run(conditional_batches=True)

        left = store.world.all_keys()
        assert left[0] == "outputs/a/r00000/o00999"
        assert report.by_reason[Reason.KEPT_NEWER_MEMBER].objects >= 1
        assert report.deleted.objects == 12_500 - len(left) < 12_500

    def test_max_delete_is_exact(self):
        """As many as the limit allows, in one pass after the other."""
        store = Busy(1, 12_500)
        report = store.run(max_delete=5_250)

        assert report.stopped_by is StoppedBy.MAX_DELETE
        assert report.attempted == sum(len(batch) for batch in store.batches) == 5_250
        assert len(store.world.all_keys()) == 7_250
