"""What time the API server thinks it is: certificates are judged by its clock, not by ours.

A machine whose clock is wrong would otherwise make certificates that are not valid yet, or
throw good ones away. Between two answers time goes on by a clock that nobody sets and that
counts suspension, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from bubu_operator.errors import KubeApiError
from bubu_operator.kube.lease_fence import boot_seconds
from bubu_operator.kube.transport import Transport

__all__ = ["ServerClock"]

ASK_TIMEOUT_SECONDS: Final = 5.0
ASK_AGAIN_SECONDS: Final = 60.0


def _local() -> datetime:
    return datetime.now(UTC)


class ServerClock:
    """The API server's clock, as of its last answer; this machine's until there was one. Thread-safe."""

    def __init__(
        self,
        client: Transport,
        *,
        local: Callable[[], datetime] = _local,
        elapsed: Callable[[], float] = boot_seconds,
    ) -> None:
        self._client = client
        self._local = local
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._heard: tuple[datetime, float] | None = None
        self._asked = float("-inf")

    def now(self) -> datetime:
        """Return its time; never raises."""
        with self._lock:
            heard = self._heard
        if heard is None:
            return self._local()
        return heard[0] + timedelta(seconds=self._elapsed() - heard[1])

    @property
    def known(self) -> bool:
        """Whether it has been heard."""
        return self._heard is not None

    @property
    def stale(self) -> bool:
        """Whether it is time to ask again; a failed question waits, too."""
        return self._elapsed() - self._asked >= ASK_AGAIN_SECONDS

    @property
    def ahead_seconds(self) -> float:
        """How far this machine's clock is ahead of it; negative when behind."""
        return (self._local() - self.now()).total_seconds()

    def ask(self) -> bool:
        """Ask for the time; blocking. False, and all as before, when there is no answer."""
        self._asked = self._elapsed()
        try:
            response = self._client.send("GET", "/version", timeout_seconds=ASK_TIMEOUT_SECONDS)
            self._client.read(response, "/version")
        except KubeApiError:
            return False
        return self.hear(str(response.headers.get("Date") or ""))

    def hear(self, date: str) -> bool:
        """Take the value of a ``Date`` header."""
        try:
            moment = parsedate_to_datetime(date)
        except (ValueError, TypeError):
            return False
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        with self._lock:
            self._heard = (moment, self._elapsed())
        return True
