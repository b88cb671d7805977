"""Generated pods and configs for property tests: small alphabets, so that things collide."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bubu_operator.injection import InjectionConfig, load_config

Json = dict[str, Any]

ENV_NAMES = st.sampled_from(
    [
        *("BUBU_STORAGE_PROVIDER", "BUBU_STORAGE_S3_BUCKET", "BUBU_STORAGE_PATH", "BUBU_S3_TLS"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "BUBU_S3_SESSION_TOKEN", "AWS_CA_BUNDLE"),
        *("BUBU_STORAGE_TIMEOUT", "BUBU_MAX_INLINE_SIZE", "BUBU_POD_NAMESPACE", "BUBU_STEPRUN_NAMESPACE"),
        *("APP", "PATH"),
    ]
)
ENTRIES = st.one_of(
    st.builds(
        lambda name, value: {"name": name, "value": value}, ENV_NAMES, st.sampled_from(["s3", "x", "$(APP)"])
    ),
    st.builds(
        lambda name, key: {"name": name, "valueFrom": {"secretKeyRef": {"name": "creds", "key": key}}},
        ENV_NAMES,
        st.sampled_from(["AWS_ACCESS_KEY_ID", "k"]),
    ),
    st.builds(lambda name: {"name": name}, ENV_NAMES),
)
VOLUMES = st.lists(
    st.sampled_from(
        [
            {"name": "bubu-storage", "emptyDir": {}},
            {"name": "bubu-storage", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "bubu-storage-ca", "configMap": {"name": "ca"}},
            {"name": "own", "emptyDir": {}},
        ]
    ),
    max_size=3,
    unique_by=lambda volume: volume["name"],
)


def _without_empty(obj: Json) -> Json:
    """Leave out empty lists and maps, as the API server does."""
    return {key: value for key, value in obj.items() if value not in ([], {})}


@st.composite
def pods(draw: st.DrawFn) -> Json:
    """A pod as the API server would send it: mounts refer to volumes, paths are unique in a container."""
    volumes = draw(VOLUMES)
    names = draw(
        st.lists(st.sampled_from(["main", "side", "init", "proxy"]), min_size=1, max_size=3, unique=True)
    )
    containers: list[Json] = []
    for name in names:
        mounts: list[Json] = []
        if volumes:
            mounts = draw(
                st.lists(
                    st.builds(
                        lambda volume, path: {"name": volume["name"], "mountPath": path},
                        st.sampled_from(volumes),
                        st.sampled_from(["/var/run/bubu/storage", "/data", "/var/run/bubu/ca", "/x"]),
                    ),
                    max_size=2,
                    unique_by=lambda mount: mount["mountPath"],
                )
            )
        env = draw(st.lists(ENTRIES, max_size=5))
        containers.append(_without_empty({"name": name, "image": "i", "env": env, "volumeMounts": mounts}))
    split = draw(st.integers(0, len(containers) - 1))
    metadata: Json = _without_empty(
        {
            "name": "p",
            "labels": draw(st.dictionaries(st.sampled_from(["app", "x"]), st.just("v"), max_size=2)),
            "annotations": draw(st.dictionaries(st.sampled_from(["a", "b"]), st.just("v"), max_size=2)),
        }
    )
    spec = _without_empty(
        {"initContainers": containers[:split], "containers": containers[split:], "volumes": volumes}
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _authentication(kind: str) -> Json:
    return {
        "secret": {"secretRef": {"name": "creds"}},
        "keys": {"secretRef": {"name": "creds", "keys": {"accessKeyID": "user", "secretAccessKey": "pass"}}},
        "account": {"serviceAccount": {"name": "runner"}},
        "anonymous": {"anonymous": {}},
    }[kind]


@st.composite
def configs(draw: st.DrawFn) -> InjectionConfig:
    """Any config that the API server accepts, S3 or file."""
    spec: Json
    if draw(st.booleans()):
        s3: Json = {
            "bucket": "flows",
            "authentication": _authentication(
                draw(st.sampled_from(["secret", "keys", "account", "anonymous"]))
            ),
        }
        if draw(st.booleans()):
            s3["endpoint"] = "https://minio:9000"
            if draw(st.booleans()):
                s3["tls"] = {"caBundle": {"configMapRef": {"name": "ca"}}}
        if draw(st.booleans()):
            s3["usePathStyle"] = draw(st.booleans())
        if draw(st.booleans()):
            s3["region"] = "eu-central-1"
        spec = {"s3": s3}
    else:
        spec = {
            "file": draw(
                st.sampled_from(
                    [
                        {"volumeClaimName": "claim"},
                        {"volumeClaimName": "other", "path": "/data"},
                        {"emptyDir": {"sizeLimit": "1Gi"}},
                        {"path": "/data", "emptyDir": {}},
                    ]
                )
            )
        }
    spec["injection"] = {"conflictPolicy": draw(st.sampled_from(["Keep", "Override"]))}
    if draw(st.integers(0, 3)) == 0:
        spec["injection"]["containers"] = draw(st.sampled_from([["main"], ["side", "main"], ["absent"]]))
    return load_config(
        {
            "apiVersion": "storage.bubustack.io/v1alpha1",
            "kind": "StorageConfig",
            "metadata": {
                "name": draw(st.sampled_from(["one", "two"])),
                "namespace": "flows",
                "uid": "u",
                "generation": draw(st.integers(1, 3)),
            },
            "spec": spec,
        }
    )


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.just(0.5), st.text("a~/é", max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("a~/", max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)
