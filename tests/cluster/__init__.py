"""A real Kubernetes API server for tests and for the demo, on any machine.

``start_cluster()`` chooses a provider (an explicit ``KUBECONFIG``, kind, or a local control plane
built from upstream's Go modules), starts it and returns a ``Cluster``. Everything that it started
is stopped by ``Cluster.stop()``, and dies with its starter in any case.

Imports are absolute on purpose: pytest may load this file under a second name, and the classes
must stay the same ones.
"""

from __future__ import annotations

from tests.cluster.build import Binaries, ensure_binaries
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError, KubectlError, PrerequisiteError
from tests.cluster.local import ClusterOptions
from tests.cluster.providers import ClusterProvider, choose_provider, start_cluster

__all__ = [
    "Binaries",
    "Cluster",
    "ClusterError",
    "ClusterOptions",
    "ClusterProvider",
    "KubectlError",
    "PrerequisiteError",
    "choose_provider",
    "ensure_binaries",
    "start_cluster",
]
