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

import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import Final

from bubu_storage.backend.bulk import DEFAULT_BULK_CONCURRENCY, delete_prefix
from tests.perf.deleters import PEERS, SAMPLES, Deleting, deletion_rate
from tests.perf.harness import Goal, Options, Report, Rounds, parse_options
from tests.perf.latency_proxy import LatencyProxy
from tests.perf.rclone import ensure_rclone
from tests.perf.stores import PREFIX, gateway, open_ours
from tests.s3server.gateway import VersityGateway

OBJECTS: Final = 100_000
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


CONTESTANTS: Final[dict[str, Deleting]] = {"ours": ours, **PEERS}


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
            rounds.add(name, partial(deletion_rate, act, server, place.endpoint, counts[name]))
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
