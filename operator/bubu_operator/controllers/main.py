"""``bubu-operator controller``: puts the parts together, and takes them apart in good order.

Start: health server, API server, CRDs, the Lease, lanes, watches. Until the Lease is held
nothing of the work runs. Stop (SIGTERM, SIGINT): no new work, passes are asked to end and
write their cursor, then everything else, and the Lease is given back. A second signal ends
the process at once; passes notice by their lifeline. A process that loses the Lease stops
acting at that moment, by the fence before every request, and ends.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from typing import Final, NoReturn

from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.feed import WORKLOADS, Feed
from bubu_operator.controllers.isolation import isolate_environment
from bubu_operator.controllers.leadership import LeaseLeadership, NoElection, fenced
from bubu_operator.controllers.pass_access import DirectStores, JobStores
from bubu_operator.controllers.pass_jobs import PassJobs
from bubu_operator.controllers.pass_listening import listen_for_agents
from bubu_operator.controllers.passes import PassRunner
from bubu_operator.controllers.pause import PauseState
from bubu_operator.controllers.retentionpolicy import PolicyReconciler
from bubu_operator.controllers.rollout import RolloutGate
from bubu_operator.controllers.scheduler import Lane, StoreSlots
from bubu_operator.controllers.services import build_services
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.controllers.template import TemplateReconciler
from bubu_operator.controllers.watching import WATCHED, Watcher, build_registry
from bubu_operator.controllers.workloads import WorkloadWatcher
from bubu_operator.errors import KubeApiError, KubeConfigError, KubeForbiddenError, OptionsError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.lease_fence import LeadershipFence
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    GROUP,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    VERSION,
    ObjectKey,
    Resource,
)
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.controller_metrics import ControllerMetrics
from bubu_operator.observability.logging import setup_logging
from bubu_operator.observability.metrics_server import MetricsServer
from bubu_operator.stop_signals import StopSignals

__all__ = ["ControllerOptions", "run_controller"]

logger = logging.getLogger(__name__)

CONTROLLER_NAME: Final = f"{GROUP}/controller"
USER_AGENT: Final = "bubu-storage-controller"
CONFIG_WORKERS: Final = 8
CLUSTER_CONFIG_WORKERS: Final = 2
TEMPLATE_WORKERS: Final = 2
IDLE_POLICY_WORKERS: Final = 4
CRD_POLL_SECONDS: Final = 2.0
CRD_TIMEOUT_SECONDS: Final = 3.0
"""Short, because a signal to stop is heard in between only."""

RIGHT_LOOKS: Final = 3
"""For the answer whether ClusterStorageConfigs may be read, each as short."""

STOP_SECONDS: Final = 10.0
JOIN_SECONDS: Final = 1.0
LOOK_AROUND_SECONDS: Final = 0.2
GIVE_UP_SECONDS: Final = 2.0
"""For passes to be killed and waited for once the Lease is lost; they end by themselves, too."""

LAST_RESORT_SECONDS: Final = 5.0

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_LEADERSHIP_LOST: Final = 3


def run_controller(options: ControllerOptions) -> int:
    """Run until a signal; return the exit code: 0 stopped, 1 failed, 2 wrong options, 3 lost the Lease."""
    redactor = Redactor()
    try:
        setup_logging(options.log_level, options.log_format, redactor)
    except OptionsError as error:
        logging.basicConfig()
        logger.critical("%s", error)
        return EXIT_USAGE
    if removed := isolate_environment(os.environ):
        logger.info("ignored variables of the environment: %s", ", ".join(removed))
    fence = LeadershipFence() if options.leader_elect else LeadershipFence.always_open()
    kubeconfig = str(options.kubeconfig) if options.kubeconfig is not None else None
    metrics = ControllerMetrics()

    def count(method: str, result: str) -> None:
        metrics.kube_requests.labels(method, result).inc()

    try:
        client = KubeClient.load(kubeconfig, user_agent=USER_AGENT, guard=fence.check, observe=count)
        lease_client = KubeClient.load(kubeconfig, user_agent=f"{USER_AGENT}/lease", observe=count)
    except KubeConfigError as error:
        logger.critical("%s", error)
        return EXIT_USAGE
    with client, lease_client:
        return _Controller(options, client, lease_client, fence, redactor, metrics=metrics).run()


class _Controller:
    """The process's parts."""

    def __init__(
        self,
        options: ControllerOptions,
        client: KubeClient,
        lease_client: KubeClient,
        fence: LeadershipFence,
        redactor: Redactor,
        *,
        metrics: ControllerMetrics,
    ) -> None:
        events = EventRecorder(
            client, redactor, controller=CONTROLLER_NAME, instance=f"{socket.gethostname()}-{os.getpid()}"
        )
        self._options = options
        self._client = client
        self._context = context = Context(
            client=client,
            events=events,
            redactor=redactor,
            options=options,
            metrics=metrics,
            fence=fence,
            pause=PauseState.unread(),
        )
        self._leadership = (
            LeaseLeadership(options, lease_client, fence, context.metrics)
            if options.leader_elect
            else NoElection(context.metrics)
        )
        self._stopping = context.stopping
        configs, cluster = (
            ConfigReconciler(
                context, kind, on_ready_change=self._config_ready, on_new_reason=self._config_judged
            )
            for kind in (STORAGE_CONFIGS, CLUSTER_STORAGE_CONFIGS)
        )
        slots = StoreSlots(options.max_parallel_passes)
        pass_jobs = PassJobs(context, lambda: listen_for_agents(context), wake=self._wake_policy)
        policies = PolicyReconciler(
            context,
            slots,
            PassRunner(context),
            wake=self._wake_policy,
            stores=JobStores(DirectStores(context), pass_jobs),
        )
        self._configs = Lane("storageconfig", fenced(fence, configs), workers=CONFIG_WORKERS)
        self._cluster = Lane("clusterstorageconfig", fenced(fence, cluster), workers=CLUSTER_CONFIG_WORKERS)
        self._policies = Lane(
            "retentionpolicy", policies, workers=options.max_parallel_passes + IDLE_POLICY_WORKERS
        )
        gate = RolloutGate(context)
        templates = {
            kind: Lane(
                f"template-{kind.plural}", TemplateReconciler(context, kind, gate), workers=TEMPLATE_WORKERS
            )
            for kind in WORKLOADS
        }
        self._services = build_services(context, gate, pause_changed=self._wake_policies)
        self._lanes = (self._configs, self._cluster, self._policies, *templates.values())
        self._feed = Feed(
            context.cache,
            configs=self._configs,
            cluster_configs=self._cluster,
            policies=self._policies,
            templates=templates,
        )
        self._services.append(pass_jobs)
        self._services.append(WorkloadWatcher(client, options.namespaces, self._feed.handle))
        self._watcher = Watcher(options.namespaces)
        self._crds_found = threading.Event()

    # Reconcilers are made before the lanes and the feed that they wake; these close the circle.

    def _config_ready(self, key: ObjectKey) -> None:
        self._feed.config_changed(key)

    def _config_judged(self, key: ObjectKey) -> None:
        self._feed.config_judged(key)

    def _wake_policy(self, key: ObjectKey) -> None:
        self._policies.offer(key)

    def _wake_policies(self) -> None:
        for resource in (RETENTION_POLICIES, CLUSTER_RETENTION_POLICIES):
            for key in self._context.cache.keys(resource):
                self._policies.offer(key)

    # -- life ----------------------------------------------------------------------------

    def run(self) -> int:
        handler = StopSignals(self._stopping)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)
        try:
            health = MetricsServer(
                self._options.health_host,
                self._options.health_port,
                healthy=self._healthy,
                ready=self._ready,
                registry=self._context.metrics.registry,
            )
        except OSError as error:
            where = f"{self._options.health_host}:{self._options.health_port}"
            logger.critical("cannot serve health checks on %s: %s", where, error)
            return EXIT_USAGE
        logger.info("health checks and metrics on port %d", health.port, extra={"port": health.port})
        try:
            if self._wait_for_crds() and self._leadership.wait(self._stopping):
                return self._work()
            if lost := self._leadership.lost:
                logger.critical("cannot take part in the election any more, ending: %s", lost)
                return EXIT_LEADERSHIP_LOST
            self._leadership.release()
            return EXIT_OK
        finally:
            health.close()

    def _work(self) -> int:
        watched = self._watched()
        for lane in self._lanes:
            lane.start()
        for service in self._services:
            service.start()
        self._watcher.start(build_registry(self._client, self._feed.handle, watched))
        logger.info("the controller works", extra={"server": self._client.server})
        while not self._stopping.wait(LOOK_AROUND_SECONDS):
            if lost := self._leadership.lost:
                return self._give_up(lost)
            if not self._watcher.alive:
                logger.critical("watching the API server failed, ending: %s", self._watcher.error)
                self._stopping.set()
                self._wind_up()
                return EXIT_FAILED
        self._wind_up()
        logger.info("the controller has stopped")
        return EXIT_OK

    def _wind_up(self) -> None:
        self._stop_parts()
        over = self._policies.join(STOP_SECONDS)
        if not over:
            logger.warning("a pass did not end within %g s; its process ends with this one", STOP_SECONDS)
        # Together, not each: the next controller waits for this.
        until = time.monotonic() + JOIN_SECONDS
        for lane in self._lanes:
            lane.join(max(0.0, until - time.monotonic()))
        for service in self._services:
            over = service.join(max(0.1, until + JOIN_SECONDS - time.monotonic())) and over
        # A lane that is still busy waits for a store or an answer: the fence is closed before it could act.
        if over:
            self._leadership.release()
        else:
            self._leadership.abandon()
        self._watcher.join(STOP_SECONDS)

    def _stop_parts(self) -> None:
        for lane in self._lanes:
            lane.stop()
        for service in self._services:
            service.stop()
        self._watcher.stop()

    def _give_up(self, why: str) -> int:
        """End after the Lease was lost: nothing can be written any more, so there is nothing to finish."""
        logger.critical("lost the leadership, ending: %s", why, extra={"exit_code": EXIT_LEADERSHIP_LOST})
        last_resort = threading.Timer(LAST_RESORT_SECONDS, _end_now)
        last_resort.daemon = True
        last_resort.start()
        self._stopping.set()
        self._leadership.abandon()
        self._stop_parts()
        self._policies.join(GIVE_UP_SECONDS)
        self._watcher.join(GIVE_UP_SECONDS)
        return EXIT_LEADERSHIP_LOST

    def _wait_for_crds(self) -> bool:
        """Wait until the API server serves our kinds; False when told to stop."""
        wanted = {resource.plural for resource in WATCHED}
        told = ""
        while not self._stopping.is_set():
            try:
                missing = wanted - self._client.served(GROUP, VERSION, timeout_seconds=CRD_TIMEOUT_SECONDS)
                problem = (
                    f"not served yet: {', '.join(sorted(missing))} ({GROUP}); apply the CRDs"
                    if missing
                    else ""
                )
            except KubeApiError as error:
                problem = str(error)
            if not problem:
                self._crds_found.set()
                return True
            if problem != told:
                logger.warning("waiting for the API server: %s", problem)
                told = problem
            self._stopping.wait(CRD_POLL_SECONDS)
        return False

    def _watched(self) -> list[Resource]:
        """Return the kinds to watch: cluster-wide ones only where we may, if told to mind some namespaces."""
        if not self._options.namespaces:
            return list(WATCHED)
        # Its namespaces may be other controllers', which would run the same passes.
        watched = [resource for resource in WATCHED if resource is not CLUSTER_RETENTION_POLICIES]
        for _ in range(RIGHT_LOOKS):
            try:
                self._client.list_page(CLUSTER_STORAGE_CONFIGS, limit=1, timeout_seconds=CRD_TIMEOUT_SECONDS)
            except KubeForbiddenError:
                logger.warning(
                    "ClusterStorageConfigs may not be read: they are neither probed nor injected, and a "
                    "policy has to name the StorageConfig of its namespace in storageRef"
                )
                return [resource for resource in watched if resource.namespaced]
            except KubeApiError as error:
                # Most likely away for a moment; if not, the watch will say so.
                logger.info("whether ClusterStorageConfigs may be read is not known: %s", error)
                if self._stopping.is_set():
                    break
            else:
                break
        return watched

    # -- health --------------------------------------------------------------------------

    def _healthy(self) -> str:
        if self._crds_found.is_set() and self._watcher.ready.is_set() and not self._watcher.alive:
            return "watching has ended"
        return self._leadership.unhealthy if self._crds_found.is_set() else ""

    def _ready(self) -> str:
        if self._stopping.is_set():
            return "stopping"
        if not self._crds_found.is_set():
            return "the API server cannot be reached, or the CRDs are not there"
        if not self._leadership.leads:
            return self._leadership.unready
        return "" if self._watcher.ready.is_set() else "watches are being opened"


def _end_now() -> NoReturn:
    os._exit(EXIT_LEADERSHIP_LOST)
