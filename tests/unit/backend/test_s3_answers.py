"""Answers that no S3 store should give: each is an error of the library's own tree, and none is believed."""

from __future__ import annotations

import itertools
import socket
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bubu_storage.backend.s3_clock import StoreClock
from bubu_storage.backend.s3_errors import map_sdk_error
from bubu_storage.backend.s3_listing import pages
from bubu_storage.errors import (
    ConfigurationError,
    InvalidKeyError,
    PermissionDeniedError,
    StorageError,
    ThrottledError,
)
from bubu_storage.settings import S3Settings
from tests.unit.backend.scripted_server import DATE, Answer, error, scripted_server
from tests.unit.backend.test_s3_wire import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bubu_storage.backend.s3 import S3Backend
    from tests.unit.backend.scripted_server import Request

    Open = Callable[[S3Settings], S3Backend]

HEADERS = f'Date: {DATE}\r\nETag: "e"\r\nLast-Modified: {DATE}\r\n'


def get(backend: S3Backend) -> object:
    """Read an object."""
    with backend.get_object("k") as found:
        return found.read()


def head(backend: S3Backend) -> object:
    """Look an object up."""
    return backend.head_object("k")


def list_all(backend: S3Backend) -> object:
    """List everything that begins with an a."""
    return [one for page in backend.list_objects("a") for one in page.objects]


def delete(backend: S3Backend) -> object:
    """Delete two objects."""
    return backend.delete_objects(["k", "l"])


# ---- whole answers


@contextmanager
def talking_server(answer: bytes) -> Generator[str]:
    """Answer each request with these very bytes, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(65536):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("act", "answer"),
    [
        (get, f"200 OK\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (get, f"200 OK\r\n{HEADERS}Connection: close\r\n\r\nhello"),
        (get, f"204 No Content\r\n{HEADERS}\r\n"),
        (head, f"200 OK\r\n{HEADERS}Connection: close\r\n\r\n"),
        (
            get,
            f"206 Partial Content\r\n{HEADERS}Content-Range: bytes 0-4/100\r\nContent-Length: 5\r\n\r\nhello",
        ),
        (get, f"200 OK\r\n{HEADERS}Content-Length: five\r\n\r\nhello"),
    ],
    ids=["chunks", "no length", "nothing", "no length to a look", "a part", "no number"],
)
def test_objects_of_unknown_length_are_not_empty(
    act: Callable[[S3Backend], object], answer: str, open_s3: Open
) -> None:
    """What comes through a bad proxy is refused, not passed off as an empty or a short object."""
    with talking_server(f"HTTP/1.1 {answer}".encode()) as endpoint:
        settings = S3Settings(
            bucket="bucket", endpoint=endpoint, use_path_style=True, anonymous=True, max_attempts=1
        )
        with pytest.raises(StorageError, match=r"object 'k' of s3://bucket") as caught:
            act(open_s3(settings))
    assert caught.value.code in {"InvalidAnswer", "ValueError"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("act", [get, head, list_all, delete])
def test_everything_is_somewhere_else(act: Callable[[S3Backend], object], status: int, open_s3: Open) -> None:
    """As where a proxy sends all of http to https: it is said, after a question or two about the region."""
    answer = Answer(status, headers={"Location": "https://127.0.0.1:1/"})
    with scripted_server(lambda _: answer) as server:
        with pytest.raises(ConfigurationError):
            act(open_s3(settings_for(server)))
        assert len(server.requests) <= 3


# ---- fields of answers


@pytest.mark.parametrize(
    "date", ["garbage", "0", "Sat, 99 Nov 2026 06:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -0100"]
)
def test_date_that_is_none(date: str, open_s3: Open) -> None:
    """It spoils neither an answer nor a refusal."""
    headers = {"ETag": '"e"', "Date": date}
    with scripted_server(lambda _: Answer(body=b"hello", headers=headers)) as server:
        assert b"hello" == get(open_s3(settings_for(server)))
    with (
        scripted_server(lambda _: error(503, "SlowDown", Date=date, Retry_After="7")) as server,
        pytest.raises(ThrottledError) as caught,
    ):
        get(open_s3(settings_for(server, max_attempts=2)))
    assert 7.0 == caught.value.retry_after_seconds


def test_clock_that_has_no_tomorrow() -> None:
    """The end of all calendars cannot be carried on, and is taken for no date."""
    clock = StoreClock()
    clock.note(type("Answer", (), {"headers": {"date": "Fri, 31 Dec 9999 23:59:59 GMT"}}))
    assert clock.now() is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Last-Modified": "garbage"},
        {"Last-Modified": "Fri, 31 Dec 9999 23:59:59 -0100"},
        {"x-amz-tagging-count": "many"},
    ],
)
@pytest.mark.parametrize("act", [get, head])
def test_header_that_cannot_be_read(
    act: Callable[[S3Backend], object], headers: dict[str, str], open_s3: Open
) -> None:
    """The caller sees an error of this library that names the object, not one of Python."""
    with (
        scripted_server(lambda _: Answer(body=b"hello", headers=headers)) as server,
        pytest.raises(StorageError, match=r"object 'k' of s3://bucket .* not one of an S3 store"),
    ):
        act(open_s3(settings_for(server)))


def listing(entries: str, head: str = "") -> Answer:
    """Return a page of a listing."""
    text = (
        f"{head}<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    )
    return Answer(body=text.encode())


def entry(key: str = "a", modified: str = "2026-01-02T03:04:05Z", size: str = "1") -> str:
    """Return an entry of a listing."""
    facts = f"<LastModified>{modified}</LastModified><Size>{size}</Size>"
    return f"<Contents><Key>{key}</Key>{facts}</Contents>"


@pytest.mark.parametrize(
    "answer",
    [
        listing(entry(modified="garbage")),
        listing(entry(modified="")),
        listing(entry(modified="9999-12-31T23:59:59-05:00")),
        listing(entry(size="many")),
        listing(entry(size="")),
        listing(entry(size="-1")),
        listing(entry(size="9" * 5000)),
        listing("<Contents><Size>1</Size></Contents>"),
        listing(entry(), "<?xml version='1.0' encoding='unheard-of'?>"),
        listing(entry(), "<?xml version='1.0' encoding='gb2312'?>"),
    ],
)
def test_listing_that_cannot_be_read(answer: Answer, open_s3: Open) -> None:
    """It is an error of this library that names the bucket, not one of Python and not a shorter listing."""
    with (
        scripted_server(lambda _: answer) as server,
        pytest.raises(StorageError, match=r"s3://bucket cannot be listed: .*check the endpoint"),
    ):
        list_all(open_s3(settings_for(server)))


@pytest.mark.parametrize(
    "entities",
    [
        "<!ENTITY x SYSTEM 'file:///etc/passwd'>",
        "<!ENTITY y 'lol'>"
        + "".join(f"<!ENTITY y{n} '{f'&y{n - 1 or str()};' * 10}'>" for n in range(1, 12)),
    ],
    ids=["a file of ours", "a bomb"],
)
def test_entities_are_not_followed(entities: str, open_s3: Open) -> None:
    """An answer can neither read our files nor fill our memory."""
    name = "y11" if "y11" in entities else "x"
    answer = listing(entry(key=f"a&{name};"), f"<?xml version='1.0'?><!DOCTYPE r [{entities}]>")
    with scripted_server(lambda _: answer) as server, pytest.raises(StorageError) as caught:
        list_all(open_s3(settings_for(server)))
    assert "root:" not in str(caught.value)


def test_keys_that_were_not_asked_for(open_s3: Open) -> None:
    """A store that ignores the prefix would make a clean-up delete other people's objects."""
    with (
        scripted_server(lambda _: listing(entry("b"))) as server,
        pytest.raises(StorageError, match="'b', which does not begin with 'a'") as caught,
    ):
        list_all(open_s3(settings_for(server)))
    assert "ListingPrefix" == caught.value.code


def test_listing_of_nothing_without_end() -> None:
    """A store that goes on and on with new tokens and no objects is given up."""
    tokens = itertools.count()

    def fetch(_: dict[str, str]) -> dict[str, Any]:
        return {"IsTruncated": True, "NextContinuationToken": str(next(tokens))}

    with pytest.raises(StorageError, match="no objects for very long") as caught:
        list(pages(fetch, prefix="", start_after="", store="s3://b"))
    assert "ListingLoop" == caught.value.code
    assert next(tokens) > 1000


@pytest.mark.parametrize("key", ["", "<Key>other</Key>"])
def test_failure_of_an_unknown_key_in_a_batch(key: str, open_s3: Open) -> None:
    """Some key of the batch was not deleted, and none may be taken for deleted."""
    body = f"<DeleteResult><Error>{key}<Code>AccessDenied</Code></Error></DeleteResult>"
    with (
        scripted_server(lambda _: Answer(body=body.encode())) as server,
        pytest.raises(
            PermissionDeniedError, match="2 objects of s3://bucket: the answer is about another key"
        ),
    ):
        delete(open_s3(settings_for(server)))


# ---- what cannot be sent


def refuse_all(request: Request) -> Answer:
    """Fail a test that lets something out."""
    raise AssertionError(f"{request} was sent")


@pytest.mark.parametrize(
    "arguments",
    [
        {"content_type": "text/plain\r\nX-Evil: 1"},
        {"content_type": "text/é"},
        {"metadata": {"a": "b\r\nX-Evil: 1"}},
        {"metadata": {"a:b": "c"}},
        {"metadata": {"a\nb": "c"}},
        {"metadata": {"": "c"}},
        {"if_match": '"e"\r\nX-Evil: 1'},
        {"if_match": "\udc80"},
    ],
)
def test_headers_that_cannot_be_sent(arguments: dict[str, Any], open_s3: Open) -> None:
    """It is the caller's mistake, said at once; not a store that cannot be reached, tried again and again."""
    with scripted_server(refuse_all) as server, pytest.raises(ConfigurationError, match=r"header|ASCII"):
        open_s3(settings_for(server)).put_object("k", b"x", **arguments)


def test_metadata_names_that_differ_in_case_only(open_s3: Open) -> None:
    """They are one header: the last one counts, as everywhere, and the signature is right."""
    with scripted_server(lambda _: Answer()) as server:
        open_s3(settings_for(server)).put_object("k", b"x", metadata={"Name": "1", "nAme": "2"})
    headers = server.requests[0].headers
    assert "2" == headers["x-amz-meta-name"]
    assert 1 == headers["authorization"].count("x-amz-meta-")


@pytest.mark.parametrize("range_header", ["bytes=0-1\r\nX-Evil: 1", "bytes=é", "\udc80"])
def test_range_that_cannot_be_sent(range_header: str, open_s3: Open) -> None:
    """It is ignored, as everywhere."""
    with scripted_server(lambda _: Answer(body=b"hello")) as server:
        backend = open_s3(settings_for(server))
        with backend.get_object("k", range_header=range_header) as found:
            assert (b"hello", "") == (found.read(), found.content_range)
    assert "range" not in server.requests[0].headers


def test_start_that_is_no_text(open_s3: Open) -> None:
    """A lone surrogate has no form on the wire."""
    with scripted_server(refuse_all) as server, pytest.raises(InvalidKeyError):
        list(open_s3(settings_for(server)).list_objects(start_after="\udc80"))


def test_secrets_are_nowhere_in_the_causes(open_s3: Open) -> None:
    """Not in the texts of causes, nor in the facts that the SDK's error carries along."""
    planted = f"planted-secret AKIDPLANTED Signature={'0' * 64}"
    refusal = error(403, "SignatureDoesNotMatch", planted, f"<StringToSign>{planted}</StringToSign>")
    with scripted_server(lambda _: refusal) as server, pytest.raises(StorageError) as caught:
        get(open_s3(settings_for(server)))
    shown = ""
    cause: BaseException | None = caught.value
    while cause is not None:
        shown += f"{cause} {cause!r} {getattr(cause, 'response', '')}"
        cause = cause.__cause__ or cause.__context__
    assert "StringToSign" in shown
    assert not [text for text in planted.split() if text in shown]


def test_password_of_a_proxy_is_hidden(open_s3: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the SDK cannot find it in an address that is none."""
    monkeypatch.setenv("http_proxy", "nonsense://user:planted-password@[::1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    settings = S3Settings(
        bucket="bucket", endpoint="http://store.invalid", use_path_style=True, anonymous=True, max_attempts=1
    )
    with pytest.raises(StorageError) as caught:
        get(open_s3(settings))
    assert "planted-password" not in "".join(traceback.format_exception(caught.value))


def test_errors_that_only_look_like_ours_keep_their_cause() -> None:
    """Somebody may have to find out what the store really said."""
    mapped = map_sdk_error(ValueError("not a number"), "s3://b cannot be listed")
    assert ("ValueError", StorageError) == (mapped.code, type(mapped))
