"""Deleting many objects: exactly what was asked for is gone, whatever the store does."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bubu_storage.backend import bulk_engine, bulk_reader
from bubu_storage.backend.bulk import BulkDeleteProgress, delete_keys, delete_prefix, partial_report
from bubu_storage.backend.bulk_books import MAX_KEPT_FAILURES, Books
from bubu_storage.backend.bulk_engine import MAX_ATTEMPTS, Timer
from bubu_storage.backend.bulk_pacing import MAX_THROTTLED_IN_A_ROW, Pacer
from bubu_storage.backend.bulk_source import Item
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.prefix import PrefixBackend
from bubu_storage.backend.types import EPOCH, ListedObject, ListPage
from bubu_storage.errors import (
    BatchDeleteNotSupportedError,
    BucketNotFoundError,
    ConfigurationError,
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.testing.acceptance import keys_of
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, Operation, SimulatedCrash, Timing

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_SECONDS = 60.0


class FakeTimer(Timer):
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """The time so far."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.seconds += seconds


@pytest.fixture(autouse=True)
def timer(monkeypatch: pytest.MonkeyPatch) -> FakeTimer:
    """Pauses take no time."""
    fake = FakeTimer()
    monkeypatch.setattr(bulk_engine, "Timer", lambda: fake)
    return fake


def filled(count: int, prefix: str = "a/", size: int = 1) -> MemoryBackend:
    """A store with so many objects, and three others around them."""
    backend = MemoryBackend()
    for key in ("a", "b", ".bubu/claim"):
        backend.put_object(key, b"kept")
    for number in range(count):
        backend.put_object(f"{prefix}{number:06d}", bytes(size))
    return backend


def listed(backend: MemoryBackend) -> list[ListedObject]:
    """All objects of a store."""
    return [one for page in backend.list_objects() for one in page.objects]


class Scripted(MemoryBackend):
    """A store whose deletions go through a hook; records the sizes of its batches."""

    def __init__(self, count: int = 0) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.singles = 0
        self.on_batch: Callable[[Sequence[str]], Mapping[str, StorageError] | None] = lambda _: None
        self.on_single: Callable[[str], None] = lambda _: None
        self.in_flight = 0
        self.most_in_flight = 0
        self._guard = threading.Lock()
        for number in range(count):
            self.put_object(f"a/{number:06d}", b"x")

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Ask the hook, then delete what it does not refuse."""
        with self._guard:
            self.batches.append(len(keys))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            failed = dict(self.on_batch(keys) or {})
            rest = [key for key in keys if key not in failed]
            for key in rest:
                try:
                    MemoryBackend.delete_object(self, key, if_match=(if_match or {}).get(key, ""))
                except StorageError as error:
                    failed[key] = error
            return failed
        finally:
            with self._guard:
                self.in_flight -= 1

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Ask the hook, then delete."""
        with self._guard:
            self.singles += 1
        self.on_single(key)
        super().delete_object(key, if_match=if_match)


class WithoutBatches:
    """Hides the batches of a store."""

    def __init__(self, inner: Scripted) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "delete_objects":
            raise AttributeError(name)
        return getattr(self._inner, name)


# ---- what is deleted


def test_prefix_is_emptied_and_nothing_else() -> None:
    """Also over several pages, and with the bytes counted."""
    backend = filled(2345, size=3)
    report = delete_prefix(backend, "a/")
    assert [".bubu/claim", "a", "b"] == keys_of(backend.list_objects())
    assert (2345, 2345 * 3, 0, 3) == (
        report.deleted,
        report.deleted_bytes,
        report.failed_count,
        report.requests,
    )
    assert report.is_complete


def test_nothing_to_delete() -> None:
    """A prefix without objects and no keys at all are no error and no request."""
    counting = CountingBackend(filled(3))
    assert 0 == delete_prefix(counting, "nothing/").deleted
    assert delete_keys(counting, []).is_complete
    assert {Operation.LIST_PAGE: 1} == counting.counts


def test_keys_of_any_kind() -> None:
    """Texts and listed objects, from a generator as well; missing ones count as deleted."""
    backend = filled(30)
    report = delete_keys(backend, (f"a/{number:06d}" for number in range(10)), batch_size=3)
    assert (10, 0, 4) == (report.deleted, report.deleted_bytes, report.requests)
    some = [one for one in listed(backend) if one.key < "a/000020" and one.key.startswith("a/")]
    assert (10, 10) == (delete_keys(backend, some).deleted, len(some))
    assert 2 == delete_keys(backend, ["missing", "missing"]).deleted
    assert 10 + 3 == len(listed(backend))


def test_reserved_area_is_spared() -> None:
    """A prefix never deletes ``.bubu/``, of the store or of a folder; its keys can be named."""
    backend = filled(5)
    backend.put_object("a/.bubu/marks", b"x")
    assert 7 == delete_prefix(backend, "", everything=True).deleted
    assert [".bubu/claim", "a/.bubu/marks"] == keys_of(backend.list_objects())
    for prefix in (".bubu/", ".bubu/cl", "a/.bubu/"):
        with pytest.raises(InvalidKeyError, match="reserved"):
            delete_prefix(backend, prefix)
    assert 1 == delete_keys(backend, [".bubu/claim"]).deleted


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda backend: delete_prefix(backend, ""), InvalidKeyError, "everything=True"),
        (lambda backend: delete_prefix(backend, "/a"), InvalidKeyError, "absolute"),
        (lambda backend: delete_prefix(backend, "a/", everything=True), ConfigurationError, "contradict"),
        (lambda backend: delete_prefix(backend, "a/", concurrency=0), ConfigurationError, "concurrency is 0"),
        (lambda backend: delete_prefix(backend, "a/", batch_size=1001), ConfigurationError, "1 to 1000"),
        (lambda backend: delete_prefix(backend, "a/", batch_size=0), ConfigurationError, "batch_size is 0"),
        (lambda backend: delete_keys(backend, "a/000001"), TypeError, "several keys"),
        (lambda backend: delete_keys(backend, [b"a/000001"]), TypeError, "not bytes"),
        (lambda backend: delete_keys(backend, ["a/000001"], if_unchanged=True), TypeError, "listed objects"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    act: Callable[[MemoryBackend], object], kind: type[Exception], words: str
) -> None:
    """Before anything is deleted, with the way out in the message."""
    backend = filled(3)
    with pytest.raises(kind, match=words):
        act(backend)
    assert 6 == len(listed(backend))


def test_file_store(tmp_path: Path) -> None:
    """A directory is emptied while it is listed."""
    backend = FileBackend(tmp_path, fsync=False)
    for number in range(300):
        backend.put_object(f"a/run-{number // 7}/{number}", b"x")
    backend.put_object("ab", b"kept")
    report = delete_prefix(backend, "a/")
    assert (300, 0, 300) == (report.deleted, report.failed_count, report.deleted_bytes)
    assert ["ab"] == keys_of(backend.list_objects())


def test_store_without_batches() -> None:
    """Single deletions go side by side, each by one thread."""
    backend = Scripted(300)
    store: Any = WithoutBatches(backend)
    together = threading.Barrier(4)

    def meet(key: str) -> None:
        if int(key[2:]) % 16 == 0 and int(key[2:]) < 64:
            together.wait(DEADLINE_SECONDS)

    backend.on_single = meet
    report = delete_prefix(store, "a/", concurrency=4)
    assert (300, 300, 300) == (report.deleted, report.requests, backend.singles)
    assert [] == listed(backend)


# ---- pace


def test_batches_go_side_by_side_within_the_limit() -> None:
    """As many as asked for are in flight, and never one more; listing goes on meanwhile."""
    backend = Scripted(10_000)
    together = threading.Barrier(4)

    def meet(keys: Sequence[str]) -> None:
        if len(backend.batches) <= 4:
            together.wait(DEADLINE_SECONDS)
        del keys

    backend.on_batch = meet
    assert 10_000 == delete_prefix(backend, "a/", concurrency=4).deleted
    assert 4 == backend.most_in_flight
    assert 10 == len(backend.batches)


def test_reading_ahead_is_bounded() -> None:
    """While deletions hang, only a few batches are read: memory does not grow with the keys."""
    backend = Scripted()
    taken = 0
    release = threading.Event()
    quiet = threading.Event()

    def keys() -> Iterator[str]:
        nonlocal taken
        for number in range(3000):
            taken += 1
            if taken == (2 + 8) * 20:
                quiet.set()
            yield f"k{number}"

    def hang(_: Sequence[str]) -> None:
        assert release.wait(DEADLINE_SECONDS)

    backend.on_batch = hang
    thread = threading.Thread(target=lambda: delete_keys(backend, keys(), concurrency=2, batch_size=20))
    thread.start()
    assert quiet.wait(DEADLINE_SECONDS)
    at_rest = taken
    release.set()
    thread.join(DEADLINE_SECONDS)
    assert at_rest <= (2 + 8 + 1) * 20
    assert 150 == len(backend.batches)


def test_what_waits_for_another_try_counts_as_read(timer: FakeTimer) -> None:
    """A store that fails often for single keys does not make the memory grow either."""
    backend = Scripted()
    taken = read_at_first = 0

    def keys() -> Iterator[str]:
        nonlocal taken, read_at_first
        for number in range(4000):
            taken += 1
            if not timer.seconds:
                read_at_first = taken
            yield f"k{number}"

    def busy(keys: Sequence[str]) -> dict[str, StorageError]:
        return {} if timer.seconds else {key: UnavailableError("busy") for key in keys[1:]}

    backend.on_batch = busy
    assert 4000 == delete_keys(backend, keys(), concurrency=1, batch_size=20).deleted
    assert 8 * 20 <= read_at_first <= (8 + 3) * 20


def test_throttling_halves_what_is_in_flight_and_waits(timer: FakeTimer) -> None:
    """The store's Retry-After is kept to, and everything is deleted in the end."""
    backend = Scripted(6000)
    rejected: list[float] = []
    resumed: list[float] = []

    def throttle(_: Sequence[str]) -> None:
        if len(rejected) < 3:
            rejected.append(timer.seconds)
            raise ThrottledError("slow down", retry_after_seconds=7.0)
        resumed.append(timer.seconds)

    backend.on_batch = throttle
    report = delete_prefix(backend, "a/", concurrency=1)
    assert (6000, 9) == (report.deleted, report.requests)
    assert [0.0, 7.0, 14.0] == rejected
    assert 21.0 == min(resumed)


def test_store_that_only_throttles_is_given_up(timer: FakeTimer) -> None:
    """After a bounded time, with the store's own error."""
    backend = Scripted(50)

    def throttle(_: Sequence[str]) -> None:
        raise ThrottledError("slow down")

    backend.on_batch = throttle
    with pytest.raises(ThrottledError) as caught:
        delete_prefix(backend, "a/", concurrency=3)
    report = partial_report(caught.value)
    assert report is not None
    assert (0, MAX_THROTTLED_IN_A_ROW) == (report.deleted, report.requests)
    assert 60.0 < timer.seconds < 600.0
    assert 50 == len(listed(backend))


def test_pacer() -> None:
    """Half at the first sign, once for all requests of a time; one more a round of successes."""
    pacer = Pacer(16)
    assert pacer.has_room(15, 0.0)
    assert not pacer.has_room(16, 0.0)
    for _ in range(5):
        assert pacer.throttled(0, 10.0, None)
    assert 8.0 == pacer.limit
    assert 10.25 == pacer.resume_at
    assert not pacer.has_room(0, 10.2)
    assert pacer.has_room(7, 10.3)
    pacer.throttled(1, 11.0, 1e9)
    assert (4.0, 71.0) == (pacer.limit, pacer.resume_at)
    for _ in range(5):
        pacer.succeeded()
    assert 5.0 <= pacer.limit < 5.2
    for _ in range(1000):
        pacer.succeeded()
    assert 16.0 == pacer.limit
    for generation in range(2, 20):
        pacer.throttled(generation, 100.0, None)
    assert 1.0 == pacer.limit
    assert pacer.has_room(0, 1000.0)


# ---- refusals


@pytest.mark.parametrize("most", [999, 500, 499, 100, 99, 1])
@pytest.mark.parametrize(
    "refusal",
    [
        LimitExceededError("too many", status=413),
        StorageError("no", code="MalformedXML"),
        StorageTimeoutError("too slow"),
    ],
)
def test_server_that_refuses_large_batches(most: int, refusal: StorageError) -> None:
    """Smaller ones are sent instead, down to single deletions, and all is deleted."""
    backend = Scripted(4000)

    def refuse(keys: Sequence[str]) -> None:
        if len(keys) > most:
            raise refusal

    backend.on_batch = refuse
    assert delete_prefix(backend, "a/", concurrency=1).is_complete
    assert [] == listed(backend)
    refused = [size for size in backend.batches if size > most]
    # What was learned from the first refusals is used for the rest.
    assert len(refused) <= (3 if most >= 100 else 4 * 13)


def test_one_bad_key_spoils_no_other_and_no_size() -> None:
    """A key that makes any batch fail is isolated; later batches are as large as before."""
    backend = Scripted(5000)
    bad = "a/000123"

    def spoiled(keys: Sequence[str]) -> None:
        if bad in keys:
            raise StorageError("cannot be read", code="MalformedXML")

    def refuse(key: str) -> None:
        if key == bad:
            raise StorageError("this one", key=key)

    backend.on_batch, backend.on_single = spoiled, refuse
    report = delete_prefix(backend, "a/", concurrency=1)
    assert (4999, [bad], 1) == (report.deleted, list(report.failed), report.failed_count)
    assert not report.is_complete
    assert 5 == backend.batches.count(1000)
    assert 100 == backend.singles


@pytest.mark.parametrize("error", [BatchDeleteNotSupportedError("none"), UnsupportedOperationError("none")])
def test_store_that_turns_out_to_have_no_batches(error: StorageError) -> None:
    """One refusal a batch in flight, and single deletions from there on."""
    backend = Scripted(2500)

    def refuse(_: Sequence[str]) -> None:
        raise error

    backend.on_batch = refuse
    assert delete_prefix(backend, "a/", concurrency=1).is_complete
    assert ([1000], 2500) == (backend.batches, backend.singles)


def test_single_deletions_on_demand() -> None:
    """A batch size of 1 never sends a batch."""
    backend = Scripted(40)
    assert delete_prefix(backend, "a/", batch_size=1).is_complete
    assert ([], 40) == (backend.batches, backend.singles)


@pytest.mark.parametrize("batches", [True, False])
def test_throttled_single_deletions_go_on_where_they_were(batches: bool) -> None:
    """What was deleted before the rejection is not sent again."""
    backend = Scripted(40)
    sent: list[str] = []

    def throttle(key: str) -> None:
        sent.append(key)
        if len(sent) in (5, 6, 20):
            raise ThrottledError("slow down")

    backend.on_single = throttle
    store: Any = backend if batches else WithoutBatches(backend)
    report = delete_prefix(store, "a/", batch_size=1 if batches else 1000, concurrency=1)
    assert (40, 43) == (report.deleted, len(sent))


# ---- failures


def test_partial_failures_are_retried_and_then_reported() -> None:
    """What may pass is tried a few times, the rest once; the report names each key, in order."""
    backend = Scripted(1000)
    tries: dict[str, int] = {}

    def partly(keys: Sequence[str]) -> dict[str, StorageError]:
        for key in keys:
            tries[key] = tries.get(key, 0) + 1
        failed: dict[str, StorageError] = {}
        for key in keys:
            number = int(key[2:])
            if number % 100 == 7:
                failed[key] = StorageError("locked", key=key)
            elif number % 100 == 8 or (number % 100 == 9 and tries[key] < MAX_ATTEMPTS):
                failed[key] = UnavailableError("busy", key=key)
        return failed

    backend.on_batch = partly
    report = delete_prefix(backend, "a/", concurrency=2)
    wanted = [f"a/{hundred}{number:02d}" for hundred in range(10) for number in (7, 8)]
    assert [f"a/{int(key[2:]):06d}" for key in wanted] == list(report.failed)
    assert (980, 20) == (report.deleted, report.failed_count)
    assert [1, MAX_ATTEMPTS, MAX_ATTEMPTS, 1] == [tries[f"a/00000{number}"] for number in (7, 8, 9, 6)]


def test_failures_are_kept_in_order_and_within_bounds() -> None:
    """A report names the first failures in the order given and counts the others."""
    count = 4 * MAX_KEPT_FAILURES
    backend = Scripted()

    def locked(keys: Sequence[str]) -> dict[str, StorageError]:
        return {key: StorageError("locked") for key in keys}

    backend.on_batch = locked
    keys = [f"k{number}" for number in range(count)]
    report = delete_keys(backend, keys, batch_size=70)
    assert count == report.failed_count
    assert keys[:MAX_KEPT_FAILURES] == list(report.failed)


def test_lost_answers_are_asked_for_again() -> None:
    """A request that fails as a whole is repeated: nothing may be assumed."""
    fault = Fault(operations=frozenset({Operation.DELETE_MANY}), times=2, timing=Timing.AFTER)
    report = delete_prefix(FaultBackend(filled(1500), fault), "a/", concurrency=1)
    assert (1500, 4) == (report.deleted, report.requests)


def test_store_that_is_down_ends_it() -> None:
    """After a bounded number of requests, with the store's error and nothing deleted."""
    backend = Scripted(5000)

    def down(_: object) -> None:
        raise UnavailableError("down")

    backend.on_batch = down
    backend.on_single = down
    with pytest.raises(UnavailableError) as caught:
        delete_prefix(backend, "a/", concurrency=2)
    report = partial_report(caught.value)
    assert report is not None
    assert report.stopped
    assert 0 == report.deleted
    assert len(backend.batches) < 30
    assert 5000 == len(listed(backend))


def test_store_that_hangs_ends_it_sooner() -> None:
    """Each request takes the whole time limit: a few rounds are enough."""
    backend = Scripted(5000)

    def hang(_: object) -> None:
        raise StorageTimeoutError("no answer")

    backend.on_batch = backend.on_single = hang
    with pytest.raises(StorageTimeoutError):
        delete_prefix(backend, "a/", concurrency=1)
    assert [1000, 500, 100] == backend.batches
    assert backend.singles == 3


def test_store_without_batches_that_is_down_ends_it() -> None:
    """Single deletions are not tried for each of the keys."""
    backend = Scripted(5000)

    def down(_: object) -> None:
        raise UnavailableError("down")

    backend.on_single = down
    store: Any = WithoutBatches(backend)
    with pytest.raises(UnavailableError):
        delete_prefix(store, "a/", concurrency=2)
    assert backend.singles < 150
    assert 5000 == len(listed(backend))


@pytest.mark.parametrize("error", [BucketNotFoundError("gone"), PermissionDeniedError("denied")])
def test_fatal_error_ends_it_with_what_was_deleted(error: StorageError) -> None:
    """No further request is sent, and the error carries the report."""
    backend = Scripted(9000)

    def third(_: Sequence[str]) -> None:
        if len(backend.batches) == 3:
            raise error

    backend.on_batch = third
    with pytest.raises(type(error)) as caught:
        delete_prefix(backend, "a/", concurrency=1)
    assert error is caught.value
    report = partial_report(caught.value)
    assert report is not None
    assert (2000, 3, True, False) == (report.deleted, report.requests, report.stopped, report.is_complete)
    assert 7000 == len(listed(backend))
    assert any("2000 objects" in note for note in caught.value.__notes__)


def test_who_may_delete_nothing_is_told_at_once() -> None:
    """Stores that deny key by key in a good answer: after one batch, not after all of them."""
    backend = Scripted(9000)

    def deny(keys: Sequence[str]) -> dict[str, StorageError]:
        return {key: PermissionDeniedError("denied", key=key) for key in keys}

    backend.on_batch = deny
    with pytest.raises(PermissionDeniedError):
        delete_prefix(backend, "a/", concurrency=1)
    assert [1000] == backend.batches


def test_single_denied_key_is_merely_reported() -> None:
    """Where others may be deleted, a denied one is a failure like any other."""
    backend = Scripted(3)

    def deny(keys: Sequence[str]) -> dict[str, StorageError]:
        return {keys[1]: PermissionDeniedError("denied", key=keys[1])}

    backend.on_batch = deny
    assert ["a/000001"] == list(delete_prefix(backend, "a/").failed)


@pytest.mark.parametrize("error", [UnavailableError("busy"), ThrottledError("slow down")])
def test_listing_that_breaks_off_goes_on(error: StorageError) -> None:
    """A listing is taken up after its last key, some times."""
    fault = Fault(nth=3, times=2, operations=frozenset({Operation.LIST_PAGE}), error=lambda: error)
    backend = filled(4500)
    assert 4500 == delete_prefix(FaultBackend(backend, fault), "a/").deleted
    assert 3 == len(listed(backend))


def test_listing_that_stays_broken_ends_it() -> None:
    """What had been listed before may have been deleted, and the report says how much."""
    fault = Fault(nth=3, times=0, operations=frozenset({Operation.LIST_PAGE}))
    backend = filled(4500)
    with pytest.raises(UnavailableError) as caught:
        delete_prefix(FaultBackend(backend, fault), "a/")
    report = partial_report(caught.value)
    assert report is not None
    assert 4500 + 3 - len(listed(backend)) == report.deleted <= 2000


def test_error_of_the_keys_themselves() -> None:
    """It comes out as it is, after what was in flight."""

    def keys() -> Iterator[str]:
        yield from (f"a/{number:06d}" for number in range(10))
        raise LookupError("no more")

    backend = filled(20)
    with pytest.raises(LookupError) as caught:
        delete_keys(backend, keys(), batch_size=2)
    report = partial_report(caught.value)
    assert report is not None
    assert 20 + 3 - len(listed(backend)) == report.deleted <= 10


def test_other_errors_have_no_report() -> None:
    """An error that comes from elsewhere."""
    assert partial_report(StorageError("other")) is None


@pytest.mark.parametrize("nth", [1, 2, 5, 9])
@pytest.mark.parametrize("timing", list(Timing))
def test_crash_in_the_middle(nth: int, timing: Timing) -> None:
    """Not even an error that is no `Exception` gets lost in a thread; no thread is left behind."""
    before = set(threading.enumerate())
    backend = filled(6500)
    with pytest.raises(SimulatedCrash):
        delete_prefix(FaultBackend(backend, Fault.crash(nth, timing)), "a/", concurrency=3)
    assert before == set(threading.enumerate())
    assert {"a", "b", ".bubu/claim"} <= set(keys_of(backend.list_objects()))


# ---- stores that cannot be believed


class Lister(MemoryBackend):
    """A store that lists what a test says, from the n-th listing on."""

    def __init__(self, *listings: list[list[str]]) -> None:
        super().__init__()
        self.listings = list(listings)
        for key in {key for pages in listings for page in pages for key in page if key}:
            self.put_object(key, b"x")

    def has(self, key: str) -> bool:
        """Whether an object is still there."""
        return any(key == one.key for page in super().list_objects() for one in page.objects)

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Give the next listing; an empty text stands for a failure."""
        del prefix, start_after, page_size
        for page in self.listings.pop(0):
            if page == [""]:
                raise UnavailableError("listing broke off")
            yield ListPage(tuple(ListedObject(key, 1, "etag", EPOCH) for key in page))


@pytest.mark.parametrize("stray", ["a", "b/1", "A/1", ".bubu/claim", "a\\1"])
def test_listing_of_what_was_not_asked_for_deletes_nothing_of_it(stray: str) -> None:
    """A store that ignores the prefix would otherwise lose all that it has."""
    backend = Lister([["a/0"], sorted(["a/1", stray, "a/2"]), ["a/3"]])
    with pytest.raises(StorageError, match="does not begin with") as caught:
        delete_prefix(backend, "a/", batch_size=1)
    assert "ListingPrefix" == caught.value.code
    assert [] == [key for key in (stray, "a/1", "a/2", "a/3") if not backend.has(key)]
    report = partial_report(caught.value)
    assert report is not None
    assert 1 >= report.deleted


@pytest.mark.parametrize(
    "listings",
    [
        ([["a/1", "a/2"], ["a/1", "a/2"]],),
        ([["a/2", "a/1"]],),
        ([["a/1", "a/1"]],),
        ([["a/1", "a/2"], [""]], [["a/1"], ["a/2", "a/3"]]),
    ],
    ids=["repeated", "out of order", "doubled", "not taken up where it broke off"],
)
def test_listing_that_repeats_itself_or_has_no_order(listings: tuple[list[list[str]], ...]) -> None:
    """Nothing would be counted right, and what comes after a break might be passed over."""
    with pytest.raises(StorageError, match="byte order") as caught:
        delete_prefix(Lister(*listings), "a/")
    assert "ListingOrder" == caught.value.code
    report = partial_report(caught.value)
    assert report is not None
    assert report.deleted <= 3


def test_empty_page_is_passed_over() -> None:
    """The contract knows none; a store that has some all the same loses nothing by it."""
    report = delete_prefix(Lister([["a/1"], [], ["a/2"]]), "a/")
    assert (2, True) == (report.deleted, report.is_complete)


class Garbled(Scripted):
    """A store that tells a key by another name where it failed."""

    named = ""

    def delete_objects(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] | None = None
    ) -> dict[str, StorageError]:
        """Rename what failed."""
        failed = super().delete_objects(keys, if_match=if_match)
        return dict.fromkeys([self.named] * len(failed), StorageError("locked"))


@pytest.mark.parametrize("named", ["", "a/000001 ", "b"])
def test_failure_of_a_key_that_was_not_asked_for(named: str) -> None:
    """It is one of the batch's keys under another name: which one must be found out."""
    backend = Garbled(300)
    backend.named = named

    def locked(keys: Sequence[str]) -> dict[str, StorageError]:
        return {key: StorageError("locked") for key in keys if key == "a/000001"}

    def refuse(key: str) -> None:
        if key == "a/000001":
            raise StorageError("locked", key=key)

    backend.on_batch, backend.on_single = locked, refuse
    report = delete_prefix(backend, "a/", concurrency=1)
    assert (299, ["a/000001"]) == (report.deleted, list(report.failed))
    assert ["a/000001"] == [one.key for one in listed(backend)]


@pytest.mark.parametrize("error", [UnavailableError("busy"), StorageTimeoutError("slow")])
def test_single_keys_that_cannot_be_deleted_hold_up_no_other(error: StorageError) -> None:
    """Not even several of them side by side: what was not sent is never taken for failed."""
    backend = Scripted(200)
    bad = {f"a/{number:06d}" for number in range(100, 114)}

    def refuse(key: str) -> None:
        if key in bad:
            raise error

    backend.on_single = refuse
    # Where nothing but these is left, a store that takes the whole time limit for each counts as down.
    with contextlib.suppress(StorageTimeoutError):
        assert sorted(bad) == list(delete_prefix(backend, "a/", concurrency=4, batch_size=1).failed)
    assert sorted(bad) == [one.key for one in listed(backend)]


@pytest.mark.parametrize("known", [False, True])
def test_batches_that_the_store_only_imitates_are_not_sent(known: bool) -> None:
    """Deleted one after the other inside a call, they would neither go side by side nor stop."""
    backend: Any = Scripted(5000)
    backend.bulk_delete_is_emulated = known

    def imitate(_: Sequence[str]) -> None:
        backend.bulk_delete_is_emulated = True

    backend.on_batch = imitate
    report = delete_prefix(PrefixBackend(backend, "a/"), "0", concurrency=1)
    assert (5000, True) == (report.deleted, report.is_complete)
    assert ([], 5000) == (backend.batches, backend.singles) or not known
    assert ([1000], 4000) == (backend.batches, backend.singles) or known


def test_listing_is_taken_up_after_its_last_key_when_the_store_has_rested(timer: FakeTimer) -> None:
    """Not from its beginning, and not at once."""
    asked: list[tuple[str, float]] = []
    errors = [UnavailableError("busy"), ThrottledError("slow down", retry_after_seconds=7.0)]

    class Breaking(MemoryBackend):
        def list_objects(
            self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
        ) -> Iterator[ListPage]:
            del page_size
            asked.append((start_after, timer.seconds))
            pages = super().list_objects(prefix, start_after=start_after, page_size=2)
            if not start_after:
                yield next(pages)
            if errors:
                raise errors.pop(0)
            yield from pages

    backend = Breaking()
    for number in range(6):
        backend.put_object(f"a/{number}", b"x")
    assert 6 == delete_prefix(backend, "a/", concurrency=1).deleted
    (first, _), (second, after_error), (third, after_throttling) = asked
    assert ("", "a/1", "a/1") == (first, second, third)
    assert 0.2 <= after_error < 7.0 <= after_throttling


def test_listing_that_breaks_off_again_and_again_comes_to_its_end() -> None:
    """What counts is how often it failed without a page in between."""

    class Worn(MemoryBackend):
        def list_objects(
            self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
        ) -> Iterator[ListPage]:
            del page_size
            for page in super().list_objects(prefix, start_after=start_after, page_size=2):
                yield page
                raise UnavailableError("busy")

    backend = Worn()
    for number in range(20):
        backend.put_object(f"a/{number:02d}", b"x")
    assert 20 == delete_prefix(backend, "a/").deleted


def test_failures_beyond_those_that_are_named_are_let_go() -> None:
    """Each may hold a whole answer of the store."""
    books = Books()
    errors = [weakref.ref(add_failure(books, number)) for number in range(5 * MAX_KEPT_FAILURES)]
    gc.collect()
    assert sum(error() is not None for error in errors) < 2 * MAX_KEPT_FAILURES
    assert 5 * MAX_KEPT_FAILURES == books.report(stopped=False).failed_count


def add_failure(books: Books, number: int) -> StorageError:
    """Enter a failure and return its error."""
    error = StorageError("locked")
    books.add_failed(Item(number, f"k{number}", 0, ""), error)
    return error


def test_store_that_throttles_now_and_then_is_not_given_up() -> None:
    """Successes in between show that it works."""
    pacer = Pacer(4)
    for number in range(3 * MAX_THROTTLED_IN_A_ROW):
        assert pacer.throttled(number, 0.0, None)
        pacer.succeeded()


@pytest.mark.parametrize(
    "error", [BucketNotFoundError("gone"), UnauthenticatedError("who"), ConfigurationError("wrong")]
)
@pytest.mark.parametrize("way", ["batch", "key of a batch", "single"])
def test_what_no_request_escapes_ends_it_at_once(error: StorageError, way: str) -> None:
    """Whether the store says so of a request or of a key."""
    backend = Scripted(3000)

    def refuse(keys: object) -> dict[str, StorageError]:
        if way == "key of a batch" and not isinstance(keys, str):
            return {keys[5]: error}  # type: ignore[index]
        raise error

    backend.on_batch = backend.on_single = refuse
    with pytest.raises(type(error)) as caught:
        delete_prefix(backend, "a/", concurrency=1, batch_size=1 if way == "single" else 1000)
    assert error is caught.value
    assert 1 == len(backend.batches) + backend.singles


def test_keys_that_a_batch_does_not_find_are_gone() -> None:
    """As everywhere: a missing object counts as deleted."""
    backend = Scripted(20)
    backend.on_batch = lambda keys: {keys[3]: ObjectNotFoundError("none"), keys[4]: StorageError("locked")}
    report = delete_prefix(backend, "a/")
    assert (19, ["a/000004"]) == (report.deleted, list(report.failed))


def test_denied_batches_are_reported_where_others_were_deleted() -> None:
    """Then it is about these keys, and not about who deletes."""
    backend = Scripted(3000)

    def deny(keys: Sequence[str]) -> dict[str, StorageError]:
        error = PermissionDeniedError("denied")
        return dict.fromkeys(keys, error) if len(backend.batches) == 2 else {}

    backend.on_batch = deny
    report = delete_prefix(backend, "a/", concurrency=1)
    assert (2000, 1000) == (report.deleted, report.failed_count)


@pytest.fixture
def finishing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when an operation waits for what is in flight."""
    event = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            event.set()
            super().shutdown(wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(bulk_engine, "ThreadPoolExecutor", Pool)
    return event


@pytest.mark.parametrize(
    "late",
    [
        None,
        BucketNotFoundError("late"),
        ThrottledError("late"),
        LimitExceededError("late"),
        UnavailableError("late"),
    ],
)
def test_what_is_in_flight_at_the_end_is_booked(finishing: threading.Event, late: Exception | None) -> None:
    """The first error comes out, whatever else still arrives, and the report counts what came with it."""
    backend = Scripted(2000)
    both = threading.Barrier(2)

    def act(keys: Sequence[str]) -> dict[str, StorageError]:
        both.wait(DEADLINE_SECONDS)
        if keys[0] == "a/000000":
            raise RuntimeError("first")
        assert finishing.wait(DEADLINE_SECONDS)
        if late is not None and not isinstance(late, UnavailableError):
            raise late
        return {} if late is None else {keys[7]: late}

    backend.on_batch = act
    with pytest.raises(RuntimeError, match="first") as caught:
        delete_prefix(backend, "a/", concurrency=2)
    report = partial_report(caught.value)
    assert report is not None
    assert 2000 - len(listed(backend)) == report.deleted
    failed = {UnavailableError: 1, LimitExceededError: 1000}
    assert failed.get(type(late), 0) == report.failed_count
    assert 2 == report.requests


@pytest.mark.parametrize("nth", range(1, 9))
def test_interrupt_between_two_steps_loses_no_answer(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes wherever the calling thread is, mostly where that has waited; the report is true even so."""

    class Arrivals(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            nonlocal nth
            super().get(block, timeout)
            nth -= 1
            if not nth:
                raise KeyboardInterrupt

    monkeypatch.setattr(bulk_engine, "SimpleQueue", Arrivals)
    backend = filled(6500)
    with pytest.raises(KeyboardInterrupt) as caught:
        delete_prefix(backend, "a/", concurrency=2)
    report = partial_report(caught.value)
    assert report is not None
    assert 6503 - len(listed(backend)) == report.deleted


def test_listing_in_flight_is_waited_for(finishing: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store answers within its time limits: it is not used any more when the call has returned."""
    monkeypatch.setattr(bulk_reader, "LET_GO_SECONDS", 0.0)
    ended = threading.Event()

    class Long(Scripted):
        def list_objects(
            self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
        ) -> Iterator[ListPage]:
            pages = super().list_objects(prefix, start_after=start_after, page_size=page_size)
            yield next(pages)
            assert finishing.wait(DEADLINE_SECONDS)
            assert not ended.wait(0.1)
            yield from pages

    backend = Long(2000)

    def fail(_: Sequence[str]) -> None:
        raise RuntimeError("first")

    backend.on_batch = fail
    with pytest.raises(RuntimeError, match="first"):
        delete_prefix(backend, "a/")
    ended.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "bubu-bulk-read"]


def test_single_deletions_in_flight_stop_at_the_end(finishing: threading.Event) -> None:
    """Those that had not been sent are not."""
    backend = Scripted(32)
    both = threading.Barrier(2)

    def act(key: str) -> None:
        if key in {"a/000000", "a/000016"}:
            both.wait(DEADLINE_SECONDS)
        if key == "a/000000":
            raise RuntimeError("first")
        if key == "a/000016":
            assert finishing.wait(DEADLINE_SECONDS)

    backend.on_single = act
    with pytest.raises(RuntimeError, match="first") as caught:
        delete_prefix(backend, "a/", concurrency=2, batch_size=1)
    report = partial_report(caught.value)
    assert report is not None
    assert (1, 31, 2) == (report.deleted, len(listed(backend)), report.requests)


# ---- stopping and progress


def test_stop_ends_it_after_what_is_in_flight() -> None:
    """The report counts what was deleted by then, and says that it was stopped."""
    backend = Scripted(9000)
    stop = threading.Event()

    def second(_: Sequence[str]) -> None:
        if len(backend.batches) == 2:
            stop.set()

    backend.on_batch = second
    report = delete_prefix(backend, "a/", concurrency=1, stop=stop)
    assert (True, 2000, 7000) == (report.stopped, report.deleted, len(listed(backend)))
    assert not report.is_complete


def test_stop_before_the_start() -> None:
    """Nothing is sent at all."""
    counting = CountingBackend(filled(3))
    stop = threading.Event()
    stop.set()
    assert delete_prefix(counting, "a/", stop=stop).stopped
    assert 0 == counting.total


def test_stop_after_the_end_changes_nothing() -> None:
    """What has come to its end was not stopped."""
    stop = threading.Event()

    def enough(progress: BulkDeleteProgress) -> None:
        if progress.deleted == 2345:
            stop.set()

    report = delete_keys(
        filled(2345), [f"a/{number:06d}" for number in range(2345)], on_progress=enough, stop=stop
    )
    assert (2345, False, True) == (report.deleted, report.stopped, report.is_complete)


@pytest.fixture
def no_reader_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Left behind soon, and gone when its keys have come."""
    monkeypatch.setattr(bulk_reader, "LET_GO_SECONDS", 0.05)
    yield
    for thread in threading.enumerate():
        if thread.name == "bubu-bulk-read":
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()


class Endless:
    """Keys that do not come: like those of a person who types, or of a pipe that stays open."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.asked = threading.Event()
        self.release = threading.Event()

    def __iter__(self) -> Iterator[str]:
        """Give some keys and then wait for the end of the test."""
        yield from (f"a/{number:06d}" for number in range(self.first))
        self.asked.set()
        self.release.wait(DEADLINE_SECONDS)


@pytest.mark.usefixtures("no_reader_left")
@pytest.mark.parametrize("first", [0, 40])
def test_keys_that_do_not_come_do_not_hold_up_a_stop(first: int) -> None:
    """Nobody can end the caller's own waiting; it is left behind."""
    keys, stop = Endless(first), threading.Event()
    reports: list[Any] = []
    backend = filled(50)
    thread = threading.Thread(
        target=lambda: reports.append(delete_keys(backend, keys, batch_size=20, stop=stop))
    )
    thread.start()
    assert keys.asked.wait(DEADLINE_SECONDS)
    stop.set()
    thread.join(DEADLINE_SECONDS / 2)
    assert not thread.is_alive()
    keys.release.set()
    assert (True, 53 - reports[0].deleted) == (reports[0].stopped, len(listed(backend)))


@pytest.mark.usefixtures("no_reader_left")
def test_keys_that_do_not_come_do_not_hold_up_an_error() -> None:
    """An interrupt, say, comes out in spite of them."""
    keys = Endless(40)
    backend = Scripted(50)

    def interrupt(_: Sequence[str]) -> None:
        assert keys.asked.wait(DEADLINE_SECONDS)
        raise KeyboardInterrupt

    backend.on_batch = interrupt
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:
        delete_keys(backend, keys, batch_size=20)
    keys.release.set()
    assert time.monotonic() - started < DEADLINE_SECONDS / 2
    report = partial_report(caught.value)
    assert report is not None
    assert (0, 50) == (report.deleted, len(listed(backend)))


def test_error_while_the_listing_is_closed_hides_no_other() -> None:
    """What ended it comes out, with the report."""

    class Clinging(MemoryBackend):
        def list_objects(
            self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
        ) -> Iterator[ListPage]:
            try:
                yield from super().list_objects(prefix, start_after=start_after, page_size=page_size)
            finally:
                raise UnavailableError("cannot be closed")

    backend = Clinging()
    for number in range(12_000):
        backend.put_object(f"a/{number:06d}", b"x")

    def interrupt(progress: BulkDeleteProgress) -> None:
        if progress.deleted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        delete_prefix(backend, "a/", concurrency=1, on_progress=interrupt)
    assert partial_report(caught.value) is not None


def test_stop_while_the_store_throttles(timer: FakeTimer) -> None:
    """A long pause is cut short."""
    backend = Scripted(10)
    stop = threading.Event()

    def throttle(_: Sequence[str]) -> None:
        stop.set()
        raise ThrottledError("slow down", retry_after_seconds=50.0)

    backend.on_batch = throttle
    assert delete_prefix(backend, "a/", stop=stop).stopped
    assert timer.seconds < 1.0


def test_progress_comes_from_the_calling_thread_and_only_grows() -> None:
    """The last one agrees with the report."""
    backend = filled(5500, size=2)
    seen: list[BulkDeleteProgress] = []
    threads: set[int] = set()

    def note(progress: BulkDeleteProgress) -> None:
        threads.add(threading.get_ident())
        seen.append(progress)

    report = delete_prefix(backend, "a/", on_progress=note)
    assert {threading.get_ident()} == threads
    assert sorted(seen, key=lambda one: (one.found, one.deleted)) == seen
    assert BulkDeleteProgress(5500, 5500, 0, 11_000) == seen[-1]
    assert 5500 == report.deleted


def test_progress_may_end_it() -> None:
    """An interrupt in the calling thread stops the sending and comes out."""
    backend = filled(9500)

    def interrupt(progress: BulkDeleteProgress) -> None:
        if progress.deleted >= 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        delete_prefix(backend, "a/", concurrency=1, on_progress=interrupt)
    report = partial_report(caught.value)
    assert report is not None
    assert 9503 - len(listed(backend)) == report.deleted < 9000


# ---- conditions


@pytest.mark.parametrize("batch_size", [1000, 1])
def test_changed_objects_are_spared(batch_size: int) -> None:
    """What was replaced after the listing stays and is reported, in batches and singly."""
    backend = filled(50)
    entries = [one for one in listed(backend) if one.key.startswith("a/")]
    for number in (3, 30):
        backend.put_object(f"a/{number:06d}", b"new")
    report = delete_keys(backend, entries, if_unchanged=True, batch_size=batch_size)
    assert (48, ["a/000003", "a/000030"]) == (report.deleted, list(report.failed))
    assert all(isinstance(error, PreconditionFailedError) for error in report.failed.values())
    assert ["a/000003", "a/000030"] == [one.key for one in listed(backend) if one.key.startswith("a/")]


def test_objects_without_etag_are_spared() -> None:
    """Where nothing can be compared, nothing is deleted."""
    backend = filled(2)
    entries = [ListedObject("a/000000", 1, "", one.last_modified) for one in listed(backend)[:1]]
    report = delete_keys(backend, entries, if_unchanged=True)
    assert (0, ["a/000000"]) == (report.deleted, list(report.failed))
    assert 5 == len(listed(backend))


def test_store_without_conditions_deletes_nothing() -> None:
    """If ETags cannot be compared, that is an error and no reason to delete anyway."""
    backend = Scripted(20)

    def refuse(_: object) -> None:
        raise UnsupportedOperationError("no conditions")

    backend.on_batch, backend.on_single = refuse, refuse
    with pytest.raises(UnsupportedOperationError):
        delete_prefix(backend, "a/", if_unchanged=True)
    assert 20 == len(listed(backend))


# ---- whatever happens

ERRORS = st.sampled_from(
    [
        UnavailableError("busy"),
        StorageTimeoutError("slow"),
        ThrottledError("slow down", retry_after_seconds=1.0),
        StorageError("odd"),
        PermissionDeniedError("denied"),
        BatchDeleteNotSupportedError("none"),
        BucketNotFoundError("gone"),
        RuntimeError("a defect"),
    ]
)
FAULTS = st.lists(
    st.builds(
        lambda nth, times, operations, key, timing, error: Fault(
            nth=nth,
            times=times,
            operations=operations,
            key_contains=key,
            timing=timing,
            error=lambda: error,
        ),
        nth=st.integers(1, 12),
        times=st.integers(0, 6),
        operations=st.sampled_from(
            [
                frozenset({Operation.DELETE_MANY}),
                frozenset({Operation.DELETE}),
                frozenset({Operation.LIST_PAGE}),
                frozenset({Operation.DELETE_MANY, Operation.DELETE}),
            ]
        ),
        key=st.sampled_from(["", "a/00001", "7"]),
        timing=st.sampled_from(list(Timing)),
        error=ERRORS,
    ),
    max_size=4,
)


@given(
    count=st.integers(0, 60),
    faults=FAULTS,
    concurrency=st.integers(1, 4),
    batch_size=st.sampled_from([1, 2, 7, 25, 1000]),
    conditional=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_the_asked_for_objects_are_gone(
    count: int, faults: list[Fault], concurrency: int, batch_size: int, conditional: bool
) -> None:
    """Others always stay; the report is true; without an error every object is gone or reported."""
    for fault in faults:
        fault.seen = fault.struck = 0
    inner = filled(count)
    report = None
    try:
        report = delete_prefix(
            FaultBackend(inner, *faults),
            "a/",
            concurrency=concurrency,
            batch_size=batch_size,
            if_unchanged=conditional,
        )
    except (StorageError, RuntimeError) as error:
        partial = partial_report(error)
        assert partial is not None
        assert partial.deleted <= count + 3 - len(listed(inner))
    left = keys_of(inner.list_objects())
    assert [".bubu/claim", "a", "b"] == [key for key in left if not key.startswith("a/")]
    if report is not None:
        assert not report.stopped
        assert count == report.deleted + report.failed_count
        assert {key for key in left if key.startswith("a/")} <= set(report.failed)
