"""Streams of listed objects that a deletion may be based on, and the gathering of runs.

`Listing` asks for pages no larger than its caller still wants, and distrusts the store:

* keys must strictly ascend, continue after the last one and lie below the prefix, else the
  pass stops before anything of that page is used;
* an end is believed only when a fresh listing, started at the last key seen, is empty. A
  listing that breaks off early would otherwise hide the young members of a run.

`OpenRun` gathers the facts of one run directory while its members stream by, in constant
memory: past `MAX_HELD_OBJECTS` members it forgets the keys and keeps only the sums.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from datetime import datetime
from typing import Final

from bubu_storage.backend.types import ListedObject, ListPage, ObjectBackend
from bubu_storage.errors import StorageError, ThrottledError
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import RunFacts, has_date, is_reserved

__all__ = ["MAX_HELD_OBJECTS", "MAX_PAGE_SIZE", "Listing", "Member", "OpenRun", "ScanBudget"]

MAX_PAGE_SIZE: Final = 1000
"""Entries that one page of a listing may have."""

MAX_HELD_OBJECTS: Final = 10_000
"""Members of one run that are held in memory between listing and deleting them."""

Member = tuple[str, int, str]
"""Key, length and ETag of an object that may have to be deleted."""


class ScanBudget:
    """The list entries that a pass may ask for; used by all threads that list.

    Invariant: what was received and what is being asked for never exceed the whole together.

    Args:
        most: entries of the pass.
    """

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self.most = most
        self._left = most
        self._received = 0

    @property
    def left(self) -> int:
        """Entries that may still be asked for."""
        return self._left

    @property
    def received(self) -> int:
        """Entries that were received."""
        return self._received

    def take(self, want: int) -> int:
        """Set entries aside that are about to be asked for; return how many there are, 0 to ``want``."""
        with self._lock:
            taken = max(0, min(want, self._left))
            self._left -= taken
            return taken

    def settle(self, taken: int, received: int) -> None:
        """Book what came of entries that were set aside; what did not come may be asked for again."""
        with self._lock:
            self._left += taken - received
            self._received += received


class Listing:
    """One prefix, page by page, from a key on; close it when done.

    Args:
        backend: the store.
        gate: lets each request through.
        prefix: plain text.
        start_after: only keys greater than this one.
        scans: the entries that the pass may ask for; None where nobody counts.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        prefix: str,
        start_after: str = "",
        *,
        scans: ScanBudget | None = None,
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._prefix = prefix
        self._position = start_after
        self._scans = scans
        self._pages: Iterator[ListPage] | None = None
        self._page_size = 0
        self._is_fresh = False

    def seek(self, start_after: str) -> None:
        """Go on after this key."""
        self.close()
        self._position = start_after

    def next_page(self, limit: int) -> tuple[ListedObject, ...] | None:
        """Return up to ``limit`` (at least 1) further entries, never none of them; None at the end.

        Raises:
            PassStoppedError: a limit of the pass, an error of the store, a bad listing.
        """
        if self._scans is None:
            return self._next_page(limit)
        taken = self._scans.take(min(limit, MAX_PAGE_SIZE))
        if not taken:
            raise PassStoppedError(
                StoppedBy.MAX_SCAN, f"all {self._scans.most} list entries of the pass are used"
            )
        received = 0
        try:
            page = self._next_page(taken)
            received = 0 if page is None else len(page)
        finally:
            self._scans.settle(taken, received)
        return page

    def _next_page(self, limit: int) -> tuple[ListedObject, ...] | None:
        while True:
            self._gate.turn()
            asked_at = self._gate.now
            try:
                page = next(self._open(min(limit, MAX_PAGE_SIZE)), None)
            except ThrottledError as error:
                self.close()
                self._gate.back_off(error)
                continue
            except StorageError as error:
                raise PassStoppedError(
                    StoppedBy.STORE_ERROR, f"listing {self._prefix!r} failed: {error}", error
                ) from error
            self._gate.succeeded()
            self._gate.latency_seconds = self._gate.now - asked_at
            if page is None:
                self.close()
                if self._is_fresh:
                    return None
                continue
            self._is_fresh = False
            return self._checked(page.objects)

    def close(self) -> None:
        """Release what the listing holds open in the store; it can be gone on with."""
        pages, self._pages = self._pages, None
        if isinstance(pages, Generator):
            pages.close()

    def _open(self, page_size: int) -> Iterator[ListPage]:
        if self._pages is None or self._page_size != page_size:
            self.close()
            self._pages = self._backend.list_objects(
                self._prefix, start_after=self._position, page_size=page_size
            )
            self._page_size = page_size
            self._is_fresh = True
        return self._pages

    def _checked(self, objects: tuple[ListedObject, ...]) -> tuple[ListedObject, ...]:
        if not objects:
            raise self._bad("an empty page")
        if len(objects) > self._page_size:
            # The store ignored our limit: take what was asked for, and ask anew for the rest.
            objects = objects[: self._page_size]
            self.close()
        last = self._position
        for entry in objects:
            if entry.key <= last:
                raise self._bad(f"{entry.key!r} after {last!r}")
            if not entry.key.startswith(self._prefix):
                raise self._bad(f"{entry.key!r}, which is outside the prefix")
            last = entry.key
        self._position = last
        return objects

    def _bad(self, what: str) -> PassStoppedError:
        return PassStoppedError(
            StoppedBy.BAD_LISTING,
            f"{self._backend.name} listed {what} for prefix {self._prefix!r}; keys must ascend in byte "
            "order, so nothing is deleted on the strength of this listing",
        )


class OpenRun:
    """The run directory whose members are streaming by.

    Args:
        prefix: the run directory.
        at: when its first member was listed, by the monotonic clock.
        hold: keep the keys.

    Attributes:
        prefix: the run directory.
        seen_since: when its first member was listed.
        last_key: the last member seen.
        members: keys to delete if the run turns out to be due, None when they are not all
            known or too many.
        is_from_start: all members were seen by this pass, not some by an earlier one.
    """

    __slots__ = (
        "_newest",
        "_objects",
        "_reserved",
        "_size_bytes",
        "_undated",
        "is_from_start",
        "last_key",
        "members",
        "prefix",
        "seen_since",
    )

    def __init__(self, prefix: str, *, at: float, hold: bool) -> None:
        self.prefix = prefix
        self.seen_since = at
        self.last_key = ""
        self.is_from_start = True
        self.members: list[Member] | None = [] if hold else None
        self._objects = 0
        self._size_bytes = 0
        self._newest: datetime | None = None
        self._undated = 0
        self._reserved = 0

    @classmethod
    def resumed(cls, facts: RunFacts, position: str, *, at: float) -> OpenRun:
        """Go on with a run that an earlier pass began to scan; its keys are not held."""
        run = cls(facts.prefix, at=at, hold=False)
        run.last_key = position
        run.is_from_start = False
        run._objects = facts.objects
        run._size_bytes = facts.size_bytes
        run._newest = facts.newest
        run._undated = facts.undated
        run._reserved = facts.reserved
        return run

    def add(self, entry: ListedObject) -> None:
        """Take in the next member."""
        key = self.last_key = entry.key
        self._objects += 1
        self._size_bytes += entry.size_bytes
        when = entry.last_modified
        if not has_date(when):
            self._undated += 1
        elif self._newest is None or when > self._newest:
            self._newest = when
        if is_reserved(key):
            self._reserved += 1
        members = self.members
        if members is not None:
            if len(members) < MAX_HELD_OBJECTS:
                members.append((key, entry.size_bytes, entry.etag))
            else:
                self.members = None

    def facts(self, *, complete: bool) -> RunFacts:
        """Return what is known of the run.

        Args:
            complete: the listing passed the end of the run.
        """
        return RunFacts(
            prefix=self.prefix,
            objects=self._objects,
            size_bytes=self._size_bytes,
            newest=self._newest,
            undated=self._undated,
            reserved=self._reserved,
            complete=complete,
        )
