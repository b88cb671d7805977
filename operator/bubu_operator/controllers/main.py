"""``bubu-operator controller``: puts the parts together, and takes them apart in good order.

Start: health server, API server, CRDs, lanes, watches. Stop (SIGTERM, SIGINT): no new
work, passes are asked to end and write their cursor, then everything else. A second
signal ends the process at once; passes notice by their lifeline.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from types import FrameType
from typing import Final

from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.feed import Feed
from bubu_operator.controllers.health import HealthServer
from bubu_operator.controllers.isolation import isolate_environment
from bubu_operator.controllers.passes import PassRunner
from bubu_operator.controllers.retentionpolicy import PolicyReconciler
from bubu_operator.controllers.rollout import RolloutGate
from bubu_operator.controllers.scheduler import Lane, StoreSlots
from bubu_operator.controllers.services import build_services
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.controllers.template import TemplateReconciler
from bubu_operator.controllers.watching import WATCHED, Watcher, build_registry
from bubu_operator.errors import KubeApiError, KubeConfigError, KubeForbiddenError, OptionsError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    GROUP,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    VERSION,
    ObjectKey,
    Resource,
)
from bubu_operator.kube.scrub import Redactor
from bubu_operator.observability.logging import setup_logging

__all__ = ["ControllerOptions", "run_controller"]

logger = logging.getLogger(__name__)

CONTROLLER_NAME: Final = f"{GROUP}/controller"
CONFIG_WORKERS: Final = 8
CLUSTER_CONFIG_WORKERS: Final = 2
TEMPLATE_WORKERS: Final = 2
IDLE_POLICY_WORKERS: Final = 4
CRD_POLL_SECONDS: Final = 2.0
CRD_TIMEOUT_SECONDS: Final = 3.0
"""Short, because a signal to stop is heard in between only."""

STOP_SECONDS: Final = 10.0

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def run_controller(options: ControllerOptions) -> int:
    """Run until a signal; return the exit code: 0 stopped, 1 failed, 2 wrong options."""
    redactor = Redactor()
    try:
        setup_logging(options.log_level, options.log_format, redactor)
    except OptionsError as error:
        logging.basicConfig()
        logger.critical("%s", error)
        return EXIT_USAGE
    if removed := isolate_environment(os.environ):
        logger.info("ignored variables of the environment: %s", ", ".join(removed))
    try:
        client = KubeClient.load(
            str(options.kubeconfig) if options.kubeconfig is not None else None,
            user_agent="bubu-storage-controller",
        )
    except KubeConfigError as error:
        logger.critical("%s", error)
        return EXIT_USAGE
    with client:
        return _Controller(options, client, redactor).run()


class _Controller:
    """The process's parts."""

    def __init__(self, options: ControllerOptions, client: KubeClient, redactor: Redactor) -> None:
        events = EventRecorder(
            client, redactor, controller=CONTROLLER_NAME, instance=f"{socket.gethostname()}-{os.getpid()}"
        )
        self._options = options
        self._client = client
        self._context = context = Context(client=client, events=events, redactor=redactor, options=options)
        self._stopping = context.stopping
        configs = ConfigReconciler(context, STORAGE_CONFIGS, on_ready_change=self._config_ready)
        cluster = ConfigReconciler(context, CLUSTER_STORAGE_CONFIGS, on_ready_change=self._config_ready)
        slots = StoreSlots(options.max_parallel_passes)
        policies = PolicyReconciler(context, slots, PassRunner(context), wake=self._wake_policy)
        self._configs = Lane("storageconfig", configs, workers=CONFIG_WORKERS)
        self._cluster = Lane("clusterstorageconfig", cluster, workers=CLUSTER_CONFIG_WORKERS)
        self._policies = Lane(
            "retentionpolicy", policies, workers=options.max_parallel_passes + IDLE_POLICY_WORKERS
        )
        self._templates = Lane("template", TemplateReconciler(context), workers=TEMPLATE_WORKERS)
        self._services = build_services(context, RolloutGate(context))
        self._lanes = (self._configs, self._cluster, self._policies, self._templates)
        self._feed = Feed(
            context.cache,
            configs=self._configs,
            cluster_configs=self._cluster,
            policies=self._policies,
            templates=self._templates,
        )
        self._watcher = Watcher(options.namespaces)
        self._crds_found = threading.Event()
        self._signals = 0

    # Reconcilers are made before the lanes and the feed that they wake; these close the circle.

    def _config_ready(self, key: ObjectKey) -> None:
        self._feed.config_changed(key)

    def _wake_policy(self, key: ObjectKey) -> None:
        self._policies.offer(key)

    # -- life ----------------------------------------------------------------------------

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            health = HealthServer(
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
            if self._wait_for_crds():
                return self._work()
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
        while not self._stopping.wait(0.5):
            if not self._watcher.alive:
                logger.critical("watching the API server failed, ending: %s", self._watcher.error)
                self._stopping.set()
                self._wind_up()
                return EXIT_FAILED
        self._wind_up()
        logger.info("the controller has stopped")
        return EXIT_OK

    def _wind_up(self) -> None:
        for lane in self._lanes:
            lane.stop()
        for service in self._services:
            service.stop()
        self._watcher.stop()
        if not self._policies.join(STOP_SECONDS):
            logger.warning("a pass did not end within %g s; its process ends with this one", STOP_SECONDS)
        for lane in self._lanes:
            lane.join(1.0)
        for service in self._services:
            service.join(1.0)
        self._watcher.join(STOP_SECONDS)

    def _wait_for_crds(self) -> bool:
        """Wait until the API server serves our kinds; False when told to stop."""
        wanted = {STORAGE_CONFIGS.plural, CLUSTER_STORAGE_CONFIGS.plural, RETENTION_POLICIES.plural}
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
        try:
            self._client.list_page(CLUSTER_STORAGE_CONFIGS, limit=1)
        except KubeForbiddenError:
            logger.warning(
                "ClusterStorageConfigs may not be read: they are not probed, and a policy has to name the "
                "StorageConfig of its namespace in storageRef"
            )
            return [resource for resource in WATCHED if resource.namespaced]
        except KubeApiError as error:
            # Most likely away for a moment; if not, the watch will say so.
            logger.info("whether ClusterStorageConfigs may be read is not known: %s", error)
        return list(WATCHED)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)
        self._stopping.set()

    # -- health --------------------------------------------------------------------------

    def _healthy(self) -> str:
        if self._crds_found.is_set() and self._watcher.ready.is_set() and not self._watcher.alive:
            return "watching has ended"
        return ""

    def _ready(self) -> str:
        if self._stopping.is_set():
            return "stopping"
        if not self._crds_found.is_set():
            return "the API server cannot be reached, or the CRDs are not there"
        return "" if self._watcher.ready.is_set() else "watches are being opened"
