"""A backend that is as far away as wanted: each request waits first, for tests and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from bubu_storage.backend.decorator import BackendDecorator, Call
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.errors import ConfigurationError

__all__ = ["DelayBackend"]

_T = TypeVar("_T")


class DelayBackend(BackendDecorator):
    """Waits before each request, and is otherwise the wrapped backend; thread-safe.

    One page of a listing is one request; reading an open body waits for nothing.

    Args:
        inner: the backend that does the work.
        latency_seconds: the wait, 0 or more.
        sleep: waits so many seconds.

    Raises:
        ConfigurationError: ``latency_seconds`` is below 0.
    """

    def __init__(
        self, inner: ObjectBackend, latency_seconds: float, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        super().__init__(inner)
        if not latency_seconds >= 0:
            raise ConfigurationError(f"latency_seconds is {latency_seconds}; it must be 0 or more")
        self.latency_seconds = latency_seconds
        self._sleep = sleep

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        del call
        self._sleep(self.latency_seconds)
        return act()
