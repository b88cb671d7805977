"""Running one pass: a process is started, listened to, written down and ended.

Invariants: the status is written at the first checkpoint, then at most once a second, and
always before the pass is called finished; a pass whose policy, config or controller goes
away is stopped, and so is every pass when somebody pauses retention; it never goes on beyond the
time that this controller leads for sure; a process that outlives its budget is killed; whatever
happens, the process is gone and its way to the store is closed when `PassRunner.run` returns.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Final, cast

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.isolation import child_environment
from bubu_operator.controllers.pass_job import PassJob
from bubu_operator.controllers.pass_record import PassRecord
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.status import StatusRefusedError
from bubu_operator.retention.document import LineType, PassDocument
from bubu_operator.retention.plan import resume_cursor
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_operator.retention.status import Verdict, judge_report
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["GRACE_SECONDS", "PassJob", "PassRunner"]

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.25
GRACE_SECONDS: Final = 30.0
"""For the process to start, and for a request that was under way when the budget ended."""

STOP_SECONDS: Final = 3.0
"""For the process to end, once it was asked to or has reported."""

MAX_LAST_WORDS_CHARACTERS: Final = 500


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
        record = PassRecord(self._context, job)
        good = False
        try:
            with self._context.metrics.retention.passes_running.track_inprogress():
                good = _Supervision(self._context, job, record).run()
        except (KubeNotFoundError, StatusRefusedError) as error:
            # Deleted, or somebody else's by now: nothing is left to write to.
            logger.info("the pass of %s ended without a trace: %s", job.policy.key, error)
        finally:
            job.access.close(good=good)
        if record.taken_over:
            logger.warning(
                "another controller runs passes of %s; there should be one controller", job.policy.key
            )
        return not record.taken_over


class _Supervision:
    """One pass of one policy: its process, from the start to the end."""

    def __init__(self, context: Context, job: PassJob, record: PassRecord) -> None:
        self._context = context
        self._job = job
        self._record = record

    def run(self) -> bool:
        """Run it; tell whether it did what it should."""
        record = self._record
        record.begin()
        policy, spec = self._job.policy, self._job.plan.spec
        stored = policy.status.dry_run_cursor if spec.dry_run else policy.status.cursor
        valid_until = self._context.fence.valid_until
        self._context.fence.check(f"pass of {policy.key}")
        document = PassDocument(
            cast("FileSettings | S3Settings", self._job.access.settings),
            spec,
            resume_cursor(stored, self._job.plan.fingerprint),
            None if valid_until == math.inf else valid_until,
        )
        began = self._context.monotonic()
        logger.info(
            "pass of %s starts: %s, %s", policy.key, record.start.mode.value, self._job.due.reason.value
        )
        try:
            process = PassProcess(document, environment=child_environment(os.environ))
        except OSError as error:
            record.finish(Verdict(False, Reason.PASS_FAILED, f"no process could be started: {error}"), 0.0)
            return False
        with process:
            self._job.access.started()
            verdict = self._listen(process, began + spec.budget_seconds + GRACE_SECONDS)
        seconds = self._context.monotonic() - began
        record.finish(verdict, seconds)
        logger.info(
            "pass of %s ended after %.1f s: %s (%s)",
            policy.key,
            seconds,
            verdict.reason.value,
            record.clean(verdict.message),
        )
        return verdict.good

    # -- listening -----------------------------------------------------------------------

    def _listen(self, process: PassProcess, deadline: float) -> Verdict:
        """Follow the process to its end; the last report is in the record."""
        monotonic, record = self._context.monotonic, self._record
        complaint = stopped = ""
        final = False
        while True:
            line = process.next(TICK_SECONDS)
            if isinstance(line, PassEnded):
                break
            if line is not None and line.report is not None:
                record.take(line.report)
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
                record.checkpoint()
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
        if final and record.report is not None:
            return judge_report(record.report)
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
        if self._record.cannot_write:
            return "its progress cannot be written to the API server"
        return self._job.interrupted()
