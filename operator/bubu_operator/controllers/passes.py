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
from dataclasses import replace
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.controllers.cluster_identity import ClusterIdentity
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.isolation import child_environment
from bubu_operator.controllers.pass_access import PassSettings
from bubu_operator.controllers.pass_job import PassJob
from bubu_operator.controllers.pass_memory import PassMemory
from bubu_operator.controllers.pass_record import PassRecord
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.conditions import format_time
from bubu_operator.kube.resources import ObjectKey
from bubu_operator.kube.status import StatusRefusedError
from bubu_operator.retention.document import LineType, PassDocument
from bubu_operator.retention.plan import resume_cursor
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_operator.retention.status import Verdict, judge_report
from bubu_storage.retention.claim_document import ClaimSettings
from bubu_storage.settings import FileSettings, S3Settings

__all__ = ["GRACE_SECONDS", "PassJob", "PassRunner", "claim_holder"]

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.25
GRACE_SECONDS: Final = 30.0
"""For the process to start, and for a request that was under way when the budget ended."""

STOP_SECONDS: Final = 3.0
"""For the process to end, once it was asked to or has reported."""

MAX_LAST_WORDS_CHARACTERS: Final = 500
FILE_REQUEST_SECONDS: Final = 10.0
AGENT_REQUEST_SECONDS: Final = 35.0


def claim_holder(cluster_uid: str, policy: ObjectKey, start_time: str) -> str:
    """Return how a pass is called in the claim on its store: no two are called the same."""
    return f"{cluster_uid}/{policy}/{start_time}"


def _request_seconds(settings: PassSettings) -> float:
    """Return how long one request may be under way; each further try is looked at anew before it is sent."""
    if isinstance(settings, S3Settings):
        return settings.connect_timeout_seconds + settings.timeout_seconds
    return FILE_REQUEST_SECONDS if isinstance(settings, FileSettings) else AGENT_REQUEST_SECONDS


class PassRunner:
    """Runs passes, any number at once from different threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cluster = ClusterIdentity(context.client, context.options.namespaces)
        self._memory = PassMemory(monotonic=context.monotonic)

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
            cluster_uid = self._cluster.uid()
            with self._context.metrics.retention.passes_running.track_inprogress():
                good = _Supervision(self._context, job, record, self._memory).run(cluster_uid)
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

    def forget(self, key: ObjectKey) -> None:
        """Forget a policy that is gone."""
        self._memory.forget(key)


class _Supervision:
    """One pass of one policy: its process, from the start to the end."""

    def __init__(self, context: Context, job: PassJob, record: PassRecord, memory: PassMemory) -> None:
        self._context = context
        self._job = job
        self._record = record
        self._memory = memory

    def run(self, cluster_uid: str) -> bool:
        """Run it; tell whether it did what it should."""
        job, record = self._job, self._record
        record.begin()
        policy, spec = job.policy, job.plan.spec
        document = self._document(cluster_uid)
        self._context.fence.check(f"pass of {policy.key}")
        began = self._context.monotonic()
        logger.info("pass of %s starts: %s, %s", policy.key, record.start.mode.value, job.due.reason.value)
        try:
            process = PassProcess(
                document, environment=child_environment(os.environ), owners=job.owners.source
            )
        except OSError as error:
            record.finish(Verdict(False, Reason.PASS_FAILED, f"no process could be started: {error}"), 0.0)
            return False
        with process:
            job.access.started()
            verdict = self._listen(process, began + spec.budget_seconds + GRACE_SECONDS)
        if not verdict.good and (told := job.access.last_words()):
            verdict = replace(verdict, message=f"{verdict.message}; {told}")
        record.facts = process.facts
        if process.facts is not None and not spec.dry_run:
            self._memory.found_conditional(job.store, is_conditional=process.facts.is_conditional)
        if process.reference_cache is not None:
            self._memory.put(job.store, job.key, process.reference_cache)
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

    def _document(self, cluster_uid: str) -> PassDocument:
        """Return everything that the process is told; credentials inside."""
        job, policy = self._job, self._job.policy
        spec, settings = job.plan.spec, job.access.settings
        stored = policy.status.dry_run_cursor if spec.dry_run else policy.status.cursor
        valid_until = self._context.fence.valid_until
        last = policy.status.last_pass
        ended = format_time(last.start_time) if last is not None and last.start_time is not None else ""
        return PassDocument(
            settings,
            spec,
            resume_cursor(stored, job.plan.fingerprint),
            None if valid_until == math.inf else valid_until,
            claim=ClaimSettings.fitting(
                claim_holder(cluster_uid, job.key, self._record.start.start_time),
                cluster_uid,
                request_timeout_seconds=_request_seconds(settings),
            ),
            cluster_uid=cluster_uid,
            reference_cache=self._memory.get(job.store, job.key),
            conditional=self._memory.conditional(job.store),
            # The last pass of this policy is over by now: its process dies before its leader's time ends.
            ended_claim=claim_holder(cluster_uid, job.key, ended) if ended else "",
        )

    # -- listening -----------------------------------------------------------------------

    def _listen(self, process: PassProcess, deadline: float) -> Verdict:
        """Follow the process to its end; the last report is in the record."""
        monotonic, record = self._context.monotonic, self._record
        complaint = stopped = claimed = ""
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
            elif line is not None and line.type is LineType.CLAIMED:
                claimed = line.message
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
        if claimed:
            return Verdict(False, Reason.STORE_CLAIMED, claimed)
        if stopped:
            return Verdict(False, Reason.PASS_FAILED, f"cut short: {stopped}; the next pass resumes")
        # Scrubbed before it is cut: the rest of a secret would not be known as one.
        last_words = self._record.scrub(line.complaint).strip().rsplit("\n", 1)[-1]
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
