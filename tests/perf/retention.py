"""Retention passes over versitygw: how much the safety of a pass costs, against bare tools.

``python -m tests.perf.retention``. Everything in a store of 100,000 objects is due and goes in one
pass of `bubu_storage.retention.run_pass`: every run judged, its listing fresh, permits asked, the cursor
kept. The peers (`tests.perf.deleters`) list and delete without looking. Also: a dry run against boto3's
paginator, over one scope and over eight, and what memory the operator's own child process needs for a
million objects, on a server that makes its listing up (`tests.perf.synthetic_s3`).

The rates of the peers do not depend on the number of objects, so they are measured on fewer where
100,000 would take minutes; the figures name the numbers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

from bubu_operator.controllers.isolation import child_environment
from bubu_operator.retention.document import LineType, PassDocument
from bubu_operator.retention.process import PassEnded, PassProcess
from bubu_storage.retention.claim import ClaimSettings, StoreClaim
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.owners import OwnerFacts, OwnerView, boot_seconds
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.runner import DEFAULT_CONCURRENCY, run_pass
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.settings import S3Settings
from tests.perf.deleters import PEERS, SAMPLES, Deleting, deletion_rate, paginate
from tests.perf.harness import Goal, Options, Report, Rounds, parse_options
from tests.perf.latency_proxy import LatencyProxy
from tests.perf.rclone import ensure_rclone
from tests.perf.stores import BUCKET, PREFIX, fill, gateway, open_ours
from tests.perf.synthetic_s3 import SyntheticS3
from tests.s3server.gateway import VersityGateway

OBJECTS: Final = 100_000
LATENCIES_MS: Final = (0, 20)
DELETE_GOALS: Final = {
    0: {"bare pipeline": 0.9, "rclone": 1.8, "loop": 9.0},
    20: {"bare pipeline": 0.9, "rclone": 20.0},
}
SCAN_GOAL: Final = 0.9
MEMORY_OBJECTS: Final = 1_000_000
MEMORY_GOAL_MIB: Final = 120.0
_LIVE_OWNERS: Final = 1_000
_ENDED_OWNERS: Final = 1_000
_REQUEST_SECONDS: Final = 35.0
_DAY: Final = 86_400.0
_AGE_SECONDS: Final = 40 * _DAY
_NAMESPACES: Final = tuple(f"team-{letter}" for letter in "abcdefgh")


def spec_of(*namespaces: str, dry_run: bool) -> PassSpec:
    """A pass without limits to speak of over these namespaces, which keeps 30 days."""
    scopes = tuple(f"{PREFIX}{namespace}/" for namespace in namespaces)
    return PassSpec(
        scopes=scopes,
        rules=tuple(RetentionRule(scope, 30 * _DAY) for scope in scopes),
        max_scan=10_000_000,
        max_delete=10_000_000,
        budget_seconds=3600,
        dry_run=dry_run,
    )


class Owners:
    """Answers at once, with a fresh view: some live runs, and the ended owners of those that are due."""

    def __init__(self) -> None:
        names = {f"ns/live-{number:05d}": OwnerFacts(live=True, rank=1) for number in range(_LIVE_OWNERS)}
        names |= {f"ns/run-{number:05d}": OwnerFacts(live=False, rank=9) for number in range(_ENDED_OWNERS)}
        self._owners = names

    def observe(self, not_before: float) -> OwnerView:
        """See `OwnerSource`."""
        return OwnerView(version=1, observed_at=max(not_before, boot_seconds()), owners=self._owners)


def ours(server: VersityGateway, endpoint: str) -> None:
    """Delete as a policy does: under a claim, knowing the owners, by the dates that the store gives."""
    with closing(open_ours(server, endpoint)) as backend:
        claim = ClaimSettings.fitting("bench", "bench", request_timeout_seconds=_REQUEST_SECONDS)
        with StoreClaim(backend, claim) as permit:
            report = run_pass(
                backend,
                spec_of("ns", dry_run=False),
                owners=Owners(),
                permits=(permit,),
                concurrency=DEFAULT_CONCURRENCY,
                stamps_clock=True,
            )
    if report.stopped_by is not StoppedBy.END_OF_CYCLE or report.failed.objects:
        raise SystemExit(f"the pass ended early: {report.message} {report.errors[:1]}")


def dry_run(server: VersityGateway, endpoint: str, *namespaces: str) -> int:
    """Judge everything; return how many objects are due."""
    with closing(open_ours(server, endpoint)) as backend:
        report = run_pass(backend, spec_of(*namespaces, dry_run=True), concurrency=DEFAULT_CONCURRENCY)
    if report.stopped_by is not StoppedBy.END_OF_CYCLE:
        raise SystemExit(f"the pass ended early: {report.message}")
    return report.due.objects


CONTESTANTS: Final[dict[str, Deleting]] = {"ours": ours, **PEERS}


def run_deletions(report: Report, server: VersityGateway, latency_ms: int) -> None:
    """Measure enforcing passes against all peers at one latency."""
    options = report.options
    counts = {name: options.count(SAMPLES[latency_ms].get(name, OBJECTS)) for name in CONTESTANTS}
    case = f"delete, latency {latency_ms} ms: {counts['ours']:,} objects"
    if not options.wants(case):
        return
    rounds = Rounds(options.rounds, f"delete, latency {latency_ms} ms, objects/s")
    slow = LatencyProxy(server.endpoint, latency_ms / 1000) if latency_ms else nullcontext(server)
    with slow as place:
        for name, act in CONTESTANTS.items():
            one = partial(deletion_rate, act, server, place.endpoint, counts[name], age_seconds=_AGE_SECONDS)
            rounds.add(name, one)
        medians = rounds.medians()
    figures = {name: f"{value:,.0f}/s" for name, value in medians.items()}
    for name, count in counts.items():
        if count != counts["ours"]:
            figures[name] += f" (of {count:,})"
    for name in PEERS:
        ratio = medians["ours"] / medians[name]
        wanted = DELETE_GOALS[latency_ms].get(name)
        report.add(
            case,
            f"ours / {name}",
            ratio,
            figures={one: figures[one] for one in ("ours", name)},
            goal=None if wanted is None else Goal.at_least(ratio, wanted),
        )


def scan_rate(count: Callable[[], int], objects: int) -> float:
    """Return objects a second; whoever counts must see all of them."""
    started = time.perf_counter()
    seen = count()
    seconds = time.perf_counter() - started
    if seen != objects:
        raise SystemExit(f"{seen} of {objects} objects were seen")
    return objects / seconds


def run_scans(report: Report, server: VersityGateway, latency_ms: int, namespaces: tuple[str, ...]) -> None:
    """Measure dry runs against boto3's paginator."""
    options = report.options
    each = options.count(OBJECTS // len(namespaces))
    objects = each * len(namespaces)
    title = f"dry run, latency {latency_ms} ms, {len(namespaces)} scopes"
    case = f"{title}: {objects:,} objects"
    if not options.wants(case):
        return
    folder = server.path_of(BUCKET, "")
    for namespace in namespaces:
        fill(folder, each, namespace=namespace, age_seconds=_AGE_SECONDS)
    rounds = Rounds(options.rounds, f"{title}, objects/s")
    slow = LatencyProxy(server.endpoint, latency_ms / 1000) if latency_ms else nullcontext(server)
    with slow as place:
        for name, act in {
            "ours": partial(dry_run, server, place.endpoint, *namespaces),
            "paginator": partial(paginate, server, place.endpoint),
        }.items():
            rounds.add(name, partial(scan_rate, act, objects))
        medians = rounds.medians()
    shutil.rmtree(folder / PREFIX.rstrip("/"))
    ratio = medians["ours"] / medians["paginator"]
    report.add(
        case,
        "ours / boto3 paginator",
        ratio,
        figures={name: f"{value:,.0f}/s" for name, value in medians.items()},
        goal=Goal.at_least(ratio, SCAN_GOAL),
    )


def pass_in_a_process(endpoint: str, *, dry_run: bool) -> tuple[PassReport, float]:
    """Run a pass as the operator does, in its child process; return the report and the peak memory in MiB."""
    settings = S3Settings(
        bucket=BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        use_path_style=True,
        access_key_id="bench",
        secret_access_key="bench-secret",
    )
    document = PassDocument(settings, spec_of("ns", dry_run=dry_run), Cursor(), conditional=False)
    peak = 0.0
    report: PassReport | None = None
    with PassProcess(document, environment=child_environment(os.environ)) as process:
        while not isinstance(line := process.next(0.05), PassEnded):
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = next(int(text.split()[1]) / 1024 for text in status if text.startswith("VmHWM"))
            if line is not None and line.type is LineType.REPORT:
                report = line.report
    if report is None or report.stopped_by is not StoppedBy.END_OF_CYCLE:
        raise SystemExit(f"the pass did not end well: {report or line.complaint}")
    return report, peak


def run_memory(report: Report) -> None:
    """Measure the memory that the child process takes at most, over many objects."""
    options = report.options
    objects = options.count(MEMORY_OBJECTS)
    for dry_run in (False, True):
        case = f"memory, {'dry run' if dry_run else 'enforcing'}: {objects:,} objects of a made-up listing"
        if not options.wants(case):
            continue
        with SyntheticS3(objects) as server:
            started = time.perf_counter()
            done, peak = pass_in_a_process(server.endpoint, dry_run=dry_run)
            seconds = time.perf_counter() - started
        if done.due.objects != objects:
            raise SystemExit(f"{done.due.objects} of {objects} objects were due")
        report.add(
            case,
            "peak resident memory, MiB",
            peak,
            figures={
                "requests": f"{done.requests:,}",
                "entries scanned": f"{done.scanned:,}",
                "seconds": f"{seconds:.0f}",
            },
            goal=Goal.below(peak, MEMORY_GOAL_MIB),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options: Options = parse_options("Retention passes over many objects of an S3 server.", arguments)
    report = Report("Retention on versitygw", options)
    ensure_rclone(lambda text: print(text, file=sys.stderr))
    with gateway(needed_files=options.count(OBJECTS)) as server:
        for latency_ms in LATENCIES_MS:
            run_deletions(report, server, latency_ms)
        for latency_ms in LATENCIES_MS:
            run_scans(report, server, latency_ms, ("ns",))
            run_scans(report, server, latency_ms, _NAMESPACES)
    run_memory(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
