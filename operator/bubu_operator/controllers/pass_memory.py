"""What one pass leaves for the next of the same policy on the same store: which documents refer to what.

It only saves requests: each entry is compared with the store's ETag before it is believed.
Invariant: bounded in bytes over all policies; what was used longest ago goes first.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from bubu_operator.kube.resources import ObjectKey

__all__ = ["PassMemory"]

MAX_BYTES: Final = 32 << 20


class PassMemory:
    """Thread-safe; holds text, which is the smallest form."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._texts: OrderedDict[tuple[str, ObjectKey], str] = OrderedDict()
        self._bytes = 0

    def get(self, store: str, policy: ObjectKey) -> Mapping[str, Any] | None:
        """Return what was left; None for nothing."""
        with self._lock:
            text = self._texts.get((store, policy))
            if text is None:
                return None
            self._texts.move_to_end((store, policy))
        return json.loads(text)

    def put(self, store: str, policy: ObjectKey, content: Mapping[str, Any]) -> None:
        """Remember, and forget as much of what is oldest as has no room."""
        text = json.dumps(content, separators=(",", ":"))
        with self._lock:
            self._drop((store, policy))
            self._texts[store, policy] = text
            self._bytes += len(text)
            while self._bytes > self._max_bytes and self._texts:
                self._drop(next(iter(self._texts)))

    def forget(self, policy: ObjectKey) -> None:
        """Forget what belongs to a policy that is gone."""
        with self._lock:
            for key in [key for key in self._texts if key[1] == policy]:
                self._drop(key)

    def _drop(self, key: tuple[str, ObjectKey]) -> None:
        text = self._texts.pop(key, None)
        if text is not None:
            self._bytes -= len(text)
