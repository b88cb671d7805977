"""Marks in the store that say since when a run has been without an owner.

An orphan is a run that had no owner in two complete observations at least the grace apart. The
first of them is a mark: an object below ``.bubu/retention/marks/`` whose date, given by the store, is the
time of that observation. Marks sort like the runs that they are about, so one listing beside
that of the runs finds them.

A mark that says too much would cost data, a missing one costs only time. So:

* marks are written by enforcing passes only, in a complete observation of the owners that is as
  fresh as for a deletion, for runs that nothing but the missing owner's grace keeps, and only where
  there is none yet;
* a mark counts only if every member of its run is older. A mark may outlive its run (a crash
  between the two deletions); a run of the same name that comes later is younger than the mark,
  so it is marked anew, and its grace begins then;
* a mark does not count for ever: one that is older than the grace and `MARK_LIFE_SECONDS` may
  come from a time after which an owner came and went unseen, and is written anew;
* an enforcing pass that sees an owner makes the mark void before it decides about the run, so before
  any cursor can be behind that: it removes the mark or, where ``maxDelete`` is used up or that fails,
  writes an empty object over it, which is no mark whatever its date. If neither can be done, the pass
  stops there;
* a mark is removed when an owner is seen, also by policies that have no use for marks, when there
  is no run behind it any more, and after its run was deleted. Removing one is always safe.

An owner that only a dry run saw leaves the mark as it is, as one that came and went between two passes
does: a dry run writes nothing. There are two observations without an owner, at least the grace apart,
all the same, and `MARK_LIFE_SECONDS` bounds how long ago the first of them may be.

Limits: entries of marks count as scanned and removals as deletions, so the limits of a pass hold
for both together; at most ``maxDelete`` marks are written, and no more made void than were seen. Where
nothing more may be listed, single marks are asked for instead: marks that cannot be listed never keep
a pass from getting on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bubu_storage.backend.types import EPOCH, ObjectBackend
from bubu_storage.errors import (
    InvalidKeyError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnsupportedOperationError,
)
from bubu_storage.retention.crew import send_each
from bubu_storage.retention.gate import Gate, PassStoppedError
from bubu_storage.retention.ledger import Ledger
from bubu_storage.retention.mark_deletion import delete_marks
from bubu_storage.retention.mark_keys import (
    MARKS_PREFIX,
    VOID_CONTENT,
    mark_date,
    mark_key,
    marks_after,
    run_of_mark,
)
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import RunOutcome, StoppedBy
from bubu_storage.retention.scan import MAX_PAGE_SIZE, Listing
from bubu_storage.retention.spec import PassSpec
from bubu_storage.wire import CONTENT_TYPE_JSON

__all__ = ["MARK_LIFE_SECONDS", "MarkBook"]

MARK_LIFE_SECONDS: Final = 30 * 86_400.0
"""How long a mark counts after the longest grace of its policy is over."""

_CONTENT: Final = b'{"kind":"retention-mark"}\n'
_SHARE_OF_SCAN: Final = 10
_SHARE_OF_REST: Final = 4
_PAST_ALL: Final = chr(0x10FFFF)
"""Behind every run directory, in the order of keys."""
_MAX_BATCH: Final = 1000


def _nobody_owns(_run_prefix: str) -> bool:
    """Tell that a run has no owner, while nobody has said which have."""
    return False


def _nothing_to_look_at() -> None:
    """Do nothing, while nobody has said where to look."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A mark to be written; over an older one if that does not count any more."""

    run_prefix: str
    replaces: bool

    @property
    def key(self) -> str:
        return mark_key(self.run_prefix)


class MarkBook:
    """Reads the marks of one pass beside its runs, and keeps them true if the pass enforces.

    Runs are noted in byte order, as they are scanned, and asked about again only while they are due.

    Args:
        backend: the store.
        gate: lets each request through.
        spec: scopes, limits, whether to write.
        ledger: the books; shares its limits.

    Attributes:
        is_owned: tells whether a run directory is known to have an owner; for the judge to set.
        look: sees to it that what `is_owned` tells is recent, or stops the pass; for the judge to set.
    """

    def __init__(self, backend: ObjectBackend, gate: Gate, spec: PassSpec, ledger: Ledger) -> None:
        self._backend = backend
        self._gate = gate
        self._spec = spec
        self._ledger = ledger
        self._start = ledger.after
        # Set aside at once: whoever lists runs ahead would leave nothing to list their marks with.
        self._allowance = ledger.scans.take(spec.max_scan // _SHARE_OF_SCAN)
        self._scope = ""
        self._reached = ""
        # Up to here runs may have gone by while their marks were not listed.
        self._blind_until = ""
        self._listing: Listing | None = None
        self._page: deque[tuple[str, datetime]] = deque()
        self._dates: dict[str, datetime] = {}
        self._wishes: deque[_Wish] = deque()
        self._wished: set[str] = set()
        self._refuse: deque[str] = deque()
        self._writes_left = 0 if spec.dry_run else spec.max_delete
        self._is_needed = any(rule.orphan_grace_seconds is not None for rule in spec.rules)
        self._is_off = spec.dry_run and not self._is_needed
        self.is_owned: Callable[[str], bool] = _nobody_owns
        self.look: Callable[[], None] = _nothing_to_look_at

    def note(self, run_prefix: str, *, has_owner: bool) -> None:
        """Take note of a run as the scan comes to it; if it has an owner, its mark is void from now on.

        Raises:
            PassStoppedError: a rule needs marks, and this one cannot be read or made void.
        """
        if self._spec.dry_run or self._is_off:
            return
        with self._tolerant():
            is_known, marked_at = self._advance(run_prefix)
            if has_owner and not is_known and self._is_needed:
                # A mark from before this owner was seen must not count when the owner is gone again.
                marked_at = self._ask_for(run_prefix)
            marked_at = marked_at or self._dates.pop(run_prefix, None)
            if marked_at is None:
                return
            if not has_owner:
                self._dates[run_prefix] = marked_at
            elif marked_at > EPOCH:
                self._must_be_void(run_prefix)
            else:
                self._remove(run_prefix)

    def date_of(self, run_prefix: str) -> datetime | None:
        """Return the date of a run's mark; None if it has none, `EPOCH` if it is void.

        Raises:
            PassStoppedError: the store failed, or a limit of the gate is reached.
        """
        if (known := self._dates.get(run_prefix)) is not None:
            return known
        is_known, marked_at = self._advance(run_prefix)
        if not is_known:
            marked_at = self._ask_for(run_prefix)
        if marked_at is not None and not self._spec.dry_run:
            self._dates[run_prefix] = marked_at
        return marked_at

    def wish(self, run_prefix: str, *, replaces: bool) -> None:
        """Have a run marked when `settle` is called; in a dry run, and past the limit, nothing happens."""
        if self._writes_left > 0 and run_prefix not in self._wished:
            self._writes_left -= 1
            self._wished.add(run_prefix)
            self._wishes.append(_Wish(run_prefix, replaces))

    def close(self, outcome: RunOutcome) -> None:
        """Forget a run that has been dealt with; have its mark removed if all of it is gone."""
        if self._dates.pop(outcome.prefix, None) is not None and outcome.reason is Reason.DELETED:
            self._remove(outcome.prefix)

    def end_scope(self, scope: str) -> None:
        """Have the marks removed that come after the last run of a scope."""
        if self._spec.dry_run or self._is_off or scope < self._scope:
            return
        with self._tolerant():
            self._bring_to(scope, _PAST_ALL)

    def settle(self) -> None:
        """Write and remove what has come together.

        Raises:
            PassStoppedError: a limit of the gate is reached, or a permit is gone. What is not done
                then is found again by a later pass.
        """
        if self._wishes:
            self._write()
        while self._refuse and self._ledger.delete_left > 0:
            most = min(_MAX_BATCH, self._ledger.delete_left, len(self._refuse))
            self._delete_marks([self._refuse.popleft() for _ in range(most)])

    @contextmanager
    def _tolerant(self) -> Generator[None]:
        """Do without marks where no rule needs them and the store does not give them."""
        try:
            yield
        except PassStoppedError as stop:
            if self._is_needed or stop.reason is not StoppedBy.STORE_ERROR or stop.error is None:
                raise
            self._ledger.note_error(stop.error)
            self._is_off = True

    def _write(self) -> None:
        # An owner may have come since they were wished for; a mark is dated when it is written.
        self.look()
        self._wishes = deque(wish for wish in self._wishes if not self.is_owned(wish.run_prefix))
        for wish, answer in send_each(self._gate, self._wishes, self._put, self._gate.turn_to_delete):
            if isinstance(answer, UnsupportedOperationError) and not wish.replaces:
                # No mark was listed, and nobody else writes any: the claim sees to that.
                self._wishes.append(_Wish(wish.run_prefix, replaces=True))
            elif isinstance(answer, StorageError) and not isinstance(answer, PreconditionFailedError):
                self._ledger.note_error(answer, wish.key)
                if not isinstance(answer, InvalidKeyError):
                    # Whoever may not write one mark may not write others; the next pass tries again.
                    self._writes_left = 0
                    self._wishes.clear()

    def _put(self, wish: _Wish) -> str:
        return self._backend.put_object(
            wish.key,
            _CONTENT,
            size_bytes=len(_CONTENT),
            content_type=CONTENT_TYPE_JSON,
            if_none_match="" if wish.replaces else "*",
        )

    def _make_void(self, keys: Sequence[str]) -> dict[str, StorageError | None]:
        """See to it that marks do not count any more; what a crash in between leaves is found again.

        Returns:
            Those that may still count, and why; None for those that were not tried after that.
        """
        todo = deque(keys)
        left: deque[str] = deque()
        while todo and self._ledger.delete_left > 0:
            most = min(_MAX_BATCH, self._ledger.delete_left, len(todo))
            left.extend(self._delete_marks([todo.popleft() for _ in range(most)]))
        left.extend(todo)
        refused: dict[str, StorageError | None] = {}
        for key, answer in send_each(self._gate, left, self._put_void, self._gate.turn_to_delete):
            if isinstance(answer, StorageError):
                refused[key] = answer
                refused |= dict.fromkeys(left)
                left.clear()
        return refused

    def _must_be_void(self, run_prefix: str) -> None:
        """Make one mark void.

        Raises:
            PassStoppedError: a limit of the gate is reached, a permit is gone, or the store refuses.
        """
        for key, error in self._make_void([mark_key(run_prefix)]).items():
            raise PassStoppedError(
                StoppedBy.STORE_ERROR,
                f"{key!r} marks a run that has an owner now, and can neither be removed nor written over: "
                f"{error}",
                error,
            ) from error

    def _put_void(self, key: str) -> str:
        return self._backend.put_object(
            key, VOID_CONTENT, size_bytes=len(VOID_CONTENT), content_type=CONTENT_TYPE_JSON
        )

    def _delete_marks(self, keys: Sequence[str]) -> list[str]:
        """Delete some marks; return those that may still be there, whose errors are noted."""
        self._ledger.attempted += len(keys)
        return delete_marks(self._backend, self._gate, keys, self._ledger.note_error)

    def _remove(self, run_prefix: str) -> None:
        if not self._spec.dry_run:
            self._refuse.append(mark_key(run_prefix))

    def _advance(self, run_prefix: str) -> tuple[bool, datetime | None]:
        """Bring the listing to a run; tell whether it knows about the run, and the date of its mark."""
        scope = self._spec.scope_of(run_prefix)
        # Before any run is listed, nothing is used up that a pass may need to get on at all.
        if scope is None or scope < self._scope or self._ledger.scanned == 0:
            self._blind_until = max(self._blind_until, run_prefix)
            return False, None
        if scope == self._scope and run_prefix <= self._reached:
            return True, None
        if not self._bring_to(scope, run_prefix):
            self._blind_until = max(self._blind_until, run_prefix)
            return False, None
        self._reached = run_prefix
        if self._page and self._page[0][0] == run_prefix:
            return True, self._page.popleft()[1]
        return True, None

    def _bring_to(self, scope: str, run_prefix: str) -> bool:
        """Read on until the next mark is not before a run; False if that cannot be afforded."""
        if scope != self._scope:
            start = marks_after(self._start, scope) if self._start.startswith(scope) else ""
            self._scope, self._reached = scope, self._start if start else ""
            self._listing = Listing(self._backend, self._gate, MARKS_PREFIX + scope, start)
            self._page.clear()
        while True:
            while self._page and self._page[0][0] < run_prefix:
                missed, _ = self._page.popleft()
                if missed > self._blind_until:
                    # The listing of runs has come past it without meeting its run.
                    self._remove(missed)
            if self._page or self._listing is None:
                return True
            if self._allowance == 0 and self._ledger.scanned:
                left = self._ledger.scan_left
                # Never the last one: whoever lists runs must get on.
                self._allowance = self._ledger.scans.take(min(-(-left // _SHARE_OF_REST), left - 1))
            if self._allowance == 0:
                return False
            self._fill(self._listing)

    def _fill(self, listing: Listing) -> None:
        """Read the next page of marks."""
        entries = listing.next_page(min(self._allowance, MAX_PAGE_SIZE))
        if entries is None:
            listing.close()
            self._listing = None
            if self._scope == self._spec.scopes[-1]:
                self._ledger.scans.settle(self._allowance, 0)
                self._allowance = 0
            return
        self._allowance -= len(entries)
        self._ledger.scans.settle(len(entries), len(entries))
        found = [
            (run_prefix, marked_at)
            for entry in entries
            if (run_prefix := run_of_mark(entry.key, self._scope)) and (marked_at := mark_date(entry))
        ]
        # All at once, and before the runs are come to; what is refused is tried again, and told, then.
        owned = [
            mark_key(run_prefix)
            for run_prefix, marked_at in found
            if marked_at > EPOCH and not self._spec.dry_run and self.is_owned(run_prefix)
        ]
        refused = self._make_void(owned)
        void = frozenset(owned).difference(refused)
        self._page.extend(one for one in found if mark_key(one[0]) not in void)

    def _ask_for(self, run_prefix: str) -> datetime | None:
        """Ask the store for one mark."""
        key = mark_key(run_prefix)
        while True:
            self._gate.turn()
            try:
                info = self._backend.head_object(key)
            except (ObjectNotFoundError, InvalidKeyError):
                info = None
            except ThrottledError as error:
                self._gate.back_off(error)
                continue
            except StorageError as error:
                raise PassStoppedError(
                    StoppedBy.STORE_ERROR, f"the mark {key!r} cannot be read: {error}", error
                ) from error
            self._gate.succeeded()
            return None if info is None else mark_date(info)
