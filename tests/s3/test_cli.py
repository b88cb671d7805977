"""The command line on a real S3 server: the whole tour, and what goes wrong there."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from bubu_storage.cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from bubu_storage.backend.s3 import S3Backend
    from tests.s3server import VersityGateway

WRONG_SECRET = "planted-wrong-secret-key"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_server: VersityGateway) -> Callable[..., Result]:
    """Run the command line with the server's credentials and address in the environment."""
    for name in os.environ:
        if name.startswith(("BUBU_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("BUBU_STORAGE_S3_ENDPOINT", s3_server.endpoint)
    monkeypatch.setenv("BUBU_STORAGE_S3_REGION", s3_server.region)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: Any, stdin: Any = None) -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)
        assert s3_server.secret_key not in result.output
        return result

    return invoke


@pytest.fixture
def on(run: Callable[..., Result], bucket: str) -> Callable[..., Result]:
    """Run a command on the bucket."""
    return lambda *arguments, **more: run("--store", f"s3://{bucket}", *arguments, **more)


def test_the_whole_tour(on: Callable[..., Result], tmp_path: Path, s3_server: VersityGateway) -> None:
    """From a document to its objects, into files and back, to an empty bucket."""
    document = {"text": "x" * 5000, "list": [{"deep": "y" * 5000}, 2.5]}

    small = on("dehydrate", "--run-id", "team-a/run-1", stdin=json.dumps(document))
    assert document == json.loads(on("hydrate", stdin=small.stdout).stdout)

    assert "outputs/\n" == on("ls").stdout
    listed = [json.loads(line) for line in on("ls", "-r", "-o", "json").stdout.splitlines()]
    assert ["outputs/team-a/run-1/list.0.deep.json", "outputs/team-a/run-1/text.json"] == [
        one["key"] for one in listed
    ]
    assert f"{sum(one['size_bytes'] for one in listed):,} bytes" in on("du", "outputs").stdout

    facts = json.loads(on("stat", listed[1]["key"], "-o", "json").stdout)
    assert (listed[1]["etag"], "raw", "application/json") == (
        facts["etag"],
        facts["stored"],
        facts["content_type"],
    )
    assert document["text"] == on("cat", "--decoded", listed[1]["key"]).stdout
    assert document["text"] == on("resolve", "--text", listed[1]["key"]).stdout

    assert 0 == on("cp", "-r", "store:outputs", "down").exit_code
    assert 0 == on("cp", "-r", "down", "store:again/").exit_code
    other = s3_server.create_bucket("cli-tour-other")
    assert 0 == on("cp", "-r", "store:again", f"s3://{other}/third/").exit_code
    assert (
        document["text"]
        == on("--store", f"s3://{other}", "cat", "--decoded", "third/team-a/run-1/text.json").stdout
    )
    assert 2 == len(list((tmp_path / "down").rglob("*.json")))

    assert 0 == on("rm", "-r", "-y", "outputs", "again").exit_code
    assert (0, "") == (on("ls").exit_code, on("ls").stdout)


def test_large_objects_and_ranges(on: Callable[..., Result], tmp_path: Path, s3_backend: S3Backend) -> None:
    """Forty megabytes up in parts, down in ranges, between keys, in and out of a pipe."""
    data = random.Random(4).randbytes(40_000_000)
    (tmp_path / "big").write_bytes(data)

    assert 0 == on("cp", "big", "store:big").exit_code
    assert 0 == on("cp", "store:big", "store:copy").exit_code
    assert 0 == on("cp", "store:copy", "back").exit_code
    assert data == (tmp_path / "back").read_bytes()
    assert data[10_000_000:10_000_100] == on("cat", "big", "--range", "10000000-10000099").stdout_bytes
    assert 0 == on("cp", "-", "store:piped", stdin=data[:7_000_000]).exit_code
    assert 7_000_000 == s3_backend.head_object("piped").size_bytes


def test_many_objects(on: Callable[..., Result], s3_backend: S3Backend, tmp_path: Path) -> None:
    """More than a page: one level stays cheap, sums are exact, and all of it goes."""
    folder = tmp_path / "many" / "deep"
    folder.mkdir(parents=True)
    for number in range(1203):
        (folder / f"{number:05}").write_bytes(b"x")
    s3_backend.put_object("m/z", b"")

    assert 1203 == json.loads(on("cp", "-r", "many", "store:m", "-j", 16, "-o", "json").stdout)["copied"]
    assert "m/deep/\nm/z\n" == on("ls", "m").stdout
    assert 1204 == json.loads(on("du", "m", "-o", "json").stdout)["objects"]
    assert 1204 == json.loads(on("rm", "-r", "-y", "m", "-o", "json").stdout)["deleted"]
    assert [] == list(s3_backend.list_objects())


def test_content_type_and_metadata_travel(on: Callable[..., Result], s3_backend: S3Backend) -> None:
    """A copy inside the store, or to another key, is the same object."""
    s3_backend.put_object("a", b"x", content_type="text/csv", metadata={"who": "me"})

    assert 0 == on("cp", "store:a", "store:b").exit_code
    facts = json.loads(on("stat", "b", "-o", "json").stdout)

    assert ("text/csv", {"who": "me"}) == (facts["content_type"], facts["metadata"])
    assert "metadata who  me" in on("stat", "b").stdout


def test_if_absent(on: Callable[..., Result], s3_backend: S3Backend, tmp_path: Path) -> None:
    """The store itself refuses to replace, small objects and large ones, from files and between keys."""
    (tmp_path / "large").write_bytes(bytes(11_000_000))
    s3_backend.put_object("there", b"x")

    for arguments in (("-", "store:there"), ("large", "store:there")):
        result = on("cp", "--if-absent", *arguments, stdin=b"y")
        assert 1 == result.exit_code
        assert "'there'" in result.stderr
        assert "exists already and --if-absent was given" in result.stderr
    assert 0 == on("cp", "--if-absent", "store:there", "store:new").exit_code
    assert 1 == on("cp", "--if-absent", "store:new", "store:there").exit_code
    assert b"x" == on("cat", "there").stdout_bytes == on("cat", "new").stdout_bytes


def test_check(on: Callable[..., Result], s3_backend: S3Backend) -> None:
    """The probe finds this server usable and leaves nothing behind."""
    result = on("check", "-o", "json")
    document = json.loads(result.stdout)

    assert 0 == result.exit_code
    assert document["usable"]
    assert all(document["capabilities"][name] for name in ("Read", "Write", "List", "Delete", "BulkDelete"))
    assert 0 == on("check").exit_code
    assert [] == list(s3_backend.list_objects())


@pytest.mark.parametrize("options", [(), ("--read-only",)])
def test_check_in_a_wrong_region(
    on: Callable[..., Result],
    s3_backend: S3Backend,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    """Where `stat` would fail, the store is not called usable."""
    monkeypatch.setenv("BUBU_STORAGE_S3_REGION", "eu-central-1")
    result = on("check", *options)

    assert 0 != result.exit_code
    assert "check region and endpoint" in result.output
    assert [] == list(s3_backend.list_objects())


@pytest.mark.parametrize(
    "command",
    [
        ("ls",),
        ("du",),
        ("stat", "k"),
        ("cat", "k"),
        ("check",),
        ("rm", "-y", "k"),
        ("rm", "-r", "-y", "p"),
        ("cp", "store:k", "x"),
        ("cp", "-", "store:k"),
        ("cp", "-r", "store:p", "x"),
        ("resolve", "k"),
    ],
)
class TestWhatGoesWrong:
    """Each command says in one line, or one for each object, what is wrong with the store."""

    def failed(self, result: Result) -> str:
        """Return standard error of a command that failed."""
        assert 1 == result.exit_code
        assert "Traceback" not in result.stderr
        assert 1 <= result.stderr.count("\n") <= 2
        return result.stderr

    def test_no_such_bucket(self, run: Callable[..., Result], command: tuple[str, ...]) -> None:
        """The bucket is named."""
        message = self.failed(run("--store", "s3://no-such-bucket-here", *command))

        assert "s3://no-such-bucket-here" in message
        assert "the bucket does not exist" in message

    def test_wrong_credentials(
        self, on: Callable[..., Result], command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The keys are at fault, and are not shown."""
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRONG_SECRET)

        message = self.failed(on(*command, "-v") if command != ("check",) else on(*command))

        assert "secret access key is wrong" in message or "credentials" in message
        assert WRONG_SECRET not in message


def test_a_profile(on: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile's keys are used although the environment has others."""
    (tmp_path / ".aws").mkdir()
    keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    (tmp_path / ".aws" / "credentials").write_text(
        f"[mine]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRONG_SECRET)

    assert 1 == on("ls").exit_code
    assert 0 == on("ls", "--profile", "mine").exit_code


def test_as_in_a_pod(run: Callable[..., Result], bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment alone chooses the bucket."""
    monkeypatch.setenv("BUBU_STORAGE_PROVIDER", "s3")
    monkeypatch.setenv("BUBU_STORAGE_S3_BUCKET", bucket)

    assert 0 == run("cp", "-", "store:k", stdin=b"x").exit_code
    assert "k\n" == run("ls").stdout
