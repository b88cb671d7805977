"""Running one pass: a process is started, listened to, written down and ended.

Invariants: the status is written at the first checkpoint, then at most once a second, and
always before the pass is called finished; a pass whose policy, config or controller goes
away is stopped; it never goes on beyond the time that this controller leads for sure; a
process that outlives its budget is killed; whatever happens, the process is gone when
`PassRunner.run` returns.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bubu_operator.api.v1alpha1.conditions import EventReason, Reason
from bubu_operator.api.v1alpha1.retention_policy import RetentionMode, RetentionPolicy
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.isolation import child_environment
from bubu_operator.errors import KubeApiError, KubeNotFoundError
from bubu_operator.kube.events import EventType
from bubu_operator.kube.resources import RETENTION_POLICIES, JsonObject, metadata_of, section
from bubu_operator.kube.scrub import shorten
from bubu_operator.kube.status import StatusRefusedError, write_status
from bubu_operator.retention.document import LineType, PassDocument
from bubu_operator.retention.plan import PassPlan, resume_cursor
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_operator.retention.schedule import Due
from bubu_operator.retention.status import (
    MAX_MESSAGE_CHARACTERS,
    PassStart,
    Verdict,
    finished_status,
    judge_report,
    progress_status,
    started_status,
)
from bubu_storage.retention.report import PassReport
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["GRACE_SECONDS", "PassJob", "PassRunner"]

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.25
WRITE_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 30.0
"""For the process to start, and for a request that was under way when the budget ended."""

STOP_SECONDS: Final = 3.0
"""For the process to end, once it was asked to or has reported."""

MAX_WRITE_FAILURES: Final = 3
MAX_LAST_WORDS_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class PassJob:
    """A pass that is due and may run now.

    Attributes:
        obj: the policy as read.
        policy: the same, parsed.
        plan: for the engine.
        settings: of the store, credentials inside.
        due: why now.
        interrupted: asked often; why the pass must end, or None.
    """

    obj: JsonObject
    policy: RetentionPolicy
    plan: PassPlan
    settings: FileSettings | S3Settings
    due: Due
    interrupted: Callable[[], str | None]


class PassRunner:
    """Runs passes, any number at once from different threads."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self, job: PassJob) -> bool:
        """Run a pass to its end, whatever end that is.

        Returns:
            False when somebody else has started a pass of this policy meanwhile, as a second
            controller would: that one's is to be left alone.

        Raises:
            KubeApiError: the start could not be written down; nothing was started.
        """
        supervision = _Supervision(self._context, job)
        try:
            supervision.run()
        except (KubeNotFoundError, StatusRefusedError) as error:
            # Deleted, or somebody else's by now: nothing is left to write to.
            logger.info("the pass of %s ended without a trace: %s", job.policy.key, error)
        if supervision.taken_over:
            logger.warning(
                "another controller runs passes of %s; there should be one controller", job.policy.key
            )
        return not supervision.taken_over


class _Supervision:
    """One pass of one policy."""

    def __init__(self, context: Context, job: PassJob) -> None:
        self._context = context
        self._job = job
        policy = job.policy
        totals = policy.status.totals
        self._start = PassStart(
            started=context.clock(),
            mode=policy.spec.mode,
            generation=policy.metadata.generation,
            fingerprint=job.plan.fingerprint,
            passes=totals.passes if totals is not None else 0,
            deleted_objects=totals.deleted_objects if totals is not None else 0,
            deleted_bytes=totals.deleted_bytes if totals is not None else 0,
            run_now=job.due.run_now,
        )
        self._obj = job.obj
        self._report: PassReport | None = None
        self._unwritten = False
        self._written_at = float("-inf")
        self._write_failures = 0
        self._deletion_announced = not self._first_deletion()
        self.taken_over = False

    def run(self) -> None:
        self._write(lambda old: started_status(old, self._start), owned=False)
        policy, spec = self._job.policy, self._job.plan.spec
        stored = policy.status.dry_run_cursor if spec.dry_run else policy.status.cursor
        valid_until = self._context.fence.valid_until
        self._context.fence.check(f"pass of {policy.key}")
        document = PassDocument(
            self._job.settings,
            spec,
            resume_cursor(stored, self._job.plan.fingerprint),
            None if valid_until == math.inf else valid_until,
        )
        began = self._context.monotonic()
        logger.info(
            "pass of %s starts: %s, %s", policy.key, self._start.mode.value, self._job.due.reason.value
        )
        try:
            process = PassProcess(document, environment=child_environment(os.environ))
        except OSError as error:
            self._finish(None, Verdict(False, Reason.PASS_FAILED, f"no process could be started: {error}"))
            return
        with process:
            verdict = self._listen(process, began + spec.budget_seconds + GRACE_SECONDS)
        self._finish(self._report, verdict)
        logger.info(
            "pass of %s ended after %.1f s: %s (%s)",
            policy.key,
            self._context.monotonic() - began,
            verdict.reason.value,
            self._clean(verdict.message),
        )

    # -- listening -----------------------------------------------------------------------

    def _listen(self, process: PassProcess, deadline: float) -> Verdict:
        """Follow the process to its end; the last report is in `_report`."""
        monotonic = self._context.monotonic
        complaint = stopped = ""
        final = False
        while True:
            line = process.next(TICK_SECONDS)
            if isinstance(line, PassEnded):
                break
            if line is not None and line.report is not None:
                self._report, self._unwritten = line.report, True
                if not final and line.type is LineType.REPORT:
                    final = True
                    deadline = min(deadline, monotonic() + STOP_SECONDS)
            elif line is not None and line.type is LineType.ERROR:
                complaint = line.message
            process.grant(self._context.fence.valid_until)
            if not self._context.fence.is_open:
                # Its own clock ends it, too; this is sooner.
                process.kill()
                stopped = stopped or "this controller does not lead any more"
            if not final:
                self._checkpoint()
            if not stopped and not final:
                stopped = self._why_stop() or ""
                if stopped:
                    logger.info("pass of %s is stopped: %s", self._job.policy.key, stopped)
                    process.ask_to_stop()
                    deadline = min(deadline, monotonic() + STOP_SECONDS)
            if monotonic() >= deadline:
                process.kill()
                complaint = complaint or (
                    ""
                    if stopped or final
                    else "the process outlived its budget and was killed; the next pass resumes"
                )
                deadline = float("inf")
        if final and self._report is not None:
            return judge_report(self._report)
        if stopped:
            return Verdict(False, Reason.PASS_FAILED, f"cut short: {stopped}; the next pass resumes")
        # Scrubbed before it is cut: the rest of a secret would not be known as one.
        last_words = self._context.redactor.scrub(line.complaint).strip().rsplit("\n", 1)[-1]
        last_words = last_words[-MAX_LAST_WORDS_CHARACTERS:]
        return Verdict(
            False,
            Reason.PASS_FAILED,
            complaint or f"the process ended with code {line.exit_code} before its report. {last_words}",
        )

    def _why_stop(self) -> str | None:
        if self._context.stopping.is_set():
            return "the controller is shutting down"
        if why := self._context.pause.why:
            return f"all passes are paused: {why}"
        if self._write_failures >= MAX_WRITE_FAILURES:
            return "its progress cannot be written to the API server"
        return self._job.interrupted()

    # -- writing -------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Write the latest checkpoint down, at most once a second."""
        report = self._report
        now = self._context.monotonic()
        if report is None or not self._unwritten or now - self._written_at < WRITE_SECONDS:
            return
        self._written_at = now
        try:
            self._write(
                lambda old: progress_status(old, self._start, report, self._context.redactor), owned=True
            )
        except (StatusRefusedError, KubeNotFoundError):
            self._write_failures = MAX_WRITE_FAILURES
        except KubeApiError as error:
            self._write_failures += 1
            logger.warning("progress of %s was not written: %s", self._job.policy.key, error)
        else:
            self._write_failures = 0
            self._unwritten = False
            self._announce_deletion(report)

    def _finish(self, report: PassReport | None, verdict: Verdict) -> None:
        clean = Verdict(verdict.good, verdict.reason, self._clean(verdict.message))
        before = self._job.policy
        self._write(
            lambda old: finished_status(
                old,
                self._start,
                report,
                clean,
                now=self._context.clock(),
                interval_seconds=before.spec.interval_seconds,
                redactor=self._context.redactor,
            ),
            owned=True,
        )
        if report is not None:
            self._announce_deletion(report)
        self._announce_end(report, clean)

    def _write(self, make: Callable[[JsonObject], JsonObject], *, owned: bool) -> None:
        """Write a status onto our own pass only: not after a take-over, not onto another object."""

        def guarded(current: JsonObject) -> JsonObject | None:
            status = section(current, "status")
            if owned and section(status, "lastPass").get("startTime") != self._start.start_time:
                self.taken_over = True
                return None
            if not owned and metadata_of(current).get("generation") != self._start.generation:
                return None
            return make(status)

        self._obj = write_status(self._context.client, RETENTION_POLICIES, self._obj, guarded)

    # -- events, on transitions ----------------------------------------------------------

    def _first_deletion(self) -> bool:
        """Tell whether a deletion by this pass would be news: none by the policy's last pass."""
        last = self._job.policy.status.last_pass
        return self._start.mode is RetentionMode.ENFORCE and (
            self._start.deleted_objects == 0 or last is None or last.mode != RetentionMode.ENFORCE.value
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
        reconciled = next((c for c in before.conditions if c.type == "Reconciled"), None)
        was_bad = reconciled is not None and reconciled.status == "False"
        if not verdict.good:
            if not was_bad or (reconciled is not None and reconciled.reason != verdict.reason.value):
                self._emit(EventType.WARNING, verdict.reason.value, verdict.message)
            return
        if was_bad:
            self._emit(EventType.NORMAL, EventReason.RECOVERED.value, verdict.message)
        last = before.last_pass
        rehearsed = (
            last is not None
            and last.finish_time is not None
            and last.mode == RetentionMode.DRY_RUN.value
            and last.observed_generation == self._start.generation
        )
        if report is not None and self._start.mode is RetentionMode.DRY_RUN and not rehearsed:
            self._emit(EventType.NORMAL, EventReason.DRY_RUN_FINISHED.value, verdict.message)

    def _emit(self, type_: EventType, reason: str, note: str) -> None:
        self._context.events.emit(
            RETENTION_POLICIES, self._obj, type_=type_, reason=reason, note=note, action="RetentionPass"
        )

    def _clean(self, message: str) -> str:
        return shorten(self._context.redactor.scrub(message), MAX_MESSAGE_CHARACTERS)
