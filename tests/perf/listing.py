"""Listing 100,000 keys: objects a second against the plainest peers, and how memory grows.

``python -m tests.perf.listing``. On versitygw the peer is boto3's paginator with pages of the same
size and the same client settings; on files it is ``os.scandir``, recursive, with a ``stat`` of each
file, which knows as much of an object (but neither sorts nor pages). The library is measured as a
backend and as a `StorageManager`.

Memory is that of a fresh process: how far its resident set rises above what it was with the store
open and nothing listed. Flatness is the difference between three times the keys and once the keys.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.types import ObjectBackend
from bubu_storage.manager import StorageManager
from bubu_storage.settings import ManagerSettings
from tests.perf.harness import Goal, Report, Rounds, parse_options
from tests.perf.stores import (
    BUCKET,
    PREFIX,
    SMALL_OBJECT_BYTES,
    fill,
    folder_in_memory,
    gateway,
    open_ours,
    open_sdk,
)

if TYPE_CHECKING:
    from tests.s3server.gateway import VersityGateway

OBJECTS: Final = 100_000
TIMES: Final = 3
"""How many times as many keys show whether memory is flat."""
MAX_GROWTH_MIB: Final = 60.0
MAX_SLOPE_MIB: Final = 8.0
"""What the same listing may take more or less from one process to the next, and no more."""
LEAST_RATIO: Final = 0.9

_KIB_PER_MIB: Final = 1024
_MAX_SECONDS: Final = 600


def count_pages(backend: ObjectBackend) -> int:
    """List as a backend does."""
    return sum(len(page.objects) for page in backend.list_objects(PREFIX))


def count_managed(backend: ObjectBackend) -> int:
    """List as a manager does."""
    with StorageManager(ManagerSettings(), backend) as manager:
        return sum(1 for _ in manager.list_objects(PREFIX))


def count_paginated(client: Any) -> int:
    """List as boto3 does."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix=PREFIX, PaginationConfig={"PageSize": 1000}
    )
    return sum(len(page.get("Contents", [])) for page in pages)


def count_scanned(folder: str) -> int:
    """List as a short script does."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += count_scanned(entry.path)
            else:
                entry.stat(follow_symlinks=False)
                total += 1
    return total


def rate(act: Callable[[Any], int], subject: Any, expected: int) -> float:
    """Return objects a second."""
    gc.collect()
    started = time.perf_counter()
    found = act(subject)
    seconds = time.perf_counter() - started
    if found != expected:
        raise SystemExit(f"{found} objects were listed instead of {expected}")
    return found / seconds


def compare(report: Report, case: str, peer: str, runs: dict[str, Callable[[], float]], goal: bool) -> None:
    """Measure contestants and report their ratio to the peer."""
    if not report.options.wants(case):
        return
    rounds = Rounds(report.options.rounds, f"{case}, objects/s")
    for name, run in runs.items():
        rounds.add(name, run)
    medians = rounds.medians()
    for name in runs:
        if name != peer:
            ratio = medians[name] / medians[peer]
            report.add(
                case,
                f"{name} / {peer}",
                ratio,
                figures={one: f"{medians[one]:.0f}/s" for one in (name, peer)},
                goal=Goal.at_least(ratio, LEAST_RATIO) if goal else None,
            )


# ---- memory


def resident_mib(field: str) -> float:
    """Return a line of this process's own status: VmRSS, or VmHWM for the peak."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / _KIB_PER_MIB
    raise SystemExit(f"this system does not tell {field}")


def child() -> None:
    """List the store described on standard input and print how far the resident set rose."""
    facts = json.load(sys.stdin)
    if facts["kind"] == "s3":
        backend: Any = open_ours(cast("VersityGateway", SimpleNamespace(**facts)), facts["endpoint"])
    else:
        backend = FileBackend(facts["folder"])
    act = count_managed if facts["managed"] else count_pages
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = resident_mib("VmRSS")
    found = act(backend)
    print(json.dumps({"found": found, "growth_mib": resident_mib("VmHWM") - before}))


def growth(facts: dict[str, Any], expected: int) -> float:
    """Return by how many MiB a fresh process grows that lists a store."""
    command = [sys.executable, "-c", "from tests.perf.listing import child; child()"]
    done = subprocess.run(
        command, input=json.dumps(facts), check=True, capture_output=True, text=True, timeout=_MAX_SECONDS
    )
    answer = json.loads(done.stdout)
    if answer["found"] != expected:
        raise SystemExit(f"{answer['found']} objects were listed instead of {expected}")
    return answer["growth_mib"]


def report_growth(report: Report, case: str, facts: dict[str, Any], count: int) -> float | None:
    """Measure and report the growth; returns it, None where it is not wanted."""
    if not report.options.wants(case):
        return None
    rounds = Rounds(report.options.rounds, f"{case}, MiB")
    rounds.add("growth", partial(growth, facts, count))
    value = rounds.medians()["growth"]
    goal = Goal.below(value, MAX_GROWTH_MIB)
    report.add(case, "growth in MiB", value, figures={"growth": f"{value:.1f} MiB"}, goal=goal)
    return value


def report_flatness(report: Report, case: str, once: float | None, more: float | None) -> None:
    """Report what more keys cost."""
    if once is None or more is None:
        return
    figures = {"once": f"{once:.1f} MiB", f"{TIMES} times the keys": f"{more:.1f} MiB"}
    goal = Goal.below(more - once, MAX_SLOPE_MIB)
    report.add(case, "more in MiB", more - once, figures=figures, goal=goal)


# ---- stores


def run_s3(report: Report) -> None:
    """All on versitygw."""
    count = report.options.count(OBJECTS)
    with gateway(needed_files=count) as server:
        fill(server.path_of(BUCKET, ""), count)
        with (
            closing(open_ours(server, server.endpoint)) as backend,
            closing(open_sdk(server, server.endpoint)) as client,
        ):
            runs = {
                "backend": partial(rate, count_pages, backend, count),
                "manager": partial(rate, count_managed, backend, count),
                "paginator": partial(rate, count_paginated, client, count),
            }
            compare(report, f"versitygw, {count} objects", "paginator", runs, goal=True)
        facts = {"kind": "s3", "endpoint": server.endpoint, "region": server.region}
        facts |= {"access_key": server.access_key, "secret_key": server.secret_key}
        for managed in (False, True):
            case = f"versitygw, memory of the {'manager' if managed else 'backend'}, {count} objects"
            report_growth(report, case, {**facts, "managed": managed}, count)


def run_file(report: Report) -> None:
    """All on files."""
    count = report.options.count(OBJECTS)
    with folder_in_memory(
        needed_bytes=TIMES * count * SMALL_OBJECT_BYTES, needed_files=TIMES * count
    ) as folder:
        fill(folder, count)
        with closing(FileBackend(folder)) as backend:
            runs = {
                "backend": partial(rate, count_pages, backend, count),
                "manager": partial(rate, count_managed, backend, count),
                "scandir": partial(rate, count_scanned, str(folder / PREFIX), count),
            }
            compare(report, f"file, {count} objects", "scandir", runs, goal=False)
        once: dict[bool, float | None] = {}
        facts = {"kind": "file", "folder": str(folder)}
        for managed in (False, True):
            case = f"file, memory of the {'manager' if managed else 'backend'}, {count} objects"
            once[managed] = report_growth(report, case, {**facts, "managed": managed}, count)
        fill(folder, TIMES * count)
        for managed in (False, True):
            case = f"file, memory of the {'manager' if managed else 'backend'}, {TIMES * count} objects"
            more = report_growth(report, case, {**facts, "managed": managed}, TIMES * count)
            report_flatness(report, case, once[managed], more)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    report = Report("Listing", parse_options("List many objects.", arguments))
    run_s3(report)
    run_file(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
