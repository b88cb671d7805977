"""Notices when somebody else keeps undoing our writes, and stops before the pods pay for it.

A workload's own controller, or a tool that replaces whole objects, may put a template back
each time we write it. Every round restarts the pods. After `LIMIT` writes of the same intent
within `WINDOW_SECONDS` the next one waits, and longer each time that it is undone again. A
change of the user's, or of the config, is another intent and starts anew.

Kept in memory: what undoes our writes may undo any mark of ours, too, and after a restart
a few more rounds are what it costs.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bubu_operator.kube.resources import ObjectKey

__all__ = ["LIMIT", "PAUSE_SECONDS", "WINDOW_SECONDS", "Fights"]

LIMIT: Final = 3
WINDOW_SECONDS: Final = 1800.0
PAUSE_SECONDS: Final = 1800.0
MAX_PAUSE_SECONDS: Final = 21600.0
MAX_REMEMBERED: Final = 10_000


@dataclass(slots=True)
class _Bout:
    """Writes of one intent into one workload.

    Attributes:
        intent: what all of them wanted.
        written: when the last of them were, oldest first.
        until: no write before this.
        pauses: how many there were, each twice as long as the one before.
    """

    intent: str
    written: list[float] = field(default_factory=list[float])
    until: float = float("-inf")
    pauses: int = 0


class Fights:
    """Counts writes of each workload; thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._bouts: OrderedDict[ObjectKey, _Bout] = OrderedDict()

    def pause(self, key: ObjectKey, intent: str) -> float:
        """Return for how many seconds this intent must not be written again; 0.0 for "write"."""
        with self._lock:
            bout = self._bouts.get(key)
            if bout is None or bout.intent != intent:
                return 0.0
            return max(0.0, bout.until - self._monotonic())

    def wrote(self, key: ObjectKey, intent: str) -> None:
        """Note a write."""
        now = self._monotonic()
        with self._lock:
            bout = self._bouts.get(key)
            # A write that stood for a whole window after its pause has won: what comes now is another fight.
            if bout is None or bout.intent != intent or (bout.pauses and now - bout.until > WINDOW_SECONDS):
                bout = _Bout(intent)
            bout.written = [*bout.written, now][-LIMIT:]
            if bout.pauses or (len(bout.written) == LIMIT and now - bout.written[0] <= WINDOW_SECONDS):
                bout.until = now + min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * 2.0**bout.pauses)
                bout.pauses += 1
            self._bouts[key] = bout
            self._bouts.move_to_end(key)
            while len(self._bouts) > MAX_REMEMBERED:
                self._bouts.popitem(last=False)

    def forget(self, key: ObjectKey) -> None:
        """Forget a workload that is gone."""
        with self._lock:
            self._bouts.pop(key, None)
