"""A loopback proxy in front of an S3 server that loses answers as told, and counts connections."""

from __future__ import annotations

import http.client
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Match = Callable[[str, dict[str, str]], bool]

_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "expect", "keep-alive"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def handle_error(self, *_: object) -> None:
        """Keep quiet: a connection that is dropped is what these tests are about."""


class FaultProxy:
    """The proxy; see `fault_proxy`.

    Attributes:
        lose_answer: tells from method and headers whether the request is carried out and its answer lost.
        lose_request: the same, but the request is not carried out.
        break_body: the same, but only half of the answer's body arrives.
        hold: called in the middle of each request, for instance to wait.
        requests: method and path of each request.
        connections: open now; ``most_connections``: at a time so far.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.lose_answer: Match = lambda *_: False
        self.lose_request: Match = lambda *_: False
        self.break_body: Match = lambda *_: False
        self.hold: Callable[[], object] = lambda: None
        self.requests: list[tuple[str, str]] = []
        self.connections = self.most_connections = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def count(self, method: str) -> int:
        """Return how many requests of a method there were."""
        return sum(one == method for one, _ in self.requests)

    def stop(self) -> None:
        """End the proxy."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def setup(self) -> None:
                super().setup()
                with proxy.lock:
                    proxy.connections += 1
                    proxy.most_connections = max(proxy.most_connections, proxy.connections)

            def finish(self) -> None:
                with proxy.lock:
                    proxy.connections -= 1
                super().finish()

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

            def carry(self) -> None:
                """Pass one request on."""
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", "0")))
                with proxy.lock:
                    proxy.requests.append((self.command, self.path))
                proxy.hold()
                if proxy.lose_request(self.command, headers):
                    self.close_connection = True
                    return
                with closing(http.client.HTTPConnection(*proxy.upstream, timeout=60)) as upstream:
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in _HOP_BY_HOP:
                            upstream.putheader(name, value)
                    upstream.endheaders(body)
                    answer = upstream.getresponse()
                    data = answer.read()
                if proxy.lose_answer(self.command, headers):
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {*_HOP_BY_HOP, "content-length"}:
                        self.send_header(name, value)
                length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if proxy.break_body(self.command, headers):
                    data, self.close_connection = data[: len(data) // 2], True
                self.wfile.write(data)

        for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.carry)
        return Handler


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server.

    Args:
        upstream: URL of the server.
    """
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.stop()
