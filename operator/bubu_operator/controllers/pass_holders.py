"""Which config has an agent, or is to have one, and for whose pass.

Invariants: one agent of a config at a time, and `Places` bounds them all; an agent at work is let go by
its own pass alone; who has stopped asking is let go when somebody else needs the place.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.pass_agent_job import AgentCall, pass_id_of
from bubu_operator.controllers.pass_lookup import JobsOfPasses, owners_of
from bubu_operator.controllers.pass_words import account_of, store_name
from bubu_operator.controllers.probe_job_schedule import Places, key_of_config
from bubu_operator.injection.environment import InjectionPlan
from bubu_operator.jobpass.listener import Expected, Listener, PodIdentity
from bubu_operator.jobpass.seam import NotYet, PassOrder
from bubu_operator.kube.resources import ObjectKey, metadata_of

__all__ = ["TURN_SECONDS", "Held", "Holders"]

TURN_SECONDS: Final = 10.0
FORGOTTEN_SECONDS: Final = 60.0
"""A policy that has not asked for its agent for so long has given up."""

ABANDONED_SECONDS: Final = 120.0
"""So long after its last question a policy's agent is let go, whoever else needs its place."""


@dataclass(slots=True)
class Held:
    """The agent that a config has, or is to have.

    Attributes:
        policy: whose pass it is for.
        pass_id: tells it from every other one.
        nonce: makes that so.
        expected: what the listener knows of it.
        since: when the pass first asked.
        touched: when the pass last asked.
        listener: expects it.
        job_uid: of its Job; "" until that is made.
        in_use: the pass is under way.
    """

    policy: ObjectKey
    pass_id: str
    nonce: str
    expected: Expected
    since: float
    touched: float
    listener: Listener
    job_uid: str = ""
    in_use: bool = False


class Holders:
    """Thread-safe.

    Args:
        look_up: knows the pods of Jobs.
        places: bound how many there are.
        monotonic: seconds that never go back.
        wake: called with a policy's key when its agent is there.
    """

    def __init__(
        self,
        look_up: JobsOfPasses,
        places: Places,
        *,
        monotonic: Callable[[], float],
        wake: Callable[[ObjectKey], None],
    ) -> None:
        self._look_up = look_up
        self._places = places
        self._monotonic = monotonic
        self._wake = wake
        self._lock = threading.Lock()
        self._held: dict[ObjectKey, Held] = {}

    def of(self, key: ObjectKey) -> Held | None:
        """Return what a config has."""
        with self._lock:
            return self._held.get(key)

    def claim(
        self,
        listener: Listener,
        order: PassOrder,
        config: StorageConfig,
        plan: InjectionPlan,
        call: AgentCall,
    ) -> Held | NotYet:
        """Return what this pass holds of the config; another pass's agent is waited for."""
        key, now = key_of_config(config), self._monotonic()
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                if held.pass_id == pass_id_of(order, config, plan, call, held.nonce):
                    held.touched = now
                    return held
                if held.in_use or (held.policy != order.policy and now - held.touched < FORGOTTEN_SECONDS):
                    return _taken(held)
        if held is not None:
            self.drop(key, held)
        self._forget_abandoned(now)
        fresh = self._hold(listener, order, config, plan, call)
        with self._lock:
            if (faster := self._held.get(key)) is not None:
                return _taken(faster)
            if not self._places.enter(key, bounded=True):
                return NotYet(
                    Reason.STORAGE_FOUND,
                    "waiting for a place: so many Jobs run already, in all or of this namespace",
                    self._places.pause_seconds(),
                    quiet=True,
                )
            self._held[key] = fresh
            listener.expect(fresh.pass_id, fresh.expected)
        return fresh

    def _hold(
        self,
        listener: Listener,
        order: PassOrder,
        config: StorageConfig,
        plan: InjectionPlan,
        call: AgentCall,
    ) -> Held:
        namespace, account = config.metadata.namespace, account_of(config)

        def admit(pod: PodIdentity) -> bool:
            if (pod.namespace, pod.account) != (namespace, account) or not held.job_uid:
                return False
            pods = self._look_up.pods_of(namespace, held.job_uid)
            return any(
                metadata_of(found).get("uid") == pod.pod_uid and held.job_uid in owners_of(found)
                for found in pods
            )

        nonce, now = secrets.token_hex(8), self._monotonic()
        expected = Expected(store_name(config), admit, lambda: self._wake(order.policy))
        pass_id = pass_id_of(order, config, plan, call, nonce)
        held = Held(order.policy, pass_id, nonce, expected, now, now, listener)
        return held

    def _forget_abandoned(self, now: float) -> None:
        """Free the places of policies that are gone; their agents end with their channels."""
        with self._lock:
            abandoned = [
                (key, held)
                for key, held in self._held.items()
                if not held.in_use and now - held.touched > ABANDONED_SECONDS
            ]
        for key, held in abandoned:
            self.drop(key, held)

    def give_up(self, key: ObjectKey, policy: ObjectKey) -> None:
        """Forget what a policy holds of a config, unless its pass is under way."""
        with self._lock:
            held = self._held.get(key)
        if held is not None and held.policy == policy and not held.in_use:
            self.drop(key, held)

    def drop(self, key: ObjectKey, held: Held) -> None:
        """Forget a config's agent: its channel ends, and the next one has another name."""
        with self._lock:
            if self._held.get(key) is not held:
                return
            del self._held[key]
            self._places.forget(key)
        held.listener.forget(held.pass_id)


def _taken(held: Held) -> NotYet:
    message = f"another pass has the agent of this store ({held.policy})"
    return NotYet(Reason.STORAGE_FOUND, message, TURN_SECONDS, quiet=True)
