"""List and delete 100,000 objects of versitygw, against rclone, a loop and a bare boto3 pipeline.

``python -m tests.perf.bulk_delete``. All contestants begin with a full bucket and end with an empty
one, which is checked:

* ours: `bubu_storage.backend.bulk.delete_prefix` with its defaults;
* bare pipeline: boto3's paginator in one thread, DeleteObjects of 1,000 keys (quiet) in a pool, with
  the same number of requests in flight and the same client settings;
* rclone: ``rclone delete`` with its defaults;
* loop: boto3's paginator and one DELETE after the other.

Once straight, once with 20 ms for each request (a proxy on loopback, a process of its own). The rates
of the peers do not depend on the number of objects, so they are measured on fewer where 100,000 would
take minutes; the figures name the numbers.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, Final

from bubu_storage.backend.bulk import DEFAULT_BULK_CONCURRENCY, delete_prefix
from tests.perf.harness import Goal, Options, Report, Rounds, parse_options
from tests.perf.latency_proxy import LatencyProxy
from tests.perf.rclone import ensure_rclone
from tests.perf.stores import BUCKET, PREFIX, fill, gateway, open_ours, open_sdk
from tests.s3server.gateway import VersityGateway

OBJECTS: Final = 100_000
SAMPLES: Final = {
    0: {"bare pipeline": 50_000, "rclone": 25_000, "loop": 1_500},
    20: {"bare pipeline": 50_000, "rclone": 3_000, "loop": 300},
}
"""Objects for the peers, by latency in milliseconds."""
MAX_SECONDS: Final = 600
GOALS: Final = {
    0: {"bare pipeline": 0.9, "rclone": 1.8, "loop": 9.0},
    20: {"rclone": 20.0, "loop": 150.0},
}


def ours(server: VersityGateway, endpoint: str) -> None:
    """Delete as the library does."""
    with closing(open_ours(server, endpoint)) as backend:
        report = delete_prefix(backend, PREFIX)
        if not report.is_complete:
            raise SystemExit(f"{report.failed_count} objects are left: {dict(report.failed)}")


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
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=MAX_SECONDS)
    if done.returncode:
        raise SystemExit(f"rclone failed:\n{done.stderr[-2000:]}")


CONTESTANTS: Final[dict[str, Callable[[VersityGateway, str], None]]] = {
    "ours": ours,
    "bare pipeline": bare_pipeline,
    "rclone": rclone,
    "loop": loop,
}


def rate(
    act: Callable[[VersityGateway, str], None], server: VersityGateway, endpoint: str, count: int
) -> float:
    """Return objects a second, from a full bucket to an empty one."""
    folder = server.path_of(BUCKET, "")
    fill(folder, count)
    started = time.perf_counter()
    act(server, endpoint)
    seconds = time.perf_counter() - started
    left = sum(len(files) for _, _, files in os.walk(folder))
    if left:
        raise SystemExit(f"{left} objects are left after {act.__name__}")
    return count / seconds


def run_case(report: Report, server: VersityGateway, latency_ms: int) -> None:
    """Measure all contestants at one latency."""
    options = report.options
    counts = {name: options.count(SAMPLES[latency_ms].get(name, OBJECTS)) for name in CONTESTANTS}
    case = (
        f"latency {latency_ms} ms: {counts['ours']:,} objects, {DEFAULT_BULK_CONCURRENCY} requests in flight"
    )
    if not options.wants(case):
        return
    rounds = Rounds(options.rounds, f"latency {latency_ms} ms, objects/s")
    slow = LatencyProxy(server.endpoint, latency_ms / 1000) if latency_ms else nullcontext(server)
    with slow as place:
        for name, act in CONTESTANTS.items():
            rounds.add(name, partial(rate, act, server, place.endpoint, counts[name]))
        medians = rounds.medians()
    figures = {name: f"{value:,.0f}/s" for name, value in medians.items()}
    for name, count in counts.items():
        if count != counts["ours"]:
            figures[name] += f" (of {count:,})"
    for name in list(CONTESTANTS)[1:]:
        ratio = medians["ours"] / medians[name]
        wanted = GOALS[latency_ms].get(name)
        report.add(
            case,
            f"ours / {name}",
            ratio,
            figures={one: figures[one] for one in ("ours", name)},
            goal=None if wanted is None else Goal.at_least(ratio, wanted),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options: Options = parse_options("List and delete many objects of an S3 server.", arguments)
    report = Report("Bulk deletion on versitygw", options)
    ensure_rclone(lambda text: print(text, file=sys.stderr))
    with gateway(needed_files=options.count(OBJECTS)) as server:
        for latency_ms in SAMPLES:
            run_case(report, server, latency_ms)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
