"""What every reconcile function is given: clients, clocks and options, passed in, never global."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bubu_operator.controllers.pause import PauseState
from bubu_operator.defaults import (
    EVERYWHERE,
    OPERATOR_NAMESPACE,
    PROBER_ROLE,
    SECRET_READER_ROLE,
    WEBHOOK_NAME,
)
from bubu_operator.injection.names import SYSTEM_NAMESPACES
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.lease_fence import LeadershipFence
from bubu_operator.kube.resources import JsonObject, ObjectKey, Resource
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.controller_metrics import ControllerMetrics

__all__ = ["Context", "ControllerOptions", "ObjectCache", "utc_now"]


def utc_now() -> datetime:
    """Return the wall clock, timezone-aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """Options of ``bubu-operator controller``.

    Attributes:
        kubeconfig: None for the pod's own service account.
        namespaces: watched ones; empty for all.
        allow_local_roots: directories below which local file stores may be used.
        probe_interval_seconds: between two probes of a store that works.
        health_host, health_port: where /healthz and /readyz are served; port 0 picks a free one.
        log_format: ``json`` or ``console``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        max_parallel_passes: retention passes under way at once, over all stores.
        operator_namespace: where the operator runs: its Lease, its authority's Secret.
        leader_elect: wait for the Lease before working; False for one process that is alone for sure.
        webhook_authority: keep the authority of the webhook's certificates, and its caBundle.
        webhook_service: Service of the webhook, whose DNS names the certificates are for.
        webhook_configuration: MutatingWebhookConfiguration whose caBundle is kept.
        authority_lifetimes: as `parse_lifetimes` reads them; "" for the usual ones.
        job_image: image with this package, for Jobs that probe under a tenant's account; "" for no Jobs.
        job_pass_address: where agents of retention passes call; "" for no such passes.
        job_pass_advertise: what agents call it by, with or without a port; "" for the pod's own address.
        allow_loopback_endpoints: stores on the controller's own machine may be called.
        heal_interval_seconds: between two sweeps over the pods; 0 for none.
        rollout_timeout_seconds: a roll-out that is not done after this long does not hold up the next.
        pause_retention: no pass is started, whatever the annotation on the namespace says.
        pause_annotation: False: passes run although no annotation can pause them.
        exclude_namespaces: whose workloads are left alone, as the webhook is told to leave them alone.
        secret_reader_role: what messages name for the right to read a namespace's Secrets.
        prober_role: what messages name for the right to start Jobs in a namespace.
    """

    kubeconfig: Path | None = None
    namespaces: tuple[str, ...] = ()
    allow_local_roots: tuple[Path, ...] = ()
    probe_interval_seconds: float = 60.0
    health_host: str = EVERYWHERE
    health_port: int = 8080
    log_format: str = "json"
    log_level: str = "info"
    max_parallel_passes: int = 4
    operator_namespace: str = OPERATOR_NAMESPACE
    leader_elect: bool = True
    webhook_authority: bool = False
    webhook_service: str = WEBHOOK_NAME
    webhook_configuration: str = WEBHOOK_NAME
    authority_lifetimes: str = ""
    job_image: str = ""
    job_pass_address: str = f"{EVERYWHERE}:8444"
    job_pass_advertise: str = ""
    allow_loopback_endpoints: bool = False
    heal_interval_seconds: float = 60.0
    rollout_timeout_seconds: float = 600.0
    pause_retention: bool = False
    pause_annotation: bool = True
    exclude_namespaces: tuple[str, ...] = ()
    secret_reader_role: str = SECRET_READER_ROLE
    prober_role: str = PROBER_ROLE

    @property
    def left_out(self) -> frozenset[str]:
        """Namespaces whose workloads are nobody's to inject: the system's, our own, and excluded ones."""
        return frozenset((*SYSTEM_NAMESPACES, self.operator_namespace, *self.exclude_namespaces))


class ObjectCache:
    """The last seen object of each key, fed by watch events; thread-safe.

    Kept by kind and namespace: each config that is heard of asks for its namespace's workloads, and
    looking through all objects for that took a quarter of a minute with 10,000 configs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, dict[str, dict[ObjectKey, JsonObject]]] = {}

    def put(self, resource: Resource, key: ObjectKey, obj: JsonObject) -> JsonObject | None:
        """Store an object; return the one that was there."""
        with self._lock:
            objects = self._kinds.setdefault(resource.plural, {}).setdefault(key.namespace, {})
            before = objects.get(key)
            objects[key] = obj
            return before

    def remove(self, resource: Resource, key: ObjectKey) -> JsonObject | None:
        """Forget an object; return the one that was there."""
        with self._lock:
            namespaces = self._kinds.get(resource.plural, {})
            objects = namespaces.get(key.namespace, {})
            before = objects.pop(key, None)
            if not objects:
                namespaces.pop(key.namespace, None)
            return before

    def get(self, resource: Resource, key: ObjectKey) -> JsonObject | None:
        """Return the last seen object, None if it is unknown or deleted."""
        with self._lock:
            return self._kinds.get(resource.plural, {}).get(key.namespace, {}).get(key)

    def items(self, resource: Resource, namespace: str | None = None) -> list[tuple[ObjectKey, JsonObject]]:
        """Return the known objects of a kind by key, of one namespace or of all."""
        with self._lock:
            namespaces = self._kinds.get(resource.plural, {})
            places = namespaces.values() if namespace is None else (namespaces.get(namespace, {}),)
            return [item for objects in places for item in objects.items()]

    def keys(self, resource: Resource, namespace: str | None = None) -> list[ObjectKey]:
        """Return the known keys of a kind, of one namespace or of all."""
        with self._lock:
            namespaces = self._kinds.get(resource.plural, {})
            if namespace is not None:
                return list(namespaces.get(namespace, {}))
            return [key for objects in namespaces.values() for key in objects]


@dataclass(frozen=True, slots=True)
class Context:
    """Shared by all reconcile functions of one process.

    Attributes:
        fence: open while this process leads; the client's requests are behind it already.
            What acts in other ways (on a store, by a process) asks it right before.
        pause: the kill switch of retention; passes ask it before they start and while they run.
    """

    client: KubeClient
    events: EventRecorder
    redactor: Redactor
    options: ControllerOptions
    cache: ObjectCache = field(default_factory=ObjectCache)
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)
    fence: LeadershipFence = field(default_factory=LeadershipFence.always_open)
    pause: PauseState = field(default_factory=PauseState.released)
    stopping: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
