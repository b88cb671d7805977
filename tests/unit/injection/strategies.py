"""Generated pods and configs for property tests: small alphabets, so that things collide."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from bubu_operator.injection import InjectionConfig, load_config
from bubu_operator.injection.environment import canonical_json, env_digest, mount_digest, volume_identity
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from bubu_operator.injection.podspec import all_containers

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

TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "main", "a/b~c", "é", "\ud800", "\U0001f600", '"\\', "\0", "\u2028", "BUBU_S3_TLS"]
    ),
    ENV_NAMES,
    st.sampled_from([RECORD_ANNOTATION, INJECTED_LABEL, '{"containers":{', "default", "runner"]),
    st.sampled_from([50_000, 65_000, 65_400, 262_000]).map(lambda size: "x" * size),
)
ODD_VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -0.0, 1e300, 10**30]),
    TEXTS,
    st.builds(list),
    st.builds(dict),
    st.builds(lambda item: [item], st.one_of(st.none(), TEXTS, st.builds(dict), JSON_VALUES)),
    st.builds(lambda name, more: [{"name": name, **more}], TEXTS, st.sampled_from([{}, {"mountPath": "/x"}])),
    st.dictionaries(TEXTS, st.one_of(TEXTS, JSON_VALUES), max_size=3),
    JSON_VALUES,
)
"""What a field may hold that a person with curl writes."""

FIELDS = st.one_of(
    st.sampled_from(["metadata", "labels", "annotations", "spec", "containers", "initContainers", "env"]),
    st.sampled_from(["name", "value", "valueFrom", "volumes", "volumeMounts", "volumeDevices", "mountPath"]),
    st.sampled_from(["serviceAccountName", "ephemeralContainers"]),
    TEXTS,
)


UNCLAIMED = ("APP", "PATH", "BUBU_POD_NAMESPACE", "BUBU_STEPRUN_NAMESPACE")
"""Variables that leave a pod fresh."""


def _objects(value: Any) -> Iterator[Any]:
    """All objects and lists in a document, the outer ones first."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        yield value
        for item in value:
            yield from _objects(item)


@st.composite
def odd_pods(draw: st.DrawFn) -> Json:
    """A pod with some places changed into whatever JSON can say: absent, null, doubled, of another type."""
    pod = copy.deepcopy(draw(pods()))
    if draw(st.integers(0, 3)):
        for container in all_containers(pod):
            container["env"] = [entry for entry in container.get("env", []) if entry["name"] in UNCLAIMED]
        pod["spec"]["serviceAccountName"] = draw(st.sampled_from(["runner", "default"]))
    for _ in range(draw(st.integers(0, 4))):
        places = list(_objects(pod))
        place = places[draw(st.integers(0, len(places) - 1))]
        if isinstance(place, list):
            _change_list(draw, place)
        else:
            _change_object(draw, place)
    return pod


def _change_list(draw: st.DrawFn, place: list[Any]) -> None:
    index = draw(st.integers(0, len(place)))
    how = draw(st.sampled_from(["insert", "double", "drop", "reverse"]))
    if how == "insert":
        place.insert(index, copy.deepcopy(draw(ODD_VALUES)))
    elif how == "reverse":
        place.reverse()
    elif index < len(place):
        place[index : index + 1] = [] if how == "drop" else [place[index], copy.deepcopy(place[index])]


def _change_object(draw: st.DrawFn, place: Json) -> None:
    own = sorted(place)
    field = draw(st.sampled_from(own) if own and draw(st.booleans()) else FIELDS)
    how = draw(st.sampled_from(["set", "set", "null", "drop", "last"]))
    if how == "set":
        place[field] = copy.deepcopy(draw(ODD_VALUES))
    elif how == "null":
        place[field] = None
    elif field in place:
        value = place.pop(field)
        if how == "last":
            place[field] = value


@st.composite
def odd_configs(draw: st.DrawFn) -> InjectionConfig:
    """Of both kinds, with names up to the longest, without volumes."""
    cluster = draw(st.booleans())
    s3: Json = {"bucket": draw(st.sampled_from(["flows", "data"]))}
    s3["authentication"] = _authentication(draw(st.sampled_from(["secret", "account", "anonymous"])))
    spec: Json = {"s3": s3, "injection": {"conflictPolicy": draw(st.sampled_from(["Keep", "Override"]))}}
    if draw(st.booleans()):
        spec["injection"]["containers"] = draw(
            st.lists(st.sampled_from(["main", "side", "init"]), min_size=1, max_size=2, unique=True)
        )
    metadata: Json = {
        "name": draw(st.sampled_from(["one", "b" * 63, "c.d" * 21])),
        "uid": "u",
        "generation": draw(st.integers(1, 2)),
    }
    if not cluster:
        metadata["namespace"] = "flows"
    return load_config(
        {
            "apiVersion": "storage.bubustack.io/v1alpha1",
            "kind": "ClusterStorageConfig" if cluster else "StorageConfig",
            "metadata": metadata,
            "spec": spec,
        }
    )


Mutation = Callable[[Json], Json]
"""What somebody else does to a pod; returns a changed copy."""


def _changed(change: Callable[[Json], object]) -> Mutation:
    def mutate(pod: Json) -> Json:
        result = copy.deepcopy(pod)
        change(result)
        return result

    return mutate


def _of(pod: Json, index: int) -> Json:
    containers = all_containers(pod)
    return containers[index % len(containers)]


def _put(pod: Json, index: int, entry: Json, *, first: bool) -> None:
    container = _of(pod, index)
    env = container.get("env", [])
    container["env"] = [entry, *env] if first else [*env, entry]


def _add_container(pod: Json, entry: Json, *, init: bool) -> None:
    field = "initContainers" if init else "containers"
    added: Json = {"name": "added", "image": "i", "env": [entry]}
    if init:
        added["restartPolicy"] = "Always"
    if all(container["name"] != "added" for container in all_containers(pod)):
        pod["spec"][field] = [*pod["spec"].get(field, []), added]


def _add_volume(pod: Json) -> None:
    volumes = pod["spec"].get("volumes", [])
    if all(volume["name"] != "late" for volume in volumes):
        pod["spec"]["volumes"] = [*volumes, {"name": "late", "emptyDir": {}}]


def _note(pod: Json, field: str) -> None:
    pod["metadata"].setdefault(field, {})["late"] = "v"


ADDITIONS = st.one_of(
    st.builds(
        lambda index, entry, first: _changed(lambda pod: _put(pod, index, entry, first=first)),
        st.integers(0, 3),
        ENTRIES,
        st.booleans(),
    ),
    st.builds(
        lambda entry, init: _changed(lambda pod: _add_container(pod, entry, init=init)),
        ENTRIES,
        st.booleans(),
    ),
    st.just(_changed(_add_volume)),
    st.sampled_from(["labels", "annotations"]).map(
        lambda field: _changed(lambda pod: _note(pod, field)),
    ),
)
"""What another webhook or a user adds; it means the same before our injection and after it."""


def _edit_env(pod: Json, index: int, position: int, how: str) -> None:
    container = _of(pod, index)
    env = container.get("env", [])
    if not env:
        return
    position %= len(env)
    match how:
        case "value":
            env[position] = {"name": env[position]["name"], "value": "edited"}
        case "drop":
            del env[position]
        case "double":
            env.append(copy.deepcopy(env[position]))
        case "front":
            env.insert(0, env.pop(position))
        case _:
            env.reverse()
    if not env:
        del container["env"]


def _edit_record(pod: Json, position: int, text: str | None) -> None:
    annotations = pod["metadata"].get("annotations", {})
    record = annotations.get(RECORD_ANNOTATION)
    if record is None:
        return
    if text is None:
        del annotations[RECORD_ANNOTATION]
    else:
        position %= len(record)
        annotations[RECORD_ANNOTATION] = record[:position] + text + record[position + len(text) :]


def _mount_ours(pod: Json, index: int) -> None:
    """Mount one of our volumes at a place of one's own, as a log shipper may."""
    container = _of(pod, index)
    names = {volume["name"] for volume in pod["spec"].get("volumes", [])}
    mounts = container.get("volumeMounts", [])
    if "bubu-storage" in names and all(mount["mountPath"] != "/peek" for mount in mounts):
        container["volumeMounts"] = [*mounts, {"name": "bubu-storage", "mountPath": "/peek"}]


EDITS = st.one_of(
    st.builds(
        lambda index, position, how: _changed(lambda pod: _edit_env(pod, index, position, how)),
        st.integers(0, 3),
        st.integers(0, 40),
        st.sampled_from(["value", "drop", "double", "front", "reverse"]),
    ),
    st.builds(
        lambda position, text: _changed(lambda pod: _edit_record(pod, position, text)),
        st.integers(0, 2000),
        st.sampled_from([None, "", "x", '"', "}", "0", "[["]),
    ),
    st.integers(0, 3).map(lambda index: _changed(lambda pod: _mount_ours(pod, index))),
)
"""What another webhook or a user does to our own part."""


@st.composite
def forged_records(draw: st.DrawFn, pod: Json) -> str:
    """A well-formed record that claims whatever it likes of a pod's own entries, digests right."""
    containers: Json = {}
    for container in all_containers(pod):
        env = {
            entry["name"]: env_digest(entry)
            for entry in container.get("env", [])
            if draw(st.integers(0, 2)) > 0
        }
        mounts = [mount_digest(mount) for mount in container.get("volumeMounts", []) if draw(st.booleans())]
        replaced = draw(st.lists(st.tuples(st.integers(0, 3), ENTRIES).map(list), max_size=2))
        containers[container["name"]] = {"env": env, "mounts": mounts, "replaced": replaced}
    return canonical_json(
        {
            "v": 1,
            "config": {"kind": "StorageConfig", "namespace": "flows", "name": "one", "generation": 1},
            "hash": "0123456789abcdef",
            "containers": containers,
            "volumes": {volume["name"]: volume_identity(volume) for volume in pod["spec"].get("volumes", [])},
        }
    )
