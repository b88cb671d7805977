"""The fence before everything that a leader does: open while its leadership is valid for sure.

Invariants: it is judged by a clock that also runs while the machine sleeps or the process is
stopped, at the moment of asking; nobody has to run in time to close it. Once revoked it
never opens again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from bubu_operator.errors import LeadershipLostError

__all__ = ["LeadershipFence", "boot_seconds"]

_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Return seconds since boot: all processes of a machine agree on it, and sleep counts."""
    return time.clock_gettime(_BOOT_CLOCK)


class LeadershipFence:
    """Closed at first; thread-safe.

    Args:
        clock: see `boot_seconds`.
        grace_seconds: how long after the end of the validity a request that was sent before
            may still wait for its answer; less than the time until a successor may act.
    """

    def __init__(self, clock: Callable[[], float] = boot_seconds, *, grace_seconds: float = 1.5) -> None:
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._valid_until = float("-inf")
        self._revoked = False

    @classmethod
    def always_open(cls) -> LeadershipFence:
        """Return the fence of a process that is alone for sure."""
        fence = cls()
        fence.extend(float("inf"))
        return fence

    @property
    def valid_until(self) -> float:
        """On `boot_seconds`: -inf when closed for good or not open yet, inf for always open."""
        with self._lock:
            return self._valid_until

    @property
    def remaining_seconds(self) -> float:
        """How much longer it is open; 0 or less when it is closed."""
        return self.valid_until - self._clock()

    @property
    def is_open(self) -> bool:
        """Tell whether this process may act at this moment."""
        return self.remaining_seconds > 0

    def extend(self, valid_until: float) -> None:
        """Open it until then; never shortens, does nothing after `revoke`."""
        with self._lock:
            if not self._revoked:
                self._valid_until = max(self._valid_until, valid_until)

    def revoke(self) -> None:
        """Close it for good."""
        with self._lock:
            self._revoked = True
            self._valid_until = float("-inf")

    def check(self, what: str) -> float:
        """Return how many seconds ``what`` may take at most, counted from now.

        Raises:
            LeadershipLostError: the fence is closed; ``what`` must not be done.
        """
        remaining = self.remaining_seconds
        if remaining <= 0:
            raise LeadershipLostError(
                f"{what}: not sent, because this process does not lead any more (or not yet); "
                "the one that holds the Lease does it"
            )
        return remaining + self._grace_seconds
