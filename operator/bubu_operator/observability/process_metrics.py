"""Metrics of the process itself, the same for both roles: what runs, since when, at what cost.

They are in a registry of their own, made by whoever serves ``/metrics``, so that a role's registry
holds what that role alone knows. The ``process_`` names are those of every Prometheus client; they
come from ``/proc`` and are there on Linux only.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from bubu_storage import __version__

__all__ = ["process_registry"]


def process_registry() -> CollectorRegistry:
    """Return a registry that tells the version, and CPU, memory, files and start of this process."""
    registry = CollectorRegistry()
    version = Gauge(
        "bubu_build_info",
        "1; the label says which version of the operator this process is.",
        ["version"],
        registry=registry,
    )
    version.labels(__version__).set(1)
    ProcessCollector(registry=registry)
    return registry
