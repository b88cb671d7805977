"""A loopback HTTP server that answers as a test scripts it, and records what it was asked."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from bubu_storage.settings import S3Settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

DATE = "Sat, 21 Nov 2026 06:00:00 GMT"


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to say.

    ``announced`` is a false content length; ``hang_after_bytes`` stops in the body and waits for
    the end of the test; ``silent`` never answers at all; ``drop`` closes the connection in place of an
    answer; ``reset`` breaks it off, hard, in the middle of the headers.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    hang_after_bytes: int | None = None
    silent: bool = False
    drop: bool = False
    reset: bool = False


def error(status: int, code: str, message: str = "as scripted", extra: str = "", **headers: str) -> Answer:
    """Return an error in S3's form."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, text.encode(), {"Content-Type": "application/xml", **names})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Keep quiet: a client that goes away is what these tests are about."""


class ScriptedServer:
    """The server; see `scripted_server`."""

    def __init__(self, script: Callable[[Request], Answer], tls: ssl.SSLContext | None) -> None:
        self.script = script
        self._scheme = "https" if tls else "http"
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.failures: list[BaseException] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """End the server; handlers that hang let go."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

            def answer(self) -> None:
                """Record the request, run the script, send what it says."""
                if server.released.is_set():  # a kept connection must not outlive the server
                    self.close_connection = True
                    return
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                query = dict(parse_qsl(parts.query, keep_blank_values=True))
                request = Request(self.command, unquote(parts.path), query, headers, body)
                server.requests.append(request)
                try:
                    answer = server.script(request)
                except BaseException as error:
                    server.failures.append(error)
                    raise
                if answer.silent:
                    server.released.wait(200)
                    self.close_connection = True
                    return
                if answer.drop or answer.reset:
                    self.close_connection = True
                    if answer.reset:
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                        self.connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        self.connection.close()
                    return
                self.send_response_only(answer.status)
                for name, value in ({"Date": DATE} | answer.headers).items():
                    if value:
                        self.send_header(name, value)
                length = len(answer.body) if answer.announced is None else answer.announced
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if answer.hang_after_bytes is not None:
                    self.wfile.write(answer.body[: answer.hang_after_bytes])
                    self.wfile.flush()
                    server.released.wait(200)
                    self.close_connection = True
                    return
                self.wfile.write(answer.body)
                if length != len(answer.body):
                    self.close_connection = True

        for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.answer)
        return Handler


@contextmanager
def scripted_server(
    script: Callable[[Request], Answer], *, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """Run a server that answers each request by the script."""
    server = ScriptedServer(script, tls)
    try:
        yield server
    finally:
        server.stop()
    assert [] == server.failures


def settings_for(server: ScriptedServer, **changes: Any) -> S3Settings:
    """Return quick settings for a scripted server, with keys that must show up nowhere."""
    return replace(
        S3Settings(
            bucket="bucket",
            endpoint=server.endpoint,
            use_path_style=True,
            access_key_id="AKIDPLANTED",
            secret_access_key="planted-secret",
            max_attempts=1,
            max_backoff_seconds=0.01,
            timeout_seconds=20.0,
        ),
        **changes,
    )
