"""What is written into a pod, what is left alone, and what is said about it."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from bubu_operator.injection import InjectionReason, inject_pod, load_config, remove_injection
from bubu_operator.injection.environment import env_digest, volume_identity
from bubu_operator.injection.inject import label_value
from bubu_operator.injection.names import INJECTED_LABEL, RECORD_ANNOTATION
from tests.unit.injection.builders import S3, config, config_object, container, env, pod

STORE_NAMES = [
    "BUBU_STORAGE_PROVIDER",
    "BUBU_STORAGE_S3_BUCKET",
    "BUBU_STORAGE_S3_ENDPOINT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "BUBU_S3_FORCE_PATH_STYLE",
    "BUBU_STORAGE_TIMEOUT",
    "BUBU_S3_ACCESS_KEY_ID",
    "BUBU_S3_SECRET_ACCESS_KEY",
    "BUBU_S3_SESSION_TOKEN",
    "BUBU_MAX_INLINE_SIZE",
    "BUBU_MAX_RECURSION_DEPTH",
    "BUBU_STORAGE_OUTPUT_PREFIX",
    "BUBU_STORAGE_INPUT_PREFIX",
    "BUBU_POD_NAMESPACE",
]


def test_the_order_is_fixed_and_ours_come_first():
    """ApplyEnv's order, then the additions, then the user's."""
    result = inject_pod(pod(container(env=[{"name": "MINE", "value": "$(BUBU_STORAGE_PROVIDER)"}])), config())

    assert list(env(result.pod)) == [*STORE_NAMES, "MINE"]
    assert result.reason is InjectionReason.INJECTED
    assert result.warnings == ()


def test_credentials_come_under_both_names_with_the_secrets_own_keys():
    """Go reads BUBU_S3_* once an endpoint is set, SDKs read AWS_*; the token is optional in both."""
    keys = {"accessKeyID": "rootUser", "secretAccessKey": "rootPassword", "sessionToken": "tok"}
    s3 = {**S3, "authentication": {"secretRef": {"name": "minio", "keys": keys}}}

    variables = env(inject_pod(pod(), config(s3=s3)).pod)

    for family in ("AWS", "BUBU_S3"):
        assert variables[f"{family}_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "minio", "key": "rootUser"}}
        assert variables[f"{family}_SECRET_ACCESS_KEY"]["secretKeyRef"]["key"] == "rootPassword"
        assert variables[f"{family}_SESSION_TOKEN"]["secretKeyRef"] == {
            "name": "minio",
            "key": "tok",
            "optional": True,
        }


def test_every_setting_of_a_store_is_written():
    """Encryption, part size, retries, timeouts, prefixes and limits, in the forms that readers parse."""
    s3 = {
        **S3,
        "region": "eu-central-1",
        "usePathStyle": False,
        "sse": "aws:kms",
        "sseKmsKeyID": "alias/flows",
        "maxPartSize": 8388608,
        "concurrency": 4,
        "maxAttempts": 7,
        "maxBackoffSeconds": 20,
        "requestTimeoutSeconds": 60,
        "tls": {"caBundle": {"configMapRef": {"name": "minio-ca", "key": "bundle.pem"}}},
    }

    result = inject_pod(
        pod(),
        config(
            s3=s3,
            timeoutSeconds=30,
            maxInlineSize=0,
            maxRecursionDepth=12,
            outputPrefix="o/x",
            inputPrefix="i",
        ),
    ).pod

    values = {
        "BUBU_STORAGE_S3_REGION": "eu-central-1",
        "BUBU_S3_FORCE_PATH_STYLE": "false",
        "BUBU_S3_SSE": "aws:kms",
        "BUBU_S3_SSE_KMS_KEY": "alias/flows",
        "BUBU_S3_MAX_PART_SIZE": "8388608",
        "BUBU_S3_CONCURRENCY": "4",
        "BUBU_S3_MAX_RETRIES": "7",
        "BUBU_S3_MAX_BACKOFF": "20s",
        "BUBU_S3_TIMEOUT": "60s",
        "BUBU_STORAGE_TIMEOUT": "30s",
        "BUBU_MAX_INLINE_SIZE": "0",
        "BUBU_MAX_RECURSION_DEPTH": "12",
        "BUBU_STORAGE_OUTPUT_PREFIX": "o/x",
        "BUBU_STORAGE_INPUT_PREFIX": "i",
        "AWS_CA_BUNDLE": "/var/run/bubu/ca/ca.crt",
    }
    assert {name: env(result)[name] for name in values} == values
    assert result["spec"]["volumes"] == [
        {
            "name": "bubu-storage-ca",
            "configMap": {
                "name": "minio-ca",
                "items": [{"key": "bundle.pem", "path": "ca.crt"}],
                "defaultMode": 420,
            },
        }
    ]
    assert result["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "bubu-storage-ca", "mountPath": "/var/run/bubu/ca", "readOnly": True}
    ]


@pytest.mark.parametrize(
    ("s3", "expected"),
    [
        ({"endpoint": "http://m:9000"}, "true"),
        ({"endpoint": "http://m:9000", "usePathStyle": False}, "false"),
        ({"endpoint": "http://m:9000", "usePathStyle": True}, "true"),
        ({}, None),
        ({"usePathStyle": True}, "true"),
        ({"usePathStyle": False}, None),
    ],
)
def test_path_style_follows_the_endpoint_unless_set(s3: dict[str, Any], expected: str | None):
    """What the readers' default would be is the same as what is written, or it is written."""
    full = {"bucket": "flows", "authentication": {"anonymous": {}}, **s3}

    assert env(inject_pod(pod(), config(s3=full)).pod).get("BUBU_S3_FORCE_PATH_STYLE") == expected


def test_all_kinds_of_containers_or_those_that_are_listed():
    """Init containers and native sidecars too; a list restricts it; a list that matches nothing is said."""
    item = pod(container(), container("side"), initContainers=[container("init", restartPolicy="Always")])

    everywhere = inject_pod(item, config()).pod
    assert all("env" in c for c in everywhere["spec"]["containers"] + everywhere["spec"]["initContainers"])
    some = inject_pod(item, config(injection={"containers": ["side", "init"]})).pod
    assert "env" not in some["spec"]["containers"][0]
    assert "env" in some["spec"]["containers"][1]
    assert "env" in some["spec"]["initContainers"][0]
    none = inject_pod(item, config(injection={"containers": ["other"]}))
    assert (none.pod, none.reason) == (item, InjectionReason.NO_MATCHING_CONTAINER)
    assert "other" in none.warnings[0]


@pytest.mark.parametrize(
    ("variable", "gone", "stays"),
    [
        ("AWS_ACCESS_KEY_ID", "BUBU_S3_SECRET_ACCESS_KEY", "BUBU_STORAGE_S3_BUCKET"),
        ("BUBU_S3_SESSION_TOKEN", "AWS_SECRET_ACCESS_KEY", "BUBU_STORAGE_S3_BUCKET"),
        ("BUBU_STORAGE_S3_REGION", "BUBU_STORAGE_PROVIDER", "AWS_ACCESS_KEY_ID"),
        ("BUBU_S3_TLS", "BUBU_STORAGE_S3_ENDPOINT", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_keep_leaves_a_whole_group_to_the_user(variable: str, gone: str, stays: str):
    """One variable is enough; the other group is injected; the warning names it, not its value."""
    result = inject_pod(pod(container(env=[{"name": variable, "value": "planted-value"}])), config())

    assert env(result.pod)[variable] == "planted-value"
    assert gone not in env(result.pod)
    assert stays in env(result.pod)
    (warning,) = result.warnings
    assert f"({variable})" in warning
    assert "conflictPolicy: Keep" in warning
    assert "planted-value" not in warning


def test_keep_leaves_single_settings_one_by_one():
    """A timeout of the user's says nothing about the rest."""
    result = inject_pod(pod(container(env=[{"name": "BUBU_STORAGE_TIMEOUT", "value": "9s"}])), config())

    assert env(result.pod)["BUBU_STORAGE_TIMEOUT"] == "9s"
    assert env(result.pod)["BUBU_MAX_INLINE_SIZE"] == "1024"
    assert "BUBU_STORAGE_TIMEOUT" in result.warnings[0]


def test_keep_is_silent_where_there_is_nothing_to_disagree_about():
    """A container that already has exactly what the config says, by ApplyEnv for example."""
    full = inject_pod(pod(), config()).pod
    same = pod(container(env=full["spec"]["containers"][0]["env"]))

    result = inject_pod(same, config())

    assert result.warnings == ()
    assert result.reason is InjectionReason.ALL_KEPT
    assert result.pod is same


def test_variables_that_agree_still_get_their_volume():
    """The path alone would be a directory inside the container: data would be lost with it."""
    said = [
        {"name": "BUBU_STORAGE_PROVIDER", "value": "file"},
        {"name": "BUBU_STORAGE_PATH", "value": "/var/run/bubu/storage"},
    ]
    item = pod(container(env=said))

    result = inject_pod(item, config(file={"volumeClaimName": "claim"}))

    assert result.warnings == ()
    assert result.pod["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "bubu-storage", "mountPath": "/var/run/bubu/storage"}
    ]
    assert result.pod["spec"]["containers"][0]["env"][-2:] == said
    assert remove_injection(result.pod).pod == item


def test_override_replaces_groups_whole_and_gives_them_back():
    """The user's endpoint must not meet our bucket; removal restores the very order."""
    theirs = [
        {"name": "A", "value": "1"},
        {"name": "AWS_ACCESS_KEY_ID", "value": "k"},
        {"name": "BUBU_STORAGE_S3_REGION", "value": "mars"},
        {"name": "B", "value": "2"},
        {"name": "AWS_ACCESS_KEY_ID", "value": "later duplicate"},
    ]
    item = pod(container(env=theirs))

    result = inject_pod(item, config(injection={"conflictPolicy": "Override"}))

    assert list(env(result.pod)) == [*STORE_NAMES, "A", "B"]
    assert env(result.pod)["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == "minio"
    assert remove_injection(result.pod).pod == item


def test_a_value_that_was_changed_since_is_the_users():
    """Somebody edits what we wrote: it stays theirs, also when the config goes."""
    injected = inject_pod(pod(), config()).pod
    entries = injected["spec"]["containers"][0]["env"]
    edited = [{**e, "value": "elsewhere"} if e["name"] == "BUBU_STORAGE_S3_BUCKET" else e for e in entries]
    changed = {**injected, "spec": {"containers": [{**injected["spec"]["containers"][0], "env": edited}]}}

    removed = remove_injection(changed).pod
    assert env(removed) == {"BUBU_STORAGE_S3_BUCKET": "elsewhere"}
    again = inject_pod(changed, config())
    assert env(again.pod)["BUBU_STORAGE_S3_BUCKET"] == "elsewhere"
    assert "BUBU_STORAGE_PROVIDER" not in env(again.pod)
    assert "provider and coordinates" in again.warnings[0]


def test_a_variable_that_was_set_again_is_newer_than_the_one_put_aside():
    """The user's new value stays, alone; the one that Override replaced does not come back beside it."""
    old, new = ({"name": "AWS_ACCESS_KEY_ID", "value": value} for value in ("old", "new"))
    injected = inject_pod(pod(container(env=[old])), config(injection={"conflictPolicy": "Override"})).pod
    main = injected["spec"]["containers"][0]
    entries = [new if entry["name"] == "AWS_ACCESS_KEY_ID" else entry for entry in main["env"]]

    removed = remove_injection({**injected, "spec": {"containers": [{**main, "env": entries}]}}).pod

    assert removed["spec"]["containers"][0]["env"] == [new]


def test_a_volume_that_was_changed_since_is_the_users():
    """Another claim under our volume's name: theirs, and used as the store from now on."""
    injected = inject_pod(pod(), config(file={"volumeClaimName": "claim"})).pod
    theirs = {"name": "bubu-storage", "persistentVolumeClaim": {"claimName": "theirs"}}
    changed = {**injected, "spec": {**injected["spec"], "volumes": [theirs]}}

    assert remove_injection(changed).pod["spec"]["volumes"] == [theirs]
    again = inject_pod(changed, config(file={"volumeClaimName": "claim"}))
    assert again.pod["spec"]["volumes"] == [theirs]
    assert "is used as the store" in again.warnings[0]


def test_a_forged_record_removes_no_volume_of_another_name():
    """Only names that injection gives can be taken out."""
    injected = inject_pod(pod(), config(file={"emptyDir": {}})).pod
    text = injected["metadata"]["annotations"][RECORD_ANNOTATION]
    forged = pod(volumes=[{"name": "own", "emptyDir": {}}])
    forged["metadata"]["annotations"] = {
        RECORD_ANNOTATION: text.replace('"bubu-storage":"emptyDir', '"own":"emptyDir')
    }

    assert '"own":"emptyDir' in forged["metadata"]["annotations"][RECORD_ANNOTATION]
    assert remove_injection(forged).pod["spec"]["volumes"] == [{"name": "own", "emptyDir": {}}]


@pytest.mark.parametrize("empty", [None, []])
@pytest.mark.parametrize("place", ["volumes", "initContainers", "env", "volumeMounts"])
def test_empty_fields_of_the_users_are_no_change(place: str, empty: Any):
    """An injected pod that holds them is not written again, and keeps them."""
    item = pod()
    target = item["spec"] if place in ("volumes", "initContainers") else item["spec"]["containers"][0]
    target[place] = empty

    once = inject_pod(item, config())

    assert once.changed
    assert inject_pod(once.pod, config()).pod is once.pod
    assert remove_injection(once.pod).pod in (item, pod())


@pytest.mark.parametrize("entry", [{"value": None, "valueFrom": {}}, {"value": "x", "valueFrom": None}])
def test_a_replaced_variable_with_a_null_comes_back(entry: Any):
    """Otherwise the record that holds it would count as somebody else's."""
    theirs = {"name": "AWS_ACCESS_KEY_ID", **entry}
    override = config(injection={"conflictPolicy": "Override"})

    once = inject_pod(pod(container(env=[theirs])), override)

    assert inject_pod(once.pod, override).reason is InjectionReason.ALREADY_INJECTED
    assert remove_injection(once.pod).pod["spec"]["containers"][0]["env"] == [theirs]


def test_a_copy_of_an_entry_of_ours_is_not_ours():
    """We wrote it once: of two that are equal, one stays."""
    injected = inject_pod(pod(), config()).pod
    twice = copy.deepcopy(injected)
    entries = twice["spec"]["containers"][0]["env"]
    entries.append(copy.deepcopy(entries[0]))

    assert remove_injection(twice).pod["spec"]["containers"][0]["env"] == [entries[0]]


@pytest.mark.parametrize("generation", ["true", "-1", '"1"', "1.5", "null"])
def test_a_record_whose_numbers_are_none_is_ignored(generation: str):
    """It is somebody else's text; nothing is taken out for it."""
    injected = inject_pod(pod(), config()).pod
    text = injected["metadata"]["annotations"][RECORD_ANNOTATION]
    assert '"generation":1,' in text
    changed = text.replace('"generation":1,', f'"generation":{generation},')
    injected = {**injected, "metadata": {"annotations": {RECORD_ANNOTATION: changed}}}

    assert remove_injection(injected).reason is InjectionReason.NOTHING_TO_REMOVE


def test_the_api_servers_defaults_are_not_a_change():
    """Values that the server drops or fills in do not make our entries look like the user's."""
    assert env_digest({"name": "A", "value": ""}) == env_digest({"name": "A"})
    assert env_digest({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}) == env_digest(
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x", "apiVersion": "v1"}}}
    )
    assert volume_identity({"name": "v", "emptyDir": {"sizeLimit": "1024Mi"}}) == volume_identity(
        {"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}
    )
    assert volume_identity({"name": "v"}) == "emptyDir:"


def test_a_switch_of_provider_leaves_nothing_behind():
    """S3 with a certificate authority to file and back: volumes, mounts and variables of the old one go."""
    s3 = config(s3={**S3, "tls": {"caBundle": {"configMapRef": {"name": "ca"}}}})
    file = config(file={"volumeClaimName": "claim"})

    to_file = inject_pod(inject_pod(pod(), s3).pod, file).pod
    assert not [name for name in env(to_file) if name.startswith(("AWS_", "BUBU_S3_", "BUBU_STORAGE_S3_"))]
    assert [volume["name"] for volume in to_file["spec"]["volumes"]] == ["bubu-storage"]
    back = inject_pod(to_file, s3).pod
    assert back == inject_pod(pod(), s3).pod


def test_a_volume_of_the_users_under_our_name_is_used_and_said():
    """ApplyEnv's rule: it is the store; it is neither changed nor owned."""
    volume = {"name": "bubu-storage", "hostPath": {"path": "/mnt"}}
    item = pod(volumes=[volume])

    result = inject_pod(item, config(file={"volumeClaimName": "claim"}))

    assert result.pod["spec"]["volumes"] == [volume]
    assert "hostPath" in result.warnings[0]
    assert remove_injection(result.pod).pod == item


def test_a_path_that_is_taken_leaves_the_store_out_of_that_container():
    """Data must not go into another volume unseen; the API server would refuse two mounts at one path."""
    taken = container(volumeMounts=[{"name": "own", "mountPath": "/data/"}])
    item = pod(taken, container("side"), volumes=[{"name": "own", "emptyDir": {}}])

    result = inject_pod(item, config(file={"volumeClaimName": "claim", "path": "/data"}))

    assert "BUBU_STORAGE_PROVIDER" not in env(result.pod, 0)
    assert "BUBU_STORAGE_PROVIDER" in env(result.pod, 1)
    assert result.pod["spec"]["containers"][0]["volumeMounts"] == taken["volumeMounts"]
    assert "container main: volume own is mounted at /data" in result.warnings[0]


def test_a_device_at_our_path_is_a_clash_too():
    """VolumeDevices share the paths with volumeMounts."""
    item = pod(container(volumeDevices=[{"name": "disk", "devicePath": "/data"}]))

    result = inject_pod(item, config(file={"volumeClaimName": "c", "path": "/data"}))

    assert "device disk" in result.warnings[0]


def test_a_foreign_volume_under_the_authoritys_name_leaves_the_authority_out():
    """AWS_CA_BUNDLE must not point at a file that is not there."""
    item = pod(volumes=[{"name": "bubu-storage-ca", "emptyDir": {}}])

    result = inject_pod(item, config(s3={**S3, "tls": {"caBundle": {"configMapRef": {"name": "ca"}}}}))

    assert "AWS_CA_BUNDLE" not in env(result.pod)
    assert "BUBU_STORAGE_PROVIDER" in env(result.pod)
    assert "rename that volume" in result.warnings[0]


def test_a_volume_that_somebody_else_mounts_is_not_pulled_away():
    """A sidecar that copied our mount keeps the pod valid when the store changes."""
    injected = inject_pod(pod(), config(file={"volumeClaimName": "claim"})).pod
    sidecar = container("late", volumeMounts=[{"name": "bubu-storage", "mountPath": "/copy"}])
    grown = {
        **injected,
        "spec": {**injected["spec"], "containers": [*injected["spec"]["containers"], sidecar]},
    }

    switched = inject_pod(grown, config()).pod

    assert [volume["name"] for volume in switched["spec"]["volumes"]] == ["bubu-storage"]
    assert inject_pod(switched, config()).pod == switched
    assert remove_injection(grown).pod["spec"]["volumes"] == injected["spec"]["volumes"]


@pytest.mark.parametrize("account", [None, "default", "other"])
def test_another_service_account_is_warned_of_and_left_alone(account: str | None):
    """We never change a pod's account; without credentials of ours the pod runs on its own identity."""
    spec = {} if account is None else {"serviceAccountName": account}
    s3 = {**S3, "authentication": {"serviceAccount": {"name": "runner"}}}

    result = inject_pod(pod(**spec), config(s3=s3))

    assert result.pod["spec"].get("serviceAccountName") == account
    assert f"runs under {account or 'default'}" in result.warnings[0]
    assert "AWS_ACCESS_KEY_ID" not in env(result.pod)
    assert inject_pod(pod(serviceAccountName="runner"), config(s3=s3)).warnings == ()


@pytest.mark.parametrize(
    "name",
    ["BUBU_POD_NAMESPACE", "BUBU_STEPRUN_NAMESPACE", "BUBU_TARGET_STORY_NAMESPACE", "BUBU_IMPULSE_NAMESPACE"],
)
def test_the_namespace_is_added_only_where_nobody_says_it(name: str):
    """Ours would be read first and shadow what the workflow engine says; no warning, also with Override."""
    item = pod(container(env=[{"name": name, "value": "theirs"}]))

    for policy in ("Keep", "Override"):
        result = inject_pod(item, config(injection={"conflictPolicy": policy}))
        assert env(result.pod)[name] == "theirs"
        assert name == "BUBU_POD_NAMESPACE" or "BUBU_POD_NAMESPACE" not in env(result.pod)
        assert result.warnings == ()


def test_dollars_are_literal():
    """Kubernetes must not expand a reference in a value of the config's."""
    obj = config_object(file={"path": "/data/$(HOME)", "emptyDir": {}})

    result = inject_pod(pod(), load_config(obj)).pod

    assert env(result)["BUBU_STORAGE_PATH"] == "/data/$$(HOME)"
    assert result["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/data/$(HOME)"


def test_an_empty_dir_passes_its_options_on():
    """Medium and limit; without options ``{}``."""
    full = inject_pod(pod(), config(file={"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})).pod
    assert full["spec"]["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    plain = inject_pod(pod(), config(file={"path": "/data"})).pod
    assert plain["spec"]["volumes"][0]["emptyDir"] == {}


def test_the_mark_names_the_config():
    """Label and annotation: kind, name, namespace, generation, hash; no values of variables."""
    result = inject_pod(pod(), config(metadata={"generation": 7})).pod

    assert result["metadata"]["labels"] == {INJECTED_LABEL: "main"}
    record = json.loads(result["metadata"]["annotations"][RECORD_ANNOTATION])
    assert record["config"] == {
        "kind": "StorageConfig",
        "namespace": "flows",
        "name": "main",
        "generation": 7,
    }
    plan = config().plan
    assert plan is not None
    assert record["hash"] == plan.hash
    shared = inject_pod(pod(), config("s", "", namespaceSelector={})).pod
    assert json.loads(shared["metadata"]["annotations"][RECORD_ANNOTATION])["config"] == {
        "kind": "ClusterStorageConfig",
        "name": "s",
        "generation": 1,
    }


def test_the_hash_changes_with_what_pods_get_and_only_then():
    """Not with the default mark or the roll-out switch; with bucket, policy, containers, account."""

    def hash_of(**spec: Any) -> str:
        plan = config(**spec).plan
        assert plan is not None
        return plan.hash

    base = hash_of()
    assert hash_of(default=True, injection={"rolloutOnChange": True}) == base
    different = {
        hash_of(s3={**S3, "bucket": "other"}),
        hash_of(timeoutSeconds=1),
        hash_of(injection={"conflictPolicy": "Override"}),
        hash_of(injection={"containers": ["main"]}),
        hash_of(s3={**S3, "authentication": {"serviceAccount": {"name": "a"}}}),
        hash_of(s3={**S3, "authentication": {"serviceAccount": {"name": "b"}}}),
    }
    assert len(different | {base}) == 7


def test_long_names_fit_into_the_label():
    """63 characters as they are; longer ones shortened, distinct, and valid."""
    assert label_value("a" * 63) == "a" * 63
    long, other = "a" * 200 + "x", "a" * 200 + "y"
    assert len(label_value(long)) <= 63
    assert label_value(long) != label_value(other)
    for odd in (long, "-.-", "ä" * 80, "", "a" * 53 + "-" * 20):
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", label_value(odd))


def test_a_record_that_does_not_fit_leaves_the_pod_alone():
    """More annotations than the API server takes would make it refuse the pod because of us."""
    item = pod()
    item["metadata"]["annotations"] = {"big": "x" * (256 * 1024 - 400)}

    result = inject_pod(item, config())

    assert (result.pod, result.reason) == (item, InjectionReason.RECORD_TOO_LARGE)
    assert "does not fit" in result.warnings[0]


def test_an_invalid_config_injects_nothing():
    """The reason is the config's problem; the pod is the very same object."""
    item = pod()

    result = inject_pod(item, config(s3={"bucket": "flows"}))

    assert result.pod is item
    assert result.reason is InjectionReason.INVALID_CONFIG
    assert "authentication" in result.warnings[0]


@pytest.mark.parametrize("key", [".", "..", "..x"])
def test_keys_that_the_api_server_refuses_make_the_config_invalid(key: str):
    """Else every pod of the namespace would be refused."""
    keys = {"accessKeyID": key}
    bad = config(s3={**S3, "authentication": {"secretRef": {"name": "minio", "keys": keys}}})
    assert "no valid key" in bad.problem
    bad = config(s3={**S3, "tls": {"caBundle": {"configMapRef": {"name": "ca", "key": key}}}})
    assert "no valid key" in bad.problem


def test_a_status_cannot_spoil_a_config():
    """Whatever another version wrote there."""
    obj = {**config_object(), "status": {"conditions": "garbage"}}

    assert load_config(obj).problem == ""


@pytest.mark.parametrize(
    "obj", [{}, {"kind": "StorageConfig", "metadata": 3, "spec": []}, {"spec": {"s3": 1}}]
)
def test_any_object_loads_as_a_config_with_a_problem(obj: dict[str, Any]):
    """The cache must not lose sight of an object because it is odd."""
    loaded = load_config(obj)

    assert loaded.plan is None
    assert loaded.problem
