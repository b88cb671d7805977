"""What SIGTERM and SIGINT do to a process that ends in good order: the first asks, the second ends it.

Invariant: whatever the main thread is doing, and whatever lock it holds, a signal is heard.
"""

from __future__ import annotations

import os
import queue
import threading
from types import FrameType

__all__ = ["StopSignals"]


class StopSignals:
    """A signal handler: the first signal sets ``stopping``, the second one ends the process.

    The event is set by a thread. A handler runs in the main thread, which waits for that very
    event and may hold its lock at that moment: setting it right there could wait for ever.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._signals = 0
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)
        self._told.put(None)

    def _listen(self) -> None:
        self._told.get()
        self._stopping.set()
