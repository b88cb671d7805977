"""Blobs as files on a real S3 server: parts in parallel, nothing torn, constant memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage import ManagerSettings, StorageManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bubu_storage.settings import S3Settings

MIB = 1024 * 1024
STREAM_MIB = 200
GROWTH_MIB = 64
"""5 parts of 5 MiB under way, one that is being put together, 2 MiB of pieces: 32 MiB of buffers.
The allocator keeps up to 20 MiB more for the threads that send them."""


@pytest.fixture
def storage(s3_settings: S3Settings) -> Iterator[StorageManager]:
    """A manager on a fresh bucket."""
    with StorageManager(ManagerSettings(backend=s3_settings)) as manager:
        yield manager


def child(settings: S3Settings, code: str) -> subprocess.Popen[str]:
    """Start a process that has a manager ``m`` on the bucket."""
    start = """
        import os, signal, sys
        from bubu_storage import *
        m = StorageManager.from_env()
        MIB = 1 << 20
    """
    env = {
        **os.environ,
        "BUBU_STORAGE_PROVIDER": "s3",
        "BUBU_STORAGE_S3_BUCKET": settings.bucket,
        "BUBU_STORAGE_S3_ENDPOINT": settings.endpoint,
        "BUBU_STORAGE_S3_REGION": settings.region,
        "BUBU_S3_ACCESS_KEY_ID": settings.access_key_id,
        "BUBU_S3_SECRET_ACCESS_KEY": settings.secret_access_key,
    }
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )


def test_parts_and_jumps(storage: StorageManager) -> None:
    """A blob over several parts comes back the same, also from the middle."""
    body = os.urandom(MIB) * 17 + b"end"
    with storage.open_blob("d/x", "wb", content_type="text/csv") as blob:
        for start in range(0, len(body), 700_001):
            blob.write(body[start : start + 700_001])
    assert blob.etag.strip('"').endswith("-4")
    with storage.open_blob("d/x") as blob:
        assert (blob.info.size_bytes, blob.info.content_type) == (len(body), "text/csv")
        blob.seek(-10, 2)
        assert blob.read() == body[-10:]
        blob.seek(9 * MIB)
        assert blob.read(MIB) == body[9 * MIB : 10 * MIB]
        blob.seek(0)
        assert blob.read() == body


def test_an_aborted_blob_leaves_no_parts(storage: StorageManager, raw_client: Any, bucket: str) -> None:
    """The old object stays, and nothing is paid for."""
    storage.write_blob("x", b"old")

    def broken() -> None:
        with storage.open_blob("x", "wb") as blob:
            blob.write(b"x" * 12 * MIB)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        broken()
    assert b"old" == storage.read_blob("x")
    assert [] == raw_client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


@pytest.mark.parametrize("after_mib", [1, 4, 12, 23])
def test_a_killed_writer_tears_nothing(
    storage: StorageManager, s3_settings: S3Settings, after_mib: int
) -> None:
    """SIGKILL before the end: the old object stays whole, and a new one never appears."""
    storage.write_blob("old", b"old")
    writer = child(
        s3_settings,
        f"""
        with m.open_blob("old", "wb") as old, m.open_blob("new", "wb") as new:
            for blob in (old, new):
                for _ in range({after_mib}):
                    blob.write(b"x" * MIB)
            print("written", flush=True)
            signal.pause()
        """,
    )
    assert writer.stdout is not None
    with writer.stdout:
        assert "written\n" == writer.stdout.readline()
        writer.kill()
        assert -signal.SIGKILL == writer.wait(60)
    assert ["old"] == [item.key for item in storage.list_objects(".")]
    assert b"old" == storage.read_blob("old")


def test_memory_is_constant(s3_settings: S3Settings) -> None:
    """200 MiB go in and come out with little growth."""
    process = child(
        s3_settings,
        f"""
        # ru_maxrss would be that of the process that started this one, if it was larger.
        rss = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
        piece = os.urandom(MIB)
        m.write_blob("warm", piece)
        m.read_blob("warm")
        before = rss()
        with m.open_blob("x", "wb") as blob:
            for _ in range({STREAM_MIB}):
                blob.write(piece)
        written = rss()
        with m.open_blob("x") as blob:
            for _ in range({STREAM_MIB}):
                assert blob.read(MIB) == piece
            assert blob.read() == b""
        print(written - before, rss() - before)
        """,
    )
    out, _ = process.communicate(timeout=200)
    assert 0 == process.returncode
    writing, both = map(int, out.split())
    print(f"growth {writing} MiB while writing, {both} MiB in all")
    assert both < GROWTH_MIB
