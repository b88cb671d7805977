"""Carries bytes between a TLS connection and a plain socket, in one thread, both ways.

OpenSSL's connections are not made for two threads at a time; everything else here is written for
plain sockets, so both sides of a channel have a pump between the two.

Invariants: at most `HELD_BYTES` a direction are held; each piece is let through by ``may_send`` right
before it goes out to the other machine; the end of one side is the end of the other, after what was
under way; the pump closes both of its sockets.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["Pump", "always", "keep_alive"]

HELD_BYTES: Final = 1 << 20
PIECE_BYTES: Final = 1 << 16
LOOK_SECONDS: Final = 0.5
KEEP_IDLE_SECONDS: Final = 10
KEEP_BETWEEN_SECONDS: Final = 5
KEEP_TRIES: Final = 3


def always() -> bool:
    """Let everything through."""
    return True


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other machine is gone, and send small frames at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEP_BETWEEN_SECONDS),
        ("TCP_KEEPCNT", KEEP_TRIES),
        # Also where something was sent and nobody acknowledges it.
        ("TCP_USER_TIMEOUT", 1000 * (KEEP_IDLE_SECONDS + KEEP_TRIES * KEEP_BETWEEN_SECONDS)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Pump:
    """One channel's two ends.

    Args:
        secure: a connection whose handshake is done; does not block from now on.
        plain: the other end; does not block from now on.
        may_send: asked before each piece that goes out through ``secure``; False ends the channel.
        name: of the thread.
    """

    def __init__(
        self, secure: ssl.SSLSocket, plain: socket.socket, *, may_send: Callable[[], bool], name: str
    ) -> None:
        self._secure = secure
        self._plain = plain
        self._may_send = may_send
        self._inward = bytearray()
        self._outward = bytearray()
        self._stop = threading.Event()
        self._wants: set[str] = set()
        self._secure_over = self._plain_over = False
        self._waker, self._wakee = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._secure.setblocking(False)
        self._plain.setblocking(False)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Both ends are there, as far as is known."""
        return self._thread.is_alive()

    @property
    def other_machine_left(self) -> bool:
        """The other machine ended the channel, and not this one."""
        return self._secure_over and not self._plain_over and not self._stop.is_set()

    def close(self) -> None:
        """End both, at once, and wait for it."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._waker.send(b"x")
        self._thread.join()
        self._waker.close()

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._is_over():
                if not self._turn():
                    self._wait()
        except (OSError, ValueError):
            pass  # one end broke: it is the end of both
        finally:
            for end in (self._secure, self._plain, self._wakee):
                end.close()

    def _is_over(self) -> bool:
        """One side has ended, and the other has all that it sent."""
        return (self._secure_over and not self._inward) or (self._plain_over and not self._outward)

    def _turn(self) -> bool:
        """Move what can be moved now; tell whether anything was."""
        self._wants.clear()
        moved = self._receive_secure()
        moved = self._send_plain() or moved
        moved = self._receive_plain() or moved
        return self._send_secure() or moved

    def _receive_secure(self) -> bool:
        if self._secure_over or len(self._inward) >= HELD_BYTES:
            return False
        try:
            data = self._secure.recv(PIECE_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            return self._later(error)
        except (ssl.SSLError, OSError):
            data = b""
        self._secure_over = not data
        self._inward += data
        return True

    def _send_plain(self) -> bool:
        if not self._inward:
            return False
        try:
            sent = self._plain.send(self._inward[:PIECE_BYTES])
        except BlockingIOError:
            return False
        del self._inward[:sent]
        return True

    def _receive_plain(self) -> bool:
        if self._plain_over or len(self._outward) >= HELD_BYTES:
            return False
        try:
            data = self._plain.recv(PIECE_BYTES)
        except BlockingIOError:
            return False
        self._plain_over = not data
        self._outward += data
        return True

    def _send_secure(self) -> bool:
        if not self._outward:
            return False
        if not self._may_send():
            self._stop.set()
            return False
        try:
            sent = self._secure.send(self._outward[:PIECE_BYTES])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            return self._later(error)
        except (ssl.SSLError, OSError):
            self._secure_over = True
            raise
        del self._outward[:sent]
        return True

    def _later(self, wanted: ssl.SSLWantReadError | ssl.SSLWantWriteError) -> bool:
        """Remember what TLS waits for; False: nothing was moved."""
        self._wants.add("read" if isinstance(wanted, ssl.SSLWantReadError) else "write")
        return False

    def _wait(self) -> None:
        # TLS wants to read also in order to write, and the other way round.
        read: list[socket.socket] = [self._wakee]
        write: list[socket.socket] = []
        if "read" in self._wants:
            read.append(self._secure)
        if "write" in self._wants:
            write.append(self._secure)
        if not self._plain_over and len(self._outward) < HELD_BYTES:
            read.append(self._plain)
        if self._inward:
            write.append(self._plain)
        poll = select.poll()
        # Descriptors above 1,023 are none to select().
        events: dict[int, int] = {}
        for mask, ends in ((select.POLLIN, read), (select.POLLOUT, write)):
            for end in ends:
                events[end.fileno()] = events.get(end.fileno(), 0) | mask
        for descriptor, mask in events.items():
            poll.register(descriptor, mask)
        poll.poll(LOOK_SECONDS * 1000)
