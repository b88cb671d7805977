"""What one tenant keeps in a Secret neither changes nor explains another tenant's messages."""

from __future__ import annotations

import base64

import pytest

from bubu_operator.controllers import storageconfig
from bubu_operator.controllers.context import Context, ControllerOptions
from bubu_operator.controllers.storageconfig import ConfigReconciler
from bubu_operator.kube.conditions import find_condition
from bubu_operator.kube.events import EventRecorder
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, SECRETS, STORAGE_CONFIGS, ObjectKey
from bubu_operator.kube.scrub import REDACTED, Redactor
from bubu_storage.errors import StorageError
from tests.unit.controllers.fake_api import FakeApi


class World:
    """Stores of two teams and one for all, with credentials, whose answers tests put into their mouths."""

    def __init__(self, monkeypatch):
        self.api = FakeApi()
        redactor = Redactor()
        self.context = Context(
            client=self.api,
            events=EventRecorder(self.api, redactor, controller="c", instance="i"),
            redactor=redactor,
            options=ControllerOptions(),
        )
        self.answer = ""
        monkeypatch.setattr(storageconfig, "_probe", self._probe)

    def _probe(self, _settings, _monotonic):
        raise StorageError(self.answer)

    def looks(self, namespace, key_id, secret, answer):
        """Look at a namespace's store, or at the one for all, which answers so; return what is said of it."""
        where = namespace or "bubu-system"
        data = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.api.put(SECRETS, {"metadata": {"name": "keys", "namespace": where}, "data": coded})
        resource = STORAGE_CONFIGS if namespace else CLUSTER_STORAGE_CONFIGS
        reference = {"name": "keys"} if namespace else {"name": "keys", "controllerNamespace": where}
        metadata = {"name": "main", "generation": 1, "uid": f"uid-{namespace}"}
        if namespace:
            metadata["namespace"] = namespace
        spec = {"s3": {"bucket": "flows", "authentication": {"secretRef": reference}}}
        self.api.put(resource, {"metadata": metadata, "spec": spec})
        self.answer = answer
        self.api.events.clear()
        ConfigReconciler(self.context, resource)(ObjectKey(namespace, "main"))
        ready = find_condition(
            self.api.get(resource, "main", namespace or None)["status"]["conditions"], "Ready"
        )
        assert [note for _, note in self.api.events] == [ready["message"]]
        return ready["message"]


@pytest.fixture
def world(monkeypatch):
    """See there."""
    return World(monkeypatch)


@pytest.mark.parametrize(("reader", "blotter"), [("team-a", "team-b"), ("team-a", ""), ("", "team-b")])
def test_a_word_that_is_somebody_elses_key_stays(world, reader, blotter):
    """A key id may be any word; its owner must not blot that word out of everybody's messages."""
    world.looks(blotter, "kubectl", "create rolebinding", "no answer")

    said = world.looks(reader, "AKplanted", "SKplanted", "allow it with kubectl create rolebinding x")

    assert "kubectl create rolebinding x" in said
    assert world.context.redactor.scrub("log: kubectl") == f"log: {REDACTED}"


def test_a_guess_looks_the_same_whether_it_is_right_or_wrong(world):
    """A store of the tenant's own can say anything: no answer may tell whose credential that is."""
    world.looks("team-a", "AKplanted", "SKplanted", "no answer")

    right, wrong = (
        world.looks("team-b", "AKmine", "SKmine", f"no bucket {guess}")
        for guess in ("SKplanted", "SKplanned")
    )

    assert right.replace("SKplanted", "?") == wrong.replace("SKplanned", "?")
    assert REDACTED not in right


@pytest.mark.parametrize("namespace", ["team-a", ""], ids=["a team", "the cluster"])
def test_an_own_credential_is_hidden_in_own_messages(world, namespace):
    """Whoever may read a config or its events may not read its Secret."""
    world.looks("team-b", "AKother", "SKother", "no answer")
    quoted = base64.b64encode(b"SKplanted").decode().rstrip("=")

    said = world.looks(namespace, "AKplanted", "SKplanted", f"refused AKplanted with SKplanted ({quoted})")

    assert f"refused {REDACTED} with {REDACTED} ({REDACTED})" in said
