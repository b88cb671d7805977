"""The gate that every request of a pass goes through: stop, budget, pace and back-off.

Invariants, over all threads of the pass: no request is sent after the caller asked to stop, the time
is used up or the gate was shut; over any stretch of T seconds at most ``T * requests_per_second + 1``
requests are sent; waits are slept in short slices, so that a stop is heard within half a second. Clock
and sleep are passed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from bubu_storage.errors import NotSentError, StorageError, ThrottledError
from bubu_storage.retention.report import StoppedBy

__all__ = ["MAX_BACKOFFS", "Gate", "PassStoppedError", "Permit", "stop_of"]

MAX_BACKOFFS: Final = 5
"""Times in a row that a pass waits because the store asks for fewer requests."""

_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 30.0
_SLICE_SECONDS: Final = 0.5


class PassStoppedError(Exception):
    """The pass ends here, in good order. Never leaves `run_pass`.

    Attributes:
        reason: why.
        message: the same in a sentence.
        error: the store's error, if that is why.
    """

    def __init__(self, reason: StoppedBy, message: str, error: StorageError | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.error = error


def stop_of(error: StorageError) -> PassStoppedError:
    """Return the end of a pass that an error of a deletion means; a permit's own reason if that said no."""
    if isinstance(error, NotSentError) and isinstance(error.said, PassStoppedError):
        return error.said
    return PassStoppedError(StoppedBy.STORE_ERROR, f"deleting failed: {error}", error)


class Permit(Protocol):
    """Something that must hold when a deletion is sent, such as a claim on the store."""

    def check(self) -> None:
        """Return if a deletion may be sent now.

        Raises:
            PassStoppedError: it may not, and the pass ends.
        """
        ...


class Gate:
    """Lets requests of one pass through; may be used by several threads.

    Args:
        monotonic: seconds, never going back.
        sleep: waits that many seconds.
        should_stop: asked before each request and while waiting.
        budget_seconds: counted from the construction of the gate.
        requests_per_second: 0 = no cap.
        permits: asked right before each deletion, in this order and one thread at a time.

    Attributes:
        requests: how many were let through.
        latency_seconds: how long the store took for the last listing request.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        should_stop: Callable[[], bool],
        budget_seconds: float,
        requests_per_second: float,
        permits: Sequence[Permit] = (),
    ) -> None:
        self._permits = tuple(permits)
        self._monotonic = monotonic
        self._sleep = sleep
        self._should_stop = should_stop
        self._budget_seconds = budget_seconds
        self._interval_seconds = 1.0 / requests_per_second if requests_per_second > 0 else 0.0
        self._started = monotonic()
        self._next_turn = self._started
        self._backoffs = 0
        self._backing_off = 0
        self._is_shut = False
        # Held while waiting for a turn: whoever comes later has a later one anyway.
        self._turns = threading.Lock()
        self._permitting = threading.Lock()
        self._counting = threading.Lock()
        self.requests = 0
        self.latency_seconds = 0.0

    @property
    def now(self) -> float:
        """The monotonic clock."""
        return self._monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """Time since the pass began."""
        return self._monotonic() - self._started

    @property
    def slack_seconds(self) -> float:
        """Time that passes between one request and the next but one, through no fault of ours."""
        return 2 * (self._interval_seconds + self.latency_seconds)

    def is_past(self, share: float) -> bool:
        """Tell whether this share (0 to 1) of the time budget is used up."""
        return self.elapsed_seconds >= self._budget_seconds * share

    def turn(self) -> None:
        """Wait until the next request may be sent, and count it.

        Raises:
            PassStoppedError: the pass must not send another request.
        """
        with self._turns:
            self._check()
            if self._interval_seconds:
                wait_seconds = self._next_turn - self._monotonic()
                if self.elapsed_seconds + wait_seconds >= self._budget_seconds:
                    raise self._out_of_time()
                self._wait(wait_seconds)
                self._next_turn = max(self._next_turn, self._monotonic()) + self._interval_seconds
            self.requests += 1

    def turn_to_delete(self) -> None:
        """Wait as `turn` does, then see that every permit still holds.

        Raises:
            PassStoppedError: see `turn`; or a permit is gone.
        """
        self.turn()
        self.permit()

    def permit(self) -> None:
        """See that every permit still holds, right before a deletion that has had its turn.

        Raises:
            PassStoppedError: a permit is gone.
        """
        with self._permitting:
            for permit in self._permits:
                permit.check()

    def shut(self) -> None:
        """Let nothing through any more: the pass is ending. Who waits in another thread hears it soon."""
        self._is_shut = True

    def reopen(self) -> None:
        """Let requests through again, now that nobody waits any more."""
        self._is_shut = False

    def succeeded(self) -> None:
        """Note that the store answered: the next throttling starts with a short wait again."""
        with self._counting:
            self._backoffs = 0

    def back_off(self, error: ThrottledError) -> None:
        """Wait because the store asks for it, longer each time in a row.

        What it says to several threads while one of them waits already is one signal.

        Raises:
            PassStoppedError: it asked too often, or waiting would exceed the time budget.
        """
        with self._counting:
            self._backoffs += not self._backing_off
            self._backing_off += 1
            backoffs = max(1, self._backoffs)
        try:
            self._back_off(error, backoffs)
        finally:
            with self._counting:
                self._backing_off -= 1

    def _back_off(self, error: ThrottledError, backoffs: int) -> None:
        if backoffs > MAX_BACKOFFS:
            raise PassStoppedError(
                StoppedBy.THROTTLED, f"the store asked {backoffs} times in a row for fewer requests", error
            )
        wait_seconds = min(_FIRST_BACKOFF_SECONDS * 2 ** (backoffs - 1), _LONGEST_BACKOFF_SECONDS)
        if error.retry_after_seconds is not None:
            wait_seconds = max(wait_seconds, error.retry_after_seconds)
        self.check_wait(wait_seconds, error)
        self._wait(wait_seconds)

    def check_wait(self, wait_seconds: float, error: ThrottledError) -> None:
        """See that a wait that the store asks for is one that this pass can afford.

        Raises:
            PassStoppedError: it is too long.
        """
        if (
            wait_seconds > _LONGEST_BACKOFF_SECONDS
            or self.elapsed_seconds + wait_seconds >= self._budget_seconds
        ):
            raise PassStoppedError(
                StoppedBy.THROTTLED,
                f"the store asked to wait {wait_seconds:g} s, which this pass cannot",
                error,
            )

    def rest(self, seconds: float) -> None:
        """Let time pass without a request.

        Raises:
            PassStoppedError: the caller asked to stop, or the time budget is used up.
        """
        self._check()
        self._wait(seconds)

    def _check(self) -> None:
        self._check_stop()
        if self.is_past(1.0):
            raise self._out_of_time()

    def _out_of_time(self) -> PassStoppedError:
        return PassStoppedError(
            StoppedBy.BUDGET_SECONDS, f"the time budget of {self._budget_seconds:g} s is used up"
        )

    def _wait(self, seconds: float) -> None:
        # Counted by slices, not by the clock: it must end even under a clock that stands still.
        left = seconds
        while left > 0:
            self._sleep(min(left, _SLICE_SECONDS))
            left -= _SLICE_SECONDS
            self._check_stop()

    def _check_stop(self) -> None:
        if self._is_shut or self._should_stop():
            raise PassStoppedError(StoppedBy.STOPPED, "the caller asked the pass to stop")
