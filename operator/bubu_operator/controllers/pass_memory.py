"""What passes leave for later ones: which documents refer to what, and what the store honours.

The first is of one policy on one store, and only saves requests: each entry is compared with the store's
ETag before it is believed. The second is of the store, and believed for a while: that it honours conditions
of deletions was seen by deeds; that it does not may have been a failure, and is asked again sooner.
Invariant: bounded over all policies and stores; what was used longest ago goes first.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from bubu_operator.kube.resources import ObjectKey

__all__ = ["PassMemory"]

MAX_BYTES: Final = 32 << 20
MOST_STORES: Final = 1_000
CONDITIONAL_SECONDS: Final = 3_600.0
"""A server is replaced by one that honours less now and then, not often."""

NOT_CONDITIONAL_SECONDS: Final = 600.0


class PassMemory:
    """Thread-safe; holds text, which is the smallest form.

    Args:
        max_bytes: of all texts.
        monotonic: clock.
    """

    def __init__(
        self, max_bytes: int = MAX_BYTES, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._texts: OrderedDict[tuple[str, ObjectKey], str] = OrderedDict()
        self._bytes = 0
        self._conditional: OrderedDict[str, tuple[bool, float]] = OrderedDict()

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

    def conditional(self, store: str) -> bool | None:
        """Return whether the store honours conditions of deletions; None where that is to be found out."""
        with self._lock:
            found = self._conditional.get(store)
            if found is None or self._monotonic() >= found[1]:
                return None
            return found[0]

    def found_conditional(self, store: str, *, is_conditional: bool) -> None:
        """Remember what a pass found out; what is still believed keeps its time."""
        with self._lock:
            now = self._monotonic()
            known = self._conditional.get(store)
            if known is not None and known[0] is is_conditional and now < known[1]:
                return
            seconds = CONDITIONAL_SECONDS if is_conditional else NOT_CONDITIONAL_SECONDS
            self._conditional[store] = is_conditional, now + seconds
            self._conditional.move_to_end(store)
            if len(self._conditional) > MOST_STORES:
                self._conditional.popitem(last=False)

    def forget(self, policy: ObjectKey) -> None:
        """Forget what belongs to a policy that is gone."""
        with self._lock:
            for key in [key for key in self._texts if key[1] == policy]:
                self._drop(key)

    def _drop(self, key: tuple[str, ObjectKey]) -> None:
        text = self._texts.pop(key, None)
        if text is not None:
            self._bytes -= len(text)
