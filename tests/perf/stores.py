"""Stores for benchmarks: a versitygw over a folder in memory, filled behind its back.

Its objects are plain files, so a hundred thousand of them are there in a second or two; the time
that an upload would take is not what these benchmarks measure. The folder lies in memory where
the system has such a place: then the programs are measured, and not the disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.settings import S3Settings
from tests.s3server.gateway import VersityGateway

__all__ = [
    "BUCKET",
    "POOL",
    "PREFIX",
    "SMALL_OBJECT_BYTES",
    "fill",
    "folder_in_memory",
    "gateway",
    "open_ours",
    "open_sdk",
]

BUCKET: Final = "bench"
PREFIX: Final = "outputs/"
POOL: Final = 64
"""Connections that ours and the SDK may open."""

_MEMORY: Final = Path("/dev/shm")
SMALL_OBJECT_BYTES: Final = 8192
"""What a small object takes at most: a page, and its entry with its attributes."""
_RUN: Final = 100
_BODY: Final = b'{"step":"done"}\n'


@contextmanager
def folder_in_memory(*, needed_bytes: int, needed_files: int = 0) -> Generator[Path]:
    """A temporary folder, in memory where so much room can be had (containers often have 64 MB)."""
    base = _MEMORY if _has_room(_MEMORY, needed_bytes, needed_files) else None
    with tempfile.TemporaryDirectory(prefix="bubu-perf-", dir=base) as name:
        yield Path(name)


def _has_room(folder: Path, needed_bytes: int, needed_files: int) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    facts = os.statvfs(folder)
    # Some file systems count no files.
    enough_files = not facts.f_files or facts.f_favail >= needed_files
    return enough_files and facts.f_bavail * facts.f_frsize >= needed_bytes


@contextmanager
def gateway(
    *, needed_bytes: int = 0, needed_files: int = 0, bucket: str = BUCKET
) -> Generator[VersityGateway]:
    """A running server with one empty bucket.

    Args:
        needed_bytes: of large objects.
        needed_files: how many small objects there will be.
        bucket: its name.
    """
    room = needed_bytes + needed_files * SMALL_OBJECT_BYTES
    with (
        folder_in_memory(needed_bytes=room, needed_files=needed_files) as folder,
        VersityGateway(folder) as server,
    ):
        server.create_bucket(bucket)
        yield server


def fill(folder: Path, count: int, *, namespace: str = "ns", age_seconds: float = 0.0) -> None:
    """Put small objects into a folder that is a bucket or a file store: a hundred a run.

    Args:
        folder: of the bucket.
        count: of objects.
        namespace: the folder below the prefix that the runs lie in.
        age_seconds: how old they look.
    """
    then = time.time() - age_seconds
    for number in range(count):
        directory = f"{folder}/{PREFIX}{namespace}/run-{number // _RUN:06d}"
        if number % _RUN == 0:
            os.makedirs(directory, exist_ok=True)  # noqa: PTH103 - a Path each costs more than the file
        descriptor = os.open(f"{directory}/step-{number % _RUN:03d}.json", os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(descriptor, _BODY)
        if age_seconds:
            os.utime(descriptor, (then, then))
        os.close(descriptor)


def open_ours(server: VersityGateway, endpoint: str) -> S3Backend:
    """The library's backend on the bucket."""
    return S3Backend(
        S3Settings(
            bucket=BUCKET,
            endpoint=endpoint,
            region=server.region,
            use_path_style=True,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
        )
    )


def open_sdk(server: VersityGateway, endpoint: str) -> Any:
    """The SDK's client with the settings that ours has."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            max_pool_connections=POOL,
            tcp_keepalive=True,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
