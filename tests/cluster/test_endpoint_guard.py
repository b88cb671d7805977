"""What tenants write as an endpoint, and what the controller calls, on a real API server."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import ACCOUNT, NAMESPACE, ControllerProcess, condition, install, until

pytestmark = pytest.mark.cluster

PLANTED = "PLANTEDsecretVALUE0123456789"


def _store(namespace: str, name: str, endpoint: str) -> dict[str, Any]:
    return {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "StorageConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "s3": {
                "bucket": "flows",
                "endpoint": endpoint,
                "authentication": {"secretRef": {"name": "keys"}},
            }
        },
    }


def _may_read_keys(namespace: str) -> list[dict[str, Any]]:
    keys = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED000000000", "AWS_SECRET_ACCESS_KEY": PLANTED}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys", "namespace": namespace},
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in keys.items()},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "bubu-storage-secret-reader", "namespace": namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "bubu-storage-secret-reader",
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    ]


def test_this_machine_and_metadata_services_are_not_called(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """Nothing is sent to its own machine without the flag, and to a metadata service never."""
    install(cluster)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        cluster.apply(
            *_may_read_keys(namespace),
            _store(namespace, "own", f"http://localhost:{server.getsockname()[1]}"),
            _store(namespace, "metadata", "http://169.254.169.254"),
            _store(namespace, "wrapped", "http://[::ffff:169.254.169.254]:9000"),
        )

        def refused(name: str) -> Any:
            found = cluster.get("storageconfig", name, "-n", namespace)
            return condition(found).get("reason") == "EndpointNotAllowed" and condition(found)

        with ControllerProcess(cluster, tmp_path, namespaces=[namespace], allow_loopback=False) as controller:
            own, metadata, wrapped = (
                until(lambda name=name: refused(name), f"{name} to be refused")
                for name in ("own", "metadata", "wrapped")
            )
            log = controller.log
        with pytest.raises(TimeoutError):
            server.accept()
    assert "--allow-loopback-endpoints" in own["message"]
    assert "metadata service" in metadata["message"]
    assert "metadata service" in wrapped["message"]
    assert PLANTED not in log
