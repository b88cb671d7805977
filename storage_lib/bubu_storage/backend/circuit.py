"""The circuit breaker: after enough failures in a row, leave a backend alone for a while.

A state machine of its own that knows no storage. Whoever makes a request asks for a `Permit`
and reports how it ended, by that permit::

    closed ──(failures reach the threshold)──▶ open ──(timeout + jitter)──▶ half-open
       ▲                                        ▲ ▲                          │  │  │
       │                                        │ └─(no report for 2 min)────┘  │  │
       │                                        └────────(probe failed)─────────┘  │
       └──────────────────────────────(probe succeeded)────────────────────────────┘

Invariants:

* in half-open exactly one request, the probe, is on its way, and only its own result decides;
* each change of state begins a new generation. The result of a permit of an older one is
  ignored: a request that began before an outage neither ends nor prolongs it;
* the jitter is drawn anew at each opening, so that many processes do not return at once;
* a request that is given up (cancelled, killed) counts neither way and hands the probe back.

Clock and random numbers come in as arguments; all methods may be called from several threads.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from bubu_storage.backend.circuit_events import (
    CircuitListener,
    CircuitState,
    CircuitTransition,
    LoggingListener,
)
from bubu_storage.backend.failures import Verdict, is_backend_failure, judge
from bubu_storage.errors import BackendUnavailableError, ConfigurationError, StorageError

__all__ = [
    "DEFAULT_OPEN_TIMEOUT_SECONDS",
    "DEFAULT_THRESHOLD",
    "STALE_PROBE_SECONDS",
    "CircuitBreaker",
    "Permit",
]

_T = TypeVar("_T")
_log: Final = logging.getLogger(__name__)

DEFAULT_THRESHOLD: Final = 5
"""Failures in a row that open a circuit."""

DEFAULT_OPEN_TIMEOUT_SECONDS: Final = 300.0
"""How long a circuit stays open before a request may find out."""

STALE_PROBE_SECONDS: Final = 120.0
"""A probe that reports nothing for so long is given up."""

_JITTER_SHARE: Final = 0.25
_TOLERANCE: Final = 1e-6  # ten tenths are one


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one request.

    Attributes:
        generation: of the state that gave it.
        is_probe: its result decides about an open circuit.
    """

    generation: int
    is_probe: bool = False


class CircuitBreaker:
    """One circuit; thread-safe.

    Args:
        name: for messages and labels.
        threshold: failures in a row that open the circuit, at least 1.
        timeout_seconds: how long it stays open at least, above 0; a jitter below a quarter of
            this is added.
        is_failure: used by `call`: which errors count.
        listeners: hear of each transition; a log line is written in any case.
        monotonic: the clock, in seconds.
        rng: random numbers in [0, 1), for the jitter.
        probes_inline: let the first request after the time be the probe. Otherwise all are
            refused until somebody calls `acquire_probe`.

    Raises:
        ConfigurationError: threshold or timeout make no sense.
    """

    def __init__(
        self,
        name: str,
        threshold: int = DEFAULT_THRESHOLD,
        timeout_seconds: float = DEFAULT_OPEN_TIMEOUT_SECONDS,
        *,
        is_failure: Callable[[BaseException], bool] = is_backend_failure,
        listeners: Iterable[CircuitListener] = (),
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        probes_inline: bool = True,
    ) -> None:
        if threshold < 1:
            raise ConfigurationError(f"circuit of {name}: threshold is {threshold}; at least 1 is needed")
        if not 0 < timeout_seconds < math.inf:
            raise ConfigurationError(
                f"circuit of {name}: timeout is {timeout_seconds:g} s; it must be above 0 and finite"
            )
        self.name = name
        self.threshold = threshold
        self.timeout_seconds = timeout_seconds
        self._is_failure = is_failure
        self._monotonic = monotonic
        self._rng = rng
        self._probes_inline = probes_inline
        self._lock = threading.Lock()
        self._state = CircuitState.CLOSED
        self._generation = 0
        self._failures = 0.0
        self._last_failure = 0.0
        self._last_reason = ""
        self._jitter_seconds = 0.0
        self._opened_at = 0.0
        self._probe_since = 0.0
        self._listeners: tuple[CircuitListener, ...] = (LoggingListener(), *listeners)
        self._news: deque[CircuitTransition] = deque()
        self._telling = threading.Lock()
        for listener in self._listeners:
            listener.circuit_created(name)

    # ---- what is known

    @property
    def state(self) -> CircuitState:
        """The state now; asking changes nothing."""
        return self._state

    @property
    def is_healthy(self) -> bool:
        """Whether the circuit is closed."""
        return self._state is CircuitState.CLOSED

    @property
    def failures(self) -> float:
        """Failures in a row, weights applied; 0 after a success."""
        return self._failures

    @property
    def open_duration_seconds(self) -> float:
        """Time since the outage began; failed probes do not reset it; 0 when closed."""
        with self._lock:
            return self._degraded()

    @property
    def probe_eligible(self) -> bool:
        """Whether the next request would be let through as the probe; asking changes nothing."""
        with self._lock:
            return self._probes_inline and self._probe_due()

    @property
    def probe_due_in_seconds(self) -> float:
        """Time until a probe may be sent; 0 when it may be now, or when the circuit is not open."""
        with self._lock:
            if self._state is not CircuitState.OPEN:
                return 0.0
            return self._probe_wait_seconds()

    # ---- permits

    def acquire(self) -> Permit:
        """Ask to make a request; report its end with the permit, whatever happens.

        Raises:
            BackendUnavailableError: the circuit is open, or another request is finding out.
        """
        return self._ask(may_probe=self._probes_inline)

    def acquire_probe(self) -> Permit:
        """Ask to make a request that decides about the open circuit, now.

        The waiting time is the caller's business: this is for a watchdog with a schedule of
        its own.

        Raises:
            BackendUnavailableError: the circuit is not open.
        """
        with self._lock:
            self._drop_stale_probe()
            permit = self._begin_probe() if self._state is CircuitState.OPEN else None
        self._tell_of(permit)
        if permit is None:
            raise BackendUnavailableError(f"backend unavailable: the circuit of {self.name} is not open")
        return permit

    def succeed(self, permit: Permit) -> Permit:
        """Report that the backend is well; return a permit for what the request still does.

        That is the same permit, or after a probe one of the closed circuit.
        """
        with self._lock:
            if permit.generation == self._generation:
                self._failures = 0.0
                if permit.is_probe:
                    self._move(CircuitState.CLOSED)
                    permit = Permit(self._generation)
        self._tell()
        return permit

    def fail(self, permit: Permit, error: BaseException, *, weight: float = 1.0) -> BaseException:
        """Report that the backend is ill, and return what the caller is to raise.

        That is ``error`` itself, or, where it opened the circuit, a `BackendUnavailableError`
        whose cause it is.

        Args:
            permit: of the request.
            error: how it ended.
            weight: how much it counts; any failure of a probe counts fully.
        """
        with self._lock:
            if permit.generation != self._generation:
                return error
            self._failures = failures = self._failures + weight
            opens = permit.is_probe or failures > self.threshold - _TOLERANCE
            if opens:
                self._last_failure = self._monotonic()
                self._last_reason = str(error)
                self._open()
        self._tell()
        if not opens:
            return error
        opened = BackendUnavailableError(
            f"backend unavailable: the circuit of {self.name} opened after {failures:g} failures, "
            f"the last one: {error}",
            key=error.key if isinstance(error, StorageError) else None,
        )
        opened.__cause__ = error
        return opened

    def release(self, permit: Permit) -> None:
        """Report that a request says nothing about the backend: given up, or never sent.

        A probe is handed back: the circuit is open as before, and the next request may probe.
        """
        with self._lock:
            if permit.is_probe and permit.generation == self._generation:
                self._move(CircuitState.OPEN)
        self._tell()

    def reset_stale_probe(self) -> bool:
        """Open the circuit again if its probe has reported nothing for 2 minutes.

        For a watchdog or a router: without a request, nobody else would notice.

        Returns:
            Whether it was so.
        """
        with self._lock:
            was_stale = self._drop_stale_probe()
        self._tell()
        return was_stale

    def call(self, act: Callable[[], _T]) -> _T:
        """Make one request under the breaker.

        Raises:
            BackendUnavailableError: it was refused (``act`` was not called), or it failed and
                that opened the circuit.
            BaseException: what ``act`` raises.
        """
        permit = self.acquire()
        try:
            answer = act()
        except BaseException as error:
            raised = self.settle(permit, error)
            if raised is error:
                raise
            raise raised from error
        self.succeed(permit)
        return answer

    def settle(self, permit: Permit, error: BaseException) -> BaseException:
        """Report a request's error as `call` would, and return what the caller is to raise."""
        match self.judged(permit, error):
            case Verdict.FAILURE:
                return self.fail(permit, error)
            case Verdict.HEALTHY:
                self.succeed(permit)
            case Verdict.NEUTRAL:
                self.release(permit)
        return error

    def judged(self, permit: Permit, error: BaseException) -> Verdict:
        """Return what an error says about the backend; hand the permit back if nobody can tell.

        Raises:
            Exception: what ``is_failure`` raises.
        """
        try:
            return judge(error, self._is_failure)
        except BaseException:
            self.release(permit)
            raise

    # ---- internals; the lock is held in all but `_ask` and `_tell`

    def _ask(self, *, may_probe: bool) -> Permit:
        with self._lock:
            # A request that finds a stale probe is refused; a later one becomes the next probe.
            was_stale = self._drop_stale_probe()
            if self._state is CircuitState.CLOSED:
                return Permit(self._generation)
            allowed = may_probe and not was_stale and self._probe_due()
            permit = self._begin_probe() if allowed else None
            refusal = self._refusal()
        self._tell_of(permit)
        if permit is None:
            raise BackendUnavailableError(refusal)
        return permit

    def _refusal(self) -> str:
        if self._state is CircuitState.HALF_OPEN:
            when = "one request is finding out whether it is back"
        elif self._probes_inline:
            when = f"tried again in {self._probe_wait_seconds():.0f} s at the earliest"
        else:
            when = "it is probed in the background"
        return (
            f"backend unavailable: the circuit of {self.name} is open since {self._degraded():.0f} s "
            f"({when}); the last failure was: {self._last_reason}"
        )

    def _degraded(self) -> float:
        return 0.0 if self._state is CircuitState.CLOSED else self._monotonic() - self._opened_at

    def _probe_wait_seconds(self) -> float:
        return max(0.0, self._last_failure + self.timeout_seconds + self._jitter_seconds - self._monotonic())

    def _probe_due(self) -> bool:
        return self._state is CircuitState.OPEN and self._probe_wait_seconds() <= 0.0

    def _begin_probe(self) -> Permit:
        self._probe_since = self._monotonic()
        self._move(CircuitState.HALF_OPEN)
        return Permit(self._generation, is_probe=True)

    def _drop_stale_probe(self) -> bool:
        if self._state is not CircuitState.HALF_OPEN:
            return False
        if self._monotonic() - self._probe_since < STALE_PROBE_SECONDS:
            return False
        self._open()
        return True

    def _open(self) -> None:
        self._jitter_seconds = self._rng() * self.timeout_seconds * _JITTER_SHARE
        self._move(CircuitState.OPEN)

    def _move(self, to_state: CircuitState) -> None:
        from_state = self._state
        if from_state is CircuitState.CLOSED:
            self._opened_at = self._monotonic()
        degraded = self._degraded()
        self._state = to_state
        self._generation += 1
        self._news.append(
            CircuitTransition(self.name, from_state, to_state, self._failures, self.threshold, degraded)
        )

    def _tell_of(self, permit: Permit | None) -> None:
        """Tell the listeners; whoever is interrupted meanwhile never gets the permit."""
        try:
            self._tell()
        except BaseException:
            if permit is not None:
                self.release(permit)
            raise

    def _tell(self) -> None:
        """Tell the listeners what is new, in order; whoever is at it tells for all."""
        while self._news and self._telling.acquire(blocking=False):
            try:
                while self._news:
                    transition = self._news.popleft()
                    for listener in self._listeners:
                        try:
                            listener.circuit_changed(transition)
                        except Exception:  # noqa: BLE001 - whatever it is, the request goes on
                            _log.exception("a listener of the circuit of %s failed", self.name)
            finally:
                self._telling.release()
