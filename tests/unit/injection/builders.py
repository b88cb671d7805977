"""Small pods and configs for tests, as plain API objects."""

from __future__ import annotations

from typing import Any

from bubu_operator.injection import InjectionConfig, load_config

Json = dict[str, Any]

S3: Json = {
    "bucket": "flows",
    "endpoint": "https://minio.minio.svc:9000",
    "authentication": {"secretRef": {"name": "minio"}},
}


def config_object(
    name: str = "main", namespace: str = "flows", *, metadata: Json | None = None, **spec: Any
) -> Json:
    """A StorageConfig; on S3 unless the spec says otherwise. Without a namespace, a cluster-wide one."""
    if "s3" not in spec and "file" not in spec:
        spec["s3"] = S3
    place = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "StorageConfig" if namespace else "ClusterStorageConfig",
        "metadata": {"name": name, **place, "uid": f"uid-{name}", "generation": 1, **(metadata or {})},
        "spec": spec,
    }


def config(name: str = "main", namespace: str = "flows", **more: Any) -> InjectionConfig:
    """The same, loaded."""
    return load_config(config_object(name, namespace, **more))


def pod(*containers: Json, **spec: Any) -> Json:
    """A pod with these containers, or one called main."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": list(containers) or [container()], **spec},
    }


def container(name: str = "main", **more: Any) -> Json:
    """A container."""
    return {"name": name, "image": "i", **more}


def env(item: Json, index: int = 0) -> dict[str, Any]:
    """Variables of a pod's container: value, or source."""
    entries = item["spec"]["containers"][index].get("env", [])
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}
