"""Jobs of agents: made when a pass is due, watched until the agent is on the line, deleted after the pass.

No worker waits for a Job: each look takes a few requests and says when to come back; the arrival of
an agent wakes its policy at once. What is remembered here is of this process alone: agents know it
by its key pair, which no other process has, so every Job of an earlier one is of no use and deleted.

Invariants: at most one Job of a config at a time, and `Places` bounds them all; a config's leftovers
are deleted, and their pods have ended, before the next Job is made; only a pod that the Job's own
controller made is let in; what fails is tried again ever more rarely, and says why all the time.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.pass_agent_job import (
    AGENT_CONTAINER,
    START_SECONDS,
    AgentCall,
    agent_job,
    agent_job_name,
    pass_id_of,
)
from bubu_operator.controllers.pass_claim import claim_problem
from bubu_operator.controllers.pass_lookup import JobsOfPasses, owners_of
from bubu_operator.controllers.probe_job import place_problem, wants_job
from bubu_operator.controllers.probe_job_schedule import Places, key_of_config
from bubu_operator.controllers.probe_job_state import Phase, pending_seconds, read_job
from bubu_operator.controllers.probe_jobs import PROBER_ROLE
from bubu_operator.controllers.store_access import grant_command
from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeForbiddenError,
    KubeInvalidError,
)
from bubu_operator.injection.config import load_config
from bubu_operator.injection.environment import InjectionPlan
from bubu_operator.jobpass.listener import Expected, Listener, PodIdentity
from bubu_operator.jobpass.seam import NotYet, PassChannel, PassOrder
from bubu_operator.kube.informer import backoff_seconds
from bubu_operator.kube.resources import JOBS, JsonObject, ObjectKey, metadata_of

__all__ = ["PassJobs"]

logger = logging.getLogger(__name__)

START_GRACE_SECONDS: Final = 15.0
POLL_SECONDS: Final = 1.0
POLL_MAX_SECONDS: Final = 10.0
GONE_SECONDS: Final = 1.0
TURN_SECONDS: Final = 10.0
BACKOFF_SECONDS: Final = 10.0
BACKOFF_MAX_SECONDS: Final = 600.0
FORGOTTEN_SECONDS: Final = 60.0
"""A policy that has not asked for its agent for so long has given up."""

ABANDONED_SECONDS: Final = 120.0
"""So long after its last question a policy's agent is let go, whoever else needs its place."""


@dataclass(slots=True)
class _Held:
    """The agent that a config has, or is to have."""

    policy: ObjectKey
    pass_id: str
    expected: Expected
    touched: float
    job_uid: str = ""
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class _Pause:
    """Why there is no Job for a while."""

    reason: Reason
    message: str
    due: float
    failures: int


class PassJobs:
    """A `JobStoreAccess`; thread-safe.

    Args:
        context: of the process.
        listen: opens the port for agents; see `pass_listening`. Called when this process leads.
        wake: called with a policy's key when its agent is there.
        rng: spreads retries.
    """

    def __init__(
        self,
        context: Context,
        listen: Callable[[], tuple[Listener, str] | None],
        *,
        wake: Callable[[ObjectKey], None],
        rng: random.Random | None = None,
    ) -> None:
        self._context = context
        self._listen = listen
        self._listener: Listener | None = None
        self._call = AgentCall("", "", context.options.job_image)
        self._wake = wake
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._places = Places(self._rng, context.metrics.pass_jobs.set)
        self._lock = threading.Lock()
        self._held: dict[ObjectKey, _Held] = {}
        self._pauses: dict[ObjectKey, _Pause] = {}
        self._turns: dict[ObjectKey, int] = {}
        self._look_up = JobsOfPasses(context.client)
        self._grace = min(START_GRACE_SECONDS, context.options.probe_interval_seconds * 2)

    # -- a service -----------------------------------------------------------------------

    def start(self) -> None:
        """Open the port for agents, if this controller can have any."""
        opened = self._listen()
        if opened is not None:
            listener, address = opened
            self._call = AgentCall(address, listener.pin, self._context.options.job_image)
            listener.start()
            self._listener = listener

    def stop(self) -> None:
        """Let no agent in any more; those on the line are left to their passes."""
        if self._listener is not None:
            self._listener.stop()

    def join(self, timeout_seconds: float) -> bool:
        """End what is left: agents that no pass has taken."""
        listener = self._listener
        if listener is None:
            return True
        over = listener.join(timeout_seconds)
        if over:
            listener.close()
        return over

    # -- passes --------------------------------------------------------------------------

    def wants(self, config: object) -> bool:
        """See `JobStoreAccess`."""
        return self._listener is not None and isinstance(config, StorageConfig) and wants_job(config)

    def open(self, order: PassOrder, config: StorageConfig) -> PassChannel | NotYet:
        """See `JobStoreAccess`.

        Raises:
            KubeApiError: the API server failed, other than by refusing what is asked.
        """
        if self._listener is None:
            raise AssertionError("asked for an agent, and nobody listens; see wants()")
        namespace = config.metadata.namespace
        if problem := place_problem(namespace, self._context.options.operator_namespace):
            return NotYet(Reason.PASS_JOB_REFUSED, problem, BACKOFF_MAX_SECONDS)
        loaded = load_config({**config.to_api(), "kind": StorageConfig.KIND})
        if loaded.plan is None:
            return NotYet(Reason.INVALID_SPEC, loaded.problem, BACKOFF_MAX_SECONDS)
        try:
            return self._open(self._listener, order, config, loaded.plan)
        except KubeForbiddenError as error:
            command = grant_command(PROBER_ROLE, namespace, str(error))
            self._drop(key_of_config(config))
            if not command:
                raise
            message = f"the controller may not run Jobs in namespace {namespace}. Allow it with: {command}"
            return NotYet(Reason.PASS_JOB_REFUSED, message, START_GRACE_SECONDS * 4)

    def finished(self, config: StorageConfig, *, good: bool) -> None:
        """See `JobStoreAccess`."""
        held = self._drop(key_of_config(config))
        self._context.metrics.pass_job_results.labels("Served" if good else "Broken").inc()
        if held is not None and held.job_uid:
            self._look_up.delete_named(
                config.metadata.namespace, agent_job_name(config, held.pass_id), held.job_uid
            )

    # -- one look ------------------------------------------------------------------------

    def _open(
        self, listener: Listener, order: PassOrder, config: StorageConfig, plan: InjectionPlan
    ) -> PassChannel | NotYet:
        key = key_of_config(config)
        if (pause := self._pause_of(key)) is not None:
            return pause
        if (problem := claim_problem(self._context.client, config)) is not None:
            self._drop(key_of_config(config))
            return self._failed(config, problem.reason, problem.message)
        held = self._claim(listener, order, config, plan)
        if isinstance(held, NotYet):
            return held
        name = agent_job_name(config, held.pass_id)
        jobs = self._look_up.jobs_of(config)
        leftovers = [job for job in jobs if metadata_of(job).get("name") != name]
        for job in leftovers:
            self._look_up.delete(job)
        if leftovers:
            return _starting("an earlier Job is being deleted", GONE_SECONDS)
        if not jobs:
            if held.job_uid:
                self._drop(key_of_config(config))
                return self._failed(config, Reason.PASS_JOB_FAILED, f"Job {name} was deleted by somebody")
            if pod := self._look_up.earlier_pod(config, ""):
                # It may still be at work: two must not be at one store.
                return NotYet(
                    Reason.PASS_JOB_STUCK, f"pod {pod} of an earlier pass has not ended", TURN_SECONDS / 5
                )
            return self._create(order, config, plan, held)
        return self._look(config, jobs[0], held)

    def _look(self, config: StorageConfig, job: JsonObject, held: _Held) -> PassChannel | NotYet:
        channel = held.expected.channel
        if channel is not None and channel.lend():
            held.in_use = True
            with self._lock:
                self._pauses.pop(key_of_config(config), None)
            return channel
        namespace, now = config.metadata.namespace, self._context.clock()
        pods = self._look_up.pods_of(namespace, str(metadata_of(job).get("uid")))
        state = read_job(job, pods, (), now=now, grace_seconds=self._grace, container=AGENT_CONTAINER)
        if state.phase is Phase.STUCK:
            state = read_job(
                job,
                pods,
                self._look_up.events(namespace, job, pods),
                now=now,
                grace_seconds=self._grace,
                container=AGENT_CONTAINER,
            )
        pending = pending_seconds(job, now)
        reason = _REASONS.get(state.reason, state.reason)
        how = f"under service account {plan_account(config)}" if config.spec.s3 else "with the claim"
        if state.phase is Phase.FINISHED or channel is not None:
            self._drop(key_of_config(config))
            self._look_up.delete(job)
            told = state.message or "it ended before the pass began"
            reason = Reason.PASS_JOB_FAILED if state.phase is Phase.RUNNING else reason
            return self._failed(config, reason, f"the agent in a pod {how} ended: {told}")
        if state.phase is Phase.STUCK:
            if pending > START_SECONDS:
                self._drop(key_of_config(config))
                self._look_up.delete(job)
                return self._failed(config, reason, state.message)
            return NotYet(reason, state.message, POLL_MAX_SECONDS)
        return _starting(f"waiting for the agent in a pod {how}", _poll_seconds(pending))

    def _claim(
        self, listener: Listener, order: PassOrder, config: StorageConfig, plan: InjectionPlan
    ) -> _Held | NotYet:
        """Return what this pass holds of the config; another pass's agent is waited for."""
        key, now = key_of_config(config), self._context.monotonic()
        with self._lock:
            turn = self._turns.setdefault(key, 0)
            held = self._held.get(key)
        pass_id = pass_id_of(order, config, plan, self._call, turn)
        if held is not None and held.pass_id != pass_id:
            is_ours = held.policy == order.policy
            if held.in_use or (not is_ours and now - held.touched < FORGOTTEN_SECONDS):
                return NotYet(
                    Reason.STORAGE_FOUND,
                    f"another pass has the agent of this store ({held.policy})",
                    TURN_SECONDS,
                    quiet=True,
                )
            self._drop(key_of_config(config))
            held = None
            pass_id = pass_id_of(order, config, plan, self._call, self._turns[key])
        if held is None:
            self._forget_abandoned(now)
            if not self._places.enter(key, bounded=True):
                return NotYet(
                    Reason.STORAGE_FOUND,
                    "waiting for a place: so many Jobs run already, in all or of this namespace",
                    self._places.pause_seconds(),
                    quiet=True,
                )
            held = self._hold(order, config, pass_id)
            with self._lock:
                self._held[key] = held
            listener.expect(pass_id, held.expected)
        held.touched = now
        return held

    def _hold(self, order: PassOrder, config: StorageConfig, pass_id: str) -> _Held:
        namespace, account = config.metadata.namespace, plan_account(config)

        def admit(pod: PodIdentity) -> bool:
            if (pod.namespace, pod.account) != (namespace, account) or not held.job_uid:
                return False
            pods = self._look_up.pods_of(namespace, held.job_uid)
            return any(
                metadata_of(found).get("uid") == pod.pod_uid and held.job_uid in owners_of(found)
                for found in pods
            )

        expected = Expected(_store_name(config), admit, lambda: self._wake(order.policy))
        held = _Held(order.policy, pass_id, expected, self._context.monotonic())
        return held

    def _forget_abandoned(self, now: float) -> None:
        """Free the places of policies that are gone; their agents end with their channels."""
        with self._lock:
            abandoned = [
                key
                for key, held in self._held.items()
                if not held.in_use and now - held.touched > ABANDONED_SECONDS
            ]
        for key in abandoned:
            self._drop(key)

    def _drop(self, key: ObjectKey) -> _Held | None:
        """Forget a config's agent: its channel ends, and the next one has another name."""
        with self._lock:
            held = self._held.pop(key, None)
            self._turns[key] = self._turns.get(key, 0) + 1
        if held is not None and self._listener is not None:
            self._listener.forget(held.pass_id)
        self._places.leave(key)
        return held

    # -- pauses --------------------------------------------------------------------------

    def _failed(self, config: StorageConfig, reason: Reason, message: str) -> NotYet:
        """Take down that there is no agent for a while."""
        key = key_of_config(config)
        self._context.metrics.pass_job_results.labels(reason.value).inc()
        with self._lock:
            before = self._pauses.get(key)
            failures = 1 + (before.failures if before is not None else 0)
            seconds = backoff_seconds(failures, self._rng, base=BACKOFF_SECONDS, maximum=BACKOFF_MAX_SECONDS)
            self._pauses[key] = _Pause(reason, message, self._context.monotonic() + seconds, failures)
        return NotYet(reason, message, seconds)

    def _pause_of(self, key: ObjectKey) -> NotYet | None:
        with self._lock:
            pause = self._pauses.get(key)
        if pause is None or (left := pause.due - self._context.monotonic()) <= 0:
            return None
        return NotYet(pause.reason, pause.message, left)

    # -- the API server ------------------------------------------------------------------

    def _create(
        self, order: PassOrder, config: StorageConfig, plan: InjectionPlan, held: _Held
    ) -> PassChannel | NotYet:
        options = self._context.options
        manifest = agent_job(
            order,
            config,
            plan,
            call=self._call,
            pass_id=held.pass_id,
            allow_loopback=options.allow_loopback_endpoints,
        )
        try:
            job = self._context.client.create(JOBS, manifest, config.metadata.namespace)
        except KubeConflictError:
            return _starting("an earlier Job is being deleted", GONE_SECONDS)
        except (KubeForbiddenError, KubeInvalidError) as error:
            self._drop(key_of_config(config))
            if grant_command(PROBER_ROLE, config.metadata.namespace, str(error)):
                raise
            message = f"the API server refuses the Job of the agent: {error}"
            return self._failed(config, Reason.PASS_JOB_REFUSED, message)
        except KubeApiError:
            self._drop(key_of_config(config))
            raise
        held.job_uid = str(metadata_of(job).get("uid"))
        logger.debug("Job %s created", metadata_of(manifest)["name"])
        return _starting("the Job of the agent has been created", POLL_SECONDS)


_REASONS: Final = {
    Reason.PROBE_JOB_STUCK: Reason.PASS_JOB_STUCK,
    Reason.PROBE_RESULT_UNREADABLE: Reason.PASS_JOB_FAILED,
    Reason.PROBE_SUCCEEDED: Reason.PASS_JOB_FAILED,
    Reason.STORE_ERROR: Reason.PASS_JOB_FAILED,
}
"""What a probe's words are called of an agent; the others are of the store, and the same."""


def plan_account(config: StorageConfig) -> str:
    """Return the account that pods of this config's Jobs run under."""
    s3 = config.spec.s3
    account = s3.authentication.service_account if s3 is not None else None
    return account.name if account is not None else "default"


def _store_name(config: StorageConfig) -> str:
    s3, file = config.spec.s3, config.spec.file
    if s3 is not None:
        return f"s3://{s3.bucket}"
    return f"claim {file.volume_claim_name}" if file is not None else "store"


def _starting(message: str, again_seconds: float) -> NotYet:
    return NotYet(Reason.STORAGE_FOUND, message, again_seconds, quiet=True, keeps_turn=True)


def _poll_seconds(pending: float) -> float:
    return min(POLL_MAX_SECONDS, max(POLL_SECONDS, pending / 4))
