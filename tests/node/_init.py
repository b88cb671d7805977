"""Process 1 of a node: sets up its mounts, says so, and buries orphans until it is killed.

Run as ``python -I -S _init.py NAME READY_FILE VAR_LIB CGROUP`` in namespaces for mounts, PIDs, network,
UTS and IPC. Whatever the node mounts or starts ends with this process, because the kernel ends a PID
namespace with its first process and a mount namespace with its last.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

# What the kubelet would write for the whole machine. Files in their place take it instead.
TUNABLES = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}


def mount(*arguments: str) -> None:
    """Run mount."""
    subprocess.run(["mount", *arguments], check=True, stdin=subprocess.DEVNULL)


def narrow_cgroups(cgroup: str, work: Path) -> None:
    """Make a cgroup in every hierarchy and let the node take it for the root.

    Containers have their cgroups below it then, whatever names the runtime gives them. The old root must
    go before the new one comes: runc believes the first mount that it finds. A mount can only be moved
    while nothing is shared.
    """
    work.mkdir()
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    for line in lines:
        left, right = line.split(" - ")
        root, kind = Path(left.split()[4]), right.split()[0]
        if kind in {"cgroup", "cgroup2"} and root.is_relative_to("/sys/fs/cgroup"):
            folder = root
            for part in cgroup.split("/"):
                prepare_children(folder)
                parent, folder = folder, folder / part
                folder.mkdir(exist_ok=True)
                # A cpuset starts empty, and nothing can run in an empty one.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if kind == "cgroup" and (folder / name).exists():
                        (folder / name).write_bytes((parent / name).read_bytes())
            prepare_children(folder)
            mount("--bind", str(folder), str(work))
            subprocess.run(["umount", str(root)], check=True, stdin=subprocess.DEVNULL)
            mount("--move", str(work), str(root))


def prepare_children(folder: Path) -> None:
    """Let children of a cgroup (version 2) have every controller that it has."""
    switch = folder / "cgroup.subtree_control"
    if not switch.exists():
        return
    for controller in (folder / "cgroup.controllers").read_text(encoding="ascii").split():
        # One that the kernel keeps for itself is one that containers do without.
        with contextlib.suppress(OSError):
            switch.write_text(f"+{controller}", encoding="ascii")


def main() -> None:
    """Mount, tell, and wait for children for ever."""
    name, ready, var_lib, cgroup = sys.argv[1:]
    socket.sethostname(name)

    narrow_cgroups(cgroup, Path(var_lib) / "cgroup")
    # Volumes with Bidirectional propagation need a shared root; its peers are in this namespace only.
    mount("--make-rshared", "/")
    mount("--bind", var_lib, "/var/lib")
    for folder in ("/run", "/var/log"):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    for folder in ("/run/netns", "/run/lock"):
        Path(folder).mkdir()
    for number, (path, value) in enumerate(TUNABLES.items()):
        if Path(path).exists():
            stand_in = Path("/run") / f"tunable-{number}"
            stand_in.write_text(f"{value}\n", encoding="ascii")
            mount("--bind", str(stand_in), path)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n", encoding="ascii")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A child that never ends, so that waiting never fails for want of one.
    if os.fork() == 0:
        while True:
            signal.pause()
    Path(ready).write_text("ready\n", encoding="ascii")
    while True:
        os.wait()


if __name__ == "__main__":
    main()
