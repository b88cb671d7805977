"""Which store is meant: options, environment, and messages that give nothing away."""

from __future__ import annotations

import json
import os

import pytest

from bubu_storage.backend import factory
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.cli.failures import one_line
from bubu_storage.cli.options import GlobalOptions
from bubu_storage.cli.stores import Stores
from bubu_storage.settings import FileSettings, S3Settings
from tests.unit.backend.scripted_server import error, scripted_server

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED01",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-of-aws",
    "AWS_SESSION_TOKEN": "planted-token-of-aws",
    "BUBU_S3_ACCESS_KEY_ID": "planted-id-of-bubu",
    "BUBU_S3_SECRET_ACCESS_KEY": "planted-secret-of-bubu",
}


def chosen(**options):
    """Return the settings of the chosen store."""
    with Stores(GlobalOptions(**options)) as stores:
        return stores._chosen()


def test_no_store_at_all(run):
    """Both ways out are in the message."""
    result = run("ls")

    assert (2, "") == (result.exit_code, result.stdout)
    assert "--store s3://BUCKET or --store file:///DIR" in result.stderr
    assert "BUBU_STORAGE_PROVIDER" in result.stderr
    assert 1 == result.stderr.count("\n")


def test_a_disabled_store(run, monkeypatch):
    """``none`` is no store either."""
    monkeypatch.setenv("BUBU_STORAGE_PROVIDER", "none")

    assert "BUBU_STORAGE_PROVIDER is 'none'" in run("ls").stderr


def test_the_environment_of_a_pod(run, store, monkeypatch):
    """What a pod has is enough; ``--store`` goes before it."""
    monkeypatch.setenv("BUBU_STORAGE_PROVIDER", "file")
    monkeypatch.setenv("BUBU_STORAGE_PATH", store.url.removeprefix("file://"))

    assert "a.txt" in run("ls").stdout
    assert 1 == run("ls", "--store", "file:///nowhere/at/all").exit_code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--store", "bucket"), "write s3://BUCKET or file:///DIR"),
        (("--store", "/data"), "write file:///data"),
        (("--store", "file://data"), "three slashes"),
        (("--store", "s3://"), "is no name of a bucket"),
        (("--store", "s3://a b"), "is no name of a bucket"),
        (("--store", "s3://bucket/key"), "write --store s3://bucket and give 'key' to the command"),
        (("--store", "http://host/bucket"), "is no store"),
        (("--store", "s3://id:hunter2secret@bucket"), "takes no credentials"),
        (("--store", "s3://b", "--endpoint-url", "http://id:hunter2secret@host"), "user name or password"),
        (("--store", "s3://b", "--endpoint-url", "localhost:9000"), "write it as https://"),
        (("--store", "s3://b", "--endpoint-url", "http://host:port"), "write it as https://"),
        (("--store", "file:///", "--region", "x"), "--region is for S3 stores"),
        (("--store", "file:///", "--region", "x", "--profile", "p"), "--region and --profile are for S3"),
        (("--timeout", "0"), "is no time above 0"),
        (("--timeout", "soon"), "write it as 30 (seconds)"),
        (("--nonsense",), "no such option"),
        (("-o", "yaml"), "'yaml' is not one of"),
    ],
)
def test_wrong_options(run, arguments, words):
    """Each has one line with the way out, and no password in it; before or after the command."""
    for result in (run(*arguments, "ls"), run("ls", *arguments)):
        assert (2, "") == (result.exit_code, result.stdout)
        assert words.lower() in result.stderr.lower()
        assert 1 == result.stderr.count("\n")
        assert "hunter2secret" not in result.stderr


def test_an_unknown_command(run):
    """Is said to be none, in one line."""
    result = run("list")

    assert 2 == result.exit_code
    assert 1 == result.stderr.count("\n")


def test_the_later_option_wins(run, store):
    """Before and after the command mean the same; the one after it is nearer."""
    result = run("--store", "file:///nowhere", "-o", "table", "ls", "--store", store.url, "-o", "json")

    assert 0 == result.exit_code
    assert "a.txt" == json.loads(result.stdout.splitlines()[0])["key"]


def test_a_missing_directory_is_not_made(run, tmp_path):
    """Reading commands never create what they should read."""
    url = f"file://{tmp_path}/nope"
    for command in (("ls",), ("du",), ("stat", "k"), ("cat", "k"), ("rm", "-y", "k"), ("check",)):
        result = run(*command, "--store", url)
        assert 1 == result.exit_code
        assert "the directory does not exist" in result.stderr
    assert 1 == run("cp", "store:k", tmp_path / "x", "--store", url).exit_code
    assert not (tmp_path / "nope").exists()


def test_a_file_is_no_store(run, tmp_path):
    """A path that is no directory is wrong configuration."""
    (tmp_path / "f").write_text("x")

    result = run("ls", "--store", f"file://{tmp_path}/f")

    assert result.exit_code in {1, 2}
    assert 1 == result.stderr.count("\n")


def test_s3_settings(monkeypatch):
    """Credentials and endpoint come from where a pod's come from, options go before."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("BUBU_STORAGE_S3_ENDPOINT", "http://one:9000")
    monkeypatch.setenv("BUBU_S3_TLS", "false")

    plain = chosen(store="s3://b")
    given = chosen(store="s3://b/", endpoint_url="https://two:9000", region="x", timeout_seconds=7.0)

    assert isinstance(plain, S3Settings)
    assert ("b", "http://one:9000", "id", 60.0) == (
        plain.bucket,
        plain.endpoint,
        plain.access_key_id,
        plain.timeout_seconds,
    )
    assert ("b", "https://two:9000", "x", 7.0, 7.0) == (
        given.bucket,
        given.endpoint,
        given.region,
        given.timeout_seconds,
        given.connect_timeout_seconds,
    )


def test_the_pods_own_timeout_is_kept(monkeypatch):
    """Who has set one has thought about it."""
    monkeypatch.setenv("BUBU_S3_TIMEOUT", "90s")

    assert 90.0 == chosen(store="s3://b").timeout_seconds


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("stat", "k"), (3, 60.0)),
        (("check",), (1, 10.0)),
        (("check", "--timeout", "20"), (1, 20.0)),
        (("rm", "-y", "k"), (1, 60.0)),
        (("rm", "-r", "-y", "k"), (3, 60.0)),
    ],
)
def test_how_long_a_command_waits(run, monkeypatch, command, expected):
    """A check asks once; what tries again by itself needs no tries of the SDK within each of its own."""
    opened = []

    def note(settings):
        opened.append((settings.max_attempts, settings.timeout_seconds))
        return MemoryBackend()

    monkeypatch.setattr(factory, "open_backend", note)

    run("--store", "s3://bucket", *command)

    assert [expected] == opened


@pytest.mark.parametrize(("given", "expected"), [(None, 300.0), (2.0, 300.0), (900.0, 900.0)])
def test_a_document_may_take_longer_than_one_answer(tmp_path, given, expected):
    """``--timeout`` is for one answer; thousands of them may be needed."""
    with Stores(GlobalOptions(store=f"file://{tmp_path}", timeout_seconds=given)) as stores:
        assert expected == stores.manager().settings.timeout_seconds


def test_a_profile_goes_before_keys(monkeypatch):
    """Keys of the environment would win over a profile in the SDK: they are put away meanwhile."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    with Stores(GlobalOptions(store="s3://b", profile="p", endpoint_url="http://h")) as stores:
        settings = stores._chosen()
        assert "p" == os.environ["AWS_PROFILE"]
        assert "AWS_ACCESS_KEY_ID" not in os.environ

    assert ("", False, "boto3") == (settings.access_key_id, settings.anonymous, settings.engine)
    assert "AWS_PROFILE" not in os.environ
    assert PLANTED["AWS_SECRET_ACCESS_KEY"] == os.environ["AWS_SECRET_ACCESS_KEY"]


def test_an_unknown_profile(run):
    """The name is in the message."""
    result = run("ls", "--store", "s3://b", "--profile", "nobody")

    assert 2 == result.exit_code
    assert "nobody" in result.stderr
    assert 1 == result.stderr.count("\n")


def test_directories_are_taken_literally():
    """No escapes: what a message shows can be given again."""
    assert FileSettings("/a%20b c") == chosen(store="file:///a%20b c")


def test_bad_environment(run, monkeypatch):
    """Names the variable; exit code 2, as nothing was contacted."""
    monkeypatch.setenv("BUBU_STORAGE_PROVIDER", "gcs")

    result = run("ls")

    assert 2 == result.exit_code
    assert "BUBU_STORAGE_PROVIDER is 'gcs'" in result.stderr


def test_a_store_that_is_down(run, monkeypatch):
    """Refused connections end within the timeout, in one line, with nothing secret in it."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUBU_S3_MAX_RETRIES", "1")
    arguments = ("--store", "s3://b", "--endpoint-url", "http://127.0.0.1:1", "--timeout", "1")

    for command in (
        ("ls",),
        ("stat", "k"),
        ("cat", "k"),
        ("check",),
        ("rm", "-y", "k"),
        ("cp", "store:k", "x"),
    ):
        result = run(*arguments, "-v", *command)
        assert 1 == result.exit_code
        assert "caused by" in result.stderr or command[0] == "rm"
        for secret in PLANTED.values():
            assert secret not in result.output


@pytest.mark.parametrize(
    "command",
    [("ls",), ("du",), ("stat", "k"), ("cat", "k"), ("check",), ("rm", "-y", "k"), ("cp", "-", "store:k")],
)
def test_no_permission(run, monkeypatch, command):
    """What the store forbids is a failure in one line; a secret in the server's own words is blotted out."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    words = " and ".join(PLANTED.values())

    with scripted_server(lambda _: error(403, "AccessDenied", f"not you, {words}")) as server:
        result = run("--store", "s3://b", "--endpoint-url", server.endpoint, "-v", *command, stdin=b"x")

    assert 1 == result.exit_code
    assert "access denied" in result.stderr
    assert not [secret for secret in PLANTED.values() if secret in result.output]


def test_credentials_are_blotted_out_of_anything(run, monkeypatch):
    """Even where a person puts them into a key."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)

    result = run("stat", "../planted-secret-of-aws", "--store", "file:///")

    assert "planted-secret-of-aws" not in result.output
    assert "***" in result.stderr


@pytest.mark.parametrize("password", ["planted", "p@planted", "p/planted", "p:planted@", "p/@planted"])
@pytest.mark.parametrize(
    "command",
    [["resolve"], ["ls"], ["hydrate"], ["stat"], ["rm", "-y"], ["cat"], ["cp", "x"], ["cp", "store:x"]],
)
def test_a_password_in_a_url_is_blotted_out(run, tmp_path, command, password):
    """Also where a URL has no business, and where a key was made of it."""
    result = run("--store", f"file://{tmp_path}", *command, f"https://user:{password}@host")

    assert result.exit_code
    assert "planted" not in result.output


@pytest.mark.parametrize(
    "text", ["s3://bucket/a:b@c", "file:///home/me@work/x:y@z", "'a:b@c' of s3://bucket"]
)
def test_what_holds_no_password_is_shown(text):
    """An ``@`` in a key or a path is no secret."""
    assert text == one_line(text)


def test_verbose_shows_causes_without_traceback(run, tmp_path):
    """``-v`` adds the chain of causes, ``-q`` takes no error away."""
    (tmp_path / "s").mkdir()
    url = f"file://{tmp_path}/s"

    plain, verbose = run("stat", "k", "--store", url), run("stat", "k", "--store", url, "-v")

    assert 1 == plain.stderr.count("\n")
    assert verbose.stderr.startswith(plain.stderr)
    assert "caused by builtins.FileNotFoundError" in verbose.stderr
    assert "Traceback" not in verbose.stderr
    assert plain.stderr == run("stat", "k", "--store", url, "-q").stderr


def test_a_bug_is_called_one(run, store, monkeypatch):
    """What nobody foresaw is one line too; ``-v`` shows where it is."""
    from bubu_storage.backend.file import FileBackend

    def burst(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(FileBackend, "head_object", burst)

    plain, verbose = run("stat", "k", "--store", store.url), run("stat", "k", "--store", store.url, "-v")

    assert (
        1,
        "bubu-storage: unexpected ZeroDivisionError: oops; this is a bug, --verbose shows where\n",
    ) == (
        plain.exit_code,
        plain.stderr,
    )
    assert "test_stores.py" in verbose.stderr
