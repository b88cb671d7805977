"""Start time and memory of a webhook in a cluster with thousands of StorageConfigs.

The short form has 2,000 of them in ten namespaces; ``BUBU_LONG_TESTS=1`` has 10,000.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bubu_operator.kube.client import KubeClient
from bubu_operator.kube.resources import STORAGE_CONFIGS
from tests.cluster import Cluster, ClusterOptions, PrerequisiteError
from tests.cluster.certs import write_serving_files
from tests.cluster.local import LocalProvider
from tests.cluster.processes import Stopwatch, wait_until
from tests.cluster.webhook_harness import (
    ACCOUNT,
    OPERATOR_NAMESPACE,
    Webhook,
    config_of,
    install_webhook,
    pod_of,
)

pytestmark = pytest.mark.cluster

LONG = os.environ.get("BUBU_LONG_TESTS") == "1"
FIRST_STEP = 1000
CONFIGS = 10_000 if LONG else 2000
NAMESPACES = 10
MEMORY_MIB_AT_1000 = 80.0
MEMORY_KIB_EACH = 16.0
START_SECONDS = 20.0


@pytest.fixture(scope="module")
def crowded() -> Iterator[Cluster]:
    """A control plane of its own: nobody else should have to list all these."""
    try:
        cluster = LocalProvider().start(ClusterOptions(scheduler=False, controller_manager=False))
    except PrerequisiteError as error:
        pytest.skip(str(error))
    with cluster:
        install_webhook(cluster)
        cluster.apply(
            *(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{number}"}}
                for number in range(NAMESPACES)
            )
        )
        yield cluster


def create_configs(cluster: Cluster, first: int, last: int) -> float:
    """Create configs in parallel; returns the seconds that it took."""
    began = time.monotonic()
    with KubeClient.load(str(cluster.kubeconfig)) as client, ThreadPoolExecutor(16) as threads:

        def one(number: int) -> None:
            namespace = f"team-{number % NAMESPACES}"
            config = config_of(f"config-{number}", namespace)
            config["spec"]["s3"]["bucket"] = f"bucket-{number}"
            client.create(STORAGE_CONFIGS, config, namespace)

        list(threads.map(one, range(first, last)))
    return time.monotonic() - began


def test_memory_and_start_with_thousands_of_configs(crowded: Cluster, tmp_path: Path):
    """1,000 configs fit into 80 MiB; each further one costs little, whether listed or watched."""
    files = write_serving_files(tmp_path, ["localhost"], ["127.0.0.1"])
    kubeconfig = crowded.service_account_kubeconfig(OPERATOR_NAMESPACE, ACCOUNT, tmp_path / "kubeconfig")
    took = create_configs(crowded, 0, FIRST_STEP)

    watching = Webhook(crowded, tmp_path, kubeconfig, files, name="watching")
    starting = Webhook(crowded, tmp_path, kubeconfig, files, name="starting")
    try:
        watching.start()
        at_1000_mib = _used(watching, FIRST_STEP - 1)
        took += create_configs(crowded, FIRST_STEP, CONFIGS)
        wait_until(lambda: _knows(watching, CONFIGS - 1), 60, "the last config to arrive by the watch")
        watched_mib = _used(watching, CONFIGS - 1)

        watch = Stopwatch()
        starting.start()
        start_seconds = watch.seconds
        listed_mib = _used(starting, CONFIGS - 1)
    finally:
        watching.stop()
        starting.stop()

    print(f"\n{CONFIGS} configs made in {took:.1f} s; a replica is ready in {start_seconds:.2f} s")
    print(
        f"RSS: {at_1000_mib:.1f} MiB with {FIRST_STEP}; {listed_mib:.1f} MiB with {CONFIGS}, listed;", end=" "
    )
    print(f"{watched_mib:.1f} MiB, watched")
    assert at_1000_mib < MEMORY_MIB_AT_1000
    more_kib = (max(listed_mib, watched_mib) - at_1000_mib) * 1024
    assert more_kib / (CONFIGS - FIRST_STEP) < MEMORY_KIB_EACH
    assert start_seconds < START_SECONDS


def _knows(webhook: Webhook, number: int) -> bool:
    namespace = f"team-{number % NAMESPACES}"
    labels = {"bubustack.io/engram": "x", "storage.bubustack.io/config": f"config-{number}"}
    return webhook.reason(pod_of("p", namespace, labels), namespace) == "Injected"


def _used(webhook: Webhook, number: int) -> float:
    """Memory after some reviews of a pod that gets a config."""
    for _ in range(100):
        assert _knows(webhook, number)
    return webhook.rss_mib
