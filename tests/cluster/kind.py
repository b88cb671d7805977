"""Provider ``kind``: a cluster in containers, where a Docker engine answers.

kind itself is taken from PATH, or built by Go into the cache. The cluster has a random name, its own
kubeconfig (the user's is never touched), and is deleted as a whole.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.cluster.build import Program, ensure_program
from tests.cluster.errors import ClusterError, PrerequisiteError, StartError
from tests.cluster.explicit import cluster_from_kubeconfig, find_kubectl
from tests.cluster.local import ClusterOptions
from tests.cluster.processes import tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.cluster import Cluster

__all__ = ["KindProvider", "delete_kind_cluster", "docker_answers"]

_DOCKER_SECONDS = 5.0
_CREATE_SECONDS = 600.0
_VERSION = "v0.33.0"
_PROGRAM = Program(
    name="kind",
    title=f"kind {_VERSION}",
    version=_VERSION,
    go_arguments=("install", "-v", f"sigs.k8s.io/kind@{_VERSION}"),
)


def docker_answers() -> bool:
    """Tell whether there is a Docker client and its engine answers quickly."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run(
            [docker, "info", "--format", "{{.ServerVersion}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DOCKER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    # Some clients end with 0 although the engine is away; only a version proves that it answered.
    return done.returncode == 0 and bool(done.stdout.strip())


@dataclass(slots=True)
class KindProvider:
    """Creates and deletes kind clusters.

    Attributes:
        on_name: told the cluster's name before it is created, so that a starter that is killed
            half-way leaves a record of what to delete.
    """

    on_name: Callable[[str], None] | None = None
    name: str = field(default="kind", init=False)

    def prepare(self, report: Callable[[str], None] | None = None) -> None:
        """Make sure of kind and of a kubectl."""
        find_kind(report)
        find_kubectl(report)

    def start(self, options: ClusterOptions | None = None) -> Cluster:
        """Create a cluster and return it once its node is ready.

        Raises:
            PrerequisiteError: kind is missing and cannot be built.
            StartError: kind could not create the cluster; the end of its log says why.
        """
        options = options or ClusterOptions()
        kind, kubectl = find_kind(), find_kubectl()
        workdir = options.workdir or Path(tempfile.mkdtemp(prefix="bubu-cluster-"))
        name = f"bubu-test-{secrets.token_hex(3)}"
        log = workdir / "logs" / "kind.log"
        env = {**os.environ, "KUBECONFIG": str(workdir / "kind-kubeconfig")}

        def delete(keep_logs: bool) -> None:
            if keep_logs:
                kept = workdir.with_name(f"{workdir.name}-logs")
                _run(kind, ["export", "logs", str(kept), "--name", name], log)
                print(f"logs kept in {kept}")
            delete_kind_cluster(name)

        try:
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.on_name is not None:
                self.on_name(name)
            _create(kind, name, env["KUBECONFIG"], log)
            cluster = cluster_from_kubeconfig(
                provider=self.name,
                name=f"kind-{name}",
                env=env,
                kubectl=kubectl,
                callback_host=_bridge_address(),
                workdir=workdir,
                before_cleanup=delete,
            )
        except BaseException:
            delete_kind_cluster(name)
            shutil.rmtree(workdir, ignore_errors=True)
            raise
        if not options.detached:
            atexit.register(cluster.stop)
        return cluster


def delete_kind_cluster(name: str) -> None:
    """Delete a kind cluster; one that does not exist is fine.

    Raises:
        ClusterError: kind could not delete it.
    """
    done = subprocess.run(
        [str(find_kind()), "delete", "cluster", "--name", name, "--kubeconfig", os.devnull],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"kind could not delete the cluster {name}: {done.stderr.strip()}")


def find_kind(report: Callable[[str], None] | None = None) -> Path:
    """Return kind from PATH, or build it.

    Raises:
        PrerequisiteError: it is not installed and there is no Go to build it.
    """
    installed = shutil.which("kind")
    if installed is not None:
        return Path(installed)
    try:
        return ensure_program(_PROGRAM, report) / "kind"
    except PrerequisiteError as error:
        raise PrerequisiteError(
            "A Docker engine answers, but kind is not on PATH and cannot be built without Go 1.26 or newer: "
            "install kind (https://kind.sigs.k8s.io) or Go (https://go.dev/dl/)."
        ) from error


def _create(kind: Path, name: str, kubeconfig: str, log: Path) -> None:
    code = _run(
        kind, ["create", "cluster", "--name", name, "--kubeconfig", kubeconfig, "--wait", "180s"], log
    )
    if code != 0:
        raise StartError(
            f"kind could not create a cluster (exit code {code}); set BUBU_TEST_CLUSTER=local to "
            f"use a control plane built from source instead. Its output ends:\n{tail(log)}"
        )


def _run(kind: Path, arguments: list[str], log: Path) -> int:
    with log.open("ab") as out:
        try:
            return subprocess.run(
                [str(kind), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=_CREATE_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            out.write(b"given up after %d s\n" % _CREATE_SECONDS)
            return 124


def _bridge_address() -> str | None:
    """Return this machine's address on kind's network, where the API server can call back."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(
            ["docker", "network", "inspect", "kind"],
            capture_output=True,
            text=True,
            timeout=_DOCKER_SECONDS,
            check=True,
        )
        networks = cast("list[dict[str, Any]]", json.loads(done.stdout))
        configs = cast("list[dict[str, Any]]", networks[0].get("IPAM", {}).get("Config") or [])
        for entry in configs:
            gateway = str(entry.get("Gateway") or "")
            if "." in gateway:
                return gateway
    return None
