"""Which configs get no agent for a while, and why: pauses grow with each failure in a row.

Invariants: a reason is told for as long as its pause lasts; what is long over is forgotten, so that
names that come and go leave nothing behind.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.jobpass.seam import NotYet
from bubu_operator.kube.informer import backoff_seconds
from bubu_operator.kube.resources import ObjectKey

__all__ = ["BACKOFF_MAX_SECONDS", "Pauses"]

BACKOFF_SECONDS: Final = 10.0
BACKOFF_MAX_SECONDS: Final = 600.0
FORGOTTEN_SECONDS: Final = 3600.0
"""So long after its end a pause says nothing of the next failure any more."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """Why there is no Job for a while."""

    reason: Reason
    message: str
    due: float
    failures: int


class Pauses:
    """Thread-safe.

    Args:
        monotonic: seconds that never go back.
        rng: spreads retries.
    """

    def __init__(self, monotonic: Callable[[], float], rng: random.Random) -> None:
        self._monotonic = monotonic
        self._rng = rng
        self._lock = threading.Lock()
        self._pauses: dict[ObjectKey, _Pause] = {}

    def note(self, key: ObjectKey, reason: Reason, message: str) -> NotYet:
        """Take down a failure; return what to tell until the next try."""
        now = self._monotonic()
        with self._lock:
            self._pauses = {
                one: pause for one, pause in self._pauses.items() if now - pause.due < FORGOTTEN_SECONDS
            }
            before = self._pauses.get(key)
            failures = 1 + (before.failures if before is not None else 0)
            seconds = backoff_seconds(failures, self._rng, base=BACKOFF_SECONDS, maximum=BACKOFF_MAX_SECONDS)
            self._pauses[key] = _Pause(reason, message, now + seconds, failures)
        return NotYet(reason, message, seconds)

    def of(self, key: ObjectKey) -> NotYet | None:
        """Return why a config still has to wait; None if it has not."""
        with self._lock:
            pause = self._pauses.get(key)
        if pause is None or (left := pause.due - self._monotonic()) <= 0:
            return None
        return NotYet(pause.reason, pause.message, left)

    def over(self, key: ObjectKey) -> None:
        """An agent is there: the next failure is the first one."""
        with self._lock:
            self._pauses.pop(key, None)
