"""The controller's part in the election: from standing by to giving the Lease back.

Invariants: the Lease is read and written by a client of its own, so that work can neither
delay a renewal nor be mistaken for it; it is given back only when this process has stopped
acting; a process that lost it is to end, not to try again.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import Final

from bubu_operator.controllers.context import ControllerOptions
from bubu_operator.defaults import LEASE_NAME
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.lease import LeaseTimes
from bubu_operator.kube.lease_elector import LeaseElector
from bubu_operator.kube.lease_fence import LeadershipFence
from bubu_operator.kube.resources import ObjectKey
from bubu_operator.observability.controller_metrics import ControllerMetrics

__all__ = ["LeaseLeadership", "NoElection", "fenced", "make_identity"]

POLL_SECONDS: Final = 0.1
JOIN_SECONDS: Final = 3.0
STANDBY_JOIN_SECONDS: Final = 0.5


def make_identity() -> str:
    """Return a name for this process that no other one ever has; says where it runs."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4()}"


def fenced(
    fence: LeadershipFence, reconcile: Callable[[ObjectKey], float | None]
) -> Callable[[ObjectKey], float | None]:
    """Return ``reconcile`` behind the fence: it may act on stores, whose requests no client guards."""

    def run(key: ObjectKey) -> float | None:
        fence.check(f"look at {key}")
        return reconcile(key)

    return run


class LeaseLeadership:
    """Leads while it holds the Lease of the operator's namespace."""

    def __init__(
        self,
        options: ControllerOptions,
        client: KubeClient,
        fence: LeadershipFence,
        metrics: ControllerMetrics,
        times: LeaseTimes | None = None,
    ) -> None:
        self._fence = fence
        self._metrics = metrics
        self._over = False
        metrics.leader.set(0)
        self._elector = LeaseElector(
            client,
            namespace=options.operator_namespace,
            name=LEASE_NAME,
            identity=make_identity(),
            fence=fence,
            times=times,
        )

    def wait(self, stopping: threading.Event) -> bool:
        """Stand by until this process leads; False when it is told to stop before that."""
        self._elector.start()
        while not stopping.is_set() and not self._elector.lost.is_set():
            if self._elector.acquired.wait(POLL_SECONDS):
                self._metrics.leader.set(1)
                return True
        return False

    @property
    def lost(self) -> str:
        """Why this process must not act any more; "" while it may (or has not begun to lead)."""
        elector = self._elector
        if elector.lost.is_set() or (elector.acquired.is_set() and not self._fence.is_open):
            self._metrics.leader.set(0)
            self._fence.revoke()
            return elector.why_lost
        return ""

    @property
    def unhealthy(self) -> str:
        """Why the process should be restarted; "" if all is well."""
        if self.leads and not self._over and not self._fence.is_open:
            return "the leadership is over, and the process has not noticed"
        return self._elector.stuck

    @property
    def unready(self) -> str:
        """Why it neither leads nor stands by; "" if it does."""
        return "" if self._elector.acquired.is_set() else self._elector.problem

    @property
    def leads(self) -> bool:
        """Tell whether it has begun to lead, whatever came then."""
        return self._elector.acquired.is_set()

    def release(self) -> None:
        """Let the next one take over; only when nothing acts any more."""
        self._over = True
        self._elector.stop()
        # One that stood by may be taking over at this very moment, and would leave it to nobody.
        self._elector.join(JOIN_SECONDS if self.leads else STANDBY_JOIN_SECONDS)
        self._elector.release()
        self._metrics.leader.set(0)

    def abandon(self) -> None:
        """Take no further part and leave the Lease as it is; it runs out by itself."""
        self._over = True
        self._fence.revoke()
        self._elector.stop()
        self._metrics.leader.set(0)


class NoElection:
    """A process that is alone for sure: it leads from the beginning to the end."""

    lost = unhealthy = unready = ""
    leads = True

    def __init__(self, metrics: ControllerMetrics) -> None:
        self._metrics = metrics

    def wait(self, stopping: threading.Event) -> bool:
        """Go ahead."""
        self._metrics.leader.set(1)
        return not stopping.is_set()

    def release(self) -> None:
        """Nothing is held."""
        self._metrics.leader.set(0)

    abandon = release
