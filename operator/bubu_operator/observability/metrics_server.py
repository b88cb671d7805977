"""``/metrics``, ``/healthz`` and ``/readyz`` on a plain HTTP port, for controller and webhook alike.

The server has threads of its own, so it answers, and can say so, when the rest of the process is stuck.
Invariants: at most `MAX_REQUESTS` are served at once, each within `REQUEST_SECONDS`; nothing here
tells more than numbers and short sentences.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from bubu_operator.listening import open_listener
from bubu_operator.observability.process_metrics import process_registry

__all__ = ["MetricsServer"]

MAX_REQUESTS: Final = 8
REQUEST_SECONDS: Final = 5.0
WAITING_CONNECTIONS: Final = 16
ACCEPT_AGAIN_SECONDS: Final = 0.2


class MetricsServer:
    """Serves until closed.

    Args:
        host, port: where to listen; port 0 picks a free one, see `port`.
        healthy: returns "" or why the process should be restarted.
        ready: returns "" or why it must not be sent work.
        registry: what ``/metrics`` shows, with the process's own metrics behind it.

    Raises:
        OSError: the address cannot be had.
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
        process = process_registry()

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    shown = generate_latest(registry) + generate_latest(process)
                    self._answer(200, shown, CONTENT_TYPE_LATEST)
                    return
                check = checks.get(path)
                problem = "there are /metrics, /healthz and /readyz" if check is None else check()
                status = 404 if check is None else 503 if problem else 200
                self._answer(status, f"{problem or 'ok'}\n".encode(), "text/plain; charset=utf-8")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                pass

        self._server = _BoundedServer(open_listener(host, port, backlog=WAITING_CONNECTIONS), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening; what is being answered finishes by itself."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def get_request(self) -> tuple[Any, Any]:
        """As the parent. Where that fails (no descriptors, most often) it is tried again in a while."""
        try:
            return super().get_request()
        except OSError:
            # The caller is still there: trying again at once would take a whole core.
            time.sleep(ACCEPT_AGAIN_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread; over the limit, hang up at once."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the parent, with an end, and give the place back."""
        end = threading.Timer(REQUEST_SECONDS, _hang_up, (request,))
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        except RuntimeError:
            # Threads have run out, and nothing without an end is served; the place must not go with them.
            self.shutdown_request(request)
        finally:
            end.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


def _hang_up(request: socket.socket) -> None:
    """Wake whoever reads or writes there."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
