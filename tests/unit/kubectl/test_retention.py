"""``kubectl bubu retention``: what it says about a policy, and what it asks the API server for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self

import pytest
from click.testing import CliRunner

from bubu_operator.api.v1alpha1.cluster_retention_policy import ClusterRetentionPolicy
from bubu_operator.api.v1alpha1.retention_policy import RetentionPolicy
from bubu_operator.errors import KubeNotFoundError
from bubu_operator.kube.resources import Resource
from bubu_operator.kubectl import retention as commands
from bubu_operator.kubectl.access import Access
from bubu_operator.kubectl.main import cli
from bubu_operator.kubectl.retention_text import (
    PendingKind,
    as_document,
    as_text,
    bytes_text,
    pending_approval,
)

Json = dict[str, Any]
NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
PLAN = "3f2a90b1c4d5e6f7"


def condition(type_: str, status: str, reason: str, message: str) -> dict[str, Any]:
    """One condition of generation 3."""
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 3,
        "lastTransitionTime": "2030-01-01T10:00:00Z",
    }


READY = condition("Ready", "True", "StorageFound", "StorageConfig main is ready")
WELL = condition("Reconciled", "True", "PassSucceeded", "2,000 scanned")
WAITING = condition("Ready", "False", "ApprovalRequired", "62 % is due")
REHEARSAL = {
    "fingerprint": "f",
    "startTime": "2030-01-01T08:00:00Z",
    "completeTime": "2030-01-01T10:00:00Z",
    "decidedObjects": 120_000,
    "dueObjects": 74_400,
    "dueBytes": 5 << 30,
    "duePercent": 62,
    "planHash": PLAN,
}


def policy(*, spec: dict[str, Any] | None = None, **status: Any) -> RetentionPolicy:
    """A policy of namespace flows whose controller has looked at it."""
    return RetentionPolicy.model_validate(
        {
            "apiVersion": "storage.bubustack.io/v1alpha1",
            "kind": "RetentionPolicy",
            "metadata": {"name": "tidy", "namespace": "flows", "generation": 3, "uid": "u"},
            "spec": {
                "mode": "Enforce",
                "rules": [{"prefix": "outputs/", "keep": {"within": "30d", "lastRuns": 5}}],
                **(spec or {}),
            },
            "status": {"observedGeneration": 3, "conditions": [READY, WELL], **status},
        }
    )


def test_a_policy_that_deletes_in_words():
    """Every fact that a person asks for has its line, and nothing is cut off."""
    told = as_text(
        policy(
            storage={"kind": "StorageConfig", "name": "main"},
            rehearsal=REHEARSAL | {"dueObjects": 1200, "duePercent": 1},
            owners={"live": 12, "existing": 340, "kinds": ["StoryRun.v1alpha1.runs.bubustack.io"]},
            orphans={"objects": 7, "bytes": 2048},
            estimatedCycleSeconds=7200,
            oldestOverdueSeconds=86_400 * 3,
            nextPassTime="2030-01-01T12:01:30Z",
            totals={"passes": 41, "deletedObjects": 8200, "deletedBytes": 3 << 20},
            sharedWith=[{"cluster": "c-2"}],
            claim={"holder": "c-2", "ours": False},
            lastPass={
                "startTime": "2030-01-01T11:59:00Z",
                "finishTime": "2030-01-01T11:59:30Z",
                "message": "2000 scanned, 200 due, 200 deleted",
                "byReason": {
                    "KeptLive": {"objects": 1800, "bytes": 1 << 20},
                    "Deleted": {"objects": 200, "bytes": 512},
                },
            },
        ),
        NOW,
    )
    assert (
        told
        == """\
retentionpolicy/tidy in namespace flows

result    it deletes what is due (Enforce)
store     StorageConfig main
keeps     outputs/: what is at most 30d old and the newest 5 runs of each story
limits    2,000 looked at and 200 deleted a pass, every 2m
rehearsal 1,200 of 120,000 objects due (1 %, 5.0 GiB), complete 2 h ago
owners    12 live of 340 (StoryRun.v1alpha1.runs.bubustack.io)
orphans   7 objects (2.0 KiB) of runs without an owner; orphans.action is Report
shared    with cluster c-2: runs without an owner here may have one there
claim     cluster c-2 deletes in this store at present
takes     2 h for a whole cycle at these limits
overdue   the run that should have gone first, since 3 d
last      30 s ago: 2000 scanned, 200 due, 200 deleted
next      in 90 s
total     8,200 objects (3.0 MiB) deleted in 41 passes

  Deleted                        200  512 B
  KeptLive                     1,800  1.0 MiB"""
    )


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (policy(spec={"suspend": True}), "no pass is started: spec.suspend is true"),
        (policy(observedGeneration=2), "no controller has judged its present form yet"),
        (policy(conditions=[]), "no controller has judged its present form yet"),
        (
            policy(conditions=[condition("Ready", "False", "StorageNotReady", "no answer")]),
            "no pass runs (StorageNotReady): no answer",
        ),
        (policy(spec={"mode": "DryRun"}), "it reports what is due and deletes nothing"),
        (policy(), "it rehearses: a complete dry cycle comes before the first deletion"),
        (
            policy(conditions=[READY, condition("Reconciled", "False", "PassFailed", "reset")]),
            "(PassFailed): reset",
        ),
        (
            policy(conditions=[WAITING, WELL], rehearsal=REHEARSAL, planHash=PLAN),
            "nothing is deleted until somebody approves",
        ),
    ],
)
def test_the_result_is_what_matters_most(told: RetentionPolicy, words: str):
    """One sentence, of the fact that decides."""
    assert words in " ".join(as_text(told, NOW).split())


def test_a_plan_above_the_share_waits_for_approval():
    """It says how much would go, and how fast."""
    pending = pending_approval(policy(conditions=[WAITING, WELL], rehearsal=REHEARSAL, planHash=PLAN))

    assert pending is not None
    assert (PendingKind.PLAN, PLAN) == (pending.kind, pending.hash)
    assert "74,400 of 120,000 objects (62 %, 5.0 GiB) may be deleted, 200 objects a pass" in pending.text


def test_a_plan_waits_from_the_end_of_its_rehearsal_on():
    """Also in the moment before the controller says so; not once the spec is another one."""
    last = {"observedGeneration": 3, "finishTime": "2030-01-01T11:59:30Z"}
    assert pending_approval(policy(rehearsal=REHEARSAL, planHash=PLAN, lastPass=last)) is not None
    stale = last | {"observedGeneration": 2}
    assert pending_approval(policy(rehearsal=REHEARSAL, planHash=PLAN, lastPass=stale)) is None
    small = REHEARSAL | {"dueObjects": 60_000, "duePercent": 50}
    assert pending_approval(policy(rehearsal=small, planHash=PLAN, lastPass=last)) is None
    begun = policy(rehearsal=REHEARSAL, planHash=PLAN, lastPass=last, cycle=REHEARSAL)
    assert pending_approval(begun) is None


def test_an_approved_plan_waits_no_more():
    """Its hash is in the status."""
    approved = policy(conditions=[WAITING, WELL], rehearsal=REHEARSAL, planHash=PLAN, approvedPlan=PLAN)
    assert pending_approval(approved) is None


def test_owners_that_are_not_believed_come_first():
    """Without a list that is believed no plan is worth anything."""
    pending = pending_approval(
        policy(
            conditions=[WAITING, WELL],
            rehearsal=REHEARSAL,
            planHash=PLAN,
            owners={"problem": "3 of 40 owners live", "problemHash": "ab12"},
        )
    )
    assert pending is not None
    assert (PendingKind.OWNERS, "ab12") == (pending.kind, pending.hash)
    assert "3 of 40 owners live" in pending.text


def test_nothing_waits_where_nothing_waits():
    """A policy that is well has nothing to approve, whatever hashes its status holds."""
    assert pending_approval(policy(rehearsal=REHEARSAL, planHash=PLAN)) is None


def test_the_document_has_the_status_as_the_api_spells_it():
    """Programs get the hash to approve, too."""
    document = as_document(policy(conditions=[WAITING, WELL], rehearsal=REHEARSAL, planHash=PLAN))

    assert document["pending"]["hash"] == PLAN
    assert document["status"]["rehearsal"]["dueObjects"] == 74_400
    assert ("RetentionPolicy", "flows", "tidy") == (
        document["kind"],
        document["namespace"],
        document["name"],
    )


def test_a_cluster_policy_has_no_namespace():
    """The heading names none."""
    told = ClusterRetentionPolicy.model_validate(
        {
            "metadata": {"name": "all"},
            "spec": {
                "storageRef": {"kind": "ClusterStorageConfig", "name": "shared"},
                "rules": [{"prefix": "outputs/", "keep": {"within": "30d"}}],
            },
        }
    )
    assert as_text(told, NOW).startswith("clusterretentionpolicy/all\n\nresult    no controller has judged")


def test_foreign_text_cannot_move_the_cursor_of_a_terminal():
    """Messages may quote a store's answer."""
    told = as_text(policy(conditions=[condition("Ready", "False", "X", "a\x1b[2Jb\nc")]), NOW)
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 50, "5.0 PiB"), (3 << 60, "3072.0 PiB")],
)
def test_sizes_are_told_in_the_largest_unit_that_fits(size: int, text: str):
    """And beyond the last unit nothing breaks."""
    assert bytes_text(size) == text


class NothingThere:
    """An API server that has no policy; answers as a real one does."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def get(self, resource: Resource, name: str, namespace: str | None) -> Json:
        """Refuse."""
        what = f"GET {resource.path(namespace)}/{name}"
        raise KubeNotFoundError(f"{what}: not found", status=404, reason=self.reason)


@pytest.mark.parametrize(
    ("target", "reason", "told"),
    [
        (
            "nope",
            "NotFound",
            (
                "there is no RetentionPolicy nope in namespace flows; name another namespace by -n, or "
                "see which there are: kubectl get retentionpolicies.storage.bubustack.io -n flows"
            ),
        ),
        (
            "cbrp/nope",
            "NotFound",
            (
                "there is no ClusterRetentionPolicy nope; see which there are: "
                "kubectl get clusterretentionpolicies.storage.bubustack.io"
            ),
        ),
        (
            "nope",
            "",
            (
                "the cluster does not know retentionpolicies.storage.bubustack.io: install the CRDs "
                "(bubu-operator crds | kubectl apply --server-side -f -)"
            ),
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run", "approve"])
def test_a_policy_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str, target: str, reason: str, told: str
):
    """Its kind, name and namespace, and where to look; not the URL that was asked."""
    client: Any = NothingThere(reason)
    monkeypatch.setattr(commands, "open_access", lambda *_: Access(client, "flows", ()))

    done = CliRunner().invoke(cli, ["retention", command, target])

    assert (1, f"kubectl bubu: {told}\n") == (done.exit_code, done.stderr)


@pytest.mark.parametrize("target", ["pod/x", "brp/", "a/b/c", "/x", ""])
@pytest.mark.parametrize("command", ["plan", "run", "approve"])
def test_what_names_no_policy_is_a_mistake_of_usage(command: str, target: str):
    """Said before any server is asked."""
    done = CliRunner().invoke(cli, ["retention", command, target])
    assert done.exit_code == 2
    assert "names no policy" in done.stderr
