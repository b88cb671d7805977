"""The event loop of the webhook: uvloop's, with short times for what happens before and after HTTP.

Invariant: a handshake, or a farewell, that takes longer than `HANDSHAKE_SECONDS` is given up.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import uvloop

__all__ = ["ServerLoop"]

HANDSHAKE_SECONDS: Final = 5.0
"""As long as the API server waits altogether; handshakes are no connections yet, and are not counted."""


class ServerLoop(uvloop.Loop):
    """An event loop whose TLS listeners do not wait long for a handshake, or for a farewell.

    uvloop's, because a pod waits: the standard library's TLS and transports are Python, and take more
    of the core for each answer (a fifth of a handler that does nothing).
    """

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """As the parent, with shorter times where TLS is spoken."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
            options.setdefault("ssl_shutdown_timeout", HANDSHAKE_SECONDS)
        return cast("asyncio.Server", await super().create_server(*args, **options))
