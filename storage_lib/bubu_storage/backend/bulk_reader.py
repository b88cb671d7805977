"""The thread of a bulk deletion that reads what is to be deleted.

It is not one of those that delete, because keys may come from anywhere: from a pipe that stays open,
or from a person who types. Nobody can end such waiting, so it must hold up neither the end of an
operation nor the end of the program: the thread is left behind.

Invariant: one read at a time, each answered once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
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
        answer: takes what was read, in that thread.
    """

    def __init__(self, source: Source, answer: Callable[[Answer], object]) -> None:
        self._source = source
        self._answer = answer
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def read(self, generation: int) -> None:
        """Read the next objects; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bubu-bulk-read", daemon=True)
            self._thread.start()
        self._requests.put(generation)

    def stop(self) -> None:
        """Read no further; returns at once."""
        self._requests.put(None)

    def wait(self) -> None:
        """Wait, after `stop`, for what is being read, if it is sure to come."""
        if self._thread is not None:
            # No thread can be waited for where an interrupt came while it was being started.
            with contextlib.suppress(RuntimeError):
                self._thread.join(LET_GO_SECONDS if self._source.may_block else None)

    def _run(self) -> None:
        while (generation := self._requests.get()) is not None:
            self._answer(read_source(self._source, generation))
