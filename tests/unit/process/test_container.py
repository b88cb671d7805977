"""Manners in a container: every role as PID 1, a uid without a name, a home that cannot be written."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.contained import Contained, why_not
from tests.cluster.controller_harness import until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")

KUBECONFIG = (
    "{{apiVersion: v1, kind: Config, current-context: c,"
    " clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}],"
    " users: [{{name: u, user: {{token: t}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
)
CONTROLLER = ("controller", "--health-host", "127.0.0.1", "--health-port", "0")
WEBHOOK = (
    *("webhook", "--host", "127.0.0.1", "--port", "0", "--metrics-host", "127.0.0.1", "--metrics-port", "0"),
    *("--tls-cert", "/nowhere/tls.crt", "--tls-key", "/nowhere/tls.key", "--drain-seconds", "0.5"),
)
UNREGISTER = ("unregister", "--timeout-seconds", "60", "--log-level", "debug")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def contained(folder: Path, port: int, *arguments: str, **environment: str) -> Contained:
    """A command whose API server, and store, is that port."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(port=port), encoding="utf-8")
    store = {
        "BUBU_STORAGE_PROVIDER": "s3",
        "BUBU_STORAGE_S3_BUCKET": "flows",
        "BUBU_STORAGE_S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
    }
    return Contained(folder, *arguments, environment={"KUBECONFIG": str(kubeconfig), **store, **environment})


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(CONTROLLER, 0), (WEBHOOK, 0), (UNREGISTER, 143)],
    ids=lambda value: str(value)[:14],
)
def test_a_signal_ends_a_role_that_waits_for_its_api_server(
    tmp_path: Path, silent: int, arguments: tuple[str, ...], code: int
):
    """The first process of a container hears SIGTERM, ends within seconds, and has written nothing."""
    words = {
        CONTROLLER: "waiting for the API server",
        WEBHOOK: "webhook listening",
        UNREGISTER: "trying again",
    }
    with contained(tmp_path, silent, *arguments) as process:
        process.wait_said(words[arguments])
        process.signal()

        assert process.wait_exit() == code, process.log
    assert process.written == []
    for line in process.messages:
        assert {"time", "level", "logger", "message"} <= line.keys()


@pytest.mark.parametrize("role", [CONTROLLER, WEBHOOK, UNREGISTER, ("probe",)], ids=lambda role: role[0])
def test_a_signal_before_anything_has_begun_is_not_lost(tmp_path: Path, silent: int, role: tuple[str, ...]):
    """The kernel keeps it from a first process that has no handler: there is one from the very start."""
    more = ("--result", str(tmp_path / "tmp" / "result")) if role == ("probe",) else ()
    with contained(tmp_path, silent, *role, *more) as process:
        until(lambda: process.catches(signal.SIGTERM), "the handler", 60)
        process.signal()

        assert process.wait_exit() in ((0, 143) if role in (CONTROLLER, WEBHOOK) else (143,)), process.log
    assert "Traceback" not in process.log


def test_a_probe_that_hangs_ends_on_a_signal(tmp_path: Path, silent: int):
    """A Job's pod that is deleted does not wait for its store."""
    result = tmp_path / "tmp" / "result"
    arguments = ("probe", "--result", str(result), "--allow-loopback-endpoints")
    with contained(tmp_path, silent, *arguments) as process:
        # The store's port was called: the probe is at its work.
        until(lambda: _has_connection(silent), "the call of the store", 60)
        process.signal()

        assert process.wait_exit() == 143, process.log
    assert process.written == []


def _has_connection(port: int) -> bool:
    wanted = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        if remote.endswith(wanted) and state == "01":
            return True
    return False
