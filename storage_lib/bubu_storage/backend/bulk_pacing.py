"""How many requests a bulk operation may have in flight: more while it goes well, half when throttled.

Additive increase, multiplicative decrease, as TCP does. A store that throttles rejects many
requests that were sent together; they are one signal and halve the number once.

Invariants: the number stays between 1 and the most that was asked for; no clock is read, the
caller passes the time.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_THROTTLED_IN_A_ROW", "Pacer", "pause_seconds"]

MAX_THROTTLED_IN_A_ROW: Final = 10
"""Reductions without a success in between after which the store is given up."""

_FIRST_THROTTLED_PAUSE_SECONDS: Final = 0.25
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 60.0


class Pacer:
    """Tells how many requests may be in flight; not thread-safe.

    Args:
        most: requests in flight when all goes well.

    Attributes:
        limit: requests that may be in flight now; a fraction is a step on the way.
        resume_at: no request before this time.
        generation: number of reductions so far; a request is sent in one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = float(most)
        self.resume_at = float("-inf")
        self.generation = 0
        self._in_a_row = 0

    def has_room(self, in_flight: int, now: float) -> bool:
        """Tell whether another request may be sent now."""
        return now >= self.resume_at and in_flight < int(self.limit)

    def succeeded(self) -> None:
        """Take note of a request that the store carried out."""
        self._in_a_row = 0
        self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def reduce(self, generation: int) -> bool:
        """Halve the number because a request failed.

        Args:
            generation: in which the request was sent.

        Returns:
            False if that has been done since: requests sent together are one signal.
        """
        if generation != self.generation:
            return False
        self.generation += 1
        self.limit = max(1.0, self.limit / 2)
        return True

    def throttled(self, generation: int, now: float, retry_after_seconds: float | None) -> bool:
        """Take note of a request that the store wants later.

        Args:
            generation: in which the request was sent.
            now: the time.
            retry_after_seconds: what the store asked for; at most a minute of it is granted.

        Returns:
            False if the store has done nothing but throttle for so long that it is to be given up.
        """
        if self.reduce(generation):
            self._in_a_row += 1
        pause = max(
            retry_after_seconds or 0.0, _FIRST_THROTTLED_PAUSE_SECONDS * 2.0 ** max(0, self._in_a_row - 1)
        )
        self.resume_at = max(self.resume_at, now + min(pause, _LONGEST_PAUSE_SECONDS))
        return self._in_a_row < MAX_THROTTLED_IN_A_ROW


def pause_seconds(attempts: int) -> float:
    """Return how long to wait before what failed so often, and may pass, is tried again."""
    return _FIRST_PAUSE_SECONDS * 2.0 ** max(0, attempts - 1)
