"""Pages of all scopes in byte order, asked for when they are wanted or some time before.

`OnDemand` asks in the calling thread. `ReadAhead` has threads ask: one goes on listing the scope that is
being decided, others fetch the first page of the scopes after it. Invariants:

* pages come out in the order of the scopes and of their keys, and an error comes where it happened;
* entries are set aside in the pass's `ScanBudget` before they are asked for, so ``maxScan`` holds;
* a bounded number of pages is waiting, none is asked for while the oldest that waits is old, and one
  that has become too old to delete by is thrown away and asked for again; then fewer are asked for in
  advance, down to none, until that goes well;
* pages are so large that what is on them can be acted on before they are old;
* what went wrong in advance is tried again when its scope is come to;
* no thread is left when `close` returns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from bubu_storage.backend.types import ListedObject, ObjectBackend
from bubu_storage.retention.gate import Gate
from bubu_storage.retention.scan import MAX_PAGE_SIZE, Listing, ScanBudget

__all__ = ["MAX_PAGES_AHEAD", "OnDemand", "Page", "Pages", "ReadAhead", "Start", "pages_ahead"]

MAX_PAGES_AHEAD: Final = 12
"""Pages that may wait, of all scopes together."""

_ENTRIES_PER_PAGE_AHEAD: Final = 20 * MAX_PAGE_SIZE
"""Of ``maxScan``, for one page that may wait: at most a twentieth is scanned again after a stop."""

_MAX_CHAINS: Final = 4
"""Scopes that are being listed at the same time."""

_MAX_WAITING_SECONDS: Final = 1.0
"""Age of the oldest waiting page from which no further one is asked for."""

_MAX_PAGE_AGE_SECONDS: Final = 2.5
"""Age from which a page that was listed in advance is asked for again, if deletions are based on it; more
where requests take long, as for `relist.FRESH_SECONDS`."""


_GOOD_PAGES: Final = 8
"""Pages taken in time after which one more may wait again."""

_MIN_PAGE_SIZE: Final = 50
_PAGE_SECONDS: Final = 1.5
"""How long acting on what is on one page should take, where that is slow."""


class Start(NamedTuple):
    """Where to list: a scope, and the key behind which to begin."""

    scope: str
    after: str


class Page(NamedTuple):
    """Entries of a listing, and when they were received, by the gate's clock."""

    objects: tuple[ListedObject, ...]
    listed_at: float


class Pages(Protocol):
    """The pages of some scopes."""

    def next_page(self, index: int) -> Page | None:
        """Return the next page of the scope with this number; None at its end.

        Raises:
            PassStoppedError: see `Listing.next_page`.
        """
        ...

    def close(self) -> None:
        """Ask for nothing more and let go of the store; the gate must be shut, or nobody ask."""
        ...


def pages_ahead(max_scan: int) -> int:
    """Return how many pages may be asked for in advance by a pass with this limit."""
    return min(MAX_PAGES_AHEAD, max_scan // _ENTRIES_PER_PAGE_AHEAD)


class _PageSize:
    """How many entries to ask for: fewer where it takes long to act on a page, since it grows old meanwhile.

    Args:
        gate: its clock.
        is_fixed: always as many as a page may have.
    """

    def __init__(self, gate: Gate, *, is_fixed: bool) -> None:
        self._gate = gate
        self._is_fixed = is_fixed
        self._given_at: float | None = None
        self.entries = MAX_PAGE_SIZE

    def note_given(self) -> None:
        """A page is handed out."""
        self._given_at = self._gate.now

    def note_wanted(self) -> None:
        """The next one is wanted: it was acted on."""
        given_at, self._given_at = self._given_at, None
        if given_at is None or self._is_fixed:
            return
        seconds = self._gate.now - given_at
        slack = self._gate.slack_seconds
        if seconds > _MAX_PAGE_AGE_SECONDS + slack:
            self.entries = max(_MIN_PAGE_SIZE, int(self.entries * (_PAGE_SECONDS + slack) / seconds))
        elif seconds < _PAGE_SECONDS / 2 + slack:
            self.entries = min(MAX_PAGE_SIZE, self.entries * 2)


class OnDemand:
    """Asks for a page when it is wanted.

    Args:
        backend: the store.
        gate: lets each request through.
        scans: the entries that the pass may ask for.
        starts: the scopes, in byte order.
        adapts: ask for smaller pages where it takes long to act on one.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        scans: ScanBudget,
        starts: Sequence[Start],
        *,
        adapts: bool = False,
    ) -> None:
        self._size = _PageSize(gate, is_fixed=not adapts)
        self._backend = backend
        self._gate = gate
        self._scans = scans
        self._starts = starts
        self._index = -1
        self._listing: Listing | None = None

    def next_page(self, index: int) -> Page | None:
        """See `Pages`."""
        self._size.note_wanted()
        listing = self._listing
        if listing is None or index != self._index:
            self.close()
            scope, after = self._starts[index]
            listing = Listing(self._backend, self._gate, scope, after, scans=self._scans)
            self._listing, self._index = listing, index
        objects = listing.next_page(self._size.entries)
        if objects is None:
            return None
        self._size.note_given()
        return Page(objects, self._gate.now)

    def close(self) -> None:
        """See `Pages`."""
        if self._listing is not None:
            self._listing.close()


class _Chain:
    """One scope that is being listed in a thread of its own."""

    __slots__ = ("error", "is_asking", "is_dropped", "is_ended", "pages", "start", "thread")

    def __init__(self, start: Start) -> None:
        self.start = start
        self.pages: deque[Page] = deque()
        self.is_asking = False
        self.is_ended = False
        self.is_dropped = False
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None


class ReadAhead:
    """Asks for pages in advance; threads begin with the first page that is wanted.

    Args:
        backend: the store.
        gate: lets each request through.
        scans: the entries that the pass may ask for.
        starts: the scopes, in byte order.
        most_pages: that may wait.
        keeps_old: pages of any age will do: nothing is deleted by them.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        gate: Gate,
        scans: ScanBudget,
        starts: Sequence[Start],
        *,
        most_pages: int,
        keeps_old: bool,
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._scans = scans
        self._most_pages = self._most_ever = most_pages
        self._keeps_old = keeps_old
        self._size = _PageSize(gate, is_fixed=keeps_old)
        self._good_pages = 0
        self._is_wanted = False
        self._chains = [_Chain(start) for start in starts]
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._current = -1
        self._is_closing = False

    def next_page(self, index: int) -> Page | None:
        """See `Pages`."""
        with self._changed:
            self._size.note_wanted()
            if index != self._current:
                self._come_to(index)
            elif self._is_old(self._chains[index]):
                self._ask_again(index)
            chain = self._chains[index]
            self._is_wanted = True
            self._changed.notify_all()
            while not chain.pages and chain.error is None and not chain.is_ended:
                self._changed.wait()
            self._is_wanted = False
            if chain.pages:
                page = chain.pages.popleft()
                chain.start = chain.start._replace(after=page.objects[-1].key)
                self._note_good()
                self._size.note_given()
                self._changed.notify_all()
                return page
        if chain.error is not None:
            raise chain.error
        return None

    def close(self) -> None:
        """See `Pages`."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        for chain in self._chains:
            chain.pages.clear()

    def _come_to(self, index: int) -> None:
        """Make a scope the one that is being decided, and begin with those after it."""
        self._current = index
        chain = self._chains[index]
        if chain.error is not None or self._is_old(chain):
            chain.is_dropped = True
            self._chains[index] = _Chain(chain.start)
        is_ahead = self._most_pages > _MAX_CHAINS
        for number in range(index, min(len(self._chains), index + (_MAX_CHAINS if is_ahead else 1))):
            if self._chains[number].thread is None:
                self._begin(number)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._changed.notify_all()

    def _is_old(self, chain: _Chain) -> bool:
        """Tell whether deletions must not be based any more on what waits."""
        age = self._gate.now - chain.pages[0].listed_at if chain.pages else 0.0
        return age > _MAX_PAGE_AGE_SECONDS + self._gate.slack_seconds and not self._keeps_old

    def _ask_again(self, index: int) -> None:
        """Go on with the present scope behind what was handed out, and less far ahead from now on."""
        chain = self._chains[index]
        chain.is_dropped = True
        self._most_pages //= 2
        self._good_pages = 0
        self._chains[index] = _Chain(chain.start)
        self._begin(index)

    def _note_good(self) -> None:
        """A page was taken in time."""
        self._good_pages += 1
        if self._good_pages >= _GOOD_PAGES:
            self._good_pages = 0
            self._most_pages = min(self._most_ever, self._most_pages + 1)

    def _begin(self, index: int) -> None:
        chain = self._chains[index]
        chain.thread = threading.Thread(target=self._list, args=(index, chain), name="bubu-list")
        chain.thread.start()
        self._threads.append(chain.thread)

    def _list(self, index: int, chain: _Chain) -> None:
        """List one scope; in its thread."""
        listing = Listing(self._backend, self._gate, chain.start.scope, chain.start.after, scans=self._scans)
        try:
            while self._wait_for_turn(index, chain):
                objects = listing.next_page(self._size.entries)
                page = None if objects is None else Page(objects, self._gate.now)
                with self._changed:
                    chain.is_asking = False
                    if page is None:
                        chain.is_ended = True
                    elif not chain.is_dropped:
                        chain.pages.append(page)
                    self._changed.notify_all()
                if page is None:
                    return
        except BaseException as error:  # noqa: BLE001 - raised by the calling thread
            with self._changed:
                chain.error = error
                self._changed.notify_all()
        finally:
            chain.is_asking = False
            listing.close()

    def _wait_for_turn(self, index: int, chain: _Chain) -> bool:
        """Wait until a chain may ask for a page; False if it is not wanted any more."""
        with self._changed:
            while not (self._is_closing or chain.is_dropped or self._may_ask(index, chain)):
                self._changed.wait()
            chain.is_asking = True
            return not (self._is_closing or chain.is_dropped)

    def _may_ask(self, index: int, chain: _Chain) -> bool:
        if index == self._current and not chain.pages:
            return self._is_wanted or self._most_pages > 0
        if chain.pages and self._gate.now - chain.pages[0].listed_at > _MAX_WAITING_SECONDS:
            return False
        nearby = self._chains[max(0, self._current) : index + _MAX_CHAINS]
        waiting = sum(len(one.pages) + one.is_asking for one in nearby)
        if index == self._current:
            return waiting < self._most_pages
        # The next scopes: one page each, and none of what the present one may need to get on.
        is_plenty = self._scans.left > _ENTRIES_PER_PAGE_AHEAD
        return not chain.pages and waiting < self._most_pages // 2 and is_plenty
