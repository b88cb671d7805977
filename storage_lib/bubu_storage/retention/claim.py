"""The claim on a store: at most one sweeper deletes in it at a time, from whatever cluster.

The holder writes one object, renews it in the background and gives it back. Invariants:

* the holder reckons how long its claim counts by `boot_seconds`, from *before* the request that renewed
  it was sent, less the time that a deletion may be under way; so whatever happens to the process or the
  machine (stopped, asleep, cut off), no deletion begins after another may have taken over;
* another takes over when the store's own clock says, in two ways, that the claim is over: by the date of an
  answer and by the date that it gives to an object that is written for the purpose;
* a claim that was lost is lost for ever: `check` never says yes again;
* conditional requests are believed only after the store has refused two that it must refuse, each time a
  claim is made. Where it does not, there are rules of time in their place, see `SETTLE_SECONDS`;
  `StoreClaim.is_proven` tells which.

Without conditions. A claimer must have read, found nothing, and written, all within `SETTLE_SECONDS`, then
waits that long and must still find its own claim; one that was slower gives up. So of two that found the
place free, the later writer is seen by the earlier. A renewal (read, then write) that takes longer than that,
or ends after the claim counted, loses the claim. This holds as long as the store shows a write to every
reader once it has answered, and carries out a deletion within the request timeout or not at all. It is
weaker than conditions, which need no clock.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self

from bubu_storage.backend.decorator import innermost
from bubu_storage.backend.last_look import GuardsDeletions
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ClaimedError, PreconditionFailedError, StorageError
from bubu_storage.retention.claim_document import (
    CLAIM_KEY,
    ClaimDocument,
    ClaimSettings,
    FoundClaim,
    shown,
)
from bubu_storage.retention.claim_object import (
    claim_over,
    claimed_by,
    is_refused,
    look_at_claim,
    naming_permissions,
    put_claim,
    remove_claim,
    write_over,
)
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import boot_seconds

__all__ = ["CLAIM_KEY", "SETTLE_SECONDS", "ClaimSettings", "StoreClaim", "claim_over", "look_at_claim"]

SETTLE_SECONDS: Final = 5.0
"""On a store without conditions: longest from reading to having written, and then the wait."""

_RETRY_SECONDS: Final = 1.0
_JOIN_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


class StoreClaim:
    """A claim on one store; a context manager, and a `bubu_storage.retention.gate.Permit`.

    Args:
        backend: the store; stays open.
        settings: who claims.
        monotonic: seconds that never go back and count time asleep.
        sleep: waits, on stores without conditions.
        in_background: renew by a thread; without it `renew` is for the caller to call.

    Attributes:
        is_proven: the store was seen to refuse what it must refuse, so conditions guard the claim.
    """

    def __init__(
        self,
        backend: ObjectBackend,
        settings: ClaimSettings,
        *,
        monotonic: Callable[[], float] = boot_seconds,
        sleep: Callable[[float], None] = time.sleep,
        in_background: bool = True,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._monotonic = monotonic
        self._sleep = sleep
        self._in_background = in_background
        self._document: ClaimDocument | None = None
        self._etag = ""
        self._store_offset: tuple[datetime, float] | None = None
        self._lock = threading.Lock()
        self._valid_until = float("-inf")
        self._lost = "it was never made"
        self._trouble = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._guard = contextlib.ExitStack()
        self.is_proven = False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def remaining_seconds(self) -> float:
        """How long deletions may still be sent if no renewal succeeds; 0 or less once the claim is lost."""
        with self._lock:
            return 0.0 if self._lost else self._valid_until - self._monotonic()

    def check(self) -> None:
        """Return if a deletion may be sent now; looks at the clock only.

        Raises:
            PassStoppedError: the claim is over or lost.
        """
        with self._lock:
            if not self._lost and self._monotonic() < self._valid_until:
                return
            self._lose_in_time()
            lost = self._lost
        raise PassStoppedError(
            StoppedBy.CLAIM_LOST,
            f"the claim on {self._backend.name} does not hold: {lost}; another sweeper may be at work, so "
            "nothing more is deleted. The next pass goes on from the cursor",
        )

    def acquire(self) -> None:
        """Claim the store.

        Raises:
            ClaimedError: somebody else has it, or the store does not let us claim it; says who, since
                when, until when, and what to do.
            StorageError: the store failed.
        """
        if self._document is not None:
            raise ClaimedError(f"this claim on {self._backend.name} was made before; make a new one")
        with naming_permissions(self.name):
            began = self._monotonic()
            found = look_at_claim(self._backend)
            if found is not None and not claim_over(self._backend, found):
                raise claimed_by(self.name, found)
            # Should this fail half-way, what was written ends by itself: on a store without conditions it may
            # lie over a claim that counts, and then nobody must find the place free.
            self._make(found, began)
        store = innermost(self._backend)
        if isinstance(store, GuardsDeletions):
            self._guard.enter_context(store.guard_deletions(self.check))
        if self._in_background:
            self._thread = threading.Thread(target=self._keep, name="store-claim", daemon=True)
            self._thread.start()

    def renew(self) -> None:
        """Renew the claim once, or find out that it is lost; the background thread calls it.

        Raises:
            StorageError: the store failed; the claim may still be good, and another try in time helps.
        """
        with self._lock:
            if not self._lost and self._monotonic() >= self._valid_until:
                self._lose_in_time()
            if self._lost:
                return
        if self.is_proven:
            self._renew_by_condition()
        else:
            self._renew_by_reading()

    def release(self) -> None:
        """Give the claim back, so that another need not wait for its end; never raises a `StorageError`.

        A claim that no longer counts is left alone: it may be another's by now.
        """
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_JOIN_SECONDS)
        self._guard.close()
        still_renewing = thread is not None and thread.is_alive()
        with self._lock:
            good = not self._lost and self._monotonic() < self._valid_until
            self._lost = self._lost or "it was given back"
        if good and not still_renewing:
            try:
                self._remove()
            except StorageError as error:
                _log.warning(
                    "the claim on %s could not be given back and ends by itself: %s", self.name, error
                )

    @property
    def name(self) -> str:
        """Name of the store."""
        return self._backend.name

    # ---- acquiring

    def _make(self, found: FoundClaim | None, began: float) -> None:
        """Write the claim over nothing or over one that is over, and see whose it is then.

        Raises:
            ClaimedError: another was faster, or the store is too slow to tell.
        """
        now, at = self._backend.server_time(), self._monotonic()
        self._store_offset = (now, at)
        document = self._next(None, now)
        self._document = document
        sent = self._monotonic()
        etag = self._write_over(found, document)
        if etag and self._is_refused(by_etag=False) and self._is_refused(by_etag=True):
            self.is_proven = True
            self._etag = etag
        else:
            self._settle(began)
        with self._lock:
            self._lost = ""
            self._valid_until = sent + self._settings.ttl_seconds - self._settings.margin_seconds
        if not self.is_proven:
            _log.warning(
                "%s does not honour conditional requests; the claim on it is guarded by times alone, which "
                "is weaker",
                self.name,
            )

    def _write_over(self, found: FoundClaim | None, document: ClaimDocument) -> str:
        """Write the first time; see `claim_object.write_over`.

        Raises:
            ClaimedError: another was faster.
        """
        try:
            return write_over(self._backend, found, document)
        except PreconditionFailedError as error:
            there = look_at_claim(self._backend)
            if there is not None and self._is_ours(there):
                return there.etag
            raise claimed_by(self.name, there) from error

    def _is_refused(self, *, by_etag: bool) -> bool:
        self._document = self._next(self._document, self._store_now())
        return is_refused(self._backend, self._document, by_etag=by_etag)

    def _settle(self, began: float) -> None:
        """Let every claimer that found the place free write, then see whose claim it is.

        Raises:
            ClaimedError: not ours, or we were too slow for others to rely on.
        """
        took = self._monotonic() - began
        if took <= SETTLE_SECONDS:
            self._sleep(SETTLE_SECONDS)
            there = look_at_claim(self._backend)
            if there is not None and self._is_ours(there):
                return
            raise claimed_by(self.name, there)
        raise ClaimedError(
            f"{self.name} cannot be claimed: it knows no conditional requests, and took {took:.1f} s for "
            f"what must be done within {SETTLE_SECONDS:g} s then; try again when it is faster, or let one "
            "controller alone sweep it"
        )

    # ---- renewing

    def _keep(self) -> None:
        """Renew until told to stop, or until the claim is lost."""
        wait_seconds = self._settings.renew_every_seconds
        while not self._stop.wait(wait_seconds):
            wait_seconds = self._settings.renew_every_seconds
            try:
                self.renew()
            except StorageError as error:
                self._trouble = f" (last try: {error})"
                wait_seconds = min(_RETRY_SECONDS, wait_seconds)
            except Exception as error:
                self._lose(f"renewing it failed unexpectedly: {type(error).__name__}")
                raise
            if self._lost:
                return

    def _renew_by_condition(self) -> None:
        for _ in range(2):
            document = self._next(self._document, self._store_now())
            sent = self._monotonic()
            self._document = document
            try:
                self._etag = put_claim(self._backend, document, if_match=self._etag)
            except PreconditionFailedError:
                there = look_at_claim(self._backend)
                if there is None or not self._is_ours(there):
                    self._lose_to(there)
                    return
                # An earlier write of ours whose answer was lost.
                self._etag = there.etag
            else:
                self._extend(sent)
                return

    def _renew_by_reading(self) -> None:
        began = self._monotonic()
        there = look_at_claim(self._backend)
        if there is None or not self._is_ours(there):
            self._lose_to(there)
            return
        document = self._next(self._document, self._store_now())
        self._document = document
        if self._monotonic() - began <= SETTLE_SECONDS:
            put_claim(self._backend, document)
        now = self._monotonic()
        with self._lock:
            in_time = now - began <= SETTLE_SECONDS and now < self._valid_until
        if in_time:
            self._extend(began)
        else:
            self._lose("renewing it took so long that another may have claimed the store meanwhile")

    def _extend(self, sent: float) -> None:
        with self._lock:
            self._valid_until = sent + self._settings.ttl_seconds - self._settings.margin_seconds
        self._trouble = ""

    def _lose_to(self, there: FoundClaim | None) -> None:
        self._lose("it was removed" if there is None else f"the store is claimed by {there.describe()}")

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._lost = self._lost or reason

    def _lose_in_time(self) -> None:
        """Note that the claim counts no more; the lock is held."""
        self._lost = self._lost or f"it could not be renewed in time{self._trouble}"

    # ---- the object

    def _next(self, before: ClaimDocument | None, now: datetime) -> ClaimDocument:
        """Return the content of the next write, which no other write has."""
        settings = self._settings
        end = now + timedelta(seconds=settings.ttl_seconds)
        if before is not None:
            return replace(before, renewed_at=now, expires_at=end, sequence=before.sequence + 1)
        return ClaimDocument(
            holder=shown(settings.holder),
            cluster=shown(settings.cluster) if settings.cluster else "",
            token=secrets.token_hex(16),
            acquired_at=now,
            renewed_at=now,
            expires_at=end,
            ttl_seconds=settings.ttl_seconds,
            sequence=1,
        )

    def _store_now(self) -> datetime:
        """Return the store's time, carried on by our own clock since the claim was made."""
        assert self._store_offset is not None  # noqa: S101 - set before the first write
        then, at = self._store_offset
        return then + timedelta(seconds=self._monotonic() - at)

    def _is_ours(self, found: FoundClaim) -> bool:
        ours, there = self._document, found.document
        return ours is not None and there is not None and secrets.compare_digest(ours.token, there.token)

    def _remove(self) -> None:
        """Delete the claim if it is ours and counts, so that nobody else can have made one.

        Raises:
            StorageError: the store failed.
        """
        there = look_at_claim(self._backend)
        if there is None or not self._is_ours(there) or self._monotonic() >= self._valid_until:
            return
        with contextlib.suppress(PreconditionFailedError):
            remove_claim(self._backend, there.etag)
