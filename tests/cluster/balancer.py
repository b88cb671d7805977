"""A readiness-aware TCP balancer on loopback: what a Service and kube-proxy do for webhooks.

Invariants: a new connection goes to one of the backends whose ``/readyz`` said 200 at the last
look that was answered, in turn; a connection that is open stays with its backend, ready or not,
until one side ends it. Nothing is retried: a backend that died since the last look costs its
callers an error, as in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from tests.cluster.cut_proxy import Address, TcpRelay

__all__ = ["CHECK_SECONDS", "Balancer"]

CHECK_SECONDS = 0.1
CHECK_TIMEOUT_SECONDS = 1.0
SILENCES = 3
"""Looks without an answer in a row, as a kubelet counts them: one alone may be a machine that is busy."""
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\n\r\n"


class Balancer(TcpRelay):
    """Relays to ready backends; `add` and `remove` them while it runs.

    Attributes:
        switches: every change of readiness that was seen, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.switches: list[tuple[Address, bool]] = []
        self._ready: dict[Address, bool] = {}
        self._checks: dict[Address, asyncio.Task[None]] = {}
        self._turn = 0
        # As a kubelet's probe, it does not verify: whether the certificate serves is for the API server.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def choose(self) -> Address | None:
        """The next ready backend in turn."""
        ready = self.ready()
        if not ready:
            return None
        self._turn += 1
        return ready[self._turn % len(ready)]

    def ready(self) -> list[Address]:
        """The backends that new connections go to."""
        return [address for address, is_ready in list(self._ready.items()) if is_ready]

    def add(self, address: Address) -> None:
        """Watch a backend; it gets connections once it is ready."""
        self._call(self._add(address))

    def remove(self, address: Address) -> None:
        """Forget a backend; its open connections stay."""
        self._call(self._remove(address))

    async def _add(self, address: Address) -> None:
        self._ready[address] = False
        self._checks[address] = asyncio.create_task(self._check(address))

    async def _remove(self, address: Address) -> None:
        self._ready.pop(address, None)
        check = self._checks.pop(address, None)
        if check is not None:
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)

    async def _stop(self) -> None:
        for address in list(self._checks):
            await self._remove(address)
        await super()._stop()

    async def _check(self, address: Address) -> None:
        """Look at one backend for ever, over a kept connection where there is one."""
        writer: asyncio.StreamWriter | None = None
        reader = asyncio.StreamReader()
        silences = 0
        try:
            while True:
                is_ready = False
                try:
                    async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                        if writer is None:
                            reader, writer = await asyncio.open_connection(*address, ssl=self._context)
                        is_ready = await self._says_ready(reader, writer)
                    silences = 0
                except TimeoutError:
                    silences += 1
                except (OSError, asyncio.IncompleteReadError, ValueError):
                    silences = 0
                if not is_ready and writer is not None:
                    writer.transport.abort()
                    writer = None
                is_undecided = 0 < silences < SILENCES
                if not is_undecided and self._ready.get(address) != is_ready:
                    self._ready[address] = is_ready
                    self.switches.append((address, is_ready))
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.transport.abort()

    @staticmethod
    async def _says_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(_REQUEST)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        length = next(int(line[15:]) for line in lines if line.lower().startswith("content-length:"))
        await reader.readexactly(length)
        return lines[0].split(" ")[1] == "200"
