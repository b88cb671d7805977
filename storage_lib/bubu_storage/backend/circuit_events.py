"""What a circuit breaker tells about itself: its states, its transitions and who hears of them.

Listeners are called in the order of the transitions, outside the breaker's lock, so a listener
may ask the breaker anything; one that fails is logged and stops nobody's work.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = [
    "CircuitEvent",
    "CircuitListener",
    "CircuitState",
    "CircuitTransition",
    "LoggingListener",
    "PrometheusListener",
]

_log: Final = logging.getLogger(__name__)


class CircuitState(StrEnum):
    """Whether requests pass."""

    CLOSED = "closed"
    """All pass."""
    OPEN = "open"
    """None passes."""
    HALF_OPEN = "half-open"
    """One is on its way, to see whether the backend is back; no other passes."""

    @property
    def number(self) -> int:
        """The value of the gauge: 0 closed, 1 open, 2 half-open."""
        return _NUMBERS[self]


_NUMBERS: Final = {CircuitState.CLOSED: 0, CircuitState.OPEN: 1, CircuitState.HALF_OPEN: 2}


class CircuitEvent(StrEnum):
    """The two transitions that people want to hear of: an outage begins, an outage is over."""

    OPENED = "circuit opened"
    CLOSED = "circuit closed"


@dataclass(frozen=True, slots=True)
class CircuitTransition:
    """One change of a breaker's state.

    Attributes:
        name: of the breaker.
        from_state, to_state: before and after.
        failures: counted in a row so far, weights applied.
        threshold: of the breaker.
        degraded_seconds: since the outage began; 0 for the transition that begins it.
    """

    name: str
    from_state: CircuitState
    to_state: CircuitState
    failures: float
    threshold: int
    degraded_seconds: float

    @property
    def event(self) -> CircuitEvent | None:
        """The event that this is: only the first opening and the closing are one."""
        if self.to_state is CircuitState.CLOSED:
            return CircuitEvent.CLOSED
        if self.from_state is CircuitState.CLOSED:
            return CircuitEvent.OPENED
        return None


class CircuitListener(Protocol):
    """Hears of a breaker's life; called from whichever thread made the request."""

    def circuit_created(self, name: str) -> None:
        """Hear of a new breaker; it is closed."""
        ...

    def circuit_changed(self, transition: CircuitTransition) -> None:
        """Hear of a change of state."""
        ...


class LoggingListener:
    """Writes each transition to a log: trouble as a warning, recovery as information.

    Args:
        log: where to; this module's logger by default.
    """

    def __init__(self, log: logging.Logger | None = None) -> None:
        self._log = log if log is not None else _log

    def circuit_created(self, name: str) -> None:
        """Say nothing: a closed circuit is no news."""

    def circuit_changed(self, transition: CircuitTransition) -> None:
        """Write one line."""
        name, degraded = transition.name, transition.degraded_seconds
        if transition.event is CircuitEvent.OPENED:
            self._log.warning(
                "circuit of %s opened after %g failures (threshold %d)",
                name,
                transition.failures,
                transition.threshold,
            )
        elif transition.to_state is CircuitState.OPEN:
            self._log.warning("circuit of %s opened again, degraded for %.1f s", name, degraded)
        elif transition.to_state is CircuitState.HALF_OPEN:
            self._log.info("circuit of %s lets one request through after %.1f s", name, degraded)
        else:
            self._log.info("circuit of %s closed, was degraded for %.1f s", name, degraded)


class PrometheusListener:
    """Shows the state of each breaker as a gauge, and counts transitions.

    Args:
        registry: where to expose them; None for ``prometheus_client.REGISTRY``. Several
            listeners may share one.

    Raises:
        ConfigurationError: another library has a metric of one of these names there.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        from bubu_storage.observability import StorageMetrics  # noqa: PLC0415 - prometheus_client is not free

        self._metrics = StorageMetrics(registry) if registry is not None else StorageMetrics.default()

    def circuit_created(self, name: str) -> None:
        """Begin at 0, so that an alert can tell "closed" from "not there"."""
        self._metrics.set_circuit_state(name, CircuitState.CLOSED.number)

    def circuit_changed(self, transition: CircuitTransition) -> None:
        """Set the gauge and count."""
        self._metrics.count_circuit_transition(
            transition.name, transition.from_state.value, transition.to_state.value
        )
        self._metrics.set_circuit_state(transition.name, transition.to_state.number)
