"""Fresh TLS handshakes without pause, each with what an API server would trust at that moment.

Every connection is new and knows no session. Each client thread trusts exactly the bundle that
it is handed, which the test may take from a real MutatingWebhookConfiguration, also from one
of a while ago, as an API server goes by that hears of changes late.
"""

from __future__ import annotations

import base64
import collections
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from bubu_operator.errors import KubeApiError
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import MUTATING_WEBHOOKS

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BundleFollower", "Handshakes"]


class BundleFollower:
    """caBundle of the first entry of a configuration, now and a while ago."""

    def __init__(self, client: KubeClient, configuration: str) -> None:
        self._client = client
        self._configuration = configuration
        self._history: collections.deque[tuple[float, str]] = collections.deque(maxlen=4096)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            asked = time.monotonic()
            try:
                found = self._client.get(MUTATING_WEBHOOKS, self._configuration)
            except KubeApiError:
                continue
            bundles = {
                str(entry["clientConfig"].get("caBundle") or "")
                for entry in cast("list[dict[str, Any]]", found.get("webhooks") or [])
            }
            # All entries are written by one patch: at every moment they agree.
            pem = base64.b64decode(bundles.pop()).decode() if len(bundles) == 1 else ""
            self._history.append((asked, pem))

    def bundle(self, age_seconds: float = 0.0) -> str:
        """Return what it was ``age_seconds`` ago; "" where there was none."""
        moment = time.monotonic() - age_seconds
        found = ""
        for at, pem in list(self._history):
            if at > moment and found:
                break
            found = pem
        return found


class Handshakes:
    """Threads that shake hands with one server until told to stop.

    Args:
        host, port: of the server.
        bundles: one a thread: returns the PEM bundle to trust in the next connection.
        server_name: as the certificate is asked to be for; None for the host.

    Attributes:
        done: how many succeeded.
        failures: what went wrong, with the time.
        leaves: every certificate seen, DER.
    """

    def __init__(
        self,
        host: str,
        port: int,
        bundles: list[Callable[[], str]],
        *,
        server_name: str | None = None,
        resting_seconds: float = 0.0,
    ) -> None:
        self.done = 0
        self.failures: list[str] = []
        self.leaves: set[bytes] = set()
        self._address = (host, port)
        self._name = server_name or host
        self._resting_seconds = resting_seconds
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(bundle,), daemon=True) for bundle in bundles
        ]

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self.began

    def _run(self, bundle: Callable[[], str]) -> None:
        contexts: dict[str, ssl.SSLContext] = {}
        while not self._stop.is_set():
            pem = bundle()
            context = contexts.get(pem)
            if context is None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_verify_locations(cadata=pem)
                contexts[pem] = context
            try:
                leaf = self._once(context)
            except (ssl.SSLError, OSError) as error:
                with self._lock:
                    self.failures.append(f"{time.monotonic() - self.began:.2f} s: {error}")
            else:
                with self._lock:
                    self.done += 1
                    if leaf is not None:
                        self.leaves.add(leaf)
            if self._resting_seconds:
                self._stop.wait(self._resting_seconds)

    def _once(self, context: ssl.SSLContext) -> bytes | None:
        with (
            socket.create_connection(self._address, timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=self._name) as secured,
        ):
            # In TLS 1.3 the client is done before the server: an answer shows that both are.
            secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = secured.recv(64)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"answered {answer!r}")
            return secured.getpeercert(binary_form=True)
