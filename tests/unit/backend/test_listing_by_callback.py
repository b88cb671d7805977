"""Listing by callback: which pages, how many requests, and whose errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.listing import for_each_page
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import InvalidKeyError, LimitExceededError, UnavailableError
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, Operation

if TYPE_CHECKING:
    from bubu_storage.backend.types import ListPage


class StopError(Exception):
    """What a callback raises."""


def open_descriptors() -> int:
    """Return how many files and directories this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def filled() -> CountingBackend:
    """Return a store with 25 keys below ``p/`` and 3 below ``q/``."""
    store = MemoryBackend()
    for number in range(25):
        store.put_object(f"p/{number:02}", b"")
    for number in range(3):
        store.put_object(f"q/{number}", b"")
    return CountingBackend(store)


def keys(pages: list[ListPage]) -> list[list[str]]:
    """Return the keys, page by page."""
    return [[one.key for one in page.objects] for page in pages]


def test_each_page_once_in_order() -> None:
    """Pages of the wanted size, of the wanted keys only."""
    pages: list[ListPage] = []
    for_each_page(filled(), "p/", pages.append, page_size=10)
    every = [f"p/{number:02}" for number in range(25)]
    assert [every[:10], every[10:20], every[20:]] == keys(pages)
    pages.clear()
    for_each_page(filled(), "", pages.append, start_after="p/23")
    assert [["p/24", "q/0", "q/1", "q/2"]] == keys(pages)


def test_nothing_to_list() -> None:
    """The callback is not called."""
    pages: list[ListPage] = []
    for_each_page(filled(), "r/", pages.append)
    for_each_page(MemoryBackend(), "", pages.append)
    assert [] == pages


def test_error_of_the_callback() -> None:
    """It comes out as it is, and no further page is asked for."""
    store, failure, seen = filled(), StopError("enough"), []

    def act(page: ListPage) -> None:
        seen.append(page)
        if len(seen) == 2:
            raise failure

    with pytest.raises(StopError) as caught:
        for_each_page(store, "p/", act, page_size=10)
    assert failure is caught.value
    assert 2 == len(seen) == store.counts[Operation.LIST_PAGE]


def test_page_is_asked_for_when_the_one_before_is_done() -> None:
    """Not ahead of the callback."""
    store = filled()
    asked: list[int] = []
    for_each_page(store, "p/", lambda _: asked.append(store.counts[Operation.LIST_PAGE]), page_size=10)
    assert [1, 2, 3] == asked


def test_error_of_the_store() -> None:
    """It comes out; the pages before it were delivered."""
    pages: list[ListPage] = []
    store = FaultBackend(filled(), Fault(nth=2, operations=frozenset({Operation.LIST_PAGE})))
    with pytest.raises(UnavailableError):
        for_each_page(store, "p/", pages.append, page_size=10)
    assert 1 == len(pages)


def test_bad_arguments() -> None:
    """They are refused before anything is asked of the store."""
    store = filled()
    with pytest.raises(InvalidKeyError):
        for_each_page(store, "../x", print)
    with pytest.raises(LimitExceededError):
        for_each_page(store, "", print, page_size=1001)
    assert 0 == store.total


def test_nothing_stays_open(tmp_path: Path) -> None:
    """Also while the callback's error is still being handled, the directories are closed."""
    store = FileBackend(tmp_path, fsync=False)
    for number in range(3):
        store.put_object(f"a/b/{number}", b"")
    before = open_descriptors()

    def act(_: ListPage) -> None:
        assert open_descriptors() > before
        raise StopError

    with pytest.raises(StopError) as caught:
        for_each_page(store, "", act, page_size=1)
    assert caught.tb is not None
    assert before == open_descriptors()
