"""A Kubernetes cluster with two real nodes on one plain Linux machine, without Docker.

Etcd, API server, controller manager, scheduler and DNS run as processes in a network namespace (the hub);
each node is a set of namespaces of its own with containerd, kubelet and kube-proxy (``machine.py``).
Pods, Services, DNS, webhooks behind Services, logs, exec, probes, volumes, drain and the loss of a node
are all real.

What is not: **NetworkPolicy is stored and not enforced**, images come from archives only (there is no
registry), and pods reach this machine but nothing beyond it. Both nodes have the same disk, so a
``hostPath`` is the same folder on both.

Everything ends with the process that started it, SIGKILL included; what such an end leaves on disk and
in ``/sys/fs/cgroup`` is removed at the next start (``runs.py``).
"""

from __future__ import annotations

import atexit
import json
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from tests.cluster.certs import write_private
from tests.cluster.cluster import kubeconfig_text, wants_logs
from tests.cluster.errors import ClusterError, PrerequisiteError
from tests.cluster.local import ClusterOptions, LocalProvider, Site
from tests.node.containerd import Containerd
from tests.node.dns import DNS_USER, dns_objects, start_dns
from tests.node.images import PAUSE_IMAGE, write_image
from tests.node.kubelet import start_kube_proxy, start_kubelet, write_client_files
from tests.node.machine import Machine, start_hub, start_machine
from tests.node.network import connect_hub, connect_node
from tests.node.packages import why_no_node
from tests.node.programs import Programs, ensure_programs
from tests.node.runs import Run, cgroup_of

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tests.cluster.cluster import Cluster
    from tests.cluster.processes import ManagedProcess

__all__ = ["Node", "NodeCluster"]

_API_PORT = 6443
_READY_SECONDS = 120.0
_PROXY_USER = "system:kube-proxy"


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its machine and its container runtime."""

    machine: Machine
    containerd: Containerd

    @property
    def name(self) -> str:
        """The name that Kubernetes knows it by."""
        return self.machine.name


@dataclass(slots=True, eq=False)
class NodeCluster(AbstractContextManager["NodeCluster"]):
    """A running cluster with nodes.

    Attributes:
        cluster: kubeconfig and kubectl, as every cluster of the tests has them.
        nodes: by name, ``node-1`` and so on.
        run: the record of what it has on this machine.
    """

    cluster: Cluster
    nodes: dict[str, Node]
    run: Run
    _processes: list[ManagedProcess] = field(repr=False)
    _stopped: bool = field(default=False, repr=False)

    @classmethod
    def start(
        cls, workdir: Path | None = None, *, nodes: int = 2, detached: bool = False, detail: str = ""
    ) -> NodeCluster:
        """Start a cluster and return it once its nodes are ready.

        Args:
            workdir: an empty or absent folder for its state and logs, removed with it; a temporary one
                if absent.
            nodes: how many nodes, from 1 to 9.
            detached: leave it running when this process ends.
            detail: kept in its record, to find it again.

        Raises:
            PrerequisiteError: this machine cannot run nodes; the message says why.
            BuildError: a program could not be built.
            StartError: something did not come up; the logs are kept and named.
        """
        reason = why_no_node()
        if reason:
            raise PrerequisiteError(f"No node can be started: {reason}.")
        programs = ensure_programs()
        folder = workdir or Path(tempfile.mkdtemp(prefix="bubu-node-"))
        start = _Start(programs, folder, nodes, detached, detail)
        try:
            started = start.go()
        except BaseException as error:
            start.abandon(keep_logs=isinstance(error, ClusterError))
            raise
        if not detached:
            atexit.register(started.stop)
        return started

    @property
    def host_address(self) -> str:
        """The address of this machine that pods and the API server reach; nothing else on it is seen."""
        return self.run.plan.host

    @property
    def netns(self) -> Path:
        """The hub's network namespace, for ``nsenter --net=…``: beside the API server, seen by all pods."""
        return Path(f"/proc/{self.run.owner[0]}/ns/net")

    @property
    def hub_address(self) -> str:
        """The hub's address: where a server started with ``nsenter --net=NETNS`` is reached by pods."""
        return self.run.plan.hub

    @property
    def workdir(self) -> Path:
        """The folder of state, logs and volumes."""
        return Path(self.run.workdir)

    @property
    def logs(self) -> Path:
        """The folder with a log of each process."""
        return self.workdir / "logs"

    def load_image(self, archive: Path) -> None:
        """Give every node the images of an archive (``buildah push … docker-archive:FILE:NAME``).

        Raises:
            StartError: the archive cannot be read.
        """
        with ThreadPoolExecutor() as pool:
            loads = [pool.submit(node.containerd.load, archive) for node in self.nodes.values()]
            for load in loads:
                load.result()

    def add_volume(
        self,
        name: str,
        access_modes: tuple[str, ...] = ("ReadWriteOnce",),
        *,
        size: str = "1Gi",
        storage_class: str = "",
    ) -> Path:
        """Create a PersistentVolume upon a folder of this machine that anybody may write to.

        Args:
            name: the volume's name; a claim asks for it by ``volumeName``.
            access_modes: what claims may ask for.
            size: its capacity, which nothing enforces.
            storage_class: what the claim's ``storageClassName`` must say.

        Returns:
            The folder, for tests that look into it.
        """
        folder = self.workdir / "volumes" / name
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "accessModes": list(access_modes),
                    "capacity": {"storage": size},
                    "hostPath": {"path": str(folder), "type": "Directory"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": storage_class,
                },
            }
        )
        return folder

    def node_of(self, pod: str, namespace: str) -> Node:
        """Return the node that a pod runs on.

        Raises:
            ClusterError: it runs on none.
        """
        spec = cast("dict[str, Any]", self.cluster.get("pod", pod, "-n", namespace)["spec"])
        name = str(spec.get("nodeName") or "")
        if name not in self.nodes:
            raise ClusterError(f"the pod {namespace}/{pod} is on no node yet: wait for it to run.")
        return self.nodes[name]

    def kill_container(
        self, pod: str, signal: str = "SIGKILL", *, namespace: str = "default", container: str = ""
    ) -> None:
        """Send a signal to the first process of a pod's container, behind Kubernetes' back.

        Args:
            pod: the pod's name.
            signal: the signal's name.
            namespace: the pod's namespace.
            container: which container; the first if absent.

        Raises:
            ClusterError: there is no such container, or it does not run.
        """
        document = self.cluster.get("pod", pod, "-n", namespace)
        statuses = cast("list[dict[str, Any]]", document["status"].get("containerStatuses") or [])
        for status in statuses:
            if container in {"", status["name"]} and status.get("state", {}).get("running"):
                identity = str(status["containerID"]).rpartition("/")[2]
                self.nodes[document["spec"]["nodeName"]].containerd.kill(identity, signal)
                return
        raise ClusterError(f"no container {container or 'at all'} of the pod {namespace}/{pod} runs.")

    def kill_node(self, name: str) -> None:
        """Pull a node's plug: its kubelet and all its containers are gone at once, for good."""
        self.nodes[name].machine.kill()

    def stop(self, *, keep_logs: bool = False) -> None:
        """End it and remove all that it had on this machine; a second call does nothing.

        Args:
            keep_logs: leave the logs where ``logs`` says, for somebody to read.
        """
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        for node in self.nodes.values():
            node.machine.kill()
        self.cluster.stop(keep_logs=keep_logs)
        for process in reversed(self._processes):
            process.stop(grace_seconds=0)
        self.run.remove(keep_logs=keep_logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(keep_logs=wants_logs(kind))


class _Start:
    """One start: writes every process down as it comes, and can undo all of it."""

    def __init__(self, programs: Programs, workdir: Path, nodes: int, detached: bool, detail: str) -> None:
        self.programs = programs
        self.workdir = workdir
        self.count = nodes
        self.detached = detached
        self.workdir.mkdir(mode=0o700, exist_ok=True, parents=True)
        (self.workdir / "logs").mkdir(exist_ok=True)
        self.identities = self.workdir / "identities"
        self.identities.mkdir(mode=0o700)
        self.processes: list[ManagedProcess] = []
        self.control_plane: list[ManagedProcess] = []
        self.cluster: Cluster | None = None
        self.run = Run.claim(workdir, detail)
        self.plan = self.run.plan
        self.tokens: dict[str, str] = {}
        # Nodes are finished by threads, and the record is one file.
        self.lock = Lock()

    def go(self) -> NodeCluster:
        hub = start_hub(self.workdir / "logs" / "hub.log", detached=self.detached)
        self._record(hub)
        self.run = self.run.with_processes(self.processes, owner=hub)
        connect_hub(self.plan, hub.pid, self.count)
        enter = ("nsenter", f"--net=/proc/{hub.pid}/ns/net", "--")
        pause = write_image(PAUSE_IMAGE, self.programs.pause, self.workdir / "pause.tar")
        nodes = {f"node-{number}": self._start_node(number, hub.pid) for number in range(1, self.count + 1)}
        # containerd comes up meanwhile.
        cluster = self._start_control_plane(enter)
        dns = start_dns(
            self.plan,
            enter=enter,
            agents=self.programs.agents,
            kubeconfig=self._kubeconfig(cluster, DNS_USER),
            workdir=self.workdir,
            detached=self.detached,
        )
        self._record(dns)
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(self._finish_node, node, cluster, pause) for node in nodes.values()]:
                done.result()
            # Checking them first would fetch every schema of the API, which takes seconds this early.
            objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": dns_objects(self.plan)})
            cluster.kubectl("create", "--validate=false", "-f", "-", input=objects)
        self._wait_ready(cluster, list(nodes.values()))
        return NodeCluster(cluster, nodes, self.run, self.processes)

    def abandon(self, *, keep_logs: bool) -> None:
        """Undo a start that failed or was interrupted."""
        for process in reversed([*self.processes, *self.control_plane]):
            process.stop(grace_seconds=0)
        if self.cluster is not None:
            self.cluster.stop(keep_logs=True)
        self.run.remove(keep_logs=keep_logs)

    def _start_node(self, number: int, hub_pid: int) -> Node:
        machine = start_machine(
            f"node-{number}",
            number,
            self.plan.node(number),
            self.workdir,
            cgroup=f"{cgroup_of(self.run.block)}/node-{number}",
            on_spawn=self._record,
            detached=self.detached,
        )
        connect_node(self.plan, hub_pid, machine.root.pid, number, self.count)
        containerd = Containerd(machine, self.programs.runtime)
        containerd.start(self.plan.node_pods(number))
        return Node(machine, containerd)

    def _finish_node(self, node: Node, cluster: Cluster, pause: Path) -> None:
        """Start what needs the API server."""
        node.containerd.wait()
        node.containerd.load(pause)
        start_kubelet(
            node.machine,
            node.containerd,
            self.plan,
            agents=self.programs.agents,
            kubeconfig=self._kubeconfig(cluster, f"system:node:{node.name}"),
            client_ca=self.identities / "kubelet-clients.crt",
        )
        start_kube_proxy(
            node.machine,
            self.plan,
            agents=self.programs.agents,
            kubeconfig=self._kubeconfig(cluster, _PROXY_USER),
        )

    def _start_control_plane(self, enter: tuple[str, ...]) -> Cluster:
        client = write_client_files(self.identities)
        groups = {DNS_USER: "", _PROXY_USER: ""}
        groups |= {f"system:node:node-{number}": ',"system:nodes"' for number in range(1, self.count + 1)}
        self.tokens = {user: secrets.token_urlsafe(24) for user in groups}
        provider = LocalProvider(on_spawn=self._record_control_plane)
        self.cluster = provider.start(
            ClusterOptions(
                detached=self.detached,
                workdir=self.workdir,
                apiserver_arguments=(
                    # Webhooks behind Services are asked at their pods: no kube-proxy serves the hub.
                    "--enable-aggregator-routing=true",
                    "--enable-admission-plugins=NodeRestriction",
                    "--kubelet-preferred-address-types=InternalIP",
                    f"--kubelet-client-certificate={client.certificate}",
                    f"--kubelet-client-key={client.key}",
                ),
                site=Site(
                    enter=enter,
                    address=self.plan.hub,
                    port=_API_PORT,
                    service_range=self.plan.services,
                    service_api=self.plan.api_service,
                    callback_host=self.plan.host,
                    tokens=tuple(
                        f"{self.tokens[user]},{user},{user}{group}" for user, group in groups.items()
                    ),
                ),
            )
        )
        return self.cluster

    def _kubeconfig(self, cluster: Cluster, user: str) -> Path:
        text = kubeconfig_text(
            name=cluster.name,
            server=cluster.server,
            ca_pem=cluster.ca_pem,
            user=user,
            token=self.tokens[user],
            namespace="default",
        )
        return write_private(self.identities / f"{user.replace(':', '-')}.kubeconfig", text)

    def _record(self, process: ManagedProcess) -> None:
        with self.lock:
            self.processes.append(process)
            self.run = self.run.with_processes([*self.processes, *self.control_plane], owner=None)

    def _record_control_plane(self, processes: list[ManagedProcess]) -> None:
        with self.lock:
            self.control_plane = list(processes)
            self.run = self.run.with_processes([*self.processes, *self.control_plane], owner=None)

    def _wait_ready(self, cluster: Cluster, nodes: list[Node]) -> None:
        def is_ready(name: str) -> bool:
            # Not kubectl wait: it gives up on a node that is not there yet.
            path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
            return cluster.kubectl("get", "node", name, "-o", path, check=False).stdout == "True"

        for node in nodes:
            node.machine.wait_for(
                lambda name=node.name: is_ready(name), "kubelet", f"{node.name} to be ready", _READY_SECONDS
            )
        # Pods of the namespace `default` are refused until the controller manager has made its account.
        cluster.kubectl(
            *("wait", "-n", "default", "--for=create", "serviceaccount/default"),
            f"--timeout={_READY_SECONDS:g}s",
        )
