"""What runs in the leading controller besides the lanes: each part once, by one interface.

A part is made here, started when this process becomes the leader, and stopped with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bubu_operator.certificates.lifetimes import parse_lifetimes
from bubu_operator.controllers.authority import AuthorityService
from bubu_operator.controllers.context import Context
from bubu_operator.controllers.heal import HealService
from bubu_operator.controllers.pause import PauseWatch
from bubu_operator.controllers.rollout import RolloutGate

__all__ = ["Service", "build_services"]


class Service(Protocol):
    """A part with threads of its own."""

    def start(self) -> None:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """Ask it to end; returns at once."""
        ...

    def join(self, timeout_seconds: float) -> bool:
        """Wait for its threads; tell whether they have ended."""
        ...


def build_services(
    context: Context, gate: RolloutGate, *, pause_changed: Callable[[], None]
) -> list[Service]:
    """Make the parts that the options ask for, none of them started.

    Args:
        context: of the process.
        gate: whoever restarts workloads asks it first; one for all.
        pause_changed: called when retention was paused, or goes on.
    """
    services: list[Service] = [
        PauseWatch(
            context.client,
            context.options.operator_namespace,
            context.pause,
            context.metrics.retention,
            always=context.options.pause_retention,
            wanted=context.options.pause_annotation,
            needs_namespace=context.options.leader_elect,
            changed=pause_changed,
        )
    ]
    if context.options.webhook_authority:
        services.append(AuthorityService(context, parse_lifetimes(context.options.authority_lifetimes)))
    if context.options.heal_interval_seconds > 0:
        services.append(HealService(context, gate))
    return services
