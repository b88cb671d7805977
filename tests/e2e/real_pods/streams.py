"""A steady stream of pods on the cluster under test, and what it met."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.cluster.processes import wait_until
from tests.cluster.webhook_harness import INJECTED, RECORD, Created, PodStream, StreamReport, pod_of

if TYPE_CHECKING:
    from tests.e2e.real_pods.tenants import Tenant

__all__ = ["STRICT", "UNRESTRICTED", "misses", "stream_of", "wait_injected"]

STRICT = {"storage.bubustack.io/strict": "true"}
# The stream's pods say nothing of security contexts, and never run.
UNRESTRICTED = {"pod-security.kubernetes.io/enforce": "privileged"}


def stream_of(tenant: Tenant, per_second: float = 20.0) -> PodStream:
    """Create engram pods of a namespace by server-side dry run, until told to finish."""
    return PodStream(
        tenant.cluster.kubeconfig, tenant.namespace, per_second=per_second, clients=2, complete=is_whole
    )


def is_whole(pod: dict[str, Any]) -> bool:
    """Tell whether a pod has all of its storage."""
    metadata, names = pod["metadata"], {one["name"] for one in pod["spec"]["containers"][0].get("env", [])}
    return (
        metadata.get("labels", {}).get(INJECTED) == "main"
        and RECORD in metadata.get("annotations", {})
        and {"BUBU_STORAGE_PROVIDER", "BUBU_POD_NAMESPACE"} <= names
    )


def misses(report: StreamReport) -> list[Created]:
    """Return the creations that failed or came without storage, by time."""
    missed = [one for one in report.created if one.failure or not one.injected]
    return sorted(missed, key=lambda one: one.at_seconds)


def wait_injected(tenant: Tenant) -> None:
    """Wait until pods of a new namespace are injected: the webhook learns of configs by a watch."""
    pod = json.dumps(pod_of("try", tenant.namespace, {"bubustack.io/engram": "try"}))

    def is_injected() -> bool:
        done = tenant.cluster.kubectl(
            "create", "--dry-run=server", "-o", "json", "-f", "-", input=pod, check=False
        )
        return done.returncode == 0 and is_whole(json.loads(done.stdout))

    wait_until(is_injected, 20, f"pods of {tenant.namespace} to be injected")
