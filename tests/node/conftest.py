"""What the tests of the nodes share: an image with one small program, and pods of it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from tests.node.images import PROBE_IMAGE, write_image
from tests.node.programs import ensure_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.node.node_cluster import NodeCluster


@pytest.fixture(scope="session")
def probe_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the image of the tests' pods."""
    return write_image(PROBE_IMAGE, ensure_programs().probe, tmp_path_factory.mktemp("image") / "probe.tar")


@pytest.fixture(scope="session")
def loaded_cluster(node_cluster: NodeCluster, probe_archive: Path) -> NodeCluster:
    """The cluster, whose nodes have the image."""
    node_cluster.load_image(probe_archive)
    return node_cluster


@pytest.fixture
def space(loaded_cluster: NodeCluster) -> Iterator[str]:
    """The name of a fresh namespace; deleted afterwards, without waiting."""
    name = loaded_cluster.cluster.create_namespace(f"t-{secrets.token_hex(5)}")
    yield name
    loaded_cluster.cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def run_pod(loaded_cluster: NodeCluster, space: str) -> Callable[..., dict[str, Any]]:
    """Run a pod of the probe, with more of its spec by keyword, and return it once it is ready."""

    def run(name: str, *words: str, node: str = "", **spec: Any) -> dict[str, Any]:
        container = {
            "name": "probe",
            "image": PROBE_IMAGE,
            "imagePullPolicy": "Never",
            "args": list(words),
            "volumeMounts": spec.pop("mounts", []),
        }
        if node:
            spec["nodeName"] = node
        loaded_cluster.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": space, "labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
            }
        )
        loaded_cluster.cluster.kubectl(
            *("wait", "-n", space, f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
        )
        return loaded_cluster.cluster.get("pod", name, "-n", space)

    return run
