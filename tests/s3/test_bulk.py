"""Deleting many objects of a real S3 server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from bubu_storage.backend.bulk import delete_keys, delete_prefix
from bubu_storage.testing.acceptance import keys_of

if TYPE_CHECKING:
    from bubu_storage.backend.s3 import S3Backend
    from tests.s3server import VersityGateway

OBJECTS = 20_000
RUN = 100


def fill(server: VersityGateway, bucket: str, count: int) -> None:
    """Store objects behind the server's back, which is much faster: its objects are plain files."""
    for number in range(count):
        path = server.path_of(bucket, f"outputs/ns/run-{number // RUN:05d}/step-{number % RUN:03d}.json")
        if number % RUN == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"{}")


def test_twenty_thousand_objects(s3_backend: S3Backend, s3_server: VersityGateway, bucket: str) -> None:
    """All of a prefix are gone, and nothing beside it, in as few requests as can be."""
    fill(s3_server, bucket, OBJECTS)
    for key in ("outputs-2", "outputs/ü & <k>+%2F.json", "outputs/.bubu/mark", ".bubu/claim"):
        s3_backend.put_object(key, b"x")
    report = delete_prefix(s3_backend, "outputs/")
    assert (OBJECTS + 1, {}, False) == (report.deleted, dict(report.failed), report.stopped)
    assert 2 * OBJECTS + 1 == report.deleted_bytes
    assert report.requests <= OBJECTS // 1000 + 1
    assert [".bubu/claim", "outputs-2", "outputs/.bubu/mark"] == keys_of(s3_backend.list_objects())


def test_keys_while_they_are_listed(s3_backend: S3Backend, s3_server: VersityGateway, bucket: str) -> None:
    """A selection from a running listing is deleted, the others stay: no page is skipped over."""
    fill(s3_server, bucket, 5000)
    chosen = (
        one
        for page in s3_backend.list_objects("outputs/", page_size=300)
        for one in page.objects
        if one.key.endswith("7.json")
    )
    report = delete_keys(s3_backend, chosen, batch_size=50, concurrency=4)
    assert (500, 1000) == (report.deleted, report.deleted_bytes)
    left = keys_of(s3_backend.list_objects())
    assert 4500 == len(left)
    assert not any(key.endswith("7.json") for key in left)


def test_stopped_in_the_middle(
    s3_backend: S3Backend, s3_server: VersityGateway, bucket: str, raw_client: Any
) -> None:
    """What the report says is gone is gone, and the rest is still there."""
    fill(s3_server, bucket, 6000)
    stop = threading.Event()

    def watch(progress: Any) -> None:
        if progress.deleted >= 1000:
            stop.set()

    report = delete_prefix(s3_backend, "outputs/", concurrency=2, on_progress=watch, stop=stop)
    pages = raw_client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    left = sum(page["KeyCount"] for page in pages)
    assert report.stopped
    assert 1000 <= report.deleted < 6000
    assert 6000 - report.deleted == left
