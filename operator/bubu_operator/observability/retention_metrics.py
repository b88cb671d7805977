"""Metrics of retention: what passes did and what waits, by policy.

A policy has a fixed dozen of series, which go when the policy goes; what would multiply them (the
reasons of decisions, what ended a pass) is counted over all policies and not by each of them:
a policy's own reasons are in its status. ``namespace`` is empty for a ClusterRetentionPolicy.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["PassResult", "PolicyLabels", "RetentionMetrics"]

PolicyLabels = tuple[str, str]
"""Namespace ("" for a cluster-wide policy) and name."""

_POLICY: Final = ("namespace", "policy")


class PassResult(StrEnum):
    """How a pass ended, for counting."""

    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"


class RetentionMetrics:
    """Registered in the controller's registry; thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._known: set[PolicyLabels] = set()
        self._counters = {
            "scanned": Counter(
                "bubu_retention_scanned_objects", "List entries looked at.", _POLICY, registry=registry
            ),
            "deleted": Counter(
                "bubu_retention_deleted_objects", "Objects deleted.", _POLICY, registry=registry
            ),
            "deleted_bytes": Counter(
                "bubu_retention_deleted_bytes", "Bytes of the objects deleted.", _POLICY, registry=registry
            ),
            "failed": Counter(
                "bubu_retention_failed_objects",
                "Objects that the store refused to delete; they stay due.",
                _POLICY,
                registry=registry,
            ),
        }
        self._gauges = {
            "due": Gauge(
                "bubu_retention_due_objects",
                "Objects that the last pass found due, deleted or not.",
                _POLICY,
                registry=registry,
            ),
            "due_bytes": Gauge(
                "bubu_retention_due_bytes", "Bytes of the objects due.", _POLICY, registry=registry
            ),
            "kept": Gauge(
                "bubu_retention_kept_objects", "Objects that the last pass kept.", _POLICY, registry=registry
            ),
            "lag": Gauge(
                "bubu_retention_oldest_overdue_seconds",
                "How overdue the run is that should have gone first; 0 for none. Grows while no pass runs.",
                _POLICY,
                registry=registry,
            ),
            "success": Gauge(
                "bubu_retention_last_success_timestamp_seconds",
                "When the last pass ended that did all it should; 0 for none yet.",
                _POLICY,
                registry=registry,
            ),
            "duration": Gauge(
                "bubu_retention_last_duration_seconds",
                "How long the last pass took.",
                _POLICY,
                registry=registry,
            ),
            "approval": Gauge(
                "bubu_retention_approval_required",
                "1 while the policy waits for the annotation storage.bubustack.io/approve.",
                _POLICY,
                registry=registry,
            ),
            "ready": Gauge(
                "bubu_retention_policy_ready",
                "1 when passes of the policy can run, 0 when not; its Ready condition says why.",
                _POLICY,
                registry=registry,
            ),
            "enforces": Gauge(
                "bubu_retention_policy_enforces",
                "1 when the policy's mode is Enforce, 0 when it only reports what is due.",
                _POLICY,
                registry=registry,
            ),
            "suspended": Gauge(
                "bubu_retention_policy_suspended",
                "1 while spec.suspend of the policy is true.",
                _POLICY,
                registry=registry,
            ),
            "degraded": Gauge(
                "bubu_retention_policy_degraded",
                "1 when passes run, but not as they should; the policy's Degraded condition says why.",
                _POLICY,
                registry=registry,
            ),
        }
        self._passes = Counter(
            "bubu_retention_passes",
            "Passes that ended. result: succeeded, partial (some objects could not be deleted), failed.",
            [*_POLICY, "result"],
            registry=registry,
        )
        self._stops = Counter(
            "bubu_retention_pass_stops",
            "What ended passes of all policies: the end of a cycle, a limit, an error; one word.",
            ["stopped_by"],
            registry=registry,
        )
        self._decided = Counter(
            "bubu_retention_decided_objects",
            "Objects that passes of all policies decided, by reason: kept ones, due ones, deleted ones.",
            ["reason"],
            registry=registry,
        )
        self.passes_running = Gauge(
            "bubu_retention_passes_running", "Passes under way right now.", registry=registry
        )
        self.paused = Gauge(
            "bubu_retention_paused",
            "1 while all passes are paused: the annotation pause-retention, or --pause-retention.",
            registry=registry,
        )
        self.pause_unreadable = Gauge(
            "bubu_retention_pause_unreadable",
            "1 while the operator's namespace, and with it the annotation, cannot be read.",
            registry=registry,
        )

    def add(self, policy: PolicyLabels, counts: Mapping[str, float]) -> None:
        """Count objects of a policy's pass: scanned, deleted, deleted_bytes, failed."""
        with self._lock:
            self._known.add(policy)
            for name, count in counts.items():
                self._counters[name].labels(*policy).inc(count)

    def show(self, policy: PolicyLabels, values: Mapping[str, float]) -> None:
        """Set what is so of a policy now.

        Names: due, due_bytes, kept, lag, success, duration, approval, ready, enforces, suspended, degraded.
        """
        with self._lock:
            self._known.add(policy)
            for name, value in values.items():
                self._gauges[name].labels(*policy).set(value)

    def ended(
        self, policy: PolicyLabels, result: PassResult, stopped_by: str, reasons: Mapping[str, int]
    ) -> None:
        """Count a pass that has ended, and the reasons of what it decided."""
        with self._lock:
            self._known.add(policy)
            self._passes.labels(*policy, result.value).inc()
            self._stops.labels(stopped_by).inc()
            for reason, objects in reasons.items():
                self._decided.labels(reason).inc(objects)

    def forget(self, policy: PolicyLabels) -> None:
        """Remove the series of a policy that is gone; nothing if there are none."""
        with self._lock:
            if policy not in self._known:
                return
            self._known.discard(policy)
            for metric in (*self._counters.values(), *self._gauges.values()):
                _remove(metric, policy)
            for result in PassResult:
                _remove(self._passes, (*policy, result.value))


def _remove(metric: Counter | Gauge, labels: tuple[str, ...]) -> None:
    try:
        metric.remove(*labels)
    except KeyError:
        return
