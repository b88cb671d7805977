"""Hydrate of documents with many references: ``python -m tests.perf.hydrate``.

The peer is the loop that one would write by hand: for one reference after another, get the object
through the same backend, ``json.loads``, take the data. Measured on versitygw with each S3 engine, as
it is and with 20 ms of latency for each request (a loopback proxy holds them), and on a file store.
The documents are flat (references side by side), or have two levels (each reference leads to a
document with more). With latency the loop reads every fifth object: it takes as long for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from bubu_storage import ConfigurationError, FileSettings, ManagerSettings, S3Settings, StorageManager
from bubu_storage.wire import STORAGE_REF_KEY
from tests.perf.codec import text_of, wall_seconds
from tests.perf.harness import Goal, Options, Report, Rounds, parse_options
from tests.perf.latency_proxy import LatencyProxy
from tests.perf.stores import SMALL_OBJECT_BYTES, folder_in_memory, gateway

REFERENCES: Final = 1000
GROUPS: Final = 50
WORKERS: Final = 32
LATENCY_SECONDS: Final = 0.02
MIN_RATIO: Final = 25.0
TEXT_BYTES: Final = 2048
BUCKET: Final = "hydrate"


@dataclass(frozen=True, slots=True)
class Documents:
    """What is hydrated, and what comes out."""

    flat: Any
    flat_whole: Any
    nested: Any
    nested_whole: Any


def write_documents(storage: StorageManager, count: int) -> Documents:
    """Store a flat document with so many references, and one with two levels."""
    flat = {f"field{i}": text_of(TEXT_BYTES, i) for i in range(count)}
    in_group = max(1, count // GROUPS - 1)
    groups = {
        f"group{g}": {f"field{i}": text_of(TEXT_BYTES, i) for i in range(in_group)} for g in range(GROUPS)
    }
    references: dict[str, Any] = {}
    for name, group in groups.items():
        inner = storage.dehydrate(group, run_id=f"flows/{name}")
        body = json.dumps({"contentType": "json", "data": inner}).encode()
        storage.write_blob(f"outputs/flows/{name}.json", body)
        references[name] = {STORAGE_REF_KEY: f"outputs/flows/{name}.json"}
    return Documents(storage.dehydrate(flat, run_id="flows/flat"), flat, references, groups)


def loop(storage: StorageManager, document: Any, step: int) -> int:
    """Fetch every so-manieth reference of a document and what it leads to, one after another."""
    fetched = 0
    for reference in list(document.values())[::step]:
        with storage.backend.get_object(reference[STORAGE_REF_KEY]) as found:
            data = json.loads(found.read())["data"]
        fetched += 1
        if isinstance(data, dict):
            fetched += loop(storage, data, 1)
    return fetched


def measure(
    report: Report,
    options: Options,
    store: str,
    settings: FileSettings | S3Settings,
    *,
    latency_seconds: float,
) -> None:
    """Compare on one store."""
    step = 5 if latency_seconds else 1
    with StorageManager(ManagerSettings(backend=settings, max_workers=WORKERS)) as storage:
        documents = write_documents(storage, options.count(REFERENCES))
        for shape, document, whole in (
            ("flat", documents.flat, documents.flat_whole),
            ("two levels", documents.nested, documents.nested_whole),
        ):
            case = f"{store}, {latency_seconds * 1e3:.0f} ms, {shape}"
            if not options.wants(case):
                continue
            if storage.hydrate(document) != whole:
                raise AssertionError(f"{case}: hydrate is wrong")
            objects = sum(1 for _ in _keys(documents, shape))
            fetched = loop(storage, document, step)
            rounds = Rounds(options.rounds, case)
            rounds.add("ours", partial(wall_seconds, storage.hydrate, document))
            rounds.add("loop", partial(wall_seconds, loop, storage, document, step))
            medians = rounds.medians()
            ours, peer = medians["ours"] / objects, medians["loop"] / fetched
            figures = {"ours": f"{ours * 1e6:,.0f} µs an object", "loop": f"{peer * 1e6:,.0f} µs an object"}
            wanted = latency_seconds > 0 and store.endswith("auto") and shape == "flat"
            goal = Goal.at_least(peer / ours, MIN_RATIO) if wanted else None
            report.add(case, "loop / ours", peer / ours, figures=figures, goal=goal)


def _keys(documents: Documents, shape: str) -> Iterator[str]:
    if shape == "flat":
        yield from documents.flat_whole
        return
    for name, group in documents.nested_whole.items():
        yield name
        yield from group


@contextmanager
def bucket(latency_seconds: float) -> Generator[S3Settings]:
    """Run an S3 server behind so much latency; settings of a bucket on it."""
    with ExitStack() as stack:
        server = stack.enter_context(gateway(needed_files=4 * REFERENCES, bucket=BUCKET))
        endpoint = server.endpoint
        if latency_seconds:
            endpoint = stack.enter_context(LatencyProxy(endpoint, latency_seconds)).endpoint
        yield server.settings(BUCKET, endpoint=endpoint)


def main() -> int:
    """Measure everything."""
    options = parse_options(__doc__ or "")
    report = Report("Hydrate against a loop", options)
    room = {"needed_bytes": 4 * REFERENCES * SMALL_OBJECT_BYTES, "needed_files": 4 * REFERENCES}
    with folder_in_memory(**room) as folder:
        measure(report, options, "file", FileSettings(str(folder)), latency_seconds=0)
    for latency_seconds in (0.0, LATENCY_SECONDS):
        with bucket(latency_seconds) as settings:
            for engine in ("auto", "boto3"):
                try:
                    measure(
                        *(report, options, f"versitygw, engine {engine}"),
                        replace(settings, engine=engine),
                        latency_seconds=latency_seconds,
                    )
                except ConfigurationError as error:
                    print(f"left out: {error}", file=sys.stderr)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
