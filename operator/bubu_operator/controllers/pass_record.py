"""What is written down of a pass while it runs and when it has ended: status, events, metrics.

Invariants: the status is written onto our own pass only, not after a take-over and not onto
another object of the name; events tell of transitions only; every text is scrubbed before it is
cut and before anybody sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from bubu_operator.api.v1alpha1.common import find_condition
from bubu_operator.api.v1alpha1.conditions import ConditionType, EventReason, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.pass_job import PassJob
from bubu_operator.errors import KubeApiError, KubeNotFoundError
from bubu_operator.kube.conditions import ConditionStatus
from bubu_operator.kube.conditions import find_condition as find_raw
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import JsonObject, key_of, metadata_of, section
from bubu_operator.kube.scrub import Redactor, shorten
from bubu_operator.kube.status import StatusRefusedError, write_status
from bubu_operator.observability.retention_metrics import PassResult
from bubu_operator.owners.census import OwnersProblem
from bubu_operator.retention.pass_start import PassStart
from bubu_operator.retention.status import (
    MAX_MESSAGE_CHARACTERS,
    Verdict,
    finished_status,
    progress_status,
    started_status,
)
from bubu_operator.retention.store_facts import StoreFacts
from bubu_operator.retention.store_status import with_store_facts
from bubu_storage.retention.report import PassReport

__all__ = ["PassRecord"]

logger = logging.getLogger(__name__)

WRITE_SECONDS: Final = 1.0
MAX_WRITE_FAILURES: Final = 3


class PassRecord:
    """The record of one pass.

    Attributes:
        start: what holds until the pass ends.
        report: the latest of the process; None before its first.
        facts: what the process told of its store; None where it told nothing.
        taken_over: somebody else has started a pass of this policy meanwhile.
    """

    def __init__(self, context: Context, job: PassJob) -> None:
        self._context = context
        self._job = job
        self._resource = job.kind.resource
        policy = job.policy
        self.start = PassStart.of(policy, job.plan, started=context.clock())
        self._obj = job.obj
        key = key_of(job.obj)
        self._labels = (key.namespace, key.name)
        self.report: PassReport | None = None
        self.facts: StoreFacts | None = None
        self._unwritten = False
        self._written_at = float("-inf")
        self._write_failures = 0
        self._deletion_announced = not self._first_deletion()
        self.taken_over = False

    @property
    def cannot_write(self) -> bool:
        """Tell whether progress could not be written several times in a row, or never will be."""
        return self._write_failures >= MAX_WRITE_FAILURES

    def begin(self) -> None:
        """Write down whose pass it is, before anything is started.

        Raises:
            StatusRefusedError, KubeApiError: it was not written down, and must not be started.
        """
        self._write(lambda old: started_status(old, self.start), owned=False)

    def take(self, report: PassReport) -> None:
        """Remember the process's latest report."""
        self.report, self._unwritten = report, True

    def checkpoint(self) -> None:
        """Write the latest report down, at most once a second."""
        report = self.report
        now = self._context.monotonic()
        if report is None or not self._unwritten or now - self._written_at < WRITE_SECONDS:
            return
        self._written_at = now
        try:
            self._write(lambda old: progress_status(old, self.start, report, self._redactor), owned=True)
        except (StatusRefusedError, KubeNotFoundError):
            self._write_failures = MAX_WRITE_FAILURES
        except KubeApiError as error:
            self._write_failures += 1
            logger.warning("progress of %s was not written: %s", self._job.policy.key, error)
        else:
            self._write_failures = 0
            self._unwritten = False
            self._announce_deletion(report)

    def finish(self, verdict: Verdict, seconds: float) -> None:
        """Write down how the pass ended, with what it reported last."""
        report, now = self.report, self._context.clock()
        clean = Verdict(verdict.good, self._reason_of(verdict), self.clean(verdict.message))
        self._count(report, clean, seconds)
        with_owners = self._job.owners.after_pass(self._context)
        interval_seconds = self._job.policy.spec.interval_seconds

        def finished(old: JsonObject) -> JsonObject:
            new = finished_status(
                old,
                self.start,
                report,
                clean,
                now=now,
                interval_seconds=interval_seconds,
                redactor=self._redactor,
                missing=self.clean(self._job.missing),
            )
            return with_owners(with_store_facts(new, self.facts, now=now))

        self._write(finished, owned=True)
        if report is not None:
            self._announce_deletion(report)
        self._announce_end(report, clean)
        self._announce_degraded(self._job.obj)

    def _reason_of(self, verdict: Verdict) -> Reason:
        """Return why, in the most telling word."""
        anomaly = self._job.owners.anomaly
        if verdict.reason is not Reason.OWNERS_UNKNOWN or anomaly is None:
            return verdict.reason
        return {
            OwnersProblem.KIND_VANISHED: Reason.OWNER_KIND_VANISHED,
            OwnersProblem.LIVE_DROPPED: Reason.LIVE_COUNT_DROPPED,
        }.get(anomaly.problem, verdict.reason)

    def clean(self, message: str) -> str:
        """Return a text as people may see it."""
        return shorten(self.scrub(message), MAX_MESSAGE_CHARACTERS)

    def scrub(self, text: str) -> str:
        """Return a text of any length without the credentials of the pass's store."""
        return self._redactor.scrub(text)

    @property
    def _redactor(self) -> Redactor:
        # Made anew each time: credentials may be rotated while a pass runs.
        return self._context.redactor.of(self._job.scope)

    def _write(self, make: Callable[[JsonObject], JsonObject], *, owned: bool) -> None:
        """Write a status onto our own pass only: not after a take-over, not onto another object."""

        def guarded(current: JsonObject) -> JsonObject | None:
            status = section(current, "status")
            if owned and section(status, "lastPass").get("startTime") != self.start.start_time:
                self.taken_over = True
                return None
            if not owned and metadata_of(current).get("generation") != self.start.generation:
                return None
            return make(status)

        self._obj = write_status(self._context.client, self._resource, self._obj, guarded)

    # -- metrics -------------------------------------------------------------------------

    def _count(self, report: PassReport | None, verdict: Verdict, seconds: float) -> None:
        metrics = self._context.metrics.retention
        shown = {"duration": seconds}
        if report is not None:
            metrics.add(
                self._labels,
                {
                    "scanned": report.scanned,
                    "deleted": report.deleted.objects,
                    "deleted_bytes": report.deleted.size_bytes,
                    "failed": report.failed.objects,
                },
            )
            shown |= {
                "due": report.due.objects,
                "due_bytes": report.due.size_bytes,
                "kept": report.kept.objects,
                "lag": report.oldest_overdue_seconds or 0,
            }
        if verdict.good:
            result = PassResult.SUCCEEDED
            shown["success"] = self._context.clock().timestamp()
        else:
            result = PassResult.PARTIAL if verdict.reason is Reason.PASS_PARTIAL else PassResult.FAILED
        metrics.show(self._labels, shown)
        stopped_by = report.stopped_by if report is not None else None
        reasons = report.by_reason.items() if report is not None else ()
        metrics.ended(
            self._labels,
            result,
            stopped_by.value if stopped_by is not None else verdict.reason.value,
            {reason.value: tally.objects for reason, tally in reasons},
        )

    # -- events, on transitions ----------------------------------------------------------

    def _first_deletion(self) -> bool:
        """Tell whether a deletion by this pass would be news: none by the policy's last pass."""
        last = self._job.policy.status.last_pass
        return self.start.mode is RetentionMode.ENFORCE and (
            self.start.deleted_objects == 0 or last is None or last.mode != RetentionMode.ENFORCE.value
        )

    def _announce_deletion(self, report: PassReport) -> None:
        if self._deletion_announced or not report.deleted.objects:
            return
        self._deletion_announced = True
        self._emit(
            EventType.NORMAL,
            EventReason.DELETION_STARTED.value,
            f"the policy deletes what is due, at most {self._job.plan.spec.max_delete} objects a pass",
        )

    def _announce_end(self, report: PassReport | None, verdict: Verdict) -> None:
        before = self._job.policy.status
        reconciled = find_condition(before.conditions, ConditionType.RECONCILED)
        was_bad = reconciled is not None and reconciled.status == ConditionStatus.FALSE.value
        if not verdict.good:
            if not was_bad or (reconciled is not None and reconciled.reason != verdict.reason.value):
                self._emit(EventType.WARNING, verdict.reason.value, verdict.message)
            return
        if was_bad:
            self._emit(EventType.NORMAL, EventReason.RECOVERED.value, verdict.message)
        if report is not None and self.start.mode is RetentionMode.DRY_RUN:
            self._announce_rehearsal(report, verdict)

    def _announce_rehearsal(self, report: PassReport, verdict: Verdict) -> None:
        if self._job.policy.spec.mode is RetentionMode.ENFORCE:
            if report.complete_cycle:
                cycle = report.cycle
                note = f"of {cycle.decided} objects {cycle.due} are due; {verdict.message}"
                self._emit(EventType.NORMAL, EventReason.REHEARSAL_FINISHED.value, note)
            return
        last = self._job.policy.status.last_pass
        known = (
            last is not None
            and last.finish_time is not None
            and last.mode == RetentionMode.DRY_RUN.value
            and last.observed_generation == self.start.generation
        )
        if not known:
            self._emit(EventType.NORMAL, EventReason.DRY_RUN_FINISHED.value, verdict.message)

    def _announce_degraded(self, before: JsonObject) -> None:
        """Tell that something is missing although passes run, when that is news."""
        was = find_raw(section(before, "status").get("conditions"), ConditionType.DEGRADED) or {}
        now = find_raw(section(self._obj, "status").get("conditions"), ConditionType.DEGRADED) or {}
        told = {Reason.SHARED_STORE.value, Reason.BACKLOG_GROWING.value, Reason.OWNERS_UNKNOWN.value}
        if now.get("reason") in told and now.get("reason") != was.get("reason"):
            self._emit(EventType.WARNING, str(now["reason"]), str(now.get("message") or ""))

    def _emit(self, type_: EventType, reason: str, note: str) -> None:
        self._context.events.emit(
            self._resource, self._obj, type_=type_, reason=reason, note=note, action="RetentionPass"
        )
