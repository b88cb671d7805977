"""Metrics of the controller: every name, its labels and its meaning in one place.

Values are set by the parts that know them; a name is registered once a process, in the
registry that ``/metrics`` shows. Labels never hold anything that a tenant writes but
namespaces and names of our own kinds.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from bubu_operator.observability.retention_metrics import RetentionMetrics
from bubu_operator.observability.store_metrics import StoreMetrics

__all__ = ["ControllerMetrics"]


class ControllerMetrics:
    """The controller's metrics, in a registry of their own.

    Attributes:
        registry: what ``/metrics`` shows.
        retention: of passes and policies.
        stores: of storage configs.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.leader = Gauge(
            "bubu_controller_leader",
            "1 in the controller that works, 0 in one that waits.",
            registry=registry,
        )
        self.kube_requests = Counter(
            "bubu_kube_requests",
            "Requests to the API server, by method and result: ok, not_found, conflict, gone, invalid, "
            "forbidden, unauthorized, throttled, timeout, unreachable (5xx too) or other. Kopf's watches are "
            "not counted.",
            ["method", "result"],
            registry=registry,
        )
        self.templates_written = Counter(
            "bubu_templates_written",
            "Pod templates that were written, by the workload's kind and what was done.",
            ["kind", "action"],
            registry=registry,
        )
        self.rollouts_waiting = Gauge(
            "bubu_rollouts_waiting",
            "Workloads that wait until another owner of their config has rolled.",
            registry=registry,
        )
        self.rollout_timeouts = Counter(
            "bubu_rollout_timeouts",
            "Roll-outs that were not done in time and are no longer waited for.",
            registry=registry,
        )
        self.rollouts_failed = Counter(
            "bubu_rollouts_failed",
            "Roll-outs that Kubernetes calls failed; they hold up the other owners of their config.",
            registry=registry,
        )
        self.injection_pods = Gauge(
            "bubu_injection_pods",
            "Running pods that a config is meant for, by state: current, stale, missing or unchecked.",
            ["kind", "namespace", "name", "state"],
            registry=registry,
        )
        self.unconfigured_pods = Gauge(
            "bubu_injection_unconfigured_pods",
            "Running pods that ask for storage and for which no config can be chosen, by reason.",
            ["reason"],
            registry=registry,
        )
        self.heal_sweeps = Counter(
            "bubu_heal_sweeps",
            "Sweeps over the cluster's pods, by result: complete, failed, forbidden or stopped.",
            ["result"],
            registry=registry,
        )
        self.heal_last_success = Gauge(
            "bubu_heal_last_success_timestamp_seconds",
            "When the last sweep that saw every pod ended; 0 for none yet.",
            registry=registry,
        )
        self.heal_duration = Gauge(
            "bubu_heal_last_duration_seconds",
            "How long the last sweep took that saw every pod.",
            registry=registry,
        )
        self.heal_pods = Gauge(
            "bubu_heal_pods_seen",
            "Pods that the last complete sweep saw.",
            registry=registry,
        )
        self.heal_restarts = Counter(
            "bubu_heal_restarts",
            "Workloads that were restarted so that their pods get their config, by the workload's kind.",
            ["kind"],
            registry=registry,
        )
        self.heal_given_up = Gauge(
            "bubu_heal_given_up",
            "Workloads whose pods still lack their config after every allowed restart.",
            registry=registry,
        )
        self.authority_not_after = Gauge(
            "bubu_authority_not_after_timestamp_seconds",
            "End of the validity of the webhook's authorities, by role: signing or upcoming; 0 for none.",
            ["role"],
            registry=registry,
        )
        self.authority_trusted = Gauge(
            "bubu_authority_trusted",
            "Authorities that caBundle is to hold.",
            registry=registry,
        )
        self.authority_waiting_seconds = Gauge(
            "bubu_authority_waiting_seconds",
            "How long caBundle has held the upcoming authority without a change; it signs after a minute.",
            registry=registry,
        )
        self.authority_steps = Counter(
            "bubu_authority_steps",
            "Changes of the webhook's authorities, by what was done.",
            ["step"],
            registry=registry,
        )
        self.authority_bundle_writes = Counter(
            "bubu_authority_bundle_writes",
            "Times that caBundle did not hold what it should and was written.",
            registry=registry,
        )
        self.authority_trouble = Gauge(
            "bubu_authority_trouble",
            "1 while something is wrong with the webhook's authority, by kind.",
            ["kind"],
            registry=registry,
        )
        self.authority_troubles = Counter(
            "bubu_authority_troubles",
            "Troubles with the webhook's authority that began, by kind.",
            ["kind"],
            registry=registry,
        )
        self.probe_jobs = Gauge(
            "bubu_probe_jobs",
            "Jobs under way that probe a store under a tenant's account or with a claim.",
            registry=registry,
        )
        self.probe_job_results = Counter(
            "bubu_probe_job_results",
            "Jobs that ended, by the reason that their result gave.",
            ["reason"],
            registry=registry,
        )
        self.pass_jobs = Gauge(
            "bubu_pass_jobs",
            "Jobs under way whose agents serve a store to retention passes.",
            registry=registry,
        )
        self.pass_job_results = Counter(
            "bubu_pass_job_results",
            "Jobs of agents that ended, by what they came to: Served, or the reason of the failure.",
            ["reason"],
            registry=registry,
        )
        self.pass_callers = Counter(
            "bubu_pass_callers",
            "Callers of the port for agents, by what became of them: Admitted, or why they were turned away.",
            ["result"],
            registry=registry,
        )
        self.stores = StoreMetrics(registry)
        self.retention = RetentionMetrics(registry)
