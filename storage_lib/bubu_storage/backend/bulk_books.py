"""The books of a bulk deletion: what was deleted, what failed and why, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bubu_storage.backend.bulk_source import Item
from bubu_storage.errors import StorageError

__all__ = [
    "MAX_KEPT_FAILURES",
    "Books",
    "BulkDeleteProgress",
    "BulkDeleteReport",
    "attach_report",
    "partial_report",
]

MAX_KEPT_FAILURES: Final = 1000
"""Failures that a report names; the others are counted."""

_REPORT_ATTRIBUTE: Final = "_bubu_bulk_delete_report"


@dataclass(frozen=True, slots=True)
class BulkDeleteProgress:
    """How far a bulk deletion is.

    Attributes:
        found: objects listed or given so far.
        deleted: of those.
        failed: of those, finally.
        deleted_bytes: of the deleted ones, where their size is known.
    """

    found: int
    deleted: int
    failed: int
    deleted_bytes: int


@dataclass(frozen=True, slots=True)
class BulkDeleteReport:
    """What became of a bulk deletion.

    Attributes:
        deleted: objects that are gone; a missing one counts.
        failed: keys that were not deleted, each with its error: the first 1,000 in the order of
            the listing, or in the order given.
        failed_count: all of those.
        deleted_bytes: of the deleted objects, where their size is known from a listing.
        requests: requests to delete, without those that the backend itself repeats.
        stopped: it was ended before its end, by ``stop`` or by an error.
    """

    deleted: int = 0
    failed: Mapping[str, StorageError] = field(default_factory=dict[str, StorageError])
    failed_count: int = 0
    deleted_bytes: int = 0
    requests: int = 0
    stopped: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is gone."""
        return not self.stopped and not self.failed_count


def attach_report(error: BaseException, report: BulkDeleteReport) -> None:
    """Let an error tell what a bulk deletion had done before it."""
    setattr(error, _REPORT_ATTRIBUTE, report)
    error.add_note(f"Before this, {report.deleted} objects were deleted.")


def partial_report(error: BaseException) -> BulkDeleteReport | None:
    """Return what a bulk deletion had done when it ended with this error; None for other errors.

    After an interrupt from the keyboard the answer that was just being entered may be missing in it.
    """
    found = getattr(error, _REPORT_ATTRIBUTE, None)
    return found if isinstance(found, BulkDeleteReport) else None


class Books:
    """Counts; not thread-safe."""

    def __init__(self) -> None:
        self.found = 0
        self.deleted = 0
        self.requests = 0
        self._deleted_bytes = 0
        self._failed_count = 0
        self._failed: dict[int, tuple[str, StorageError]] = {}

    def add_deleted(self, items: list[Item]) -> None:
        """Enter objects that are gone."""
        self.deleted += len(items)
        self._deleted_bytes += sum(item.size_bytes for item in items)

    def add_failed(self, item: Item, error: StorageError) -> None:
        """Enter an object that stays."""
        self._failed_count += 1
        self._failed[item.position] = (item.key, error)
        # Answers arrive in any order; which failures are the first is known at the end only.
        if len(self._failed) >= 2 * MAX_KEPT_FAILURES:
            self._failed = self._first_failures()

    def progress(self) -> BulkDeleteProgress:
        """Return how far it is."""
        return BulkDeleteProgress(self.found, self.deleted, self._failed_count, self._deleted_bytes)

    def report(self, *, stopped: bool) -> BulkDeleteReport:
        """Return what became of it."""
        return BulkDeleteReport(
            deleted=self.deleted,
            failed=dict(self._first_failures().values()),
            failed_count=self._failed_count,
            deleted_bytes=self._deleted_bytes,
            requests=self.requests,
            stopped=stopped,
        )

    def _first_failures(self) -> dict[int, tuple[str, StorageError]]:
        return {position: self._failed[position] for position in sorted(self._failed)[:MAX_KEPT_FAILURES]}
