"""Metrics of the controller: every name, its labels and its meaning in one place.

Values are set by the parts that know them; a name is registered once a process, in the
registry that ``/metrics`` shows. Labels never hold anything that a tenant writes but
namespaces and names of our own kinds.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

__all__ = ["ControllerMetrics"]


class ControllerMetrics:
    """The controller's metrics, in a registry of their own.

    Attributes:
        registry: what ``/metrics`` shows.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.leader = Gauge(
            "bubu_controller_leader",
            "1 in the controller that works, 0 in one that waits.",
            registry=registry,
        )
