"""The S3 backend on a real S3 server beyond the common contract: large bodies, wrong settings, leftovers."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.listing import for_each_page
from bubu_storage.backend.probe import Capability, probe_backend
from bubu_storage.errors import (
    BucketNotFoundError,
    PermissionDeniedError,
    StorageError,
    UnauthenticatedError,
    is_not_found,
)
from bubu_storage.testing.acceptance import keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.backend.types import ListPage
    from bubu_storage.settings import S3Settings
    from tests.s3server import VersityGateway

MIB = 1024 * 1024


def operations(backend: S3Backend) -> dict[str, Callable[[], object]]:
    """Return every operation of a backend, ready to run."""
    return {
        "put": lambda: backend.put_object("k", b"x"),
        "put large": lambda: backend.put_object("k", bytes(6 * MIB)),
        "get": lambda: backend.get_object("k"),
        "head": lambda: backend.head_object("k"),
        "delete": lambda: backend.delete_object("k"),
        "delete many": lambda: backend.delete_objects(["k"]),
        "list": lambda: list(backend.list_objects()),
    }


def uploads(client: Any, bucket: str) -> list[Any]:
    """Return the unfinished uploads of a bucket."""
    return client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def test_twelve_mebibytes(s3_backend: S3Backend, raw_client: Any, bucket: str) -> None:
    """A body over 5 MiB, on which the Go implementation fails here, makes the round trip."""
    data = random.Random(12).randbytes(12 * MIB)
    s3_backend.put_object("big", data, size_bytes=len(data), content_type="application/json")
    with s3_backend.get_object("big") as found:
        assert data == found.read()
        assert "application/json" == found.info.content_type
    with s3_backend.get_object("big", range_header=f"bytes={5 * MIB - 3}-{5 * MIB + 2}") as found:
        assert data[5 * MIB - 3 : 5 * MIB + 3] == found.read()
    assert [] == uploads(raw_client, bucket)
    head = raw_client.head_object(Bucket=bucket, Key="big", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"')


@pytest.mark.parametrize("size", [5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 10 * MIB + 1])
def test_around_the_part_size(s3_backend: S3Backend, size: int) -> None:
    """At the edges no byte is lost, doubled or put elsewhere, from memory or from a stream."""
    data = random.Random(size).randbytes(size)
    pieces = [data[start : start + 777_777] for start in range(0, size, 777_777)]
    for body in (data, iter(pieces)):
        s3_backend.put_object("edge", body)
        with s3_backend.get_object("edge") as found:
            assert hashlib.sha256(data).digest() == hashlib.sha256(found.read()).digest()


def test_streaming_needs_little_memory(s3_backend: S3Backend) -> None:
    """Ten times as long a stream takes no more memory; neither way is the body held."""

    def peak(mebibytes: int) -> int:
        tracemalloc.start()
        s3_backend.put_object("stream", (bytes(MIB) for _ in range(mebibytes)))
        with s3_backend.get_object("stream") as found:
            assert mebibytes * MIB == sum(map(len, found))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small = peak(20)
    assert peak(200) < small + 30 * MIB
    assert small < 80 * MIB


def test_store_keeps_our_checksums(s3_backend: S3Backend, raw_client: Any, bucket: str) -> None:
    """So that any reader can verify what it reads."""
    s3_backend.put_object("sum", b"body")
    head = raw_client.head_object(Bucket=bucket, Key="sum", ChecksumMode="ENABLED")
    assert "ChecksumSHA256" in head


def test_failed_upload_leaves_nothing(s3_backend: S3Backend, raw_client: Any, bucket: str) -> None:
    """A source that breaks, or is too short, in the middle of an upload leaves no parts behind."""

    def broken() -> Iterator[bytes]:
        yield bytes(11 * MIB)
        assert uploads(raw_client, bucket), "the upload is under way"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        s3_backend.put_object("broken", broken())
    with pytest.raises(StorageError, match="announced"):
        s3_backend.put_object("short", iter([bytes(11 * MIB)]), size_bytes=12 * MIB)
    assert [] == uploads(raw_client, bucket)
    assert [] == keys_of(s3_backend.list_objects())


def test_interrupted_upload_leaves_nothing(s3_backend: S3Backend, raw_client: Any, bucket: str) -> None:
    """Ctrl-C in the middle of an upload aborts it as well."""

    def interrupted() -> Iterator[bytes]:
        yield bytes(11 * MIB)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        s3_backend.put_object("k", interrupted())
    assert [] == uploads(raw_client, bucket)


def test_missing_bucket(s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """Whatever is asked of it, it is a missing bucket and never a missing object."""
    backend = open_s3(replace(s3_settings, bucket="there-is-no-such-bucket"))
    for name, act in operations(backend).items():
        with pytest.raises(BucketNotFoundError, match="there-is-no-such-bucket") as caught:
            act()
        assert not is_not_found(caught.value), name


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_credentials(
    s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend], wrong: str
) -> None:
    """They are said as such, on every operation, and shown in none of the messages."""
    settings = replace(s3_settings, **{wrong: "planted-and-wrong"})
    backend = open_s3(settings)
    for act in operations(backend).values():
        with pytest.raises(UnauthenticatedError) as caught:
            act()
        for secret in (settings.access_key_id, settings.secret_access_key):
            assert secret not in str(caught.value)


def test_anonymous_access_is_refused(
    s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]
) -> None:
    """A private bucket is not for everybody."""
    settings = replace(s3_settings, access_key_id="", secret_access_key="", anonymous=True)
    for act in operations(open_s3(settings)).values():
        with pytest.raises(PermissionDeniedError):
            act()


def test_wrong_region(s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """The store says which region it is in, and the request is signed again for that one."""
    backend = open_s3(replace(s3_settings, region="eu-central-1"))
    backend.put_object("k", b"x")
    assert ["k"] == keys_of(backend.list_objects())


@pytest.mark.parametrize("write", [True, False])
def test_probe_of_a_wrong_region(
    s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend], write: bool
) -> None:
    """HEAD is refused there and nothing tells why, so a store that takes the rest is not fit for use."""
    backend = open_s3(replace(s3_settings, region="eu-central-1"))
    with pytest.raises(StorageError, match="check region and endpoint"):
        probe_backend(backend, write=write)
    assert [] == keys_of(backend.list_objects())


def test_probe(s3_backend: S3Backend) -> None:
    """All is seen but what this server ignores in silence; the clocks agree, and nothing is left."""
    report = probe_backend(s3_backend)
    assert {Capability.CONDITIONAL_BULK_DELETE} == set(Capability) - set(report.capabilities)
    assert report.versioned is not True
    assert abs(report.clock_skew_seconds) < 60
    assert 0 < report.latency_seconds < 60
    assert [] == keys_of(s3_backend.list_objects())
    assert (Capability.LIST,) == probe_backend(s3_backend, write=False).capabilities
    s3_backend.put_object("empty", b"")
    assert (Capability.READ, Capability.LIST) == probe_backend(s3_backend, write=False).capabilities


def test_clock(s3_backend: S3Backend) -> None:
    """The store's clock is read from its answers; here it is this machine's."""
    assert abs(s3_backend.server_time() - datetime.now(UTC)) < timedelta(seconds=3)


def test_age_by_the_files_of_the_server(
    s3_backend: S3Backend, s3_server: VersityGateway, bucket: str
) -> None:
    """An object aged by its file's mtime looks old through the API: what age tests rely on."""
    s3_backend.put_object("a/old", b"x")
    then = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    os.utime(s3_server.path_of(bucket, "a/old"), (then.timestamp(), then.timestamp()))
    assert then == next(s3_backend.list_objects()).objects[0].last_modified
    assert then == s3_backend.head_object("a/old").last_modified


def test_thousands_of_keys(s3_backend: S3Backend, s3_server: VersityGateway, bucket: str) -> None:
    """2,500 keys come in three pages, in order, and go in three requests."""
    for number in range(2500):
        path = s3_server.path_of(bucket, f"p/{number % 10}/{number:04}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    pages = list(s3_backend.list_objects("p/"))
    keys = [one.key for page in pages for one in page.objects]
    assert [1000, 1000, 500] == [len(page.objects) for page in pages]
    assert sorted(f"p/{number % 10}/{number:04}" for number in range(2500)) == keys
    for start in range(0, 2500, 1000):
        assert {} == s3_backend.delete_objects(keys[start : start + 1000])
    assert [] == list(s3_backend.list_objects())


def test_listing_by_callback(s3_backend: S3Backend, s3_server: VersityGateway, bucket: str) -> None:
    """Pages of 1,000 of the wanted keys; an error of the callback ends it after as many requests."""
    for key in [*(f"p/{number % 10}/{number:04}" for number in range(2500)), *map("q/{}".format, range(10))]:
        path = s3_server.path_of(bucket, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    pages: list[ListPage] = []
    requests: list[object] = []
    events: Any = s3_backend._session.client.meta.events
    events.register("request-created.s3.ListObjectsV2", lambda **_: requests.append(None))
    for_each_page(s3_backend, "p/", pages.append)
    keys = [one.key for page in pages for one in page.objects]
    assert [1000, 1000, 500] == [len(page.objects) for page in pages]
    assert sorted(f"p/{number % 10}/{number:04}" for number in range(2500)) == keys
    assert 3 == len(requests)
    requests.clear()
    for_each_page(s3_backend, "nothing/", pages.append)
    assert (3, 1) == (len(pages), len(requests))
    requests.clear()
    failure = RuntimeError("enough")
    seen: list[ListPage] = []

    def stop_at_two(page: ListPage) -> None:
        seen.append(page)
        if len(seen) == 2:
            raise failure

    with pytest.raises(RuntimeError) as caught:
        for_each_page(s3_backend, "p/", stop_at_two)
    assert failure is caught.value
    assert (2, 2) == (len(seen), len(requests))


def test_one_backend_for_many_threads(s3_backend: S3Backend) -> None:
    """More threads than kept connections, each with its own objects."""
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(5):
                body = f"{worker}:{number}".encode()
                s3_backend.put_object(f"t/{worker}/{number}", body)
                with s3_backend.get_object(f"t/{worker}/{number}") as found:
                    assert body == found.read()
        except (StorageError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert 120 == len(keys_of(s3_backend.list_objects("t/")))
