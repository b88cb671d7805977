"""SIGKILL, behind Kubernetes' back: of the leading controller, and of each webhook under a stream of pods."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.processes import Stopwatch, wait_until
from tests.e2e.real_pods.release import NAMESPACE, Release
from tests.e2e.real_pods.streams import STRICT, UNRESTRICTED, misses, stream_of, wait_injected
from tests.e2e.real_pods.tenants import Tenant
from tests.node.node_cluster import NodeCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

MakeTenant = Callable[..., Tenant]
FAILOVER_SECONDS = 15.0
MISS_SECONDS = 10.0
"""So long after a kill the API server may call an address where nobody is; a second
or two on a quiet machine."""
ROUNDS = 5 if os.environ.get("BUBU_LONG_TESTS") == "1" else 1


def test_another_controller_leads_soon_after_the_leader_was_killed(
    node: NodeCluster, release: Release, tenant_on: MakeTenant
) -> None:
    """The Lease runs out after ten seconds; the one that stood by takes it and works."""
    tenant = tenant_on("s3")
    tenant.wait_ready()
    holder = release.lease_holder()
    leader = release.leader()
    assert leader
    killed = Stopwatch()
    node.kill_container(leader, namespace=NAMESPACE)

    wait_until(lambda: release.lease_holder() not in {"", holder}, 40, "another holder of the Lease")
    took = killed.seconds
    tenant.cluster.kubectl(
        *("patch", "bsc", "main", "-n", tenant.namespace, "--type=merge"),
        *("-p", '{"spec":{"timeoutSeconds":301}}'),
    )
    generation = tenant.get("bsc", "main")["metadata"]["generation"]
    wait_until(
        lambda: tenant.get("bsc", "main")["status"].get("observedGeneration") == generation,
        30,
        "the new leader to look at a changed config",
    )
    worked = killed.seconds

    print(
        f"\nafter kill -9 of {leader}: {release.leader()} leads after {took:.1f} s, "
        f"works after {worked:.1f} s"
    )
    assert took < FAILOVER_SECONDS


def test_killed_webhooks_cost_a_moment_at_most(
    node: NodeCluster, release: Release, tenant_on: MakeTenant
) -> None:
    """Where a namespace is strict, no pod is created without its storage; elsewhere few, and for a moment.

    The API server goes on calling a dead replica's address until its kubelet has told of it. With
    ``Ignore`` such a pod is created all the same, and the controller finds it; with ``Fail`` its
    creator tries again.
    """
    plain, strict = tenant_on("s3", **UNRESTRICTED), tenant_on("s3", **UNRESTRICTED, **STRICT)
    for tenant in (plain, strict):
        wait_injected(tenant)
    kills: list[float] = []
    watch = Stopwatch()
    with stream_of(plain, 10) as ordinary, stream_of(strict, 10) as guarded:
        ordinary.run_until(2)
        for name in release.pods("webhook") * ROUNDS:
            before = restarts(release, name)
            kills.append(ordinary.elapsed_seconds)
            node.kill_container(name, namespace=NAMESPACE)
            wait_until(lambda n=name, b=before: is_back(release, n, b), 120, f"{name} to be ready again")
            ordinary.run_until(ordinary.elapsed_seconds + 2)
        # What the API server and kubelets take for it is longer where they wait for a CPU.
        miss_seconds = MISS_SECONDS * max(1.0, ordinary.elapsed_seconds / watch.seconds)
        reports = ordinary.finish(), guarded.finish()

    for kind, report in zip(("ordinary", "strict"), reports, strict=True):
        late = [f"{min(one.at_seconds - kill for kill in kills if kill <= one.at_seconds + 1):+.2f}"
                for one in misses(report)]  # fmt: skip
        causes = Counter(one.failure.rpartition(": ")[2][:80] for one in misses(report) if one.failure)
        slow = sum(one.took_seconds > 4 for one in misses(report))
        print(f"{kind}: causes {dict(causes)}, {slow} took over 4 s")
        print(f"\n{kind}: {report}; missed at seconds after a kill: {' '.join(late) or 'none'}")
    assert 0 == reports[1].uninjected
    assert [] == reports[0].failed, "outside strict namespaces no creation fails"
    for report in reports:
        for one in misses(report):
            assert any(kill - 1 <= one.at_seconds <= kill + miss_seconds for kill in kills), one


def restarts(release: Release, pod: str) -> int:
    """Return how often a pod's container was started again."""
    statuses: list[dict[str, Any]] = release.pod(pod)["status"].get("containerStatuses") or [{}]
    return int(statuses[0].get("restartCount", 0))


def is_back(release: Release, pod: str, before: int) -> bool:
    """Tell whether a killed container runs again and is ready."""
    statuses: list[dict[str, Any]] = release.pod(pod)["status"].get("containerStatuses") or [{}]
    (container,) = statuses
    return container.get("restartCount", 0) > before and container.get("ready", False)
