"""A proxy before the API server that writes down who changes what, and can hold requests back.

Plain HTTP on loopback towards the client, TLS towards the server; watches stream through.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster

__all__ = ["Change", "RecordingProxy"]


@dataclass(frozen=True, slots=True)
class Change:
    """One request that was not a GET, as it reached the server.

    Attributes:
        sent_at: monotonic clock when it was passed on.
        method, path: of the request.
        status: of the answer.
    """

    sent_at: float
    method: str
    path: str
    status: int


class RecordingProxy:
    """One proxy for one process, so that each record belongs to one author; use as a context manager."""

    def __init__(self, cluster: Cluster) -> None:
        parts = urlsplit(cluster.server)
        host, port = str(parts.hostname), parts.port or 443
        context = ssl.create_default_context(cadata=cluster.ca_pem)
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._changes: list[Change] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                proxy._open.wait()
                upstream = http.client.HTTPSConnection(host, port, context=context, timeout=120)
                sent_at = time.monotonic()
                try:
                    kept = {
                        name: value
                        for name, value in self.headers.items()
                        if name.lower() not in {"host", "connection", "transfer-encoding", "accept-encoding"}
                    }
                    upstream.request(self.command, self.path, body=body, headers=kept)
                    answer = upstream.getresponse()
                    if self.command != "GET":
                        proxy._note(Change(sent_at, self.command, self.path, answer.status))
                    self._answer(answer)
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                finally:
                    upstream.close()

            def _answer(self, answer: http.client.HTTPResponse) -> None:
                self.send_response(answer.status)
                for name in ("Content-Type", "Retry-After"):
                    if value := answer.headers.get(name):
                        self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while chunk := answer.read1(65536):
                    proxy._open.wait()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._pass_on
                raise AttributeError(name)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="recorder", daemon=True)

    @property
    def url(self) -> str:
        """Where clients find the API server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def lead_through(self, kubeconfig: Path) -> None:
        """Make a kubeconfig go through this proxy."""
        document = cast("dict[str, Any]", json.loads(kubeconfig.read_text(encoding="utf-8")))
        document["clusters"][0]["cluster"] = {"server": self.url}
        kubeconfig.write_text(json.dumps(document), encoding="utf-8")

    def changes(self, *, leases: bool = False) -> list[Change]:
        """Return what was changed so far; the Lease's renewals only on demand."""
        with self._lock:
            return [change for change in self._changes if ("/leases" in change.path) == leases]

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Hold back every request and answer while the block runs, as a network without a word does."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def _note(self, change: Change) -> None:
        with self._lock:
            self._changes.append(change)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
