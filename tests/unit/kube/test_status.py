"""Writing a status: the difference only, onto the right version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.errors import KubeConflictError
from bubu_operator.kube.resources import STORAGE_CONFIGS
from bubu_operator.kube.status import StatusRefusedError, merge_difference, write_status

JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def merged(target, patch):
    """Apply a merge patch as RFC 7396 defines it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@given(OBJECTS, OBJECTS)
def test_the_difference_leads_from_one_to_the_other(old, new):
    """Applying the difference gives exactly the new status; equal ones have none."""
    assert merged(old, merge_difference(old, new)) == new
    assert merge_difference(new, new) == {}


class Client:
    """Keeps one object; a list of versions that appear meanwhile makes conflicts."""

    def __init__(self, obj, interlopers=()) -> None:
        self.obj = obj
        self.interlopers = list(interlopers)
        self.writes = []

    def patch_status(self, _resource, _name, status, _namespace, *, resource_version):
        """Write if the version is the current one."""
        if self.interlopers:
            self.obj = self.interlopers.pop(0)
        if resource_version != self.obj["metadata"]["resourceVersion"]:
            raise KubeConflictError("changed", status=409)
        self.writes.append(status)
        return {**self.obj, "status": merged(self.obj.get("status"), status)}

    def get(self, *_):
        """Return the current object."""
        return self.obj


def make_object(version, *, uid="u", status=None):
    """Make an object."""
    return {
        "metadata": {"name": "x", "namespace": "n", "uid": uid, "resourceVersion": version},
        "status": status or {},
    }


def test_nothing_is_sent_when_nothing_differs():
    """No write, no event, no loop."""
    client = Client(make_object("1", status={"a": 1}))

    write_status(client, STORAGE_CONFIGS, client.obj, lambda obj: dict(obj["status"]))

    assert client.writes == []


def test_a_conflict_is_judged_again_with_the_fresh_object():
    """What another writer wrote meanwhile is seen and kept."""
    client = Client(make_object("1"), [make_object("2", status={"theirs": 1})])

    written = write_status(
        client, STORAGE_CONFIGS, make_object("1"), lambda obj: {**obj["status"], "ours": 2}
    )

    assert written["status"] == {"theirs": 1, "ours": 2}


def test_a_namesake_is_not_written_to():
    """Deleted and created again: the status of the old one is nobody's."""
    client = Client(make_object("1"), [make_object("2", uid="other")])

    with pytest.raises(StatusRefusedError, match="created again"):
        write_status(client, STORAGE_CONFIGS, make_object("1"), lambda _: {"a": 1})

    assert client.writes == []


def test_the_maker_may_refuse():
    """A spec that has moved on gets no status of the old one."""
    with pytest.raises(StatusRefusedError):
        write_status(Client(make_object("1")), STORAGE_CONFIGS, make_object("1"), lambda _: None)


def test_endless_conflicts_end():
    """Five tries, then the error is the caller's."""
    client = Client(make_object("1"), [make_object(str(n)) for n in range(2, 20)])

    with pytest.raises(KubeConflictError):
        write_status(client, STORAGE_CONFIGS, make_object("1"), lambda _: {"a": 1})
