"""The controller as a real process under its own ServiceAccount, for tests on a real API server."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from tests.cluster.errors import ClusterError
from tests.cluster.processes import PATIENCE, Stopwatch, free_port

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster

__all__ = [
    "ControllerProcess",
    "alive",
    "allow_election",
    "children_of",
    "condition",
    "ensure_namespace",
    "install",
    "install_crds",
    "nudge_crds",
    "only_child",
    "until",
    "wait_served",
    "within",
]

ROOT = Path(__file__).resolve().parents[2]
RBAC = ROOT / "charts" / "bubu-storage-operator" / "files" / "controller-rbac.yaml"
NAMESPACE = "bubu-storage-system"
ACCOUNT = "bubu-storage-controller"
KINDS = ("storageconfigs", "clusterstorageconfigs", "retentionpolicies", "clusterretentionpolicies")


def until(check: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Return the first truthy answer of ``check``, asked every 50 ms.

    Args:
        check: what is asked.
        what: what is waited for, for the message.
        seconds: what is more than enough on an idle machine; stretched as ``wait_until`` does.

    Raises:
        AssertionError: there was none in time.
    """
    began = time.monotonic()
    return _poll(check, what, seconds * PATIENCE, lambda: time.monotonic() - began)


def within(check: Callable[[], Any], what: str, seconds: float) -> Any:
    """Do as ``until``, for what the operator promises: the time is a `Stopwatch`'s.

    Raises:
        AssertionError: there was no truthy answer in time.
    """
    watch = Stopwatch()
    return _poll(check, what, seconds, lambda: watch.seconds)


def _poll(check: Callable[[], Any], what: str, seconds: float, passed: Callable[[], float]) -> Any:
    while True:
        answer = check()
        if answer:
            return answer
        if passed() > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def condition(obj: dict[str, Any], type_: str = "Ready") -> dict[str, Any]:
    """Return a condition of an object, {} where it is not there."""
    status: dict[str, Any] = obj.get("status") or {}
    conditions: list[dict[str, Any]] = status.get("conditions") or []
    nothing: dict[str, Any] = {}
    return next((item for item in conditions if item["type"] == type_), nothing)


def _stat(pid: int) -> list[str]:
    """Return state, parent and so on of a process; nothing for one that is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    fields = text.rsplit(")", 1)[1].split()
    return [] if fields[0] == "Z" else fields


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    return bool(_stat(pid))


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [number for number in numbers if _stat(number)[1:2] == [str(pid)]]


def only_child(pid: int) -> int:
    """Return the one process that a process has started, once others, as of the pass before, have gone."""
    found: list[int] = []

    def alone() -> bool:
        found[:] = children_of(pid)
        return len(found) == 1

    until(alone, f"process {pid} to have one child")
    return found[0]


def nudge_crds(cluster: Cluster, *names: str) -> None:
    """Change CRDs a little that are being deleted, so that the API server goes on with them.

    Its finalizer may fail on storage that starts (a CRD made a moment ago), meet its own last write when
    it tries again, and then wait for the next change: by itself, up to five minutes.
    """
    mark = f"tests/asked-again={time.monotonic_ns()}"
    cluster.kubectl("annotate", "crd", *names, "--overwrite", mark, check=False)


def install_crds(cluster: Cluster) -> None:
    """Apply our CRDs and wait until their objects can be listed."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", ROOT / "crds")
    wait_served(cluster, *KINDS)


def wait_served(cluster: Cluster, *plurals: str) -> None:
    """Wait until objects of kinds can be listed, the CRDs of which were applied.

    That a CRD is established is not all: the API server tells of its kinds a moment later.
    """

    def served() -> bool:
        done = cluster.kubectl("get", ",".join(plurals), "-n", "default", "-o", "name", check=False)
        return done.returncode == 0

    until(served, f"{', '.join(plurals)} to be served", 30)


def ensure_namespace(cluster: Cluster) -> None:
    """Make sure of the operator's namespace; one that is just ending is waited for."""

    def there() -> bool:
        phase = "jsonpath={.status.phase}"
        found = cluster.kubectl("get", "namespace", NAMESPACE, "-o", phase, "--ignore-not-found").stdout
        if not found:
            cluster.kubectl("create", "namespace", NAMESPACE)
        return found == "Active"

    until(there, f"namespace {NAMESPACE}", 30)


def install(cluster: Cluster) -> None:
    """Apply the CRDs and the controller's account and rights, exactly as shipped."""
    install_crds(cluster)
    ensure_namespace(cluster)
    documents = yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
    cluster.apply(*(cast("dict[str, Any]", document) for document in documents if document))


def allow_election(cluster: Cluster, namespace: str) -> None:
    """Let the controllers' account hold a Lease in another namespace, by the Role exactly as shipped."""
    for document in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
        if document and document["metadata"]["name"] == f"{ACCOUNT}-leader":
            document["metadata"]["namespace"] = namespace
            cluster.apply(cast("dict[str, Any]", document))


class ControllerProcess(AbstractContextManager["ControllerProcess"]):
    """One controller, watching the namespaces it is told to; its log is kept in a file.

    Many tests run one each at the same time, in namespaces of their own: they do not wait for
    each other's Lease unless told to.
    """

    def __init__(
        self,
        cluster: Cluster,
        workdir: Path,
        *,
        namespaces: Sequence[str] = (),
        roots: Sequence[Path] = (),
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        account: tuple[str, str] = (NAMESPACE, ACCOUNT),
        allow_loopback: bool = True,
        leader_elect: bool = False,
        operator_namespace: str = NAMESPACE,
    ) -> None:
        name = secrets.token_hex(4)
        self.roots = tuple(roots)
        self.log_path = workdir / f"controller-{name}.log"
        self.kubeconfig = cluster.service_account_kubeconfig(
            *account, workdir / f"controller-{name}.kubeconfig"
        )
        self._port = free_port()
        self._command = [
            sys.executable, "-W", "error", "-m", "bubu_operator", "controller",
            "--kubeconfig", str(self.kubeconfig),
            "--health-host", "127.0.0.1", "--health-port", str(self._port),
            "--probe-interval-seconds", "2",
            # Sweeps write statuses, too; tests of healing turn them on.
            "--heal-interval-seconds", "0",
            "--leader-elect" if leader_elect else "--no-leader-elect",
            "--operator-namespace", operator_namespace,
            *(["--allow-loopback-endpoints"] if allow_loopback else []),
            *(word for namespace in namespaces for word in ("--namespace", namespace)),
            *(word for root in roots for word in ("--allow-local-root", str(root))),
            *arguments,
        ]  # fmt: skip
        self._environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        self._environment |= environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None:
            raise ClusterError("the controller does not run")
        return self._process.pid

    @property
    def port(self) -> int:
        """Where it serves health checks and metrics."""
        return self._port

    @property
    def root(self) -> Path:
        """The first directory below which local stores are allowed."""
        return self.roots[0]

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Its log lines, parsed: every line must be JSON."""
        return [json.loads(line) for line in self.log.splitlines()]

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it and return at once."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until it says that it is ready."""
        until(self._is_ready, f"controller ready; its log is {self.log_path}", seconds)

    def _is_ready(self) -> bool:
        if not self.running:
            raise ClusterError(f"the controller ended:\n{self.log}")
        return self.health("/readyz")[0] == 200

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Stop it between two passes; what changes until it goes on, it meets all at once."""

        def at_rest() -> bool:
            os.kill(self.pid, signal.SIGSTOP)
            until(lambda: _stat(self.pid)[:1] == ["T"], "the controller to stand still")
            if children_of(self.pid):
                os.kill(self.pid, signal.SIGCONT)
                return False
            return True

        until(at_rest, "a moment without a pass")
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Tell whether the process is there (stopped by SIGSTOP is there)."""
        return self._process is not None and self._process.poll() is None

    def health(self, path: str) -> tuple[int, str]:
        """Ask the health server; status 0 where it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    @property
    def leads(self) -> bool:
        """Tell whether its metrics say that it leads."""
        return "\nbubu_controller_leader 1.0\n" in self.health("/metrics")[1]

    def wait_exit(self, seconds: float = 20.0) -> int:
        """Wait until it has ended by itself; return its exit code.

        Raises:
            AssertionError: it still runs.
        """
        process = self._process
        if process is None:
            raise ClusterError("the controller does not run")
        try:
            return process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the controller still runs after {seconds:g} s:\n{self.log}") from None

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory is short."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM and wait; return the exit code."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the controller did not stop within {seconds:g} s:\n{self.log}") from None
        finally:
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            # Nobody else would end it, and some watch the whole cluster.
            self.kill()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
