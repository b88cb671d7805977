"""A tiny HTTP server that answers as the test says: for what a real API server will not do on demand."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cluster.certs import ServingFiles

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Hands every request to the script of the server."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def answer(self) -> None:
        """Take the body, remember the request, run the script."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        with self.server.lock:
            self.server.seen.append((self.command, self.path, dict(self.headers), self.body))
        self.server.script(self)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer; text as it is, anything else as JSON."""
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, *events: Any) -> None:
        """Send events of a watch and end it."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            data = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    def end_stream(self) -> None:
        """Close a stream in good order."""
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class ScriptedServer(ThreadingHTTPServer):
    """The server; `seen` holds (method, path, headers, body) of each request."""

    daemon_threads = True

    def __init__(self, script: Reply, tls: ServingFiles | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            # A client that refuses the certificate ends the thread of its request, not the server.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.lock = threading.Lock()
        self.release = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may break off; that is what some tests do."""

    def close(self) -> None:
        """Stop."""
        self.release.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
