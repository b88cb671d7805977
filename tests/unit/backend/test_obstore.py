"""The two S3 engines cannot be told apart: same results, same errors, on stores that are odd or broken."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_obstore import ObstoreBackend
from bubu_storage.backend.s3_obstore_forms import md5_of
from bubu_storage.errors import (
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageTimeoutError,
    UnavailableError,
)
from bubu_storage.settings import MIN_PART_SIZE_BYTES
from tests.unit.backend.scripted_server import Answer, error, scripted_server, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bubu_storage.backend.types import ObjectBackend
    from tests.unit.backend.scripted_server import Request, ScriptedServer

REGION = {"x-amz-bucket-region": "eu-west-3"}
MODIFIED = "Sat, 21 Nov 2026 05:00:00 GMT"
BIG = 5 * 1024 * 1024 + 7


def etag_of(data: bytes) -> str:
    """Return the ETag of a plain object."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def found(data: bytes, status: int = 200, **headers: str) -> Answer:
    """Return an object."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, data, {"ETag": etag_of(data), "Last-Modified": MODIFIED} | names)


@contextmanager
def fast(
    script: Callable[[Request], Answer], **changes: Any
) -> Iterator[tuple[ObstoreBackend, ScriptedServer]]:
    """Open the fast engine on a scripted server."""
    with (
        scripted_server(script) as server,
        closing(ObstoreBackend(settings_for(server, **changes))) as backend,
    ):
        yield backend, server


def read(backend: ObjectBackend, key: str = "k", range_header: str = "") -> object:
    """Read an object and return everything that a caller sees."""
    with backend.get_object(key, range_header=range_header) as result:
        return result.read(), result.info, result.content_range


def beside(act: Callable[[], object]) -> object:
    """Run on another thread than the main one, as the threads of a program do."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


OPERATIONS: dict[str, Callable[[ObjectBackend], object]] = {
    "get": read,
    "get range": lambda backend: read(backend, range_header="bytes=1-3"),
    "get end": lambda backend: read(backend, range_header="bytes=-2"),
    "get odd range": lambda backend: read(backend, range_header="bytes=3-1"),
    "head": lambda backend: backend.head_object("k"),
    "put": lambda backend: backend.put_object("k", b"body", metadata={"Run": "r 1"}),
    "put nothing": lambda backend: backend.put_object("k", b"", content_type=""),
    "put large": lambda backend: beside(lambda: backend.put_object("k", bytes(BIG))),
}
"""What a backend can be asked, and what is compared."""

STORES: dict[str, Callable[[Request], Answer]] = {
    "object": lambda request: _object(request, b"0123456789"),
    "empty object": lambda request: _object(request, b""),
    "metadata": lambda request: _object(
        request,
        b"x",
        **{"Content-Type": "a/b; c=d", "x-amz-meta-Story": "s 1", "x-amz-meta-content-type": "other"},
    ),
    "headers of HTTP": lambda request: _object(
        request,
        b"x",
        **{"Cache-Control": "no-store", "Content-Language": "de", "x-amz-meta-cache-control": "y"},
    ),
    "no facts": lambda request: _given(request, Answer(200, b"bare")),
    "no etag": lambda request: _given(request, Answer(200, b"bare", {"Last-Modified": MODIFIED})),
    "odd etag": lambda request: _given(request, Answer(200, b"bare", _facts('"odd"'))),
    "etag of another": lambda request: _given(request, Answer(200, b"bare", _facts(etag_of(b"x")))),
    "wrong checksum": lambda request: _given(
        request,
        Answer(200, b"bare", _facts(etag_of(b"x")) | {"x-amz-checksum-sha256": "A" * 43 + "="}),
    ),
    "short body": lambda request: _given(request, Answer(200, b"ba", _facts(etag_of(b"x")), announced=9)),
    "error inside of success": lambda request: (
        replace(error(500, "InternalError"), status=200)
        if "uploadId" in request.query and request.method == "POST"
        else _object(request, b"x")
    ),
    "404 object": lambda _: error(404, "NoSuchKey"),
    "404 bucket": lambda _: error(404, "NoSuchBucket"),
    "404 without text": lambda _: Answer(404),
    "404 something": lambda _: error(404, "NoSuchUpload"),
    "403": lambda _: error(403, "AccessDenied"),
    "403 without text": lambda _: Answer(403),
    "403 key": lambda _: error(403, "InvalidAccessKeyId"),
    "403 skew": lambda _: error(403, "RequestTimeTooSkewed"),
    "400": lambda _: error(400, "Odd"),
    "400 echo": lambda request: error(400, "Odd", f"{request.headers} planted-secret"),
    "401": lambda _: Answer(401),
    "405": lambda _: error(405, "MethodNotAllowed"),
    "412": lambda _: error(412, "PreconditionFailed"),
    "416": lambda _: error(416, "InvalidRange"),
    "429": lambda _: error(429, "TooManyRequests", Retry_After="3"),
    "500": lambda _: error(500, "InternalError"),
    "501": lambda _: error(501, "NotImplemented"),
    "503": lambda _: error(503, "SlowDown", Retry_After="7"),
    "504": lambda _: Answer(504),
    "301": lambda _: error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-3"),
    "302 away": lambda _: Answer(302, headers={"Location": "http://other.invalid/"} | REGION),
    "web page": lambda _: Answer(200, b"<html>", {"Content-Type": "text/html"}),
}
"""How a store may answer."""


def _facts(etag: str) -> dict[str, str]:
    return {"ETag": etag, "Last-Modified": MODIFIED}


def _given(request: Request, answer: Answer) -> Answer:
    """Answer reads as told, and writes without a body."""
    if request.method == "PUT" and not request.query:
        return replace(answer, body=b"", announced=None)
    return answer if request.method in {"GET", "HEAD"} else error(400, "Odd")


def _object(request: Request, data: bytes, **headers: str) -> Answer:
    """Answer like a store that has one object and takes everything."""
    if request.method == "POST" and "uploads" in request.query:
        text = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        return Answer(body=text)
    if request.method == "POST" and "uploadId" in request.query:
        return Answer(
            body=b"<CompleteMultipartUploadResult><ETag>&quot;all-2&quot;</ETag></CompleteMultipartUploadResult>"
        )
    if request.method == "PUT":
        return Answer(headers={"ETag": etag_of(request.body)})
    if "list-type" in request.query:
        return Answer(body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None or match.group(0) == "bytes=3-1":
        return replace(found(data), headers=found(data).headers | headers)
    first, last = match.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(len(data), int(last) + 1) if first and last else len(data)
    if start >= len(data):
        return error(416, "InvalidRange")
    part = Answer(206, data[start:end], dict(found(data).headers) | headers)
    part.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    return part


def outcome(backend: ObjectBackend, act: Callable[[ObjectBackend], object]) -> object:
    """Return what an operation gives or raises, as far as a caller can see it."""
    try:
        return act(backend)
    except StorageError as raised:
        after = getattr(raised, "retry_after_seconds", None)
        return type(raised), str(raised), raised.key, raised.status, raised.code, after


@pytest.mark.parametrize("store", STORES)
def test_engines_agree(store: str) -> None:
    """Whatever the store says, both engines return the same facts or raise the same error."""
    with scripted_server(STORES[store]) as server:
        settings = settings_for(server)
        with closing(S3Backend(settings)) as reference:
            expected = {name: outcome(reference, act) for name, act in OPERATIONS.items()}
        with closing(ObstoreBackend(settings)) as backend:
            for name, act in OPERATIONS.items():
                assert expected[name] == outcome(backend, act), name
            # Again: the fast path may be at rest now.
            assert expected["get"] == outcome(backend, read)


def test_fast_path_is_taken() -> None:
    """The frequent requests are made once, by obstore."""
    with fast(STORES["object"]) as (backend, server):
        for name in (
            "get",
            "get range",
            "get end",
            "head",
            "put",
            "put nothing",
            "put large",
        ):
            OPERATIONS[name](backend)
        for body in (bytearray(b"xy"), memoryview(b"wxyz")[1:3]):
            backend.put_object("k", body)
            assert b"xy" == server.requests[-1].body or body == server.requests[-1].body
        assert 0 == backend.repeated
    agents = {request.headers["user-agent"] for request in server.requests}
    assert 1 == len(agents)
    assert "boto" not in agents.pop().lower()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sse": "AES256"},
        {"sse": "aws:kms", "sse_kms_key_id": "key-1"},
        {"session_token": "planted-token"},
        {"access_key_id": "", "secret_access_key": "", "anonymous": True},
        {"checksums": False},
        {"unsigned_payload": True},
        {"unsigned_payload": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [4, BIG])
def test_what_is_sent(changes: dict[str, Any], size: int) -> None:
    """Everything that a store keeps or checks is sent alike: bytes, type, metadata, checksum, encryption."""
    relevant = re.compile(r"content-(type|length|encoding)|x-amz-(?!date|content-sha256).*|authorization")

    def sent(backend: ObjectBackend, server: ScriptedServer) -> list[object]:
        server.requests.clear()
        beside(
            lambda: backend.put_object("a b/+%é", bytes(size), content_type="a/b", metadata={"Run": "r 1"})
        )
        facts: list[object] = []
        for request in sorted(server.requests, key=lambda one: (one.method, sorted(one.query.items()))):
            headers = {name: value for name, value in request.headers.items() if relevant.fullmatch(name)}
            if "authorization" in headers:
                headers["authorization"] = headers["authorization"].split("/")[0]
            if request.method == "POST":
                headers = {name: value for name, value in headers.items() if name != "content-length"}
            body = b"" if request.method == "POST" else request.body
            facts.append((request.method, request.path, request.query, headers, body))
        return facts

    with scripted_server(STORES["object"]) as server:
        settings = settings_for(server, **changes)
        with closing(S3Backend(settings)) as reference:
            expected = sent(reference, server)
        with closing(ObstoreBackend(settings)) as backend:
            assert expected == sent(backend, server)
            assert 0 == backend.repeated


# ---- trying again


def test_passing_failure_is_tried_again() -> None:
    """What passes by itself is made good by the reference engine, with its pauses and its number of tries."""
    answers = [error(503, "SlowDown"), error(503, "SlowDown"), found(b"data")]
    with fast(lambda _: answers.pop(0), max_attempts=2) as (backend, server):
        with backend.get_object("k") as result:
            assert b"data" == result.read()
        assert 1 == backend.repeated
    agents = ["boto" in request.headers["user-agent"].lower() for request in server.requests]
    assert [False, True, True] == agents


def test_store_that_is_down_pays_for_one_engine() -> None:
    """After a failure the fast path rests, twice as long each time; what comes meanwhile is not doubled."""
    now = [100.0]
    down = [True]
    with scripted_server(lambda _: error(500, "InternalError") if down[0] else found(b"x")) as server:
        backend = ObstoreBackend(settings_for(server), monotonic=lambda: now[0])
        made = []
        for seconds in (0, 0.1, 0.4, 0.1, 0.8, 0.2, 1.9, 0.2):
            now[0] += seconds
            before = len(server.requests)
            with pytest.raises(UnavailableError):
                backend.get_object("k")
            made.append(len(server.requests) - before)
        assert [2, 1, 2, 1, 1, 2, 1, 2] == made
        down[0] = False
        now[0] += 60
        for _ in range(3):
            assert b"x" == backend.get_object("k").read()
        backend.close()
    assert len(server.requests) == sum(made) + 3


def test_missing_objects_do_not_slow_the_others() -> None:
    """A request that is itself at fault says nothing against the fast path."""

    def script(request: Request) -> Answer:
        return error(404, "NoSuchKey") if request.path.endswith("missing") else found(b"x")

    with fast(script) as (backend, server):
        for _ in range(3):
            with pytest.raises(ObjectNotFoundError):
                backend.get_object("missing")
            assert b"x" == backend.get_object("k").read()
        assert 3 == backend.repeated
    assert 9 == len(server.requests)


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("operation", ["get", "head", "put"])
def test_store_that_never_answers(operation: str, attempts: int) -> None:
    """It ends in time, with the same error as the reference engine's; one attempt stays one."""
    with scripted_server(lambda _: Answer(silent=True)) as server:
        settings = settings_for(server, timeout_seconds=0.3, max_attempts=attempts)
        with closing(S3Backend(settings)) as reference:
            expected = outcome(reference, OPERATIONS[operation])
        with closing(ObstoreBackend(settings)) as backend:
            started = time.monotonic()
            assert expected == outcome(backend, OPERATIONS[operation])
            rounds = 1 if attempts == 1 else attempts + 1
            assert 0.3 * attempts <= time.monotonic() - started < 0.3 * rounds + 60
            started = time.monotonic()
            assert expected == outcome(backend, OPERATIONS[operation])
            assert time.monotonic() - started < 0.3 * attempts + 60
    assert StorageTimeoutError is expected[0]  # type: ignore[index]


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_body_that_stops_coming(size: int) -> None:
    """Silence in the middle of a body ends with the time limit."""
    data = bytes(size)

    def script(request: Request) -> Answer:
        if "range" in request.headers:
            return Answer(silent=True)
        return replace(found(data), hang_after_bytes=size // 2)

    with fast(script, timeout_seconds=0.3) as (backend, _):
        started = time.monotonic()
        with pytest.raises(StorageTimeoutError, match="'k'"):
            read(backend)
        assert time.monotonic() - started < 60


@pytest.mark.parametrize("text", ["HttpError { kind: Timeout, }", 'x\n"HttpError {\n    kind: Timeout,\n'])
@pytest.mark.parametrize("status", [403, 404, 500])
def test_names_and_answers_that_speak_of_time(text: str, status: int) -> None:
    """Nobody's words make a time limit out of a refusal."""
    caught: list[StorageError] = []
    with scripted_server(lambda _: error(status, "Odd", f"TimedOut {text}")) as server:
        for kind in (S3Backend, ObstoreBackend):
            with closing(kind(settings_for(server))) as backend, pytest.raises(StorageError) as info:
                backend.get_object(f"TimedOut/{text}")
            caught.append(info.value)
    assert 1 == len({type(one) for one in caught})
    assert not isinstance(caught[0], StorageTimeoutError)


def test_store_that_hangs_with_everybody_waiting() -> None:
    """Who waits for a connection waits no longer than for an answer, however many there are."""

    def read(backend: ObstoreBackend) -> float:
        started = time.monotonic()
        with pytest.raises(StorageTimeoutError):
            backend.get_object("k")
        return time.monotonic() - started

    with (
        scripted_server(lambda _: Answer(silent=True)) as server,
        closing(ObstoreBackend(settings_for(server, timeout_seconds=0.5, max_connections=1))) as backend,
        ThreadPoolExecutor(100) as pool,
    ):
        assert max(pool.map(read, [backend] * 100)) < 30  # one after the other it would be fifty


def test_nobody_listens() -> None:
    """A refused connection is the reference engine's error, and names no credential."""
    with scripted_server(lambda _: Answer()) as server:
        settings = settings_for(server, session_token="planted-token")
    with closing(S3Backend(settings)) as reference, closing(ObstoreBackend(settings)) as backend:
        for act in OPERATIONS.values():
            text = str(outcome(backend, act))
            assert str(outcome(reference, act)) == text
            assert "planted" not in text.lower()


def test_planted_credentials_in_no_error_or_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a message, nor what led to it, nor a log line has what a store echoes or obstore quotes."""

    def script(request: Request) -> Answer:
        return error(403, "Odd", f"{request.headers} planted-secret AKIDPLANTED")

    caplog.set_level("DEBUG", "bubu_storage")
    with fast(script, session_token="planted-token") as (backend, _):
        for act in OPERATIONS.values():
            with pytest.raises(StorageError) as caught:
                act(backend)
            assert "planted" not in f"{caught.value} {caught.value!r} {caught.value.code}".lower()
            chain: BaseException | None = caught.value
            while chain is not None:
                assert "obstore" not in type(chain).__module__
                assert not type(chain).__module__.startswith("builtins") or "planted" not in str(chain)
                chain = chain.__cause__ or chain.__context__
    assert caplog.text
    assert "planted" not in caplog.text.lower()


# ---- bytes that are not what was stored


def test_etags_that_are_no_checksums_are_noticed_once() -> None:
    """The reference engine reads such an object again and finds nothing wrong; then they are left alone."""
    answer = Answer(200, b"data", {"ETag": etag_of(b"encrypted form"), "Last-Modified": MODIFIED})
    with fast(lambda _: answer) as (backend, server):
        for _ in range(3):
            assert b"data" == backend.get_object("k").read()
    assert 4 == len(server.requests)


@pytest.mark.parametrize("size", [100, 4_500_000])
def test_bytes_damaged_on_the_way_are_noticed(size: int) -> None:
    """A body that is not the stored one is read again, or an error, never handed out as good."""
    good, bad = bytes(size), bytes(size - 1) + b"!"
    answers = [replace(found(good), body=bad), found(good), found(good), found(good)]
    with fast(lambda _: answers.pop(0)) as (backend, _):
        if size == 100:
            assert good == backend.get_object("k").read()
        else:
            with pytest.raises(UnavailableError, match="ChecksumMismatch"):
                read(backend)
        # The check goes on.
        assert backend._etags_are_md5
        assert good == backend.get_object("k").read()


def test_large_object_with_another_etag() -> None:
    """The same for a large one, whose bytes have been handed out by then."""
    data = os.urandom(4_500_000)
    with fast(lambda _: replace(found(data), headers=found(b"x").headers)) as (backend, server):
        for _ in range(2):
            assert data == backend.get_object("k").read()
    assert 3 == len(server.requests)


# ---- large bodies


def test_large_body_goes_on_after_a_break() -> None:
    """The rest is read by the reference engine, if the object is still the same."""
    data = os.urandom(9_000_000)

    def script(request: Request) -> Answer:
        if "range" not in request.headers:
            return replace(found(data), body=data[:6_000_000], announced=len(data))
        start = int(re.fullmatch(r"bytes=(\d+)-8999999", request.headers["range"]).group(1))  # type: ignore[union-attr]
        assert etag_of(data) == request.headers["if-match"]
        part = found(data, Content_Range=f"bytes {start}-8999999/9000000")
        return replace(part, status=206, body=data[start:])

    with fast(script) as (backend, server):
        with backend.get_object("k") as result:
            assert data[:10] == result.read(10)
            assert data[10:] == b"".join(iter(lambda: result.read(777_777), b""))
            assert b"" == result.read()
        assert data == backend.get_object("k").read()
        assert 2 == backend.repeated
    assert 4 == len(server.requests)


def test_large_body_of_an_object_that_was_replaced() -> None:
    """Half of one object and half of another are never put together."""
    data = os.urandom(9_000_000)

    def script(request: Request) -> Answer:
        if "range" in request.headers:
            return error(412, "PreconditionFailed")
        return replace(found(data), body=data[:6_000_000], announced=len(data))

    with fast(script) as (backend, _), pytest.raises((PreconditionFailedError, UnavailableError)):
        read(backend)


def test_slow_reader_is_not_the_stores_fault() -> None:
    """Who takes longer than the time limit between two reads still gets the whole object."""
    data = os.urandom(30_000_000)

    def script(request: Request) -> Answer:
        if "range" not in request.headers:
            return found(data)
        start = int(request.headers["range"].removeprefix("bytes=").split("-")[0])
        part = found(data, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        return replace(part, status=206, body=data[start:])

    def check(seconds: float) -> None:
        with fast(script, timeout_seconds=seconds) as (backend, server), backend.get_object("k") as result:
            head = result.read(1000)
            assert not threading.Event().wait(seconds + 0.5)
            assert data == head + result.read()
        assert 1 <= len(server.requests) <= 2

    try:
        check(2.0)
    except StorageTimeoutError:  # a machine that stalls for as long is slower than the reader
        check(20.0)


@pytest.mark.parametrize(("size", "requests"), [(16 * 1024 * 1024, 1), (16 * 1024 * 1024 + 1, 2)])
def test_very_large_body_is_read_by_the_reference(size: int, requests: int) -> None:
    """It costs less there, a second request included; it is no failure of the fast path."""
    data = bytes(size)
    with fast(lambda _: found(data)) as (backend, server):
        assert data == backend.get_object("k").read()
        assert 0 == backend.repeated
    assert requests == len(server.requests)


@pytest.mark.parametrize("size", [0, 1, 2046, 2047, 2048, 4094, 4095, 65_536, 65_537])
def test_md5_of_a_body(size: int) -> None:
    """The slices in which it is reckoned do not show."""
    data = os.urandom(size)
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() == md5_of(data)


def test_closing_a_large_body_half_read() -> None:
    """The connection is dropped, and reading on is a mistake."""
    with fast(lambda _: found(bytes(9_000_000))) as (backend, _):
        result = backend.get_object("k")
        result.read(10)
        result.close()
        result.close()
        with pytest.raises(ValueError, match="closed"):
            result.read(1)
        assert bytes(9_000_000) == backend.get_object("k").read()


@pytest.mark.parametrize("fails", ["create", "part", "complete"])
def test_failed_upload_leaves_nothing(fails: str) -> None:
    """Each engine takes back its own upload; no object appears."""
    events: list[str] = []

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(404)
        step = {"PUT": "part", "DELETE": "abort"}.get(request.method)
        step = step or ("create" if "uploads" in request.query else "complete")
        events.append(step)
        if step == fails:
            return error(403, "AccessDenied")
        return Answer(204) if step == "abort" else _object(request, b"")

    with fast(script) as (backend, _), pytest.raises(StorageError) as caught:
        beside(lambda: backend.put_object("k", bytes(3 * MIN_PART_SIZE_BYTES)))
    assert "AccessDenied" == caught.value.code
    assert (0 if fails == "create" else 2) == events.count("abort")
    assert 2 == events.count("create")


# ---- the process around it


def test_redirects_to_other_hosts_are_not_followed() -> None:
    """A request carries a session token and must not go where the store points."""
    with scripted_server(lambda _: found(b"stolen")) as other:
        place = other.endpoint.replace("127.0.0.1", "localhost")

        def script(_: Request) -> Answer:
            return Answer(302, headers={"Location": f"{place}/x"} | REGION)

        with fast(script, session_token="planted-token") as (backend, _):
            for act in OPERATIONS.values():
                with pytest.raises(StorageError):
                    act(backend)
    assert [] == other.requests


def test_variables_for_obstore_do_not_change_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says is for the SDK; the settings win over it for both engines."""
    for name, value in {
        "AWS_SESSION_TOKEN": "env-token",
        "AWS_ACCESS_KEY_ID": "env-key",
        "AWS_SECRET_ACCESS_KEY": "env-secret",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_REGION": "eu-west-3",
        "AWS_BUCKET": "other",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_REQUEST_PAYER": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_S3_EXPRESS": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with fast(STORES["object"], region="us-east-2") as (backend, server):
        for name in ("put", "get", "head", "put large"):
            OPERATIONS[name](backend)
        assert 0 == backend.repeated
    for request in server.requests:
        assert "x-amz-security-token" not in request.headers
        assert "x-amz-request-payer" not in request.headers
        assert request.path.startswith("/bucket/k")
        assert "AKIDPLANTED/" in request.headers["authorization"]
        assert "/us-east-2/" in request.headers["authorization"]
        assert "UNSIGNED-PAYLOAD" != request.headers["x-amz-content-sha256"]


def test_credentials_of_the_sdks_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys in the settings both engines sign with what the SDK finds."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CHAINKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "chain-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "chain-token")
    with fast(STORES["object"], access_key_id="", secret_access_key="") as (backend, server):
        for name in ("put", "get"):
            OPERATIONS[name](backend)
        assert 0 == backend.repeated
    for request in server.requests:
        assert "Credential=CHAINKEY/" in request.headers["authorization"]
        assert "chain-token" == request.headers["x-amz-security-token"]


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference engine says so."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with scripted_server(STORES["object"]) as server:
        settings = settings_for(server, access_key_id="", secret_access_key="")
        with closing(S3Backend(settings)) as reference, closing(ObstoreBackend(settings)) as backend:
            for name in ("get", "put"):
                assert outcome(reference, OPERATIONS[name]) == outcome(backend, OPERATIONS[name])
    assert [] == server.requests


@pytest.mark.parametrize("operation", ["get", "put", "head"])
def test_interruption_is_heard(operation: str) -> None:
    """Ctrl-C ends the wait for a store that hangs."""
    asked = threading.Event()

    def script(_: Request) -> Answer:
        asked.set()
        return Answer(silent=True)

    def interrupt() -> None:
        asked.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    with fast(script, timeout_seconds=120.0) as (backend, _):
        thread = threading.Thread(target=interrupt)
        thread.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            OPERATIONS[operation](backend)
        assert time.monotonic() - started < 60
        thread.join()


def test_large_upload_that_may_be_interrupted() -> None:
    """On the main thread it is the reference engine's, which takes an interrupted upload back."""
    with fast(STORES["object"]) as (backend, server):
        backend.put_object("k", bytes(BIG))
        assert 0 == backend.repeated
    assert all("boto" in request.headers["user-agent"].lower() for request in server.requests)


def test_closed_engine() -> None:
    """Closing twice is fine, and nobody falls over a request that comes too late."""
    with fast(STORES["object"]) as (backend, _):
        backend.close()
        outcome(backend, read)
        backend.close()


def test_connections_are_bounded() -> None:
    """No more requests at a time than the settings allow."""
    lock = threading.Lock()
    busy, most = 0, 0
    together = threading.Barrier(2, timeout=60)

    def script(_: Request) -> Answer:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        together.wait()
        with lock:
            busy -= 1
        return found(b"x")

    with fast(script, max_connections=2) as (backend, _), ThreadPoolExecutor(6) as pool:
        assert [b"x"] * 6 == list(pool.map(lambda _: backend.get_object("k").read(), range(6)))
        assert 0 == backend.repeated
    assert 2 == most


def test_forked_child_uses_the_reference() -> None:
    """Threads of obstore do not survive a fork; a child does not hang for it."""
    with fast(STORES["object"]) as (backend, server):
        read(backend)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                good = (b"0123456789", b"0123456789") == (
                    backend.get_object("k").read(),
                    ObstoreBackend(settings_for(server)).get_object("k").read(),
                )
                os._exit(0 if good else 1)
            finally:
                os._exit(2)
        assert (pid, 0) == os.waitpid(pid, 0)
        read(backend)
        assert 0 == backend.repeated
    agents = ["boto" in request.headers["user-agent"].lower() for request in server.requests]
    assert [False, True, True, False] == agents
