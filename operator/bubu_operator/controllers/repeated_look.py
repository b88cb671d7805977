"""A question to the API server that a pass under way asks again and again, and that must not hold it up.

Invariants: who asks waits `PATIENCE_SECONDS` at most, and one question at a time is under way; one that
may not be asked, or that fails `MOST_FAILURES` times in a row, ends the pass: what is not known is not
taken for good news.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from bubu_operator.errors import KubeForbiddenError, OperatorError

__all__ = ["EVERY_SECONDS", "MOST_FAILURES", "RepeatedLook"]

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 0.5
"""For an answer; one that takes longer is fetched by a later call."""

MOST_FAILURES: Final = 3


class RepeatedLook:
    """Asks now and then; of one pass, and called from its thread only.

    Args:
        monotonic: clock.
        what: that is asked, for messages: "which namespaces …".
        look: asks; returns why the pass must end, or None.
    """

    def __init__(self, monotonic: Callable[[], float], what: str, look: Callable[[], str | None]) -> None:
        self._monotonic = monotonic
        self._what = what
        self._look = look
        self._asked_at = monotonic()
        self._failures = 0
        self._thread: threading.Thread | None = None
        self._answer: str | Exception | None = None

    def __call__(self) -> str | None:
        """Return why the pass must end, as far as is known by now."""
        if self._thread is None:
            now = self._monotonic()
            if now - self._asked_at < EVERY_SECONDS:
                return None
            self._asked_at = now
            self._thread = threading.Thread(target=self._ask, name="pass-look", daemon=True)
            self._thread.start()
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            return None
        self._thread = None
        return self._judge(self._answer)

    def _ask(self) -> None:
        try:
            self._answer = self._look()
        except Exception as error:  # noqa: BLE001 - judged by the thread that asked
            self._answer = error

    def _judge(self, answer: str | Exception | None) -> str | None:
        if not isinstance(answer, Exception):
            self._failures = 0
            return answer
        self._failures += 1
        text = str(answer) if isinstance(answer, OperatorError) else repr(answer)
        problem = f"{self._what} cannot be told: {text}"
        logger.warning("%s (%d in a row)", problem, self._failures)
        if isinstance(answer, KubeForbiddenError) or self._failures >= MOST_FAILURES:
            return problem
        return None
