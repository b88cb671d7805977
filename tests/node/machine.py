"""A node's machine: namespaces that live and die with one process, and programs inside them.

The process is PID 1 of a PID namespace of its own and owns the mounts and the network as well. One
SIGKILL therefore ends kubelet, containerd, every container, every mount and every link of the node,
which is how a test crashes a node, and how a killed test leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.errors import StartError
from tests.cluster.processes import ManagedProcess, spawn, start_ticks, tail, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Machine", "clean_environment", "overlay_works", "start_hub", "start_machine"]

_INIT = Path(__file__).with_name("_init.py")
_START_SECONDS = 20.0
_PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy"}
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True, eq=False)
class Machine:
    """One node's namespaces.

    Attributes:
        name: the node's name, and its host name.
        number: 1 for the first node.
        address: its address in the cluster's network.
        folder: what it keeps on disk.
        logs: where its programs' output goes.
        root: its process 1, as this machine's root namespace sees it.
        on_spawn: told about every new process.
        detached: its programs outlive the starter.
    """

    name: str
    number: int
    address: str
    folder: Path
    logs: Path
    root: ManagedProcess
    on_spawn: Callable[[ManagedProcess], None] = field(repr=False)
    detached: bool = False
    processes: dict[str, ManagedProcess] = field(default_factory=dict[str, ManagedProcess])

    @classmethod
    def known(cls, name: str, workdir: Path, root: ManagedProcess) -> Machine:
        """Return a node that another process has started, for running programs in it."""
        number = int(name.rpartition("-")[2])
        return cls(name, number, "", workdir / name, workdir / "logs", root, lambda _process: None)

    @property
    def netns(self) -> Path:
        """Its network namespace, for ``nsenter --net=…``."""
        return Path(f"/proc/{self.root.pid}/ns/net")

    def enter(self) -> list[str]:
        """Return the words before a command that make it run in the node."""
        kinds = ("--mount", "--net", "--pid", "--uts", "--ipc")
        return ["nsenter", "--target", str(self.root.pid), *kinds, "--", "env", "-C", str(self.folder)]

    def spawn(self, name: str, *arguments: str | Path) -> ManagedProcess:
        """Start a program in the node; its handle is that of the process that waits for it."""
        process = spawn(
            f"{self.name}/{name}",
            [*self.enter(), *arguments],
            log=self.logs / f"{self.name}-{name}.log",
            env=clean_environment(),
            die_with_parent=not self.detached,
        )
        self.processes[name] = process
        self.on_spawn(process)
        return process

    def run(
        self, *words: str | Path, check: bool = True, timeout_seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the node and return what it printed.

        Raises:
            StartError: it ended with another code than 0 while ``check`` is set, or took too long.
        """
        argv = [*self.enter(), *map(str, words)]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=clean_environment(),
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StartError(f"{words[0]} on {self.name} did not end within {timeout_seconds:g} s") from error
        if check and done.returncode != 0:
            shown = " ".join(map(str, words))
            raise StartError(f"{shown} on {self.name} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def wait_for(self, condition: Callable[[], bool], name: str, what: str, seconds: float = 60.0) -> None:
        """Wait for something that one of its programs brings about.

        Raises:
            StartError: the program ended, or the time is over; with the end of its log.
        """
        process = self.processes[name]

        def holds() -> bool:
            if not process.is_running():
                raise StartError(
                    f"{process.name} ended early; its log is {process.log} and ends:\n{tail(process.log)}"
                )
            return condition()

        try:
            wait_until(holds, seconds, what)
        except TimeoutError as error:
            raise StartError(
                f"{error}; the log of {process.name} is {process.log} and ends:\n{tail(process.log)}"
            ) from error

    def kill(self) -> None:
        """Pull the plug: every process of the node ends at once, and nothing says goodbye."""
        self.root.stop(grace_seconds=0)


def start_hub(log: Path, *, detached: bool) -> ManagedProcess:
    """Start the process that holds the hub's network namespace."""
    hub = spawn("hub", ["unshare", "--net", "sleep", "infinity"], log=log, die_with_parent=not detached)
    mine = Path("/proc/self/ns/net").stat().st_ino

    def is_apart() -> bool:
        if not hub.is_running():
            raise StartError(f"no network namespace can be made: {tail(log).strip()}")
        # The launcher becomes unshare, which becomes sleep: only the last has the new namespace.
        comm = Path(f"/proc/{hub.pid}/comm").read_text(encoding="ascii").strip()
        return comm == "sleep" and Path(f"/proc/{hub.pid}/ns/net").stat().st_ino != mine

    wait_until(is_apart, _START_SECONDS, "the hub's network namespace")
    return hub


def start_machine(
    name: str,
    number: int,
    address: str,
    workdir: Path,
    *,
    cgroup: str,
    on_spawn: Callable[[ManagedProcess], None],
    detached: bool,
) -> Machine:
    """Make a node's namespaces.

    Args:
        name: the node's name.
        number: 1 for the first node.
        address: its address in the cluster's network.
        workdir: the cluster's folder.
        cgroup: the cgroup, below the machine's root, that the node takes for its root.
        on_spawn: told about every new process.
        detached: its programs outlive this process.

    Raises:
        StartError: the kernel refused, or a mount failed.
    """
    folder = workdir / name
    var_lib = folder / "var-lib"
    var_lib.mkdir(parents=True)
    ready = folder / "ready"
    log = workdir / "logs" / f"{name}-init.log"
    outer = spawn(
        f"{name}/namespaces",
        [
            *("unshare", "--fork", "--kill-child", "--pid", "--mount-proc"),
            *("--mount", "--net", "--uts", "--ipc"),
            *(sys.executable, "-I", "-S", _INIT, name, ready, var_lib, cgroup),
        ],
        log=log,
        env=clean_environment(),
        cwd=Path("/"),
        die_with_parent=not detached,
    )
    on_spawn(outer)

    def is_ready() -> bool:
        if not outer.is_running():
            raise StartError(f"the namespaces of {name} cannot be made:\n{tail(log)}")
        return ready.is_file()

    wait_until(is_ready, _START_SECONDS, f"the namespaces of {name}")
    pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text(encoding="ascii").split()[0])
    root = ManagedProcess(f"{name}/init", pid, start_ticks(pid), log)
    on_spawn(root)
    return Machine(name, number, address, folder, workdir / "logs", root, on_spawn, detached)


def clean_environment() -> dict[str, str]:
    """Return the environment of a node's programs: no proxy, and the folders that hold runc and nft."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in _PROXY_VARIABLES}
    return kept | {"PATH": f"{os.environ.get('PATH', '')}:{_SEARCH_PATH}", "HOME": "/root"}


def overlay_works(folder: Path) -> bool:
    """Tell whether containers' layers can be stacked there; not upon a file system that is a stack itself."""
    if shutil.which("stat") is None:
        return True
    words = ["stat", "--file-system", "--format=%T", str(folder)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout.strip() != "overlayfs"
