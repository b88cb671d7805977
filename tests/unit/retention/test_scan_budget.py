"""List entries that a pass may ask for, and a run that is gone on with by a later pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bubu_storage.backend.types import ListedObject, ListPage
from bubu_storage.errors import PermissionDeniedError, ThrottledError
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.scan import MAX_PAGE_SIZE, Listing, OpenRun, ScanBudget
from tests.unit.retention.world import START, FakeTime


class Store:
    """A store with so many objects that takes some time for each page."""

    name = "store://"

    def __init__(self, count: int, *, time: FakeTime | None = None, fails: bool = False) -> None:
        self.count = count
        self.time = time
        self.fails = fails
        self.asked: list[int] = []

    def list_objects(self, prefix: str = "", *, start_after: str = "", page_size: int = 1000):
        """List numbered objects."""
        number = int(start_after.removeprefix(prefix)) + 1 if start_after else 0
        while number < self.count:
            self.asked.append(page_size)
            if self.time is not None:
                self.time.advance(1.5)
            if self.fails:
                raise PermissionDeniedError("no ListBucket")
            keys = range(number, min(number + page_size, self.count))
            yield ListPage(tuple(ListedObject(f"{prefix}{key:06}", 1, "", START) for key in keys))
            number = keys[-1] + 1


def listing_of(store: Store, scans: ScanBudget | None = None, time: FakeTime | None = None) -> Listing:
    """Return a listing whose gate lets everything through."""
    time = time or FakeTime()
    gate = Gate(
        monotonic=time.monotonic,
        sleep=time.sleep,
        should_stop=lambda: False,
        budget_seconds=1000,
        requests_per_second=0,
    )
    return Listing(store, gate, "p/", scans=scans)


def test_entries_are_set_aside_before_they_are_asked_for():
    """What did not come may be asked for again; there are never more than the whole."""
    scans = ScanBudget(10)
    assert (scans.most, scans.left, scans.received) == (10, 10, 0)

    assert scans.take(4) == 4
    assert scans.left == 6
    assert scans.take(100) == 6
    assert scans.take(1) == 0

    scans.settle(4, 3)
    assert (scans.left, scans.received) == (1, 3)
    scans.settle(6, 6)
    assert (scans.left, scans.received) == (1, 9)
    assert scans.take(5) == 1


def test_nothing_can_be_set_aside_by_asking_for_less_than_nothing():
    """Nor does that give anything back."""
    scans = ScanBudget(3)

    assert scans.take(-2) == 0
    assert scans.left == 3


def test_a_listing_stops_when_all_entries_are_used():
    """The last page is as small as what is left; then the pass ends and says how many there were."""
    store, scans = Store(100), ScanBudget(15)
    listing = listing_of(store, scans)

    assert [len(listing.next_page(10) or ()) for _ in range(2)] == [10, 5]
    assert store.asked == [10, 5]
    with pytest.raises(PassStoppedError, match="all 15 list entries of the pass are used") as stopped:
        listing.next_page(10)

    assert stopped.value.reason is StoppedBy.MAX_SCAN
    assert (scans.left, scans.received) == (0, 15)


def test_entries_that_a_listing_did_not_get_are_given_back():
    """At its end, and when the store fails."""
    scans = ScanBudget(100)
    listing = listing_of(Store(3), scans)
    assert len(listing.next_page(10) or ()) == 3
    assert listing.next_page(10) is None
    assert (scans.left, scans.received) == (97, 3)

    with pytest.raises(PassStoppedError, match="no ListBucket"):
        listing_of(Store(3, fails=True), scans).next_page(10)
    assert (scans.left, scans.received) == (97, 3)


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_page_has_no_more_entries_than_a_store_gives(is_counted):
    """Whatever is asked for, with a budget or without one."""
    store, scans = Store(MAX_PAGE_SIZE + 1), ScanBudget(10_000) if is_counted else None
    listing = listing_of(store, scans)

    assert len(listing.next_page(5_000) or ()) == MAX_PAGE_SIZE
    assert store.asked == [MAX_PAGE_SIZE]
    assert scans is None or scans.left == 10_000 - MAX_PAGE_SIZE


def test_the_time_that_a_page_takes_is_noted():
    """How fresh a listing must be depends on it."""
    time = FakeTime()
    listing = listing_of(Store(10, time=time), time=time)
    listing.next_page(5)

    assert listing._gate.latency_seconds == 1.5


def test_a_listing_goes_on_where_it_was_told_to():
    """What was listed before is not believed for the rest."""
    listing = listing_of(Store(10))
    listing.next_page(2)
    listing.seek("p/000006")

    assert [entry.key for entry in listing.next_page(2) or ()] == ["p/000007", "p/000008"]


class Written:
    """A store whose listings are written down, of whatever size the pages are that it is asked for."""

    name = "written://"

    def __init__(self, *listings: list[str]) -> None:
        self.listings = list(listings)
        self.begun: list[str] = []

    def list_objects(self, prefix: str = "", *, start_after: str = "", page_size: int = 1000):
        """Tell the next listing: pages are texts whose letters are keys."""
        assert (prefix, page_size) == ("p/", 2)
        self.begun.append(start_after)
        for page in self.listings.pop(0) if self.listings else []:
            yield ListPage(tuple(ListedObject(f"p/{letter}", 1, "", START) for letter in page))


def read(listing: Listing) -> str:
    """Return the letters of all keys, page by page."""
    pages: list[str] = []
    while (page := listing.next_page(2)) is not None:
        pages.append("".join(entry.key.removeprefix("p/") for entry in page))
    return " ".join(pages)


def test_what_was_cut_off_a_page_is_not_skipped():
    """A store that ignores the page size goes on behind what it gave, and not behind what was taken."""
    store = Written(["abc", "de"], ["c", "de"])

    assert read(listing_of(store)) == "ab c de"
    assert store.begun == ["", "p/b", "p/e"]


def test_pages_of_the_size_that_was_asked_for_are_of_one_listing():
    """Nothing is begun anew but for the end, which is not believed."""
    store = Written(["ab", "cd", "ef"])

    assert read(listing_of(store)) == "ab cd ef"
    assert store.begun == ["", "p/f"]


def test_a_store_that_answers_again_is_not_waited_for_longer_and_longer():
    """Each time that it is busy is the first one after it has answered."""
    time, store = FakeTime(), Store(4)
    throttled = iter([True, False] * 3)
    begin = store.list_objects

    def list_objects(*args, **options):
        if next(throttled, False):
            raise ThrottledError("slow down")
        return begin(*args, **options)

    store.list_objects = list_objects
    listing = listing_of(store, time=time)
    for size in (1, 2, 1):
        assert len(listing.next_page(size) or ()) == size

    assert len(time.slept) == 3
    assert max(time.slept) < 2 * min(time.slept)


def test_a_run_is_gone_on_with_by_a_later_pass():
    """With all that was known of it; its keys are not held, for nobody has listed the first of them now."""
    newest = START + timedelta(days=1)
    facts = RunFacts("r/", objects=7, size_bytes=70, newest=newest, undated=2, reserved=3, complete=False)

    run = OpenRun.resumed(facts, "r/m", at=5.0)

    assert run.facts(complete=False) == facts
    assert (run.seen_since, run.last_key, run.is_from_start, run.members) == (5.0, "r/m", False, None)

    run.add(ListedObject("r/n", 30, "e", START))
    run.add(ListedObject("r/.bubu/x", 0, "e", datetime(1970, 1, 1, tzinfo=UTC)))
    assert run.facts(complete=True) == RunFacts(
        "r/", objects=9, size_bytes=100, newest=newest, undated=3, reserved=4, complete=True
    )
    assert run.members is None


def test_a_run_that_is_begun_holds_what_may_have_to_be_deleted():
    """Key, length and ETag of each member, unless nothing is to be deleted."""
    run, dry = (OpenRun("r/", at=5.0, hold=hold) for hold in (True, False))
    assert (run.last_key, run.is_from_start, run.members, dry.members) == ("", True, [], None)
    assert run.facts(complete=False) == RunFacts("r/", complete=False)

    for one in (run, dry):
        one.add(ListedObject("r/a", 3, "e1", START))
        one.add(ListedObject("r/b", 4, "e2", START - timedelta(days=1)))

    assert run.members == [("r/a", 3, "e1"), ("r/b", 4, "e2")]
    assert dry.members is None
    assert run.facts(complete=True) == dry.facts(complete=True)
    assert run.facts(complete=True) == RunFacts("r/", objects=2, size_bytes=7, newest=START, complete=True)
