"""Each operation of the S3 backend against each way a store can misbehave.

Whatever happens: the error is of the right class, what is safe to repeat is repeated, it ends in
time, no object is lost or torn, and no credential is in a message, a cause or a log record.
"""

from __future__ import annotations

import logging
import socket
import time
import traceback
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.errors import (
    ConfigurationError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnavailableError,
)
from bubu_storage.settings import MIN_PART_SIZE_BYTES, S3Settings
from tests.unit.backend.scripted_server import Answer, error, scripted_server
from tests.unit.backend.tiny_s3 import BUCKET, TinyS3, etag_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.backend.scripted_server import Request, ScriptedServer

KEY = "dir/k"
FRESH_KEY = "dir/k-2"
OLD = b"the old object, which must not be lost"
NEW = b"the new one"
LARGE = bytes(MIN_PART_SIZE_BYTES) + b"the last part"
ATTEMPTS = 2
TIMEOUT_SECONDS = 0.4
SLACK_SECONDS = 60
"""For a machine that does much else; the store would keep silent for a minute."""

PLANTED = {
    "access_key_id": "AKIAPLANTED000000001",
    "secret_access_key": "planted/secret+key/0123456789",
    "session_token": "planted-token-0123456789",
}


# ---- operations


@dataclass(frozen=True)
class Op:
    """One operation of the backend.

    Attributes:
        name: for test ids.
        act: does it and returns what was read.
        hits: tells the request that is to misbehave from others that the operation makes.
        after: what the object holds once it has worked; None = nothing.
        key: of that object.
        decides: the request that misbehaves is the one that brings ``after`` about.
        gives: what ``act`` returns once it has worked; None = no matter.
        answer: what the store answers with: ``empty``, ``none``, ``xml``, ``data`` or ``head``.
    """

    name: str
    act: Callable[[S3Backend], Any]
    hits: Callable[[Request], bool]
    after: bytes | None = OLD
    answer: str = "empty"
    decides: bool = True
    gives: Any = None
    key: str = KEY

    @property
    def before(self) -> bytes | None:
        """What the object holds before."""
        return OLD if self.key == KEY else None


def read(backend: S3Backend, **options: str) -> bytes:
    """Read the object to its end."""
    with backend.get_object(KEY, **options) as found:
        return found.read()


def is_object(request: Request, method: str, key: str = KEY) -> bool:
    """Tell a plain request for the object."""
    plain = not {"uploadId", "uploads"} & set(request.query)
    return request.method == method and request.path == f"/{BUCKET}/{key}" and plain


OPS = (
    Op("put", lambda s: s.put_object(KEY, NEW), lambda r: is_object(r, "PUT"), NEW),
    Op(
        "multipart-create",
        lambda s: s.put_object(KEY, LARGE),
        lambda r: "uploads" in r.query,
        LARGE,
        "xml",
        decides=False,
    ),
    Op(
        "multipart-part",
        lambda s: s.put_object(KEY, LARGE),
        lambda r: r.query.get("partNumber") == "1",
        LARGE,
        decides=False,
    ),
    Op(
        "multipart-complete",
        lambda s: s.put_object(KEY, LARGE),
        lambda r: r.method == "POST" and "uploadId" in r.query,
        LARGE,
        "xml",
    ),
    Op("get", read, lambda r: is_object(r, "GET"), answer="data", gives=OLD),
    Op(
        "get-range",
        lambda s: read(s, range_header="bytes=4-6"),
        lambda r: is_object(r, "GET"),
        answer="data",
        gives=OLD[4:7],
    ),
    Op(
        "head",
        lambda s: s.head_object(KEY).size_bytes,
        lambda r: is_object(r, "HEAD"),
        answer="head",
        gives=len(OLD),
    ),
    Op("delete", lambda s: s.delete_object(KEY), lambda r: is_object(r, "DELETE"), None, "none"),
    Op(
        "delete-many",
        lambda s: s.delete_objects([KEY, "other"]),
        lambda r: "delete" in r.query,
        None,
        "xml",
        gives={},
    ),
    Op(
        "list",
        lambda s: [one.key for page in s.list_objects("dir/") for one in page.objects],
        lambda r: "list-type" in r.query,
        answer="xml",
        gives=[KEY],
    ),
    Op(
        "put-if-absent",
        lambda s: s.put_object(FRESH_KEY, NEW, if_none_match="*"),
        lambda r: is_object(r, "PUT", FRESH_KEY),
        NEW,
        key=FRESH_KEY,
        gives=etag_of(NEW),
    ),
    Op(
        "swap",
        lambda s: s.put_object(KEY, NEW, if_match=etag_of(OLD)),
        lambda r: is_object(r, "PUT"),
        NEW,
        gives=etag_of(NEW),
    ),
    Op(
        "delete-if-same",
        lambda s: s.delete_object(KEY, if_match=etag_of(OLD)),
        lambda r: is_object(r, "DELETE"),
        None,
        "none",
    ),
    Op(
        "copy",
        lambda s: s.copy_object(KEY, FRESH_KEY),
        lambda r: is_object(r, "PUT", FRESH_KEY),
        OLD,
        "xml",
        key=FRESH_KEY,
        gives=etag_of(OLD),
    ),
)


# ---- misbehaviours


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    Attributes:
        name: for test ids.
        spoil: from the healthy answer's maker to the answer; calling the maker takes effect.
        raises: the class of the error.
        requests: how many there are to be.
        fits: the kinds of answers that can misbehave so.
        lost: the request takes effect although the answer says otherwise.
    """

    name: str
    spoil: Callable[[Callable[[], Answer], Request], Answer]
    raises: type[StorageError]
    requests: int = ATTEMPTS
    fits: tuple[str, ...] = ("empty", "none", "xml", "data", "head")
    lost: bool = False

    @property
    def hangs(self) -> bool:
        """Whether only a time limit ends it."""
        return self.raises is StorageTimeoutError


def echo(request: Request) -> str:
    """Return what a careless store might repeat of a request, and more."""
    return f"{request.headers.get('authorization', '')} {' '.join(PLANTED.values())} {request.path}"


def failing(status: int, code: str, **headers: str) -> Callable[[Callable[[], Answer], Request], Answer]:
    """Refuse with an error that echoes credentials."""
    return lambda _, request: error(status, code, echo(request), f"<Extra>{echo(request)}</Extra>", **headers)


def torn(healthy: Answer) -> Answer:
    """Announce more than is sent."""
    body = healthy.body or b"<x/>"
    return replace(healthy, body=body[: len(body) // 2], announced=len(body))


def stuck(healthy: Answer) -> Answer:
    """Send half of what is announced and wait for ever."""
    body = healthy.body or b"<x/>"
    return replace(healthy, body=body, hang_after_bytes=len(body) // 2)


BODIES = ("empty", "xml", "data")

FAULTS = (
    Fault("dropped", lambda _, __: Answer(drop=True), UnavailableError),
    Fault("reset", lambda _, __: Answer(reset=True), UnavailableError),
    Fault("silent", lambda _, __: Answer(silent=True), StorageTimeoutError),
    Fault("answer-lost", lambda act, _: replace(act(), drop=True), UnavailableError, lost=True),
    Fault("half-a-body", lambda act, _: torn(act()), UnavailableError, fits=BODIES, lost=True),
    Fault("stuck-body", lambda act, _: stuck(act()), StorageTimeoutError, fits=BODIES, lost=True),
    Fault("slow-down", failing(503, "SlowDown"), ThrottledError, fits=("empty", "none", "xml", "data")),
    Fault("unavailable", lambda _, __: Answer(503), UnavailableError),
    Fault("internal-error", failing(500, "InternalError"), UnavailableError),
    Fault("bad-gateway", lambda _, r: Answer(502, f"<html>{echo(r)}".encode()), UnavailableError),
    Fault("too-many", failing(429, "TooManyRequests", Retry_After="7"), ThrottledError),
    Fault("forbidden", failing(403, "AccessDenied"), PermissionDeniedError, 1),
    Fault("odd-refusal", failing(400, "Odd"), StorageError, 1),
    Fault("bad-digest", failing(400, "BadDigest"), StorageError, 1),
    Fault("garbage", lambda _, r: Answer(200, f"<<{echo(r)}".encode()), UnavailableError, fits=("xml",)),
    Fault("other-xml", lambda _, __: Answer(200, b"<Weird/>"), StorageError, 1, fits=("xml",)),
    Fault("empty-answer", lambda _, __: Answer(200, b""), StorageError, 1, fits=("xml",)),
    Fault(
        "wrong-checksum",
        lambda act, _: replace(act(), body=b"x" * len(OLD)),
        UnavailableError,
        fits=("data",),
    ),
)
"""All of them for ever; see `test_passing_faults` for those that pass."""


class Misbehaving:
    """A tiny store whose requests of one kind go wrong.

    Attributes:
        requests: how many went wrong.
    """

    def __init__(self, op: Op, spoil: Callable[[Callable[[], Answer], Request], Answer], times: int) -> None:
        self.store = TinyS3()
        self.store.put(KEY, OLD)
        self._op, self._spoil, self._times = op, spoil, times
        self.requests = 0

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if not self._op.hits(request):
            return self.store(request)
        self.requests += 1
        if self._times and self.requests > self._times:
            return self.store(request)
        return self._spoil(lambda: self.store(request), request)


SETTINGS = S3Settings(
    bucket=BUCKET,
    use_path_style=True,
    max_attempts=ATTEMPTS,
    max_backoff_seconds=0.01,
    connect_timeout_seconds=20,
    timeout_seconds=20,
    **PLANTED,
)
"""With planted credentials; the endpoint is to be filled in."""

IMPATIENT = {"connect_timeout_seconds": TIMEOUT_SECONDS, "timeout_seconds": TIMEOUT_SECONDS}
"""For stores that keep silent; all others are given time, so that a busy machine is not taken for one."""

PATIENT = {name: 25 * seconds for name, seconds in IMPATIENT.items()}


def with_little_time(fault: Fault, check: Callable[[dict[str, float]], None]) -> None:
    """Check what becomes of a fault; with more time, too, where a stalling machine may have been at fault.

    Args:
        fault: one that hangs costs its time limit.
        check: is given the limits that are not those of `SETTINGS`.
    """
    if not fault.hangs:
        check({})
        return
    try:
        check(IMPATIENT)
    except AssertionError:
        check(PATIENT)


class Lab:
    """A server whose script each test sets, and backends on it: opening one takes longer than a test.

    Attributes:
        server: answers by ``server.script``.
        backend: has the planted credentials.
        impatient: the same with short time limits.
    """

    def __init__(self, server: ScriptedServer, backend: S3Backend, impatient: S3Backend) -> None:
        self.server = server
        self.backend = backend
        self.impatient = impatient

    def run(
        self, op: Op, script: Callable[[Request], Answer], limits: dict[str, float] | None = None
    ) -> tuple[Any, StorageError | None, float]:
        """Do it; return what it gave, the error, if it was one of ours, and how long it took."""
        self.server.script = script
        if limits == PATIENT:
            with closing(S3Backend(replace(SETTINGS, endpoint=self.server.endpoint, **PATIENT))) as patient:
                return run(op, patient)
        return run(op, self.impatient if limits else self.backend)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The only one of this module."""
    with (
        scripted_server(TinyS3()) as server,
        closing(S3Backend(replace(SETTINGS, endpoint=server.endpoint))) as backend,
        closing(S3Backend(replace(SETTINGS, endpoint=server.endpoint, **IMPATIENT))) as impatient,
    ):
        yield Lab(server, backend, impatient)


def secrets_in(text: str) -> list[str]:
    """Return the planted credentials that a text shows."""
    return [name for name, secret in PLANTED.items() if secret in text]


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield everything that a log or a person may be shown of an error."""
    yield "".join(traceback.format_exception(error))
    current: BaseException | None = error
    while current is not None:
        yield f"{current} {current!r} {current.args!r} {getattr(current, '__notes__', '')}"
        yield repr({name: value for name, value in vars(current).items() if isinstance(value, str)})
        current = current.__cause__ or current.__context__


def check_nothing_shown(caught: BaseException | None, caplog: pytest.LogCaptureFixture) -> None:
    """No planted credential in an error, its causes or our log."""
    for text in texts_of(caught) if caught is not None else ():
        assert [] == secrets_in(text), text
    for record in caplog.records:
        if record.name.startswith("bubu_storage"):
            assert [] == secrets_in(f"{record.getMessage()} {record.exc_text or ''}")


def run(op: Op, backend: S3Backend) -> tuple[Any, StorageError | None, float]:
    """Do it; return what it gave, the error, if it was one of ours, and how long it took."""
    started = time.monotonic()
    try:
        given = op.act(backend)
    except StorageError as caught:
        return None, caught, time.monotonic() - started
    return given, None, time.monotonic() - started


def pairs() -> Iterator[Any]:
    """Return each operation with each misbehaviour that it can meet."""
    for op in OPS:
        for fault in FAULTS:
            if op.answer in fault.fits and not (fault.name == "wrong-checksum" and op.name == "get-range"):
                yield pytest.param(op, fault, id=f"{op.name}-{fault.name}")


@pytest.mark.parametrize(("op", "fault"), list(pairs()))
def test_store_that_misbehaves(op: Op, fault: Fault, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Class, tries, time, objects and secrecy of every pair."""
    caplog.set_level(logging.DEBUG, "bubu_storage")

    def check(limits: dict[str, float]) -> None:
        script = Misbehaving(op, fault.spoil, times=0)
        _, caught, seconds = lab.run(op, script, limits)
        if is_known_by_etag(op, fault):
            assert caught is None
        else:
            assert type(caught) is expected_class(op, fault), repr(caught)
            assert expected_requests(op, fault) == script.requests
        assert seconds < ATTEMPTS * TIMEOUT_SECONDS + SLACK_SECONDS
        assert (op.after if fault.lost and op.decides else op.before) == script.store.objects.get(op.key)
        if not (fault.lost and op.name == "multipart-create"):  # nobody but the store knows its id
            assert {} == script.store.uploads, "an upload was left behind"
        check_nothing_shown(caught, caplog)

    with_little_time(fault, check)


def is_known_by_etag(op: Op, fault: Fault) -> bool:
    """Tell where a lost answer does no harm: what is there now has the ETag of what was sent."""
    refused_again = op.name in {"put-if-absent", "swap"} and fault.name == "half-a-body"
    return fault.lost and (op.name == "multipart-complete" or refused_again)


def expected_class(op: Op, fault: Fault) -> type[StorageError]:
    """Return the class of the error."""
    if op.name == "copy" and fault.name in {"other-xml", "empty-answer"}:
        return UnavailableError  # S3 says 200 before it copies: an answer without a result broke off
    return fault.raises


def expected_requests(op: Op, fault: Fault) -> int:
    """Return how often the misbehaving request is to be sent."""
    if op.answer == "data" and fault.name in {"half-a-body", "stuck-body", "wrong-checksum"}:
        return 1  # the body is the caller's by then: who reads it decides
    return fault.requests


FAST_OPS = ("put", "multipart-create", "multipart-part", "multipart-complete", "get", "get-range", "head")


@pytest.mark.parametrize(
    ("op", "fault"),
    [
        pytest.param(op, fault, id=f"{op.name}-{fault.name}")
        for op, fault in (one.values for one in pairs())
        if op.name in FAST_OPS
    ],
)
def test_fast_engine_on_a_store_that_misbehaves(
    op: Op, fault: Fault, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The same errors, objects and silence; at most one more request, since the reference has its say."""
    from bubu_storage.backend import s3_obstore as engine

    caplog.set_level(logging.DEBUG, "bubu_storage")

    def check(limits: dict[str, float]) -> None:
        script = Misbehaving(op, fault.spoil, times=0)
        lab.server.script = script
        # A backend of its own: after a failure the fast path rests.
        settings = replace(SETTINGS, endpoint=lab.server.endpoint, **limits)
        with closing(engine.ObstoreBackend(settings)) as backend:
            _, caught, seconds = run(op, backend)
        # Of an answer to a put it reads only the head, where all is said.
        if is_known_by_etag(op, fault) or (op.name == "put" and fault.name in {"half-a-body", "stuck-body"}):
            assert caught is None
        else:
            assert type(caught) is expected_class(op, fault), repr(caught)
            expected = expected_requests(op, fault)
            assert expected <= script.requests <= expected + 1
        assert seconds < (ATTEMPTS + 1) * TIMEOUT_SECONDS + SLACK_SECONDS
        assert (op.after if fault.lost and op.decides else op.before) == script.store.objects.get(op.key)
        if not (fault.lost and op.name == "multipart-create"):
            assert {} == script.store.uploads, "an upload was left behind"
        check_nothing_shown(caught, caplog)

    with_little_time(fault, check)


PASSING = (
    "dropped",
    "reset",
    "answer-lost",
    "slow-down",
    "internal-error",
    "bad-gateway",
    "too-many",
    "unavailable",
)


@pytest.mark.parametrize(
    ("op", "fault"),
    [
        pytest.param(op, fault, id=f"{op.name}-{fault.name}")
        for op in OPS
        for fault in FAULTS
        if fault.name in PASSING and op.answer in fault.fits
    ],
)
def test_store_that_recovers(op: Op, fault: Fault, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """What passes by itself is not seen by the caller: one more request, and the work is done."""
    caplog.set_level(logging.DEBUG, "bubu_storage")
    script = Misbehaving(op, fault.spoil, times=1)
    given, caught, _ = lab.run(op, script)
    assert caught is None
    assert 2 == script.requests
    assert op.gives is None or op.gives == given
    assert op.after == script.store.objects.get(op.key)
    if not (fault.lost and op.name == "multipart-create"):
        assert {} == script.store.uploads
    check_nothing_shown(None, caplog)


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS])
def test_nobody_listens(op: Op, caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection is tried again, and then "unavailable"."""
    caplog.set_level(logging.DEBUG, "bubu_storage")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with closing(S3Backend(replace(SETTINGS, endpoint=f"http://127.0.0.1:{port}"))) as backend:
        _, caught, seconds = run(op, backend)
    assert type(caught) is UnavailableError
    assert f"cannot be reached at http://127.0.0.1:{port}: nobody listens there" in str(caught)
    assert seconds < SLACK_SECONDS
    check_nothing_shown(caught, caplog)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in OPS])
def test_redirect_to_another_host(op: Op, status: int, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """It is not followed: at most the same endpoint is asked again, signed for the region that it names."""
    caplog.set_level(logging.DEBUG, "bubu_storage")
    with scripted_server(TinyS3()) as stranger:
        port = stranger.endpoint.rpartition(":")[2]
        elsewhere = f"http://localhost:{port}/{BUCKET}/{KEY}"
        extra = f"<Endpoint>localhost:{port}</Endpoint><Bucket>{BUCKET}</Bucket>"
        headers = {"Location": elsewhere, "x_amz_bucket_region": "eu-west-3"}
        code = "PermanentRedirect" if status == 301 else "TemporaryRedirect"
        script = Misbehaving(op, lambda _, r: error(status, code, echo(r), extra, **headers), times=0)
        _, caught, _ = lab.run(op, script)
        assert [] == stranger.requests
    assert type(caught) is ConfigurationError
    assert (1 if status == 308 else 2) == script.requests
    assert OLD == script.store.objects[KEY]
    assert {} == script.store.uploads
    check_nothing_shown(caught, caplog)


def test_retry_after_is_told_and_bounded(lab: Lab) -> None:
    """The error says what the store asked for; the pause between tries is never longer than allowed."""
    script = Misbehaving(OPS[0], failing(429, "TooManyRequests", Retry_After="3600"), times=0)
    _, caught, seconds = lab.run(OPS[0], script)
    assert isinstance(caught, ThrottledError)
    assert 3600 == caught.retry_after_seconds
    assert seconds < SLACK_SECONDS


def test_credentials_that_the_store_makes_its_error_code(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Every field of an answer is a text of somebody else's."""
    for field in ("Code", "Endpoint", "Region", "Key"):
        body = f"<Error><{field}>{' '.join(PLANTED.values())}</{field}></Error>"
        script = Misbehaving(OPS[0], lambda _, __, body=body: Answer(400, body.encode()), times=0)
        _, caught, _ = lab.run(OPS[0], script)
        assert isinstance(caught, StorageError)
        check_nothing_shown(caught, caplog)


def test_credentials_in_the_errors_of_a_batch(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Each key's error has a text of the store's as well."""
    text = " ".join(PLANTED.values())
    item = f"<Error><Key>{KEY}</Key><Code>AccessDenied</Code><Message>{text}</Message></Error>"
    answer = Answer(body=f"<DeleteResult>{item}</DeleteResult>".encode())
    lab.server.script = lambda _: answer
    failed = lab.backend.delete_objects([KEY])
    assert [KEY] == list(failed)
    check_nothing_shown(failed[KEY], caplog)
