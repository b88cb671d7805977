"""The process's side of the questions about owners: an `OwnerSource` that asks through the pipe.

Invariants: waiting is bounded, and ends at once when the pass is to stop (or the parent is gone: then the
whole process ends); a late answer to a question that nobody waits for is passed over; callers from several
threads share one question.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

from bubu_operator.retention.owner_lines import Assembly, OwnerQuestion
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.gate import PassStoppedError
from bubu_storage.retention.owners import OwnerView
from bubu_storage.retention.report import StoppedBy
from bubu_storage.retention.runner import boot_seconds

__all__ = ["ANSWER_SECONDS", "PipedOwners"]

ANSWER_SECONDS: Final = 100.0
"""The controller gives up earlier by itself, and says so; a controller that is stopped does not."""

LOOK_SECONDS: Final = 0.25


class PipedOwners:
    """Asks the parent who owns runs.

    Args:
        ask: writes a question.
        should_stop: asked while waiting.
        clock: `boot_seconds`.
        answer_seconds: longest wait for an answer.
    """

    def __init__(
        self,
        ask: Callable[[OwnerQuestion], None],
        *,
        should_stop: Callable[[], bool],
        clock: Callable[[], float] = boot_seconds,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._ask = ask
        self._should_stop = should_stop
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._view: OwnerView | None = None
        self._questions = 0

    def take(self, line: bytes) -> None:
        """Take a line of an answer; from the thread that reads the pipe."""
        self._lines.put(line)

    def observe(self, not_before: float) -> OwnerView:
        """Return a view whose observation began at ``not_before`` (boot seconds) or later.

        Raises:
            OwnersUnknownError: the controller knows none, or does not answer.
            PassStoppedError: the pass was asked to stop while it waited.
        """
        with self._lock:
            view = self._view
            if view is not None and view.observed_at >= not_before:
                return view
            self._questions += 1
            question = OwnerQuestion(self._questions, not_before, None if view is None else view.version)
            assembly = Assembly(question, view)
            try:
                self._ask(question)
                self._view = view = self._await(assembly)
            except OwnersUnknownError:
                # Nobody knows what was half received; the next answer is to be a whole one.
                self._view = None
                raise
            if view.observed_at < not_before:
                raise OwnersUnknownError(
                    "the controller answered with an older list of owners than asked for"
                )
            return view

    def _await(self, assembly: Assembly) -> OwnerView:
        deadline = self._clock() + self._answer_seconds
        while True:
            try:
                line = self._lines.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                line = b""
            if line and (view := assembly.take(line)) is not None:
                return view
            if self._should_stop():
                raise PassStoppedError(StoppedBy.STOPPED, "the caller asked the pass to stop")
            if self._clock() >= deadline:
                raise OwnersUnknownError(
                    f"the controller has not said within {self._answer_seconds:g} s who owns runs; the next "
                    "pass tries again"
                )
