"""From findings to conditions: every outcome has its reason, and quiet stays quiet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig, StorageConfigStatus
from bubu_operator.controllers.bounded import CallTimeoutError
from bubu_operator.controllers.config_status import (
    Probed,
    Verdict,
    config_status,
    is_stale,
    judge,
    only_wording,
)
from bubu_operator.controllers.store_access import Refusal, StoreAccess, bucket_text, store_identity
from bubu_operator.kube.conditions import ConditionStatus, find_condition
from bubu_storage.backend.probe import Capability, ProbeReport
from bubu_storage.errors import (
    BucketNotFoundError,
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from bubu_storage.settings import FileSettings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACCESS = StoreAccess(FileSettings("/x"), names_secrets=False)
GOOD = Probed(ProbeReport(0.001, (Capability.READ, Capability.WRITE), 0.0), 0.0123)


def config(**spec):
    """Parse a StorageConfig."""
    return StorageConfig.model_validate(
        {"metadata": {"name": "main", "namespace": "team-a", "generation": 3}, "spec": spec}
    )


def s3(**fields):
    """Parse an S3 config."""
    return config(s3={"bucket": "flows", "authentication": {"anonymous": {}}, **fields})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BucketNotFoundError("x"), Reason.BUCKET_NOT_FOUND),
        (UnauthenticatedError("x"), Reason.UNAUTHENTICATED),
        (PermissionDeniedError("x"), Reason.PERMISSION_DENIED),
        (ThrottledError("x"), Reason.THROTTLED),
        (StorageTimeoutError("x"), Reason.TIMEOUT),
        (CallTimeoutError("x"), Reason.TIMEOUT),
        (UnavailableError("x"), Reason.UNREACHABLE),
        (StorageError("x"), Reason.STORE_ERROR),
        (OSError("x"), Reason.STORE_ERROR),
    ],
)
def test_every_error_of_a_store_has_its_reason(error, reason):
    """The reason is decided by type; Reconciled says that the operator did its work."""
    verdict = judge(ACCESS, error, is_file=False, names=True)

    assert (verdict.ready, verdict.reason, verdict.reconciled) == (ConditionStatus.FALSE, reason, True)
    assert verdict.secrets is True


@pytest.mark.parametrize("error", [PermissionDeniedError("x"), OSError("x"), BucketNotFoundError("x")])
def test_a_directory_has_one_way_to_fail(error):
    """For a path the user's question is whether it can be written to."""
    assert judge(ACCESS, error, is_file=True, names=False).reason is Reason.PATH_NOT_WRITABLE


@pytest.mark.parametrize(
    ("refusal", "ready", "reconciled"),
    [
        (Refusal(Reason.SECRET_NOT_FOUND, "m", about_secrets=True), ConditionStatus.FALSE, False),
        (Refusal(Reason.PATH_NOT_ALLOWED, "m"), ConditionStatus.FALSE, True),
        (Refusal(Reason.NO_CREDENTIALS, "m", usable=True), ConditionStatus.UNKNOWN, True),
        (Refusal(Reason.NOT_PROBED, "m", usable=True), ConditionStatus.UNKNOWN, True),
        (Refusal(Reason.EMPTY_DIR, "m", usable=True), ConditionStatus.TRUE, True),
    ],
)
def test_refusals(refusal, ready, reconciled):
    """What the controller cannot look at is not thereby broken for pods."""
    verdict = judge(refusal, None, is_file=False, names=False)

    assert (verdict.ready, verdict.reason, verdict.reconciled) == (ready, refusal.reason, reconciled)
    assert verdict.not_shared is (refusal.reason is Reason.EMPTY_DIR)


def test_a_whole_status_fits_the_model():
    """What is written is what the CRD declares."""
    verdict = judge(ACCESS, GOOD, is_file=False, names=True)

    status = config_status({}, s3(), verdict, generation=3, now=NOW)

    parsed = StorageConfigStatus.model_validate(status)
    assert parsed.to_api().keys() == status.keys()
    assert (parsed.provider, parsed.bucket, parsed.observed_generation) == ("s3", "flows", 3)
    assert parsed.probe_latency_milliseconds == 12
    assert parsed.capabilities == ("Read", "Write")
    assert {item.type for item in parsed.conditions} == {
        "Ready",
        "Reconciled",
        "Degraded",
        "SecretsPresent",
    }


def test_what_no_longer_holds_is_taken_out():
    """A failed probe leaves no capabilities, a changed provider no condition of the old one."""
    first = config_status({}, s3(), judge(ACCESS, GOOD, is_file=False, names=True), generation=1, now=NOW)
    empty_dir = judge(Refusal(Reason.EMPTY_DIR, "m", usable=True), None, is_file=True, names=False)
    second = config_status(first, config(file={"emptyDir": {}}), empty_dir, generation=2, now=NOW)

    assert "capabilities" not in second
    assert find_condition(second["conditions"], ConditionType.SECRETS_PRESENT) is None
    assert find_condition(second["conditions"], ConditionType.NOT_SHARED)["status"] == "True"

    third = config_status(
        second, s3(), judge(ACCESS, OSError("x"), is_file=False, names=False), generation=3, now=NOW
    )
    assert find_condition(third["conditions"], ConditionType.NOT_SHARED) is None


def test_times_and_texts_alone_are_written_once_a_minute():
    """A healthy store must not cost a write, and thereby an event, for each probe."""
    verdict = judge(ACCESS, GOOD, is_file=False, names=False)
    old = config_status({}, s3(), verdict, generation=1, now=NOW)
    soon, late = NOW + timedelta(seconds=30), NOW + timedelta(seconds=60)

    assert only_wording(old, config_status(old, s3(), verdict, generation=1, now=soon))
    assert not is_stale(old, soon)
    assert is_stale(old, late)
    bad = Verdict(ConditionStatus.FALSE, Reason.TIMEOUT, "m", probed=True)
    assert not only_wording(old, config_status(old, s3(), bad, generation=1, now=soon))
    assert not only_wording(old, config_status(old, s3(), verdict, generation=2, now=soon))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (s3(), s3(region="eu-central-1"), True),
        (s3(endpoint="https://minio:443"), s3(endpoint="https://MINIO"), True),
        (s3(endpoint="https://minio:9000"), s3(endpoint="https://minio:9001"), False),
        (s3(), s3(endpoint="https://minio"), False),
        (config(file={"path": "/a"}), config(file={"path": "/b"}), False),
        (config(file={"volumeClaimName": "a"}), config(file={"volumeClaimName": "a", "path": "/x"}), True),
    ],
)
def test_store_identity(first, second, same):
    """Two configs of one store have one identity, whatever else they say."""
    assert (store_identity(first) == store_identity(second)) is same


def test_bucket_column():
    """The column says where the data is."""
    assert bucket_text(s3()) == "flows"
    assert bucket_text(config(file={"volumeClaimName": "rwx"})) == "pvc/rwx"
    assert bucket_text(config(file={"emptyDir": {}})) == "emptyDir"
    assert bucket_text(config(file={"path": "/data"})) == "/data"


@pytest.mark.parametrize("versioned", [True, False, None])
def test_old_versions_are_said(versioned):
    """Among the capabilities, and in words; a store that keeps none, or does not say, looks as ever."""
    found = Probed(ProbeReport(0.001, (Capability.READ,), 0.0, versioned), 0.01)
    verdict = judge(ACCESS, found, is_file=False, names=False)
    status = config_status({}, s3(), verdict, generation=1, now=NOW)

    assert verdict.ready is ConditionStatus.TRUE
    assert status["capabilities"] == (["Read", "Versioned"] if versioned else ["Read"])
    assert ("expires noncurrent versions" in verdict.message) == (versioned is True)
    StorageConfigStatus.model_validate(status)
