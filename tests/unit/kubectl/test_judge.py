"""What ``check`` makes of the objects that it finds; every bad line has a way out."""

from __future__ import annotations

import base64
import copy
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bubu_operator.api.crds import render_crds
from bubu_operator.controllers.leadership import make_identity
from bubu_operator.injection import inject_pod
from bubu_operator.kubectl.failures import ExitCode
from bubu_operator.kubectl.findings import Finding, Status, exit_code_of
from bubu_operator.kubectl.judge import (
    judge_conditions,
    judge_crds,
    judge_endpoints,
    judge_lease,
    judge_probe,
    judge_strict,
    judge_webhook,
)
from bubu_operator.webhook.configuration import render_webhook_configuration
from tests.unit.injection.builders import config, pod

Json = dict[str, Any]
NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


def worst(findings: list[Finding]) -> Finding:
    """The one that counts; whatever is not well says what to do."""
    assert all(finding.remedy for finding in findings if finding.status is not Status.OK)
    order = [Status.FAIL, Status.WARN, Status.OK]
    return min(findings, key=lambda finding: order.index(finding.status))


def installed() -> dict[str, Json | None]:
    """The CRDs as this version has them, established."""
    crds = [yaml.safe_load(text) for text in render_crds().values()]
    status = {"conditions": [{"type": "Established", "status": "True"}]}
    return {crd["metadata"]["name"]: {**crd, "status": status} for crd in crds}


def test_crds_of_this_version_are_well():
    """One line for all of them."""
    (finding,) = judge_crds(installed())

    assert Status.OK is finding.status


@pytest.mark.parametrize(
    ("damage", "status", "said"),
    [
        ("absent", Status.FAIL, "is not installed"),
        ("older", Status.WARN, "another schema"),
        ("unserved", Status.FAIL, "does not serve v1alpha1"),
        ("not established", Status.FAIL, "is not established"),
    ],
)
def test_a_crd_that_differs_is_named(damage: str, status: Status, said: str):
    """With the command that puts it right."""
    found = installed()
    name = "storageconfigs.storage.bubustack.io"
    crd = copy.deepcopy(found[name])
    assert crd is not None
    version = crd["spec"]["versions"][0]
    if damage == "older":
        del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["timeoutSeconds"]
    elif damage == "unserved":
        version["served"] = False
    else:
        crd["status"] = {}
    found[name] = None if damage == "absent" else crd

    finding = worst(judge_crds(found))

    assert (status, True) == (finding.status, name in finding.text)
    assert said in finding.text
    assert "bubu-operator crds" in finding.remedy


def lease(**spec: Any) -> Json:
    """A Lease that was renewed two seconds ago."""
    return {
        "spec": {
            "holderIdentity": "controller-0",
            "leaseDurationSeconds": 10,
            "renewTime": "2026-06-01T11:59:58.000000Z",
            **spec,
        }
    }


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (lease(), Status.OK, "controller-0 works; it renewed its Lease 2 s ago"),
        (
            lease(holderIdentity=make_identity()),
            Status.OK,
            f"{socket.gethostname()} works; it renewed its Lease 2 s ago",
        ),
        (lease(holderIdentity="my_host_7"), Status.OK, "my_host_7 works"),
        (lease(renewTime="2026-06-01T12:00:03Z"), Status.OK, "0 s ago"),
        (lease(renewTime="2026-06-01T11:58:00Z"), Status.FAIL, "for 120 s"),
        (lease(holderIdentity=""), Status.FAIL, "nobody holds"),
        (lease(renewTime=None), Status.FAIL, "nobody holds"),
        (lease(renewTime="nonsense"), Status.FAIL, "nobody holds"),
        (lease(leaseDurationSeconds="x"), Status.OK, "works"),
        ({}, Status.FAIL, "nobody holds"),
        (None, Status.FAIL, "no controller has ever held"),
    ],
)
def test_the_lease_tells_whether_a_controller_works(found: Json | None, status: Status, said: str):
    """By the server's clock, with some grace; the pod is named, not its process."""
    finding = worst([judge_lease(found, NOW, "bubu-storage-system/bubu-storage-controller")])

    assert status is finding.status
    assert said in finding.text


def authority(days: float) -> str:
    """A certificate, PEM, that is good for so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("days", "status", "said"),
    [
        ([200], Status.OK, "one authority, good until 2026-12-18"),
        ([-1, 200], Status.OK, "2 authorities"),
        ([3], Status.WARN, "expires 2026-06-04"),
        ([-2, -1], Status.FAIL, "every authority in caBundle expired by 2026-05-31"),
        ([], Status.FAIL, "no caBundle"),
    ],
)
def test_the_authorities_of_the_webhook(days: list[float], status: Status, said: str):
    """One that is still good suffices, as during a rotation."""
    bundle = "".join(authority(number) for number in days)

    findings = judge_webhook(render_webhook_configuration(ca_bundle_pem=bundle), "w", NOW)

    assert status is worst(findings).status
    assert any(said in finding.text for finding in findings)


def test_an_odd_webhook_configuration_is_told():
    """Absent, without entries, with a bundle that is none."""
    broken = render_webhook_configuration(ca_bundle_pem="x")
    broken["webhooks"][0]["clientConfig"]["caBundle"] = base64.b64encode(b"no pem").decode()

    assert "there is no MutatingWebhookConfiguration w" in worst(judge_webhook(None, "w", NOW)).text
    assert "has no entries" in worst(judge_webhook({}, "w", NOW)).text
    assert "is no PEM" in worst(judge_webhook(broken, "w", NOW)).text


def slices(*ready: bool | None) -> list[Json]:
    """An EndpointSlice with one address each."""
    return [
        {
            "endpoints": [
                {"addresses": [f"10.0.0.{number}"], "conditions": {"ready": value}}
                for number, value in enumerate(ready)
            ]
        }
    ]


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (slices(True, True), Status.OK, "2 ready"),
        (slices(None, True), Status.OK, "2 ready"),
        (slices(True), Status.WARN, "one ready address"),
        (slices(True, False), Status.WARN, "1 ready, 1 not"),
        (slices(False), Status.FAIL, "no ready address (1 are not ready)"),
        ([], Status.FAIL, "no ready address"),
        ([{"endpoints": None}], Status.FAIL, "no ready address"),
    ],
)
def test_addresses_of_the_webhook(found: list[Json], status: Status, said: str):
    """None is an outage, one is a risk."""
    finding = worst([judge_endpoints(found, "bubu-storage-system/bubu-storage-webhook")])

    assert status is finding.status
    assert said in finding.text


def strict(*names: str) -> list[Json]:
    """Namespaces that refuse pods without storage."""
    return [{"metadata": {"name": name, "labels": {"storage.bubustack.io/strict": "true"}}} for name in names]


def test_strict_namespaces():
    """Their pods depend on the webhook: said when all is well, too."""
    configuration = render_webhook_configuration()
    ignoring = {"webhooks": [{"failurePolicy": "Ignore"}]}

    assert judge_strict([{"metadata": {"name": "plain"}}], configuration, serving=False) is None
    for found, serving, status in (
        (configuration, True, Status.OK),
        (configuration, False, Status.FAIL),
        (ignoring, True, Status.FAIL),
    ):
        finding = judge_strict(strict(*"abcdefg"), found, serving=serving)
        assert finding is not None
        assert status is worst([finding]).status
        assert "a, b, c, d, e and 2 more" in finding.text


def test_the_dry_run():
    """The record on what comes back is the proof."""
    injected = judge_probe(inject_pod(pod(), config()).pod, [], "flows")
    bare = judge_probe(pod(), ["no storage was injected: Ambiguous"], "flows")

    assert Status.OK is injected.status
    assert "StorageConfig flows/main" in injected.text
    assert Status.FAIL is worst([bare]).status
    assert "the webhook says: no storage was injected" in bare.text
    assert Status.FAIL is judge_probe({}, [], "flows").status


def judged(*conditions: tuple[str, str, str], observed: int = 1) -> Json:
    """A config with conditions: type, status, reason."""
    return {
        "metadata": {"name": "main", "namespace": "flows", "generation": 1},
        "status": {
            "observedGeneration": observed,
            "conditions": [
                {"type": type_, "status": status, "reason": reason, "message": "told"}
                for type_, status, reason in conditions
            ],
        },
    }


@pytest.mark.parametrize(
    ("obj", "kind", "status"),
    [
        (judged(("Ready", "True", "ProbeSucceeded")), "StorageConfig", Status.OK),
        (judged(("Ready", "False", "BucketNotFound")), "StorageConfig", Status.FAIL),
        (judged(("Ready", "False", "StorageNotReady")), "RetentionPolicy", Status.WARN),
        (judged(("Ready", "False", "Suspended")), "RetentionPolicy", Status.OK),
        (judged(("Ready", "Unknown", "NotProbed")), "StorageConfig", Status.OK),
        (judged(("Ready", "Unknown", "Whatever")), "StorageConfig", Status.WARN),
        (judged(("Ready", "True", "x"), observed=0), "StorageConfig", Status.WARN),
        (judged(), "StorageConfig", Status.WARN),
        ({"metadata": {"name": "main"}}, "ClusterStorageConfig", Status.WARN),
        (
            judged(("Ready", "True", "x"), ("InjectionDrift", "True", "PodsStale")),
            "StorageConfig",
            Status.WARN,
        ),
        (judged(("Ready", "True", "x"), ("Degraded", "True", "y")), "StorageConfig", Status.WARN),
        (
            judged(("Ready", "True", "x"), ("Reconciled", "False", "PassFailed")),
            "RetentionPolicy",
            Status.WARN,
        ),
    ],
)
def test_conditions_of_configs_and_policies(obj: Json, kind: str, status: Status):
    """What its user wants (suspended), and what nobody can probe, is well."""
    assert status is worst(judge_conditions([obj], kind)).status


def test_objects_that_are_well_share_a_line():
    """The others are named one by one."""
    well, broken = judged(("Ready", "True", "x")), judged(("Ready", "False", "Unreachable"))
    broken["metadata"]["name"] = "broken"

    findings = judge_conditions([broken, well, {**well}], "StorageConfig")

    assert ["2 of 3 are well", "flows/broken is not ready: Unreachable: told"] == [
        finding.text for finding in findings
    ]
    assert "kubectl -n flows describe storageconfig broken" == findings[1].remedy
    assert "there are none" == judge_conditions([], "StorageConfig")[0].text


def test_the_worst_finding_is_the_exit_code():
    """0, 3 for warnings, 1 for failures."""
    lines = {status: Finding("a", status, "t") for status in Status}

    assert ExitCode.OK == exit_code_of([lines[Status.OK]])
    assert ExitCode.PARTIAL == exit_code_of([lines[Status.OK], lines[Status.WARN]])
    assert ExitCode.FAILED == exit_code_of(lines.values())
