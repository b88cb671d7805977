"""The only module that knows Kopf: it hears of changes and passes them on, nothing else.

Raw event handlers only. Kopf then adds no finalizer, writes no annotation and keeps no
state, so a custom resource never waits for an operator that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import kopf

from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    CLUSTER_STORAGE_CONFIGS,
    GROUP,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    JsonObject,
    Resource,
)
from bubu_operator.kube.trust import accept_old_authorities

__all__ = ["WATCHED", "EventSink", "Watcher", "build_registry", "build_settings"]

logger = logging.getLogger(__name__)

EventSink = Callable[[Resource, "str | None", JsonObject], None]

WATCHED: Final = (
    STORAGE_CONFIGS,
    CLUSTER_STORAGE_CONFIGS,
    RETENTION_POLICIES,
    CLUSTER_RETENTION_POLICIES,
)
IDENTITY: Final = "bubu-storage-controller"
ERROR_BACKOFFS: Final = (1, 1, 2, 3, 5, 8, 13, *((20,) * 30))
"""An API server may be away for ten minutes before Kopf gives up and the process is restarted."""

TOKEN_SECONDS: Final = 600
"""After this long the token is read again: those of pods are replaced on disk while we run."""


def build_registry(
    client: KubeClient, sink: EventSink, watched: Sequence[Resource] = WATCHED
) -> kopf.OperatorRegistry:
    """Return a registry with one raw event handler for each kind in ``watched``, and our own login."""
    registry = kopf.OperatorRegistry()
    kopf_any: Any = kopf

    async def login(**_kwargs: Any) -> kopf.ConnectionInfo:
        connection = await asyncio.to_thread(client.connection)
        scheme, _, token = connection.authorization.partition(" ")
        return _ClusterConnection(
            server=connection.server,
            ca_path=connection.ca_path,
            insecure=connection.insecure,
            scheme=scheme or None,
            token=token or None,
            certificate_path=connection.certificate_path,
            private_key_path=connection.private_key_path,
            proxy_url=connection.proxy_url,
            expiration=datetime.now(UTC) + timedelta(seconds=TOKEN_SECONDS),
        )

    kopf_any.on.login(registry=registry)(login)
    for resource in watched:
        kopf_any.on.event(
            resource.group, resource.version, resource.plural, registry=registry, id=f"hear-{resource.plural}"
        )(_hear(resource, sink))
    return registry


class _ClusterConnection(kopf.ConnectionInfo):
    """Takes the authorities that our own connections take."""

    def as_ssl_context(self) -> ssl.SSLContext:
        return accept_old_authorities(super().as_ssl_context())


def _hear(resource: Resource, sink: EventSink) -> Callable[..., Any]:
    async def hear(event: Any, **_: Any) -> None:
        # Kopf may go on using its object; ours is only read, and what is kept is copied.
        sink(resource, cast("str | None", event["type"]), cast("JsonObject", event["object"]))

    return hear


def build_settings() -> kopf.OperatorSettings:
    """Return settings under which Kopf only listens."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Neither CRDs nor namespaces are watched: that would need cluster-wide rights for nothing.
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = ERROR_BACKOFFS
    settings.process.ultimate_exiting_timeout = 20
    settings.execution.executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="kopf")
    # Never used with raw handlers; should one ever be added, its traces are below our own name.
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    return settings


class Watcher:
    """Runs Kopf's operator in a thread with a loop of its own.

    It is ended by cancelling it, not by its stop flag: the flag gives requests of Kopf's own that
    are left over, such as the first look at what the API server offers, five seconds to repeat
    themselves. The flag is raised all the same, for it says that the end was asked for.
    """

    def __init__(self, namespaces: tuple[str, ...]) -> None:
        self._registry = kopf.OperatorRegistry()
        self._namespaces = namespaces
        self._asked = threading.Event()
        self._ending = threading.Event()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._settings = build_settings()
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self, registry: kopf.OperatorRegistry) -> None:
        """Begin to listen; `ready` is set when the first watches are being opened."""
        self._registry = registry
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once Kopf has ended, by `stop` or by an error."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End Kopf; may be called twice, and before it has begun."""
        self._asked.set()
        if self._running is not None:
            loop, task = self._running
            # The loop may have ended by itself, or do so right now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if not self._ending.is_set():
            self._ending.set()
            task.cancel()

    def join(self, timeout_seconds: float) -> None:
        """Wait for the end; a loop that is stuck does not keep the process, which may end then."""
        self._thread.join(timeout_seconds)
        if self.alive:
            logger.warning("watching did not end within %g s; it ends with this process", timeout_seconds)
            # A thread of Kopf's waits for the flag, and the interpreter's end for that thread.
            self._ending.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._operate())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which ends the process
            self.error = error
        finally:
            executor = cast("ThreadPoolExecutor", self._settings.execution.executor)
            executor.shutdown(wait=False, cancel_futures=True)

    async def _operate(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs is a task's
        # First said where to find it, then asked: `stop` does it the other way round, so one of both sees.
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._report)
        self._running = loop, task
        if self._asked.is_set():
            return
        try:
            await kopf.operator(
                registry=self._registry,
                settings=self._settings,
                standalone=True,
                # Kopf would ask for the user's name, which a uid without an entry in passwd lacks.
                identity=cast("Any", IDENTITY),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._ending,
                ready_flag=self.ready,
            )
        finally:
            # A thread of Kopf's waits for the flag, and the loop for that thread: nobody would see the end.
            self._ending.set()

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Kopf closes connections under requests of its own, and nobody asks what became of those.
        if self._ending.is_set():
            logger.debug("while watching ended: %s", context.get("exception") or context.get("message"))
        else:
            loop.default_exception_handler(context)
