"""Listings that a deletion may be based on: distrust, limits, and the gathering of runs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bubu_storage.backend.types import ListedObject, ListPage
from bubu_storage.errors import PermissionDeniedError, ThrottledError
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.scan import MAX_HELD_OBJECTS, Listing, OpenRun
from tests.unit.retention.world import START, FakeTime, World


def gate_over(time: FakeTime) -> Gate:
    """Return a gate that lets everything through."""
    return Gate(
        monotonic=time.monotonic,
        sleep=time.sleep,
        should_stop=lambda: False,
        budget_seconds=1000,
        requests_per_second=0,
    )


class Scripted:
    """A store whose listings are written down: one list of pages for each new listing."""

    name = "scripted://"

    def __init__(self, *listings: list[list[str]]) -> None:
        self.listings = list(listings)
        self.asked: list[tuple[str, str, int]] = []
        self.closed = 0

    def list_objects(self, prefix: str = "", *, start_after: str = "", page_size: int = 1000):
        """Tell the next listing."""
        self.asked.append((prefix, start_after, page_size))
        try:
            for keys in self.listings.pop(0) if self.listings else []:
                yield ListPage(tuple(ListedObject(key, 1, "", START) for key in keys))
        finally:
            self.closed += 1


def listing_of(store: Scripted, prefix: str = "p/", start_after: str = "") -> Listing:
    """Return a listing over a scripted store."""
    return Listing(store, gate_over(FakeTime()), prefix, start_after)


def read(listing: Listing, limit: int = 1000) -> list[list[str]]:
    """Return all pages of a listing as keys."""
    pages = []
    while (page := listing.next_page(limit)) is not None:
        pages.append([entry.key for entry in page])
    return pages


def test_an_end_is_confirmed_by_an_empty_fresh_listing():
    """After the last page a new listing from the last key on must find nothing."""
    store = Scripted([["p/a", "p/b"]])

    assert read(listing_of(store)) == [["p/a", "p/b"]]
    assert store.asked == [("p/", "", 1000), ("p/", "p/b", 1000)]


def test_a_listing_that_breaks_off_is_gone_on_with():
    """An early end is not believed: the rest is asked for and found."""
    store = Scripted([["p/a"]], [["p/b"], ["p/c"]])

    assert read(listing_of(store)) == [["p/a"], ["p/b"], ["p/c"]]
    assert [start for _, start, _ in store.asked] == ["", "p/a", "p/c"]


def test_an_empty_prefix_ends_at_once():
    """The first listing is a fresh one: if it is empty, that is the end."""
    store = Scripted()

    assert read(listing_of(store)) == []
    assert len(store.asked) == 1


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([["p/b", "p/a"]], "'p/a' after 'p/b'"),
        ([["p/a", "p/a"]], "'p/a' after 'p/a'"),
        ([["p/b"], ["p/a"]], "'p/a' after 'p/b'"),
        ([["p/0"]], "'p/0' after 'p/5'"),
        ([["p/5"]], "'p/5' after 'p/5'"),
        ([["q/a"]], "'q/a', which is outside the prefix"),
        ([[]], "an empty page"),
    ],
)
def test_a_listing_out_of_order_is_no_basis(pages, words):
    """Keys that do not ascend, that were passed already, or that nobody asked for end the pass."""
    start = "p/5" if pages[0] and pages[0][0] in {"p/0", "p/5"} else ""

    with pytest.raises(PassStoppedError) as caught:
        read(listing_of(Scripted(pages), start_after=start))

    assert caught.value.reason is StoppedBy.BAD_LISTING
    assert words in caught.value.message
    assert "nothing is deleted" in caught.value.message


def test_order_is_by_bytes_of_the_whole_key():
    """``a-b`` before ``a/x``, and astral characters after the rest: as object stores sort."""
    keys = ["p/a-b", "p/a/x", "p/é", "p/\uffff", "p/\U0001f600"]

    assert sorted(keys, key=str.encode) == keys
    assert read(listing_of(Scripted([keys]))) == [keys]


def test_pages_are_never_larger_than_wanted():
    """The store is asked for what is still wanted and not more."""
    world = World()
    world.fill("p/", 10, 0)
    listing = Listing(world.backend, gate_over(world.time), "p/")

    assert len(listing.next_page(6)) == 6
    assert len(listing.next_page(3)) == 3
    assert [request.page_size for request in world.backend.requests] == [6, 3]
    assert world.backend.scanned == 9


def test_a_store_that_ignores_the_page_size_is_cut_short():
    """What was not asked for is not used, and asked for again."""
    store = Scripted([["p/a", "p/b", "p/c"]], [["p/c"]])
    listing = listing_of(store)

    assert [entry.key for entry in listing.next_page(2)] == ["p/a", "p/b"]
    assert [entry.key for entry in listing.next_page(2)] == ["p/c"]
    assert store.asked[1] == ("p/", "p/b", 2)


def test_throttled_pages_are_asked_for_again():
    """The listing waits and goes on behind the last key."""
    world = World()
    keys = world.fill("p/", 5, 0)

    def throttle(index: int, _kind: str, _keys: tuple[str, ...]) -> None:
        if index == 1:
            raise ThrottledError("slow down", retry_after_seconds=2)

    world.backend.before = throttle

    assert read(Listing(world.backend, gate_over(world.time), "p/"), 2) == [keys[:2], keys[2:4], keys[4:]]
    assert sum(world.time.slept) == 2


def test_an_error_of_the_store_ends_the_pass():
    """The reason and the error are kept for the report."""
    world = World()
    error = PermissionDeniedError("no ListBucket")

    def fail(_index: int, _kind: str, _keys: tuple[str, ...]) -> None:
        raise error

    world.backend.before = fail
    with pytest.raises(PassStoppedError, match="listing 'p/' failed: no ListBucket") as caught:
        read(Listing(world.backend, gate_over(world.time), "p/"))

    assert caught.value.reason is StoppedBy.STORE_ERROR
    assert caught.value.error is error


def test_closing_releases_the_store():
    """A listing that is left in the middle does not keep directories or connections open."""
    store = Scripted([["p/a"], ["p/b"]])
    listing = listing_of(store)
    listing.next_page(1000)
    listing.close()
    listing.close()

    assert store.closed == 1


def test_a_run_forgets_keys_beyond_what_may_be_held():
    """Memory stays bounded; the sums go on."""
    run = OpenRun("r/", at=0, hold=True)
    for number in range(MAX_HELD_OBJECTS + 1):
        run.add(ListedObject(f"r/{number:06}", 2, "", START))

    assert run.members is None
    assert run.facts(complete=True).objects == MAX_HELD_OBJECTS + 1
    assert run.facts(complete=True).size_bytes == 2 * (MAX_HELD_OBJECTS + 1)


def test_a_run_gathers_what_the_decision_needs():
    """The newest date wins wherever it stands; undated and reserved members are counted."""
    run = OpenRun("r/", at=0, hold=True)
    newer = START.replace(year=2031)
    for key, when in [
        ("r/.bubu/x", START),
        ("r/b", newer),
        ("r/c", datetime(1970, 1, 1, tzinfo=UTC)),
        ("r/d", START),
    ]:
        run.add(ListedObject(key, 1, "", when))
    facts = run.facts(complete=False)

    assert (facts.newest, facts.undated, facts.reserved, facts.objects) == (newer, 1, 1, 4)
    assert facts.complete is False
    assert run.last_key == "r/d"
