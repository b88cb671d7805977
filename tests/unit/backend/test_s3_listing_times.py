"""Times in a listing: read by a quick way where they have the usual form, as the SDK does otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore import utils

from bubu_storage.backend import s3_client
from bubu_storage.settings import S3Settings
from tests.unit.backend.scripted_server import Answer, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bubu_storage.backend.s3 import S3Backend

PAGE = """<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key><Size>1</Size>
<LastModified>{}</LastModified></Contents></ListBucketResult>"""


def listed_time(text: str, open_s3: Callable[[S3Settings], S3Backend]) -> datetime:
    """Return the time of an object that a store lists with this text."""
    with scripted_server(lambda _: Answer(body=PAGE.format(text).encode())) as server:
        backend = open_s3(
            S3Settings(
                bucket="b",
                endpoint=server.endpoint,
                use_path_style=True,
                access_key_id="AKIDPLANTED",
                secret_access_key="planted-secret",
            )
        )
        (page,) = backend.list_objects()
        return page.objects[0].last_modified


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.123456Z",
        "2026-01-02T03:04:05+02:00",
        "Fri, 02 Jan 2026 03:04:05 GMT",
        "1767323045",
        "2026-01-02 03:04:05 Z",
    ],
)
def test_same_time_as_the_sdk_reads(text: str, open_s3: Callable[[S3Settings], S3Backend]) -> None:
    """Whatever form a store uses, the time is the one that the SDK would give, in UTC."""
    found = listed_time(text, open_s3)
    assert utils.parse_timestamp(text) == found
    assert found.utcoffset() is not None
    assert not found.utcoffset()


def test_usual_form_takes_the_quick_way(
    open_s3: Callable[[S3Settings], S3Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's reading costs more than all the rest of a listing; S3's own form does without it."""

    def too_slow(text: object) -> datetime:
        raise AssertionError(f"{text} went the slow way")

    monkeypatch.setattr(s3_client, "parse_timestamp", too_slow)
    assert "2026-01-02T03:04:05.678000+00:00" == listed_time("2026-01-02T03:04:05.678Z", open_s3).isoformat()
