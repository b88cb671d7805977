"""External recovery: a watchdog finds out whether a backend is back, instead of a user's request.

While the circuit is open every request is refused. The first probe goes out when the circuit's
time is over, further ones after pauses that double up to 5 minutes (or the circuit's own
timeout, if that is longer). A probe that takes over 10 s counts as failed.

Invariants: the watchdog's thread exists only during an outage, is a daemon and ends with
`ExternalRecovery.close`; at most one probe is on its way, also when one hangs for ever. What is
due is decided by `ExternalRecovery.tick`, which a test calls with a clock of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from bubu_storage.backend.circuit import CircuitBreaker
from bubu_storage.backend.circuit_events import CircuitEvent, CircuitTransition
from bubu_storage.errors import BackendUnavailableError, StorageTimeoutError

__all__ = ["LONGEST_PAUSE_SECONDS", "PROBE_TIMEOUT_SECONDS", "ExternalRecovery"]

PROBE_TIMEOUT_SECONDS: Final = 10.0
"""A probe that takes longer has failed."""

LONGEST_PAUSE_SECONDS: Final = 300.0
"""Pauses between probes double up to this, or up to the circuit's timeout if that is longer."""


class ExternalRecovery:
    """Probes the backend of one circuit while it is open; thread-safe.

    It is a listener of that circuit: `follow` connects the two.

    Args:
        probe: makes one cheap request; returns if the backend answers, raises otherwise.
        probe_timeout_seconds: longest wait for it.
        monotonic: the clock, in seconds; the circuit's own.
        with_thread: watch in a thread; otherwise somebody calls `tick`.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        *,
        probe_timeout_seconds: float = PROBE_TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        with_thread: bool = True,
    ) -> None:
        self._probe = probe
        self._probe_timeout_seconds = probe_timeout_seconds
        self._monotonic = monotonic
        self._with_thread = with_thread
        self._circuit: CircuitBreaker | None = None
        self._lock = threading.Lock()
        self._ticking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._pause_seconds = 0.0
        self._next_at: float | None = None
        self._last: _BoundedProbe | None = None
        self._pid = os.getpid()

    def follow(self, circuit: CircuitBreaker) -> None:
        """Watch this circuit from now on."""
        self._circuit = circuit

    def circuit_created(self, name: str) -> None:
        """Do nothing: a closed circuit needs no watchdog."""

    def circuit_changed(self, transition: CircuitTransition) -> None:
        """Begin to watch when an outage begins."""
        if transition.event is CircuitEvent.OPENED:
            self.wake()

    @property
    def is_watching(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def wake(self) -> None:
        """Start the thread if there is none (also in a process that was forked during an outage)."""
        self._notice_fork()
        with self._lock:
            if not self._with_thread or self._stop.is_set() or self.is_watching:
                return
            self._thread = threading.Thread(target=self._watch, name="bubu-circuit", daemon=True)
            self._thread.start()

    def tick(self) -> float | None:
        """Probe if it is time to; return the seconds until the next look, or None when all is well."""
        self._notice_fork()
        circuit = self._circuit
        with self._ticking:
            if circuit is None or circuit.is_healthy:
                self._next_at = None
                return None
            now = self._monotonic()
            if self._next_at is None:
                self._pause_seconds = circuit.timeout_seconds
                self._next_at = now + circuit.probe_due_in_seconds
            if now >= self._next_at:
                self._probe_once(circuit)
                if circuit.is_healthy:
                    self._next_at = None
                    return None
                longest = max(LONGEST_PAUSE_SECONDS, circuit.timeout_seconds)
                self._pause_seconds = min(2 * self._pause_seconds, longest)
                now = self._monotonic()
                self._next_at = now + self._pause_seconds
            return self._next_at - now

    def close(self) -> None:
        """Stop watching; the circuit keeps its state. Twice is fine."""
        self._stop.set()

    # ---- internals

    def _notice_fork(self) -> None:
        """Begin anew in a forked process: a probe under way, and its locks, stayed with the parent."""
        if self._pid == os.getpid():
            return
        self._lock, self._ticking = threading.Lock(), threading.Lock()
        self._thread = self._last = self._next_at = None
        self._pid = os.getpid()

    def _watch(self) -> None:
        while not self._stop.is_set():
            pause_seconds = self.tick()
            with self._lock:
                if pause_seconds is None and (self._circuit is None or self._circuit.is_healthy):
                    self._thread = None
                    return
            self._stop.wait(pause_seconds or 0.0)

    def _probe_once(self, circuit: CircuitBreaker) -> None:
        if self._last is not None and not self._last.ended.is_set():
            return  # the one before still hangs: that is an answer too
        try:
            permit = circuit.acquire_probe()
        except BackendUnavailableError:
            return  # somebody else probes, or it was closed meanwhile
        try:
            self._last = probe = _BoundedProbe(self._probe)
        except BaseException:  # no thread to be had
            circuit.release(permit)
            raise
        if not probe.ended.wait(self._probe_timeout_seconds):
            limit = self._probe_timeout_seconds
            circuit.fail(permit, StorageTimeoutError(f"a probe of {circuit.name} took over {limit:g} s"))
        elif probe.error is None:
            circuit.succeed(permit)
        else:
            circuit.settle(permit, probe.error)


class _BoundedProbe:
    """Runs a probe in a thread of its own, so that nobody has to wait for its end."""

    def __init__(self, probe: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.ended = threading.Event()
        threading.Thread(target=self._run, args=(probe,), name="bubu-circuit-probe", daemon=True).start()

    def _run(self, probe: Callable[[], object]) -> None:
        try:
            probe()
        except BaseException as error:  # noqa: BLE001 - judged by whoever waits for it
            self.error = error
        finally:
            self.ended.set()
