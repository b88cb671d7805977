"""Which cluster this is: read once, never guessed."""

from __future__ import annotations

import pytest

from bubu_operator.controllers.cluster_identity import ClusterIdentity
from bubu_operator.errors import KubeApiError, KubeForbiddenError, KubeNotFoundError
from bubu_operator.kube.resources import NAMESPACES
from tests.unit.controllers.fake_api import FakeApi


def namespace(name, **metadata):
    """A namespace in the API."""
    return NAMESPACES, {"metadata": {"name": name, **metadata}}


class Forbidding(FakeApi):
    """An API server that lets nobody read kube-system; counts the reads."""

    reads = 0

    def get(self, resource, name, *args, **options):
        """Read one object."""
        self.reads += 1
        if name == "kube-system":
            raise KubeForbiddenError("namespaces is forbidden", status=403)
        return super().get(resource, name, *args, **options)


def test_it_is_the_uid_of_kube_system():
    """Whatever namespaces the controller minds; and it is read once."""
    api = FakeApi(namespace("kube-system", uid="u-1"), namespace("team-a", uid="u-2"))
    identity = ClusterIdentity(api, ("team-a",))
    assert identity.uid() == "u-1"
    api.put(*namespace("kube-system", uid="u-3"))

    assert identity.uid() == "u-1"


def test_a_controller_of_some_namespaces_is_a_cluster_of_its_own(caplog):
    """It may not read kube-system: the first of its namespaces stands for it, and the log says so once."""
    api = Forbidding(namespace("team-a", uid="u-2"), namespace("team-b", uid="u-3"))
    identity = ClusterIdentity(api, ("team-a", "team-b"))

    with caplog.at_level("INFO"):
        assert [identity.uid(), identity.uid()] == ["u-2", "u-2"]

    assert [line for line in caplog.messages if "by the uid of namespace team-a" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_controller_of_all_namespaces_does_not_guess():
    """It is told what right it lacks."""
    with pytest.raises(KubeForbiddenError):
        ClusterIdentity(Forbidding(namespace("team-a", uid="u-2")), ()).uid()


@pytest.mark.parametrize("objects", [[], [namespace("kube-system")]])
def test_a_cluster_without_an_identity_is_an_error_of_its_own(objects):
    """Not "not found": that would mean that the policy is gone, and be asked again without end."""
    with pytest.raises(KubeApiError, match="which cluster this is") as raised:
        ClusterIdentity(FakeApi(*objects), ()).uid()

    assert not isinstance(raised.value, KubeNotFoundError)
