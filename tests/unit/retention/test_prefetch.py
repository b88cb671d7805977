"""Pages listed ahead: in order, within the limits, never too old, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from bubu_storage.backend.types import ListedObject, ListPage
from bubu_storage.errors import PermissionDeniedError
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.prefetch import (
    MAX_PAGES_AHEAD,
    OnDemand,
    Pages,
    ReadAhead,
    Start,
    pages_ahead,
)
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.scan import ScanBudget
from tests.unit.retention.world import START, FakeTime

DEADLINE_SECONDS = 60.0


class Scopes:
    """A store with so many numbered objects in each of its scopes."""

    name = "scopes://"

    def __init__(self, **counts: int) -> None:
        self.counts = counts
        self.changed = threading.Condition()
        self.pages: list[str] = []
        self.entries = 0
        self.fail_at: tuple[str, int] | None = None

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Make pages up."""
        scope = prefix.rstrip("/")
        number = int(start_after.removeprefix(prefix)) + 1 if start_after else 0
        while number < self.counts[scope]:
            if self.fail_at is not None and self.fail_at[0] == scope and number >= self.fail_at[1]:
                raise PermissionDeniedError("no")
            last = min(number + page_size, self.counts[scope])
            with self.changed:
                self.pages.append(scope)
                self.entries += last - number
                self.changed.notify_all()
            yield ListPage(
                tuple(ListedObject(f"{prefix}{at:06}", 1, "", START) for at in range(number, last))
            )
            number = last

    def wait(self, until) -> None:
        """Wait for a condition of this store."""
        with self.changed:
            assert self.changed.wait_for(until, DEADLINE_SECONDS), f"it never came to that: {self.pages}"


class PromptGate(Gate):
    """Of a store that answers at once, also where the clock is moved while it does."""

    slack_seconds = 0.0


def let_pass(time: FakeTime, seconds: float, pages: ReadAhead) -> None:
    """Move the clock while no answer of a scope is under way: no page is received before and put by after."""
    with pages._changed:
        assert pages._changed.wait_for(
            lambda: not any(chain.is_asking for chain in pages._chains), DEADLINE_SECONDS
        )
        time.advance(seconds)


def gate_over(time: FakeTime, kind: type[Gate] = Gate) -> Gate:
    """Return a gate that lets everything through."""
    return kind(
        monotonic=time.monotonic,
        sleep=time.sleep,
        should_stop=lambda: False,
        budget_seconds=1e6,
        requests_per_second=0,
    )


def ahead(
    store: Scopes,
    *,
    most_pages: int = 8,
    max_scan: int = 10**6,
    keeps_old: bool = False,
    time: FakeTime | None = None,
    gate: Gate | None = None,
):
    """Return pages listed ahead of all scopes, and their budget."""
    scans = ScanBudget(max_scan)
    starts = [Start(f"{scope}/", "") for scope in store.counts]
    gate = gate or gate_over(time or FakeTime())
    return ReadAhead(store, gate, scans, starts, most_pages=most_pages, keeps_old=keeps_old), scans


def keys_of(pages: Pages, scopes: int, keys: list[str] | None = None) -> list[str]:
    """Read everything, into a list of the caller's if there is one."""
    keys = [] if keys is None else keys
    for index in range(scopes):
        while (page := pages.next_page(index)) is not None:
            keys += [entry.key for entry in page.objects]
    return keys


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Closing waits for every thread."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_pages_come_in_the_order_of_scopes_and_keys():
    """Whatever is fetched first, the same keys come out in the same order as one by one."""
    store = Scopes(a=5500, b=0, c=10, d=2500, e=1, f=1000)
    gate = gate_over(FakeTime())
    starts = [Start(f"{scope}/", "") for scope in store.counts]
    with closing(OnDemand(store, gate, ScanBudget(10**6), starts)) as pages:
        expected = keys_of(pages, 6)
    pages, scans = ahead(store)
    with closing(pages):
        keys = keys_of(pages, 6)

    assert keys == expected == sorted(expected)
    assert scans.received == len(keys) == 9011


def test_a_scope_begins_behind_its_key():
    """A cursor within a scope is honoured."""
    store = Scopes(a=3000)
    pages = ReadAhead(
        store,
        gate_over(FakeTime()),
        ScanBudget(10**6),
        [Start("a/", "a/001999")],
        most_pages=4,
        keeps_old=False,
    )
    with closing(pages):
        assert keys_of(pages, 1)[0] == "a/002000"


@pytest.mark.parametrize("most_pages", [1, 3, 8])
def test_a_bounded_number_of_pages_waits(most_pages):
    """Nobody takes pages: no more than these are asked for."""
    store = Scopes(a=50_000)
    pages, _ = ahead(store, most_pages=most_pages)
    with closing(pages):
        assert pages.next_page(0) is not None
        store.wait(lambda: len(store.pages) == most_pages + 1)
        for taken in range(2, 20):
            assert pages.next_page(0) is not None
            assert len(store.pages) <= most_pages + taken + 1


def test_the_next_scopes_are_listed_while_the_first_is_decided():
    """One page of each of the next three, and not of those after them."""
    store = Scopes(a=2000, b=5000, c=5000, d=5000, e=5000)
    pages, _ = ahead(store)
    with closing(pages):
        pages.next_page(0)
        store.wait(lambda: {"b", "c", "d"} <= set(store.pages))
        assert "e" not in store.pages
        assert [store.pages.count(scope) for scope in "bcd"] == [1, 1, 1]


def test_entries_are_set_aside_before_they_are_asked_for():
    """The budget ends in the middle: not one entry more is asked for, and the pass is told."""
    store = Scopes(a=50_000)
    pages, scans = ahead(store, max_scan=7_350)
    with closing(pages), pytest.raises(PassStoppedError) as caught:
        keys_of(pages, 1)

    assert caught.value.reason is StoppedBy.MAX_SCAN
    assert store.entries == scans.received == 7_350


def test_a_small_rest_of_the_budget_is_not_spent_on_other_scopes():
    """What the present scope may need is left to it."""
    store = Scopes(a=15_000, b=15_000)
    pages, _ = ahead(store, max_scan=16_000)
    with closing(pages):
        while pages.next_page(0) is not None:
            assert "b" not in store.pages


def test_an_error_comes_where_it_happened():
    """Pages before it are good; the scope after it does not matter any more."""
    store = Scopes(a=3000, b=3000)
    store.fail_at = ("b", 1000)
    pages, _ = ahead(store)
    with closing(pages):
        keys: list[str] = []
        with pytest.raises(PassStoppedError) as caught:
            keys_of(pages, 2, keys)

    assert caught.value.reason is StoppedBy.STORE_ERROR
    assert len(keys) == 4000


@pytest.mark.parametrize("keeps_old", [True, False])
def test_pages_that_have_become_old_are_asked_for_again(keeps_old):
    """Deletions are never based on them; for a report they will do."""
    time = FakeTime()
    store = Scopes(a=1000, b=500)
    pages, _ = ahead(store, time=time, keeps_old=keeps_old)
    with closing(pages):
        assert pages.next_page(0) is not None
        store.wait(lambda: "b" in store.pages)
        assert pages.next_page(0) is None
        let_pass(time, 60, pages)
        page = pages.next_page(1)

    assert len(page.objects) == 500
    assert (page.listed_at < time.seconds) == keeps_old
    assert store.pages.count("b") == (1 if keeps_old else 2)


def test_closing_in_the_middle_ends_everything():
    """Whoever waits for room is let go."""
    store = Scopes(a=50_000, b=50_000)
    pages, _ = ahead(store)
    pages.next_page(0)
    store.wait(lambda: len(store.pages) >= 4)
    pages.close()
    pages.close()

    asked = len(store.pages)
    assert asked < 20


def test_how_far_ahead_depends_on_the_limit():
    """A pass of the default size lists nothing ahead: after a stop at most a page is scanned again."""
    assert pages_ahead(2_000) == 0
    assert pages_ahead(20_000) == 1
    assert pages_ahead(10**9) == MAX_PAGES_AHEAD


def test_pages_that_became_old_within_a_scope_are_asked_for_again_and_fewer_wait():
    """Nothing is missing and nothing comes twice; who is slow is not listed for in advance any more."""
    time = FakeTime()
    store = Scopes(a=60_000)
    pages, scans = ahead(store, gate=gate_over(time, PromptGate))
    keys: list[str] = []
    with closing(pages):
        while (page := pages.next_page(0)) is not None:
            assert time.seconds - page.listed_at <= 2.5
            keys += [entry.key for entry in page.objects]
            if len(store.pages) < 9:
                store.wait(lambda: len(store.pages) >= 9)
            let_pass(time, 4, pages)

    assert keys == [f"a/{number:06}" for number in range(60_000)]
    assert scans.received == store.entries
    # Eight pages wait at first, then four, two, one and none; now and then one, to see how it goes.
    assert store.entries < 60_000 + 15_000 + 60_000 // 8


def test_pages_are_as_large_as_can_be_acted_on_in_time():
    """A page that takes long is followed by smaller ones, and then by larger ones when it goes well."""
    time = FakeTime()
    store = Scopes(a=20_000)
    starts = [Start("a/", "")]
    with closing(OnDemand(store, gate_over(time), ScanBudget(10**6), starts, adapts=True)) as pages:
        sizes: list[int] = []
        while (page := pages.next_page(0)) is not None:
            sizes.append(len(page.objects))
            time.advance(10.0 if len(sizes) < 3 else 0.1)

    assert sizes[:7] == [1000, 150, 50, 100, 200, 400, 800]
    assert set(sizes[7:-1]) == {1000}
    assert sum(sizes) == 20_000


def test_an_error_in_advance_is_no_error_of_the_scope():
    """What failed while another scope was being decided is asked for again when it is wanted."""
    store = Scopes(a=3000, b=3000)
    store.fail_at = ("b", 0)
    pages, _ = ahead(store)
    with closing(pages):
        assert pages.next_page(0) is not None
        with pages._changed:
            assert pages._changed.wait_for(lambda: pages._chains[1].error is not None, DEADLINE_SECONDS)
        store.fail_at = None

        assert len(keys_of(pages, 2)) == 2000 + 3000


def test_many_scopes_need_few_threads_and_no_request_too_many():
    """Thousands of scopes: never more threads than lists at a time, and one end for each."""
    before = threading.active_count()
    store = Scopes(**{f"s{number:05}": number % 2 for number in range(2_000)})
    pages, _ = ahead(store, most_pages=MAX_PAGES_AHEAD)
    most = 0
    with closing(pages):
        count = 0
        for index in range(2_000):
            while (page := pages.next_page(index)) is not None:
                count += len(page.objects)
            most = max(most, threading.active_count() - before)

    assert count == 1_000
    assert most <= 5
    assert len(store.pages) == 1_000


def test_pages_of_a_slow_store_may_be_older():
    """Where a request takes three seconds, what waited four is not thrown away: that would never get on."""
    time = FakeTime()
    store = Scopes(a=50_000)
    pages, _ = ahead(store, time=time, most_pages=4)
    with closing(pages):
        assert pages.next_page(0) is not None
        with pages._changed:
            assert pages._changed.wait_for(lambda: len(pages._chains[0].pages) == 4, DEADLINE_SECONDS)
        pages._gate.latency_seconds = 3.0
        time.advance(4)
        assert pages.next_page(0) is not None
        assert len(store.pages) == 5
        time.advance(5)
        assert pages.next_page(0) is not None

    assert len(store.pages) > 5
