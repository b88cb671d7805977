"""What the rest of the operator knows of job passes: a store behind a descriptor, and how to get one.

A controller asks `JobStoreAccess.open` whenever a pass is due. It never waits: either there is an
agent on the line (`PassChannel`), or a reason and a time to ask again (`NotYet`). The pass's process
inherits `AgentSettings.descriptor` and speaks to the store through it; whoever has opened a channel
closes it by `JobStoreAccess.finished`, whatever became of the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.jobpass.settings import AgentSettings
from bubu_operator.kube.resources import ObjectKey

__all__ = ["AgentSettings", "JobStoreAccess", "NotYet", "PassChannel", "PassOrder"]


@dataclass(frozen=True, slots=True)
class PassOrder:
    """What an agent is asked for.

    Attributes:
        policy: whose pass it is.
        policy_uid: so that a policy that was made anew gets an agent of its own.
        scopes: all prefixes that the pass may list and delete in, each ending in ``/``.
        budget_seconds: of the pass.
    """

    policy: ObjectKey
    policy_uid: str
    scopes: Sequence[str]
    budget_seconds: float


@dataclass(frozen=True, slots=True)
class NotYet:
    """There is no agent yet.

    Attributes:
        reason: for the Ready condition, unless it is quiet.
        message: for people.
        again_seconds: when to ask again.
        quiet: nothing is wrong, it only takes its time; no status need say so.
        keeps_turn: it is a matter of seconds: the pass need not give up its place among others.
    """

    reason: Reason
    message: str
    again_seconds: float
    quiet: bool = False
    keeps_turn: bool = False


class PassChannel(Protocol):
    """An agent that is on the line and has shown who it is."""

    @property
    def settings(self) -> AgentSettings:
        """For the pass's document; ``pass_fds=(settings.descriptor,)`` for its process."""
        ...

    def handed_over(self) -> None:
        """To be called once the process is started, or is not to be: its end of the channel is its own."""
        ...


class JobStoreAccess(Protocol):
    """Finds, starts and ends agents; thread-safe for different policies."""

    def wants(self, config: object) -> bool:
        """Tell whether passes on this config's store run by an agent, and this controller can have any."""
        ...

    def open(self, order: PassOrder, config: StorageConfig) -> PassChannel | NotYet:
        """Return an agent for one pass, or why there is none yet.

        Raises:
            KubeApiError: the API server failed, other than by refusing what is asked.
        """
        ...

    def last_words(self, config: StorageConfig) -> str:
        """Return why the agent left in the middle of a pass; "" where it did not, or nothing is known.

        Waits for some seconds: a kubelet writes it down a moment after.
        """
        ...

    def finished(self, config: StorageConfig, *, good: bool) -> None:
        """Take down how the pass of a channel ended, close it and delete its Job."""
        ...
