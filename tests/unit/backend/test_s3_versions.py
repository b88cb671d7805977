"""Whether a bucket keeps old versions: asked in one request, and what a store may answer to that."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import boto3
import pytest

from bubu_storage.backend.probe import is_versioned, probe_backend
from bubu_storage.backend.s3 import S3Backend
from tests.unit.backend.scripted_server import Answer, error, scripted_server, settings_for

if TYPE_CHECKING:
    from bubu_storage.settings import S3Settings

_XML = {"Content-Type": "application/xml"}


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_a_bucket_that_keeps_them(moto_settings: S3Settings, status: Literal["Enabled", "Suspended"]) -> None:
    """Also one that only kept them once: deletions leave markers there, and old versions stay."""
    client = boto3.client(
        "s3",
        endpoint_url=moto_settings.endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    with closing(client), closing(S3Backend(moto_settings)) as backend:
        assert probe_backend(backend).versioned is False
        client.put_bucket_versioning(Bucket=moto_settings.bucket, VersioningConfiguration={"Status": status})

        assert probe_backend(backend).versioned is True


@pytest.mark.parametrize(
    ("answer", "versioned"),
    [
        (Answer(body=b"<VersioningConfiguration/>", headers=_XML), False),
        (
            Answer(
                body=b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
                headers=_XML,
            ),
            True,
        ),
        (error(403, "AccessDenied"), None),
        (error(501, "NotImplemented"), None),
        (error(400, "MethodNotAllowed"), None),
        (Answer(body=b"<html>nothing of the kind", headers=_XML), None),
    ],
)
def test_what_stores_answer(answer: Answer, versioned: bool | None) -> None:
    """A refusal and a store that has no such question leave it unknown; nothing is raised, or asked twice."""
    with scripted_server(lambda _: answer) as server, closing(S3Backend(settings_for(server))) as backend:
        assert is_versioned(backend) is versioned
        assert [(one.method, set(one.query)) for one in server.requests] == [("GET", {"versioning"})]


def test_a_store_that_does_not_answer() -> None:
    """Costs its attempts, and leaves it unknown."""
    with scripted_server(lambda _: Answer(drop=True)) as server:
        settings = replace(settings_for(server), max_attempts=1)
        with closing(S3Backend(settings)) as backend:
            assert is_versioned(backend) is None
