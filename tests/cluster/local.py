"""Provider ``local``: etcd, API server, controller manager and scheduler as plain processes.

There is no kubelet: pods are admitted, stored and stay Pending, which is all that an operator, its
webhook and its custom resources need. etcd listens on Unix sockets in the private folder and the
API server on a loopback port, so nothing is reachable from another machine and two clusters never
meet. Where nodes are to join, a ``Site`` moves all of it to a network namespace of its own instead.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import Binaries, ensure_binaries
from tests.cluster.certs import private_key_pem, write_private, write_serving_files
from tests.cluster.cluster import Cluster, http_get, kubeconfig_text
from tests.cluster.errors import StartError
from tests.cluster.processes import ManagedProcess, PortReservation, spawn, tail

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClusterOptions", "LocalProvider", "Site", "stop_processes"]

_START_SECONDS = 120.0
_STOP_GRACE_SECONDS = 3.0
_CONTEXT = "bubu-test-local"
_SERVICE_RANGE = "10.0.0.0/24"
_SERVICE_API = "10.0.0.1"
_PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy"}


@dataclass(frozen=True, slots=True)
class Site:
    """A network namespace for the control plane, where nodes and pods can reach it.

    Attributes:
        enter: the words before a command that make it run there.
        address: the API server's address there, which this process can reach as well.
        port: its port.
        service_range: the addresses of Services, as CIDR.
        service_api: the first of them, the API server's own Service.
        callback_host: an address of this machine that the API server and the pods can reach.
        tokens: more static tokens, as lines of the API server's token file.
    """

    enter: tuple[str, ...]
    address: str
    port: int
    service_range: str
    service_api: str
    callback_host: str
    tokens: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a caller may ask of a cluster; providers that run nothing themselves ignore it.

    Attributes:
        scheduler: run the scheduler too; without nodes it only marks pods as unschedulable.
        controller_manager: run it; without it there are no default accounts and namespaces never go.
        detached: leave the processes running when the starter ends (``cluster-up``).
        workdir: where state and logs go; a fresh folder below the temporary one if absent.
        apiserver_arguments: added to the API server's command line.
        controller_manager_arguments: added to the controller manager's.
        site: where it runs; on this machine's loopback addresses if absent.
    """

    scheduler: bool = True
    controller_manager: bool = True
    detached: bool = False
    workdir: Path | None = None
    apiserver_arguments: tuple[str, ...] = ()
    controller_manager_arguments: tuple[str, ...] = ()
    site: Site | None = None


@dataclass(slots=True)
class LocalProvider:
    """Starts control planes on this machine.

    Attributes:
        on_spawn: told about every new process at once, so that a starter that is killed half-way
            leaves a record of what runs.
    """

    on_spawn: Callable[[list[ManagedProcess]], None] | None = None
    name: str = field(default="local", init=False)

    def prepare(self, report: Callable[[str], None] | None = None) -> None:
        """Build the programs if the cache lacks them."""
        ensure_binaries(report)

    def start(self, options: ClusterOptions | None = None) -> Cluster:
        """Start a control plane and return it once it serves.

        Raises:
            PrerequisiteError: the programs must be built and Go is missing.
            StartError: a process ended early or the API server was not ready in time; logs are kept
                and named.
        """
        options = options or ClusterOptions()
        binaries = ensure_binaries()
        workdir = options.workdir or Path(tempfile.mkdtemp(prefix="bubu-cluster-"))
        launch = _Launch(binaries, workdir, options, self.on_spawn)
        try:
            return launch.run()
        except BaseException as error:
            launch.abandon(keep_logs=isinstance(error, StartError))
            raise


def stop_processes(processes: list[ManagedProcess]) -> None:
    """Stop in reverse order of start; the API server is not waited for long, since it may wait for etcd."""
    for process in reversed(processes):
        process.stop(grace_seconds=_STOP_GRACE_SECONDS)


class _Launch:
    """One start: owns the processes until they are handed over in a Cluster."""

    def __init__(
        self,
        binaries: Binaries,
        workdir: Path,
        options: ClusterOptions,
        on_spawn: Callable[[list[ManagedProcess]], None] | None,
    ) -> None:
        self.binaries = binaries
        self.workdir = workdir
        self.options = options
        self.on_spawn = on_spawn
        self.processes: list[ManagedProcess] = []
        self.reservation = PortReservation()
        self.site = options.site or Site(
            enter=(),
            address="127.0.0.1",
            port=self.reservation.port,
            service_range=_SERVICE_RANGE,
            service_api=_SERVICE_API,
            callback_host="127.0.0.1",
        )
        self.server = f"https://{self.site.address}:{self.site.port}"
        self.logs = workdir / "logs"
        self.state = workdir / "state"
        self.admin_token = secrets.token_urlsafe(24)

    def run(self) -> Cluster:
        self.workdir.mkdir(mode=0o700, exist_ok=True)
        self.workdir.chmod(0o700)
        self.logs.mkdir(exist_ok=True)
        self.state.mkdir(mode=0o700)
        serving = write_serving_files(
            self.state,
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"],
            sorted({"127.0.0.1", self.site.address, self.site.service_api}),
        )
        ca_pem = serving.ca.read_text(encoding="ascii")
        accounts_key = write_private(self.state / "service-accounts.key", private_key_pem())
        component_tokens = {
            f"system:{component}": secrets.token_urlsafe(24)
            for component in ("kube-controller-manager", "kube-scheduler")
        }
        token_lines = [f'{self.admin_token},admin,admin,"system:masters"']
        token_lines += [f"{token},{user},{user}" for user, token in component_tokens.items()]
        token_lines += self.site.tokens
        tokens = write_private(self.state / "tokens.csv", "\n".join(token_lines) + "\n")

        def kubeconfig(path: Path, user: str, token: str) -> Path:
            return write_private(
                path,
                kubeconfig_text(
                    name=_CONTEXT,
                    server=self.server,
                    ca_pem=ca_pem,
                    user=user,
                    token=token,
                    namespace="default",
                ),
            )

        admin = kubeconfig(self.workdir / "kubeconfig", "admin", self.admin_token)
        self._spawn(
            "etcd",
            *("--name", "test", "--data-dir", "etcd"),
            # etcd wants host:port even here; these are socket files in its working folder.
            *("--listen-client-urls", "unix://client:1", "--advertise-client-urls", "unix://client:1"),
            *("--listen-peer-urls", "unix://peer:1", "--initial-advertise-peer-urls", "unix://peer:1"),
            *("--initial-cluster", "test=unix://peer:1"),
            "--unsafe-no-fsync",
            *("--log-level", "warn"),
        )
        self._spawn(
            "kube-apiserver",
            *("--etcd-servers", "unix://client:1"),
            *("--bind-address", self.site.address, "--secure-port", str(self.site.port)),
            "--permit-port-sharing",
            *("--tls-cert-file", str(serving.certificate), "--tls-private-key-file", str(serving.key)),
            *("--token-auth-file", str(tokens)),
            *("--authorization-mode", "RBAC,Node"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-key-file", str(accounts_key)),
            *("--service-account-signing-key-file", str(accounts_key)),
            *("--service-cluster-ip-range", self.site.service_range),
            *self._endpoint_arguments(),
            "--allow-privileged=true",
            "--profiling=false",
            *self.options.apiserver_arguments,
        )
        self._wait_ready(ca_pem)
        if self.options.controller_manager:
            user = "system:kube-controller-manager"
            self._spawn(
                "kube-controller-manager",
                *(
                    "--kubeconfig",
                    str(kubeconfig(self.state / "controller-manager", user, component_tokens[user])),
                ),
                "--use-service-account-credentials",
                *("--service-account-private-key-file", str(accounts_key)),
                *("--root-ca-file", str(serving.ca)),
                "--leader-elect=false",
                *("--secure-port", "0"),
                *self.options.controller_manager_arguments,
            )
        if self.options.scheduler:
            user = "system:kube-scheduler"
            self._spawn(
                "kube-scheduler",
                *("--kubeconfig", str(kubeconfig(self.state / "scheduler", user, component_tokens[user]))),
                "--leader-elect=false",
                *("--secure-port", "0"),
            )
        self.reservation.release()
        cluster = Cluster(
            provider="local",
            name=_CONTEXT,
            kubeconfig=admin,
            server=self.server,
            ca_pem=ca_pem,
            kubectl_path=self.binaries.kubectl,
            callback_host=self.site.callback_host,
            workdir=self.workdir,
            processes=self.processes,
            on_stop=self._stop,
        )
        if not self.options.detached:
            atexit.register(cluster.stop)
        return cluster

    def _endpoint_arguments(self) -> list[str]:
        if self.options.site is None:
            # A loopback address is refused as an endpoint of the default/kubernetes service.
            return ["--endpoint-reconciler-type", "none"]
        return ["--advertise-address", self.site.address]

    def _spawn(self, command: str, *arguments: str) -> None:
        env = None
        if self.options.site is not None:
            # Webhooks and kubelets have addresses that no proxy of this machine can reach.
            env = {name: value for name, value in os.environ.items() if name.lower() not in _PROXY_VARIABLES}
        process = spawn(
            command,
            [*self.site.enter, self.binaries.path(command), *arguments],
            env=env,
            log=self.logs / f"{command}.log",
            cwd=self.state,
            die_with_parent=not self.options.detached,
        )
        self.processes.append(process)
        if self.on_spawn is not None:
            self.on_spawn(self.processes)

    def _wait_ready(self, ca_pem: str) -> None:
        """Wait for /readyz and for the bootstrap roles, without which early requests are forbidden."""
        deadline = time.monotonic() + _START_SECONDS
        paths = ["/readyz", "/readyz/poststarthook/rbac/bootstrap-roles"]
        last = "no answer yet"
        while paths:
            for process in self.processes:
                if not process.is_running():
                    raise StartError(f"{process.name} ended early; {self._see_logs(process)}")
            if time.monotonic() > deadline:
                raise StartError(
                    f"the API server was not ready within {_START_SECONDS:g} s ({last}); "
                    f"{self._see_logs(self.processes[-1])}"
                )
            try:
                status, body = http_get(self.server + paths[0], ca_pem=ca_pem, token=self.admin_token)
            except OSError as error:
                last = str(error)
            else:
                if status == 200 and body == "ok":
                    paths.pop(0)
                    continue
                last = f"{paths[0]} says {status} {body[:200]!r}"
            time.sleep(0.05)

    def _see_logs(self, process: ManagedProcess) -> str:
        return f"its log is {process.log} and ends:\n{tail(process.log)}"

    def _stop(self, keep_logs: bool) -> None:
        stop_processes(self.processes)
        self._remove(keep_logs=keep_logs)

    def abandon(self, *, keep_logs: bool) -> None:
        """Undo a start that failed or was interrupted; nobody waits for order then."""
        for process in reversed(self.processes):
            process.stop(grace_seconds=0)
        self._remove(keep_logs=keep_logs)

    def _remove(self, *, keep_logs: bool) -> None:
        self.reservation.release()
        if keep_logs:
            for entry in self.workdir.iterdir():
                if entry.is_dir() and entry != self.logs:
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry != self.logs:
                    entry.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.workdir, ignore_errors=True)
