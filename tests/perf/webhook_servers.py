"""What the webhook benchmark measures: the real process on an API server of paper, and a no-op.

The API server of paper lists a thousand StorageConfigs and then says nothing, so that no cluster is
needed; the webhook is ``bubu-operator webhook`` as it runs in a pod, logging included. The no-op
reads a body and answers with as many bytes, on the same HTTP server with the same limits and TLS.

``python -m tests.perf.webhook_servers noop CERTIFICATE KEY`` serves the no-op.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bubu_operator.webhook.certs import server_context
from bubu_operator.webhook.main import listen, make_server
from bubu_operator.webhook.server_loop import ServerLoop
from bubu_storage.retention.runner import Cursor
from bubu_storage.retention.spec import PassSpec, RetentionRule
from bubu_storage.settings import FileSettings
from tests.cluster.certs import ServingFiles
from tests.cluster.processes import free_port
from tests.perf.stores import folder_in_memory

__all__ = ["CONFIGS", "NAMESPACE", "Server", "noop_server", "passes_beside", "reviews", "webhook_server"]

NAMESPACE = "flows"
CONFIGS = 1000
POD_BYTES = 6 * 1024
ANSWER_BYTES = 3300
START_SECONDS = 30.0
PASS_OBJECTS = 5000


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves on a loopback port."""

    name: str
    port: int
    pid: int

    @property
    def rss_mib(self) -> float:
        """Its resident memory now."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Time that its threads have spent on a CPU."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def reviews(count: int) -> list[bytes]:
    """Reviews of as many different pods; no two of them have the id, the name or the values in common."""
    return [_review(number) for number in range(count)]


def _review(which: int) -> bytes:
    """A review of an engram's pod of 6 KiB, with variables of its own."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"engram-{which:04}-",
            "labels": {"bubustack.io/engram": "resize", "bubustack.io/steprun": f"resize-{which:04}"},
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [
                {"name": "main", "image": "registry.example.com/engram:1", "env": []},
                {"name": "helper", "image": "registry.example.com/helper:1", "env": []},
            ],
        },
    }
    number = 0
    while len(json.dumps(pod, separators=(",", ":"))) < POD_BYTES:
        env = pod["spec"]["containers"][number % 2]["env"]
        env.append({"name": f"SETTING_{number:03}", "value": f"the usual length, {which:05}"})
        number += 1
    request = {
        "uid": f"00000000-0000-0000-0000-{which:012}",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": NAMESPACE,
        "object": pod,
        "dryRun": False,
    }
    content = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(content, separators=(",", ":")).encode()


def _config(number: int) -> dict[str, Any]:
    namespace = NAMESPACE if number == 0 else f"team-{number % 100}"
    return {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "StorageConfig",
        "metadata": {
            "name": f"main-{number}",
            "namespace": namespace,
            "uid": f"00000000-0000-0000-0000-{number:012}",
            "generation": 1,
            "resourceVersion": str(number + 1),
        },
        "spec": {
            "s3": {
                "bucket": f"flows-{number}",
                "endpoint": "https://minio.minio.svc:9000",
                "authentication": {"secretRef": {"name": "minio"}},
            }
        },
    }


class _Paper(BaseHTTPRequestHandler):
    """Lists what there is; a watch stays open and brings nothing."""

    protocol_version = "HTTP/1.1"
    over: threading.Event
    configs: list[dict[str, Any]]

    def do_GET(self) -> None:
        """Answer a list or a watch."""
        path, _, query = self.path.partition("?")
        if "watch=true" in query:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            self.over.wait()
            return
        items: list[Any] = []
        if path.endswith("/storageconfigs"):
            items = self.configs
        elif path.endswith("/namespaces"):
            items = [{"metadata": {"name": NAMESPACE, "resourceVersion": "1"}}]
        fields = dict(pair.split("=") for pair in query.split("&") if pair)
        start, limit = int(fields.get("continue", "0")), int(fields.get("limit", "500"))
        page = items[start : start + limit]
        more = str(start + limit) if start + limit < len(items) else ""
        body = json.dumps({"metadata": {"resourceVersion": "9000", "continue": more}, "items": page}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def _paper_api_server() -> Iterator[int]:
    """Serve a thousand configs; gives the port."""
    over = threading.Event()
    handler = type("Paper", (_Paper,), {"over": over, "configs": [_config(n) for n in range(CONFIGS)]})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def webhook_server(files: ServingFiles, cpus: set[int]) -> Generator[Server]:
    """The real process, ready, with a thousand configs, bound to CPUs."""
    with _paper_api_server() as api_port, tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "paper",
                    "clusters": [{"name": "paper", "cluster": {"server": f"http://127.0.0.1:{api_port}"}}],
                    "users": [{"name": "webhook", "user": {"token": base64.b64encode(b"none").decode()}}],
                    "contexts": [{"name": "paper", "context": {"cluster": "paper", "user": "webhook"}}],
                }
            ),
            encoding="utf-8",
        )
        command = [
            *(sys.executable, "-m", "bubu_operator", "webhook"),
            *("--kubeconfig", str(kubeconfig), "--host", "127.0.0.1", "--port", str(port)),
            *("--metrics-host", "127.0.0.1", "--metrics-port", "0"),
            *("--tls-cert", str(files.certificate), "--tls-key", str(files.key)),
        ]
        log = folder / "log"
        with _running("webhook", command, port, log, cpus) as server:
            yield server


@contextmanager
def noop_server(files: ServingFiles, cpus: set[int]) -> Generator[Server]:
    """The no-op, bound to CPUs."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        command = [sys.executable, "-m", "tests.perf.webhook_servers", "noop"]
        command += [str(files.certificate), str(files.key), str(port)]
        with _running("no-op", command, port, Path(name) / "log", cpus) as server:
            yield server


@contextmanager
def _running(name: str, command: list[str], port: int, log: Path, cpus: set[int]) -> Generator[Server]:
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=Path.cwd()
        ) as process,
    ):
        try:
            os.sched_setaffinity(process.pid, cpus)
            deadline = time.monotonic() + START_SECONDS
            ready = b"tests.perf" if name == "no-op" else b'"message": "ready"'
            while ready not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the {name} process did not start: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield Server(name, port, process.pid)
        finally:
            process.kill()


async def _noop(scope: Any, receive: Any, send: Any) -> None:
    """Read a body and answer with as many bytes as the webhook does."""
    del scope
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _NOOP_HEADERS})
    await send({"type": "http.response.body", "body": _NOOP_BODY})


_NOOP_BODY = b'"patch"'.ljust(ANSWER_BYTES)
_NOOP_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(ANSWER_BYTES).encode()),
]


def serve_noop(certificate: Path, key: Path, port: int) -> None:
    """Serve until the process is ended."""
    context = server_context()
    context.load_cert_chain(certificate, key)
    server = make_server(_noop, context)
    with listen("127.0.0.1", port) as listener, asyncio.Runner(loop_factory=ServerLoop) as runner:
        print("tests.perf serves", flush=True)
        runner.run(server.serve(sockets=[listener]))


@contextmanager
def passes_beside(cpus: set[int]) -> Generator[None]:
    """Run dry retention passes over a file store, one after the other, in processes of their own."""
    from bubu_operator.retention.document import PassDocument

    over = threading.Event()
    spec = PassSpec(
        scopes=(f"outputs/{NAMESPACE}/",),
        rules=(RetentionRule(f"outputs/{NAMESPACE}/", 3600.0),),
        max_scan=PASS_OBJECTS,
        budget_seconds=60.0,
    )
    with folder_in_memory(needed_bytes=PASS_OBJECTS * 4096, needed_files=2 * PASS_OBJECTS) as folder:
        for number in range(PASS_OBJECTS):
            path = folder / "outputs" / NAMESPACE / f"run-{number // 10}" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")
        line = PassDocument(FileSettings(str(folder)), spec, Cursor()).to_line().encode()
        failures: list[str] = []

        def run() -> None:
            while not over.is_set():
                command = [sys.executable, "-m", "bubu_operator", "retention-pass"]
                with subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                ) as child:
                    assert child.stdin is not None
                    assert child.stdout is not None
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(child.pid, cpus)
                    child.stdin.write(line)
                    child.stdin.flush()
                    child.stdout.read()
                    child.wait(30)  # stdin is its lifeline until it has ended
                if child.returncode != 0:
                    failures.append(f"a retention pass ended with {child.returncode}")
                    return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(60)
        if failures:
            raise SystemExit(failures[0])


if __name__ == "__main__":
    serve_noop(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
