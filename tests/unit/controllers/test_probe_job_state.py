"""What a Job, its pod and events come to: every way not to start has its words, and forgeries stay small."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.api.v1alpha1.conditions import Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.controllers.probe_job_state import JobState, Phase, judge_job, read_job
from bubu_operator.kube.conditions import ConditionStatus, format_time
from bubu_operator.probe.result import ProbeResult
from bubu_storage.backend.probe import Capability

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATE = CREATED + timedelta(seconds=60)
JOB = {"metadata": {"name": "bubu-probe-main-0", "creationTimestamp": format_time(CREATED)}}
GOOD = ProbeResult(reason=Reason.PROBE_SUCCEEDED, capabilities=("Read",), latency_milliseconds=12)


def config(**spec):
    """Parse a StorageConfig."""
    spec = spec or {"s3": {"bucket": "flows", "authentication": {"serviceAccount": {"name": "runner"}}}}
    return StorageConfig.model_validate({"metadata": {"name": "main", "namespace": "team-a"}, "spec": spec})


def pod(state=None, **status):
    """Make a pod with a state of the probe's container."""
    statuses = [] if state is None else [{"name": "probe", "state": state}]
    return {
        "metadata": {"creationTimestamp": format_time(CREATED)},
        "status": {"containerStatuses": statuses, **status},
    }


def failed(reason, message):
    """Make a Job that has failed."""
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    return {**JOB, "status": {"conditions": [condition]}}


def warning(note, reason="FailedCreate", minute=0):
    """Make a warning event."""
    return {"type": "Warning", "reason": reason, "note": note, "eventTime": f"2026-01-02T03:{minute:02}:00Z"}


def read(job=JOB, pods=(), events=(), now=LATE):
    """Read with a grace of 15 s."""
    return read_job(job, pods, events, now=now, grace_seconds=15)


@pytest.mark.parametrize(
    ("pods", "events", "reason", "words"),
    [
        ((), (), Reason.PROBE_JOB_STUCK, "no event says why"),
        ((), (warning("old"), warning("exceeded quota", minute=5)), Reason.PROBE_JOB_STUCK, "exceeded quota"),
        (
            (),
            (warning('error looking up service account team-a/runner: serviceaccount "runner" not found'),),
            Reason.SERVICE_ACCOUNT_NOT_FOUND,
            "Create the ServiceAccount",
        ),
        (
            (pod({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),),
            (),
            Reason.PROBE_JOB_STUCK,
            "ImagePullBackOff: no such image",
        ),
        (
            (
                pod(
                    conditions=[
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "reason": "Unschedulable",
                            "message": "0/3 nodes",
                        }
                    ]
                ),
            ),
            (),
            Reason.PROBE_JOB_STUCK,
            "Unschedulable): 0/3 nodes",
        ),
        (
            (pod({"waiting": {"reason": "ContainerCreating"}}),),
            (warning('configmap "minio-ca" not found', "FailedMount"),),
            Reason.PROBE_JOB_STUCK,
            'FailedMount: configmap "minio-ca" not found',
        ),
    ],
)
def test_a_job_that_does_not_start(pods, events, reason, words):
    """Within the grace it is on its way; after it, what is known is said."""
    assert read(pods=pods, events=events, now=CREATED + timedelta(seconds=5)).phase is Phase.RUNNING

    state = read(pods=pods, events=events)

    assert (state.phase, state.reason) == (Phase.STUCK, reason)
    assert words in state.message
    verdict = judge_job(config(), state)
    missing = reason is Reason.SERVICE_ACCOUNT_NOT_FOUND
    assert verdict.ready is (ConditionStatus.FALSE if missing else ConditionStatus.UNKNOWN)
    assert not verdict.reconciled


def test_a_pod_that_runs_is_given_its_time():
    """However old the Job is: its deadline ends it."""
    assert read(pods=(pod({"running": {}}),)).phase is Phase.RUNNING


def test_a_result_counts_before_the_pod_has_ended():
    """A sidecar that stays must not hide it."""
    state = read(pods=(pod({"terminated": {"exitCode": 0, "message": GOOD.to_text()}}, phase="Running"),))

    assert (state.phase, state.result) == (Phase.FINISHED, GOOD)


@pytest.mark.parametrize("message", [None, 7, "", "x" * 5000])
def test_no_result(message):
    """Its reason is ours; the exit code helps."""
    state = read(pods=(pod({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": message}}),))

    assert (state.phase, state.reason) == (Phase.FINISHED, Reason.PROBE_RESULT_UNREADABLE)
    assert "exit code 137 (OOMKilled)" in state.message
    assert judge_job(config(), state).ready is ConditionStatus.UNKNOWN


def test_a_job_that_failed_without_a_pod():
    """Its deadline passed: the Job's own words."""
    state = read(failed("DeadlineExceeded", "Job was active longer than specified deadline"))

    assert (state.phase, state.reason) == (Phase.FINISHED, Reason.PROBE_JOB_STUCK)
    assert "DeadlineExceeded" in state.message


def test_success_becomes_what_the_controllers_own_probe_would_say():
    """Capabilities, latency, and which pod it was."""
    verdict = judge_job(config(), JobState(Phase.FINISHED, GOOD.reason, "", GOOD))

    assert (verdict.ready, verdict.reason) == (ConditionStatus.TRUE, Reason.PROBE_SUCCEEDED)
    assert verdict.probe is not None
    assert verdict.probe.report.capabilities == (Capability.READ,)
    assert verdict.probe.seconds == 0.012
    assert "service account runner" in verdict.message


def test_a_claim_that_the_probe_may_not_write_to_may_be_fine_for_pods():
    """Files of a claim belong to the user id of the team's pods, which the probe does not have."""
    result = ProbeResult(reason=Reason.PATH_NOT_WRITABLE, message="permission denied")
    state = JobState(Phase.FINISHED, result.reason, "", result)

    assert judge_job(config(file={"volumeClaimName": "x"}), state).ready is ConditionStatus.UNKNOWN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(status=JSON, event=st.dictionaries(st.sampled_from(["type", "reason", "note", "eventTime"]), JSON))
def test_any_status_and_event_is_read(status, event):
    """Who owns the namespace writes them; nothing raises, and the text is bounded."""
    pods = ({"metadata": {}, "status": status}, pod({"waiting": status}), pod({"terminated": status}))
    for one in pods:
        state = read(pods=(one,), events=(event, {**event, "type": "Warning"}))

        assert len(judge_job(config(), state).message) < 2000


def test_a_credential_is_not_cut_in_half():
    """What is scrubbed is the whole text: a part would not be known for what it is."""
    secret = "aws_secret_access_key=" + "PLANTED" * 20
    note = "x" * 440 + " " + secret

    state = read(events=(warning(note),))

    assert "PLANTED" not in state.message
