"""The least HTTP client that can drive a webhook: prepared bytes over kept TLS connections.

A benchmark's client must not be what is measured. This one sends prepared requests in turn, looks for
the length of the answer and for one mark in it, and does nothing else; its share is in the figures
of the no-op handler that is measured beside.
"""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import time
from collections.abc import Sequence

__all__ = ["Connection", "at_rate", "flat_out", "open_all"]

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_SECONDS = 30.0


class Connection:
    """One kept connection that asks some things in turn."""

    def __init__(self, port: int, context: ssl.SSLContext, bodies: Sequence[bytes], mark: bytes) -> None:
        plain = socket.create_connection(("127.0.0.1", port), _SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._requests = itertools.cycle(
            [
                b"POST /mutate?timeout=5s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                for body in bodies
            ]
        )
        self._mark = mark

    def send(self) -> None:
        """Ask."""
        self._socket.sendall(next(self._requests))

    def receive(self) -> None:
        """Take the answer.

        Raises:
            ValueError: it is not the one that was expected.
        """
        data = self._socket.recv(1 << 16)
        end = data.find(b"\r\n\r\n")
        while end < 0 and data:
            data += self._more()
            end = data.find(b"\r\n\r\n")
        found = _LENGTH.search(data, 0, end + 2)
        if not data.startswith(b"HTTP/1.1 200 ") or found is None:
            raise ValueError(f"a wrong answer: {data[:200]!r}")
        whole = end + 4 + int(found.group(1))
        while len(data) < whole:
            data += self._more()
        if self._mark not in data:
            raise ValueError(f"an answer without {self._mark!r}: {data[-200:]!r}")

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ValueError("the server ended the connection within an answer")
        return data

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def open_all(
    port: int, context: ssl.SSLContext, bodies: Sequence[bytes], mark: bytes, count: int
) -> list[Connection]:
    """Open connections to one server, deal the bodies out among them, and warm them up."""
    connections = [Connection(port, context, bodies[first::count], mark) for first in range(count)]
    for connection in connections * 5:
        connection.send()
        connection.receive()
    return connections


def at_rate(connections: Sequence[Connection], per_second: float, count: int) -> list[float]:
    """Ask at fixed times, over one connection after the other; returns milliseconds of each.

    A request that could not be sent in time because the one before it took too long counts from
    when it was due, so that a stall is not hidden.
    """
    taken: list[float] = []
    began = ended = time.perf_counter()
    for number in range(count):
        due = began + number / per_second
        pause = due - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        connection = connections[number % len(connections)]
        start = due if ended > due else time.perf_counter()
        connection.send()
        connection.receive()
        ended = time.perf_counter()
        taken.append((ended - start) * 1000)
    return taken


def flat_out(connections: Sequence[Connection], count: int) -> float:
    """Keep a request under way on every connection; returns answers a second."""
    for connection in connections:
        connection.send()
    began = time.perf_counter()
    for number in range(count):
        connection = connections[number % len(connections)]
        connection.receive()
        connection.send()
    seconds = time.perf_counter() - began
    for number in range(len(connections)):
        connections[(count + number) % len(connections)].receive()
    return count / seconds
