"""The Go programs of a node: containerd, two of pods, and one binary that is kubelet, kube-proxy and CoreDNS.

The last is a module of ours with the same Kubernetes and the same dependencies as the control plane's,
so that Go compiles what they share only once. It is a module apart because a control plane alone, which
most tests want, shall not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.build import (
    KUBERNETES_VERSION,
    Program,
    control_plane_program,
    ensure_binaries,
    ensure_program,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Programs", "ensure_programs"]

_HERE = Path(__file__).parent
_CONTAINERD_VERSION = "v2.4.2"
_CONTAINERD_COMMANDS = ("containerd", "containerd-shim-runc-v2", "ctr")
_AGENTS = ("kubelet", "kube-proxy", "coredns")


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs of a node are.

    Attributes:
        agents: the folder of kubelet, kube-proxy and coredns.
        runtime: the folder of containerd, its shim and ctr.
        pause: the executable of a pod's first process.
        probe: the executable of the tests' own pods.
    """

    agents: Path
    runtime: Path
    pause: Path
    probe: Path


def ensure_programs(report: Callable[[str], None] | None = None) -> Programs:
    """Return the programs, building them first where that is needed; the control plane's as well.

    Raises:
        PrerequisiteError: Go is missing or too old.
        BuildError: Go failed.
    """
    ensure_binaries(report)
    return Programs(
        agents=ensure_program(_agent_program(), report),
        runtime=ensure_program(_containerd_program(), report),
        pause=ensure_program(_small_program("pause", "the first process of pods"), report) / "pause",
        probe=ensure_program(_small_program("probe", "the program of the tests' pods"), report) / "probe",
    )


def _agent_program() -> Program:
    module = _HERE / "agent"
    return Program(
        name="nodeagent",
        title=f"the kubelet of Kubernetes {KUBERNETES_VERSION}",
        version=KUBERNETES_VERSION,
        # The same flags as the control plane's, for what Go has compiled with them.
        go_arguments=tuple(
            word.replace("{out}/controlplane", "{out}/nodeagent")
            for word in control_plane_program().go_arguments
        ),
        inputs=(module / "main.go", module / "go.mod", module / "go.sum"),
        folder=module,
        links=_AGENTS,
    )


def _containerd_program() -> Program:
    source = "github.com/containerd/containerd/v2/cmd"
    return Program(
        name="containerd",
        title=f"containerd {_CONTAINERD_VERSION}",
        version=_CONTAINERD_VERSION,
        go_arguments=(
            *("install", "-v", "-ldflags=-s -w"),
            *(f"{source}/{command}@{_CONTAINERD_VERSION}" for command in _CONTAINERD_COMMANDS),
        ),
    )


def _small_program(name: str, title: str) -> Program:
    """Return the description of a static program without dependencies."""
    module = _HERE / name
    return Program(
        name=name,
        title=title,
        version="1",
        go_arguments=(
            *("build", "-v", "-trimpath", "-buildvcs=false", "-tags=netgo,osusergo", "-ldflags=-s -w"),
            *("-o", f"{{out}}/{name}", "."),
        ),
        inputs=(module / "main.go", module / "go.mod"),
        folder=module,
    )
