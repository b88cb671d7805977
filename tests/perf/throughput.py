"""Puts and gets of our two S3 engines and of the file backend against what they are made of.

``python -m tests.perf.throughput``: 10,000 objects of 4 KiB and 8 of 64 MiB, 32 requests in flight, on
versitygw against boto3 and obstore by themselves, and on files against open, write, fsync and rename.

The peers get the same number of threads, the same payload and the same settings: path style, a
SHA-256 with each body, uploads in parts of 5 MiB with 5 in flight, and no retries for obstore.
A get counts when its bytes have been handed to the caller: whole, or (for large objects) also in
pieces of 1 MiB. Each contestant has objects of its own, which later rounds overwrite. Small objects take
boto3 long, and its rate does not depend on their number: it is measured on a quarter of them.

The server keeps its objects in memory, so that the programs are measured and not the disk. Files are
measured on both: in memory they show what the library adds, on disk what is left of it behind an fsync.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import obstore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from obstore.store import S3Store

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_obstore import ObstoreBackend
from bubu_storage.backend.types import ObjectBackend
from tests.perf.harness import Goal, Options, Report, Rounds, parse_options
from tests.perf.stores import folder_in_memory, gateway
from tests.s3server import VersityGateway

__all__ = ["main"]

_IN_FLIGHT: Final = 32
_PART_BYTES: Final = 5 * 1024 * 1024
_PARTS_IN_FLIGHT: Final = 5
_PIECE_BYTES: Final = 1024 * 1024
_GOAL: Final = 0.9
_SMALL_OBJECTS: Final = 10_000
_LARGE_OBJECTS: Final = 8
_SMALL_BYTES: Final = 4096
_LARGE_BYTES: Final = 64 * 1024 * 1024
_FAST: Final = "ours (obstore)"
_REFERENCE: Final = "ours (boto3)"
_OURS: Final = "ours"
_BUCKET: Final = "throughput"
_ROOM_BYTES: Final = 5 * (_SMALL_OBJECTS * 2 * _SMALL_BYTES + _LARGE_OBJECTS * _LARGE_BYTES)
"""For four contestants, and for the parts of uploads."""
_SAMPLED: Final = {_REFERENCE: 4, "boto3": 4}
"""Contestants that get only so manieth of the small objects."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to move objects.

    Attributes:
        put: stores bytes under a key.
        get: reads an object whole and returns its length.
        get_pieces: reads it in pieces and returns its length.
    """

    put: Callable[[str, bytes], object]
    get: Callable[[str], int]
    get_pieces: Callable[[str], int]


def ours(backend: ObjectBackend) -> Contestant:
    """Return one of our backends."""

    def get(key: str) -> int:
        with backend.get_object(key) as found:
            return len(found.read())

    def get_pieces(key: str) -> int:
        with backend.get_object(key) as found:
            return sum(map(len, found))

    return Contestant(backend.put_object, get, get_pieces)


def plain_boto3(server: VersityGateway) -> Contestant:
    """Return boto3 as its users write it."""
    client: Any = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=64),
    )
    checksum = {"ChecksumAlgorithm": "SHA256"}
    transfer = TransferConfig(
        multipart_threshold=_PART_BYTES + 1, multipart_chunksize=_PART_BYTES, max_concurrency=_PARTS_IN_FLIGHT
    )

    def put(key: str, data: bytes) -> None:
        if len(data) > _PART_BYTES:
            client.upload_fileobj(io.BytesIO(data), _BUCKET, key, ExtraArgs=checksum, Config=transfer)
        else:
            client.put_object(Bucket=_BUCKET, Key=key, Body=data, **checksum)

    def get(key: str) -> int:
        return len(client.get_object(Bucket=_BUCKET, Key=key)["Body"].read())

    def get_pieces(key: str) -> int:
        return sum(map(len, client.get_object(Bucket=_BUCKET, Key=key)["Body"].iter_chunks(_PIECE_BYTES)))

    return Contestant(put, get, get_pieces)


def plain_obstore(server: VersityGateway) -> Contestant:
    """Return obstore's synchronous API; its asynchronous one was measured to be no faster."""
    store = S3Store(
        _BUCKET,
        config={
            "endpoint": server.endpoint,
            "region": server.region,
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
            "checksum_algorithm": "SHA256",
        },
        client_options={"allow_http": True, "timeout": timedelta(minutes=5)},
        retry_config={"max_retries": 0},
    )

    def put(key: str, data: bytes) -> None:
        in_parts = len(data) > _PART_BYTES
        obstore.put(
            store,
            key,
            data,
            use_multipart=in_parts,
            chunk_size=_PART_BYTES,
            max_concurrency=_PARTS_IN_FLIGHT,
        )

    def get(key: str) -> int:
        return len(bytes(obstore.get(store, key).bytes()))

    def get_pieces(key: str) -> int:
        return sum(map(len, obstore.get(store, key).stream(min_chunk_size=_PIECE_BYTES)))

    return Contestant(put, get, get_pieces)


def plain_files(root: Path) -> Contestant:
    """Return what a careful programmer writes without a library."""

    def put(key: str, data: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def get(key: str) -> int:
        return len((root / key).read_bytes())

    def get_pieces(key: str) -> int:
        with (root / key).open("rb") as file:
            return sum(map(len, iter(lambda: file.read(_PIECE_BYTES), b"")))

    return Contestant(put, get, get_pieces)


class Bench:
    """Runs the cases.

    Args:
        options: the command line.
        report: takes the results.
        pool: the threads that all contestants share.
    """

    def __init__(self, options: Options, report: Report, pool: ThreadPoolExecutor) -> None:
        self._options = options
        self._report = report
        self._pool = pool

    def run(self, where: str, contestants: dict[str, Contestant], peers: tuple[str, ...]) -> None:
        """Measure puts and gets of small and of large objects.

        Args:
            where: the store, for titles.
            contestants: by name; those that are not peers are ours.
            peers: of whom the best counts.
        """
        for size, text, full in (
            (_SMALL_BYTES, "4 KiB", _SMALL_OBJECTS),
            (_LARGE_BYTES, "64 MiB", _LARGE_OBJECTS),
        ):
            count = self._options.count(full)
            data = os.urandom(size)
            cases: dict[str, Callable[[Contestant, str], object]] = {
                "put": lambda one, key, data=data: one.put(key, data),
                "get": lambda one, key: one.get(key),
            }
            if size > _PART_BYTES:
                cases["get in pieces"] = lambda one, key: one.get_pieces(key)
            stored = False
            for verb, act in cases.items():
                case = f"{where}: {verb} {text} x {count}"
                if not self._options.wants(case):
                    continue
                if verb != "put" and not stored:
                    for name, one in contestants.items():
                        self._all(one, name, _count_of(name, count, size), cases["put"])
                stored = True
                self._case(case, contestants, peers, (count, size), act)

    def _case(
        self,
        case: str,
        contestants: dict[str, Contestant],
        peers: tuple[str, ...],
        amount: tuple[int, int],
        act: Callable[[Contestant, str], object],
    ) -> None:
        full, size = amount
        counts = {name: _count_of(name, full, size) for name in contestants}
        rounds = Rounds(self._options.rounds, f"{case}, objects/s")
        for name, one in contestants.items():
            rounds.add(name, lambda one=one, name=name: self._all(one, name, counts[name], act))
        rates = rounds.medians()
        figures = {
            name: f"{size * rate / 2**20:,.0f} MiB/s" if size > _PART_BYTES else f"{rate:,.0f}/s"
            for name, rate in rates.items()
        }
        for name, count in counts.items():
            if count != full:
                figures[name] += f" (of {count:,})"
        best = max(peers, key=rates.__getitem__)
        for name in (name for name in contestants if name not in peers):
            value = rates[name] / rates[best]
            # Files have none: the plain reader follows links, and knows neither ETags nor conditions.
            goal = Goal.at_least(value, _GOAL) if name == _FAST else None
            self._report.add(case, f"{name} / {best}", value, figures=figures, goal=goal)

    def _all(self, one: Contestant, name: str, count: int, act: Callable[[Contestant, str], object]) -> float:
        prefix = "".join(char for char in name if char.isalnum())
        keys = [f"{prefix}/{number % 100}/{number}" for number in range(count)]
        started = time.perf_counter()
        for future in [self._pool.submit(act, one, key) for key in keys]:
            future.result()
        return count / (time.perf_counter() - started)


def _count_of(name: str, full: int, size: int) -> int:
    """Return how many objects a contestant gets."""
    return max(1, full // _SAMPLED.get(name, 1)) if size == _SMALL_BYTES else full


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = parse_options(__doc__.splitlines()[0], arguments)
    report = Report("Throughput: objects stored and read, 32 at a time", options)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_IN_FLIGHT))
        bench = Bench(options, report, pool)
        server = stack.enter_context(gateway(needed_bytes=_ROOM_BYTES, bucket=_BUCKET))
        settings = server.settings(_BUCKET)
        fast = stack.enter_context(closing(ObstoreBackend(settings)))
        reference = stack.enter_context(closing(S3Backend(settings)))
        contestants = {
            _FAST: ours(fast),
            _REFERENCE: ours(reference),
            "boto3": plain_boto3(server),
            "obstore": plain_obstore(server),
        }
        bench.run("S3", contestants, ("boto3", "obstore"))
        if fast.repeated:
            print(f"{fast.repeated} requests of the fast engine were repeated by the other", file=sys.stderr)
        in_memory = stack.enter_context(folder_in_memory(needed_bytes=_ROOM_BYTES))
        on_disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bubu-perf-")))
        for where, folder in (("files in memory", in_memory), ("files on disk", on_disk)):
            files = stack.enter_context(closing(FileBackend(str(folder / "ours"))))
            bench.run(where, {_OURS: ours(files), "plain": plain_files(folder / "plain")}, ("plain",))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
