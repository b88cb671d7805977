"""Uploading in parts: how a body is cut, and how much memory the parts take."""

from __future__ import annotations

import threading
import time
import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.backend import s3_upload
from bubu_storage.backend.s3_upload import MAX_PARTS, PartPlan, parts_of, upload_parts
from bubu_storage.backend.s3_writing import S3Writer
from bubu_storage.errors import LimitExceededError, StorageError
from bubu_storage.settings import MIN_PART_SIZE_BYTES, S3Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = MIN_PART_SIZE_BYTES
CONCURRENCY = 3
DEADLINE_SECONDS = 20.0


@given(st.lists(st.binary(max_size=25), max_size=12), st.integers(1, 20))
def test_parts_are_slices(pieces: list[bytes], part_size: int) -> None:
    """However a body comes, its parts are what slices of the whole would be; an empty one has one part."""
    whole = b"".join(pieces)
    expected = [whole[start : start + part_size] for start in range(0, max(1, len(whole)), part_size)]

    assert expected == list(parts_of(iter(pieces), part_size, size_bytes=None, key="k"))
    assert expected == list(parts_of(whole, part_size, size_bytes=len(whole), key="k"))


@pytest.mark.parametrize("announced", [0, 9, 11])
def test_a_wrong_length_is_noticed_before_the_last_part(announced: int) -> None:
    """So an upload of another length is never completed."""
    parts: list[bytes] = []

    with pytest.raises(StorageError, match="were announced") as caught:
        parts.extend(parts_of(iter([b"12345", b"67890"]), 4, size_bytes=announced, key="k"))

    assert "IncompleteBody" == caught.value.code
    assert b"90" not in parts


def test_the_last_part_that_s3_takes() -> None:
    """10,000 parts are taken, one byte more is an error that says what to do."""
    assert MAX_PARTS == sum(1 for _ in parts_of(iter([b"x" * MAX_PARTS]), 1, size_bytes=None, key="k"))

    with pytest.raises(LimitExceededError, match="raise the part size"):
        list(parts_of(iter([b"x" * (MAX_PARTS + 1)]), 1, size_bytes=None, key="k"))


class Client:
    """Takes parts as the SDK's client does; a part is "sent" when as many as may be are under way."""

    def __init__(self) -> None:
        self._together = threading.Barrier(CONCURRENCY)

    def create_multipart_upload(self, **_: Any) -> dict[str, str]:
        """Begin."""
        return {"UploadId": "u"}

    def upload_part(self, **_: Any) -> dict[str, str]:
        """Take one."""
        self._together.wait(DEADLINE_SECONDS)
        return {"ETag": '"00"'}

    def complete_multipart_upload(self, **_: Any) -> dict[str, str]:
        """End."""
        return {"ETag": '"e"'}


def test_memory_is_that_of_the_parts_under_way() -> None:
    """However long the body: no part is kept when it has been sent, none is there twice."""
    settings = S3Settings(bucket="b", concurrency=CONCURRENCY, checksums=False)
    session: Any = SimpleNamespace(
        settings=settings, bucket="b", name="s3://b", client=Client(), mapped=lambda *_: nullcontext()
    )
    piece = b"x" * (PART // 8)

    def body() -> Iterator[bytes]:
        for _ in range(8 * CONCURRENCY * 4):
            yield piece

    tracemalloc.start()
    try:
        etag = S3Writer(session).write(
            "k", body(), size_bytes=None, arguments={}, if_match="", if_none_match=""
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert '"e"' == etag
    assert peak_bytes < (CONCURRENCY + 1.2) * PART


class Hanging(Client):
    """Answers about no part before the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.over = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []
        self.aborted = False

    def upload_part(self, **_: Any) -> dict[str, str]:
        """Take one, and hang."""
        self.threads.append(threading.current_thread())
        self.begun.set()
        self.over.wait(DEADLINE_SECONDS)
        return {"ETag": '"00"'}

    def abort_multipart_upload(self, **_: Any) -> None:
        """Give up, which is to be heard at once."""
        self.aborted = True


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_does_not_wait_for_a_store_that_hangs(
    interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and SIGTERM abort the upload in seconds, and what hangs keeps no process from ending."""
    monkeypatch.setattr(s3_upload, "_INTERRUPTED_SECONDS", 0.2)
    client = Hanging()

    def parts() -> Iterator[bytes]:
        yield b"x"
        assert client.begun.wait(DEADLINE_SECONDS)
        raise interrupt

    started = time.monotonic()
    plan = PartPlan(cast("Any", client), "b", "k", {}, CONCURRENCY, checksums=False)
    with pytest.raises(interrupt):
        upload_parts(plan, parts(), lambda _: False)
    took = time.monotonic() - started
    client.over.set()
    for thread in client.threads:
        thread.join(DEADLINE_SECONDS)

    assert took < DEADLINE_SECONDS / 2
    assert client.aborted
    assert [True] == [thread.daemon for thread in client.threads]


def test_an_error_waits_for_the_parts_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that arrives after the abort would stay in the bucket."""
    client = Hanging()
    ended: list[bool] = []

    def parts() -> Iterator[bytes]:
        yield b"x"
        assert client.begun.wait(DEADLINE_SECONDS)
        threading.Timer(0.1, client.over.set).start()
        raise StorageError("the body is broken")

    monkeypatch.setattr(client, "abort_multipart_upload", lambda **_: ended.append(client.over.is_set()))
    plan = PartPlan(cast("Any", client), "b", "k", {}, CONCURRENCY, checksums=False)
    with pytest.raises(StorageError, match="broken"):
        upload_parts(plan, parts(), lambda _: False)

    assert [True] == ended
