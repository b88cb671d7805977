"""What a probe's Job, its pod and their events come to; pure.

Invariants: everything in a pod's status may be written by the namespace's owner, and by nobody
else. It therefore becomes fixed words and bounded text, and concerns that owner's config alone.
A Job that cannot start has a reason, and is left to its deadline: what is missing may still come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.config_status import Probed, Verdict
from bubu_operator.controllers.probe_job import CONTAINER
from bubu_operator.kube.conditions import ConditionStatus, condition_list, find_condition, parse_time
from bubu_operator.kube.resources import JsonObject, metadata_of, section
from bubu_operator.kube.scrub import scrub_patterns, shorten
from bubu_operator.probe.result import ProbeResult, UnreadableResultError, parse_result
from bubu_storage.backend.probe import ProbeReport

__all__ = ["JobState", "Phase", "bounded", "judge_job", "pending_seconds", "read_job"]

MAX_TEXT_CHARACTERS: Final = 500
MAX_READ_CHARACTERS: Final = 8192
_ACCOUNT_MISSING: Final = "error looking up service account"
_HARMLESS_WAITS: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


class Phase(StrEnum):
    """How far a Job has come."""

    RUNNING = "Running"
    """On its way, as far as one can see."""
    STUCK = "Stuck"
    """It does not start, and something says why, or it takes long."""
    FINISHED = "Finished"


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of a Job.

    Attributes:
        phase: how far it has come.
        reason: why it is stuck, or finished without a result.
        message: the same for people; not scrubbed yet.
        result: of the probe, once finished and readable.
    """

    phase: Phase
    reason: Reason = Reason.PROBE_JOB_RUNNING
    message: str = ""
    result: ProbeResult | None = None


def read_job(
    job: JsonObject,
    pods: Sequence[JsonObject],
    events: Sequence[JsonObject],
    *,
    now: datetime,
    grace_seconds: float,
    container: str = CONTAINER,
) -> JobState:
    """Tell how far a Job has come.

    Args:
        job: as the API server has it.
        pods: those that the Job controller made for it.
        events: about the Job and its pods; may be empty.
        now: wall clock.
        grace_seconds: so long a start may take before its delay is worth a word.
        container: the pod's one container, after which the Job is called.
    """
    newest = max(pods, key=lambda pod: str(metadata_of(pod).get("creationTimestamp")), default=None)
    status = _container_status(newest, container)
    state = section(status, "state")
    if isinstance(state.get("terminated"), dict):
        return _finished(section(state, "terminated"), container)
    failed = _failed(job)
    if failed is not None:
        return JobState(
            Phase.FINISHED, Reason.PROBE_JOB_STUCK, f"the Job of the {container} failed: {failed}"
        )
    if isinstance(state.get("running"), dict):
        return JobState(Phase.RUNNING)
    if pending_seconds(job, now) < grace_seconds:
        return JobState(Phase.RUNNING)
    return _pending(job, newest, status, events)


def pending_seconds(job: JsonObject, now: datetime) -> float:
    """Return for how long a Job exists."""
    created = parse_time(metadata_of(job).get("creationTimestamp"))
    return max(0.0, (now - created).total_seconds()) if created is not None else 0.0


def judge_job(config: StorageConfig, state: JobState) -> Verdict:
    """Turn a Job that is stuck or finished into what the conditions say; pure."""
    result = state.result
    if result is None:
        missing = state.reason is Reason.SERVICE_ACCOUNT_NOT_FOUND
        running = state.reason is Reason.PROBE_JOB_RUNNING
        return Verdict(
            ready=ConditionStatus.FALSE if missing else ConditionStatus.UNKNOWN,
            reason=state.reason,
            message=state.message or "the Job that probes the store has not ended yet",
            reconciled=running,
            probed=state.phase is Phase.FINISHED,
        )
    how = _how(config)
    if result.reason is Reason.PROBE_SUCCEEDED:
        able = ", ".join(result.seen) or "nothing that this version knows"
        seconds = result.latency_milliseconds / 1000
        return Verdict(
            ready=ConditionStatus.TRUE,
            reason=Reason.PROBE_SUCCEEDED,
            message=f"the store answers a pod {how}: {able}",
            probe=Probed(ProbeReport(seconds, result.seen, 0.0, result.versioned), seconds),
            probed=True,
        )
    verdict = Verdict(
        ready=ConditionStatus.FALSE,
        reason=result.reason,
        message=f"from a pod {how}: {bounded(result.message) or result.reason.value}",
        probed=True,
    )
    if config.spec.file is not None and result.reason is Reason.PATH_NOT_WRITABLE:
        # A claim belongs to some user id, which the team's pods run as and the probe's does not.
        return replace(
            verdict,
            ready=ConditionStatus.UNKNOWN,
            message=f"{verdict.message}. Pods that run as the owner of the claim's files may be able to",
        )
    return verdict


def _how(config: StorageConfig) -> str:
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None and s3.authentication.service_account is not None:
        return f"under service account {s3.authentication.service_account.name}"
    return f"that mounts claim {file.volume_claim_name}" if file is not None else "of the probe"


def _finished(ended: JsonObject, container: str) -> JobState:
    text = ended.get("message")
    try:
        result = parse_result(text if isinstance(text, str) else "")
    except UnreadableResultError as error:
        code, why = ended.get("exitCode"), bounded(ended.get("reason"))
        return JobState(
            Phase.FINISHED,
            Reason.PROBE_RESULT_UNREADABLE,
            f"the {container}'s pod ended with exit code {code if isinstance(code, int) else '?'}"
            f"{f' ({why})' if why else ''} and its result cannot be read: {error}. Is --job-image the image "
            "of this very version?",
        )
    return JobState(Phase.FINISHED, result.reason, result.message, result)


def _failed(job: JsonObject) -> str | None:
    conditions = section(job, "status").get("conditions")
    for type_ in ("Failed", "Complete"):
        condition = find_condition(conditions, type_)
        if condition is not None and condition.get("status") == "True":
            text = bounded(condition.get("message"))
            return " ".join(word for word in (bounded(condition.get("reason")), text) if word) or type_
    return None


def _pending(
    job: JsonObject, pod: JsonObject | None, container: JsonObject, events: Sequence[JsonObject]
) -> JobState:
    name = metadata_of(job).get("name")
    told = _warning(events)
    if pod is None:
        if _ACCOUNT_MISSING in told:
            return JobState(
                Phase.STUCK,
                Reason.SERVICE_ACCOUNT_NOT_FOUND,
                f"no pod can be created for Job {name}: {told}. Create the ServiceAccount, or correct "
                "authentication.serviceAccount.name",
            )
        return _stuck(f"no pod has been created for Job {name}: {told or 'no event says why'}")
    waiting = section(section(container, "state"), "waiting")
    why = bounded(waiting.get("reason"))
    if why not in _HARMLESS_WAITS:
        text = bounded(waiting.get("message"))
        return _stuck(f"the pod of Job {name} cannot start: {why}{f': {text}' if text else ''}")
    scheduled = find_condition(section(pod, "status").get("conditions"), "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        return _stuck(
            f"the pod of Job {name} has no node ({bounded(scheduled.get('reason'))}): "
            f"{bounded(scheduled.get('message')) or told or 'nothing says why'}"
        )
    return _stuck(f"the pod of Job {name} has not started yet: {told or 'nothing says why'}")


def _stuck(message: str) -> JobState:
    return JobState(Phase.STUCK, Reason.PROBE_JOB_STUCK, message)


def _warning(events: Sequence[JsonObject]) -> str:
    """Return the newest warning's text; notes of events are anybody's in that namespace."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    newest = max(warnings, key=_event_time, default=None)
    if newest is None:
        return ""
    return f"{bounded(newest.get('reason'))}: {bounded(newest.get('note'))}"


def _event_time(event: JsonObject) -> str:
    times = (event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return max(str(time or "") for time in (*times, metadata_of(event).get("creationTimestamp")))


def _container_status(pod: JsonObject | None, name: str) -> JsonObject:
    statuses: Any = section(pod, "status").get("containerStatuses") if pod is not None else None
    nothing: JsonObject = {}
    return next((item for item in condition_list(statuses) if item.get("name") == name), nothing)


def bounded(value: object) -> str:
    """Return a text of somebody else's, fit to be shown: scrubbed and short; "" for what is no text."""
    if not isinstance(value, str):
        return ""
    # Scrubbed before it is cut: half a credential would not be known as one.
    return shorten(scrub_patterns(value[:MAX_READ_CHARACTERS]), MAX_TEXT_CHARACTERS)
