"""``/healthz``, ``/readyz`` and ``/metrics``: a small HTTP server in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

__all__ = ["HealthServer"]


class HealthServer:
    """Answers 200 ``ok`` or 503 with the reason; everything else is 404.

    Args:
        host, port: where to listen; port 0 picks a free one, see `port`.
        healthy: returns "" or why the process should be restarted.
        ready: returns "" or why it does not work yet.
        registry: what /metrics shows.

    Raises:
        OSError: the address is taken or not ours.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        healthy: Callable[[], str],
        ready: Callable[[], str],
        registry: CollectorRegistry,
    ) -> None:
        checks = {"/healthz": healthy, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                path = self.path.split("?", 1)[0]
                if path == "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                    return
                check = checks.get(path)
                problem = "not found" if check is None else check()
                status = 404 if check is None else 503 if problem else 200
                self._answer(status, (problem or "ok").encode() + b"\n", "text/plain; charset=utf-8")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
