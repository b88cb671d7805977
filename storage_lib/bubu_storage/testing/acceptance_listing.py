"""The listing part of the acceptance suite: order, pages, prefixes, resuming, odd names.

Retention resumes listings by key and decides by age, so these rules are what its safety
rests on. Used through `bubu_storage.testing.acceptance.BackendAcceptance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import ClassVar, Final

import pytest

from bubu_storage.backend.types import ListPage, ObjectBackend
from bubu_storage.errors import LimitExceededError

__all__ = ["NASTY_KEYS", "ListingAcceptance", "keys_of", "read_all", "utf8"]

NASTY_KEYS: Final = (
    "a-b",
    "a.json",
    "a/x",
    "a0",
    "A/x",
    "with space/and  two",
    " leading and trailing /x ",
    "plus+and%20percent%",
    "quotes'\"`",
    "back\\slash/x\\y",
    "amp&lt;<>?#[]{}|^~;:@=$,!*()",
    "tab\there",
    "é/composed",
    "e\u0301/decomposed",
    "日本語/キー",
    "emoji-😀/x",
    "\uff5e/before-emoji-in-utf-16",
    "...",
    "..x/y..",
    ".hidden",
    "-dash",
    "~tilde",
    "CON",
    "x" * 200 + "/" + "y" * 200,
)
"""Keys that break naive quoting, sorting or path handling; all of them must work."""


def keys_of(listing: Iterator[ListPage]) -> list[str]:
    """Return all keys of a listing."""
    return [one.key for page in listing for one in page.objects]


def utf8(key: str) -> bytes:
    """Return what a key is sorted by."""
    return key.encode("utf-8")


def read_all(backend: ObjectBackend, key: str) -> bytes:
    """Return a whole object."""
    with backend.get_object(key) as found:
        return found.read()


class ListingAcceptance:
    """What a listing must be seen to do; see `BackendAcceptance`.

    Attributes:
        nasty_keys: keys to try; leave out only what the store itself cannot have.
    """

    nasty_keys: ClassVar[tuple[str, ...]] = NASTY_KEYS

    def test_nasty_keys_round_trip(self, backend: ObjectBackend) -> None:
        """Odd names are stored, listed in byte order, read and deleted under exactly that name."""
        for key in self.nasty_keys:
            backend.put_object(key, utf8(key))
        expected = sorted(self.nasty_keys, key=utf8)
        assert keys_of(backend.list_objects()) == expected
        for key in self.nasty_keys:
            assert read_all(backend, key) == utf8(key)
            assert backend.head_object(key).size_bytes == len(utf8(key))
            assert key in keys_of(backend.list_objects(key))
        for key in self.nasty_keys:
            backend.delete_object(key)
        assert keys_of(backend.list_objects()) == []

    def test_whole_key_byte_order(self, backend: ObjectBackend) -> None:
        """The order is that of whole keys: ``a-b`` comes before ``a/x``, ``a.d/y`` in between."""
        keys = ["a-b", "a.d/y", "a.json", "a/x", "a/x-1", "a/x.d/z", "a/x/y", "a0", "aa/0", "b"]
        keys.remove("a/x")  # some stores cannot have an object and a "directory" of one name
        for key in reversed(keys):
            backend.put_object(key, b"")
        assert keys_of(backend.list_objects()) == keys

    @pytest.mark.parametrize("page_size", [1, 2, 3, 7, 20, 1000])
    def test_pages(self, backend: ObjectBackend, page_size: int) -> None:
        """Pages are full but for the last, never empty, and together are the listing."""
        keys = sorted(f"p/{number % 3}/{number:02}" for number in range(20))
        for key in keys:
            backend.put_object(key, b"x")
        pages = [[one.key for one in page.objects] for page in backend.list_objects(page_size=page_size)]
        assert [key for page in pages for key in page] == keys
        assert all(len(page) == page_size for page in pages[:-1])
        assert 1 <= len(pages[-1]) <= page_size

    def test_no_page_for_nothing(self, backend: ObjectBackend) -> None:
        """An empty listing has no pages."""
        assert list(backend.list_objects()) == []
        backend.put_object("a", b"")
        assert list(backend.list_objects("b")) == []
        assert list(backend.list_objects("a/")) == []
        assert list(backend.list_objects(start_after="a")) == []

    def test_page_size_is_checked(self, backend: ObjectBackend) -> None:
        """A page has 1 to 1,000 entries."""
        for page_size in (0, -1, 1001):
            with pytest.raises(LimitExceededError):
                backend.list_objects(page_size=page_size)

    def test_start_after_anywhere(self, backend: ObjectBackend) -> None:
        """A listing resumes after any text, whether it is a key, lies between two or outside."""
        keys = ["a-b", "a/c", "a/d/e", "a/d/f", "a0", "b/a", "é"]
        for key in keys:
            backend.put_object(key, b"")
        points = [*keys, "", "a", "a/", "a/c!", "a/d", "a/d/", "a/d/e/x", "a/z", "b", "b/", "c", "zz", "ÿ"]
        for point in points:
            expected = [key for key in keys if utf8(key) > utf8(point)]
            assert keys_of(backend.list_objects(start_after=point)) == expected, point
            below = [key for key in expected if key.startswith("a/")]
            assert keys_of(backend.list_objects("a/", start_after=point, page_size=2)) == below, point

    def test_prefix_is_plain_text(self, backend: ObjectBackend) -> None:
        """A prefix ends anywhere: ``a/f`` finds ``a/five``, and is no pattern."""
        keys = ["a/f/x", "a/five", "a/g", "a[b]*?/x", "af", "b/a/f"]
        for key in keys:
            backend.put_object(key, b"")
        for prefix in (
            "",
            "a",
            "a/",
            "a/f",
            "a/f/",
            "a/fi",
            "a/five",
            "a/five/",
            "a[",
            "a[b]*?/",
            "*",
            "b/a",
            "c",
        ):
            expected = [key for key in keys if key.startswith(prefix)]
            assert keys_of(backend.list_objects(prefix)) == expected, prefix

    def test_listing_bears_changes(self, backend: ObjectBackend) -> None:
        """What goes or comes during a listing may be missed; everything else is listed once."""
        keys = [f"run/{number // 5}/{number:02}" for number in range(30)]
        for key in keys:
            backend.put_object(key, b"")
        seen: list[str] = []
        for page in backend.list_objects(page_size=4):
            seen.extend(one.key for one in page.objects)
            if len(seen) == 4:
                backend.delete_object(keys[4])
                backend.delete_object(keys[29])
                backend.put_object("run/0/00-late", b"")
        assert [key for key in seen if key not in {keys[4], keys[29]}] == [*keys[:4], *keys[5:29]]

    def test_times(self, backend: ObjectBackend) -> None:
        """Times are aware, in UTC, and agree with the store's clock."""
        before = backend.server_time()
        backend.put_object("now", b"")
        after = backend.server_time()
        slack = timedelta(seconds=2)
        for when in (
            backend.head_object("now").last_modified,
            next(backend.list_objects()).objects[0].last_modified,
        ):
            assert when.tzinfo is UTC or when.utcoffset() == timedelta(0)
            assert before - slack <= when <= after + slack
