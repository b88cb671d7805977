"""Every review is counted once, over real sockets: also one whose answer nobody takes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bubu_operator.observability.webhook_metrics import WebhookMetrics
from bubu_operator.webhook.app import WebhookApp
from tests.unit.injection.builders import config, pod
from tests.unit.webhook.asgi import View, review_of
from tests.unit.webhook.sockets import Server, run, until
from tests.unit.webhook.test_malformed import rejections

REVIEW = review_of({**pod(), "metadata": {"labels": {"storage.bubustack.io/inject": "true"}}})
POST = (
    b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(REVIEW)
)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [(POST + REVIEW[:10], "BrokenOff"), (POST + REVIEW, "UnknownNamespace")],
    ids=["in the middle of the body", "while the review waits"],
)
def test_a_client_that_goes_is_counted(sent: bytes, reason: str):
    """Once, whatever it did not wait for."""
    metrics = WebhookMetrics()
    gone = asyncio.Event()

    async def look(*_: object) -> None:
        await gone.wait()

    app = WebhookApp(
        View(config(), namespaces={}), metrics=metrics, look=look, lag_seconds=0, budget_seconds=60
    )

    async def test() -> None:
        async with Server(app) as server:
            _, writer = await server.connect()
            writer.write(sent)
            await until(lambda: app.in_flight == 1)
            writer.transport.abort()
            await until(lambda: not server.state.connections)
            gone.set()
            await until(lambda: not server.state.tasks)
            await until(lambda: bool(rejections(metrics)))
            assert app.in_flight == 0

    run(test)
    assert [(key[2], count) for key, count in rejections(metrics).items()] == [(reason, 1)]


def test_reviews_behind_one_another_are_answered_in_their_order_and_counted():
    """Dry runs, too; each answer carries the id of its request."""
    metrics = WebhookMetrics()
    app = WebhookApp(View(config()), metrics=metrics)
    bodies = [
        REVIEW.replace(b'"u-1"', b'"u-%d"' % turn).replace(b'"operation"', b'"dryRun": true, "operation"')
        for turn in range(1, 9)
    ]
    assert all(b'"dryRun": true' in body for body in bodies)

    async def test() -> None:
        async with Server(app) as server:
            reader, writer = await server.connect()
            writer.write(
                b"".join(POST.replace(b"%d" % len(REVIEW), b"%d" % len(body)) + body for body in bodies)
            )
            said: list[Any] = []
            for _ in bodies:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                said.append(json.loads(await reader.readexactly(length))["response"])
            await until(lambda: sum(rejections(metrics).values()) == len(bodies))
            assert [answer["uid"] for answer in said] == [f"u-{turn}" for turn in range(1, 9)]
            assert len({answer["patch"] for answer in said}) == 1

    run(test)
