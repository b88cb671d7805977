"""Latency of the webhook against a bare ASGI echo: ``python -m tests.perf.bench_webhook``.

Both run as processes of their own on loopback TLS: the webhook as in production, the echo on plain
uvicorn; it reads the body and answers with about as many bytes. What the ratio shows is hence our
part: limits, parsing a review, deciding, writing the patch. Rounds alternate, so that a busy machine
disturbs both alike. No cluster is needed; the configs are in memory. Numbers are printed, never
asserted: only a wrong answer makes it fail.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from bubu_operator.injection import InjectionConfig, load_config
from bubu_operator.webhook.app import WebhookApp
from bubu_operator.webhook.certs import server_context
from bubu_operator.webhook.connections import ServerLoop
from bubu_operator.webhook.main import listen, make_server
from tests.cluster.certs import ServingFiles, write_serving_files

HOST = "127.0.0.1"
NAMESPACE = "flows"
ROUNDS = 5
START_SECONDS = 30.0
ECHO_BYTES = 6000
CONFIG = {
    "apiVersion": "storage.bubustack.io/v1alpha1",
    "kind": "StorageConfig",
    "metadata": {"name": "main", "namespace": NAMESPACE, "uid": "u", "generation": 1},
    "spec": {
        "s3": {
            "bucket": "flows",
            "endpoint": "https://minio.minio.svc:9000",
            "authentication": {"secretRef": {"name": "minio"}},
        }
    },
}


class OneConfig:
    """A `ClusterView` with one namespace and one config."""

    def __init__(self) -> None:
        self._configs = (load_config(CONFIG),)

    def waiting_for(self) -> tuple[str, ...]:
        """Nothing: it is all there."""
        return ()

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """No labels on the one namespace."""
        return {} if namespace == NAMESPACE else None

    def storage_configs(self, namespace: str) -> tuple[InjectionConfig, ...]:
        """The one config."""
        return self._configs if namespace == NAMESPACE else ()

    def cluster_storage_configs(self) -> tuple[InjectionConfig, ...]:
        """None."""
        return ()


class Echo:
    """The baseline: reads a body, answers with a fixed number of bytes."""

    def __init__(self, answer_bytes: int) -> None:
        self._body = b" " * answer_bytes
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(answer_bytes).encode()),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        del scope
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def review(containers: int) -> bytes:
    """A review of an engram's pod with so many containers, each with some variables of its own."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "engram-", "labels": {"bubustack.io/engram": "resize"}},
        "spec": {
            "containers": [
                {
                    "name": f"c{number}",
                    "image": "registry.example.com/engram:1",
                    "env": [{"name": f"SETTING_{index}", "value": "value"} for index in range(20)],
                }
                for number in range(containers)
            ]
        },
    }
    request = {
        "uid": "00000000-0000-0000-0000-000000000001",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": NAMESPACE,
        "object": pod,
    }
    content = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(content, separators=(",", ":")).encode()


def serve(what: str, certificate: Path, key: Path) -> None:
    """Serve until the process is ended; the first line on stdout is the port."""
    context = server_context()
    context.load_cert_chain(certificate, key)
    running: uvicorn.Server
    if what == "webhook":
        running = make_server(WebhookApp(OneConfig()), context)
    else:
        config = uvicorn.Config(
            Echo(ECHO_BYTES), http="h11", loop="none", lifespan="off", log_config=None, access_log=False
        )
        config.load()
        config.ssl = context
        running = uvicorn.Server(config)
    with listen(HOST, 0) as listener, asyncio.Runner(loop_factory=ServerLoop) as runner:
        print(listener.getsockname()[1], flush=True)
        runner.run(running.serve(sockets=[listener]))


@contextmanager
def server(what: str, files: ServingFiles) -> Iterator[int]:
    """A server process; gives its port."""
    command = [sys.executable, "-m", "tests.perf.bench_webhook", "--serve", what]
    command += ["--tls", str(files.certificate), str(files.key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the {what} process did not start")
            yield int(line)
        finally:
            process.kill()


def one_client(port: int, context: ssl.SSLContext, body: bytes, requests: int, expect: bytes) -> list[float]:
    """Send requests over one kept connection; returns seconds of each."""
    connection = http.client.HTTPSConnection(HOST, port, context=context, timeout=START_SECONDS)
    taken: list[float] = []
    try:
        for _ in range(requests):
            start = time.perf_counter()
            connection.request("POST", "/mutate", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            taken.append(time.perf_counter() - start)
            if response.status != http.HTTPStatus.OK or expect not in answer:
                raise SystemExit(f"a wrong answer: {response.status} {answer[:200]!r}")
    finally:
        connection.close()
    return taken


def measure(
    ports: Mapping[str, int], context: ssl.SSLContext, body: bytes, clients: int, requests: int
) -> dict[str, tuple[list[float], float]]:
    """Seconds of each request, and requests a second, by target; rounds alternate."""
    taken: dict[str, list[float]] = {name: [] for name in ports}
    wall = dict.fromkeys(ports, 0.0)
    share = max(1, requests // clients // ROUNDS)
    with ThreadPoolExecutor(clients) as threads:
        for round_number in range(ROUNDS + 1):
            for name, port in ports.items():
                expect = b'"patch"' if name == "webhook" else b" "
                start = time.perf_counter()
                jobs = [
                    threads.submit(one_client, port, context, body, share, expect) for _ in range(clients)
                ]
                seconds = [second for job in jobs for second in job.result()]
                if round_number:  # the first one warms up
                    wall[name] += time.perf_counter() - start
                    taken[name] += seconds
    return {name: (sorted(taken[name]), len(taken[name]) / wall[name]) for name in ports}


def percentile(ordered: list[float], share: float) -> float:
    """Milliseconds below which that share of the requests lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def main() -> None:
    """Run the benchmark, or (``--serve``) one of its servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000, help="a target and row")
    parser.add_argument("--serve", choices=("webhook", "echo"), help=argparse.SUPPRESS)
    parser.add_argument("--tls", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, *options.tls)
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        files = write_serving_files(Path(name), ["localhost"], [HOST])
        context = ssl.create_default_context(cafile=str(files.ca))
        ports = {what: stack.enter_context(server(what, files)) for what in ("echo", "webhook")}
        print(f"{'containers':>10} {'clients':>7} {'target':>8} {'p50 ms':>8} {'p99 ms':>8} {'req/s':>8}")
        for containers, clients in ((1, 1), (1, 16), (10, 1)):
            body = review(containers)
            results = measure(ports, context, body, clients, options.requests)
            for target, (ordered, rate) in results.items():
                p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
                print(f"{containers:>10} {clients:>7} {target:>8} {p50:>8.2f} {p99:>8.2f} {rate:>8.0f}")
            (echo, echo_rate), (ours, our_rate) = results["echo"], results["webhook"]
            p50, p99 = (percentile(ours, q) / percentile(echo, q) for q in (0.5, 0.99))
            print(f"{'':>18} {'ratio':>8} {p50:>8.2f} {p99:>8.2f} {our_rate / echo_rate:>8.2f}")


if __name__ == "__main__":
    main()
