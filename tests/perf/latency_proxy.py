"""A loopback proxy that holds each HTTP request for a given time, like a store that is far away.

It runs as a process of its own, so that its work does not compete with the measured program for
the interpreter, and it reads no headers: a request begins where a client sends something after it
has been answered (or for the first time), and is held from its first byte on. So requests on one
kept-alive connection are held each, bodies and answers pass at full speed, and the cost is one
wake-up per piece of data. The interim answer to ``Expect: 100-continue`` ends no request.

Limits: HTTP/1 without pipelining, which no S3 client uses; no TLS.

``python -m tests.perf.latency_proxy`` measures the proxy itself: processor time per request.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

__all__ = ["LatencyProxy"]

_BACKLOG: Final = 1024
_MAX_HELD_BYTES: Final = 1 << 20
_STOP_SECONDS: Final = 5.0


class LatencyProxy(AbstractContextManager["LatencyProxy"]):
    """A running proxy; a context manager.

    Args:
        upstream_endpoint: URL of the server, as ``http://127.0.0.1:7070``.
        latency_seconds: how long each request is held.

    Attributes:
        endpoint: URL to use instead of the server's.
    """

    def __init__(self, upstream_endpoint: str, latency_seconds: float) -> None:
        upstream = urlsplit(upstream_endpoint)
        if upstream.scheme != "http" or upstream.hostname is None:
            raise ValueError(f"{upstream_endpoint} is no http:// URL")
        # The socket is made here: its port is known at once, and early connections wait in its queue.
        with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
            self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # It ends when its standard input does, so it outlives nobody.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", __file__, str(listener.fileno())),
                    *(upstream.hostname, str(upstream.port or 80), str(latency_seconds)),
                ],
                stdin=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
            )

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the proxy has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the proxy and cut its connections; twice is fine."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Upstream(asyncio.Protocol):
    """The server's end of a connection."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.answer(data)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._client.transport.close()


class _Client(asyncio.Protocol):
    """The client's end of a connection, and the pair's state."""

    transport: asyncio.Transport

    def __init__(self, host: str, port: int, latency_seconds: float) -> None:
        self._address = (host, port)
        self._latency_seconds = latency_seconds
        self._loop = asyncio.get_running_loop()
        self._upstream: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._answered = True  # so what comes next begins a request
        self._holding = False
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream, _ = await self._loop.create_connection(lambda: _Upstream(self), *self._address)
        except OSError:
            self.transport.close()
            return
        self._upstream = upstream
        if self._gone:
            upstream.close()
        elif not self._holding:
            self._forward()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            self._answered = False
            self._holding = True
            self._loop.call_later(self._latency_seconds, self._release)
        if self._upstream is not None and not self._holding:
            self._upstream.write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _MAX_HELD_BYTES:
            self.transport.pause_reading()

    def _release(self) -> None:
        self._holding = False
        if self._upstream is not None:
            self._forward()

    def _forward(self) -> None:
        if self._held and self._upstream is not None:
            held, self._held = self._held, []
            paused = self._held_bytes > _MAX_HELD_BYTES
            self._held_bytes = 0
            if paused:
                # First, since writing may pause it again.
                self.transport.resume_reading()
            self._upstream.write(held[0] if len(held) == 1 else b"".join(held))

    def answer(self, data: bytes) -> None:
        """Pass on what the server says."""
        if not self._answered and not data.startswith(b"HTTP/1.1 100 "):
            self._answered = True
        self.transport.write(data)

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._gone = True
        if self._upstream is not None:
            self._upstream.close()


async def _serve(listener: socket.socket, host: str, port: int, latency_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wait_for_end() -> None:
        while os.read(0, 1024):
            pass
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_end, daemon=True).start()
    server = await loop.create_server(
        lambda: _Client(host, port, latency_seconds), sock=listener, backlog=_BACKLOG
    )
    await ended.wait()
    server.close()


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written separately

    def do_GET(self) -> None:
        """Answer with little."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Stay quiet."""


def _measure(requests: int = 2_000, latency_seconds: float = 0.002) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with LatencyProxy(f"http://127.0.0.1:{server.server_port}", latency_seconds) as proxy:
            address = urlsplit(proxy.endpoint)
            connection = http.client.HTTPConnection(address.hostname or "", address.port)
            began, used = 0.0, 0.0
            for number in range(requests + 1):
                if number == 1:  # the first one waits for the proxy to start
                    began, used = time.perf_counter(), proxy.cpu_seconds
                connection.request("GET", "/")
                connection.getresponse().read()
            each = (time.perf_counter() - began) / requests
            used = (proxy.cpu_seconds - used) / requests
            connection.close()
        server.shutdown()
    print(
        f"{requests} requests in a row, held {latency_seconds * 1e3:g} ms: {each * 1e3:.3g} ms each, "
        f"{used * 1e6:.0f} µs of the proxy's processor time each"
    )


def main(arguments: list[str]) -> None:
    """Serve when called by `LatencyProxy`; measure without arguments."""
    if not arguments:
        _measure()
        return
    descriptor, host, port, latency_seconds = arguments
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(socket.socket(fileno=int(descriptor)), host, int(port), float(latency_seconds)))


if __name__ == "__main__":
    main(sys.argv[1:])
