"""Cost of documents by themselves: ``python -m tests.perf.codec``.

Without offloading, processor time of dehydrate + hydrate is held against ``json.dumps`` (compact) and
``json.loads`` of the same documents. With offloading, on a file store in memory (``/dev/shm``), rates
are held against those that BubuStack's Go SDK reached on its own file store; they were measured on
another occasion, so they are constants here and the ratios depend on the machine. Nothing waits for
a disk there, so ours is processor time as well: other programs on the machine disturb it less.
Memory is the peak of a process that does nothing else, less what it has after its imports; the value
itself counts.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bubu_storage import FileSettings, ManagerSettings, StorageManager
from tests.perf.harness import Goal, Options, Report, Rounds, parse_options
from tests.perf.stores import folder_in_memory

# The Go SDK with its file store on tmpfs, two shared cores. Three runs gave
# ranges; the middle of each counts.
GO_SMALL_OUT_OBJECTS_PER_SECOND: Final = 23_000  # 18,000 to 28,000
GO_SMALL_BACK_OBJECTS_PER_SECOND: Final = 33_900  # three objects in each of 10,500 to 12,100 documents
GO_WIDE_OUT_OBJECTS_PER_SECOND: Final = 21_350  # 17,600 to 25,100
GO_WIDE_BACK_OBJECTS_PER_SECOND: Final = 29_300  # 26,300 to 32,300
GO_LONG_OUT_MIB_PER_SECOND: Final = 52.5  # 46 to 59
GO_LONG_BACK_MIB_PER_SECOND: Final = 74.5  # 62 to 87

MAX_JSON_RATIO: Final = 3.0
MIN_GO_OBJECTS_RATIO: Final = 0.5
MIN_GO_MIB_RATIO: Final = 2.0
MAX_PEAK_RATIO: Final = 4.0
MIB: Final = 1 << 20
LONG_MIB: Final = 50
FOLDER_BYTES: Final = 256 * MIB
FOLDER_FILES: Final = 20_000
_WORDS: Final = "the quick brown fox jumps over the lazy dog and runs home again "


def text_of(length: int, seed: int = 0) -> str:
    """Return readable text of so many characters, with a line break now and then."""
    line = f"{seed} {_WORDS}\n"
    text = line * (length // len(line))
    return text + "." * (length - len(text))


def order(number: int) -> dict[str, Any]:
    """Return a document of about 900 bytes, short enough to stay inline: mixed, nested, some floats."""
    return {
        "id": f"order-{number:06}",
        "customer": {"name": "Zoë Müller", "email": "zoe@example.com", "tags": ["new", "eu", "b2c"]},
        "items": [
            {"sku": f"sku-{item}", "count": item, "price": 9.75 + item, "taxed": item % 2 == 0, "note": None}
            for item in range(8)
        ],
        "totals": {"net": 123.45, "tax": 23.4555, "paid": True},
        "text": 'say "hi" & <bye>',
    }


def with_long_fields(number: int) -> dict[str, Any]:
    """Return a document of about 4 KiB with three fields of 1,280 bytes."""
    return {
        "id": number,
        "meta": {"kind": "step", "attempt": 1, "ok": True, "tags": ["a", "b", "c"]},
        **{name: text_of(1280, number) for name in ("prompt", "context", "answer")},
    }


def table(number: int) -> dict[str, Any]:
    """Return 1,000 rows of numbers and short texts."""
    return {"rows": [{"id": row, "value": row * 0.37, "name": f"row {number}-{row}"} for row in range(1000)]}


@contextmanager
def file_store(**settings: Any) -> Generator[StorageManager]:
    """Open a manager on a new directory in memory."""
    with (
        folder_in_memory(needed_bytes=FOLDER_BYTES, needed_files=FOLDER_FILES) as folder,
        StorageManager(ManagerSettings(backend=FileSettings(str(folder)), **settings)) as storage,
    ):
        yield storage


def cpu_seconds(action: Callable[..., object], *arguments: Any) -> float:
    """Return the processor time of a call, all threads."""
    started = time.process_time()
    action(*arguments)
    return time.process_time() - started


def wall_seconds(action: Callable[..., object], *arguments: Any) -> float:
    """Return the time that a call takes."""
    started = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - started


def dehydrate_all(storage: StorageManager, documents: list[Any]) -> list[Any]:
    """Dehydrate each document as a run of its own."""
    return [storage.dehydrate(document, run_id=f"flows/run-{n}") for n, document in enumerate(documents)]


def hydrate_all(storage: StorageManager, documents: list[Any]) -> list[Any]:
    """Hydrate each document."""
    return [storage.hydrate(document) for document in documents]


def round_trip(storage: StorageManager, documents: list[Any]) -> None:
    """Dehydrate and hydrate each document."""
    for document in documents:
        storage.hydrate(storage.dehydrate(document, run_id="flows/run"))


def json_round_trip(documents: list[Any]) -> None:
    """Do what every program that passes documents on does anyway."""
    for document in documents:
        json.loads(json.dumps(document, separators=(",", ":")))


def without_offloading(report: Report, options: Options) -> None:
    """Nothing is too long: what is left is walking, measuring and copying."""
    for case, documents, limit in (
        ("inline, 1,000 documents of 0.9 KiB", [order(n) for n in range(options.count(1000))], 1024),
        ("inline, 1,000 documents of 4 KiB", [with_long_fields(n) for n in range(options.count(1000))], MIB),
        ("inline, 10 documents of 1,000 rows", [table(n) for n in range(options.count(10))], MIB),
    ):
        if not options.wants(case):
            continue
        with StorageManager.in_memory(ManagerSettings(max_inline_size_bytes=limit)) as storage:
            if storage.dehydrate(documents[0], run_id="flows/run") != documents[0]:
                raise AssertionError(f"{case}: something was offloaded")
            rounds = Rounds(options.rounds, case)
            rounds.add("ours", partial(cpu_seconds, round_trip, storage, documents))
            rounds.add("json", partial(cpu_seconds, json_round_trip, documents))
            medians = rounds.medians()
        each = {name: f"{value / len(documents) * 1e6:.1f} µs a document" for name, value in medians.items()}
        ratio = medians["ours"] / medians["json"]
        report.add(
            case, "ours / json, processor time", ratio, figures=each, goal=Goal.below(ratio, MAX_JSON_RATIO)
        )


def with_offloading(report: Report, options: Options) -> None:
    """Many small objects on a file store in memory."""
    small = [with_long_fields(n) for n in range(options.count(1000))]
    wide = [{f"field{i}": text_of(2048, i) for i in range(options.count(1000))} for _ in range(10)]
    for case, documents, objects, go_out, go_back in (
        (
            *("offloaded, 1,000 documents of 4 KiB with 3 long fields", small, 3),
            *(GO_SMALL_OUT_OBJECTS_PER_SECOND, GO_SMALL_BACK_OBJECTS_PER_SECOND),
        ),
        (
            *("offloaded, 10 documents of 1,000 fields of 2 KiB", wide, len(wide[0])),
            *(GO_WIDE_OUT_OBJECTS_PER_SECOND, GO_WIDE_BACK_OBJECTS_PER_SECOND),
        ),
    ):
        if not options.wants(case):
            continue
        with file_store() as storage:
            references = dehydrate_all(storage, documents)
            if hydrate_all(storage, references) != documents:
                raise AssertionError(f"{case}: what comes back is wrong")
            rounds = Rounds(options.rounds, case)
            rounds.add("out", partial(cpu_seconds, dehydrate_all, storage, documents))
            rounds.add("back", partial(cpu_seconds, hydrate_all, storage, references))
            medians = rounds.medians()
        for name, go in (("out", go_out), ("back", go_back)):
            rate = objects * len(documents) / medians[name]
            figures = {"ours": f"{rate:,.0f} objects/s", "Go": f"{go:,} objects/s"}
            goal = Goal.at_least(rate / go, MIN_GO_OBJECTS_RATIO)
            report.add(f"{case}, {name}", "ours / Go", rate / go, figures=figures, goal=goal)


def long_text(report: Report, options: Options) -> None:
    """One text of 50 MiB: rate, and memory of a process of its own."""
    case = f"one text of {LONG_MIB} MiB"
    if not options.wants(case):
        return
    rounds = Rounds(options.rounds, case, keep_order=True)
    last: dict[str, float] = {}

    def run() -> float:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            last.update(pool.apply(measure_long_text, (LONG_MIB * MIB,)))
        return last["out"]

    rounds.add("out", run)
    rounds.add("back", lambda: last["back"])
    rounds.add("memory", lambda: last["memory"])
    medians = rounds.medians()
    for name, go in (("out", GO_LONG_OUT_MIB_PER_SECOND), ("back", GO_LONG_BACK_MIB_PER_SECOND)):
        rate = LONG_MIB / medians[name]
        figures = {"ours": f"{rate:.0f} MiB/s", "Go": f"{go:.0f} MiB/s"}
        goal = Goal.at_least(rate / go, MIN_GO_MIB_RATIO)
        report.add(f"{case}, {name}", "ours / Go", rate / go, figures=figures, goal=goal)
    ratio = medians["memory"] / (LONG_MIB * MIB)
    figures = {"peak": f"{medians['memory'] / MIB:.0f} MiB above the imports"}
    report.add(
        f"{case}, memory", "peak / value", ratio, figures=figures, goal=Goal.below(ratio, MAX_PEAK_RATIO)
    )


def peak_bytes() -> int:
    """Return the most memory that this process has had resident.

    Not ``ru_maxrss``: that begins with the peak of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell the peak")


def measure_long_text(size_bytes: int) -> dict[str, float]:
    """Send a long text out and back; return seconds, and peak memory in bytes. Runs in a new process."""
    with file_store() as storage:
        storage.hydrate(storage.dehydrate("x" * 2000, run_id="flows/first"))
        before = peak_bytes()
        text = text_of(size_bytes)
        started = time.process_time()
        reference = storage.dehydrate(text, run_id="flows/run")
        between = time.process_time()
        back = storage.hydrate(reference)
        ended = time.process_time()
        peak = peak_bytes()
        assert back == text
    return {"out": between - started, "back": ended - between, "memory": float(peak - before)}


def main() -> int:
    """Measure everything."""
    options = parse_options(__doc__ or "")
    report = Report("Documents: dehydrate and hydrate", options)
    without_offloading(report, options)
    with_offloading(report, options)
    long_text(report, options)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
