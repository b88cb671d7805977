"""Starting the process: what is wrong is said in one line, with exit code 1."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bubu_operator.webhook.main import WebhookOptions, listen, run_webhook


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
