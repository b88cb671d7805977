"""From a config to the Job that probes: the same for the same, restricted, with injection's environment."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.probe_job import job_manifest, job_name, place_problem, wants_job
from bubu_operator.injection.config import load_config

ROOT = Path(__file__).parents[3]
S3 = {
    "s3": {
        "bucket": "flows",
        "endpoint": "https://minio.test:9000",
        "authentication": {"serviceAccount": {"name": "runner"}},
        "tls": {"caBundle": {"configMapRef": {"name": "minio-ca", "key": "root.pem"}}},
    }
}
CLAIM = {"file": {"volumeClaimName": "flows-rwx", "path": "/data"}}


def parsed(spec, name="main", uid="u-1", generation=3):
    """Parse a config; return it and its plan."""
    metadata = {"name": name, "namespace": "team-a", "uid": uid, "generation": generation}
    obj = {"kind": "StorageConfig", "metadata": metadata, "spec": spec}
    plan = load_config(obj).plan
    assert plan is not None
    return StorageConfig.model_validate(obj), plan


def manifest(spec=None, **options):
    """Make the Job of a config."""
    config, plan = parsed(spec or S3)
    return job_manifest(config, plan, image="img:1", **options)


def pod(job):
    """Return the spec of the Job's pod."""
    return job["spec"]["template"]["spec"]


def test_it_is_the_same_for_the_same():
    """A controller that starts again finds the Job of the one before."""
    assert manifest() == manifest()


@pytest.mark.parametrize(
    ("change", "image"),
    [({"uid": "u-2"}, "img:1"), ({"generation": 4}, "img:1"), ({"name": "other"}, "img:1"), ({}, "img:2")],
)
def test_another_form_has_another_name(change, image):
    """A recreated object, a changed spec, another image: the old Job's result says nothing about them."""
    assert job_name(*parsed(S3), "img:1") != job_name(*parsed(S3, **change), image)


@pytest.mark.parametrize("name", ["a", "x" * 63, "a.b.c", "x" * 39 + "-" + "y" * 20, "x" * 39 + ".y"])
def test_names_are_valid(name):
    """At most 63 characters, a DNS label: it becomes a label's value and a pod's name."""
    made = job_name(*parsed(S3, name=name), "img:1")

    assert len(made) <= 63
    assert all(part.isalnum() for part in made.split("-") if part)
    assert "--" not in made.replace("bubu-probe-", "")


def test_the_owner_holds_up_nothing():
    """The Job goes with its config, and a config's deletion waits for nothing."""
    (owner,) = manifest()["metadata"]["ownerReferences"]

    assert owner == {
        "apiVersion": "storage.bubustack.io/v1alpha1",
        "kind": "StorageConfig",
        "name": "main",
        "uid": "u-1",
    }


def test_the_environment_is_injections():
    """The very entries, in their order, and no credentials; the authority is mounted as in any pod."""
    config, plan = parsed(S3)
    (container,) = pod(job_manifest(config, plan, image="img:1"))["containers"]

    assert container["env"][: len(plan.env)] == [item.entry for item in plan.env]
    names = {entry["name"] for entry in container["env"]}
    assert not names & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "BUBU_S3_ACCESS_KEY_ID"}
    assert "AWS_CA_BUNDLE" in names
    assert any(mount["mountPath"] == "/var/run/bubu/ca" for mount in container["volumeMounts"])


def test_the_pod_is_restricted_and_has_no_token():
    """It passes the restricted level, and cannot ask the API server anything."""
    spec = pod(manifest())
    (container,) = spec["containers"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == "runner"
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]) == {"requests", "limits"}


def test_it_asks_for_no_user_of_its_own():
    """The image has one by number; clusters with a range of ids for each namespace refuse all others."""
    spec = pod(manifest())
    for context in (spec["securityContext"], *(item["securityContext"] for item in spec["containers"])):
        assert not {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"} & context.keys()
    assert "\nUSER 65532:65532\n" in (ROOT / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize("spec", [S3, CLAIM])
def test_it_runs_where_its_image_can(spec):
    """Nodes of another system are no place for it."""
    assert pod(manifest(spec))["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_it_ends_by_itself():
    """One try, a deadline, and a time to live: nothing is left when the controller is not there."""
    spec = manifest()["spec"]

    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0
    assert pod(manifest())["restartPolicy"] == "Never"


def test_it_opts_out_of_injection():
    """It has its environment already; the namespace's other configs must not be added."""
    assert manifest()["spec"]["template"]["metadata"]["labels"]["storage.bubustack.io/inject"] == "false"


@pytest.mark.parametrize("allow_loopback", [True, False])
def test_arguments(allow_loopback):
    """The loopback flag is handed on; under an account an identity is required."""
    (container,) = pod(manifest(allow_loopback=allow_loopback))["containers"]

    assert ("--allow-loopback-endpoints" in container["args"]) is allow_loopback
    assert "--require-identity" in container["args"]
    assert container["args"][:2] == ["--result", container["terminationMessagePath"]]


@pytest.mark.parametrize("spec", [S3, CLAIM])
def test_the_cluster_is_told_to_the_store(spec):
    """Where the controller knows which it is."""
    config, plan = parsed(spec)
    (container,) = pod(job_manifest(config, plan, image="img:1", cluster_uid="u-1"))["containers"]
    assert container["args"][-2:] == ["--cluster-uid", "u-1"]

    (container,) = pod(job_manifest(config, plan, image="img:1"))["containers"]
    assert "--cluster-uid" not in container["args"]


def test_a_claim_is_mounted():
    """Where the team's pods have it, under the namespace's default account."""
    spec = pod(manifest(CLAIM))
    (container,) = spec["containers"]

    assert {"persistentVolumeClaim": {"claimName": "flows-rwx"}}.items() <= spec["volumes"][0].items()
    assert container["volumeMounts"][0]["mountPath"] == "/data"
    assert "serviceAccountName" not in spec
    assert "fsGroup" not in spec["securityContext"]  # it would change the owner of the team's files


def test_the_plan_is_not_touched():
    """Plans are shared with injection."""
    config, plan = parsed(S3)
    before = copy.deepcopy(plan)

    job_manifest(config, plan, image="img:1")["spec"]["template"]["spec"]["volumes"].clear()

    assert plan == before


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (S3, True),
        (CLAIM, True),
        ({"s3": {"bucket": "flows", "authentication": {"anonymous": {}}}}, False),
        ({"s3": {"bucket": "flows", "authentication": {"secretRef": {"name": "k"}}}}, False),
        ({"file": {"path": "/data"}}, False),
        ({"file": {"emptyDir": {}}}, False),
    ],
)
def test_who_needs_a_job(spec, wanted):
    """Accounts and claims; the controller looks at the rest itself."""
    assert wants_job(parsed(spec)[0]) is wanted


def test_namespaces_that_get_no_job():
    """The cluster's own and the operator's, each with its reason."""
    assert "kube-system" in place_problem("kube-system", "bubu-storage-system")
    assert "operator's own" in place_problem("bubu-storage-system", "bubu-storage-system")
    assert place_problem("team-a", "bubu-storage-system") == ""
