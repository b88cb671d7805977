"""The words for why a retention pass kept or deleted an object, and what they have in common.

They stand in reports, plans, conditions, metric labels and docs; a word once published keeps its
meaning. Which of them applies is decided in `bubu_storage.retention.rules`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["DUE_REASONS", "KEPT_REASONS", "PROVISIONAL_REASONS", "Reason"]


class Reason(StrEnum):
    """Why objects were kept or deleted: feeds reports, conditions, metric labels and docs."""

    KEPT_WITHIN = "KeptWithin"
    """A rule's keep.within still covers the newest member of the run."""
    KEPT_MIN_AGE = "KeptMinAge"
    """The newest member is younger than the policy's minimum age."""
    KEPT_NO_RULE = "KeptNoRule"
    """No rule covers the run."""
    KEPT_FUTURE_DATE = "KeptFutureDate"
    """A member is dated in the future of the store's clock: clocks or data are wrong."""
    KEPT_UNKNOWN_DATE = "KeptUnknownDate"
    """The store gave no usable date for a member."""
    KEPT_NOT_IN_RUN = "KeptNotInRun"
    """The object lies directly in the scope, in no run directory."""
    KEPT_RESERVED = "KeptReserved"
    """The object, or a member of its run, belongs to the reserved area ``.bubu/``."""
    KEPT_RUN_INCOMPLETE = "KeptRunIncomplete"
    """The pass ended inside the run; a later pass goes on there and counts it again."""
    KEPT_RUN_TAIL = "KeptRunTail"
    """Met behind a run that was already decided in this cycle; the next cycle sees it whole."""
    KEPT_NEWER_MEMBER = "KeptNewerMember"
    """The run was due, and the listing made before deleting showed that it no longer is."""
    KEPT_LIVE = "KeptLive"
    """The owner of the run is live: it exists and has not come to its end."""
    KEPT_REFERENCED = "KeptReferenced"
    """A live owner refers to an object of the run, directly or through stored documents."""
    KEPT_LAST_RUNS = "KeptLastRuns"
    """The run is among the newest of its story that a rule's keep.lastRuns keeps."""
    KEPT_NO_OWNER_LIST = "KeptNoOwnerList"
    """A rule needs to know the owners (keep.lastRuns), and nobody can list them here."""
    KEPT_ORPHAN = "KeptOrphan"
    """The run has no owner, and orphans are only reported."""
    KEPT_ORPHAN_GRACE = "KeptOrphanGrace"
    """The run has no owner, but has not been seen without one for long enough."""
    KEPT_SHARED_STORE = "KeptSharedStore"
    """The run has no owner here, but other clusters use the store, and may own it."""
    DUE = "Due"
    """Would be deleted; what a dry run reports."""
    DUE_DEFERRED = "DueDeferred"
    """Due, left to the next pass by a limit or a stop; counted again there."""
    DELETED = "Deleted"
    """Deleted."""
    DELETE_FAILED = "DeleteFailed"
    """The store refused to delete it; tried again in the next cycle."""


KEPT_REASONS: Final = frozenset(reason for reason in Reason if reason.value.startswith("Kept"))
"""Reasons that leave an object where it is because it must, or may, be kept."""

DUE_REASONS: Final = frozenset({Reason.DUE, Reason.DUE_DEFERRED, Reason.DELETED, Reason.DELETE_FAILED})
"""Reasons of objects that were judged due in this pass, whatever became of them."""

PROVISIONAL_REASONS: Final = frozenset({Reason.KEPT_RUN_INCOMPLETE, Reason.DUE_DEFERRED})
"""Reasons of objects that a later pass of the same cycle counts again."""
