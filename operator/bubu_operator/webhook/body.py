"""Reading the body of a request, bounded in size, in time, and all requests together.

Invariant: at most `MAX_BUFFERED_BYTES` plus `FREE_BYTES` for each connection are held, however
many large bodies arrive at once. A small body, as nearly every pod is, is never refused for
the sake of large ones, and waits for one of them at most: large ones are handed out one in each
round of the event loop, since reading one keeps the loop for up to some tenths of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from bubu_operator.webhook.review import RejectReason, ReviewRejectedError

__all__ = ["MAX_BODY_BYTES", "WHOLE_BODY", "BodyReader", "Receive", "Scope"]

WHOLE_BODY: Final = "bubu.whole_body"
"""Extension of a server's: a function that takes a limit and returns the body if it is there as a whole,
else None. It saves the deadline and the waiting of nearly every request; any other server does as well."""

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
"""The API server's own limit for an object is 3 MiB; a review may hold two."""

DISCARD_BYTES: Final = 4 * MAX_BODY_BYTES
"""How much of an oversized body is read away, so that its sender gets to see the answer."""

FREE_BYTES: Final = 64 * 1024
"""What every request may buffer, whatever the others do."""

MAX_BUFFERED_BYTES: Final = 8 * MAX_BODY_BYTES
"""What all requests may buffer together beyond that."""

BODY_SECONDS: Final = 5.0
"""As long as the API server waits for an answer altogether."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

_JSON: Final = "application/json"
_JSON_BYTES: Final = _JSON.encode("ascii")
_NO_EXTENSIONS: Final[dict[str, Any]] = {}


class BodyReader:
    """Reads JSON bodies; one per process, because the requests share its budget."""

    def __init__(self, max_buffered_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._max_buffered_bytes = max_buffered_bytes
        self._buffered_bytes = 0
        self._turn = asyncio.Lock()

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Read a request's body, up to `MAX_BODY_BYTES`.

        Raises:
            ReviewRejectedError: wrong content type, too large, too slow, broken off, or too
                many large ones at once.
        """
        _check_content_type(scope["headers"])
        whole = scope.get("extensions", _NO_EXTENSIONS).get(WHOLE_BODY)
        if whole is not None and (at_once := whole(FREE_BYTES)) is not None:
            return at_once
        body = _Body(self)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while await body.take(receive):
                    pass
                if FREE_BYTES < body.size <= MAX_BODY_BYTES:
                    await self._large()
        except TimeoutError as error:
            if body.is_whole:
                raise _overloaded() from error
            raise ReviewRejectedError(
                HTTPStatus.REQUEST_TIMEOUT,
                RejectReason.TOO_SLOW,
                f"the body did not arrive within {BODY_SECONDS:g} s",
            ) from error
        finally:
            body.release()
        if body.size > MAX_BODY_BYTES:
            raise ReviewRejectedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                RejectReason.TOO_LARGE,
                f"the review is larger than {MAX_BODY_BYTES} bytes",
            )
        return b"".join(body.chunks)

    def claim(self, size: int) -> None:
        """Count bytes that are about to be buffered.

        Raises:
            ReviewRejectedError: the budget is used up.
        """
        if self._buffered_bytes + size > self._max_buffered_bytes:
            raise _overloaded()
        self._buffered_bytes += size

    async def _large(self) -> None:
        """Wait for a large body's turn; the next one has it a round of the loop after the caller goes on."""
        await self._turn.acquire()
        asyncio.get_running_loop().call_soon(self._turn.release)

    def give_back(self, size: int) -> None:
        """Undo `claim`."""
        self._buffered_bytes -= size


def _check_content_type(headers: Iterable[tuple[bytes, bytes]]) -> None:
    found = b""
    for name, value in headers:
        if name == b"content-type":
            found = value
    if found == _JSON_BYTES:
        return
    content_type = found.decode("latin-1")
    if content_type.partition(";")[0].strip().lower() != _JSON:
        raise ReviewRejectedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            RejectReason.WRONG_CONTENT_TYPE,
            f"content type {content_type[:64]!r}; only {_JSON} is understood",
        )


def _overloaded() -> ReviewRejectedError:
    return ReviewRejectedError(
        HTTPStatus.SERVICE_UNAVAILABLE, RejectReason.OVERLOADED, "too many large reviews at once; try again"
    )


class _Body:
    """What has arrived of one body."""

    def __init__(self, reader: BodyReader) -> None:
        self.size = 0
        self.is_whole = False
        self.chunks: list[bytes] = []
        self._reader = reader
        self._claimed = 0

    async def take(self, receive: Receive) -> bool:
        """Take the next chunk; tell whether there are more to come."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ReviewRejectedError(
                HTTPStatus.BAD_REQUEST, RejectReason.BROKEN_OFF, "the request broke off"
            )
        chunk: bytes = message.get("body", b"")
        self.size += len(chunk)
        if self.size > MAX_BODY_BYTES:
            self.chunks.clear()
            self.release()
        else:
            beyond = max(0, self.size - FREE_BYTES) - self._claimed
            self._reader.claim(beyond)
            self._claimed += beyond
            self.chunks.append(chunk)
        self.is_whole = not message.get("more_body", False)
        return not self.is_whole and self.size <= DISCARD_BYTES

    def release(self) -> None:
        """Give back what was claimed."""
        self._reader.give_back(self._claimed)
        self._claimed = 0
