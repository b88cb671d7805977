"""Events: bounded, scrubbed, not repeated, never in the way."""

from __future__ import annotations

import pytest

from bubu_operator.errors import KubeForbiddenError
from bubu_operator.kube.events import EventRecorder, EventType
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, STORAGE_CONFIGS
from bubu_operator.kube.scrub import Redactor

OBJECT = {"metadata": {"name": "main", "namespace": "team-a", "uid": "u-1", "resourceVersion": "5"}}


class Client:
    """Remembers what is created, or fails."""

    def __init__(self, error=None) -> None:
        self.error = error
        self.created = []

    def create(self, _resource, body, namespace):
        """Remember, or fail."""
        if self.error:
            raise self.error
        self.created.append((namespace, body))
        return body


@pytest.fixture
def clock():
    """A clock that tests turn."""
    return [100.0]


def recorder(client, clock, redactor=None):
    """Make a recorder."""
    return EventRecorder(
        client, redactor or Redactor(), controller="c", instance="i", monotonic=lambda: clock[0]
    )


def emit(target, note="text", obj=None, resource=STORAGE_CONFIGS):
    """Emit with defaults."""
    return target.emit(
        resource, obj or OBJECT, type_=EventType.WARNING, reason="Why", note=note, action="Probe"
    )


def test_an_event_names_its_object(clock):
    """`kubectl describe` finds it by uid, and the namespace is the object's."""
    client = Client()

    assert emit(recorder(client, clock))

    namespace, body = client.created[0]
    assert namespace == body["metadata"]["namespace"] == "team-a"
    assert body["regarding"]["uid"] == "u-1"
    assert (body["reason"], body["type"], body["note"]) == ("Why", "Warning", "text")


def test_cluster_objects_have_their_events_in_default(clock):
    """The API wants a namespace for every event."""
    client = Client()

    emit(recorder(client, clock), obj={"metadata": {"name": "c"}}, resource=CLUSTER_STORAGE_CONFIGS)

    assert client.created[0][0] == "default"


def test_the_same_event_is_not_repeated_within_a_while(clock):
    """Ten minutes of silence for the same words; other words are news."""
    client = Client()
    target = recorder(client, clock)

    assert [emit(target), emit(target), emit(target, note="other")] == [True, False, True]
    clock[0] += 601
    assert emit(target)
    assert len(client.created) == 3


def test_notes_are_bounded_and_scrubbed(clock):
    """The API refuses long notes, and everybody reads events."""
    client, redactor = Client(), Redactor()
    redactor.add(["planted-secret"])

    emit(recorder(client, clock, redactor), note="planted-secret " + "ü" * 3000)

    note = client.created[0][1]["note"]
    assert "planted" not in note
    assert len(note.encode()) <= 1024


def test_a_failure_to_post_is_not_ours_to_raise(clock):
    """A namespace that is going away refuses events; work goes on."""
    assert not emit(recorder(Client(KubeForbiddenError("terminating", status=403)), clock))
