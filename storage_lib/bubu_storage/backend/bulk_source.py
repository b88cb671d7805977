"""What a bulk deletion is to delete: a listing that can be taken up again, or keys of the caller's.

Invariants: objects are numbered in the order in which they are listed or given; what comes from a
prefix begins with it, in byte order and once each, whatever the store lists, and is never in our own
area ``.bubu/``, of the store or of a folder in it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol, cast

from bubu_storage.backend.types import ListedObject, ListPage, ObjectBackend
from bubu_storage.errors import StorageError
from bubu_storage.wire import RESERVED_PREFIX

__all__ = ["Item", "KeySource", "ListingSource", "Source", "is_reserved"]

_RESERVED_INNER = "/" + RESERVED_PREFIX


class Item(NamedTuple):
    """An object to delete.

    Attributes:
        position: number in the order given.
        key: whole key.
        size_bytes: 0 where it is not known.
        etag: "" where it is not known.
    """

    position: int
    key: str
    size_bytes: int
    etag: str


class Source(Protocol):
    """Gives what is to be deleted, piece by piece; used by one thread at a time."""

    @property
    def can_resume(self) -> bool:
        """Whether `read` may be called again after it failed."""
        ...

    @property
    def may_block(self) -> bool:
        """Whether `read` may take for ever: it waits for more than a store with its time limits."""
        ...

    def read(self) -> list[Item] | None:
        """Return the next items, maybe none at all; None at the end."""
        ...

    def close(self) -> None:
        """Let go of what is being read."""
        ...


def is_reserved(key: str) -> bool:
    """Tell whether a key lies in our own area, as retention judges it."""
    return key.startswith(RESERVED_PREFIX) or _RESERVED_INNER in key


class ListingSource:
    """The objects whose key begins with a prefix; a listing that broke off goes on after its last key.

    Args:
        backend: to list.
        prefix: plain text.
    """

    can_resume = True
    may_block = False

    def __init__(self, backend: ObjectBackend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self._pages: Iterator[ListPage] | None = None
        self._last = ""
        self._count = 0

    def read(self) -> list[Item] | None:
        """Return a page without what is reserved.

        Raises:
            StorageError: the store lists what was not asked for, or not in byte order.
        """
        if self._pages is None:
            self._pages = self._backend.list_objects(self._prefix, start_after=self._last)
        try:
            page = next(self._pages, None)
        except BaseException:
            self.close()
            raise
        if page is None:
            return None
        for one in page.objects:
            self._check(one.key)
            self._last = one.key
        start = self._count
        self._count += len(page.objects)
        return [
            Item(position, one.key, one.size_bytes, one.etag)
            for position, one in enumerate(page.objects, start)
            if not is_reserved(one.key)
        ]

    def _check(self, key: str) -> None:
        """Believe a listing only as far as it is consistent: what it names is deleted."""
        if not key.startswith(self._prefix):
            raise StorageError(
                f"{self._backend.name} lists object {key[:80]!r}, which does not begin with the prefix "
                f"{self._prefix[:80]!r} that was asked for; nothing of this page is deleted",
                code="ListingPrefix",
            )
        if key <= self._last:
            raise StorageError(
                f"{self._backend.name} lists {key[:80]!r} after {self._last[:80]!r}: not in byte order, or "
                "repeated; a listing of this store cannot be relied on",
                code="ListingOrder",
            )

    def close(self) -> None:
        """End the listing."""
        pages, self._pages = self._pages, None
        if isinstance(pages, Generator):
            cast("Generator[ListPage]", pages).close()


class KeySource:
    """Keys, or entries of a listing, from any iterable; an error of the iterable is final.

    Args:
        keys: texts or listed objects.
        piece: how many are read at a time.
        need_etags: refuse plain keys.
    """

    can_resume = False
    may_block = True

    def __init__(self, keys: Iterable[str] | Iterable[ListedObject], *, piece: int, need_etags: bool) -> None:
        self._keys: Iterator[str | ListedObject] = iter(keys)
        self._piece = piece
        self._need_etags = need_etags
        self._count = 0

    def read(self) -> list[Item] | None:
        """Return the next keys.

        Raises:
            TypeError: one is neither text nor a listed object, or ETags are needed and it has none.
        """
        found = [
            self._item(position, one)
            for position, one in enumerate(islice(self._keys, self._piece), self._count)
        ]
        self._count += len(found)
        return found or None

    def _item(self, position: int, one: object) -> Item:
        if isinstance(one, ListedObject):
            return Item(position, one.key, one.size_bytes, one.etag)
        if not isinstance(one, str):
            raise TypeError(f"delete_keys takes keys or listed objects, not {type(one).__name__}")
        if self._need_etags:
            raise TypeError("if_unchanged compares ETags: give listed objects, not keys alone")
        return Item(position, one, 0, "")

    def close(self) -> None:
        """Do nothing: the iterable is the caller's."""
