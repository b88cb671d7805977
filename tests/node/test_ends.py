"""However a cluster with nodes ends, nothing of it stays on the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.errors import StartError
from tests.cluster.processes import is_running, wait_until
from tests.node import node_cluster as module
from tests.node.images import PROBE_IMAGE
from tests.node.node_cluster import NodeCluster
from tests.node.runs import Run, cgroup_of, read_runs, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

# Starts a cluster with one node and one pod, tells its block, and waits to be ended.
STARTER = """
import json, sys, time
from pathlib import Path
from tests.node.node_cluster import NodeCluster
with NodeCluster.start(Path(sys.argv[1]), nodes=1) as node:
    node.load_image(Path(sys.argv[2]))
    container = {"name": "probe", "image": sys.argv[3], "imagePullPolicy": "Never"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": "default"},
           "spec": {"containers": [container]}}
    node.cluster.apply(pod)
    node.cluster.kubectl("wait", "pod/pod", "--for=condition=Ready", "--timeout=120s")
    print(node.run.block, flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True, slots=True)
class Traces:
    """What a run has on the machine."""

    run: Run
    pids: tuple[int, ...]

    @classmethod
    def of(cls, run: Run) -> Traces:
        """Find every process that is in one of the run's namespaces: its programs and their pods."""
        roots = [pid for name, pid, _ticks in run.processes if name == "hub" or name.endswith("/init")]
        spaces = {Path(f"/proc/{pid}/ns/net").readlink() for pid in roots}
        # A pod's processes have a network of their own, and the node's mounts below theirs.
        levels = {pid for pid in roots if pid != run.owner[0]}
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                inside = (entry / "ns/net").readlink() in spaces
                if inside or levels & set(_ancestors(int(entry.name))):
                    found.append(int(entry.name))
        return cls(run, tuple(found))

    def running(self) -> list[int]:
        """The processes that have not ended."""
        return [pid for pid in self.pids if is_running(pid, None)]

    def on_disk(self) -> list[str]:
        """Folder, record, cgroups."""
        places = [Path(self.run.workdir), self.run.file]
        places += [Path("/sys/fs/cgroup") / cgroup_of(self.run.block)]
        places += Path("/sys/fs/cgroup").glob(f"*/{cgroup_of(self.run.block)}")
        return [str(place) for place in places if place.exists()]

    def in_the_kernel(self) -> list[str]:
        """Links, routes and mounts."""
        link, workdir = self.run.plan.link, self.run.workdir
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        routes = subprocess.run(["ip", "-o", "route"], capture_output=True, text=True, check=True).stdout
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        lines = [*links.splitlines(), *routes.splitlines()]
        return [line for line in lines if f"{link}@" in line or f"dev {link}" in line] + [
            line for line in mounts.splitlines() if workdir in line
        ]


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        pid = int(stat.rpartition(")")[2].split()[1])


@pytest.fixture
def starter(tmp_path: Path, probe_archive: Path) -> Iterator[tuple[subprocess.Popen[str], Traces]]:
    """A process that has started a cluster with a pod, and what that has on the machine."""
    words = [sys.executable, "-c", STARTER, str(tmp_path / "run"), str(probe_archive), PROBE_IMAGE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            block = int(process.stdout.readline())
            run = next(run for run in read_runs() if run.block == block)
            traces = Traces.of(run)
            names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in traces.running()}
            assert {"etcd", "kube-apiserver", "containerd", "kubelet", "kube-proxy", "coredns"} <= names
            assert {"pause", "probe"} <= names
            yield process, traces
        finally:
            process.kill()
            process.wait()
            mine = [run for run in read_runs() if run.workdir == str(tmp_path / "run")]
            wait_until(lambda: not any(run.is_alive() for run in mine), 20, "the run's owner to end")
            sweep()


def test_nothing_stays_after_an_interrupt(starter: tuple[subprocess.Popen[str], Traces]):
    """Ctrl-C in the middle of a test run."""
    process, traces = starter

    process.send_signal(signal.SIGINT)
    process.wait(60)

    assert traces.running() == []
    assert traces.on_disk() == []
    assert traces.in_the_kernel() == []


def test_sigkill_ends_every_process_and_the_next_start_removes_the_rest(
    starter: tuple[subprocess.Popen[str], Traces],
):
    """No code of ours runs after SIGKILL: the kernel ends processes and mounts by itself."""
    process, traces = starter

    process.kill()
    process.wait(60)
    wait_until(lambda: traces.running() == [], 20, "every process to end")
    assert traces.run.workdir in traces.on_disk()
    sweep()

    assert traces.on_disk() == []
    assert traces.in_the_kernel() == []


def test_a_failed_start_leaves_only_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And says in which file the reason is."""
    runs: list[Run] = []

    def fail(*_arguments: object, **_keywords: object) -> None:
        runs.extend(read_runs())
        raise StartError("no kubelet today")

    monkeypatch.setattr(module, "start_kubelet", fail)
    workdir = tmp_path / "run"

    with pytest.raises(StartError, match="no kubelet today"):
        NodeCluster.start(workdir, nodes=1)

    mine = next(run for run in runs if run.workdir == str(workdir))
    traces = Traces(mine, tuple(pid for _name, pid, _ticks in mine.processes))
    assert traces.running() == []
    assert traces.in_the_kernel() == []
    assert traces.on_disk() == [str(workdir)]
    assert [entry.name for entry in workdir.iterdir()] == ["logs"]
    assert (workdir / "logs" / "node-1-containerd.log").is_file()


def test_a_killed_node_takes_its_containers_along(
    starter: tuple[subprocess.Popen[str], Traces],
):
    """As when somebody pulls the plug; the control plane goes on."""
    _process, traces = starter
    root = next(row for row in traces.run.processes if row[0] == "node-1/init")
    below = [pid for pid in traces.pids if root[1] in set(_ancestors(pid))]

    os.kill(root[1], signal.SIGKILL)

    wait_until(lambda: not any(is_running(pid, None) for pid in below), 20, "the node's processes to end")
    hub = [pid for name, pid, _ticks in traces.run.processes if name in {"etcd", "kube-apiserver", "hub"}]
    assert len(hub) == 3
    assert all(is_running(pid, None) for pid in hub)
