"""Listings, and the times in them, are read quickly where they have the usual form, else as the SDK does."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore import utils

from bubu_storage.backend import s3_client
from bubu_storage.backend.s3_parsing import register_quick_parsing
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


ENTRY = """<Contents><Key>{}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>
<ETag>&quot;e&quot;</ETag><Size>7</Size><Owner><ID>o</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>"""


def sdk_page(
    body: str, *, quick: bool, operation: str = "list_objects_v2", **arguments: Any
) -> dict[str, Any]:
    """Return what the SDK makes of an answer."""
    with scripted_server(lambda _: Answer(body=body.encode())) as server:
        client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id="AKIDPLANTED",
            aws_secret_access_key="planted-secret",
        )
        with closing(client):
            if quick:
                register_quick_parsing(client)
            answer = getattr(client, operation)(Bucket="bucket", **arguments)
    answer.pop("ResponseMetadata")
    return answer


@pytest.mark.parametrize("namespace", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
@pytest.mark.parametrize("encoding", ["", "<EncodingType>url</EncodingType>"])
def test_quick_page_is_the_page_of_the_sdk(namespace: str, encoding: str) -> None:
    """In all fields that the library uses, keys decoded and odd characters included."""
    keys = ["a+b%20c", "&lt;x&gt; &amp; y", "ü/\U0001f600", "with\nline"]
    body = (
        f"<ListBucketResult{namespace}><Name>bucket</Name><KeyCount>4</KeyCount>{encoding}"
        f"<IsTruncated>true</IsTruncated>{''.join(map(ENTRY.format, keys))}"
        "<NextContinuationToken>t&amp;1</NextContinuationToken></ListBucketResult>"
    )
    theirs, ours = sdk_page(body, quick=False), sdk_page(body, quick=True)
    fields = ("Key", "LastModified", "ETag", "Size")
    wanted = [{name: one[name] for name in fields} for one in theirs.pop("Contents")]
    assert wanted == ours.pop("Contents")
    assert theirs == ours
    assert "t&1" == ours["NextContinuationToken"]


@pytest.mark.parametrize(
    "entry",
    [
        "<Contents><Key>k</Key><LastModified>Fri, 02 Jan 2026 03:04:05 GMT</LastModified></Contents>",
        "<Contents><Key>k</Key></Contents><Contents><Size>1</Size></Contents>",
        "<Prefix><Contents></Contents></Prefix>",
    ],
)
def test_unusual_page_is_left_to_the_sdk(entry: str) -> None:
    """What has another form than expected is read as before, whole."""
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>"
    assert sdk_page(body, quick=False) == sdk_page(body, quick=True)


def test_deleted_keys_are_dropped_and_failures_kept() -> None:
    """Of an answer to a batch only what failed is read."""
    body = (
        "<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>AccessDenied</Code>"
        "<Message>no</Message></Error><Deleted><Key>c</Key></Deleted></DeleteResult>"
    )
    delete = {"Objects": [{"Key": "a"}, {"Key": "b"}, {"Key": "c"}]}
    theirs, ours = (
        sdk_page(body, quick=quick, operation="delete_objects", Delete=delete) for quick in (False, True)
    )
    assert 2 == len(theirs.pop("Deleted"))
    assert theirs == ours == {"Errors": [{"Key": "b", "Code": "AccessDenied", "Message": "no"}]}
