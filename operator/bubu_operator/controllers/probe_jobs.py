"""Jobs that probe: created when due, looked at in passing, deleted when they have ended.

No worker waits for a Job: each look takes a few requests and says when to come back. What is to
be known after a restart is in the cluster: the Job has a name that follows from the config, so
it is adopted and never doubled; when the last probe ended is in the config's status.

Invariants: at most one Job of a config at a time, `MAX_JOBS_OF_NAMESPACE` of a namespace and
`MAX_JOBS` in all; a config that has no Job holds no place; Jobs of an earlier spec are deleted
before the next is created; what fails is tried again ever more rarely.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.config_status import Verdict
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.probe_job import PROBE_LABEL, job_manifest, job_name, place_problem
from bubu_operator.controllers.probe_job_schedule import Places, Schedule, key_of_config, ready_condition
from bubu_operator.controllers.probe_job_state import (
    JobState,
    Phase,
    bounded,
    judge_job,
    pending_seconds,
    read_job,
)
from bubu_operator.controllers.store_access import grant_command
from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeForbiddenError,
    KubeInvalidError,
    KubeNotFoundError,
)
from bubu_operator.injection.config import load_config
from bubu_operator.injection.environment import InjectionPlan
from bubu_operator.kube.conditions import ConditionStatus, parse_time
from bubu_operator.kube.resources import (
    EVENTS,
    JOBS,
    PODS,
    JsonObject,
    ObjectKey,
    Resource,
    metadata_of,
    section,
)

__all__ = ["JobLook", "ProbeJobs"]

logger = logging.getLogger(__name__)

CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")

START_GRACE_SECONDS: Final = 15.0
POLL_SECONDS: Final = 1.0
POLL_MAX_SECONDS: Final = 10.0
GONE_SECONDS: Final = 1.0
YOUNG_SECONDS: Final = 120.0
YOUNG_CLAIM_SECONDS: Final = 3.0
MAX_EVENTS: Final = 50
MAX_LISTED: Final = 20
"""More Jobs or pods of ours than one somebody else has made: they must not fill our memory."""


@dataclass(frozen=True, slots=True)
class JobLook:
    """What a look came to.

    Attributes:
        verdict: for the status; None leaves it as it is.
        again_seconds: when to look again.
        finish: to be called once the status is written; may delete the Job.
    """

    verdict: Verdict | None
    again_seconds: float
    finish: Callable[[], None] = lambda: None


class ProbeJobs:
    """Looks after the Jobs of all configs of this process; thread-safe for different configs.

    Args:
        context: of the process.
        rng: spreads retries.
        cluster_uid: under which Jobs register in stores; asked for each Job, "" for not at all.
    """

    def __init__(
        self,
        context: Context,
        *,
        rng: random.Random | None = None,
        cluster_uid: Callable[[], str] = lambda: "",
    ) -> None:
        self._context = context
        self._cluster_uid = cluster_uid
        interval = context.options.probe_interval_seconds
        rng = rng or random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._schedule = Schedule(interval, context.monotonic, rng)
        self._places = Places(rng, context.metrics.probe_jobs.set)
        self._grace = min(START_GRACE_SECONDS, interval * 2)

    # -- looking -------------------------------------------------------------------------

    def look(self, obj: JsonObject, config: StorageConfig) -> JobLook:
        """See how the config's Job is, create it when it is due, and say what is known.

        Raises:
            KubeApiError: the API server failed, other than by refusing what is asked.
        """
        options = self._context.options
        namespace = config.metadata.namespace
        if not options.job_image:
            return self._unprobed(config, "the controller has no image for it (--job-image)")
        problem = place_problem(namespace, options.operator_namespace)
        if problem:
            return self._unprobed(config, problem)
        loaded = load_config({**obj, "kind": StorageConfig.KIND})
        if loaded.plan is None:
            refusal = _refusal(Reason.INVALID_SPEC, loaded.problem, ConditionStatus.FALSE)
            return self._without_job(config, refusal, self._schedule.interval_seconds)
        try:
            claim = self._look_at_claim(config)
            return claim if claim is not None else self._look(obj, config, loaded.plan)
        except KubeForbiddenError as error:
            command = grant_command(options, options.prober_role, namespace, str(error))
            if not command:
                raise
            return self._unprobed(config, f"the controller may not run Jobs here. Allow it with: {command}")

    def _without_job(self, config: StorageConfig, verdict: Verdict, again_seconds: float) -> JobLook:
        """There is to be no Job: a place that an earlier one had is somebody else's now."""
        self._places.leave(key_of_config(config))
        return JobLook(verdict, again_seconds)

    def forget(self, key: ObjectKey) -> None:
        """A config is gone; its Job goes by its owner reference."""
        self._places.forget(key)
        self._schedule.forget(key)

    def discard(self, config: StorageConfig) -> None:
        """A config needs no Job any more: delete what this process knows of; deadlines end the rest."""
        key = key_of_config(config)
        if not self._places.knows(key):
            return
        try:
            for job in self._jobs_of(config):
                self._delete(config, job)
        except KubeApiError as error:
            logger.info("Jobs of %s are left to their deadline: %s", config.key, error)
        self.forget(key)

    def _look(self, obj: JsonObject, config: StorageConfig, plan: InjectionPlan) -> JobLook:
        key = key_of_config(config)
        if self._places.has_to_wait(key):
            return JobLook(None, self._places.pause_seconds())
        name = job_name(config, plan, self._context.options.job_image)
        jobs = self._jobs_of(config)
        earlier = [job for job in jobs if metadata_of(job).get("name") != name]
        for job in earlier:
            self._delete(config, job)
        if earlier:
            return JobLook(None, GONE_SECONDS)
        if not jobs:
            self._places.leave(key)
            wait = self._schedule.wait_seconds(obj, config, self._context.clock())
            return JobLook(None, wait) if wait > 0 else self._create(obj, config, plan)
        job = jobs[0]
        if metadata_of(job).get("deletionTimestamp"):
            return JobLook(None, GONE_SECONDS)
        self._places.enter(key, bounded=False)
        return self._read(obj, config, job)

    def _read(self, obj: JsonObject, config: StorageConfig, job: JsonObject) -> JobLook:
        now = self._context.clock()
        namespace = config.metadata.namespace
        uid = str(metadata_of(job).get("uid"))
        selector = f"batch.kubernetes.io/controller-uid={uid}"
        pods = self._context.client.list_page(
            PODS, namespace, label_selector=selector, limit=MAX_LISTED
        ).items
        state = read_job(job, pods, (), now=now, grace_seconds=self._grace)
        if state.phase is Phase.STUCK:
            state = read_job(
                job, pods, self._events(namespace, job, pods), now=now, grace_seconds=self._grace
            )
        if state.phase is Phase.FINISHED:
            return self._finished(obj, config, job, state)
        pause = min(POLL_MAX_SECONDS, max(POLL_SECONDS, pending_seconds(job, now) / 4))
        if state.phase is Phase.RUNNING and _has_answer(obj, config):
            return JobLook(None, pause)
        return JobLook(judge_job(config, state), pause)

    def _finished(self, obj: JsonObject, config: StorageConfig, job: JsonObject, state: JobState) -> JobLook:
        key = key_of_config(config)
        verdict: Verdict | None = judge_job(config, state)
        ready = ready_condition(obj, config)
        if state.result is None and ready.get("reason") in _WHY_NOT_STARTED:
            # The pod went with its deadline; what kept it from starting says more than that.
            verdict = None
        good = verdict is not None and verdict.ready is ConditionStatus.TRUE
        if good and state.message:
            logger.warning("the probe's Job of %s says: %s", config.key, bounded(state.message))
        self._context.metrics.probe_job_results.labels(state.reason.value).inc()
        pause = self._schedule.note(config, good=good)

        def finish() -> None:
            self._delete(config, job)
            self._places.leave(key)

        return JobLook(verdict, pause, finish)

    # -- creating and deleting -------------------------------------------------------------

    def _create(self, obj: JsonObject, config: StorageConfig, plan: InjectionPlan) -> JobLook:
        options, key = self._context.options, key_of_config(config)
        running = None if _has_answer(obj, config) else judge_job(config, JobState(Phase.RUNNING))
        if not self._places.enter(key, bounded=True):
            return JobLook(running, self._places.pause_seconds())
        manifest = job_manifest(
            config,
            plan,
            image=options.job_image,
            allow_loopback=options.allow_loopback_endpoints,
            cluster_uid=self._cluster_uid(),
        )
        try:
            self._context.client.create(JOBS, manifest, config.metadata.namespace)
        except KubeConflictError:
            return self._refused(
                config,
                f"Job {metadata_of(manifest)['name']} is there already and not this config's; delete it",
            )
        except (KubeForbiddenError, KubeInvalidError) as error:
            if grant_command(options, options.prober_role, config.metadata.namespace, str(error)):
                self._places.leave(key)
                raise
            return self._refused(config, f"the API server refuses the Job of the probe: {error}")
        except KubeApiError:
            self._places.leave(key)
            raise
        logger.debug("Job %s/%s created", key.namespace, metadata_of(manifest)["name"])
        return JobLook(running, POLL_SECONDS)

    def _refused(self, config: StorageConfig, message: str) -> JobLook:
        self._places.leave(key_of_config(config))
        pause = self._schedule.note(config, good=False)
        return JobLook(_refusal(Reason.PROBE_JOB_REFUSED, message, reconciled=False), pause)

    def _delete(self, config: StorageConfig, job: JsonObject) -> None:
        metadata, namespace = metadata_of(job), config.metadata.namespace
        name = str(metadata.get("name"))
        try:
            self._context.client.delete(JOBS, name, namespace, uid=str(metadata.get("uid")))
        except (KubeNotFoundError, KubeConflictError):
            return
        except KubeApiError as error:
            logger.info(
                "Job %s/%s was not deleted, and goes by its own time to live: %s", namespace, name, error
            )

    # -- gathering -----------------------------------------------------------------------

    def _jobs_of(self, config: StorageConfig) -> list[JsonObject]:
        selector = f"{PROBE_LABEL}={config.metadata.name}"
        page = self._context.client.list_page(
            JOBS, config.metadata.namespace, label_selector=selector, limit=MAX_LISTED
        )
        return [job for job in page.items if config.metadata.uid in _owners(job)]

    def _events(self, namespace: str, job: JsonObject, pods: tuple[JsonObject, ...]) -> list[JsonObject]:
        found: list[JsonObject] = []
        for about in (job, *pods):
            page = self._context.client.list_page(
                EVENTS,
                namespace,
                field_selector=f"regarding.uid={metadata_of(about).get('uid')}",
                limit=MAX_EVENTS,
            )
            found.extend(page.items)
        return found

    def _look_at_claim(self, config: StorageConfig) -> JobLook | None:
        """Say why a claim is not mounted for a probe; None where it is, or where there is none."""
        name = config.spec.file.volume_claim_name if config.spec.file is not None else None
        if name is None:
            return None
        namespace = config.metadata.namespace
        try:
            claim = self._context.client.get(CLAIMS, name, namespace)
        except KubeNotFoundError:
            message = (
                f"PersistentVolumeClaim {namespace}/{name} does not exist; create it, or correct its name"
            )
            refusal = _refusal(Reason.CLAIM_NOT_FOUND, message, ConditionStatus.FALSE)
            return self._without_job(config, refusal, self._claim_again_seconds(config))
        phase = section(claim, "status").get("phase")
        if phase != "Bound":
            message = (
                f"claim {name} is {phase or 'new'}: a probe would decide where its volume is made, so it "
                "waits for the first pod of the team. Pods are not affected"
            )
            return self._without_job(
                config, _refusal(Reason.NOT_PROBED, message), self._claim_again_seconds(config)
            )
        modes = cast("list[Any]", section(claim, "spec").get("accessModes") or [])
        if "ReadWriteMany" not in modes:
            message = (
                f"claim {name} can be mounted on one node at a time ({', '.join(map(str, modes))}): a probe "
                "could keep it from the team's pods, so nothing was tried. Use ReadWriteMany to share it"
            )
            return self._without_job(
                config, _refusal(Reason.NOT_PROBED, message), self._schedule.interval_seconds
            )
        return None

    def _claim_again_seconds(self, config: StorageConfig) -> float:
        """When to look for a claim again: one that was applied with its config is bound within seconds."""
        pause = self._schedule.backoff(1)
        created = parse_time(config.metadata.creation_timestamp)
        if created is None:
            return pause
        age_seconds = (self._context.clock() - created).total_seconds()
        return min(pause, YOUNG_CLAIM_SECONDS) if abs(age_seconds) < YOUNG_SECONDS else pause

    def _unprobed(self, config: StorageConfig, why: str) -> JobLook:
        s3, file = config.spec.s3, config.spec.file
        if s3 is not None and s3.authentication.service_account is not None:
            refusal = _refusal(
                Reason.NO_CREDENTIALS,
                f"pods reach this store as service account {s3.authentication.service_account.name}, and "
                "the controller never lends its own identity. A Job under that account would probe it, but "
                f"{why}",
            )
        else:
            name = file.volume_claim_name if file is not None else ""
            refusal = _refusal(
                Reason.NOT_PROBED,
                # What it needs comes last, since it may end with a command that people copy.
                f"the controller does not mount claims, and pods that mount {name} are not affected. A Job "
                f"that mounts it would probe it, but {why}",
            )
        return self._without_job(config, refusal, self._context.options.probe_interval_seconds)


_WHY_NOT_STARTED: Final = frozenset({Reason.PROBE_JOB_STUCK.value, Reason.SERVICE_ACCOUNT_NOT_FOUND.value})
_NO_ANSWERS: Final = frozenset({Reason.NO_CREDENTIALS.value, Reason.NOT_PROBED.value})


def _refusal(
    reason: Reason, message: str, ready: ConditionStatus = ConditionStatus.UNKNOWN, *, reconciled: bool = True
) -> Verdict:
    return Verdict(ready=ready, reason=reason, message=message, reconciled=reconciled)


def _has_answer(obj: JsonObject, config: StorageConfig) -> bool:
    """Tell whether the status already says something about this spec that a running Job does not change."""
    reason = ready_condition(obj, config).get("reason")
    return reason is not None and reason not in _NO_ANSWERS


def _owners(job: JsonObject) -> set[str]:
    references = cast("list[Any]", metadata_of(job).get("ownerReferences") or [])
    return {str(cast("JsonObject", item).get("uid")) for item in references if isinstance(item, dict)}
