"""The resilient backend on a real S3 server: ranges, pages, lost answers, broken bodies, circuits, memory."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.breaker import CircuitBreakerBackend
from bubu_storage.backend.circuit_events import CircuitState
from bubu_storage.backend.config import BackendConfig, CircuitConfig
from bubu_storage.backend.copying import copy_object, materialised_copy, stream_copy
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import (
    BackendUnavailableError,
    CopyError,
    CopyPhase,
    RangeNotSatisfiableError,
    TransientError,
    UnavailableError,
    is_copy_phase,
    is_not_found,
)
from bubu_storage.testing.fakes import CountingBackend, Operation
from tests.s3.fault_proxy import fault_proxy
from tests.unit.backend.scripted_server import error, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bubu_storage.backend.s3 import S3Backend
    from bubu_storage.settings import S3Settings
    from tests.s3.fault_proxy import FaultProxy
    from tests.s3server import VersityGateway

MIB = 1024 * 1024


@pytest.fixture
def proxy(s3_server: VersityGateway) -> Iterator[FaultProxy]:
    """A proxy in front of the server."""
    with fault_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def far(proxy: FaultProxy, s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]) -> S3Backend:
    """The bucket through the proxy, each request tried once."""
    return open_s3(replace(s3_settings, endpoint=proxy.endpoint, max_attempts=1, timeout_seconds=30.0))


# ---- what a store answers


def test_ranges(s3_backend: S3Backend) -> None:
    """Parts are as long as they are, and outside is 416, after which all is well (resilience case 19)."""
    data = random.Random(19).randbytes(1000)
    s3_backend.put_object("k", data)
    for header, start, content_range in (
        ("", 0, ""),
        ("bytes=0-99", 0, "bytes 0-99/1000"),
        ("bytes=-100", 900, "bytes 900-999/1000"),
        ("bytes=900-", 900, "bytes 900-999/1000"),
    ):
        with s3_backend.get_object("k", range_header=header) as found:
            expected = data[start : start + (100 if header else 1000)]
            assert (expected, len(expected)) == (found.read(), found.info.size_bytes)
            assert content_range == found.content_range
    breaker = CircuitBreakerBackend(s3_backend, threshold=1)
    with pytest.raises(RangeNotSatisfiableError) as caught:
        breaker.get_object("k", range_header="bytes=1000-")
    assert 416 == caught.value.status
    assert 1000 == breaker.head_object("k").size_bytes


def test_types_and_metadata(s3_backend: S3Backend) -> None:
    """Without a type there is the usual one; metadata comes back (resilience case 20)."""
    s3_backend.put_object("k", b"x", content_type="", metadata={"a": "1"})
    found = s3_backend.head_object("k")
    assert found.content_type in {"application/octet-stream", "binary/octet-stream"}
    assert {"a": "1"} == dict(found.metadata)


def test_pages(far: S3Backend, proxy: FaultProxy, raw_client: Any, bucket: str) -> None:
    """2,500 keys come in pages of 1,000, asked for one after the other (resilience case 23)."""
    wanted = sorted(f"p/{number}" for number in range(2500))

    def put(key: str) -> None:
        raw_client.put_object(Bucket=bucket, Key=key, Body=b"")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, [*wanted, *(f"q/{number}" for number in range(10))]))
    breaker = CircuitBreakerBackend(far)
    pages = [[one.key for one in page.objects] for page in breaker.list_objects("p/")]
    assert ([1000, 1000, 500], wanted) == (
        [len(page) for page in pages],
        [key for page in pages for key in page],
    )
    assert [] == list(breaker.list_objects("nothing/"))

    proxy.requests.clear()
    stop = ValueError("the caller has had enough")

    def walk() -> None:
        for number, _ in enumerate(breaker.list_objects("p/"), start=1):
            if number == 2:
                raise stop

    with pytest.raises(ValueError, match="had enough") as caught:
        walk()
    assert (stop, 2) == (caught.value, proxy.count("GET"))
    assert 0 == breaker.circuit.failures


# ---- copies


def is_copy(method: str, headers: dict[str, str]) -> bool:
    """Tell a copy from other requests."""
    return method == "PUT" and "x-amz-copy-source" in headers


@pytest.mark.parametrize("existed", [False, True])
def test_a_copy_whose_answer_is_lost(far: S3Backend, proxy: FaultProxy, *, existed: bool) -> None:
    """The store has made it; the destination tells, and nothing is sent twice (resilience case 25)."""
    far.put_object("k", b"x" * 1000, content_type="text/x")
    if existed:
        far.put_object("l", b"y" * 1000)
    proxy.lose_answer = is_copy
    proxy.requests.clear()
    etag = copy_object(far, "k", "l")
    assert 1 == proxy.count("PUT")
    with far.get_object("l") as found:
        assert (b"x" * 1000, etag) == (found.read(), found.info.etag)


@pytest.mark.parametrize("existing", [None, b"y" * 1000])
def test_a_copy_that_never_arrived(far: S3Backend, proxy: FaultProxy, existing: bytes | None) -> None:
    """The destination has not changed: the bytes are moved, with one put (resilience case 25)."""
    far.put_object("k", b"x" * 1000, content_type="text/x", metadata={"a": "1"})
    if existing is not None:
        far.put_object("l", existing)
    proxy.lose_request = is_copy
    proxy.requests.clear()
    counting = CountingBackend(far)
    copy_object(counting, "k", "l")
    assert (1, 2) == (counting.counts[Operation.PUT], proxy.count("PUT"))
    with far.get_object("l") as found:
        assert b"x" * 1000 == found.read()
        assert ("text/x", {"a": "1"}) == (found.info.content_type, dict(found.info.metadata))


@pytest.mark.parametrize("size", [1000, 12 * MIB])
@pytest.mark.parametrize("copy", [stream_copy, materialised_copy])
def test_copies_between_stores(far: S3Backend, copy: Callable[..., str], size: int) -> None:
    """There and back again, in one request or in parts, the object is the same."""
    data = random.Random(size).randbytes(size)
    memory = MemoryBackend()
    memory.put_object("k", data, content_type="text/x", metadata={"a": "1"})
    copy(memory, far, "k", destination_key="l")
    copy(far, memory, "l")
    with memory.get_object("l") as found:
        assert data == found.read()
        assert ("text/x", {"a": "1"}) == (found.info.content_type, dict(found.info.metadata))


@pytest.mark.parametrize("size", [1000, 12 * MIB])
@pytest.mark.parametrize("copy", [stream_copy, materialised_copy])
def test_the_side_at_fault(
    far: S3Backend, s3_backend: S3Backend, proxy: FaultProxy, copy: Callable[..., str], size: int
) -> None:
    """A source that fails or breaks off is read, a destination that fails is write (resilience case 26)."""
    far.put_object("k", bytes(size))
    s3_backend.put_object("l", b"old")
    with pytest.raises(CopyError) as missing:
        copy(far, s3_backend, "nothing", destination_key="l")
    assert is_not_found(missing.value)
    proxy.break_body = lambda method, _: method == "GET"
    breaker = CircuitBreakerBackend(s3_backend, threshold=1)
    with pytest.raises(CopyError) as broken:
        copy(far, breaker, "k", destination_key="l")
    assert CircuitState.CLOSED is breaker.state
    proxy.break_body = lambda *_: False
    proxy.lose_request = lambda method, _: method in {"PUT", "POST"}
    with pytest.raises(CopyError) as refused:
        copy(s3_backend, far, "l", destination_key="m")
    phases = [is_copy_phase(caught.value, CopyPhase.READ) for caught in (missing, broken, refused)]
    assert [True, True, False] == phases
    assert is_copy_phase(refused.value, CopyPhase.WRITE)
    with s3_backend.get_object("l") as found:
        assert b"old" == found.read()


# ---- circuits


def test_a_store_that_dies_and_comes_back(far: S3Backend, proxy: FaultProxy) -> None:
    """Each operation fails, the circuit opens and spares the store; a probe closes it again."""
    far.put_object("k", b"x" * 1000)
    now = [0.0]
    breaker = CircuitBreakerBackend(far, threshold=3, monotonic=lambda: now[0], rng=lambda: 0.0)
    proxy.lose_request = lambda *_: True
    acts: list[Callable[[], object]] = [
        lambda: breaker.put_object("k", b"y"),
        lambda: breaker.get_object("k"),
        lambda: list(breaker.list_objects()),
    ]
    for act in acts:
        assert CircuitState.CLOSED is breaker.state
        with pytest.raises(UnavailableError):
            act()
    assert CircuitState.OPEN is breaker.state
    asked = len(proxy.requests)
    for act in (*acts, lambda: breaker.head_object("k"), lambda: breaker.copy_object("k", "l")):
        with pytest.raises(BackendUnavailableError):
            act()
    assert asked == len(proxy.requests)
    proxy.lose_request = lambda *_: False
    now[0] += 300
    with breaker.get_object("k") as found:
        assert b"x" * 1000 == found.read()
    assert CircuitState.CLOSED is breaker.state


def test_half_a_body_counts(far: S3Backend, proxy: FaultProxy) -> None:
    """As long as bodies break, the circuit opens although each answer began well (resilience case 14)."""
    far.put_object("k", bytes(MIB))
    breaker = CircuitBreakerBackend(far, threshold=2)
    proxy.break_body = lambda method, _: method == "GET"
    for expected in (UnavailableError, BackendUnavailableError):
        with breaker.get_object("k") as found, pytest.raises(expected):
            found.read()
    assert CircuitState.OPEN is breaker.state


def test_missing_objects_open_nothing(s3_backend: S3Backend) -> None:
    """A real 404, to GET and HEAD, is an answer (resilience case 11)."""
    breaker = CircuitBreakerBackend(s3_backend, threshold=1)
    for _ in range(10):
        for act in (breaker.get_object, breaker.head_object):
            with pytest.raises(FileNotFoundError):
                act("nothing")
        breaker.delete_object("nothing")
    assert (CircuitState.CLOSED, 0) == (breaker.state, breaker.circuit.failures)


def test_wrong_credentials_open(s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """Five refusals do (resilience case 11)."""
    breaker = CircuitBreakerBackend(open_s3(replace(s3_settings, secret_access_key="wrong")))
    for _ in range(5):
        with pytest.raises((PermissionError, BackendUnavailableError)):
            breaker.get_object("k")
    assert CircuitState.OPEN is breaker.state


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1", "http://store.invalid", "https://127.0.0.1:{port}"]
)
def test_nobody_there(
    s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend], proxy: FaultProxy, endpoint: str
) -> None:
    """Refused, unknown by name, or not speaking TLS: five times open (resilience case 11)."""
    where = endpoint.format(port=proxy.endpoint.rpartition(":")[2])
    breaker = CircuitBreakerBackend(open_s3(replace(s3_settings, endpoint=where, max_attempts=1)))
    for _ in range(5):
        assert CircuitState.CLOSED is breaker.state
        with pytest.raises(UnavailableError) as caught:
            breaker.head_object("k")
    assert isinstance(caught.value, BackendUnavailableError)
    assert CircuitState.OPEN is breaker.state


def test_throttling_opens(s3_settings: S3Settings, open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """Five requests for mercy do, in the store's own words (resilience case 11)."""
    for status, code in ((503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError")):
        with scripted_server(lambda _, status=status, code=code: error(status, code)) as server:
            settings = replace(s3_settings, endpoint=server.endpoint, max_attempts=1)
            breaker = CircuitBreakerBackend(open_s3(settings))
            for _ in range(5):
                with pytest.raises(TransientError):
                    breaker.get_object("k")
            assert CircuitState.OPEN is breaker.state
            with pytest.raises(BackendUnavailableError):
                breaker.get_object("k")
            assert 5 == len(server.requests)


# ---- configured backends, connections, memory


def config(s3_server: VersityGateway, bucket: str, **values: Any) -> BackendConfig:
    """Return the configuration of a bucket."""
    return BackendConfig(
        **{
            "name": "main",
            "endpoint": s3_server.endpoint,
            "region": s3_server.region,
            "bucket": bucket,
            "access_key_id": s3_server.access_key,
            "secret_access_key": s3_server.secret_key,
            "force_path_style": True,
            **values,
        }
    )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"circuit": CircuitConfig()},
        {"unsigned_payload": True},
        {"disable_checksum": True},
        {"strip_sdk_headers": True},
        {"engine": "obstore"},
        {"engine": "obstore", "unsigned_payload": True, "circuit": CircuitConfig()},
        {"unsigned_payload": True, "disable_checksum": True, "strip_sdk_headers": True},
    ],
    ids=str,
)
def test_configured_backends_work(s3_server: VersityGateway, bucket: str, values: dict[str, Any]) -> None:
    """Whatever is left out of the requests, a real server accepts them."""
    backend = config(s3_server, bucket, **values).open()
    try:
        for body in (b"small", bytes(6 * MIB)):
            backend.put_object("k", iter([body]))
            with backend.get_object("k") as found:
                assert body == found.read()
        assert ["k"] == [one.key for page in backend.list_objects() for one in page.objects]
        backend.delete_object("k")
    finally:
        backend.close()


def test_connections_are_bounded(s3_server: VersityGateway, bucket: str, proxy: FaultProxy) -> None:
    """500 readers at once share 200 connections, and all of them succeed (resilience case 28)."""
    backend = config(s3_server, bucket, endpoint=proxy.endpoint).open()
    full = threading.Event()

    def hold() -> None:
        # Nobody is answered before as many are here as may be: only then is the bound put to the test.
        if proxy.connections >= 200:
            full.set()
        assert full.wait(60)

    def read(_: int) -> bytes:
        with backend.get_object("k") as found:
            return found.read()

    try:
        full.set()
        backend.put_object("k", b"x" * 100)
        full.clear()
        proxy.hold = hold
        with ThreadPoolExecutor(500) as pool:
            bodies = list(pool.map(read, range(500)))
    finally:
        full.set()
        backend.close()
    assert ([b"x" * 100] * 500, 200) == (bodies, proxy.most_connections)


UPLOAD = """
import os, sys, tempfile
from bubu_storage.backend.s3 import S3Backend
from bubu_storage.settings import S3Settings

endpoint, region, bucket, folder = sys.argv[1:]
tempfile.tempdir = folder
settings = S3Settings(
    bucket=bucket, region=region, endpoint=endpoint, use_path_style=True, unsigned_payload=False,
    access_key_id=os.environ["KEY"], secret_access_key=os.environ["SECRET"],
)
backend = S3Backend(settings)
backend.put_object("warm", iter([bytes(6 * 2**20)]))
piece = os.urandom(2**20)

def peak():
    # ru_maxrss would be that of the process that started this one, if it was larger.
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0])

before = peak()
backend.put_object("big", (piece for _ in range(200)))
print(peak() - before, backend.head_object("big").size_bytes, len(os.listdir(folder)))
backend.close()
"""


def test_a_long_signed_stream_needs_little_memory(
    s3_server: VersityGateway, bucket: str, tmp_path: Path
) -> None:
    """200 MiB that can be read only once cost less than 64 MiB, and no file is left (resilience case 22)."""
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, s3_server.endpoint, s3_server.region, bucket, str(tmp_path)],
        env={"KEY": s3_server.access_key, "SECRET": s3_server.secret_key, "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    growth_kib, size, files = map(int, done.stdout.split())
    assert (200 * MIB, 0) == (size, files)
    assert growth_kib < 64 * 1024
