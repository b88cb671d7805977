"""The thread of a bulk deletion that reads what is to be deleted.

It is not one of those that delete, because keys may come from anywhere: from a pipe that stays open,
or from a person who types. Nobody can end such waiting, so it must hold up neither the end of an
operation nor the end of the program: the thread is left behind, and reads no further.

Invariant: one read at a time, each answered once.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Final

from bubu_storage.backend.bulk_requests import Answer, read_source
from bubu_storage.backend.bulk_source import Source

__all__ = ["LET_GO_SECONDS", "Reader"]

LET_GO_SECONDS: Final = 5.0
"""How long the end of an operation waits for keys of the caller's that do not come."""


class Reader:
    """Reads a source in a thread of its own, which begins with the first read.

    Args:
        source: what to read.
        answers: where to put what was read.
    """

    def __init__(self, source: Source, answers: SimpleQueue[Answer]) -> None:
        self._source = source
        self._answers = answers
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def read(self, generation: int) -> None:
        """Read the next objects; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bubu-bulk-read", daemon=True)
            self._thread.start()
        self._requests.put(generation)

    def end(self) -> bool:
        """Read no further; return whether the source is free, and not still being waited for."""
        if self._thread is None:
            return True
        self._requests.put(None)
        self._thread.join(LET_GO_SECONDS if self._source.may_block else None)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (generation := self._requests.get()) is not None:
            self._answers.put(read_source(self._source, generation))
