"""What a pass did: counts by reason, why it stopped, and where the next one goes on.

Objects are counted when their run is decided and the cursor passes it; a run that spans
passes is counted by the pass that ends it. So over a whole cycle the counts of all reasons
but the provisional ones (`rules.PROVISIONAL_REASONS`) add up to the objects of the scopes.
In one pass ``scanned`` may be larger (re-listings, what a stop left undecided) or smaller
(members that an earlier pass had scanned).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from bubu_storage.errors import ConfigurationError, StorageError
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.reasons import DUE_REASONS, KEPT_REASONS, Reason
from bubu_storage.retention.tally import CycleTally

__all__ = [
    "MAX_ERROR_SAMPLES",
    "ErrorSample",
    "Mode",
    "PassReport",
    "RunOutcome",
    "StoppedBy",
    "Tally",
]

MAX_ERROR_SAMPLES: Final = 10
"""Errors that a report carries; the others are only counted."""

_MAX_MESSAGE_CHARACTERS: Final = 500


class Mode(StrEnum):
    """Whether a pass may delete."""

    DRY_RUN = "DryRun"
    ENFORCE = "Enforce"


class StoppedBy(StrEnum):
    """Why a pass ended."""

    END_OF_CYCLE = "EndOfCycle"
    """Everything in the scopes was decided; the next pass starts a new cycle."""
    MAX_SCAN = "MaxScan"
    """The list entries that a pass may ask for are used up."""
    MAX_DELETE = "MaxDelete"
    """The next due run does not fit into what the pass may still delete."""
    BUDGET_SECONDS = "BudgetSeconds"
    """The time is used up."""
    STOPPED = "Stopped"
    """The caller asked for it."""
    THROTTLED = "Throttled"
    """The store kept asking for fewer requests."""
    STORE_ERROR = "StoreError"
    """The store failed; see the error samples."""
    BAD_LISTING = "BadListing"
    """The store listed keys out of order or outside the prefix: nothing it says is safe to act on."""
    OWNERS_UNKNOWN = "OwnersUnknown"
    """There is no complete and credible list of owners, so nobody knows what is live."""
    REFERENCES_UNREADABLE = "ReferencesUnreadable"
    """A document that a live owner refers to cannot be read, so nobody knows what it refers to."""
    CLAIM_LOST = "ClaimLost"
    """The store is, or may be, claimed by another sweeper."""
    APPROVAL_REQUIRED = "ApprovalRequired"
    """More is due than the policy's maxDuePercent lets go without an approval."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A number of objects and their total length."""

    objects: int = 0
    size_bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.objects + other.objects, self.size_bytes + other.size_bytes)


@dataclass(frozen=True, slots=True)
class ErrorSample:
    """One of the errors of a pass.

    Attributes:
        key: the object or prefix concerned, "" if none.
        error: name of the exception class.
        message: its text, shortened; the library's messages hold no secrets.
    """

    key: str
    error: str
    message: str

    @classmethod
    def of(cls, error: StorageError, key: str = "") -> Self:
        """Describe an error; ``key`` goes before the error's own."""
        return cls(key or error.key or "", type(error).__name__, str(error)[:_MAX_MESSAGE_CHARACTERS])


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a pass decided about one run directory and, when it was due, what became of it.

    Attributes:
        prefix: the run directory.
        reason: `Reason.DELETED` if all went, `Reason.DELETE_FAILED` if some did not.
        objects: members that this outcome is about.
        size_bytes: their length.
        newest: date of the newest member, where known.
        overdue_seconds: for due runs, since when they could have gone.
    """

    prefix: str
    reason: Reason
    objects: int
    size_bytes: int
    newest: datetime | None
    overdue_seconds: float


@dataclass(frozen=True, slots=True)
class PassReport:
    """The result of a pass, or at a checkpoint the part of it so far.

    Attributes:
        mode: whether the pass may delete.
        started_at: local wall clock.
        finished_at: local wall clock; None at a checkpoint.
        duration_seconds: by a clock that does not jump.
        server_time: the store's clock at the start, by which ages were reckoned; None if
            the store did not tell.
        clock_skew_seconds: the store's clock minus ours at the start; None as above.
        scanned: list entries received, re-listings included; never over ``maxScan``.
        relisted: those of them that came from looking again right before deleting.
        requests: requests sent.
        attempted: objects sent for deletion; never over ``maxDelete``.
        runs_scanned: run directories decided.
        by_reason: what became of the objects.
        oldest_overdue_seconds: how overdue the worst due run is that is still there; None
            if there is none.
        oldest_overdue_key: its prefix, "" if there is none.
        worst_lag_seconds: how overdue the worst due run was that this pass met, deleted or
            not; None if it met none.
        orphans: objects of the runs decided by this pass that have no owner, whatever their
            reason (of one that took several passes to delete, the last of them); nothing where
            nobody knows the owners.
        cycle: what the present cycle has decided up to the cursor, over all its passes; at
            the end of a cycle, of that whole cycle.
        cursor: where the next pass of this mode goes on; safe to store at any time.
        complete_cycle: the pass reached the end of the scopes; the cursor is empty.
        stopped_by: why the pass ended; None at a checkpoint.
        message: the pass, or its end, in one sentence.
        error_count: errors met, those per key included.
        errors: the first `MAX_ERROR_SAMPLES` of them.
    """

    mode: Mode
    started_at: datetime
    finished_at: datetime | None = None
    duration_seconds: float = 0.0
    server_time: datetime | None = None
    clock_skew_seconds: float | None = None
    scanned: int = 0
    relisted: int = 0
    requests: int = 0
    attempted: int = 0
    runs_scanned: int = 0
    by_reason: Mapping[Reason, Tally] = field(default_factory=dict[Reason, Tally])
    oldest_overdue_seconds: float | None = None
    oldest_overdue_key: str = ""
    worst_lag_seconds: float | None = None
    orphans: Tally = field(default_factory=Tally)
    cycle: CycleTally = field(default_factory=CycleTally)
    cursor: Cursor = field(default_factory=Cursor)
    complete_cycle: bool = False
    stopped_by: StoppedBy | None = None
    message: str = ""
    error_count: int = 0
    errors: tuple[ErrorSample, ...] = ()

    def total(self, reasons: Iterable[Reason]) -> Tally:
        """Add up the tallies of some reasons."""
        return sum((self.by_reason[reason] for reason in reasons if reason in self.by_reason), Tally())

    @property
    def kept(self) -> Tally:
        """Objects that stayed because something keeps them."""
        return self.total(KEPT_REASONS)

    @property
    def due(self) -> Tally:
        """Objects that were judged due, whatever became of them."""
        return self.total(DUE_REASONS)

    @property
    def deleted(self) -> Tally:
        """Objects that are gone."""
        return self.total((Reason.DELETED,))

    @property
    def failed(self) -> Tally:
        """Objects that the store refused to delete."""
        return self.total((Reason.DELETE_FAILED,))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; the derived sums are in it for people."""
        return {
            "mode": self.mode.value,
            "startedAt": self.started_at.isoformat(),
            "finishedAt": _iso(self.finished_at),
            "durationSeconds": round(self.duration_seconds, 3),
            "serverTime": _iso(self.server_time),
            "clockSkewSeconds": self.clock_skew_seconds,
            "scanned": self.scanned,
            "relisted": self.relisted,
            "requests": self.requests,
            "attempted": self.attempted,
            "runsScanned": self.runs_scanned,
            "byReason": {reason.value: _tally(tally) for reason, tally in self.by_reason.items()},
            "kept": _tally(self.kept),
            "due": _tally(self.due),
            "deleted": _tally(self.deleted),
            "failed": _tally(self.failed),
            "oldestOverdueSeconds": self.oldest_overdue_seconds,
            "oldestOverdueKey": self.oldest_overdue_key,
            "worstLagSeconds": self.worst_lag_seconds,
            "orphans": _tally(self.orphans),
            "cycle": self.cycle.to_dict(),
            "cursor": self.cursor.to_dict(),
            "completeCycle": self.complete_cycle,
            "stoppedBy": self.stopped_by.value if self.stopped_by is not None else None,
            "message": self.message,
            "errorCount": self.error_count,
            "errors": [
                {"key": sample.key, "error": sample.error, "message": sample.message}
                for sample in self.errors
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; derived sums are reckoned anew.

        Raises:
            ConfigurationError: this is no report.
        """
        try:
            return cls(
                mode=Mode(data["mode"]),
                started_at=datetime.fromisoformat(data["startedAt"]),
                finished_at=_date(data["finishedAt"]),
                duration_seconds=float(data["durationSeconds"]),
                server_time=_date(data["serverTime"]),
                clock_skew_seconds=data["clockSkewSeconds"],
                scanned=int(data["scanned"]),
                relisted=int(data["relisted"]),
                requests=int(data["requests"]),
                attempted=int(data["attempted"]),
                runs_scanned=int(data["runsScanned"]),
                by_reason={
                    Reason(name): Tally(int(tally["objects"]), int(tally["bytes"]))
                    for name, tally in data["byReason"].items()
                },
                oldest_overdue_seconds=data["oldestOverdueSeconds"],
                oldest_overdue_key=data["oldestOverdueKey"],
                worst_lag_seconds=data["worstLagSeconds"],
                orphans=Tally(int(data["orphans"]["objects"]), int(data["orphans"]["bytes"])),
                cycle=CycleTally.from_dict(data["cycle"]),
                cursor=Cursor.from_dict(data["cursor"]),
                complete_cycle=bool(data["completeCycle"]),
                stopped_by=None if data["stoppedBy"] is None else StoppedBy(data["stoppedBy"]),
                message=data["message"],
                error_count=int(data["errorCount"]),
                errors=tuple(ErrorSample(**sample) for sample in data["errors"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"this is no retention report: {error!r}") from error


def _tally(tally: Tally) -> dict[str, int]:
    return {"objects": tally.objects, "bytes": tally.size_bytes}


def _iso(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()


def _date(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
