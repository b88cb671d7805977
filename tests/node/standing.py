"""A cluster with nodes that outlives the command that started it: ``up``, ``down``, ``status``, ``load``.

The record of its run (``runs.py``) says what is where; nothing else is remembered.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import ensure_binaries
from tests.cluster.errors import ClusterError, PrerequisiteError
from tests.cluster.processes import ManagedProcess, is_running
from tests.cluster.standing import REPOSITORY
from tests.node.containerd import Containerd
from tests.node.machine import Machine
from tests.node.node_cluster import NodeCluster
from tests.node.packages import ensure_packages
from tests.node.programs import ensure_programs
from tests.node.runs import Run, read_runs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HOME", "StandingNodes"]

HOME = REPOSITORY / ".cluster" / "node"


class StandingNodes:
    """The one cluster with nodes of a repository that a person plays with.

    Attributes:
        home: the folder of its state, which is its name in the record as well.
    """

    def __init__(self, home: Path = HOME) -> None:
        self.home = home

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    def up(self, say: Callable[[str], None]) -> None:
        """Start it unless it runs.

        Raises:
            ClusterError: it cannot be started; nothing is left running.
        """
        run = self._find()
        if run is not None and self._is_complete(run):
            say("The cluster is already running.")
            self._say_how_to_use(say)
            return
        if run is not None:
            run.remove()
        ensure_packages(say)
        ensure_programs(say)
        shutil.rmtree(self.home, ignore_errors=True)
        say("starting a cluster with two nodes")
        started = NodeCluster.start(self.home, detached=True, detail=str(self.home))
        say(f"Kubernetes {started.cluster.server_version()} serves at {started.cluster.server}.")
        self._say_how_to_use(say)

    def down(self, say: Callable[[str], None]) -> None:
        """Stop it and remove all that it had; saying so if there is nothing."""
        run = self._find()
        if run is None:
            say("No cluster with nodes is running.")
            return
        run.remove()
        say("The cluster is stopped.")

    def status(self, say: Callable[[str], None]) -> bool:
        """Say what runs; True if the cluster is complete."""
        run = self._find()
        if run is None:
            say("No cluster with nodes is running.")
            return False
        for name, pid, ticks in run.processes:
            say(f"{name:24} pid {pid:<8} {'running' if is_running(pid, ticks) else 'ended'}")
        if not self._is_complete(run):
            say("The cluster is not complete: stop it and start it again.")
            return False
        self._say_how_to_use(say)
        return True

    def load(self, archive: Path, say: Callable[[str], None]) -> None:
        """Give every node the images of an archive.

        Raises:
            PrerequisiteError: no cluster runs, or there is no such file.
            StartError: the archive cannot be read.
        """
        run = self._find()
        if run is None or not self._is_complete(run):
            raise PrerequisiteError("No cluster with nodes is running: start one (python -m tests.node up).")
        if not archive.is_file():
            raise PrerequisiteError(f"{archive} is no file: give it an archive that buildah or docker saved.")
        runtime = ensure_programs(say).runtime
        for name, pid, ticks in run.processes:
            if name.endswith("/init"):
                node = name.removesuffix("/init")
                root = ManagedProcess(name, pid, ticks, self.home / "logs" / f"{node}-init.log")
                containerd = Containerd(Machine.known(node, self.home, root), runtime)
                containerd.load(archive.absolute())
                say(f"{node}: {', '.join(image for image in containerd.images())}")

    def _find(self) -> Run | None:
        if os.geteuid() != 0:
            raise ClusterError("A cluster with nodes belongs to root: run this as root.")
        return next((run for run in read_runs() if run.detail == str(self.home)), None)

    @staticmethod
    def _is_complete(run: Run) -> bool:
        names = {name for name, _pid, _ticks in run.processes}
        return "node-2/kube-proxy" in names and all(
            is_running(pid, ticks) for _name, pid, ticks in run.processes
        )

    def _say_how_to_use(self, say: Callable[[str], None]) -> None:
        say("")
        say(f"    export KUBECONFIG={self.kubeconfig}")
        say(f"    {ensure_binaries().kubectl} get nodes")
        say("")
        say(
            "There is no registry: give it images from archives (docker save, buildah push docker-archive:…),"
        )
        say("and use imagePullPolicy IfNotPresent or Never:")
        say("")
        say("    python -m tests.node load image.tar")
        say("")
        say("Stop it with: python -m tests.node down")
