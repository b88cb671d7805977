"""By how much the event loop is late: a metric, and the reason for a restart when it is stuck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_LAG_SECONDS", "LoopMonitor"]

BEAT_SECONDS: Final = 0.1
MAX_LAG_SECONDS: Final = 5.0
"""An event loop that is later than this answers no review within its time: a restart is better."""


class LoopMonitor:
    """Measures by how much the event loop's timers are late; readable from any thread."""

    def __init__(
        self,
        observe: Callable[[float], None] = lambda _seconds: None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe = observe
        self._monotonic = monotonic
        self._due: float | None = None

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = self._due = self._monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._observe(max(0.0, self._monotonic() - due))

    @property
    def lag_seconds(self) -> float:
        """How late the next beat is already; 0 before the first."""
        due = self._due
        return 0.0 if due is None else max(0.0, self._monotonic() - due)

    def problem(self) -> str:
        """Why the process should be restarted; "" when it is alive."""
        lag = self.lag_seconds
        return f"the event loop has been stuck for {lag:.0f} s" if lag > MAX_LAG_SECONDS else ""
