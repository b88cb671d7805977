"""Which cluster to use: the choice, its reasons and its overrides.

In order: what ``BUBU_TEST_CLUSTER`` names; ``KUBECONFIG`` if it is set (refused if it does not look
like a test cluster, never ignored); kind where a Docker engine answers; else the local control plane.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Protocol

from tests.cluster.build import cached_binaries
from tests.cluster.errors import ClusterError, PrerequisiteError
from tests.cluster.explicit import ExplicitProvider
from tests.cluster.kind import KindProvider, docker_answers
from tests.cluster.local import ClusterOptions, LocalProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cluster.cluster import Cluster

__all__ = ["PROVIDER_VARIABLE", "ClusterProvider", "choose_provider", "start_cluster"]

PROVIDER_VARIABLE = "BUBU_TEST_CLUSTER"


class ClusterProvider(Protocol):
    """A way to get a Kubernetes API server."""

    @property
    def name(self) -> str:
        """``kubeconfig``, ``kind`` or ``local``."""
        ...

    def prepare(self, report: Callable[[str], None] | None = None) -> None:
        """Build or check whatever ``start`` needs, with progress lines for ``report``."""
        ...

    def start(self, options: ClusterOptions | None = None) -> Cluster:
        """Start the cluster and return it once its API server serves."""
        ...


def choose_provider(
    env: Mapping[str, str] | None = None,
    *,
    has_docker: Callable[[], bool] = docker_answers,
    has_go: Callable[[], bool] = lambda: shutil.which("go") is not None,
) -> ClusterProvider:
    """Choose the provider for this machine.

    Args:
        env: the environment; the process's own if absent.
        has_docker: tells whether a Docker engine answers.
        has_go: tells whether Go is installed.

    Raises:
        PrerequisiteError: the machine has neither a Docker engine nor Go nor a built control plane.
        ContextRefusedError: ``KUBECONFIG`` names something that does not look like a test cluster.
        ClusterError: ``BUBU_TEST_CLUSTER`` has an unknown value.
    """
    env = os.environ if env is None else env
    wanted = env.get(PROVIDER_VARIABLE, "")
    if wanted not in {"", "kubeconfig", "kind", "local"}:
        raise ClusterError(f"{PROVIDER_VARIABLE}={wanted} is unknown: use kubeconfig, kind or local.")
    if wanted == "kubeconfig" or (not wanted and env.get("KUBECONFIG")):
        if not env.get("KUBECONFIG"):
            raise ClusterError(f"{PROVIDER_VARIABLE}=kubeconfig, but KUBECONFIG is not set.")
        explicit = ExplicitProvider(env)
        explicit.check()
        return explicit
    if wanted == "kind":
        if not has_docker():
            raise PrerequisiteError(f"{PROVIDER_VARIABLE}=kind needs a Docker engine, and none answers.")
        return KindProvider()
    if not wanted and has_docker():
        return KindProvider()
    if not has_go() and cached_binaries() is None:
        raise PrerequisiteError(
            "A real Kubernetes API server is needed, and this machine has neither Docker (an engine that "
            "answers) nor Go: install Go 1.26 or newer from https://go.dev/dl/, or start Docker, or set "
            "KUBECONFIG to a test cluster."
        )
    return LocalProvider()


def start_cluster(options: ClusterOptions | None = None) -> Cluster:
    """Choose a provider, start a cluster (seconds once everything is built) and return it.

    Use it in a ``with`` block, or call ``stop()``.
    """
    return choose_provider().start(options)
