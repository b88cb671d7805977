"""The S3 server that all S3 tests rely on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tests.cluster.errors import PrerequisiteError, StartError
from tests.cluster.processes import is_running, start_ticks, wait_until
from tests.s3server import S3Request, VersityGateway, ensure_versitygw, gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.s3

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def s3(s3_server: VersityGateway) -> Iterator[S3Client]:
    """A client of the root user."""
    with closing(s3_server.client()) as client:
        yield client


def test_object_comes_back_as_it_went(s3: S3Client, bucket: str):
    """Bytes, content type, metadata and ETag survive the trip; a larger body too."""
    body = os.urandom(3 << 20)

    s3.put_object(Bucket=bucket, Key="a/b.bin", Body=body, ContentType="x/y", Metadata={"one": "1"})
    answer = s3.get_object(Bucket=bucket, Key="a/b.bin")

    with answer["Body"] as stream:
        assert stream.read() == body
    assert answer["ContentType"] == "x/y"
    assert answer["Metadata"] == {"one": "1"}
    assert answer["ETag"] == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def test_buckets_are_fresh_and_separate(s3: S3Client, s3_server: VersityGateway, bucket: str):
    """A test's bucket is empty, whatever other tests have put elsewhere."""
    other = s3_server.create_bucket("other-bucket")
    s3.put_object(Bucket=other, Key="x", Body=b"x")

    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_age_of_an_object_is_its_files_mtime(s3: S3Client, s3_server: VersityGateway, bucket: str):
    """Tests and the demo age objects by touching files."""
    s3.put_object(Bucket=bucket, Key="old/object", Body=b"x")
    stamp = int(time.time()) - 40 * 86400
    os.utime(s3_server.path_of(bucket, "old/object"), (stamp, stamp))

    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]

    assert [item["LastModified"].timestamp() for item in listed] == [stamp]


def test_wrong_credentials_are_refused(s3_server: VersityGateway, bucket: str):
    """The server checks signatures: it is fit for tests of bad credentials."""
    stranger = VersityGateway.__new__(VersityGateway)
    stranger.endpoint, stranger.region = s3_server.endpoint, s3_server.region
    stranger.access_key, stranger.secret_key = s3_server.access_key, "wrong"

    with closing(stranger.client()) as client, pytest.raises(ClientError) as caught:
        client.list_objects_v2(Bucket=bucket)

    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_missing_bucket_is_told(s3: S3Client):
    """A bucket that nobody created does not exist."""
    with pytest.raises(ClientError) as caught:
        s3.list_objects_v2(Bucket="never-created")

    assert caught.value.response["Error"]["Code"] == "NoSuchBucket"


def test_requests_are_in_the_access_log(s3: S3Client, s3_server: VersityGateway, bucket: str):
    """Tests can count what a piece of code asked of the server, its failures included."""
    s3.put_object(Bucket=bucket, Key="logged/k", Body=b"x")
    with pytest.raises(ClientError):
        s3.get_object(Bucket=bucket, Key="absent")

    wait_until(lambda: len(s3_server.requests(bucket)) >= 3, 5, "the requests in the access log")

    assert s3_server.requests(bucket) == [
        S3Request("CreateBucket", bucket, "", 200),
        S3Request("PutObject", bucket, "logged/k", 200),
        S3Request("GetObject", bucket, "absent", 404),
    ]
    assert s3_server.requests("nobody-asked-for") == []


def test_credentials_are_not_on_the_command_line(s3_server: VersityGateway):
    """Anybody on a machine can read command lines."""
    words = Path(f"/proc/{s3_server.pid}/cmdline").read_text(encoding="utf-8")

    assert s3_server.access_key not in words
    assert s3_server.secret_key not in words


def test_objects_keep_metadata_without_extended_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a file system without user attributes a sidecar folder holds the metadata."""
    monkeypatch.setattr(gateway, "_has_extended_attributes", lambda _folder: False)

    with VersityGateway(tmp_path) as server, closing(server.client()) as client:
        server.create_bucket("plain")
        client.put_object(Bucket="plain", Key="k", Body=b"x", ContentType="x/y")
        listed = client.list_objects_v2(Bucket="plain")["Contents"]

        assert client.head_object(Bucket="plain", Key="k")["ContentType"] == "x/y"
        assert os.listxattr(tmp_path / "plain" / "k") == []
        assert [item["Key"] for item in listed] == ["k"]


def test_stop_ends_the_server_and_keeps_the_given_folder(tmp_path: Path):
    """The data belongs to the caller; the process and the temporary files do not stay; twice is fine."""
    server = VersityGateway(tmp_path).start()
    pid, log = server.pid, server.log
    assert pid is not None
    assert start_ticks(pid) is not None
    server.create_bucket("kept")

    server.stop()
    server.stop()

    assert start_ticks(pid) is None
    assert (tmp_path / "kept").is_dir()
    assert not log.parent.exists()


def test_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The error holds the program's last words."""
    program = tmp_path / "versitygw"
    program.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("BUBU_VERSITYGW", str(program))

    with pytest.raises(StartError, match="no such option"):
        VersityGateway(tmp_path).start()


def test_given_program_must_exist(monkeypatch: pytest.MonkeyPatch):
    """A wrong path in BUBU_VERSITYGW is one sentence, not a build."""
    monkeypatch.setenv("BUBU_VERSITYGW", "/no/such/versitygw")

    with pytest.raises(PrerequisiteError, match="BUBU_VERSITYGW=/no/such/versitygw"):
        ensure_versitygw()


STARTER = """
import sys, time
from pathlib import Path
from tests.s3server import VersityGateway
server = VersityGateway(Path(sys.argv[1])).start()
Path(sys.argv[1], "pid.new").write_text(str(server.pid))
Path(sys.argv[1], "pid.new").rename(Path(sys.argv[1], "pid"))
time.sleep(300)
"""


def test_server_dies_with_a_killed_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGKILL of the test run leaves no server behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], cwd=REPOSITORY)
    try:
        wait_until(lambda: (tmp_path / "pid").exists() or starter.poll() is not None, 30, "the server")
        pid = int((tmp_path / "pid").read_text(encoding="ascii"))
        assert is_running(pid, None)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()

    wait_until(lambda: not is_running(pid, None), 5, "the server to end")
