"""The controller's end of an agent's line: TLS on one side, a socket for the pass's process on the other.

Invariants: the pass's process never holds TLS or a token; nothing is sent to the agent once this
controller does not lead any more, whatever was held up on its way; the number of a descriptor that was
lent stays this channel's until it is handed over, whoever ends the channel; closing twice is fine.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

from bubu_operator.jobpass.pump import Pump
from bubu_operator.jobpass.settings import AgentSettings

__all__ = ["Channel"]


class Channel:
    """A `PassChannel`.

    Args:
        secure: to the agent; greetings are exchanged.
        store: for messages.
        may_send: asked before each piece is sent.
    """

    def __init__(self, secure: ssl.SSLSocket, store: str, *, may_send: Callable[[], bool]) -> None:
        ours, self._theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._is_lent = self._is_closed = False
        self._settings = AgentSettings(self._theirs.fileno(), store)
        self._pump = Pump(secure, ours, may_send=may_send, name="agent-pump")
        self._pump.start()

    @property
    def settings(self) -> AgentSettings:
        """See `PassChannel`."""
        return self._settings

    @property
    def alive(self) -> bool:
        """The agent is on the line, as far as is known."""
        return self._pump.alive

    @property
    def agent_left(self) -> bool:
        """The agent ended the channel, not the pass and not this controller."""
        return self._pump.other_machine_left

    def lend(self) -> bool:
        """Keep the descriptor open from now until `handed_over`; False where the channel has ended."""
        with self._lock:
            self._is_lent = self._is_lent or (self.alive and not self._is_closed)
            return self._is_lent

    def handed_over(self) -> None:
        """See `PassChannel`: only the process has its end now, and its end is the channel's."""
        with contextlib.suppress(OSError):
            self._theirs.close()

    def close(self) -> None:
        """End it; a descriptor that was lent is left to `handed_over`."""
        with self._lock:
            self._is_closed = True
            is_lent = self._is_lent
        self._pump.close()
        if not is_lent:
            self.handed_over()
