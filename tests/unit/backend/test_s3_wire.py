"""What the S3 backend sends, and how it bears stores that are slow, odd, old or broken."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import socketserver
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.s3_clock import StoreClock
from bubu_storage.backend.s3_upload import parts_of, plan_part_size
from bubu_storage.errors import (
    BucketNotFoundError,
    ConfigurationError,
    LimitExceededError,
    ObjectNotFoundError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    is_not_found,
)
from bubu_storage.settings import MIN_PART_SIZE_BYTES, S3Settings
from tests.unit.backend.scripted_server import Answer, error, scripted_server, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bubu_storage.backend.s3 import S3Backend
    from tests.unit.backend.scripted_server import Request

    Open = Callable[[S3Settings], S3Backend]

PART = MIN_PART_SIZE_BYTES


def sha256(data: bytes) -> str:
    """Return a checksum as S3 writes it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


# ---- writing


def test_single_put(open_s3: Open) -> None:
    """A small body is one request with length, type, checksum, encryption and metadata."""
    with scripted_server(lambda _: Answer(headers={"ETag": '"e"'})) as server:
        backend = open_s3(settings_for(server, sse="aws:kms", sse_kms_key_id="key-1"))
        etag = backend.put_object("a b/+%é", b"body", content_type="application/json", metadata={"Run": "r"})
    (request,) = server.requests
    assert '"e"' == etag
    assert ("PUT", "/bucket/a b/+%é", b"body") == (request.method, request.path, request.body)
    expected = {
        "content-length": "4",
        "content-type": "application/json",
        "x-amz-checksum-sha256": sha256(b"body"),
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        "x-amz-meta-run": "r",
    }
    assert expected == {name: request.headers.get(name) for name in expected}
    # The SDK's trailers and chunks are what many compatible stores cannot read.
    assert "aws-chunked" not in request.headers.get("content-encoding", "")
    assert "transfer-encoding" not in request.headers


class Multipart:
    """A store that takes parts; ``complete`` answers the completing request."""

    def __init__(self, complete: Callable[[Multipart], Answer] | None = None) -> None:
        self.parts: dict[int, bytes] = {}
        self.events: list[str] = []
        self.lock = threading.Lock()
        self.in_flight = self.peak = 0
        self.complete = complete or (
            lambda _: Answer(body=b"<CompleteMultipartUploadResult><ETag>&quot;done-2&quot;</ETag>"
                             b"</CompleteMultipartUploadResult>")
        )  # fmt: skip
        self.head = Answer(404)
        self.part: Callable[[int, Request], Answer | None] = lambda _number, _request: None

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if request.method == "HEAD":
            return self.head
        if request.method == "POST" and "uploads" in request.query:
            self.events.append("create")
            return Answer(
                body=b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
            )
        if request.method == "PUT":
            return self._take(int(request.query["partNumber"]), request)
        self.events.append("complete" if request.method == "POST" else "abort")
        return self.complete(self) if request.method == "POST" else Answer(204)

    def _take(self, number: int, request: Request) -> Answer:
        with self.lock:
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        try:
            scripted = self.part(number, request)
            if scripted is not None:
                return scripted
            with self.lock:
                self.parts[number] = request.body
                self.events.append("part")
            digest = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
            headers = {"ETag": f'"{digest}"', "x-amz-checksum-sha256": sha256(request.body)}
            return Answer(headers=headers)
        finally:
            with self.lock:
                self.in_flight -= 1

    def etag(self) -> str:
        """Return the ETag that S3 gives the object."""
        digests = b"".join(
            hashlib.md5(self.parts[number], usedforsecurity=False).digest() for number in sorted(self.parts)
        )
        return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(self.parts)}"'


def test_upload_in_parts(open_s3: Open) -> None:
    """Each part has its SHA-256; the completing request has them in its list and none for the whole."""
    store = Multipart()
    data = bytes(range(256)) * (2 * PART // 256) + b"rest"
    with scripted_server(store) as server:
        backend = open_s3(settings_for(server, sse="AES256"))
        assert '"done-2"' == backend.put_object("k", data, content_type="text/plain", metadata={"a": "b"})
    assert ["create", "part", "part", "part", "complete"] == store.events
    assert data == b"".join(store.parts[number] for number in (1, 2, 3))
    create = server.requests[0]
    assert "SHA256" == create.headers["x-amz-checksum-algorithm"]
    assert "text/plain" == create.headers["content-type"]
    assert ("AES256", "b") == (
        create.headers["x-amz-server-side-encryption"],
        create.headers["x-amz-meta-a"],
    )
    for request in server.requests:
        if request.method == "PUT":
            assert sha256(request.body) == request.headers["x-amz-checksum-sha256"]
    complete = server.requests[-1]
    assert not [name for name in complete.headers if name.startswith("x-amz-checksum")]
    listed = re.findall(rb"<ChecksumSHA256>(.*?)</ChecksumSHA256>", complete.body)
    assert [sha256(store.parts[number]).encode() for number in (1, 2, 3)] == listed


def test_parts_are_sent_side_by_side_within_the_limit(open_s3: Open) -> None:
    """As many as allowed, no more; the source is not read further ahead than that."""
    store = Multipart()
    drawn = 0
    ahead: list[int] = []
    together = threading.Barrier(3)

    def part(number: int, _request: Request) -> None:
        if number <= 3:
            together.wait(60)
        ahead.append(drawn - len(store.parts))

    store.part = part

    def source() -> Iterator[bytes]:
        nonlocal drawn
        for _ in range(12):
            drawn += 1
            yield bytes(PART)

    with scripted_server(store) as server:
        open_s3(settings_for(server, concurrency=3)).put_object("k", source())
    assert 12 == len(store.parts)
    assert 3 == store.peak
    assert max(ahead) <= 3 + 2


def test_failing_part_aborts_after_the_others(open_s3: Open) -> None:
    """Exactly one abort, after every part has ended, and no completing request."""
    store = Multipart()
    store.part = lambda number, _: error(403, "AccessDenied") if number == 2 else None
    with scripted_server(store) as server, pytest.raises(PermissionDeniedError, match=r"'k'.*written"):
        open_s3(settings_for(server, concurrency=2)).put_object("k", iter([bytes(PART)] * 6))
    assert "abort" == store.events[-1]
    assert 1 == store.events.count("abort")
    assert "complete" not in store.events
    assert len(store.parts) < 6


def test_failing_source_aborts(open_s3: Open) -> None:
    """The caller's own error comes back as it is, and nothing is left in the store."""
    failure = ConnectionResetError("the source broke")

    def source() -> Iterator[bytes]:
        yield bytes(3 * PART)
        raise failure

    store = Multipart()
    with scripted_server(store) as server, pytest.raises(ConnectionResetError) as caught:
        open_s3(settings_for(server)).put_object("k", source())
    assert failure is caught.value
    assert "abort" == store.events[-1]


def test_failing_abort_does_not_hide_the_cause(open_s3: Open) -> None:
    """What went wrong first is what is told."""
    store = Multipart()
    store.part = lambda number, _: error(403, "AccessDenied") if number == 1 else None

    def script(request: Request) -> Answer:
        return error(404, "NoSuchUpload") if request.method == "DELETE" else store(request)

    with scripted_server(script) as server, pytest.raises(PermissionDeniedError):
        open_s3(settings_for(server)).put_object("k", bytes(2 * PART))


@pytest.mark.parametrize("failure", [error(404, "NoSuchUpload"), error(500, "InternalError")])
def test_lost_answer_of_the_completing_request(open_s3: Open, failure: Answer) -> None:
    """An upload that was completed although we heard otherwise is a success, known by its ETag."""
    store = Multipart(lambda _: failure)

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(headers={"ETag": store.etag()})
        return store(request)

    with scripted_server(script) as server:
        etag = open_s3(settings_for(server)).put_object("k", bytes(PART + 1))
    assert store.etag() == etag
    assert "abort" not in store.events


def test_failed_completing_request_with_an_older_object(open_s3: Open) -> None:
    """Another object under the key is no proof of success."""
    store = Multipart(lambda _: error(500, "InternalError"))
    store.head = Answer(headers={"ETag": '"an-older-one"'})
    with scripted_server(store) as server, pytest.raises(UnavailableError):
        open_s3(settings_for(server)).put_object("k", bytes(PART + 1))
    assert "abort" == store.events[-1]


def test_error_inside_a_successful_answer(open_s3: Open) -> None:
    """S3 may say 200 to a completing request and tell the error in the body."""
    store = Multipart(lambda _: replace(error(200, "InternalError"), status=200))
    with scripted_server(store) as server, pytest.raises(StorageError, match="InternalError"):
        open_s3(settings_for(server)).put_object("k", bytes(PART + 1))


def test_store_that_refuses_checksums(open_s3: Open) -> None:
    """Asked once; from then on they are left out."""

    def script(request: Request) -> Answer:
        refused = "x-amz-checksum-sha256" in request.headers
        return error(501, "NotImplemented") if refused else Answer(headers={"ETag": '"e"'})

    with scripted_server(script) as server:
        backend = open_s3(settings_for(server))
        for _ in range(2):
            assert '"e"' == backend.put_object("k", b"x")
    assert 3 == len(server.requests)


def test_metadata_must_be_ascii(open_s3: Open) -> None:
    """HTTP headers cannot carry anything else."""
    with scripted_server(lambda _: Answer()) as server, pytest.raises(ConfigurationError, match="ASCII"):
        open_s3(settings_for(server)).put_object("k", b"x", metadata={"a": "é"})
    assert [] == server.requests


def test_part_size_follows_a_known_length() -> None:
    """10,000 parts is the limit of S3; a longer body gets larger parts."""
    assert 5 == plan_part_size(5, None)
    assert 5 == plan_part_size(5, 50_000)
    assert 6 == plan_part_size(5, 50_001)


def test_too_many_parts() -> None:
    """A stream of unknown length that needs more is refused with the way out."""
    parts = parts_of(iter([b"xx"] * 10_001), 2, size_bytes=None, key="k")
    with pytest.raises(LimitExceededError, match="announce its size"):
        list(parts)
    assert 10_000 == len(list(parts_of(iter([b"xx"] * 10_000), 2, size_bytes=None, key="k")))


# ---- reading


def test_wrong_checksum_is_noticed(open_s3: Open) -> None:
    """Where the store tells a checksum, bytes that do not match are an error, however they are read."""
    wrong = Answer(body=b"other bytes", headers={"x-amz-checksum-sha256": sha256(b"these bytes")})
    with scripted_server(lambda _: wrong) as server:
        backend = open_s3(settings_for(server))
        for sizes in ((-1,), (11,), (4, 7), (4, 4, 4)):
            with backend.get_object("k") as found, pytest.raises(UnavailableError, match="checksum"):
                [found.read(size) for size in sizes]
        with backend.get_object("k") as found, pytest.raises(UnavailableError, match="checksum"):
            list(found)
    assert "ENABLED" == server.requests[0].headers["x-amz-checksum-mode"]


def test_checksum_of_the_whole_does_not_spoil_a_range(open_s3: Open) -> None:
    """Some stores send the whole object's checksum with a part of it."""
    part = Answer(206, b"ell", {"Content-Range": "bytes 1-3/5", "x-amz-checksum-sha256": sha256(b"hello")})
    with (
        scripted_server(lambda _: part) as server,
        open_s3(settings_for(server)).get_object("k", range_header="bytes=1-3") as found,
    ):
        assert (b"ell", "bytes 1-3/5") == (found.read(), found.content_range)
    assert "bytes=1-3" == server.requests[0].headers["range"]
    assert "x-amz-checksum-mode" not in server.requests[0].headers


def test_body_that_breaks_off(open_s3: Open) -> None:
    """A connection that ends in the middle is an error, not a shorter object."""
    with scripted_server(lambda _: Answer(body=b"half", announced=10)) as server:
        backend = open_s3(settings_for(server))
        for size in (-1, 10, 3):
            with backend.get_object("k") as found, pytest.raises(UnavailableError):
                list(iter(partial(found.read, size), b""))


def begun(open_s3: Open, server: Any, seconds: float) -> Any:
    """Begin to get an object within so many seconds; a machine that stalls is given more for it."""
    for limit in (seconds, 5 * seconds):
        with contextlib.suppress(StorageTimeoutError):
            return open_s3(settings_for(server, timeout_seconds=limit)).get_object("k")
    return open_s3(settings_for(server, timeout_seconds=50 * seconds)).get_object("k")


def test_body_that_stops_coming(open_s3: Open) -> None:
    """Silence in the middle of a body ends with the time limit."""
    with scripted_server(lambda _: Answer(body=bytes(100), hang_after_bytes=10)) as server:
        started = time.monotonic()
        with begun(open_s3, server, 0.3) as found, pytest.raises(StorageTimeoutError):
            found.read()
        assert time.monotonic() - started < 60


class _Dripping(socketserver.StreamRequestHandler):
    """Announces 8 MiB and gives a few bytes at a time, for as long as somebody listens."""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\nETag: "e"\r\n\r\n')
        with contextlib.suppress(OSError):
            while not self.server.released.wait(0.02):
                self.wfile.write(b"drop")


class _DrippingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@pytest.mark.parametrize("size", [-1, 1000, 6 * 1024 * 1024])
def test_body_that_drips(open_s3: Open, size: int) -> None:
    """Bytes that keep coming, each in time, hold nobody longer than the limit for the whole body."""
    with _DrippingServer(("127.0.0.1", 0), _Dripping) as server:
        server.released = threading.Event()
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            address = SimpleNamespace(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
            for seconds in (0.5, 5.0, 30.0):
                started = time.monotonic()
                with begun(open_s3, address, seconds) as found, pytest.raises(StorageTimeoutError) as caught:
                    list(iter(partial(found.read, size), b""))
                took = time.monotonic() - started
                if "not read to its end within" in str(caught.value):
                    break  # else no drop came in time: the machine stalled
            assert "not read to its end within" in str(caught.value)
            assert took < 60
        finally:
            server.released.set()
            server.shutdown()
            serving.join()


# ---- a missing bucket is never "not found"


@pytest.mark.parametrize("bucket_answer", [200, 403, 500])
@pytest.mark.parametrize("method", ["head_object", "get_object"])
def test_missing_object(open_s3: Open, method: str, bucket_answer: int) -> None:
    """A 404 without text is about the object unless the bucket is known to be missing."""

    def script(request: Request) -> Answer:
        if request.path == "/bucket":
            return page() if bucket_answer == 200 else Answer(bucket_answer)
        return Answer(404)

    with scripted_server(script) as server, pytest.raises(ObjectNotFoundError) as caught:
        getattr(open_s3(settings_for(server)), method)("k")
    assert is_not_found(caught.value)


@pytest.mark.parametrize("method", ["head_object", "get_object", "delete_object"])
def test_missing_bucket(open_s3: Open, method: str) -> None:
    """A 404 without text is about the bucket when the bucket itself answers so."""
    with (
        scripted_server(lambda _: Answer(404)) as server,
        pytest.raises(BucketNotFoundError, match="s3://bucket") as caught,
    ):
        getattr(open_s3(settings_for(server)), method)("k")
    assert not is_not_found(caught.value)


def test_unknown_credentials_behind_an_answer_without_text(open_s3: Open) -> None:
    """Some stores answer 404 to an unknown access key: it is neither the object nor the bucket."""

    def script(request: Request) -> Answer:
        return Answer(404) if request.method == "HEAD" else error(404, "XAdminUserNotFound")

    with scripted_server(script) as server, pytest.raises(UnauthenticatedError):
        open_s3(settings_for(server)).head_object("k")


# ---- deleting


def test_batch_delete_on_the_wire(open_s3: Open) -> None:
    """One request with Content-MD5, quiet; per-key errors come back, "not found" counts as gone."""
    answer = (
        b"<DeleteResult>"
        b"<Error><Key>denied</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        b"<Error><Key>gone</Key><Code>NoSuchKey</Code><Message>no</Message></Error>"
        b"<Error><Key>busy</Key><Code>SlowDown</Code><Message>no</Message></Error>"
        b"</DeleteResult>"
    )
    with scripted_server(lambda _: Answer(body=answer)) as server:
        failed = open_s3(settings_for(server)).delete_objects(["fine", "denied", "gone", "busy", "<&>"])
    assert {"denied": PermissionDeniedError, "busy": ThrottledError} == {
        key: type(one) for key, one in failed.items()
    }
    (request,) = server.requests
    assert ("POST", "/bucket", {"delete": ""}) == (request.method, request.path, request.query)
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    assert base64.b64encode(digest).decode() == request.headers["content-md5"]
    assert b"<Quiet>true</Quiet>" in request.body
    assert b"<Key>&lt;&amp;&gt;</Key>" in request.body
    # In the signature, else a store may refuse it.
    assert "content-md5" in request.headers["authorization"]


@pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed"])
def test_store_without_batches(open_s3: Open, code: str) -> None:
    """Keys are deleted one by one, and the store is not asked again."""

    def script(request: Request) -> Answer:
        if request.method == "POST":
            return error(501 if code == "NotImplemented" else 405, code)
        return error(403, "AccessDenied") if request.path.endswith("/b") else Answer(204)

    with scripted_server(script) as server:
        backend = open_s3(settings_for(server))
        for _ in range(2):
            failed = backend.delete_objects(["a", "b", "c"])
            assert ["b"] == list(failed)
            assert isinstance(failed["b"], PermissionDeniedError)
        assert backend.bulk_delete_is_emulated
    methods = [request.method for request in server.requests]
    assert ["POST", *["DELETE"] * 6] == methods


def test_keys_that_xml_cannot_carry_are_deleted_singly(open_s3: Open) -> None:
    """Control characters have no form in XML 1.0; such a key must not spoil the batch."""
    with scripted_server(lambda _: Answer(body=b"<DeleteResult/>")) as server:
        assert {} == open_s3(settings_for(server)).delete_objects(["a", "b\x01", "c\n", "d\uffff"])
    assert ["POST", "DELETE", "DELETE", "DELETE"] == [request.method for request in server.requests]
    assert ["/bucket/b\x01", "/bucket/c\n", "/bucket/d\uffff"] == [
        request.path for request in server.requests[1:]
    ]


def test_whole_batch_failing(open_s3: Open) -> None:
    """A request that failed as a whole raises: nothing may be assumed of any key."""
    with (
        scripted_server(lambda _: error(503, "SlowDown", Retry_After="3")) as server,
        pytest.raises(ThrottledError, match="2 objects of s3://bucket") as caught,
    ):
        open_s3(settings_for(server)).delete_objects(["a", "b"])
    assert 3.0 == caught.value.retry_after_seconds


# ---- listing


def page(*keys: str, token: str = "", truncated: bool = False) -> Answer:
    """Return one page of a listing."""
    items = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag>"
        "<LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    facts = f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{more}{items}"
    text = f"<ListBucketResult>{facts}</ListBucketResult>"
    return Answer(body=text.encode(), headers={"Content-Type": "application/xml"})


def scripted_pages(*answers: Answer) -> Callable[[Request], Answer]:
    """Answer one request after the other."""
    rest = list(answers)
    return lambda _: rest.pop(0)


def test_listing_on_the_wire(open_s3: Open) -> None:
    """Prefix, start, page size and token are passed on; empty pages in between are skipped."""
    script = scripted_pages(
        page("p/b", token="t1", truncated=True), page(token="t2", truncated=True), page("p/c")
    )
    with scripted_server(script) as server:
        pages = list(open_s3(settings_for(server)).list_objects("p/", start_after="p/a", page_size=7))
    assert [["p/b"], ["p/c"]] == [[one.key for one in found.objects] for found in pages]
    assert datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC) == pages[0].objects[0].last_modified
    first, second, third = (request.query for request in server.requests)
    assert ("2", "p/", "p/a", "7") == (
        first["list-type"],
        first["prefix"],
        first["start-after"],
        first["max-keys"],
    )
    assert ("t1", "t2") == (second["continuation-token"], third["continuation-token"])


def test_pages_are_asked_for_when_needed(open_s3: Open) -> None:
    """Who takes one page pays for one request."""
    with scripted_server(lambda _: page("a", token="t", truncated=True)) as server:
        next(open_s3(settings_for(server)).list_objects())
    assert 1 == len(server.requests)


@pytest.mark.parametrize(
    "answers",
    [
        (page("a", token="t", truncated=True), page("b", token="t", truncated=True), page("c")),
        (page("a", truncated=True),),
        (page(token="t", truncated=True), page(token="u", truncated=True), page(token="t", truncated=True)),
    ],
    ids=["same token", "no token", "circle of empty pages"],
)
def test_listing_that_goes_in_circles(open_s3: Open, answers: tuple[Answer, ...]) -> None:
    """It ends with an error instead of never."""
    with (
        scripted_server(scripted_pages(*answers)) as server,
        pytest.raises(StorageError, match="continuation token") as caught,
    ):
        list(open_s3(settings_for(server)).list_objects())
    assert "ListingLoop" == caught.value.code


@pytest.mark.parametrize(
    ("start_after", "answers"),
    [
        ("", (page("b", "a"),)),
        ("", (page("a", "a"),)),
        ("", (page("a", "b", token="t", truncated=True), page("b", "c"))),
        ("m", (page("a", "n"),)),
        ("", (page("\U0001f600", "\uff5e"),)),
    ],
    ids=["unsorted", "twice", "overlapping pages", "start ignored", "UTF-16 order"],
)
def test_listing_out_of_order(open_s3: Open, start_after: str, answers: tuple[Answer, ...]) -> None:
    """A cursor would skip or repeat objects in such a listing: it is refused."""
    with (
        scripted_server(scripted_pages(*answers)) as server,
        pytest.raises(StorageError, match="byte order") as caught,
    ):
        list(open_s3(settings_for(server)).list_objects(start_after=start_after))
    assert "ListingOrder" == caught.value.code


def test_failure_on_a_later_page(open_s3: Open) -> None:
    """Pages that came stay; the error is not an early end."""
    script = scripted_pages(page("a", token="t", truncated=True), error(500, "InternalError"))
    with scripted_server(script) as server:
        pages = open_s3(settings_for(server)).list_objects()
        assert "a" == next(pages).objects[0].key
        with pytest.raises(UnavailableError, match="listed"):
            next(pages)


@pytest.mark.parametrize("text", [b"<html><body>Hello</body></html>", b"<Weird/>", b""])
def test_an_endpoint_that_is_no_store(open_s3: Open, text: bytes) -> None:
    """A web page in place of an answer is not an empty listing."""
    html = Answer(body=text, headers={"Content-Type": "text/html"})
    with scripted_server(lambda _: html) as server, pytest.raises(StorageError):
        list(open_s3(settings_for(server)).list_objects())


# ---- clock


def test_clock_of_the_store(open_s3: Open) -> None:
    """Taken from an answer's date and carried on; asked for where there was none yet."""
    with scripted_server(lambda _: page()) as server:
        backend = open_s3(settings_for(server))
        first = backend.server_time()
        assert ["HEAD"] == [request.method for request in server.requests]
        second = backend.server_time()
        assert 1 == len(server.requests)
    start = datetime(2026, 11, 21, 6, tzinfo=UTC)
    assert start <= first <= second < start + timedelta(seconds=20)


def test_clock_comes_with_a_refusal_too(open_s3: Open) -> None:
    """Whether the bucket may be looked at is another question."""
    with scripted_server(lambda _: Answer(403)) as server:
        assert 2026 == open_s3(settings_for(server)).server_time().year


def test_clock_of_a_store_that_does_not_tell(open_s3: Open) -> None:
    """No date, or no answer, is an error: guessing would decide about ages."""
    with scripted_server(lambda _: Answer(headers={"Date": ""})) as server:
        backend = open_s3(settings_for(server))
        with pytest.raises(StorageError, match="no Date header"):
            backend.server_time()
    with pytest.raises(UnavailableError):
        backend.server_time()


def test_an_old_date_is_not_carried_on() -> None:
    """After a minute the store is to be asked again; nonsense for a date is no date."""
    now = [100.0]
    clock = StoreClock(lambda: now[0])
    clock.note(SimpleNamespace(headers={"date": "soon"}))
    clock.note(SimpleNamespace(headers={}))
    clock.note(None)
    assert clock.now() is None
    clock.note(SimpleNamespace(headers={"date": "Sat, 21 Nov 2026 06:00:00 GMT"}))
    now[0] += 60
    assert datetime(2026, 11, 21, 6, 1, tzinfo=UTC) == clock.now()
    now[0] += 0.1
    assert clock.now() is None


# ---- the network


def test_store_that_never_answers(open_s3: Open) -> None:
    """It ends within the configured time, times the tries."""
    with scripted_server(lambda _: Answer(silent=True)) as server:
        for attempts in (1, 2):
            backend = open_s3(settings_for(server, timeout_seconds=0.3, max_attempts=attempts))
            for act in (
                lambda backend=backend: backend.get_object("k"),
                lambda backend=backend: list(backend.list_objects()),
                lambda backend=backend: backend.put_object("k", b"x"),
                lambda backend=backend: backend.delete_objects(["k"]),
            ):
                started = time.monotonic()
                with pytest.raises(StorageTimeoutError, match="in time"):
                    act()
                assert 0.3 * attempts <= time.monotonic() - started < 60


def test_store_that_accepts_and_does_nothing(open_s3: Open) -> None:
    """Also when a large body is to be sent into a socket that nobody reads."""
    with socket.create_server(("127.0.0.1", 0), backlog=5) as listener:
        settings = S3Settings(
            bucket="b",
            endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}",
            use_path_style=True,
            access_key_id="a",
            secret_access_key="b",
            max_attempts=1,
            connect_timeout_seconds=0.5,
            timeout_seconds=0.5,
        )
        backend = open_s3(settings)
        for act in (lambda: backend.head_object("k"), lambda: backend.put_object("k", bytes(PART))):
            started = time.monotonic()
            with pytest.raises(StorageTimeoutError):
                act()
            assert time.monotonic() - started < 60


def test_nobody_listens(open_s3: Open) -> None:
    """A refused connection is "unavailable" and names the store, not the credentials."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = S3Settings(
        bucket="b",
        endpoint=f"http://127.0.0.1:{port}",
        use_path_style=True,
        access_key_id="AKIDPLANTED",
        secret_access_key="planted-secret",
        max_attempts=2,
        max_backoff_seconds=0.01,
    )
    with pytest.raises(UnavailableError, match=r"s3://b cannot be listed.*cannot be reached") as caught:
        list(open_s3(settings).list_objects())
    assert "planted" not in str(caught.value).lower()


def test_unknown_host(open_s3: Open) -> None:
    """A name that cannot be resolved is "unavailable"."""
    settings = S3Settings(
        bucket="b",
        endpoint="http://no-such-host.invalid",
        use_path_style=True,
        anonymous=True,
        max_attempts=1,
    )
    with pytest.raises(UnavailableError):
        open_s3(settings).head_object("k")


def test_redirect_to_another_region(open_s3: Open) -> None:
    """A redirect is followed nowhere; the right region is told."""

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(
                301, headers={"Location": "http://127.0.0.1:1/", "x-amz-bucket-region": "eu-west-3"}
            )
        return error(
            301, "PermanentRedirect", x_amz_bucket_region="eu-west-3", Location="http://127.0.0.1:1/"
        )

    with scripted_server(script) as server, pytest.raises(ConfigurationError, match="eu-west-3"):
        list(open_s3(settings_for(server)).list_objects())


def test_planted_credentials_in_no_error(open_s3: Open) -> None:
    """A store that echoes what it was sent does not get credentials into a message."""

    def script(request: Request) -> Answer:
        return error(400, "Odd", f"{request.headers['authorization']} planted-secret {request.path}")

    with scripted_server(script) as server:
        backend = open_s3(settings_for(server, session_token="planted-token"))
        for act in (
            lambda: backend.get_object("k"),
            lambda: backend.put_object("k", b"x"),
            lambda: backend.delete_objects(["k"]),
            lambda: list(backend.list_objects()),
        ):
            with pytest.raises(StorageError) as caught:
                act()
            text = f"{caught.value} {caught.value!r} {caught.value.code}"
            assert "planted" not in text.lower()
            assert not re.search(r"Signature=[0-9a-f]", text)
