"""The controller's side of the questions about owners: one thread per pass answers them.

Invariants: whatever an observation takes, checkpoints and the end of the pass are heard meanwhile; one
question is answered at a time; nobody waits for an observation that is no longer wanted; every question is
answered, by an error if need be.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Final

from bubu_operator.retention.owner_lines import OwnerQuestion, answer_lines, error_line
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.owners import OwnerSource, OwnerView

__all__ = ["OwnerAnswers"]

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 4
"""A process asks one question at a time; more of them come from one that is confused."""


class OwnerAnswers:
    """Answers the questions of one process.

    Args:
        source: who knows.
        tell: writes a line to the process; False if that did not work.
        name: of the thread.
    """

    def __init__(self, source: OwnerSource, tell: Callable[[bytes], bool], *, name: str) -> None:
        self._source = source
        self._tell = tell
        self._questions: queue.Queue[OwnerQuestion | None] = queue.Queue(MAX_WAITING)
        self._closed = threading.Event()
        self._sent: OwnerView | None = None
        # Not waited for: it may be in the middle of an observation, and has nothing to tidy up.
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def ask(self, question: OwnerQuestion) -> bool:
        """Take a question; False if there are too many, and it will not be answered."""
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Answer nothing more; returns at once."""
        self._closed.set()
        while True:
            try:
                self._questions.put_nowait(None)
            except queue.Full:
                try:
                    self._questions.get_nowait()
                except queue.Empty:
                    continue
            else:
                return

    def _serve(self) -> None:
        while (question := self._questions.get()) is not None and not self._closed.is_set():
            self._answer(question)

    def _answer(self, question: OwnerQuestion) -> None:
        try:
            view = self._source.observe(question.not_before)
        except OwnersUnknownError as error:
            self._tell_all([error_line(question, error)])
            return
        except Exception as error:
            logger.exception("owners could not be observed")
            unknown = OwnersUnknownError(f"the owners could not be observed: {type(error).__name__}")
            self._tell_all([error_line(question, unknown)])
            return
        if self._tell_all(answer_lines(question, view, self._sent)):
            self._sent = view

    def _tell_all(self, lines: Iterable[bytes]) -> bool:
        return all(not self._closed.is_set() and self._tell(line) for line in lines)
