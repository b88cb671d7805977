"""The CRDs on a real API server: what it accepts, refuses, fills in, explains and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from bubu_operator.api.v1alpha1 import (
    API_VERSION,
    GROUP,
    KINDS,
    Condition,
    CycleSample,
    CycleSummary,
    LastPass,
    OrphanCount,
    OwnersStatus,
    ReasonCount,
    ResolvedStorage,
    Resource,
    RetentionCursor,
    RetentionPolicyStatus,
    RetentionTotals,
    SharingCluster,
    StorageConfig,
    StorageConfigStatus,
    StoreClaim,
)
from bubu_operator.api.v1alpha1.retention_owners import ENDED_PHASES
from tests.cluster.crd_table import CASES, CRDS, REPOSITORY, CrdCase, install_crds

if TYPE_CHECKING:
    from tests.cluster import Cluster

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((REPOSITORY / "docs" / "examples").glob("*.yaml"))
MODELS: dict[str, type[Resource]] = {kind.KIND: kind for kind in KINDS}


@pytest.fixture(scope="module")
def crds(cluster: Cluster) -> Cluster:
    """The cluster with our CRDs, established."""
    install_crds(cluster)
    return cluster


def make(kind: str, name: str, spec: dict[str, Any]) -> str:
    """An object as JSON text."""
    return json.dumps({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})


S3: dict[str, Any] = {"bucket": "flows", "authentication": {"secretRef": {"name": "minio"}}}
RULES: list[dict[str, Any]] = [{"prefix": "outputs/", "keep": {"within": "30d"}}]
SMALLEST: dict[str, dict[str, Any]] = {
    "StorageConfig": {"s3": S3},
    "ClusterStorageConfig": {"s3": S3},
    "RetentionPolicy": {"rules": RULES},
    "ClusterRetentionPolicy": {"rules": RULES, "storageRef": {"name": "shared"}},
}


def test_crds_apply_again_unchanged(crds: Cluster):
    """``kubectl apply -f crds/`` is idempotent: the server stores what the files say."""
    lines = crds.kubectl("apply", "-f", CRDS).stdout.splitlines()

    assert [line.rsplit(" ", 1)[1] for line in lines] == ["unchanged"] * len(KINDS)


def test_crds_are_structural_and_established(crds: Cluster):
    """The server finds nothing to complain about in the schemas."""
    for kind in KINDS:
        conditions = crds.get("crd", f"{kind.PLURAL}.{GROUP}")["status"]["conditions"]

        assert {c["type"]: c["status"] for c in conditions} == {
            "NamesAccepted": "True",
            "Established": "True",
        }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table_of_objects(crds: Cluster, case: CrdCase):
    """``kubectl apply`` accepts or refuses each object of the table, and says why."""
    done = crds.kubectl(
        "apply",
        "--namespace=default",
        "--dry-run=server",
        "-f",
        "-",
        input=json.dumps(case.body),
        check=False,
    )

    if case.refused:
        assert done.returncode != 0, done.stdout
        assert case.refused.lower() in done.stderr.lower()
    else:
        assert done.returncode == 0, done.stderr


def test_a_missing_provider_is_said_in_one_clear_line(crds: Cluster):
    """What a person reads at ``kubectl apply``, whole."""
    done = crds.kubectl(
        "apply", "--namespace=default", "-f", "-", input=make("StorageConfig", "empty", {}), check=False
    )

    assert done.stderr.strip() == (
        'The StorageConfig "empty" is invalid: spec: Invalid value: set exactly one of s3 and file'
    )


def test_lenient_clients_cannot_lose_a_keep_rule_in_silence(crds: Cluster, namespace: str):
    """Whatever a keep may say is in the schema: a client that does not validate stores it, too."""
    keep = {"within": "1d", "lastRuns": 5}
    policy = make("RetentionPolicy", "counting", {"rules": [{"prefix": "o/", "keep": keep}]})

    crds.kubectl("create", "-n", namespace, "--validate=false", "-f", "-", input=policy)

    assert crds.get("brp", "counting", "-n", namespace)["spec"]["rules"][0]["keep"] == keep


def test_a_keep_that_keeps_nothing_is_refused_from_lenient_clients(crds: Cluster):
    """A misspelt field is pruned for them, and what is left would delete everything."""
    policy = make("RetentionPolicy", "misspelt", {"rules": [{"prefix": "o/", "keep": {"lastRun": 5}}]})

    done = crds.kubectl(
        "create", "--namespace=default", "--validate=false", "-f", "-", input=policy, check=False
    )

    assert done.returncode != 0
    assert "spec.rules[0].keep: Required value: keep says nothing to keep" in done.stderr


# --- examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_apply(crds: Cluster, namespace: str, path: Path):
    """Every example is accepted as it stands, and again unchanged."""
    documents = [
        cast("dict[str, Any]", item) for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    try:
        crds.kubectl("apply", "--namespace", namespace, "-f", path)
        again = crds.kubectl("apply", "--namespace", namespace, "-f", path).stdout.splitlines()

        # kubectl calls a Secret with stringData "configured" every time.
        assert [line for line in again if not line.endswith(" unchanged") and "secret/" not in line] == []
        for document in documents:
            if document["apiVersion"] == API_VERSION:
                model = MODELS[str(document["kind"])]
                stored = crds.get(model.PLURAL, str(document["metadata"]["name"]), "--namespace", namespace)
                model.model_validate(stored)
    finally:
        crds.kubectl("delete", "--namespace", namespace, "--wait=false", "--ignore-not-found", "-f", path)


def test_examples_show_every_available_field():
    """Every field of a spec that can be set appears in an example, by the name that people must write."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in EXAMPLES)
    names: set[str] = set()
    for path in CRDS.glob("*.yaml"):
        version = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"][0]
        names |= field_names(version["schema"]["openAPIV3Schema"]["properties"]["spec"])

    assert {name for name in names if f"{name}:" not in texts} == set()


def field_names(schema: dict[str, Any]) -> set[str]:
    """All names of fields in a schema."""
    properties = cast("dict[str, dict[str, Any]]", schema.get("properties", {}))
    children = [
        *properties.values(),
        *(schema[key] for key in ("items", "additionalProperties") if key in schema),
    ]
    return set(properties).union(*(field_names(child) for child in children))


# --- defaults and updates ----------------------------------------------------------------------


def test_defaults_appear_in_a_stored_config(crds: Cluster, namespace: str):
    """What was left out is in the stored object: people see what applies."""
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("StorageConfig", "main", {"s3": S3}))

    assert crds.get("bsc", "main", "-n", namespace)["spec"] == {
        "s3": {
            "bucket": "flows",
            "authentication": {
                "secretRef": {
                    "name": "minio",
                    "keys": {
                        "accessKeyID": "AWS_ACCESS_KEY_ID",
                        "secretAccessKey": "AWS_SECRET_ACCESS_KEY",
                        "sessionToken": "AWS_SESSION_TOKEN",
                    },
                }
            },
        },
        "timeoutSeconds": 300,
        "maxInlineSize": 1024,
        "maxRecursionDepth": 10,
        "outputPrefix": "outputs",
        "inputPrefix": "inputs",
        "default": False,
        "injection": {"conflictPolicy": "Keep", "rolloutOnChange": False},
    }


def test_defaults_appear_in_a_stored_policy(crds: Cluster, namespace: str):
    """A policy is DryRun and bounded unless it says otherwise."""
    spec = {"rules": RULES, "storageRef": {"name": "main"}, "limits": {"maxDelete": 7}}
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("RetentionPolicy", "monthly", spec))

    assert crds.get("brp", "monthly", "-n", namespace)["spec"] == {
        "storageRef": {"kind": "StorageConfig", "name": "main"},
        "mode": "DryRun",
        "interval": "2m",
        "limits": {"maxScan": 2000, "maxDelete": 7, "budgetSeconds": 60, "requestsPerSecond": 0},
        "safety": {"minAge": "24h", "maxDuePercent": 50},
        "rules": RULES,
        "orphans": {"action": "Report", "grace": "24h"},
        "suspend": False,
    }


def test_defaults_appear_in_a_stored_cluster_policy(crds: Cluster):
    """As in a policy of a namespace; the kind of its store is the only one there is."""
    name = "defaults-of-a-cluster-policy"
    spec = SMALLEST["ClusterRetentionPolicy"] | {
        "owners": [{"group": "batch", "version": "v1", "kind": "Job"}]
    }
    crds.kubectl("create", "-f", "-", input=make("ClusterRetentionPolicy", name, spec))
    try:
        stored = crds.get("cbrp", name)["spec"]
    finally:
        crds.kubectl("delete", "cbrp", name, "--wait=false")

    assert stored["storageRef"] == {"kind": "ClusterStorageConfig", "name": "shared"}
    assert stored["mode"] == "DryRun"
    assert stored["safety"] == {"minAge": "24h", "maxDuePercent": 50}
    assert stored["orphans"] == {"action": "Report", "grace": "24h"}
    assert stored["owners"][0]["phasePath"] == "status.phase"
    assert stored["owners"][0]["endedPhases"] == list(ENDED_PHASES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_server_and_models_fill_in_the_same_defaults(crds: Cluster, namespace: str, kind: type[Resource]):
    """Parsing an object as its author wrote it equals parsing it as the server stored it."""
    written = make(kind.KIND, "defaults", SMALLEST[kind.KIND])
    created = crds.kubectl(
        "create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-", input=written
    ).stdout

    stored: Any = kind.model_validate_json(created)
    parsed: Any = kind.model_validate_json(written)

    assert stored.spec == parsed.spec


STORE_A, STORE_B = {"kind": "StorageConfig", "name": "a"}, {"kind": "StorageConfig", "name": "b"}
OTHER_KIND = {"kind": "ClusterStorageConfig", "name": "a"}


@pytest.mark.parametrize(
    ("before", "after"),
    [(STORE_A, STORE_B), (STORE_A, OTHER_KIND), (STORE_A, None), (None, STORE_A)],
    ids=["name", "kind", "removed", "set later"],
)
def test_storage_ref_is_immutable(
    crds: Cluster, namespace: str, before: dict[str, str] | None, after: dict[str, str] | None
):
    """A policy stays with its store: the reference is neither changed, removed nor set afterwards."""

    def policy(reference: dict[str, str] | None) -> str:
        return make(
            "RetentionPolicy", "fixed", {"rules": RULES} | ({"storageRef": reference} if reference else {})
        )

    crds.kubectl("create", "-n", namespace, "-f", "-", input=policy(before))
    done = crds.kubectl("replace", "-n", namespace, "-f", "-", input=policy(after), check=False)

    assert done.returncode != 0
    assert (
        "spec.storageRef: Forbidden: storageRef cannot be set, changed or removed after creation"
        in done.stderr
    )


def test_the_store_of_a_cluster_policy_is_immutable(crds: Cluster):
    """The same for the kind that must have one."""
    name, spec = "fixed-cluster-policy", SMALLEST["ClusterRetentionPolicy"]
    crds.kubectl("create", "-f", "-", input=make("ClusterRetentionPolicy", name, spec))
    try:
        other = make("ClusterRetentionPolicy", name, spec | {"storageRef": {"name": "another"}})
        done = crds.kubectl("replace", "-f", "-", input=other, check=False)
    finally:
        crds.kubectl("delete", "cbrp", name, "--wait=false")

    assert done.returncode != 0
    assert "spec.storageRef: Forbidden: storageRef cannot be set, changed or removed" in done.stderr


@pytest.mark.parametrize("reference", [STORE_A, None], ids=["with storageRef", "without"])
def test_everything_else_of_a_policy_can_change(
    crds: Cluster, namespace: str, reference: dict[str, str] | None
):
    """Mode, limits and rules are edited in place."""
    spec: dict[str, Any] = {"rules": RULES} | ({"storageRef": reference} if reference else {})
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("RetentionPolicy", "edited", spec))
    spec |= {
        "mode": "Enforce",
        "limits": {"maxScan": 5},
        "rules": [{"prefix": "inputs/", "keep": {"lastRuns": 3}}],
        "safety": {"maxDuePercent": 90},
        "orphans": {"action": "Delete"},
        "owners": [{"group": "batch", "version": "v1", "kind": "Job"}],
    }
    crds.kubectl("apply", "-n", namespace, "-f", "-", input=make("RetentionPolicy", "edited", spec))

    assert crds.get("brp", "edited", "-n", namespace)["spec"]["mode"] == "Enforce"


def test_a_config_may_switch_its_provider(crds: Cluster, namespace: str):
    """S3 to file in one step; both at once for a moment is refused."""
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("StorageConfig", "main", {"s3": S3}))
    file: dict[str, Any] = {"file": {"volumeClaimName": "flows"}}

    def patch(spec: dict[str, Any], *, check: bool) -> str:
        body = json.dumps({"spec": spec})
        return crds.kubectl(
            "patch", "bsc", "main", "-n", namespace, "--type=merge", "-p", body, check=check
        ).stderr

    message = patch(file, check=False)
    patch({**file, "s3": None}, check=True)

    assert "set exactly one of s3 and file" in message
    assert "s3" not in crds.get("bsc", "main", "-n", namespace)["spec"]


# --- what people see ---------------------------------------------------------------------------


def columns(cluster: Cluster, plural: str, namespace: str) -> list[str]:
    """The header that kubectl prints."""
    return cluster.kubectl("get", plural, "-n", namespace).stdout.splitlines()[0].split()


def set_status(cluster: Cluster, plural: str, name: str, namespace: str, status: dict[str, Any]) -> None:
    """Write a status as the operator does, through the subresource; unknown fields are an error."""
    cluster.kubectl(
        "patch",
        plural,
        name,
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )


NOW = "2026-11-21T06:00:00Z"
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "ProbeSucceeded",
    "message": "fine",
    "lastTransitionTime": NOW,
    "observedGeneration": 1,
}


def test_columns_and_status_of_a_config(crds: Cluster, namespace: str):
    """A full status is stored field by field, and ``kubectl get bsc`` shows the columns of the design."""
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("StorageConfig", "main", {"s3": S3}))
    status = StorageConfigStatus(
        observed_generation=1,
        conditions=(Condition.model_validate(READY),),
        provider="s3",
        bucket="flows",
        store_identity="s3://minio/flows",
        last_probe_time=Condition.model_validate(READY).last_transition_time,
        probe_latency_milliseconds=12,
        capabilities=("Read", "Write"),
        injected_pods=3,
    )

    set_status(crds, "bsc", "main", namespace, status.to_api())

    assert crds.get("bsc", "main", "-n", namespace)["status"] == status.to_api()
    assert columns(crds, "bsc", namespace) == [
        "NAME", "READY", "REASON", "PROVIDER", "BUCKET", "DEFAULT", "PODS", "LAST-PROBE", "AGE",
    ]  # fmt: skip
    row = crds.kubectl("get", "bsc", "-n", namespace, "--no-headers").stdout.split()
    assert row[:7] == ["main", "True", "ProbeSucceeded", "s3", "flows", "false", "3"]


def test_columns_and_status_of_a_policy(crds: Cluster, namespace: str):
    """A full status is stored field by field, and ``kubectl get brp`` shows the columns of the design."""
    crds.kubectl(
        "create", "-n", namespace, "-f", "-", input=make("RetentionPolicy", "monthly", {"rules": RULES})
    )
    when = Condition.model_validate(READY).last_transition_time
    cursor = RetentionCursor.model_validate(
        {
            "fingerprint": "0123456789abcdef",
            "after": "outputs/t/run-1/x.json",
            "run": {
                "prefix": "outputs/t/run-2/",
                "phase": "Scanning",
                "position": "outputs/t/run-2/a.json",
                "newest": None,
                "objects": 3,
                "bytes": 4,
                "undated": 1,
                "reserved": 2,
            },
            "cycle": {"decided": 3, "due": 2, "dueBytes": 1, "digest": "a" * 64},
            "cycleStartTime": NOW,
            "covered": "abcdef",
        }
    )
    summary = CycleSummary(
        fingerprint="f",
        start_time=when,
        complete_time=when,
        decided_objects=2,
        due_objects=1,
        due_bytes=3,
        due_percent=50,
        plan_hash="p",
        covered="abcdef",
    )
    status = RetentionPolicyStatus(
        observed_generation=1,
        conditions=(Condition.model_validate({**READY, "reason": "PassSucceeded"}),),
        storage=ResolvedStorage(kind="StorageConfig", name="main"),
        last_pass=LastPass(
            start_time=when,
            finish_time=when,
            mode="DryRun",
            scanned=9,
            due=4,
            by_reason={"KeptWithin": ReasonCount(objects=5, bytes=6)},
            stopped_by="EndOfCycle",
            complete_cycle=True,
            error_samples=("k: TransientError: m",),
        ),
        next_pass_time=when,
        cursor=cursor,
        dry_run_cursor=cursor,
        totals=RetentionTotals(passes=1, deleted_objects=17, deleted_bytes=18),
        oldest_overdue_seconds=60,
        oldest_overdue_since=when,
        last_run_now="1",
        rehearsal=summary,
        cycle=summary,
        plan_hash="0123456789abcdef",
        approved_plan="0123456789abcdef",
        owners=OwnersStatus(
            observed_time=when,
            live=1,
            existing=2,
            kinds=("StoryRun.v1alpha1.runs.bubustack.io",),
            problem="p",
            reason="LiveCountDropped",
            problem_hash="h",
            problem_token="t",  # no secret
        ),
        orphans=OrphanCount(objects=1, bytes=2),
        claim=StoreClaim(holder="c", ours=True, expire_time=when, observed_time=when),
        shared_with=(SharingCluster(cluster="c", last_seen_time=when),),
        estimated_cycle_seconds=9,
        recent_cycles=(CycleSample(complete_time=when, seconds=1, decided_objects=2, due_objects=1),),
    )
    assert status.model_fields_set == set(RetentionPolicyStatus.model_fields), "something is not shown here"

    set_status(crds, "brp", "monthly", namespace, status.to_api())

    stored = crds.get("brp", "monthly", "-n", namespace)["status"]
    assert RetentionPolicyStatus.model_validate(stored).to_api() == status.to_api()
    assert columns(crds, "brp", namespace) == [
        "NAME", "MODE", "READY", "REASON", "LAST", "NEXT", "DUE", "DELETED", "OLDEST-OVERDUE", "AGE",
    ]  # fmt: skip
    row = crds.kubectl("get", "brp", "-n", namespace, "--no-headers").stdout.split()
    assert row[:4] == ["monthly", "DryRun", "True", "PassSucceeded"]
    assert row[5:8] == [NOW, "4", "17"]


def test_columns_of_a_cluster_policy(crds: Cluster):
    """The same columns as a policy of a namespace."""
    name = "columns-of-a-cluster-policy"
    spec = SMALLEST["ClusterRetentionPolicy"]
    crds.kubectl("create", "-f", "-", input=make("ClusterRetentionPolicy", name, spec))
    try:
        assert columns(crds, "cbrp", "default") == [
            "NAME", "MODE", "READY", "REASON", "LAST", "NEXT", "DUE", "DELETED", "OLDEST-OVERDUE", "AGE",
        ]  # fmt: skip
    finally:
        crds.kubectl("delete", "cbrp", name, "--wait=false")


def test_columns_of_a_cluster_config(crds: Cluster):
    """A cluster-wide config has the columns of a config but DEFAULT, which it does not have."""
    name = "columns-of-a-cluster-config"
    crds.kubectl("create", "-f", "-", input=make("ClusterStorageConfig", name, {"s3": S3}))
    try:
        assert columns(crds, "cbsc", "default") == [
            "NAME", "READY", "REASON", "PROVIDER", "BUCKET", "PODS", "LAST-PROBE", "AGE",
        ]  # fmt: skip
    finally:
        crds.kubectl("delete", "cbsc", name, "--wait=false")


def test_spec_updates_do_not_touch_the_status(crds: Cluster, namespace: str):
    """The status is a subresource: a user who applies a spec cannot write it."""
    body = json.loads(make("StorageConfig", "main", {"s3": S3})) | {"status": {"provider": "file"}}

    crds.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(body))

    assert "status" not in crds.get("bsc", "main", "-n", namespace)


@pytest.mark.parametrize("category", ["bubu", "storage"])
def test_kinds_are_found_by_category(crds: Cluster, namespace: str, category: str):
    """``kubectl get bubu`` shows what there is."""
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("StorageConfig", "main", {"s3": S3}))
    crds.kubectl(
        "create", "-n", namespace, "-f", "-", input=make("RetentionPolicy", "monthly", {"rules": RULES})
    )

    found = crds.kubectl("get", category, "-n", namespace, "-o", "name").stdout.split()

    assert {f"storageconfig.{GROUP}/main", f"retentionpolicy.{GROUP}/monthly"} <= set(found)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("bsc", "Describes the object store that the pods of this namespace use."),
        ("bsc.spec.s3.authentication.secretRef", "An access key in a Secret of this namespace."),
        ("cbsc.spec.namespaceSelector", "Absent: none. Empty ({}): all."),
        ("brp.spec.rules.keep.within", "Keep runs whose newest object is at most this old"),
        ("brp.spec.rules.keep.lastRuns", "Keep the newest runs of each story, this many"),
        ("cbrp.spec.storageRef", "ClusterStorageConfig of the store to clean"),
        ("brp.status.planHash", "Of what the last complete dry cycle found due."),
        ("brp.status.lastPass.byReason", "Objects and bytes for each reason of a decision."),
    ],
)
def test_kubectl_explain(crds: Cluster, field: str, text: str):
    """The descriptions reach people through ``kubectl explain``."""
    explained = " ".join(crds.kubectl("explain", field).stdout.split())

    assert text in explained


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_kubectl_explains_every_field(crds: Cluster, kind: type[Resource]):
    """No field is left without a description."""
    explained = crds.kubectl("explain", kind.PLURAL, "--output=plaintext-openapiv2", "--recursive").stdout

    assert explained
    assert "<no description>" not in explained


def test_the_table_is_large_enough():
    """The table keeps its promise: at least sixty objects, and every kind is both accepted and refused."""
    assert len(CASES) >= 60
    for kind in KINDS:
        assert {bool(case.refused) for case in CASES if case.kind == kind.KIND} == {True, False}


def test_the_models_read_what_the_server_sends(crds: Cluster, namespace: str):
    """A stored object, with all that the server adds, parses; the key names it in messages."""
    crds.kubectl("create", "-n", namespace, "-f", "-", input=make("StorageConfig", "main", {"s3": S3}))

    parsed = StorageConfig.model_validate(crds.get("bsc", "main", "-n", namespace))

    assert parsed.key == f"{namespace}/main"
    assert parsed.metadata.generation == 1
    assert parsed.status == StorageConfigStatus()
