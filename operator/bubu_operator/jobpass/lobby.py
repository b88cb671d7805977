"""Callers who have not shown yet who they are: how many there may be, and who goes when it is full.

Invariants: at most `MAX_CALLERS`, `MAX_CALLERS_OF_ADDRESS` of one address; when all places are taken, a
caller of an address that has fewer gets the place of the oldest of the address that has most, unless that
one's token is being reviewed; a connection is only touched while its caller is in here.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from typing import Final

__all__ = ["MAX_CALLERS", "MAX_CALLERS_OF_ADDRESS", "Caller", "Lobby"]

MAX_CALLERS: Final = 32
MAX_CALLERS_OF_ADDRESS: Final = 8
"""One pod of somebody's must not keep all others waiting."""


class Caller:
    """Somebody who has called.

    Args:
        address: where from.
        connection: to them; replaced by the one that is made of it.

    Attributes:
        is_known: has named a pass that is expected, and its token is being reviewed.
        is_displaced: had to go for somebody else.
    """

    def __init__(self, address: str, connection: socket.socket) -> None:
        self.address = address
        self.connection = connection
        self.is_known = self.is_displaced = False


class Lobby:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: dict[Caller, None] = {}

    def __len__(self) -> int:
        """Return how many callers there are."""
        return len(self._callers)

    def enter(self, address: str, connection: socket.socket) -> Caller | None:
        """Let a caller in; None where there is no place."""
        with self._lock:
            counts = Counter(caller.address for caller in self._callers)
            if counts[address] >= MAX_CALLERS_OF_ADDRESS:
                return None
            if len(self._callers) >= MAX_CALLERS and not self._displace(counts, address):
                return None
            caller = Caller(address, connection)
            self._callers[caller] = None
            return caller

    def keep(self, caller: Caller) -> bool:
        """Displace this one no more; False where that has happened already."""
        with self._lock:
            caller.is_known = not caller.is_displaced
            return caller.is_known

    def leave(self, caller: Caller) -> None:
        """A caller is through, or is to be closed now; twice is fine."""
        with self._lock:
            self._callers.pop(caller, None)

    def _displace(self, counts: Counter[str], address: str) -> bool:
        candidates = [caller for caller in self._callers if not caller.is_known]
        # The first of those with as many is the oldest.
        victim = max(candidates, key=lambda caller: counts[caller.address], default=None)
        if victim is None or counts[victim.address] <= counts[address] + 1:
            return False
        del self._callers[victim]
        victim.is_displaced = True
        with contextlib.suppress(OSError):
            # Its thread uses it, and closes it: TLS must know nothing of this.
            socket.socket.shutdown(victim.connection, socket.SHUT_RDWR)
        return True
