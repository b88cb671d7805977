"""From ``helm install`` to data in a store: what a newcomer does in the first minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.processes import Stopwatch, wait_until
from tests.e2e.real_pods.conftest import Installed
from tests.e2e.real_pods.release import Release
from tests.e2e.real_pods.tenants import Tenant, pod_template

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

MakeTenant = Callable[..., Tenant]
STORES = ("s3", "claim")
INJECT = "storage.bubustack.io/inject"
SITE_PACKAGES = "/opt/bubu-storage/lib/"


def test_a_first_pod_is_injected_soon_after_helm_install(installed: Installed, tenant_on: MakeTenant) -> None:
    """``helm install --wait``, a config, a pod: two minutes are enough, and most of it is Kubernetes."""
    watch = Stopwatch()
    tenant = tenant_on("s3")
    answer = tenant.run_pod("produce", "first")
    took = installed.seconds + watch.seconds

    print(f"\nhelm install --wait {installed.seconds:.1f} s; install to the first pod's data {took:.1f} s")
    assert answer["library"].startswith(SITE_PACKAGES)
    assert took < 120


def test_helm_test_passes(release: Release) -> None:
    """``helm test`` asks both roles, and the webhook at the address that the API server uses."""
    out = release.test()

    assert "Phase:          Succeeded" in out
    assert "ok: engrams.storage.bubustack.io" in out


@pytest.mark.parametrize("store", STORES)
def test_pods_of_every_kind_move_data(store: str, tenant_on: MakeTenant) -> None:
    """Pod, Job, CronJob and Deployment read and write through injection alone, in a restricted namespace.

    Data over 5 MiB included: a document of 3 MB and a binary of 7 MiB, written by one pod, read by others.
    """
    tenant = tenant_on(store)
    print(f"\n{store}: Ready after {tenant.wait_ready():.1f} s")
    written = tenant.run_pod("produce", "run-1")
    travelling = json.dumps(written["travelling"])

    assert {"s3": "s3", "claim": "file"}[store] == written["provider"]
    assert len(travelling) < 2_000, "what travels on is small"
    prefix = f"outputs/{tenant.namespace}/run-1/"
    assert f"{prefix}scan.bin" in tenant.objects()
    assert 7 * 1024 * 1024 == (tenant.store / prefix / "scan.bin").stat().st_size

    assert written["document"] == tenant.run_job("consume", travelling)["document"]
    assert written["document"] == run_cron_job(tenant, travelling)["document"]
    assert written["document"] == run_deployment(tenant, travelling)["document"]


def test_a_label_on_the_namespace_is_enough(tenant_on: MakeTenant) -> None:
    """In a namespace that asks for it, a pod without any label of ours gets its storage."""
    tenant = tenant_on("s3", **{INJECT: "true"})

    answer = tenant.run_pod("produce", "run-1", labels={"app": "plain"})

    assert "produce" == answer["done"]
    assert answer["uid"] == 65532


def run_cron_job(tenant: Tenant, travelling: str) -> dict[str, Any]:
    """Run a CronJob's template, which the controller has injected, once."""
    template = pod_template(tenant.image, ("consume", travelling), {"app": "nightly"})
    template["spec"]["restartPolicy"] = "Never"
    tenant.cluster.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "nightly", "namespace": tenant.namespace, "labels": {INJECT: "true"}},
            "spec": {
                "schedule": "0 4 1 1 *",
                "jobTemplate": {"spec": {"backoffLimit": 0, "template": template}},
            },
        }
    )

    def is_injected() -> bool:
        job = tenant.get("cronjob", "nightly")["spec"]["jobTemplate"]
        return "env" in job["spec"]["template"]["spec"]["containers"][0]

    wait_until(is_injected, 30, "the controller to write the CronJob's template")
    return tenant.run_job(name="nightly-now", arguments=["--from=cronjob/nightly"])


def run_deployment(tenant: Tenant, travelling: str) -> dict[str, Any]:
    """Run a Deployment whose template the controller has injected; return what its pod said."""
    template = pod_template(tenant.image, ("consume", travelling), {"app": "service"})
    command = template["spec"]["containers"][0]["command"]
    command[2] += "\n    import time; time.sleep(3600)\n"
    tenant.cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "service", "namespace": tenant.namespace, "labels": {INJECT: "true"}},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "service"}},
                "template": template,
            },
        }
    )

    def has_answered() -> bool:
        pods = tenant.cluster.get("pods", "-n", tenant.namespace, "-l", "app=service")["items"]
        for pod in pods:
            if "env" not in pod["spec"]["containers"][0] or pod["status"].get("phase") != "Running":
                continue
            words = ("logs", pod["metadata"]["name"], "-n", tenant.namespace)
            if '"done"' in tenant.cluster.kubectl(*words, check=False).stdout:
                names.append(f"pod/{pod['metadata']['name']}")
        return bool(names)

    names: list[str] = []
    wait_until(has_answered, 60, "the Deployment's injected pod to answer")
    return tenant.answer(names[0])
