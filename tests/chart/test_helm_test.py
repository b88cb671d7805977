"""What `helm test` runs: it passes only when the webhook has been asked, and says what failed."""

from __future__ import annotations

import http.server
import importlib.util
import io
import os
import subprocess
import sys
import threading
import urllib.error
from email.message import Message
from typing import TYPE_CHECKING, Any

import pytest

from tests.chart.rendering import FILES

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = FILES / "helm_test.py"
NAMES = ("READY_URLS", "CONFIGURATION", "REVIEW_NAMESPACE", "TEST_NAMESPACE")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, for a namespace ``team``."""
    monkeypatch.setenv("TEST_NAMESPACE", "team")
    spec = importlib.util.spec_from_file_location("helm_test_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answering(script: Any, monkeypatch: pytest.MonkeyPatch, *, warnings: list[str], **labels: str) -> None:
    """Let the API server create the pod with these labels and warnings."""
    headers = Message()
    for warning in warnings:
        headers["Warning"] = warning

    def answer(_path: str, _body: object) -> tuple[Message, dict[str, Any]]:
        return headers, {"metadata": {"labels": labels}}

    monkeypatch.setattr(script, "api", answer)


def refusing(script: Any, monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    """Let the API server refuse the pod."""

    def refuse(path: str, _body: Any) -> None:
        raise urllib.error.HTTPError(path, code, "no", Message(), io.BytesIO(text.encode()))

    monkeypatch.setattr(script, "api", refuse)


def test_an_injected_pod_is_a_proof(script: Any, monkeypatch: pytest.MonkeyPatch):
    """The namespace has a config."""
    answering(script, monkeypatch, warnings=[], **{"storage.bubustack.io/injected": "main"})

    script.api_server_asks()


def test_the_webhooks_warning_is_a_proof(script: Any, monkeypatch: pytest.MonkeyPatch):
    """The namespace has none, and somebody says so."""
    answering(script, monkeypatch, warnings=['299 - "no storage was injected: no StorageConfig"'])

    script.api_server_asks()


def test_a_strict_refusal_is_a_proof(script: Any, monkeypatch: pytest.MonkeyPatch):
    """Of an entry of ours; somebody else's refusal is a failure that says why."""
    refusing(script, monkeypatch, 403, 'admission webhook "strict-pods.storage.bubustack.io" denied it')
    script.api_server_asks()

    refusing(script, monkeypatch, 403, "exceeded quota")
    with pytest.raises(ValueError, match="exceeded quota"):
        script.api_server_asks()


def test_a_pod_that_nobody_was_asked_about_is_a_failure(script: Any, monkeypatch: pytest.MonkeyPatch):
    """The API server does not reach the webhook, and lets the pod through."""
    answering(script, monkeypatch, warnings=['299 - "would violate PodSecurity"'])

    with pytest.raises(ValueError, match="without asking the webhook"):
        script.api_server_asks()


def test_a_registration_without_authority_is_a_failure(script: Any, monkeypatch: pytest.MonkeyPatch):
    """It names the entry."""
    monkeypatch.setenv("CONFIGURATION", "bubu-storage-webhook")
    entry: dict[str, Any] = {"name": "pods.storage.bubustack.io", "clientConfig": {"service": {}}}

    def answer(_path: str) -> tuple[Message, dict[str, Any]]:
        return Message(), {"webhooks": [entry]}

    monkeypatch.setattr(script, "api", answer)

    with pytest.raises(ValueError, match=r"entry pods\.storage\.bubustack\.io of .* has no caBundle"):
        script.webhook_answers()


@pytest.fixture
def unready() -> Iterator[str]:
    """A role that answers and is not ready."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"no serving certificate")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/readyz"
        server.shutdown()
        thread.join()


def test_it_fails_with_the_reason_when_a_role_is_not_ready(unready: str):
    """As the pod runs it: code 1 and what was asked last."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT.read_text()],
        env={**os.environ, **dict.fromkeys(NAMES, ""), "READY_URLS": unready, "TEST_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert 1 == done.returncode
    assert (
        f"FAILED: Ask the replicas' own health pages. ValueError: {unready} says: no serving" in done.stderr
    )
