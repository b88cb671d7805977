"""A store's clock, as far as its answers tell it: the ``Date`` header, carried on by our own clock.

Ages are reckoned by the store's clock, since it is the one that stamps objects.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

__all__ = ["StoreClock"]

_SAMPLE_SECONDS: Final = 60.0
"""How long a date is carried on before the store must be asked again."""


class StoreClock:
    """Remembers the last date that a store told; thread-safe.

    Args:
        monotonic: clock, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sample: tuple[datetime, float] | None = None

    def note(self, http_response: Any = None, **_: Any) -> None:
        """Take the date from an answer, error or not; the SDK's ``after-call`` event calls it."""
        text = http_response.headers.get("date", "") if http_response is not None else ""
        if not text:
            return
        try:
            date = parsedate_to_datetime(text)
            date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
            date + timedelta(seconds=_SAMPLE_SECONDS)  # pyright: ignore[reportUnusedExpression]
        except (ValueError, OverflowError):
            return  # none, or one that cannot be carried on
        with self._lock:
            self._sample = (date, self._monotonic())

    def now(self) -> datetime | None:
        """Return the store's time, exact to a second; None where it was not told lately."""
        with self._lock:
            sample = self._sample
        if sample is None:
            return None
        age = self._monotonic() - sample[1]
        return sample[0] + timedelta(seconds=age) if age <= _SAMPLE_SECONDS else None
