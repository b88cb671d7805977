"""Which config a workload gets where cluster-wide ones may not be read."""

from __future__ import annotations

import pytest

from bubu_operator.controllers.selection import select_for_namespace, select_for_workload
from bubu_operator.errors import KubeForbiddenError
from bubu_operator.injection.select import SelectionReason
from bubu_operator.kube.resources import CLUSTER_STORAGE_CONFIGS, NAMESPACES, STORAGE_CONFIGS
from tests.unit.controllers.fake_api import FakeApi
from tests.unit.injection.builders import config_object


class Narrow(FakeApi):
    """Whoever asks has rights in one namespace only."""

    def list(self, resource, namespace=None, **options):
        """Read all objects of a kind."""
        if resource is CLUSTER_STORAGE_CONFIGS:
            raise KubeForbiddenError("clusterstorageconfigs is forbidden", status=403)
        return super().list(resource, namespace, **options)


def api(*configs):
    """The namespace flows with these configs."""
    return Narrow((NAMESPACES, {"metadata": {"name": "flows"}}), *((STORAGE_CONFIGS, obj) for obj in configs))


def workload(**labels):
    """A Deployment that asks."""
    return {"kind": "Deployment", "metadata": {"name": "web", "labels": labels}, "spec": {"template": {}}}


def test_a_config_of_the_namespace_needs_no_other():
    """It comes before cluster-wide ones, whatever these are."""
    choice = select_for_workload(api(config_object("main")), "flows", workload(), may_lack_shared=True)

    assert choice.selection.config is not None
    assert choice.selection.config.name == "main"


def test_without_one_of_the_namespace_there_is_none():
    """As for a webhook of the same installation: not an error that is tried again and again."""
    choice = select_for_workload(api(), "flows", workload(), may_lack_shared=True)

    assert choice.selection.config is None
    assert choice.selection.reason is SelectionReason.NO_CONFIG


@pytest.mark.parametrize(
    "select",
    [
        lambda client: select_for_workload(client, "flows", workload()),
        lambda client: select_for_namespace(client, "flows"),
    ],
)
def test_whoever_minds_all_namespaces_guesses_nothing(select):
    """There the right is missing by mistake; and a policy deletes: it has to be told which store."""
    with pytest.raises(KubeForbiddenError):
        select(api(config_object("main")))
