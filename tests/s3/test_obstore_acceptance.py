"""The fast S3 engine on a real S3 server: the acceptance suite, and the same results as the other engine."""

from __future__ import annotations

import hashlib
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bubu_storage.backend.s3 import S3Backend
from bubu_storage.backend.s3_obstore import ObstoreBackend
from bubu_storage.errors import BucketNotFoundError, ObjectNotFoundError, StorageError, UnauthenticatedError
from bubu_storage.settings import S3Settings
from tests.s3.test_acceptance import OnVersityGateway
from tests.unit.backend.decorated import emptied, matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bubu_storage.backend.types import ObjectBackend
    from tests.s3server import VersityGateway

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def engines(s3_server: VersityGateway) -> Iterator[tuple[S3Backend, ObstoreBackend]]:
    """Both engines on one bucket."""
    bucket = s3_server.create_bucket(f"both-{secrets.token_hex(6)}")
    wanted = s3_server.settings(bucket)
    with closing(S3Backend(wanted)) as reference, closing(ObstoreBackend(wanted)) as fast:
        yield reference, fast


class OnVersityGatewayByObstore(OnVersityGateway):
    """In a bucket of versitygw."""

    @pytest.fixture
    def store(self, engines: tuple[S3Backend, ObstoreBackend]) -> Iterator[ObjectBackend]:
        """An empty one."""
        yield from emptied(engines[1])


globals().update(matrix(OnVersityGatewayByObstore, names=()))


def seen(backend: ObjectBackend, key: str, range_header: str = "") -> object:
    """Return everything that a reader sees, or the error."""
    try:
        with backend.get_object(key, range_header=range_header) as found:
            return found.read(), found.info, found.content_range
    except StorageError as error:
        return type(error), error.key, error.status, error.code


SEGMENTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda text: text not in {".", ".."} and len(text.encode()) <= 100)
KEYS = st.builds(
    lambda parts, end: "/".join(["k", *parts]) + end,
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from(["", "", "", "%2F", " ", "+", "?x=1", "#", "\\y"]),
)
TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
NAMES = st.text("abcdefghijkXYZ0123456789-", min_size=1, max_size=10)
OFFSETS = st.integers(0, 12_000)
RANGES = st.one_of(
    st.just(""),
    st.builds("bytes={}-{}".format, OFFSETS, OFFSETS),
    st.builds("bytes={}-".format, OFFSETS),
    st.builds("bytes=-{}".format, OFFSETS),
    st.sampled_from(["bytes=0-1,4-5", "lines=1-2", "bytes=a-b"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=KEYS,
    body=st.binary(max_size=10_000),
    content_type=st.sampled_from(["", "application/json", "text/plain; charset=utf-8"]),
    metadata=st.dictionaries(NAMES, TEXTS, max_size=3),
    range_header=RANGES,
)
def test_engines_agree_about_objects(
    engines: tuple[S3Backend, ObstoreBackend],
    *,
    key: str,
    body: bytes,
    content_type: str,
    metadata: dict[str, str],
    range_header: str,
) -> None:
    """What one writes the other reads, to the byte and to the header, whatever the key, body and range."""
    reference, fast = engines
    stored: list[Any] = []
    for writer in (reference, fast):
        try:
            etag = writer.put_object(key, body, content_type=content_type, metadata=metadata)
        except StorageError as error:
            stored.append((type(error), error.status, error.code))
            continue
        info = fast.head_object(key)
        assert reference.head_object(key) == info
        assert seen(reference, key) == seen(fast, key)
        assert seen(reference, key, range_header) == seen(fast, key, range_header)
        assert seen(fast, key)[0] == body  # type: ignore[index]
        stored.append((etag, replace(info, last_modified=None)))  # type: ignore[arg-type]
    assert stored[0] == stored[1]
    fast.delete_object(key)


@pytest.mark.parametrize("size", [5 * MIB, 5 * MIB + 1, 10 * MIB, 17 * MIB + 5])
def test_large_objects_are_stored_alike(
    engines: tuple[S3Backend, ObstoreBackend], s3_server: VersityGateway, size: int
) -> None:
    """Same parts, so same ETag and checksum; nothing is left over; read at once, in pieces, in ranges."""
    reference, fast = engines
    data = random.Random(size).randbytes(size)
    with ThreadPoolExecutor(1) as pool:  # on the main thread, both would be the reference's
        etag = pool.submit(fast.put_object, "big/fast", data).result()
    assert reference.put_object("big/reference", data) == etag
    with closing(s3_server.client()) as client:
        bucket = fast.name.removeprefix("s3://")
        heads = [
            client.head_object(Bucket=bucket, Key=f"big/{one}", ChecksumMode="ENABLED")
            for one in ("reference", "fast")
        ]
        assert [] == client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    for name in ("ETag", "ChecksumSHA256", "ChecksumType", "ContentType", "ContentLength"):
        assert heads[0].get(name) == heads[1].get(name)
    before = fast.repeated
    with fast.get_object("big/reference") as found:
        assert hashlib.sha256(data).digest() == hashlib.sha256(found.read()).digest()
    with fast.get_object("big/reference") as found:
        assert data == b"".join(found)
    for range_header in ("bytes=7-", f"bytes=-{size - 7}", f"bytes=3-{size - 2}"):
        assert seen(reference, "big/fast", range_header) == seen(fast, "big/fast", range_header)
    assert before == fast.repeated
    for one in ("reference", "fast"):
        fast.delete_object(f"big/{one}")


def test_missing_bucket_is_not_a_missing_object(s3_settings: S3Settings) -> None:
    """Told apart in every operation, and both apart from credentials that the store does not know."""
    for changes, kind in (
        ({"bucket": "no-such-bucket"}, BucketNotFoundError),
        ({"access_key_id": "unknown"}, UnauthenticatedError),
        ({"secret_access_key": "wrong"}, UnauthenticatedError),
        ({}, ObjectNotFoundError),
    ):
        with closing(ObstoreBackend(replace(s3_settings, **changes))) as backend:
            for act in (backend.get_object, backend.head_object):
                with pytest.raises(kind):
                    act("k")
            if changes:
                with pytest.raises(kind):
                    backend.put_object("k", b"x")
                with pytest.raises(kind):
                    backend.put_object("k", bytes(6 * MIB))
