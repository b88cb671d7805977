"""Webhook processes as they run in a cluster, and a steady stream of pods to try them with.

Each `Webhook` is the real ``bubu-operator webhook`` under its own ServiceAccount with exactly the
shipped rights. `PodStream` creates pods by server-side dry-run through the API server at a fixed
rate over several connections and looks at each one that comes back: what it reports is what
users of the cluster would have seen.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from bubu_operator.errors import KubeApiError
from bubu_operator.injection import apply_patch
from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import PODS
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.cluster.certs import ServingFiles, write_private
from tests.cluster.controller_harness import ensure_namespace, install_crds
from tests.cluster.processes import PATIENCE, ManagedProcess, free_port, spawn, tail, wait_until

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster

__all__ = [
    "ACCOUNT",
    "FILES",
    "INJECTED",
    "OPERATOR_NAMESPACE",
    "RECORD",
    "Created",
    "Json",
    "PodStream",
    "StreamReport",
    "Webhook",
    "config_of",
    "env_of",
    "install_webhook",
    "patched",
    "percentile",
    "pod_of",
    "register",
    "review_of",
    "through_proxy",
    "wait_until_called",
]

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "bubu-storage-operator" / "files"
OPERATOR_NAMESPACE = "bubu-storage-system"
ACCOUNT = "bubu-storage-webhook"
INJECTED = "storage.bubustack.io/injected"
RECORD = "storage.bubustack.io/injection"
READY_SECONDS = 30.0

Json = dict[str, Any]


def install_webhook(cluster: Cluster) -> None:
    """Apply the CRDs and the webhook's account and rights, exactly as shipped."""
    install_crds(cluster)
    ensure_namespace(cluster)
    cluster.apply(*(doc for doc in yaml.safe_load_all((FILES / "webhook-rbac.yaml").read_text()) if doc))


def register(cluster: Cluster, url: str, ca_pem: str, name: str | None = None) -> str:
    """Apply the shipped webhook configuration, with an address instead of a Service; returns its name."""
    configuration = render_webhook_configuration(url=url, ca_bundle_pem=ca_pem)
    if name is not None:
        configuration["metadata"]["name"] = name
    cluster.apply(configuration)
    return str(configuration["metadata"]["name"])


def wait_until_called(cluster: Cluster, namespace: str) -> None:
    """Wait until pods of a namespace with a config ``main`` are injected.

    The API server learns of webhook configurations by a watch, and the webhook of configs.
    """
    pod = json.dumps(pod_of("probe", namespace, {"bubustack.io/engram": "probe"}))

    def is_injected() -> bool:
        done = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=pod)
        return INJECTED in json.loads(done.stdout)["metadata"]["labels"]

    wait_until(is_injected, 20, "the API server to call the webhook")


def through_proxy(kubeconfig: Path, port: int, path: Path) -> Path:
    """Write a copy of a kubeconfig whose server is a loopback port."""
    document = json.loads(kubeconfig.read_text(encoding="utf-8"))
    for entry in document["clusters"]:
        entry["cluster"]["server"] = f"https://127.0.0.1:{port}"
    return write_private(path, json.dumps(document))


@dataclass
class Webhook:
    """One process under test and the means to talk to it."""

    cluster: Cluster
    folder: Path
    kubeconfig: Path
    files: ServingFiles
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    name: str = "webhook"
    drain_seconds: float = 1.0
    arguments: tuple[str, ...] = ()
    process: ManagedProcess | None = field(default=None)

    def spawn(self) -> ManagedProcess:
        """Start the process without waiting for it."""
        self.process = spawn(
            self.name,
            [
                *(sys.executable, "-m", "bubu_operator", "webhook"),
                *("--kubeconfig", str(self.kubeconfig)),
                *("--tls-cert", str(self.files.certificate), "--tls-key", str(self.files.key)),
                *("--host", self.host, "--port", str(self.port)),
                *("--metrics-host", "127.0.0.1", "--metrics-port", str(self.metrics_port)),
                *("--cert-poll-seconds", "0.2", "--drain-seconds", str(self.drain_seconds)),
                *("--log-level", "debug"),
                *self.arguments,
            ],
            log=self.log,
        )
        return self.process

    def start(self) -> None:
        """Start the process and wait until it says that it is ready."""
        self.spawn()
        wait_until(self.is_ready, READY_SECONDS, f"{self.name} to be ready")

    def is_ready(self) -> bool:
        """Whether it says so; fails when the process has ended."""
        return self.status("/readyz") == http.HTTPStatus.OK or self.has_ended()

    def has_ended(self) -> bool:
        """Never true: fails, with the end of the log, when the process has ended."""
        assert self.running.is_running(), tail(self.log)
        return False

    @property
    def log(self) -> Path:
        """Where the process writes."""
        return self.folder / f"{self.name}.log"

    @property
    def running(self) -> ManagedProcess:
        """The process; it has been started."""
        assert self.process is not None
        return self.process

    @property
    def rss_mib(self) -> float:
        """Resident memory of the process now."""
        status = Path(f"/proc/{self.running.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.running.popen is not None
        self.running.popen.send_signal(number)

    def exit_code(self, timeout_seconds: float = 20.0) -> int:
        """Wait for the end of the process; the time is stretched as ``wait_until`` does."""
        assert self.running.popen is not None
        return self.running.popen.wait(timeout_seconds * PATIENCE)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.stop(grace_seconds=10)

    def connect(self, timeout_seconds: float = 30.0) -> http.client.HTTPSConnection:
        """A connection that trusts the authority in use."""
        context = ssl.create_default_context(cafile=str(self.files.ca))
        return http.client.HTTPSConnection(self.host, self.port, context=context, timeout=timeout_seconds)

    def status(self, path: str) -> int:
        """Status of a GET; 0 when nothing answers."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return 0
        else:
            return response.status
        finally:
            connection.close()

    def post(
        self, body: bytes, *, path: str = "/mutate", content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """POST a body; returns status and answer."""
        connection = self.connect()
        try:
            connection.request("POST", path, body, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def review(self, pod: Json, namespace: str) -> Json:
        """POST a review of a pod; returns the response's content."""
        status, body = self.post(review_of(pod, namespace))
        assert status == http.HTTPStatus.OK, body
        return cast("Json", json.loads(body)["response"])

    def reason(self, pod: Json, namespace: str) -> str:
        """POST a review of a pod; returns what was decided."""
        return str(self.review(pod, namespace)["auditAnnotations"]["reason"])

    def wait_known(self, namespace: str, config: str = "main") -> None:
        """Wait until pods of a namespace get a config.

        The process itself waits for its watch, and then looks, but not longer than creators of pods would.
        """
        labels = {"storage.bubustack.io/inject": "true", "storage.bubustack.io/config": config}
        pod = pod_of("p", namespace, labels)
        wait_until(lambda: self.reason(pod, namespace) == "Injected", 10, f"config {config} to be known")

    def metric(self, name: str, **labels: str) -> float:
        """A sample of ``/metrics``; 0 for one that is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in text.splitlines():
            sample, _, value = line.rpartition(" ")
            family, _, rest = sample.partition("{")
            if family == name and wanted <= set(rest.rstrip("}").split(",")):
                return float(value)
        return 0.0

    def served_certificate(self) -> bytes:
        """The leaf that a new handshake gets, DER."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection((self.host, self.port), timeout=30) as plain,
            context.wrap_socket(plain) as secured,
        ):
            leaf = secured.getpeercert(binary_form=True)
        assert leaf is not None
        return leaf

    def register(self, name: str | None = None, ca_pem: str | None = None) -> None:
        """Apply the webhook configuration, by this process's own URL."""
        register(
            self.cluster,
            f"https://{self.host}:{self.port}/mutate",
            ca_pem or self.files.ca.read_text(encoding="ascii"),
            name,
        )


# -- objects -----------------------------------------------------------------------------


def review_of(pod: Json, namespace: str, **more: Any) -> bytes:
    """An AdmissionReview as the API server sends it."""
    request = {
        "uid": "a6a6a6a6-0000-0000-0000-000000000001",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": pod,
        "dryRun": False,
        **more,
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    ).encode()


def patched(pod: Json, response: Json) -> Json:
    """The pod after the response's patch."""
    if "patch" not in response:
        return pod
    return cast("Json", apply_patch(pod, json.loads(base64.b64decode(response["patch"]))))


def pod_of(name: str, namespace: str, labels: dict[str, str] | None = None, **spec: Any) -> Json:
    """A small pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/engram:1"}], **spec},
    }


def config_of(name: str, namespace: str, **spec: Any) -> Json:
    """A StorageConfig on S3 with a Secret."""
    return {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "StorageConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "s3": {
                "bucket": "flows",
                "endpoint": "http://minio.minio.svc:9000",
                "authentication": {"secretRef": {"name": "minio"}},
            },
            **spec,
        },
    }


def env_of(pod: Json, container: str = "main") -> dict[str, Json]:
    """A container's variables by name; fails on duplicates."""
    for item in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        if item["name"] == container:
            entries = item.get("env", [])
            result = {entry["name"]: entry for entry in entries}
            assert len(result) == len(entries), entries
            return result
    raise AssertionError(f"no container {container}")


# -- a stream of pods --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """One creation: when it began, how long it took, and what came of it ("" is as it should be)."""

    at_seconds: float
    took_seconds: float
    failure: str = ""
    injected: bool = False


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What became of all pods of a stream."""

    created: list[Created]
    wall_seconds: float

    @property
    def failed(self) -> list[str]:
        """Why creations failed, one text for each that did."""
        return [one.failure for one in self.created if one.failure]

    @property
    def uninjected(self) -> int:
        """Pods that were created without their storage."""
        return sum(not one.failure and not one.injected for one in self.created)

    @property
    def per_second(self) -> float:
        """The rate that was really kept."""
        return len(self.created) / self.wall_seconds

    def __str__(self) -> str:
        """One line of numbers, for people."""
        taken = sorted(one.took_seconds * 1000 for one in self.created)
        return (
            f"{len(self.created)} creates at {self.per_second:.1f}/s, {len(self.failed)} failed, "
            f"{self.uninjected} un-injected, p50 {percentile(taken, 0.5):.1f} ms, "
            f"p99 {percentile(taken, 0.99):.1f} ms, max {taken[-1]:.1f} ms"
        )


def percentile(ordered: list[float], share: float) -> float:
    """The value below which that share of a sorted list lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class PodStream:
    """Dry-run creations at a fixed rate, from entering until `finish` (or for a given time).

    The schedule does not wait for answers: a stall shows as latency and never as fewer pods, as
    long as one of ``threads`` is free.
    """

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        *,
        per_second: float = 50.0,
        clients: int = 4,
        threads: int = 64,
        labels: dict[str, str] | None = None,
        complete: Callable[[Json], bool] | None = None,
    ) -> None:
        self._namespace = namespace
        self._per_second = per_second
        self._labels = labels or {"bubustack.io/engram": "resize"}
        self._complete = complete or _has_all_of_main
        self._stack = ExitStack()
        self._clients = [self._stack.enter_context(KubeClient.load(str(kubeconfig))) for _ in range(clients)]
        self._threads = self._stack.enter_context(ThreadPoolExecutor(threads, "pods"))
        self._stop = threading.Event()
        self._pacer = threading.Thread(target=self._pace, name="pacer", daemon=True)
        self._created: list[Created] = []
        self._began = 0.0
        self._ended = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._pacer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._halt()
        self._stack.close()

    @property
    def elapsed_seconds(self) -> float:
        """Time since the first pod."""
        return time.monotonic() - self._began

    @property
    def answered(self) -> int:
        """How many creations have ended."""
        return len(self._created)

    def run_until(self, seconds: float) -> None:
        """Wait until the stream has run this long altogether."""
        self._stop.wait(max(0.0, seconds - self.elapsed_seconds))

    def finish(self) -> StreamReport:
        """End the stream and wait for the last answers."""
        self._halt()
        self._threads.shutdown(wait=True)
        return StreamReport(list(self._created), self._ended - self._began)

    def _halt(self) -> None:
        self._stop.set()
        self._pacer.join(10)

    def _pace(self) -> None:
        number = 0
        while not self._stop.wait(max(0.0, self._began + number / self._per_second - time.monotonic())):
            self._threads.submit(self._create, number)
            number += 1
        self._ended = time.monotonic()

    def _create(self, number: int) -> None:
        pod = pod_of(f"load-{number}", self._namespace, self._labels)
        client = self._clients[number % len(self._clients)]
        began = time.monotonic()
        failure, injected = "", False
        try:
            stored = client.request_json(
                "POST",
                PODS.path(self._namespace),
                query={"dryRun": "All"},
                body=pod,
                timeout_seconds=60.0,
            )
            injected = self._complete(stored)
        except KubeApiError as error:
            failure = str(error)
        self._created.append(Created(began - self._began, time.monotonic() - began, failure, injected))


def _has_all_of_main(pod: Json) -> bool:
    """Whether all that the config ``main`` of `config_of` gives is there."""
    env = env_of(pod)
    return (
        pod["metadata"].get("labels", {}).get(INJECTED) == "main"
        and RECORD in pod["metadata"].get("annotations", {})
        and env.get("BUBU_STORAGE_S3_BUCKET", {}).get("value") == "flows"
        and {"AWS_SECRET_ACCESS_KEY", "BUBU_S3_SECRET_ACCESS_KEY", "BUBU_STORAGE_PROVIDER"} <= env.keys()
    )
