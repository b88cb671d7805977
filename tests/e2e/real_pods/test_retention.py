"""Retention in ``Enforce`` on real stores: what is old goes, what is young stays and can still be read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.processes import wait_until
from tests.e2e.real_pods.tenants import Tenant, condition

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

DAY_SECONDS = 86_400


@pytest.mark.parametrize(
    ("store", "passes_by_jobs"),
    [("s3", False), ("claim", True)],
    ids=["s3-by-the-controller", "claim-by-a-job"],
)
def test_old_data_goes_and_young_data_stays(
    store: str, passes_by_jobs: bool, tenant_on: Callable[..., Tenant]
) -> None:
    """A bucket is cleaned by the controller's own process, a shared volume by a Job that mounts it."""
    tenant = tenant_on(store)
    tenant.wait_ready()
    tenant.run_pod("produce", "old")
    young = tenant.run_pod("produce", "young")
    outputs = f"outputs/{tenant.namespace}"
    old_keys, young_keys = tenant.objects(f"{outputs}/old"), tenant.objects(f"{outputs}/young")
    age(tenant.store / outputs / "old", 40 * DAY_SECONDS)
    jobs: set[str] = set()
    began = time.monotonic()
    tenant.cluster.apply(policy(tenant))

    def is_clean() -> bool:
        found = tenant.cluster.get("jobs", "-n", tenant.namespace)["items"]
        jobs.update(job["metadata"]["name"] for job in found)
        return not tenant.objects(f"{outputs}/old")

    try:
        wait_until(is_clean, 60, f"the old run to go from {store}")
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{tenant.diagnosis()}") from error
    print(f"\n{store}: {len(old_keys)} objects gone {time.monotonic() - began:.1f} s after the policy came")

    def is_reported() -> bool:
        totals = tenant.get("retentionpolicy", "monthly").get("status", {}).get("totals", {})
        return totals.get("deletedObjects", 0) >= len(old_keys)

    wait_until(is_reported, 30, "the policy's status to tell of it")
    assert young_keys
    assert young_keys == tenant.objects(f"{outputs}/young")
    assert young["document"] == tenant.run_pod("consume", json.dumps(young["travelling"]))["document"]
    assert "True" == condition(tenant.get("retentionpolicy", "monthly"), "Ready").get("status")
    assert passes_by_jobs == bool(jobs - {name for name in jobs if "probe" in name})


def age(folder: Path, seconds: float) -> None:
    """Give everything below a folder an older date."""
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def policy(tenant: Tenant) -> dict[str, object]:
    """Thirty days, enforced; of a store with two runs, one is more than the usual share that may go."""
    return {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "RetentionPolicy",
        "metadata": {"name": "monthly", "namespace": tenant.namespace},
        "spec": {
            "storageRef": {"kind": "StorageConfig", "name": "main"},
            "mode": "Enforce",
            "interval": "2s",
            "safety": {"maxDuePercent": 100},
            "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
        },
    }
