"""Jobs of agents: made when a pass is due, watched until the agent is on the line, deleted after the pass.

No worker waits for a Job: each look takes a few requests and says when to come back; the arrival of
an agent wakes its policy at once. What is remembered here is of this process alone: agents know it
by its key pair, which no other process has, so every Job of an earlier one is of no use and deleted.

Invariants: at most one Job of a config at a time; a config's leftovers are deleted, and their pods have
ended, before the next Job is made; only a pod of the very Job that this process made is let in; whoever
does not call in time loses its place; what fails is tried again ever more rarely, and says why all the
time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.pass_agent_job import (
    START_SECONDS,
    AgentCall,
    agent_job,
    agent_job_name,
)
from bubu_operator.controllers.pass_claim import claim_problem
from bubu_operator.controllers.pass_holders import TURN_SECONDS, Held, Holders
from bubu_operator.controllers.pass_lookup import JobsOfPasses, owners_of
from bubu_operator.controllers.pass_pauses import BACKOFF_MAX_SECONDS, Pauses
from bubu_operator.controllers.pass_words import (
    how_it_runs,
    last_words,
    pass_reason,
)
from bubu_operator.controllers.probe_job import place_problem, wants_job
from bubu_operator.controllers.probe_job_schedule import Places, key_of_config
from bubu_operator.controllers.probe_job_state import Phase, pending_seconds
from bubu_operator.controllers.store_access import grant_command, scope_of
from bubu_operator.errors import (
    KubeApiError,
    KubeConflictError,
    KubeForbiddenError,
    KubeInvalidError,
)
from bubu_operator.injection.config import load_config
from bubu_operator.injection.environment import InjectionPlan
from bubu_operator.jobpass.listener import Listener
from bubu_operator.jobpass.seam import NotYet, PassChannel, PassOrder
from bubu_operator.kube.resources import JOBS, JsonObject, ObjectKey, metadata_of

__all__ = ["PassJobs"]

logger = logging.getLogger(__name__)

START_GRACE_SECONDS: Final = 15.0
POLL_SECONDS: Final = 1.0
POLL_MAX_SECONDS: Final = 10.0
GONE_SECONDS: Final = 1.0
CALL_SECONDS: Final = START_SECONDS + 180.0
"""Until then an agent has called: also one whose pod was the last to start, and that tried five times."""

LAST_WORDS_SECONDS: Final = 5.0
"""So long a kubelet may take to write down how a pod ended."""

LAST_WORDS_LOOK_SECONDS: Final = 0.5


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
        rng = rng or random.Random()  # noqa: S311 - spreads retries, protects nothing
        self._pauses = Pauses(context.monotonic, rng)
        self._look_up = JobsOfPasses(context.client)
        places = Places(rng, context.metrics.pass_jobs.set)
        self._holders = Holders(self._look_up, places, monotonic=context.monotonic, wake=wake)
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
        options, namespace = self._context.options, config.metadata.namespace
        if problem := place_problem(namespace, options.operator_namespace):
            return NotYet(Reason.PASS_JOB_REFUSED, problem, BACKOFF_MAX_SECONDS)
        loaded = load_config({**config.to_api(), "kind": StorageConfig.KIND})
        if loaded.plan is None:
            return NotYet(Reason.INVALID_SPEC, loaded.problem, BACKOFF_MAX_SECONDS)
        try:
            return self._open(self._listener, order, config, loaded.plan)
        except KubeForbiddenError as error:
            command = grant_command(options, options.prober_role, namespace, str(error))
            self._holders.give_up(key_of_config(config), order.policy)
            if not command:
                raise
            message = f"the controller may not run Jobs in namespace {namespace}. Allow it with: {command}"
            return NotYet(Reason.PASS_JOB_REFUSED, message, START_GRACE_SECONDS * 4)

    def last_words(self, config: StorageConfig) -> str:
        """See `JobStoreAccess`."""
        held = self._holders.of(key_of_config(config))
        channel = held.expected.channel if held is not None else None
        if held is None or channel is None or not channel.agent_left:
            return ""
        until = self._context.monotonic() + LAST_WORDS_SECONDS
        while True:
            try:
                pods = self._look_up.pods_of(config.metadata.namespace, held.job_uid)
            except KubeApiError:
                return ""
            told = last_words([pod for pod in pods if held.job_uid in owners_of(pod)])
            if told is not None:
                return self._context.redactor.of(scope_of(config)).scrub(told)
            if self._context.monotonic() >= until or self._context.stopping.wait(LAST_WORDS_LOOK_SECONDS):
                return ""

    def finished(self, config: StorageConfig, *, good: bool) -> None:
        """See `JobStoreAccess`."""
        key = key_of_config(config)
        held = self._holders.of(key)
        self._context.metrics.pass_job_results.labels("Served" if good else "Broken").inc()
        if held is None or not held.in_use:
            return
        self._holders.drop(key, held)
        if held.job_uid:
            self._look_up.delete_named(
                config.metadata.namespace, agent_job_name(config, held.pass_id), held.job_uid
            )

    # -- one look ------------------------------------------------------------------------

    def _open(
        self, listener: Listener, order: PassOrder, config: StorageConfig, plan: InjectionPlan
    ) -> PassChannel | NotYet:
        key = key_of_config(config)
        if (pause := self._pauses.of(key)) is not None:
            return pause
        held = self._holders.claim(listener, order, config, plan, self._call)
        if isinstance(held, NotYet):
            return held
        if not held.in_use and (problem := claim_problem(self._context.client, config)) is not None:
            return self._failed(config, held, problem.reason, problem.message)
        jobs = self._look_up.jobs_of(config)
        ours = [job for job in jobs if held.job_uid and metadata_of(job).get("uid") == held.job_uid]
        # Also one of the same name, if another one made it.
        leftovers = [job for job in jobs if job not in ours]
        for job in leftovers:
            self._look_up.delete(job)
        if ours:
            return self._look(config, ours[0], held)
        name, late = agent_job_name(config, held.pass_id), self._is_late(held)
        if leftovers and not late:
            return _starting("an earlier Job is being deleted", GONE_SECONDS)
        if held.job_uid:
            return self._failed(config, held, Reason.PASS_JOB_FAILED, f"Job {name} was deleted by somebody")
        if leftovers:
            told = f"Job {metadata_of(leftovers[0]).get('name')} of an earlier pass does not go"
            return self._failed(config, held, Reason.PASS_JOB_STUCK, told)
        if pod := self._look_up.earlier_pod(config):
            # It may still be at work: two must not be at one store.
            told = f"pod {pod} of an earlier pass has not ended"
            if late:
                return self._failed(config, held, Reason.PASS_JOB_STUCK, told)
            return NotYet(Reason.PASS_JOB_STUCK, told, TURN_SECONDS / 5)
        return self._create(order, config, plan, held)

    def _is_late(self, held: Held) -> bool:
        return self._context.monotonic() - held.since > CALL_SECONDS

    def _look(self, config: StorageConfig, job: JsonObject, held: Held) -> PassChannel | NotYet:
        channel = held.expected.channel
        if channel is not None and channel.lend():
            held.in_use = True
            self._pauses.over(key_of_config(config))
            return channel
        namespace, now = config.metadata.namespace, self._context.clock()
        state = self._look_up.state_of(namespace, job, now=now, grace_seconds=self._grace)
        pending = pending_seconds(job, now)
        reason, how = pass_reason(state.reason), how_it_runs(config)
        if state.phase is Phase.FINISHED or channel is not None:
            self._look_up.delete(job)
            told = state.message or "it ended before the pass began"
            reason = Reason.PASS_JOB_FAILED if state.phase is Phase.RUNNING else reason
            return self._failed(config, held, reason, f"the agent in a pod {how} ended: {told}")
        if state.phase is Phase.STUCK:
            if pending > START_SECONDS:
                self._look_up.delete(job)
                return self._failed(config, held, reason, state.message)
            return NotYet(reason, state.message, POLL_MAX_SECONDS)
        if self._is_late(held):
            self._look_up.delete(job)
            told = f"the agent in a pod {how} has not called within {CALL_SECONDS:g} s"
            return self._failed(config, held, Reason.PASS_JOB_FAILED, told)
        return _starting(f"waiting for the agent in a pod {how}", _poll_seconds(pending))

    def _failed(self, config: StorageConfig, held: Held, reason: Reason, message: str) -> NotYet:
        """Let the place go, and take down that there is no agent for a while."""
        key = key_of_config(config)
        self._holders.drop(key, held)
        self._context.metrics.pass_job_results.labels(reason.value).inc()
        return self._pauses.note(key, reason, message)

    # -- the API server ------------------------------------------------------------------

    def _create(
        self, order: PassOrder, config: StorageConfig, plan: InjectionPlan, held: Held
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
            if grant_command(options, options.prober_role, config.metadata.namespace, str(error)):
                raise
            message = f"the API server refuses the Job of the agent: {error}"
            return self._failed(config, held, Reason.PASS_JOB_REFUSED, message)
        except KubeApiError:
            # It may have been made all the same: under a name that is of no use any more.
            self._holders.drop(key_of_config(config), held)
            raise
        held.job_uid = str(metadata_of(job).get("uid"))
        logger.debug("Job %s created", metadata_of(manifest)["name"])
        return _starting("the Job of the agent has been created", POLL_SECONDS)


def _starting(message: str, again_seconds: float) -> NotYet:
    return NotYet(Reason.STORAGE_FOUND, message, again_seconds, quiet=True, keeps_turn=True)


def _poll_seconds(pending: float) -> float:
    return min(POLL_MAX_SECONDS, max(POLL_SECONDS, pending / 4))
