"""Conditional requests and copies of the S3 backend on the wire: lost answers, conflicts, odd stores."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.errors import (
    ConfigurationError,
    CopyNotSupportedError,
    InvalidKeyError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.settings import MIN_PART_SIZE_BYTES, S3Settings
from tests.unit.backend.scripted_server import Answer, error, scripted_server
from tests.unit.backend.scripted_server import settings_for as scripted_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from bubu_storage.backend.s3 import S3Backend
    from tests.unit.backend.scripted_server import Request, ScriptedServer

    Open = Callable[[S3Settings], S3Backend]

BIG = bytes(MIN_PART_SIZE_BYTES + 1)
CONFLICT = error(409, "ConditionalRequestConflict")
FAILED = error(412, "PreconditionFailed")
LOST = error(500, "InternalError")
OLD, OURS = '"old"', f'"{hashlib.md5(b"ours", usedforsecurity=False).hexdigest()}"'


settings_for = partial(scripted_settings, max_attempts=4, max_backoff_seconds=0.001, engine="boto3")


class Script:
    """Answers of a store by method, the last one again and again."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = answers

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        left = self.answers[request.method]
        return left.pop(0) if len(left) > 1 else left[0]


def methods(server: ScriptedServer) -> list[str]:
    """Return what was asked, in order."""
    return [request.method for request in server.requests]


# ---- what is sent


def test_conditions_on_the_wire(open_s3: Open) -> None:
    """Each is the header that S3 has for it, and without one there is none."""
    script = Script(PUT=[Answer(headers={"ETag": OURS})], GET=[Answer(body=b"x")], DELETE=[Answer(204)])
    with scripted_server(script) as server:
        backend = open_s3(settings_for(server))
        backend.put_object("k", b"x", if_match=OLD)
        backend.put_object("k", b"x", if_none_match="*")
        backend.put_object("k", b"x")
        backend.get_object("k", if_match=OLD).close()
        backend.delete_object("k", if_match=OLD)
        backend.delete_object("k")
    sent = [(one.headers.get("if-match"), one.headers.get("if-none-match")) for one in server.requests]
    nothing = (None, None)
    assert [(OLD, None), (None, "*"), nothing, (OLD, None), (OLD, None), nothing] == sent


def test_conditions_of_a_body_in_parts(open_s3: Open) -> None:
    """Only the request that makes the object has them."""
    with scripted_server(Parts()) as server:
        backend = open_s3(settings_for(server))
        backend.put_object("k", BIG, if_none_match="*")
        backend.put_object("k", BIG, if_match=OLD)
    conditional = [
        (one.method, sorted(one.query), one.headers.get("if-match"), one.headers.get("if-none-match"))
        for one in server.requests
        if "if-match" in one.headers or "if-none-match" in one.headers
    ]
    assert [("POST", ["uploadId"], None, "*"), ("POST", ["uploadId"], OLD, None)] == conditional


def test_conditions_of_a_batch(open_s3: Open) -> None:
    """They go with their keys; a refusal is that key's, and those deleted singly keep theirs."""
    failed = b"<Error><Key>b</Key><Code>PreconditionFailed</Code><Message>x</Message></Error>"
    script = Script(
        POST=[Answer(body=b"<DeleteResult>" + failed + b"</DeleteResult>")], DELETE=[FAILED], HEAD=[Answer()]
    )
    keys = ["a", "b", "c", "control\x01"]
    with scripted_server(script) as server:
        answer = open_s3(settings_for(server)).delete_objects(
            keys, if_match={"a": OLD, "b": OURS, "control\x01": OLD, "not-asked-for": OLD}
        )
    assert ["b", "control\x01"] == list(answer)
    assert all(isinstance(one, PreconditionFailedError) for one in answer.values())
    batch, single, _ = server.requests
    text = batch.body.decode().replace("&quot;", '"')
    assert f"<Key>a</Key><ETag>{OLD}</ETag>" in text
    assert f"<Key>b</Key><ETag>{OURS}</ETag>" in text
    assert 2 == text.count("<ETag>")
    assert ("DELETE", OLD) == (single.method, single.headers["if-match"])


def test_batch_conditions_on_a_store_without_batches(open_s3: Open) -> None:
    """Each key is deleted on its own condition, and a senseless one is that key's error."""
    script = Script(POST=[error(501, "NotImplemented")], DELETE=[Answer(204)])
    with scripted_server(script) as server:
        answer = open_s3(settings_for(server)).delete_objects(["a", "b", "c"], if_match={"a": OLD, "c": "*"})
    assert ["c"] == list(answer)
    assert isinstance(answer["c"], ConfigurationError)
    assert [OLD, None] == [one.headers.get("if-match") for one in server.requests if one.method == "DELETE"]


# ---- what a refusal means


@pytest.mark.parametrize("failure", [FAILED, error(412, "AnotherCode")])
def test_refused_put(open_s3: Open, failure: Answer) -> None:
    """A refusal at the first try is final: the object that is there is not asked for, be it the same."""
    with (
        scripted_server(Script(PUT=[failure], HEAD=[Answer(headers={"ETag": OURS})])) as server,
        pytest.raises(PreconditionFailedError) as caught,
    ):
        open_s3(settings_for(server)).put_object("k", b"ours", if_none_match="*")
    assert ["PUT"] == methods(server)
    assert ("k", 412) == (caught.value.key, caught.value.status)


@pytest.mark.parametrize("condition", [{"if_match": OLD}, {"if_none_match": "*"}])
def test_lost_answer_of_our_own_put(open_s3: Open, condition: dict[str, Any]) -> None:
    """A refusal of the second try is no failure when what is there is what the first one wrote."""
    with scripted_server(Script(PUT=[LOST, FAILED], HEAD=[Answer(headers={"ETag": OURS})])) as server:
        assert OURS == open_s3(settings_for(server)).put_object("k", b"ours", **condition)
    assert ["PUT", "PUT", "HEAD"] == methods(server)


@pytest.mark.parametrize("there", [Answer(headers={"ETag": OLD}), Answer(404), Answer(403), Answer(500)])
def test_lost_answer_and_another_object(open_s3: Open, there: Answer) -> None:
    """What is not known to be ours is not claimed; the message says what cannot be ruled out."""
    script = Script(PUT=[LOST, FAILED], HEAD=[there], GET=[Answer(body=b"<ListBucketResult/>")])
    with scripted_server(script) as server:
        backend = open_s3(settings_for(server))
        with pytest.raises(PreconditionFailedError, match="an earlier try may have been carried out"):
            backend.put_object("k", b"ours", if_match=OLD)
        with pytest.raises(PreconditionFailedError):
            backend.put_object("k", b"ours", if_none_match="*")


def test_conflict_is_tried_again(open_s3: Open) -> None:
    """It says nothing of the condition yet; one that lasts counts as failed, with its own code."""
    good = Answer(headers={"ETag": OURS})
    with scripted_server(Script(PUT=[CONFLICT, CONFLICT, good, CONFLICT], HEAD=[Answer(404)])) as server:
        backend = open_s3(settings_for(server))
        assert OURS == backend.put_object("k", b"ours", if_none_match="*")
        assert 3 == len(server.requests)
        with pytest.raises(PreconditionFailedError) as caught:
            backend.put_object("k", b"ours", if_none_match="*")
    assert ["PUT"] * 7 == [method for method in methods(server) if method != "HEAD"]
    assert (409, "ConditionalRequestConflict") == (caught.value.status, caught.value.code)


def test_nothing_to_replace(open_s3: Open) -> None:
    """S3 says "no such object" to a replacement of what is not there: that is a failed condition."""
    with (
        scripted_server(Script(PUT=[error(404, "NoSuchKey")])) as server,
        pytest.raises(PreconditionFailedError, match="it is gone") as caught,
    ):
        open_s3(settings_for(server)).put_object("k", b"x", if_match=OLD)
    assert (404, "NoSuchKey") == (caught.value.status, caught.value.code)
    assert isinstance(caught.value.__cause__, ObjectNotFoundError)


def test_store_that_refuses_conditions(open_s3: Open) -> None:
    """It is said as such; and its refusal is not blamed on the checksums, which go on."""

    def script(request: Request) -> Answer:
        refused = "if-match" in request.headers or "if-none-match" in request.headers
        return error(501, "NotImplemented") if refused else Answer(headers={"ETag": OURS})

    with scripted_server(script) as server:
        backend = open_s3(settings_for(server))
        for act in (
            lambda: backend.put_object("k", b"x", if_none_match="*"),
            lambda: backend.put_object("k", b"x", if_match=OLD),
            lambda: backend.delete_object("k", if_match=OLD),
        ):
            with pytest.raises(UnsupportedOperationError):
                act()
        backend.put_object("k", b"x")
    assert "x-amz-checksum-sha256" in server.requests[-1].headers


def test_deletion_refused_for_what_is_gone(open_s3: Open) -> None:
    """A store that refuses to delete a missing object on a condition has nothing left to delete."""
    script = Script(DELETE=[FAILED], HEAD=[Answer(404), Answer()], GET=[Answer(body=b"<ListBucketResult/>")])
    with scripted_server(script) as server:
        backend = open_s3(settings_for(server))
        backend.delete_object("k", if_match=OLD)
        with pytest.raises(PreconditionFailedError):
            backend.delete_object("k", if_match=OLD)


def test_refused_deletion_that_cannot_be_looked_into(open_s3: Open) -> None:
    """Then the refusal stands."""
    with (
        scripted_server(Script(DELETE=[FAILED], HEAD=[LOST])) as server,
        pytest.raises(PreconditionFailedError),
    ):
        open_s3(settings_for(server)).delete_object("k", if_match=OLD)


# ---- in parts


class Parts:
    """A store that takes parts; ``complete`` are its answers to the completing request."""

    def __init__(self, *complete: Answer, there: str = OLD) -> None:
        done = b"<CompleteMultipartUploadResult><ETag>&quot;done&quot;</ETag></CompleteMultipartUploadResult>"
        self.complete = list(complete) or [Answer(body=done)]
        self.there = there
        self.aborted = 0

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if request.method == "HEAD":
            return Answer(headers={"ETag": self.there})
        if request.method == "PUT":
            digest = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
            return Answer(headers={"ETag": f'"{digest}"'})
        if request.method == "DELETE":
            self.aborted += 1
            return Answer(204)
        if "uploads" in request.query:
            return Answer(
                body=b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            )
        return self.complete.pop(0) if len(self.complete) > 1 else self.complete[0]


def etag_of_parts(data: bytes) -> str:
    """Return the ETag that S3 gives a body in parts."""
    pieces = (data[:MIN_PART_SIZE_BYTES], data[MIN_PART_SIZE_BYTES:])
    digests = b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-2"'


def test_refused_body_in_parts(open_s3: Open) -> None:
    """The same object, of another's making, is not taken for ours; the upload is aborted."""
    for failure in (FAILED, CONFLICT, error(404, "NoSuchKey")):
        script = Parts(failure, there=etag_of_parts(BIG))
        with (
            scripted_server(script) as server,
            pytest.raises(PreconditionFailedError) as caught,
        ):
            open_s3(settings_for(server)).put_object("k", BIG, if_match=OLD)
        assert caught.value.key == "k"
        assert 1 == script.aborted
        assert "HEAD" not in methods(server)


def test_lost_answer_of_the_completing_request(open_s3: Open) -> None:
    """As with a single request: refused at the second try, it is ours if it has our ETag."""
    with scripted_server(Parts(LOST, FAILED, there=etag_of_parts(BIG))) as server:
        etag = open_s3(settings_for(server)).put_object("k", BIG, if_none_match="*")
    assert etag_of_parts(BIG) == etag
    with (
        scripted_server(Parts(LOST, FAILED, there=OLD)) as server,
        pytest.raises(PreconditionFailedError),
    ):
        open_s3(settings_for(server)).put_object("k", BIG, if_none_match="*")


# ---- copies

COPIED = Answer(body=b"<CopyObjectResult><ETag>&quot;copy&quot;</ETag></CopyObjectResult>")
SOURCE = Answer(headers={"ETag": OLD, "Content-Type": "text/plain", "x-amz-meta-run": "r1"}, announced=5)


def test_copy_on_the_wire(open_s3: Open) -> None:
    """One request; the store keeps type and metadata; encryption is that of our own objects."""
    with scripted_server(Script(PUT=[COPIED])) as server:
        etag = open_s3(settings_for(server, sse="AES256")).copy_object("a b/+%é?versionId=x", "dst")
    (request,) = server.requests
    assert ('"copy"', "/bucket/dst") == (etag, request.path)
    assert "bucket/a%20b/%2B%25%C3%A9%3FversionId%3Dx" == request.headers["x-amz-copy-source"]
    assert "x-amz-metadata-directive" not in request.headers
    assert "AES256" == request.headers["x-amz-server-side-encryption"]


@pytest.mark.parametrize(
    ("given", "heads", "content_type", "run"),
    [
        ({"content_type": "a/b"}, 1, "a/b", "r1"),
        ({"metadata": {"run": "r2"}}, 1, "text/plain", "r2"),
        ({"metadata": {}}, 1, "text/plain", None),
        ({"content_type": "a/b", "metadata": {"run": "r2"}}, 0, "a/b", "r2"),
    ],
)
def test_copy_with_changes(
    open_s3: Open, given: dict[str, Any], heads: int, content_type: str, run: str | None
) -> None:
    """What is not given is looked up, and the copy made of exactly what was looked at."""
    with scripted_server(Script(HEAD=[SOURCE], PUT=[COPIED])) as server:
        open_s3(settings_for(server)).copy_object("src", "dst", **given)
    assert ["HEAD"] * heads + ["PUT"] == methods(server)
    sent = server.requests[-1].headers
    assert ("REPLACE", content_type) == (sent["x-amz-metadata-directive"], sent["content-type"])
    assert run == sent.get("x-amz-meta-run")
    assert (OLD if heads else None) == sent.get("x-amz-copy-source-if-match")


def test_copy_of_a_source_that_changes(open_s3: Open) -> None:
    """It is looked at again, a few times; then the copy fails."""
    with scripted_server(Script(HEAD=[SOURCE], PUT=[FAILED, COPIED, FAILED])) as server:
        backend = open_s3(settings_for(server))
        assert '"copy"' == backend.copy_object("src", "dst", content_type="a/b")
        with pytest.raises(PreconditionFailedError):
            backend.copy_object("src", "dst", content_type="a/b")
    assert ["HEAD", "PUT"] * 5 == methods(server)


@pytest.mark.parametrize(
    ("code", "kind", "tries"),
    [
        ("InternalError", UnavailableError, 4),
        ("SlowDown", ThrottledError, 4),
        ("AccessDenied", PermissionDeniedError, 1),
    ],
)
def test_error_inside_a_successful_answer(
    open_s3: Open, code: str, kind: type[StorageError], tries: int
) -> None:
    """A copy that fails after its status was sent has failed; what may pass is tried again."""
    body = f"<Error><Code>{code}</Code><Message>x</Message></Error>".encode()
    with scripted_server(Script(PUT=[Answer(body=body)])) as server, pytest.raises(kind):
        open_s3(settings_for(server)).copy_object("src", "dst")
    assert tries == len(server.requests)


def test_copy_whose_answer_says_nothing(open_s3: Open) -> None:
    """Without a result it is not known to be made; a result without an ETag is one."""
    with (
        scripted_server(Script(PUT=[Answer(body=b"")])) as server,
        pytest.raises(UnavailableError, match="broke off"),
    ):
        open_s3(settings_for(server)).copy_object("src", "dst")
    dated = b"<CopyObjectResult><LastModified>2026-11-21T06:00:00Z</LastModified></CopyObjectResult>"
    with scripted_server(Script(PUT=[Answer(body=dated)])) as server:
        assert "" == open_s3(settings_for(server)).copy_object("src", "dst")


@pytest.mark.parametrize(
    "refusal", [error(501, "NotImplemented"), error(405, "MethodNotAllowed"), Answer(501)]
)
def test_store_without_copies(open_s3: Open, refusal: Answer) -> None:
    """The caller is told to read and write instead."""
    with (
        scripted_server(Script(PUT=[refusal])) as server,
        pytest.raises(CopyNotSupportedError) as caught,
    ):
        open_s3(settings_for(server)).copy_object("src", "dst")
    assert caught.value.key == "src"


@pytest.mark.parametrize("code", ["InvalidRequest", "EntityTooLarge"])
def test_copy_over_five_gibibytes(open_s3: Open, code: str) -> None:
    """Too much for one request; another reason behind the same code is not mistaken for it."""
    large = Answer(headers={"ETag": OLD}, announced=5 * 1024**3 + 1)
    refusal = error(400, code)
    with scripted_server(Script(PUT=[refusal], HEAD=[large])) as server:
        backend = open_s3(settings_for(server))
        with pytest.raises(CopyNotSupportedError, match="5 GiB"):
            backend.copy_object("src", "dst")
        assert ["PUT", "HEAD"] == methods(server)
        with pytest.raises(CopyNotSupportedError, match="5 GiB"):
            backend.copy_object("src", "dst", content_type="a/b")
        assert ["PUT", "HEAD", "HEAD"] == methods(server)
    for small in (SOURCE, LOST):
        with (
            scripted_server(Script(PUT=[refusal], HEAD=[small])) as server,
            pytest.raises(StorageError) as caught,
        ):
            open_s3(settings_for(server)).copy_object("src", "dst")
        assert not isinstance(caught.value, CopyNotSupportedError)
        assert code == caught.value.code


def test_copy_onto_itself_is_not_asked_for(open_s3: Open) -> None:
    """With nothing to change it is refused here, before the store would."""
    with scripted_server(Script(HEAD=[SOURCE], PUT=[COPIED])) as server:
        backend = open_s3(settings_for(server))
        with pytest.raises(InvalidKeyError, match="onto itself"):
            backend.copy_object("k", "k")
        assert [] == server.requests
        backend.copy_object("k", "k", metadata={})
