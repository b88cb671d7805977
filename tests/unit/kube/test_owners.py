"""Who is behind a pod."""

from __future__ import annotations

import pytest

from bubu_operator.errors import KubeForbiddenError, KubeNotFoundError, KubeUnreachableError
from bubu_operator.kube.owners import OwnerLookup, owner_of_pod


def reference(kind, name, api="apps/v1", **more):
    """An owner reference of a controller."""
    return {"apiVersion": api, "kind": kind, "name": name, "uid": f"uid-{name}", "controller": True, **more}


def pod(*references):
    """A pod's metadata."""
    return {"name": "p", "namespace": "flows", "uid": "uid-p", "ownerReferences": list(references)}


class Client:
    """Knows the owners of owners, by name."""

    def __init__(self, **owners):
        self.owners = owners
        self.asked = []

    def get(self, resource, name, namespace, *, metadata_only):
        """Read metadata."""
        assert metadata_only
        self.asked.append((resource.plural, namespace, name))
        found = self.owners[name]
        if isinstance(found, Exception):
            raise found
        return {"metadata": {"uid": f"uid-{name}", "ownerReferences": found}}


@pytest.mark.parametrize(
    ("references", "text"),
    [
        ([], "Pod flows/p"),
        ([reference("ReplicaSet", "web-1", controller=False)], "Pod flows/p"),
        ([reference("DaemonSet", "agent")], "DaemonSet flows/agent"),
        ([reference("StepRun", "s", "runs.bubustack.io/v1alpha1")], "StepRun flows/s"),
    ],
)
def test_the_controller_of_a_pod_or_the_pod_itself(references, text):
    """References that are no controller's do not count."""
    assert str(owner_of_pod(pod(*references))) == text


def test_an_unknown_kind_keeps_its_group_and_version():
    """An event about it has to name them."""
    owner = owner_of_pod(pod(reference("StepRun", "s", "runs.bubustack.io/v1alpha1")))

    assert owner.resource.api_version == "runs.bubustack.io/v1alpha1"
    assert owner.as_object()["metadata"] == {"name": "s", "namespace": "flows", "uid": "uid-s"}


@pytest.mark.parametrize(
    ("first", "above", "text"),
    [
        (reference("ReplicaSet", "web-1"), [reference("Deployment", "web")], "Deployment flows/web"),
        (reference("Job", "n-1", "batch/v1"), [reference("CronJob", "n", "batch/v1")], "CronJob flows/n"),
        (reference("ReplicaSet", "alone"), [], "ReplicaSet flows/alone"),
        (
            reference("ReplicaSet", "old", uid="another"),
            [reference("Deployment", "web")],
            "ReplicaSet flows/old",
        ),
        (reference("ReplicaSet", "gone"), KubeNotFoundError("gone", status=404), "ReplicaSet flows/gone"),
        (reference("ReplicaSet", "shut"), KubeForbiddenError("no", status=403), "ReplicaSet flows/shut"),
    ],
)
def test_the_top_controller(first, above, text):
    """Through ReplicaSets and Jobs; what cannot be followed is the top itself."""
    lookup = OwnerLookup(Client(**{first["name"]: above}))

    assert str(lookup.top(owner_of_pod(pod(first)))) == text


def test_an_answer_is_asked_for_once():
    """A thousand pods of a ReplicaSet are one read."""
    client = Client(**{"web-1": [reference("Deployment", "web")]})
    lookup = OwnerLookup(client)

    for _ in range(3):
        lookup.top(owner_of_pod(pod(reference("ReplicaSet", "web-1"))))

    assert client.asked == [("replicasets", "flows", "web-1")]


def test_an_api_server_that_is_away_is_no_answer():
    """Nor is it remembered as one."""
    client = Client(**{"web-1": KubeUnreachableError("away", status=0)})
    lookup = OwnerLookup(client)
    owner = owner_of_pod(pod(reference("ReplicaSet", "web-1")))

    with pytest.raises(KubeUnreachableError):
        lookup.top(owner)

    client.owners["web-1"] = [reference("Deployment", "web")]
    assert str(lookup.top(owner)) == "Deployment flows/web"
