"""The metrics port: what it answers, its limits, and the lag of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from bubu_operator.observability import metrics_server
from bubu_operator.observability.metrics_server import MAX_REQUESTS, MetricsServer
from bubu_operator.webhook.loop_monitor import MAX_LAG_SECONDS, LoopMonitor
from bubu_storage import __version__
from tests.cluster.processes import wait_until

STATE = {"healthy": "", "ready": ""}


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    """A server on a free port."""
    registry = CollectorRegistry()
    Gauge("planted", "A number.", registry=registry).set(7)
    STATE.update(healthy="", ready="")
    running = MetricsServer(
        "127.0.0.1",
        0,
        healthy=lambda: STATE["healthy"],
        ready=lambda: STATE["ready"],
        registry=registry,
    )
    yield running
    running.close()


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    """GET; status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_paths(server: MetricsServer):
    """Metrics in Prometheus' form, health and readiness with their reasons."""
    status, text = get(server, "/metrics")
    assert (status, "planted 7.0" in text) == (200, True)
    assert f'bubu_build_info{{version="{__version__}"}} 1.0' in text
    assert "\nprocess_resident_memory_bytes " in text
    assert get(server, "/healthz") == get(server, "/readyz?x") == (200, "ok\n")
    STATE.update(healthy="stuck", ready="not listed yet")
    assert get(server, "/healthz") == (503, "stuck\n")
    assert get(server, "/readyz") == (503, "not listed yet\n")
    assert get(server, "/else")[0] == 404


def test_a_taken_port_is_an_error():
    """The caller decides what that means."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        MetricsServer(
            "127.0.0.1",
            taken.getsockname()[1],
            healthy=str,
            ready=str,
            registry=CollectorRegistry(),
        )


def test_requests_that_no_thread_could_be_had_for_do_not_add_up(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
):
    """Threads may have run out for a moment; afterwards as many are served as before."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if type(thread) is threading.Timer:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_REQUESTS):
            with pytest.raises((OSError, http.client.HTTPException)):
                get(server, "/healthz")

    assert get(server, "/healthz") == (200, "ok\n")


def test_where_descriptors_have_run_out_it_tries_again_in_a_while(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
):
    """The caller stays there to be accepted: trying all the time would take a core. Later it is served."""
    tries: list[float] = []

    def refuse(_server: socketserver.TCPServer) -> None:
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, "too many open files")

    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setattr(socketserver.TCPServer, "get_request", refuse)
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            wait_until(lambda: len(tries) > 2, 60, "three tries")
        caller.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert caller.recv(12).endswith(b"200")

    assert tries[2] - tries[0] >= 2 * metrics_server.ACCEPT_AGAIN_SECONDS


def test_connections_that_say_nothing_do_not_add_up(server: MetricsServer):
    """So many are held; the next is hung up at once, and a place is free again when one goes."""
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(MAX_REQUESTS)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as extra:
        assert extra.recv(1) == b""
    for connection in held:
        connection.close()
    status, deadline = 0, time.monotonic() + 60
    while not status and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = get(server, "/healthz")
    assert status == 200


def test_a_request_that_drips_is_ended(server: MetricsServer, monkeypatch: pytest.MonkeyPatch):
    """Its time is counted from the beginning, not from the last byte."""
    monkeypatch.setattr(metrics_server, "REQUEST_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\nX: y")
        assert connection.recv(1) == b""


def test_lag_is_measured_and_judged():
    """A beat that is late says by how much; before the first one nothing is known."""
    now, seen, late = [0.0], list[float](), asyncio.Event()

    def observe(seconds: float) -> None:
        seen.append(seconds)
        late.set()

    monitor = LoopMonitor(observe, monotonic=lambda: now[0])
    assert (monitor.lag_seconds, monitor.problem()) == (0.0, "")

    async def run() -> None:
        beating = asyncio.create_task(monitor.run())
        await asyncio.sleep(0)
        now[0] = 0.1 + MAX_LAG_SECONDS + 3
        assert monitor.lag_seconds == pytest.approx(MAX_LAG_SECONDS + 3)
        assert monitor.problem() == "the event loop has been stuck for 8 s"
        await asyncio.wait_for(late.wait(), 60)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)

    asyncio.run(run())

    assert seen == [pytest.approx(MAX_LAG_SECONDS + 3)]
    assert monitor.problem() == ""
