"""The budget that the bodies of all requests share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bubu_operator.webhook import body as body_module
from bubu_operator.webhook.body import FREE_BYTES, WHOLE_BODY, BodyReader
from bubu_operator.webhook.review import ReviewRejectedError

SCOPE = {"headers": [(b"content-type", b"application/json")]}
LARGE = b"x" * (FREE_BYTES + 1000)


def reading(reader: BodyReader, *chunks: bytes, then: Any = None) -> Any:
    """A coroutine that reads a body in chunks; `then` happens before the last one is delivered."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        if len(left) == 1 and then is not None:
            await then()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return reader.read(SCOPE, receive)


def test_large_bodies_share_a_budget_and_small_ones_do_not_need_it():
    """While one large body uses it up, another one is refused (503) and a small one is read."""
    reader = BodyReader(max_buffered_bytes=1500)

    async def meanwhile() -> None:
        assert await reading(reader, b"x" * FREE_BYTES) == b"x" * FREE_BYTES
        with pytest.raises(ReviewRejectedError, match="too many large reviews") as refused:
            await reading(reader, LARGE)
        assert refused.value.status == 503

    assert asyncio.run(reading(reader, LARGE, b"", then=meanwhile)) == LARGE


def test_a_body_that_is_only_discarded_uses_no_budget(monkeypatch: pytest.MonkeyPatch):
    """While the rest of one that is too large is read away, another one has room."""
    monkeypatch.setattr(body_module, "MAX_BODY_BYTES", FREE_BYTES + 1200)
    reader = BodyReader(max_buffered_bytes=1200)

    async def meanwhile() -> None:
        assert await reading(reader, LARGE) == LARGE

    with pytest.raises(ReviewRejectedError, match="larger than"):
        asyncio.run(reading(reader, LARGE, b"y" * 500, b"z", then=meanwhile))


@pytest.mark.parametrize("end", ["read", "too large", "broken off", "refused"])
def test_however_a_body_ends_the_budget_is_whole_again(end: str, monkeypatch: pytest.MonkeyPatch):
    """A leak would end in refusing every large review."""
    monkeypatch.setattr(body_module, "MAX_BODY_BYTES", FREE_BYTES + 2000)
    reader = BodyReader(max_buffered_bytes=1500)
    ends = {
        "read": [LARGE, b"y"],
        "too large": [LARGE, LARGE, b"y"],
        "broken off": [LARGE, None],
        "refused": [LARGE, b"y" * 800, b"z"],
    }

    async def receive() -> dict[str, Any]:
        chunk = left.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    for _ in range(5):
        left: list[bytes | None] = list(ends[end])
        try:
            asyncio.run(reader.read(SCOPE, receive))
            outcome = "read"
        except ReviewRejectedError as error:
            outcome = {413: "too large", 400: "broken off", 503: "refused"}[error.status]
        assert outcome == end

    assert asyncio.run(reading(reader, b"x" * (FREE_BYTES + 1500)))


@pytest.mark.parametrize("is_there", [True, False])
def test_a_small_body_that_is_there_is_taken_at_once(is_there: bool):
    """Where the server offers that; else it is received, as from any other server."""
    limits: list[int] = []

    def whole(limit: int) -> bytes | None:
        limits.append(limit)
        return b"at once" if is_there else None

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"received"}

    scope = {**SCOPE, "extensions": {WHOLE_BODY: whole}}
    body = asyncio.run(BodyReader().read(scope, receive))

    assert body == (b"at once" if is_there else b"received")
    assert limits == [FREE_BYTES]


@pytest.mark.parametrize("content_type", [b"application/json; charset=utf-8", b" APPLICATION/JSON "])
def test_json_may_be_written_in_other_ways(content_type: bytes):
    """With parameters, and in any case."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x"}

    scope = {"headers": [(b"content-type", content_type)]}
    assert asyncio.run(BodyReader().read(scope, receive)) == b"x"
