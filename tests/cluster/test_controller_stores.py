"""StorageConfigs on a real API server: what is found is what the condition says, whatever is wrong."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bubu_operator.controllers.config_status import QUIET_SECONDS
from tests.cluster.cluster import Cluster
from tests.cluster.controller_harness import (
    ACCOUNT,
    NAMESPACE,
    ControllerProcess,
    condition,
    install,
    until,
)
from tests.s3server.gateway import VersityGateway

pytestmark = pytest.mark.cluster

API = "storage.bubustack.io/v1alpha1"
PLANTED = "PLANTEDsecretVALUE0123456789"


@pytest.fixture(scope="module")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """One controller for the whole module, with a root for local stores and a leaky environment."""
    install(cluster)
    workdir = tmp_path_factory.mktemp("controller")
    root = workdir / "stores"
    root.mkdir()
    leaky = {"AWS_ACCESS_KEY_ID": "AKIACONTROLLERSOWN00", "AWS_SECRET_ACCESS_KEY": "controllers-own-secret"}
    with ControllerProcess(cluster, workdir, roots=[root], environment=leaky) as controller:
        yield controller
        assert "Traceback" not in controller.log
        assert all(isinstance(line, dict) for line in controller.messages)


@pytest.fixture
def allowed(cluster: Cluster, namespace: str) -> str:
    """A namespace whose Secrets the controller may read."""
    cluster.apply(
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
        }
    )
    return namespace


def store(namespace: str, spec: dict[str, Any], name: str = "main") -> dict[str, Any]:
    """Make a StorageConfig."""
    return {
        "apiVersion": API,
        "kind": "StorageConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def s3(bucket: str, endpoint: str, **authentication: Any) -> dict[str, Any]:
    """Make the spec of an S3 store."""
    authentication = authentication or {"secretRef": {"name": "keys"}}
    return {
        "s3": {
            "bucket": bucket,
            "region": "us-east-1",
            "endpoint": endpoint,
            "authentication": authentication,
        }
    }


def secret(namespace: str, access: str, key: str, name: str = "keys") -> dict[str, Any]:
    """Make a Secret with the default keys."""
    data = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {name_: base64.b64encode(value.encode()).decode() for name_, value in data.items()},
    }


def settled(
    cluster: Cluster, namespace: str, reason: str, name: str = "main", seconds: float = 25.0
) -> dict[str, Any]:
    """Wait until Ready has a reason; return the object."""
    last: dict[str, Any] = {}

    def there() -> dict[str, Any] | None:
        nonlocal last
        last = cluster.get("storageconfig", name, "-n", namespace)
        return last if condition(last).get("reason") == reason else None

    try:
        return until(there, "", seconds)
    except AssertionError:
        raise AssertionError(f"Ready never had reason {reason}: {condition(last)}") from None


def events(cluster: Cluster, namespace: str, reason: str) -> list[dict[str, Any]]:
    """Return the events of a namespace with a reason."""
    items = cluster.get("events.events.k8s.io", "-n", namespace)["items"]
    return [item for item in items if item["reason"] == reason]


def probes(folder: Path) -> list[str]:
    """Return the probe objects of a store; one may be under way at any moment."""
    return [name for place, _, names in os.walk(folder) if Path(place).name == "probe" for name in names]


def test_a_local_store_becomes_ready(world: ControllerProcess, cluster: Cluster, namespace: str) -> None:
    """Ready with capabilities and latency; one event; nothing of ours or Kopf's on the user's object."""
    cluster.apply(store(namespace, {"file": {"path": f"{world.root}/{namespace}"}}))

    found = settled(cluster, namespace, "ProbeSucceeded")

    assert condition(found)["status"] == "True"
    assert condition(found, "Reconciled")["status"] == "True"
    assert condition(found, "Degraded")["status"] == "False"
    status = found["status"]
    assert set(status["capabilities"]) >= {"Read", "Write", "List", "Delete"}
    assert status["probeLatencyMilliseconds"] > 0
    assert (status["provider"], status["observedGeneration"]) == ("file", 1)
    assert "finalizers" not in found["metadata"]
    assert not any("kopf" in key for key in found["metadata"].get("annotations", {}))
    until(lambda: events(cluster, namespace, "ProbeSucceeded"), "the event")
    until(lambda: not probes(world.root / namespace), "nothing to be left of a probe")


def test_a_healthy_store_is_not_written_to_at_every_probe(
    world: ControllerProcess, cluster: Cluster, namespace: str
) -> None:
    """Probes every two seconds make neither writes nor events while nothing changes."""
    cluster.apply(store(namespace, {"file": {"path": f"{world.root}/{namespace}"}}))
    before = settled(cluster, namespace, "ProbeSucceeded")
    # Another config that goes through several probes is the clock here: no sleeping.
    path = world.root / f"{namespace}-blocked"
    path.write_text("a file, no directory", encoding="utf-8")
    cluster.apply(store(namespace, {"file": {"path": str(path)}}, "blocked"))
    settled(cluster, namespace, "PathNotWritable", "blocked")
    path.unlink()
    settled(cluster, namespace, "ProbeSucceeded", "blocked")

    now = cluster.get("storageconfig", "main", "-n", namespace)
    if now["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]:
        # That it still is well is written now and then, on a machine on which all this takes a minute.
        first, last = (datetime.fromisoformat(one["status"]["lastProbeTime"]) for one in (before, now))
        assert (last - first).total_seconds() >= QUIET_SECONDS - 1

    def told() -> list[str]:
        return sorted(event["regarding"]["name"] for event in events(cluster, namespace, "ProbeSucceeded"))

    # An event follows the status that it is about, so the last one may still be on its way.
    until(lambda: "blocked" in told(), "the event of the other config")
    assert told() == ["blocked", "main"]


@pytest.mark.s3
def test_an_s3_store_becomes_ready_and_gets_well_again(
    world: ControllerProcess, cluster: Cluster, allowed: str, s3_server: VersityGateway, bucket: str
) -> None:
    """Real requests with the Secret's keys; wrong keys and a missing bucket have reasons of their own."""
    cluster.apply(
        secret(allowed, s3_server.access_key, s3_server.secret_key),
        store(allowed, s3(bucket, s3_server.endpoint)),
    )
    found = settled(cluster, allowed, "ProbeSucceeded")
    assert condition(found, "SecretsPresent")["status"] == "True"
    assert "BulkDelete" in found["status"]["capabilities"]
    assert found["status"]["bucket"] == bucket

    cluster.apply(secret(allowed, s3_server.access_key, PLANTED))
    found = settled(cluster, allowed, "Unauthenticated")
    assert condition(found)["status"] == "False"
    assert "capabilities" not in found["status"]

    cluster.apply(secret(allowed, s3_server.access_key, s3_server.secret_key))
    settled(cluster, allowed, "ProbeSucceeded")
    assert len(until(lambda: events(cluster, allowed, "Unauthenticated"), "the warning")) == 1
    until(lambda: not probes(s3_server.path_of(bucket, ".bubu")), "nothing to be left of a probe")

    cluster.apply(store(allowed, s3("no-such-bucket-here", s3_server.endpoint)))
    found = settled(cluster, allowed, "BucketNotFound")
    assert "no-such-bucket-here" in condition(found)["message"]
    assert found["status"]["observedGeneration"] == 2


@pytest.mark.s3
def test_a_wrong_region_is_not_ready(
    world: ControllerProcess, cluster: Cluster, allowed: str, s3_server: VersityGateway, bucket: str
) -> None:
    """The SDK corrects it for most requests but not for HEAD, so that pods would fail now and then."""
    spec = s3(bucket, s3_server.endpoint)
    spec["s3"]["region"] = "eu-central-1"
    cluster.apply(secret(allowed, s3_server.access_key, s3_server.secret_key), store(allowed, spec))
    found = settled(cluster, allowed, "StoreError")
    assert condition(found)["status"] == "False"
    assert "check region and endpoint" in condition(found)["message"]
    until(lambda: not probes(s3_server.path_of(bucket, ".bubu")), "nothing to be left of a probe")

    cluster.apply(store(allowed, s3(bucket, s3_server.endpoint)))
    settled(cluster, allowed, "ProbeSucceeded")


@pytest.mark.s3
def test_an_anonymous_store_never_gets_the_controllers_identity(
    world: ControllerProcess, cluster: Cluster, namespace: str, s3_server: VersityGateway, bucket: str
) -> None:
    """Unsigned requests are refused by the server, although the controller has keys in its environment."""
    cluster.apply(store(namespace, s3(bucket, s3_server.endpoint, anonymous={})))

    found = until(
        lambda: (item := cluster.get("storageconfig", "main", "-n", namespace)) and condition(item) and item,
        "a condition",
    )

    assert condition(found)["status"] == "False"
    assert condition(found)["reason"] in {"PermissionDenied", "Unauthenticated"}
    assert "AKIACONTROLLERSOWN00" not in world.log


@pytest.mark.parametrize("behaviour", ["silent", "closed", "babbling"])
def test_an_endpoint_in_trouble(
    world: ControllerProcess, cluster: Cluster, allowed: str, behaviour: str
) -> None:
    """Hanging, refusing and nonsense each have their reason within seconds; others are not held up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.1)
        stop = threading.Event()
        held: list[socket.socket] = []

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                held.append(connection)
                if behaviour == "babbling":
                    connection.sendall(b"220 mail.example.com ready\r\n")

        thread = threading.Thread(target=accept, daemon=True)
        if behaviour == "closed":
            server.close()
        else:
            thread.start()
        try:
            cluster.apply(
                secret(allowed, "AKIAPLANTED000000000", PLANTED),
                store(allowed, s3("flows", f"http://127.0.0.1:{port}")),
            )
            expected = {"silent": "Timeout", "closed": "Unreachable", "babbling": "Unreachable"}[behaviour]
            found = settled(cluster, allowed, expected)
            # While it hangs, another store is looked at as fast as ever.
            cluster.apply(store(allowed, {"file": {"path": f"{world.root}/{allowed}"}}, "other"))
            settled(cluster, allowed, "ProbeSucceeded", "other", seconds=5)
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()
            for connection in held:
                connection.close()
    message = condition(found)["message"]
    assert "flows" in message
    assert PLANTED not in message


def test_a_missing_secret(world: ControllerProcess, cluster: Cluster, allowed: str) -> None:
    """Named in the condition; created, the store is looked at again by itself."""
    cluster.apply(store(allowed, s3("flows", "http://127.0.0.1:9")))

    found = settled(cluster, allowed, "SecretNotFound")

    assert f"Secret {allowed}/keys does not exist" in condition(found)["message"]
    assert condition(found, "SecretsPresent")["status"] == "False"
    assert condition(found, "Reconciled")["status"] == "False"

    lacking = secret(allowed, "a", "b")
    del lacking["data"]["AWS_SECRET_ACCESS_KEY"]
    cluster.apply(lacking)
    found = settled(cluster, allowed, "SecretKeyMissing")
    assert "key AWS_SECRET_ACCESS_KEY" in condition(found)["message"]
    assert "it has: AWS_ACCESS_KEY_ID" in condition(found)["message"]

    cluster.apply(secret(allowed, "AKIAPLANTED000000000", PLANTED + "\n"))
    found = settled(cluster, allowed, "Unauthenticated")
    assert "white space" in condition(found)["message"]


def test_a_secret_that_may_not_be_read(world: ControllerProcess, cluster: Cluster, namespace: str) -> None:
    """Without the RoleBinding the message is the very command that makes it; run, it works."""
    cluster.apply(
        secret(namespace, "AKIAPLANTED000000000", PLANTED),
        store(namespace, s3("flows", "http://127.0.0.1:9")),
    )
    found = settled(cluster, namespace, "SecretForbidden")
    _, _, command = condition(found)["message"].partition("kubectl ")

    cluster.kubectl(*command.split())

    settled(cluster, namespace, "Unreachable")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/bubu", ("PathNotAllowed", "--allow-local-root")),
        ("{root}/link/x", ("PathNotAllowed", "symbolic link")),
        ("{root}/file/x", ("PathNotWritable", "not a directory")),
        ("{root}-not", ("PathNotAllowed", "--allow-local-root")),
    ],
)
def test_paths_that_cannot_be_stores(
    world: ControllerProcess, cluster: Cluster, namespace: str, path: str, expected: tuple[str, str]
) -> None:
    """Outside the roots, through a link, below a file: each says what it is."""
    reason, words = expected
    (world.root / "file").write_text("x", encoding="utf-8")
    if not (world.root / "link").is_symlink():
        (world.root / "link").symlink_to("/tmp")
    cluster.apply(store(namespace, {"file": {"path": path.format(root=world.root)}}))

    found = settled(cluster, namespace, reason)

    assert condition(found)["status"] == "False"
    assert words in condition(found)["message"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"file": {"emptyDir": {}}}, ("True", "EmptyDir")),
        ({"file": {"volumeClaimName": "rwx"}}, ("Unknown", "NotProbed")),
        (s3("flows", "http://127.0.0.1:9", serviceAccount={"name": "runner"}), ("Unknown", "NoCredentials")),
    ],
)
def test_stores_that_the_controller_cannot_reach(
    world: ControllerProcess, cluster: Cluster, namespace: str, spec: Any, expected: tuple[str, str]
) -> None:
    """They are not broken: pods may use them, and the condition says why nothing was tried."""
    status, reason = expected
    cluster.apply(store(namespace, spec))

    found = settled(cluster, namespace, reason)

    assert condition(found)["status"] == status
    assert condition(found, "Reconciled")["status"] == "True"
    assert (condition(found, "NotShared").get("status") == "True") == (reason == "EmptyDir")


def test_a_cluster_wide_store(world: ControllerProcess, cluster: Cluster, allowed: str) -> None:
    """Its Secret is read where it names it for the controller, and nowhere else."""
    name = f"shared-{allowed}"
    spec = s3("flows", "http://127.0.0.1:9", secretRef={"name": "keys"})
    document: dict[str, Any] = {
        "apiVersion": API,
        "kind": "ClusterStorageConfig",
        "metadata": {"name": name},
        "spec": spec | {"namespaceSelector": {}},
    }

    def ready(reason: str) -> dict[str, Any]:
        return until(
            lambda: (
                (item := condition(cluster.get("clusterstorageconfig", name))).get("reason") == reason
                and item
            ),
            reason,
        )

    cluster.apply(document)
    try:
        assert ready("NoCredentials")["status"] == "Unknown"
        cluster.apply(secret(allowed, "AKIAPLANTED000000000", PLANTED))
        document["spec"]["s3"]["authentication"]["secretRef"]["controllerNamespace"] = allowed
        cluster.apply(document)
        assert ready("Unreachable")["status"] == "False"
    finally:
        cluster.kubectl("delete", "clusterstorageconfig", name, "--wait=true", "--timeout=60s")


def test_nothing_planted_has_leaked(world: ControllerProcess, cluster: Cluster, allowed: str) -> None:
    """Statuses, events and logs of the whole cluster hold no value of any Secret."""
    cluster.apply(
        secret(allowed, "AKIAPLANTED000000000", PLANTED), store(allowed, s3("flows", "http://127.0.0.1:9"))
    )
    settled(cluster, allowed, "Unreachable")

    for kind in ("storageconfigs", "clusterstorageconfigs", "events.events.k8s.io"):
        text = cluster.kubectl("get", kind, "-A", "-o", "json").stdout
        assert PLANTED not in text
        assert "AKIAPLANTED" not in text
    assert PLANTED not in world.log
    assert "AKIAPLANTED" not in world.log
    assert "controllers-own-secret" not in world.log


@pytest.mark.parametrize(
    ("verb", "resource", "allowed_"),
    [
        ("list", "secrets", False),
        ("watch", "secrets", False),
        ("get", "secrets", False),
        ("get", "configmaps", False),
        ("create", "pods", False),
        ("delete", "deployments.apps", False),
        ("create", "deployments.apps", False),
        ("patch", "deployments.apps", True),
        ("patch", "storageconfigs.storage.bubustack.io", False),
        ("delete", "retentionpolicies.storage.bubustack.io", False),
        ("patch", "retentionpolicies.storage.bubustack.io/status", True),
        ("create", "events.events.k8s.io", True),
        ("list", "events.events.k8s.io", False),
        ("get", "namespaces", True),
        # Healing: which pods lack their storage.
        ("list", "namespaces", True),
        ("list", "pods", True),
        ("get", "replicasets.apps", True),
        ("list", "nodes", False),
    ],
)
def test_rights_are_the_least(
    world: ControllerProcess, cluster: Cluster, verb: str, resource: str, allowed_: bool
) -> None:
    """What the shipped RBAC grants, asked of the API server with the controller's own token."""
    resource, _, subresource = resource.partition("/")
    done = cluster.kubectl(
        "auth", "can-i", verb, resource, "--all-namespaces",
        *((f"--subresource={subresource}",) if subresource else ()),
        kubeconfig=world.kubeconfig, check=False,
    )  # fmt: skip

    assert done.stdout.strip() == ("yes" if allowed_ else "no")
