"""Starting the process: what is wrong is said in one line, with exit code 1."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bubu_operator.webhook.main import WebhookOptions, listen, run_webhook
from tests.cluster.processes import wait_until


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command configures logging; later tests must not notice."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """A kubeconfig of a server that is not there."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: c,"
        " clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}],"
        " users: [{name: u, user: {token: t}}], contexts: [{name: c, context: {cluster: c, user: u}}]}"
    )
    return path


def options(tmp_path: Path, **more: object) -> WebhookOptions:
    """Options of a process that will not start."""
    return WebhookOptions(
        tls_cert=tmp_path / "tls.crt",
        tls_key=tmp_path / "tls.key",
        host="127.0.0.1",
        **more,  # type: ignore[arg-type]
    )


def test_a_missing_kubeconfig(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The file is named."""
    missing = tmp_path / "absent"

    assert run_webhook(options(tmp_path, kubeconfig=missing)) == 1
    err = capsys.readouterr().err
    assert str(missing) in err
    assert "Traceback" not in err


def test_a_port_that_is_taken(tmp_path: Path, kubeconfig: Path, capsys: pytest.CaptureFixture[str]):
    """Address, port and cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_webhook(options(tmp_path, kubeconfig=kubeconfig, port=port)) == 1

    err = capsys.readouterr().err
    assert f"127.0.0.1 port {port}" in err
    assert "in use" in err


def test_a_namespace_in_which_nothing_is_injected(
    tmp_path: Path, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
):
    """Said at the start, not by pods that go without."""
    assert run_webhook(options(tmp_path, kubeconfig=kubeconfig, namespace="bubu-storage-system")) == 1
    assert "the operator's own" in capsys.readouterr().err


def test_an_unknown_log_level(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Before anything else is done."""
    assert run_webhook(options(tmp_path, log_level="loud")) == 1
    assert "loud" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_listener_says_that_it_speaks_tcp(host: str):
    """Else asyncio leaves Nagle's algorithm on, and each answer takes 40 ms."""
    try:
        listener = listen(host, 0)
    except OSError as error:
        pytest.skip(f"no {host} on this machine: {error}")
    with listener:
        assert listener.proto == socket.IPPROTO_TCP
        assert listener.getsockname()[0] == host


LOADS_FOR_LONG = """
import sys, time
from bubu_operator import cli

class Slow:
    def find_spec(self, name, *_):
        if name == "bubu_operator.webhook.main":
            time.sleep(300)

sys.meta_path.insert(0, Slow())
cli.cli(sys.argv[1:])
"""


def spawn(
    tmp_path: Path, kubeconfig: Path, *more: str, program: tuple[str, ...] = ("-m", "bubu_operator")
) -> subprocess.Popen[bytes]:
    """The real command, its log in a file."""
    with (tmp_path / "log").open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, *program, "webhook", "--kubeconfig", str(kubeconfig)),
                *("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key")),
                *("--host", "127.0.0.1", "--port", "0", "--metrics-host", "127.0.0.1", *more),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_has_begun(number: int, tmp_path: Path, kubeconfig: Path):
    """While modules are still being loaded: it ends with 0, in silence, and is not lost."""
    process = spawn(tmp_path, kubeconfig, "--metrics-port", "0", program=("-c", LOADS_FOR_LONG))
    try:
        wait_until(lambda: catches(process.pid, signal.SIGTERM), 30, "the handler")
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "log").read_bytes() == b""


def test_a_signal_without_an_api_server(tmp_path: Path, kubeconfig: Path):
    """Health is on, readiness off with its reasons, metrics are there; SIGTERM drains and ends with 0."""
    process = spawn(tmp_path, kubeconfig, "--metrics-port", "0", "--drain-seconds", "0")

    def port() -> int:
        lines = (tmp_path / "log").read_text().splitlines()
        line = next((line for line in lines if "metrics listening" in line), "{}")
        return int(json.loads(line).get("port", 0))

    def get(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port(), timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    try:
        wait_until(lambda: port() > 0, 30, "the metrics port")
        assert get("/healthz") == (200, "ok\n")
        assert get("/readyz")[0] == 503
        assert "no serving certificate" in get("/readyz")[1]
        assert "bubu_webhook_ready 0.0" in get("/metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_metrics_port_that_is_taken(tmp_path: Path, kubeconfig: Path):
    """Said in the log; reviews are answered all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = spawn(tmp_path, kubeconfig, "--metrics-port", str(port), "--drain-seconds", "0")
        try:
            wait_until(lambda: "webhook listening" in (tmp_path / "log").read_text(), 30, "the start")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    assert f"no metrics: cannot listen on 127.0.0.1 port {port}" in (tmp_path / "log").read_text()
