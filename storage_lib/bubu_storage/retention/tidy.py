"""Clears away what earlier passes left in the reserved area: once a day, a bounded amount.

Passes keep their own things tidy while they can. What is left is from processes that were killed (objects
for the store's clock, probes, half-written files), from clusters that are gone (registrations) and from
policies that are gone or have changed (marks of runs that no pass comes to any more).

Invariants:

* only for whoever holds the claim on the store, before its pass begins; every deletion asks the permits;
* nothing is deleted outside of the few prefixes named here, and nothing without a date, of the future, or
  younger than its limit; each thing that goes is one whose absence can only keep data or cost time;
* a registration goes only if it is still as old right before. Other clusters register when they have the
  claim, so none can renew one meanwhile;
* at most `MOST_ENTRIES` entries are listed, at most as many objects deleted, in about `BUDGET_SECONDS`; what
  is left is for another day. `TIDIED_KEY` remembers when, and up to which mark;
* it never keeps a pass from being run: what fails is told, not raised.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, cast, runtime_checkable

from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.probe import PROBE_PREFIX
from bubu_storage.backend.types import BatchDeleter, ListedObject, ObjectBackend
from bubu_storage.errors import ObjectNotFoundError, StorageError, ThrottledError, UnsupportedOperationError
from bubu_storage.retention.gate import Gate, PassStoppedError, Permit
from bubu_storage.retention.mark_keys import MARKS_PREFIX, run_beside_mark
from bubu_storage.retention.owners import boot_seconds
from bubu_storage.retention.registration import REGISTRATION_PREFIX
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.rules import has_date
from bubu_storage.retention.scan import Listing
from bubu_storage.retention.store_clock import CLOCK_PREFIX
from bubu_storage.wire import CONTENT_TYPE_JSON, RESERVED_PREFIX

__all__ = [
    "BUDGET_SECONDS",
    "EVERY_SECONDS",
    "MOST_ENTRIES",
    "TIDIED_KEY",
    "HasLeftovers",
    "TidyReport",
    "tidy_store",
]

TIDIED_KEY: Final = RESERVED_PREFIX + "retention/tidied"
"""Its date is when the store was tidied last."""

DAY: Final = 86_400.0
EVERY_SECONDS: Final = DAY
"""Between one time and the next."""

MOST_ENTRIES: Final = 1_000
"""Entries that are listed each time."""

BUDGET_SECONDS: Final = 10.0
"""How long it may take; half of that again for half-written files."""

MARK_SECONDS: Final = 60 * DAY
"""With the grace, the age of a mark from which on it is asked whether its run is still there."""

_SHORT_LIVED: Final = ((CLOCK_PREFIX, DAY), (PROBE_PREFIX, DAY))
_REGISTRATION_SECONDS: Final = 90 * DAY
_MOST_OF_A_KIND: Final = MOST_ENTRIES // 4
_MARKS_AT_A_TIME: Final = 100
_MAX_BYTES: Final = 8_192
_MOST_TOLD: Final = 3


_log = logging.getLogger(__name__)


@runtime_checkable
class HasLeftovers(Protocol):
    """A store in which killed writers leave files that are no objects."""

    def remove_leftovers(self, *, older_than_seconds: float, should_stop: Callable[[], bool]) -> int:
        """Remove those that are so old, until told to stop; return how many."""
        ...


@dataclass(slots=True)
class TidyReport:
    """What was done.

    Attributes:
        listed: entries that were listed.
        removed: objects that were deleted.
        leftovers: half-written files that were removed.
        problems: what could not be done.
    """

    listed: int = 0
    removed: int = 0
    leftovers: int = 0
    problems: list[str] = field(default_factory=list[str])


def tidy_store(
    backend: ObjectBackend,
    permits: Sequence[Permit],
    *,
    grace_seconds: float,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], None],
    requests_per_second: float = 0.0,
    monotonic: Callable[[], float] = boot_seconds,
) -> TidyReport | None:
    """Clear away what has been left, if that is due.

    Args:
        backend: the store.
        permits: what must hold for deletions; the claim is one.
        grace_seconds: the longest time for which a rule waits for owners to come back.
        should_stop: asked before each request.
        sleep: waits.
        requests_per_second: 0 = no cap.
        monotonic: seconds for budget and pace.

    Returns:
        What was done; None where it was not due.
    """
    gate = Gate(
        monotonic=monotonic,
        sleep=sleep,
        should_stop=should_stop,
        budget_seconds=BUDGET_SECONDS,
        requests_per_second=requests_per_second,
        permits=permits,
    )
    report = TidyReport()
    try:
        gate.turn()
        now = backend.server_time()
        gate.turn()
        after = _where_to_begin(backend, now)
    except PassStoppedError:
        return None
    except StorageError as error:
        report.problems.append(f"{TIDIED_KEY} cannot be read: {error}")
        return report
    if after is None:
        return None
    tidier = _Tidier(backend, gate, now, report)
    try:
        for prefix, seconds in _SHORT_LIVED:
            tidier.clear(prefix, seconds)
        tidier.clear(REGISTRATION_PREFIX, _REGISTRATION_SECONDS, check=True)
        after = tidier.clear_marks(after, MARK_SECONDS + grace_seconds)
    except PassStoppedError as stop:
        if stop.reason is not StoppedBy.BUDGET_SECONDS:
            report.problems.append(stop.message)
        after = tidier.position or after
    _remove_leftovers(backend, report, lambda: should_stop() or gate.is_past(1.5))
    _remember(backend, permits, report, after)
    for problem in report.problems[:_MOST_TOLD]:
        _log.info("tidying %s up: %s", backend.name, problem)
    return report


def _where_to_begin(backend: ObjectBackend, now: datetime) -> str | None:
    """Return the mark after which to go on, "" for the first; None if it is too early for anything."""
    try:
        with backend.get_object(TIDIED_KEY) as stored:
            at, data = stored.info.last_modified, stored.read(_MAX_BYTES)
    except ObjectNotFoundError:
        return ""
    # Either way: a clock that was set back must not keep it from being done for ever.
    if not has_date(at) or abs((now - at).total_seconds()) < EVERY_SECONDS:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        after = cast("dict[str, Any]", json.loads(data))["after"]
        if isinstance(after, str) and after.startswith(MARKS_PREFIX):
            return after
    return ""


def _remember(backend: ObjectBackend, permits: Sequence[Permit], report: TidyReport, after: str) -> None:
    data = json.dumps({"version": 1, "after": after}).encode() + b"\n"
    try:
        for permit in permits:
            permit.check()
        backend.put_object(TIDIED_KEY, data, size_bytes=len(data), content_type=CONTENT_TYPE_JSON)
    except PassStoppedError as stop:
        report.problems.append(stop.message)
    except StorageError as error:
        report.problems.append(f"{TIDIED_KEY} cannot be written: {error}")


def _remove_leftovers(backend: ObjectBackend, report: TidyReport, should_stop: Callable[[], bool]) -> None:
    store = innermost(backend)
    if isinstance(store, HasLeftovers):
        try:
            report.leftovers = store.remove_leftovers(older_than_seconds=DAY, should_stop=should_stop)
        except (StorageError, OSError) as error:
            report.problems.append(f"half-written files cannot be removed: {error}")


class _Tidier:
    """Looks through prefixes, one after the other, within one allowance.

    Attributes:
        position: the last mark that was dealt with.
    """

    def __init__(self, backend: ObjectBackend, gate: Gate, now: datetime, report: TidyReport) -> None:
        self._backend = backend
        self._gate = gate
        self._now = now
        self._report = report
        self.position = ""

    def clear(self, prefix: str, older_than_seconds: float, *, check: bool = False) -> None:
        """Delete what is too old below a prefix; where it is to be checked, one by one."""
        with self._told():
            listing = Listing(self._backend, self._gate, prefix)
            left = _MOST_OF_A_KIND
            while left > 0 and (page := self._page(listing, left)) is not None:
                left -= len(page)
                old = [entry for entry in page if self._is_older(entry.last_modified, older_than_seconds)]
                if check:
                    for entry in old:
                        self._remove_if_still_old(prefix, entry.key, older_than_seconds)
                else:
                    self._remove(prefix, [entry.key for entry in old])
            listing.close()

    def clear_marks(self, after: str, older_than_seconds: float) -> str:
        """Delete old marks with no run beside them; return where to go on the next time."""
        self.position = after
        listing = Listing(self._backend, self._gate, MARKS_PREFIX, after)
        with self._told():
            while (left := MOST_ENTRIES - self._report.listed) > 0:
                # Half of it, for each of them may have to be asked about.
                page = self._page(listing, min(_MARKS_AT_A_TIME, -(-left // 2)))
                if page is None:
                    return ""
                gone = [entry.key for entry in page if self._is_stray(entry, older_than_seconds)]
                self._remove(MARKS_PREFIX, gone)
                self.position = page[-1].key
            listing.close()
        return self.position

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        """End a part that the store refuses, not the whole."""
        try:
            yield
        except PassStoppedError as stop:
            if stop.reason is not StoppedBy.STORE_ERROR:
                raise
            self._report.problems.append(stop.message)

    def _page(self, listing: Listing, most: int) -> tuple[ListedObject, ...] | None:
        page = listing.next_page(most)
        self._report.listed += len(page or ())
        return page

    def _is_older(self, date: datetime, seconds: float) -> bool:
        return has_date(date) and (self._now - date).total_seconds() > seconds

    def _is_stray(self, entry: ListedObject, older_than_seconds: float) -> bool:
        run_prefix = run_beside_mark(entry.key)
        if not run_prefix or not self._is_older(entry.last_modified, older_than_seconds):
            return False
        self._gate.turn()
        try:
            page = next(self._backend.list_objects(run_prefix, page_size=1), None)
        except ThrottledError as error:
            raise _throttled(error) from error
        except StorageError as error:
            # Perhaps none of ours to look at.
            self._report.problems.append(f"{run_prefix!r} cannot be listed: {error}")
            return False
        self._report.listed += 0 if page is None else len(page.objects)
        return page is None or not page.objects

    def _remove_if_still_old(self, prefix: str, key: str, older_than_seconds: float) -> None:
        self._gate.turn()
        try:
            info = self._backend.head_object(key)
            if self._is_older(info.last_modified, older_than_seconds):
                self._remove(prefix, [key], etag=info.etag)
        except ObjectNotFoundError:
            return
        except ThrottledError as error:
            raise _throttled(error) from error
        except StorageError as error:
            self._report.problems.append(f"{key!r} cannot be looked at: {error}")

    def _remove(self, prefix: str, keys: Sequence[str], *, etag: str = "") -> None:
        """Delete objects below a prefix of ours."""
        for key in keys:
            if not prefix.startswith(RESERVED_PREFIX) or not key.startswith(prefix):
                raise ValueError(f"{key!r} is not below {prefix!r}")
        if len(keys) > 1 and isinstance(self._backend, BatchDeleter) and self._remove_batch(keys):
            return
        for key in keys:
            self._gate.turn_to_delete()
            try:
                self._delete(key, etag)
            except ThrottledError as error:
                raise _throttled(error) from error
            except StorageError as error:
                self._report.problems.append(f"{key!r} cannot be deleted: {error}")
                return
            self._report.removed += 1

    def _delete(self, key: str, etag: str) -> None:
        if etag:
            with contextlib.suppress(UnsupportedOperationError):
                self._backend.delete_object(key, if_match=etag)
                return
        self._backend.delete_object(key)

    def _remove_batch(self, keys: Sequence[str]) -> bool:
        """Delete in one request; False if the store has no such request."""
        self._gate.turn_to_delete()
        try:
            failed = cast("BatchDeleter", self._backend).delete_objects(keys)
        except UnsupportedOperationError:
            return False
        except ThrottledError as error:
            raise _throttled(error) from error
        except StorageError as error:
            self._report.problems.append(f"{keys[0]!r} and others cannot be deleted: {error}")
            return True
        self._report.removed += len(keys) - len(failed)
        self._report.problems.extend(f"{key!r} cannot be deleted: {failed[key]}" for key in list(failed)[:1])
        return True


def _throttled(error: ThrottledError) -> PassStoppedError:
    return PassStoppedError(StoppedBy.THROTTLED, "the store asked for fewer requests", error)
