"""``bubu-operator webhook``: wiring of cache, certificate, application and servers.

One process, one event loop for reviews; threads for what blocks: informers, live
reads, events, metrics. On SIGTERM or SIGINT readiness goes
off first, requests are still answered for `WebhookOptions.drain_seconds`, then the
listener closes and what is in flight finishes; a second signal ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from bubu_operator.certificates.issuing import serving_names
from bubu_operator.defaults import AUTHORITY_SECRET, EVERYWHERE, OPERATOR_NAMESPACE, WEBHOOK_NAME
from bubu_operator.errors import OperatorError, OptionsError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import GROUP
from bubu_operator.kube.scrub import Redactor
from bubu_operator.kube.server_clock import ServerClock
from bubu_operator.listening import open_listener
from bubu_operator.observability.logging import setup_logging
from bubu_operator.observability.metrics_server import MetricsServer
from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.app import WebhookApp
from bubu_operator.webhook.authority_source import AuthoritySource
from bubu_operator.webhook.cache import ConfigCache
from bubu_operator.webhook.certs import CertificateSource, FileSource, server_context
from bubu_operator.webhook.configuration import check_scope
from bubu_operator.webhook.connections import BoundedProtocol
from bubu_operator.webhook.fallback import Fallback, LiveReader
from bubu_operator.webhook.loop_monitor import LoopMonitor
from bubu_operator.webhook.owner_events import OwnerEvents
from bubu_operator.webhook.server_loop import ServerLoop

__all__ = ["WebhookOptions", "make_server", "run_webhook"]

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS: Final = 180
"""Longer than the API server's own 90 s: the side that closes an idle connection first must be
the client, or it sends a request into a connection that is just being closed."""

EVENT_SOURCE: Final = f"{GROUP}/webhook"
GC_OBJECTS: Final = 10_000
"""A review makes many objects and hardly any cycle: with Python's own threshold of 700 the collector
walks through each review several times, which costs 7 to 10 % of its time (measured)."""

IN_FLIGHT_SECONDS: Final = 5
BACKLOG: Final = 2048


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """Options of the command.

    Attributes:
        tls_cert, tls_key: PEM files; they may appear and change while the process runs. Both or
            neither: without them each replica signs its own certificate by the built-in authority.
        authority_secret: the authority's Secret, in the operator's namespace.
        operator_namespace: where the operator runs.
        webhook_service: Service of the webhook, for the names of its certificate.
        dns_names: more names or IP addresses of its certificate.
        kubeconfig: None for the pod's own service account.
        host, port: where to listen; port 0 picks a free one, which the log names.
        metrics_host, metrics_port: where metrics and health are shown, plain HTTP; port 0 as above.
        cert_poll_seconds: how often the files are looked at.
        log_format, log_level: see `setup_logging`.
        drain_seconds: how long requests are still answered after readiness went off.
        namespace: the only one whose pods are injected, and that is read; "" for all of the cluster.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    authority_secret: str = AUTHORITY_SECRET
    operator_namespace: str = OPERATOR_NAMESPACE
    webhook_service: str = WEBHOOK_NAME
    dns_names: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    host: str = EVERYWHERE
    port: int = 10250
    metrics_host: str = EVERYWHERE
    metrics_port: int = 8081
    cert_poll_seconds: float = 10.0
    log_format: str = "json"
    log_level: str = "info"
    drain_seconds: float = 5.0
    namespace: str = ""


def run_webhook(options: WebhookOptions) -> int:
    """Serve until a signal comes.

    Returns:
        Exit code: 0 after a signal, 1 when the process cannot start.
    """
    redactor = Redactor()
    try:
        setup_logging(options.log_level, options.log_format, redactor)
        check_scope(options.namespace, options.operator_namespace)
        if (options.tls_cert is None) != (options.tls_key is None):
            raise OptionsError("a certificate file and a key file belong together: give both, or neither")
        client = KubeClient.load(None if options.kubeconfig is None else str(options.kubeconfig))
    except OperatorError as error:
        return _cannot_start(str(error))
    with client:
        try:
            listener = listen(options.host, options.port)
        except OSError as error:
            cause = error.strerror or error
            return _cannot_start(f"cannot listen on {options.host} port {options.port}: {cause}")
        with listener, asyncio.Runner(loop_factory=ServerLoop) as runner:
            runner.run(_serve(options, client, redactor, listener))
    return 0


def _cannot_start(why: str) -> int:
    logger.error("the webhook cannot start: %s", why)
    return 1


async def _serve(
    options: WebhookOptions, client: KubeClient, redactor: Redactor, listener: socket.socket
) -> None:
    context = server_context()
    certificates = certificate_source(options, context, client)
    metrics = WebhookMetrics()
    show_certificate(metrics, certificates)
    cache = ConfigCache(client, metrics, only_namespace=options.namespace)
    monitor = LoopMonitor(metrics.loop_lag_seconds.observe)
    recorder = EventRecorder(
        client, redactor, controller=EVENT_SOURCE, instance=f"{socket.gethostname()}-{os.getpid()}"
    )
    events = OwnerEvents(recorder, metrics)
    fallback = Fallback(LiveReader(client, cache.parse, shared=not options.namespace), metrics)
    app = WebhookApp(
        cache,
        certificates.problem,
        health=monitor.problem,
        look=fallback.look,
        on_unserved=events.offer,
        lately_deleted=cache.lately_deleted,
        metrics=metrics,
        only_namespace=options.namespace,
    )
    server = make_server(app, context)
    shown = _show_metrics(options, app, monitor, metrics)
    cache.start()
    events.start()
    # Start-up's objects live as long as the process; the collector need not walk them again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 10, 10)
    tasks = [
        asyncio.create_task(certificates.follow()),
        asyncio.create_task(monitor.run()),
        asyncio.create_task(_announce_readiness(app, cache)),
        asyncio.create_task(_drain_on_signal(app, server, options.drain_seconds)),
    ]
    address, port = listener.getsockname()[:2]
    logger.info("webhook listening", extra={"address": address, "port": port, "api_server": client.server})
    if options.namespace:
        logger.info("for pods of one namespace alone", extra={"namespace": options.namespace})
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        fallback.close()
        await asyncio.to_thread(events.stop)
        await asyncio.to_thread(cache.stop)
        if shown is not None:
            await asyncio.to_thread(shown.close)
        logger.info("webhook stopped")


def _show_metrics(
    options: WebhookOptions, app: WebhookApp, monitor: LoopMonitor, metrics: WebhookMetrics
) -> MetricsServer | None:
    """Open the metrics port. Where that fails, pods are injected all the same: None."""
    try:
        shown = MetricsServer(
            options.metrics_host,
            options.metrics_port,
            healthy=monitor.problem,
            ready=app.not_ready_because,
            registry=metrics.registry,
        )
    except OSError as error:
        logger.error(  # noqa: TRY400 - the cause is in the line
            "no metrics: cannot listen on %s port %d: %s; reviews are answered all the same",
            options.metrics_host,
            options.metrics_port,
            error.strerror or error,
        )
        return None
    logger.info("metrics listening", extra={"address": options.metrics_host, "port": shown.port})
    return shown


def show_certificate(metrics: WebhookMetrics, certificates: CertificateSource) -> None:
    """Have the metrics say how the serving certificate does; numbers only, its problems are in the log."""
    metrics.certificate_not_after.set_function(lambda: _expiry(certificates))
    metrics.certificate_trouble.set_function(lambda: float(bool(certificates.last_problem)))
    metrics.certificate_counts.follow(lambda: certificates.loads, lambda: certificates.refusals)


def _expiry(certificates: CertificateSource) -> float:
    current = certificates.current
    return 0.0 if current is None else current.not_after.timestamp()


def certificate_source(
    options: WebhookOptions, context: ssl.SSLContext, client: KubeClient
) -> CertificateSource:
    """Where the serving certificate comes from, by the options: files, or the built-in authority."""
    if options.tls_cert is not None and options.tls_key is not None:
        return FileSource(
            options.tls_cert,
            options.tls_key,
            context,
            poll_seconds=options.cert_poll_seconds,
            clock=ServerClock(client),
        )
    return AuthoritySource(
        client,
        context,
        namespace=options.operator_namespace,
        secret=options.authority_secret,
        names=serving_names(options.webhook_service, options.operator_namespace, options.dns_names),
    )


def make_server(app: Any, context: ssl.SSLContext) -> uvicorn.Server:
    """The HTTP server around an ASGI application: limits, times and TLS, as in production."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=IN_FLIGHT_SECONDS,
    )
    config.load()
    config.ssl = context
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: it would stop at once, and end with the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def _drain_on_signal(app: WebhookApp, server: uvicorn.Server, drain_seconds: float) -> None:
    """First signal: readiness off, then stop after the drain; another one: stop now."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    first = await signals.get()
    app.draining = True
    logger.info("draining", extra={"signal": signal.Signals(first).name, "drain_seconds": drain_seconds})
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(signals.get(), drain_seconds)
    server.should_exit = True


async def _announce_readiness(app: WebhookApp, cache: ConfigCache) -> None:
    """Log when readiness changes, and when the cache begins or ceases to be fed, with the reason."""
    before: str | None = None
    stale_before: tuple[str, ...] = ()
    while True:
        now = app.not_ready_because()
        if now != before:
            logger.info("not ready" if now else "ready", extra={"cause": now} if now else {})
            before = now
        stale = cache.failing()
        if stale != stale_before:
            if stale:
                logger.warning(
                    "the cache is not fed; reviews go on from what is known", extra={"resources": stale}
                )
            else:
                logger.info("the cache is fed again")
            stale_before = stale
        await asyncio.sleep(0.2)


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket; see `open_listener`.

    Raises:
        OSError: the address cannot be had.
    """
    return open_listener(host, port, backlog=BACKLOG)
