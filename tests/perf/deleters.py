"""Peers that list and delete everything below a prefix: what benchmarks of deletions compare with.

Each takes a server and the endpoint to reach it by (itself, or a proxy in front of it), begins with a
full bucket and must end with an empty one, which `deletion_rate` checks.
"""

from __future__ import annotations

import os
import queue
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

from bubu_storage.backend.bulk import DEFAULT_BULK_CONCURRENCY
from tests.perf.rclone import ensure_rclone
from tests.perf.stores import BUCKET, PREFIX, fill, open_sdk
from tests.s3server.gateway import VersityGateway

__all__ = ["PEERS", "SAMPLES", "Deleting", "bare_pipeline", "deletion_rate", "loop", "paginate", "rclone"]

Deleting = Callable[[VersityGateway, str], None]
"""Lists and deletes everything below the prefix."""

SAMPLES: Final = {
    0: {"bare pipeline": 50_000, "rclone": 25_000, "loop": 1_500},
    20: {"bare pipeline": 50_000, "rclone": 3_000, "loop": 300},
}
"""Objects for the peers, by latency in milliseconds: their rates do not depend on the number."""

_MAX_SECONDS: Final = 600


def bare_pipeline(server: VersityGateway, endpoint: str) -> None:
    """Delete as one would with boto3 at its best."""
    pages: queue.Queue[list[dict[str, str]] | None] = queue.Queue(DEFAULT_BULK_CONCURRENCY)

    def list_all(client: Any) -> None:
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
                pages.put([{"Key": one["Key"]} for one in page.get("Contents", [])])
        finally:
            for _ in range(DEFAULT_BULK_CONCURRENCY):
                pages.put(None)

    def delete_some(client: Any) -> None:
        failed: list[Any] = []
        try:
            while (keys := pages.get()) is not None:
                answer = client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})
                failed += answer.get("Errors", [])
        except BaseException:
            while pages.get() is not None:  # or the listing would wait for somebody to take them
                pass
            raise
        if failed:
            raise SystemExit(f"the bare pipeline failed: {failed[:1]}")

    with (
        closing(open_sdk(server, endpoint)) as client,
        ThreadPoolExecutor(DEFAULT_BULK_CONCURRENCY + 1) as pool,
    ):
        jobs = [pool.submit(list_all, client)]
        jobs += [pool.submit(delete_some, client) for _ in range(DEFAULT_BULK_CONCURRENCY)]
        for job in jobs:
            job.result()


def loop(server: VersityGateway, endpoint: str) -> None:
    """Delete as most scripts do."""
    with closing(open_sdk(server, endpoint)) as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
            for one in page.get("Contents", []):
                client.delete_object(Bucket=BUCKET, Key=one["Key"])


def rclone(server: VersityGateway, endpoint: str) -> None:
    """Run rclone with its defaults."""
    remote = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": endpoint,
        "REGION": server.region,
        "ACCESS_KEY_ID": server.access_key,
        "SECRET_ACCESS_KEY": server.secret_key,
        "FORCE_PATH_STYLE": "true",
    }
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RCLONE_", "AWS_"))}
    env |= {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in remote.items()}
    command = [ensure_rclone(), "--config", os.devnull, "delete", f"bench:{BUCKET}/{PREFIX}"]
    # It notes on standard error that it found no configuration file.
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=_MAX_SECONDS)
    if done.returncode:
        raise SystemExit(f"rclone failed:\n{done.stderr[-2000:]}")


PEERS: Final[dict[str, Deleting]] = {"bare pipeline": bare_pipeline, "rclone": rclone, "loop": loop}
"""By the names that `SAMPLES` has."""


def paginate(server: VersityGateway, endpoint: str) -> int:
    """List as one would with boto3 at its best; return how many objects there are."""
    with closing(open_sdk(server, endpoint)) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX)
        return sum(len(page.get("Contents", [])) for page in pages)


def deletion_rate(
    act: Deleting, server: VersityGateway, endpoint: str, count: int, *, age_seconds: float = 0.0
) -> float:
    """Return objects a second, from a full bucket to an empty one."""
    folder = server.path_of(BUCKET, "")
    fill(folder, count, age_seconds=age_seconds)
    started = time.perf_counter()
    act(server, endpoint)
    seconds = time.perf_counter() - started
    left = sum(len(files) for _, _, files in os.walk(folder))
    if left:
        raise SystemExit(f"{left} objects are left after {act.__name__}")
    return count / seconds
