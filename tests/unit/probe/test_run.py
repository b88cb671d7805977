"""The command in the Job's pod: one result, whatever happens, and nothing secret in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.probe import run
from bubu_operator.probe.result import parse_result
from bubu_operator.probe.run import ProbeOptions, result_of_error, run_probe
from bubu_storage.backend.file import FileBackend
from bubu_storage.errors import BucketNotFoundError, StorageError, StorageTimeoutError, UnauthenticatedError
from bubu_storage.retention.registration import foreign_clusters

PLANTED = "PLANTEDsecretVALUE0123456789"


@pytest.fixture
def env(monkeypatch):
    """Clear what the machine says about stores; return a function that sets variables."""
    for name in os.environ:
        if name.startswith(("BUBU_", "AWS_")):
            monkeypatch.delenv(name)
    # The command sets this itself; named here so that it does not outlive the test.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def probe(tmp_path, **options):
    """Run the command; return its exit code and the result in its file."""
    file = tmp_path / "result"
    code = run_probe(ProbeOptions(result=file, **options))
    return code, parse_result(file.read_text())


def bucket(endpoint, **more):
    """Return the variables of a bucket."""
    return {
        "BUBU_STORAGE_PROVIDER": "s3",
        "BUBU_STORAGE_S3_BUCKET": "flows",
        "BUBU_STORAGE_S3_ENDPOINT": endpoint,
        "BUBU_STORAGE_S3_REGION": "us-east-1",
        **more,
    }


KEYS = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED000000000", "AWS_SECRET_ACCESS_KEY": PLANTED}


def test_a_directory(env, tmp_path, capsys):
    """Probed for real; the log line is the result."""
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "store"))

    code, result = probe(tmp_path)

    assert (code, result.reason) == (0, Reason.PROBE_SUCCEEDED)
    assert result.latency_milliseconds > 0
    assert len(result.seen) >= 4
    assert parse_result(capsys.readouterr().err) == result


def test_a_store_that_works_learns_which_cluster_uses_it(env, tmp_path):
    """Other clusters find the registration; without a uid nothing is left."""
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "store"))
    backend = FileBackend(tmp_path / "store")
    assert probe(tmp_path)[0] == 0
    assert foreign_clusters(backend, "other") == ()

    code, result = probe(tmp_path, cluster_uid="u-1")

    assert (code, result.message) == (0, "")
    assert [one.cluster for one in foreign_clusters(backend, "other")] == ["u-1"]


def test_a_registration_that_is_refused_is_no_fault_of_the_store(env, tmp_path, monkeypatch):
    """The store works; what went wrong besides is in the message."""

    def refuse(*_args, **_options):
        raise StorageError("not there")

    monkeypatch.setattr(run, "register", refuse)
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "store"))

    code, result = probe(tmp_path, cluster_uid="u-1")

    assert (code, result.reason) == (0, Reason.PROBE_SUCCEEDED)
    assert "cannot register" in result.message
    assert "not there" in result.message


def test_a_registration_that_hangs_is_no_fault_of_the_store(env, tmp_path, monkeypatch):
    """At the deadline the result of the probe counts; the pod's exit code is its own."""
    exits, hanging, over = [], threading.Event(), threading.Event()

    def hang(*_args, **_options):
        hanging.set()
        over.wait(60)

    monkeypatch.setattr(run, "register", hang)
    monkeypatch.setattr(run.os, "_exit", exits.append)
    joining = threading.Thread.join

    def join(thread, timeout=None):
        if thread.name == "probe":
            assert hanging.wait(60)
            timeout = 0.01
        joining(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "store"))

    code, result = probe(tmp_path, cluster_uid="u-1")
    over.set()

    assert (code, exits, result.reason) == (0, [0], Reason.PROBE_SUCCEEDED)
    assert "no answer in time" in result.message


def test_a_directory_below_a_file(env, tmp_path):
    """The reason of a directory, exit code 1."""
    (tmp_path / "file").write_text("x")
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "file" / "store"))

    code, result = probe(tmp_path)

    assert (code, result.reason) == (1, Reason.PATH_NOT_WRITABLE)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "BUBU_STORAGE_PROVIDER is not set"),
        ({"BUBU_STORAGE_PROVIDER": "s3"}, "BUBU_STORAGE_S3_BUCKET is not set"),
        (bucket(f"http://user:{PLANTED}@127.0.0.1:9"), "user name or password"),
    ],
)
def test_an_environment_that_is_wrong(env, tmp_path, values, words):
    """A result like any other, in the library's words."""
    env(**values)

    code, result = probe(tmp_path)

    assert (code, result.reason) == (1, Reason.STORE_ERROR)
    assert words in result.message
    assert PLANTED not in result.message


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", ""])
def test_no_identity_is_not_anonymous(env, tmp_path, endpoint):
    """Under an account the probe is about that account's identity; nothing is sent without one."""
    env(HOME=str(tmp_path), **bucket(endpoint))

    _, result = probe(tmp_path, require_identity=True)

    assert result.reason is Reason.UNAUTHENTICATED
    assert "the pod got no identity" in result.message


@pytest.mark.parametrize(
    ("endpoint", "options", "reason"),
    [
        ("http://127.0.0.1:9", {}, Reason.ENDPOINT_NOT_ALLOWED),
        ("http://127.0.0.1:9", {"allow_loopback_endpoints": True}, Reason.UNREACHABLE),
        ("http://169.254.169.254", {"allow_loopback_endpoints": True}, Reason.ENDPOINT_NOT_ALLOWED),
        ("http://[fd00:ec2::254]", {"allow_loopback_endpoints": True}, Reason.ENDPOINT_NOT_ALLOWED),
    ],
)
def test_the_refusals_of_the_controller(env, tmp_path, endpoint, options, reason):
    """The pod stands in the tenant's namespace, and is still started by us."""
    env(**bucket(endpoint), **KEYS)

    code, result = probe(tmp_path, **options)

    assert (code, result.reason) == (1, reason)
    assert PLANTED not in result.message


def test_the_nodes_own_identity_is_shut_out(env, tmp_path):
    """What a node's metadata service hands out is not the account's."""
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "store"))

    probe(tmp_path)

    assert os.environ["AWS_EC2_METADATA_DISABLED"] == "true"


@pytest.mark.parametrize(
    ("error", "is_file", "reason"),
    [
        (BucketNotFoundError("x"), False, Reason.BUCKET_NOT_FOUND),
        (UnauthenticatedError("x"), False, Reason.UNAUTHENTICATED),
        (StorageTimeoutError("x"), True, Reason.TIMEOUT),
        (StorageError("x"), False, Reason.STORE_ERROR),
        (OSError("x"), True, Reason.PATH_NOT_WRITABLE),
        (RuntimeError(PLANTED), False, Reason.STORE_ERROR),
    ],
)
def test_errors_have_the_reasons_of_the_controller(error, is_file, reason):
    """By their type; a bug's text is not told, only its kind."""
    result = result_of_error(error, is_file=is_file)

    assert result.reason is reason
    assert PLANTED not in result.message


@pytest.mark.parametrize("where", ["variable", "credentials", "token"])
def test_planted_secrets(env, tmp_path, monkeypatch, capsys, where):
    """Values of variables and of credential files never leave, whatever an error quotes."""
    file = tmp_path / "planted"
    text = f"[default]\naws_access_key_id = AK\naws_secret_access_key = {PLANTED}\n"
    file.write_text(PLANTED if where == "token" else text)
    name = {"credentials": "AWS_SHARED_CREDENTIALS_FILE", "token": "AWS_WEB_IDENTITY_TOKEN_FILE"}.get(where)
    env(**({name: str(file)} if name else {"AWS_SECRET_ACCESS_KEY": PLANTED}))
    env(BUBU_STORAGE_PROVIDER="file", BUBU_STORAGE_PATH=str(tmp_path / "store"))

    def quote(_backend):
        raise StorageError(f"the store says: {PLANTED} is wrong")

    monkeypatch.setattr(run, "probe_backend", quote)
    _, result = probe(tmp_path)

    assert result.message == "the store says: [redacted] is wrong"
    assert PLANTED not in capsys.readouterr().err


def test_a_deadline_and_a_result_file_that_cannot_be_written(tmp_path):
    """A hanging store costs the deadline and no more; a missing folder is said on stderr."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        values = bucket(f"http://127.0.0.1:{silent.getsockname()[1]}")
        command = [sys.executable, "-m", "bubu_operator", "probe", "--allow-loopback-endpoints"]
        env = {"PATH": os.defpath, **values, **KEYS}
        file = tmp_path / "result"
        done = subprocess.run(
            [*command, "--result", file, "--deadline-seconds", "0.5"],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, parse_result(file.read_text()).reason) == (1, Reason.TIMEOUT)

    done = subprocess.run(
        [*command, "--result", tmp_path / "none" / "result"],
        env={"PATH": os.defpath}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
