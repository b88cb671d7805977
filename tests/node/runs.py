"""What each run of a cluster has on this machine, written down so that anybody can remove it.

A run takes a block of addresses and a file ``/run/bubu-node/BLOCK.json`` that lists its processes and
its folder. Whoever starts the next run first removes what dead runs have left: a run is dead when its
owner (the process that holds the hub's namespace) is.

Invariants:
- A run owns nothing that its record does not lead to: processes by pid and start time, the folder,
  cgroups below ``bubu-node-BLOCK``, the link ``bubuBLOCK``. Namespaces and mounts end with the processes.
- ``remove`` may be called at any time, twice, and by another process than the starter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.cluster.certs import write_private
from tests.cluster.errors import StartError
from tests.cluster.processes import is_running, start_ticks, stop_pid
from tests.node.network import Plan, taken_networks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from tests.cluster.processes import ManagedProcess

__all__ = ["Run", "cgroup_of", "read_runs", "sweep"]

REGISTRY = Path("/run/bubu-node")
_CGROUPS = Path("/sys/fs/cgroup")
_BLOCKS = range(201, 250)
_CGROUP_SECONDS = 10.0

type_row = tuple[str, int, int | None]


@dataclass(frozen=True, slots=True)
class Run:
    """The record of one run.

    Attributes:
        block: which addresses it has.
        workdir: its folder, removed with it.
        owner: pid and start ticks of the process whose death ends the run.
        processes: name, pid and start ticks of what it started, in that order.
        detail: what its starter wants to find again, such as a path.
    """

    block: int
    workdir: str
    owner: tuple[int, int | None]
    processes: tuple[type_row, ...] = ()
    detail: str = ""

    @property
    def plan(self) -> Plan:
        """Its addresses."""
        return Plan(self.block)

    @property
    def file(self) -> Path:
        """Where the record is."""
        return REGISTRY / f"{self.block}.json"

    @classmethod
    def claim(cls, workdir: Path, detail: str = "") -> Run:
        """Take a block that nobody uses, after removing what dead runs left.

        Raises:
            StartError: no block is free.
        """
        with _lock():
            _sweep()
            used = {run.block for run in read_runs()}
            networks = taken_networks()
            for block in _BLOCKS:
                mine = ipaddress.IPv4Network(Plan(block).network)
                if block not in used and not any(mine.overlaps(other) for other in networks):
                    owner = os.getpid()
                    return cls(block, str(workdir), (owner, start_ticks(owner)), detail=detail).save()
        raise StartError(
            f"every network from {Plan(_BLOCKS[0]).network} to {Plan(_BLOCKS[-1]).network} is in use on this "
            "machine: stop clusters that still run (python -m tests.node down)."
        )

    def save(self) -> Run:
        """Write the record and return it."""
        write_private(self.file, json.dumps(asdict(self), indent=1) + "\n")
        return self

    def with_processes(self, processes: Iterable[ManagedProcess], owner: ManagedProcess | None) -> Run:
        """Return the record with these processes, written."""
        rows = tuple((item.name, item.pid, item.started_ticks) for item in processes)
        who = self.owner if owner is None else (owner.pid, owner.started_ticks)
        return replace(self, processes=rows, owner=who).save()

    def is_alive(self) -> bool:
        """Tell whether its owner still runs."""
        return is_running(*self.owner)

    def remove(self, *, keep_logs: bool = False) -> None:
        """End its processes and remove all that it had.

        Args:
            keep_logs: leave ``logs`` in its folder.
        """
        for _name, pid, ticks in reversed(self.processes):
            stop_pid(pid, ticks, grace_seconds=0)
        subprocess.run(
            ["ip", "link", "delete", self.plan.link],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        _remove_cgroups(self.block)
        _remove_folder(Path(self.workdir), keep_logs=keep_logs)
        self.file.unlink(missing_ok=True)


def cgroup_of(block: int) -> str:
    """Return the path of a run's cgroup, below the root of each hierarchy."""
    return f"bubu-node-{block}"


def read_runs() -> list[Run]:
    """Return the records of all runs; one that cannot be read is as good as none."""
    found: list[Run] = []
    for file in sorted(REGISTRY.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            raw = cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
            rows = tuple((str(name), int(pid), ticks) for name, pid, ticks in raw.pop("processes"))
            pid, ticks = raw.pop("owner")
            found.append(Run(**raw, owner=(int(pid), ticks), processes=rows))
    return found


def sweep() -> None:
    """Remove what dead runs have left."""
    with _lock():
        _sweep()


def _sweep() -> None:
    for run in read_runs():
        if not run.is_alive():
            run.remove()


@contextlib.contextmanager
def _lock() -> Generator[None]:
    REGISTRY.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (REGISTRY / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _remove_cgroups(block: int) -> None:
    """Remove the run's cgroups in every hierarchy; the kernel may need a moment after the last process."""
    name = cgroup_of(block)
    roots = [path for path in (_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")) if path.is_dir()]
    deadline = time.monotonic() + _CGROUP_SECONDS
    for root in roots:
        folders = [Path(folder) for folder, _children, _files in os.walk(root, topdown=False)]
        for folder in folders:
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError as error:
                    if error.errno not in {errno.EBUSY, errno.ENOENT} or time.monotonic() > deadline:
                        break
                    time.sleep(0.02)


def _remove_folder(workdir: Path, *, keep_logs: bool) -> None:
    """Remove the run's folder, and whatever a caller mounted below it."""
    if not workdir.is_dir():
        return
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    below = [path for path in (line.split()[4] for line in mounts) if path.startswith(f"{workdir}/")]
    for path in sorted(below, reverse=True):
        subprocess.run(["umount", "--lazy", path], stdin=subprocess.DEVNULL, check=False)
    for entry in workdir.iterdir():
        if keep_logs and entry.name == "logs":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        workdir.rmdir()
