"""A sweep: whole or nothing, small whatever the number of pods, and gentle to the API server."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from bubu_operator.controllers.heal_sweep import MAX_ATTEMPTS, SweepStoppedError
from bubu_operator.errors import KubeForbiddenError, KubeGoneError, KubeUnreachableError
from bubu_operator.kube.client import ObjectList
from bubu_operator.kube.resources import (
    CLUSTER_STORAGE_CONFIGS,
    NAMESPACES,
    PODS,
    STORAGE_CONFIGS,
)
from tests.unit.controllers.heal_world import ASKING, NAMESPACE, World, broken, compact, denied, gone

MAIN = ("StorageConfig", NAMESPACE, "main")


def test_pods_are_counted_by_config_and_state():
    """Current, stale and missing; carried counts records, old forms included."""
    world = World()
    world.deployment("good", 3, injected=True)
    world.deployment("old", 2, injected=True)
    world.configure(timeoutSeconds=7)
    world.pods("good", 3, injected=True)
    world.deployment("bad", 4)

    _, tally = world.sweeper().sweep()

    counts = tally.configs[MAIN]
    assert (tally.pods, counts.current, counts.stale, counts.missing) == (9, 3, 2, 4)
    assert (counts.carried, counts.meant) == (5, 9)
    assert {group.owner.key.name: group.pods for group in counts.groups.values()} == {"old-1": 2, "bad-1": 4}


@pytest.mark.parametrize("page_size", [1, 2, 7, 500])
def test_the_page_size_changes_nothing(page_size):
    """No pod is lost or counted twice between pages."""
    world = World(page_size=page_size)
    world.deployment("good", 3, injected=True)
    world.deployment("bad", 4)

    _, tally = world.sweeper().sweep()

    assert (tally.configs[MAIN].current, tally.configs[MAIN].missing) == (3, 4)
    assert world.api.pages == -(-7 // page_size)


def test_one_pod_of_a_template_is_read_whole_and_the_answer_is_kept():
    """Three pods of one ReplicaSet: one read, in the next sweep none; a changed config asks again."""
    world = World()
    world.deployment("bad", 3)
    sweeper = world.sweeper()

    for expected in (1, 1, 2):
        if expected == 2:
            world.configure(timeoutSeconds=7)
        _, tally = sweeper.sweep()
        assert tally.configs[MAIN].missing == 3
        assert sum(plural == "pods" for plural, _ in world.api.gets) == expected


def test_pods_with_no_use_for_the_config_are_not_missing():
    """In no sweep, and without a read for each."""
    world = World(injection={"containers": ["elsewhere"]})
    world.deployment("web", 3)
    sweeper = world.sweeper()

    for _ in range(2):
        _, tally = sweeper.sweep()
        assert MAIN not in tally.configs
    assert sum(plural == "pods" for plural, _ in world.api.gets) == 1


def test_pods_that_the_webhook_is_told_to_leave_alone_are_not_missing():
    """Nor read whole, nor restarted for what they will never get."""
    world = World(exclude_namespaces=(NAMESPACE,))
    world.deployment("web", 3)

    _, tally = world.sweeper().sweep()

    assert (tally.pods, dict(tally.configs)) == (3, {})
    assert not [name for plural, name in world.api.gets if plural == "pods"]


def test_more_unknown_pods_than_may_be_read_are_left_for_the_next_sweep():
    """They are neither missing nor current; each sweep looks at some more."""
    world = World(max_looks=2)
    for name in ("a", "b", "c", "d", "e"):
        world.deployment(name, 1)
    sweeper = world.sweeper()

    seen = []
    for _ in range(3):
        _, tally = sweeper.sweep()
        seen.append((tally.configs[MAIN].missing, tally.configs[MAIN].unchecked))

    assert seen == [(2, 3), (4, 1), (5, 0)]


def test_an_expired_list_begins_anew():
    """What was counted before does not count twice."""
    world = World(page_size=2)
    world.deployment("bad", 5)
    world.api.troubles = [None, gone()]

    _, tally = world.sweeper().sweep()

    assert tally.configs[MAIN].missing == 5
    assert tally.pods == 5


@pytest.mark.parametrize(
    ("troubles", "error"),
    [
        ([None, broken()], KubeUnreachableError),
        ([None, denied()], KubeForbiddenError),
        ([gone()] * MAX_ATTEMPTS, KubeGoneError),
    ],
)
def test_a_list_that_is_not_whole_is_no_answer(troubles, error):
    """Not even of the pods that were seen."""
    world = World(page_size=2)
    world.deployment("bad", 5)
    world.api.troubles = troubles

    with pytest.raises(error):
        world.sweeper().sweep()


def test_a_stop_ends_it_between_two_pages():
    """No further page is asked for."""
    world = World(page_size=1)
    world.deployment("bad", 5)
    world.api.on_page = world.stopping.set

    with pytest.raises(SweepStoppedError):
        world.sweeper().sweep()

    assert world.api.pages == 1


def test_a_namespace_that_came_later_is_read_and_one_that_went_is_skipped():
    """Namespaces are listed first, pods afterwards."""
    world = World(namespaces=(NAMESPACE,))
    world.deployment("bad", 1)
    del world.api.objects[
        "namespaces", next(key for plural, key in world.api.objects if plural == "namespaces")
    ]

    _, tally = world.sweeper().sweep()

    assert tally.configs == {}
    world.api.put(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    _, tally = world.sweeper().sweep()
    assert tally.configs[MAIN].missing == 1


def test_without_a_right_to_cluster_wide_configs_no_pod_is_called_unconfigured():
    """One of them may well be meant for it."""
    world = World(namespaces=(NAMESPACE,))
    world.deployment("lost", 1)
    del world.api.objects[
        "storageconfigs", next(key for plural, key in world.api.objects if plural == "storageconfigs")
    ]
    plain = world.api.list

    def refuse(resource, namespace=None, **more):
        if resource is CLUSTER_STORAGE_CONFIGS:
            raise denied()
        return plain(resource, namespace, **more)

    world.api.list = refuse
    _, tally = world.sweeper().sweep()

    assert tally.unconfigured == {}


class ManyPods:
    """Lists any number of injected pods, each page parsed from bytes as a client does."""

    def __init__(self, number):
        self.number = number
        world = World()
        world.deployment("web", 1, injected=True)
        self._config = world.api.list(STORAGE_CONFIGS).items[0]
        pod = world.api.get(PODS, "web-0", NAMESPACE)["metadata"]
        noise = {"manager": "kube-controller-manager", "fieldsV1": {f"f:field-{n}": {} for n in range(40)}}
        pod["managedFields"] = [noise, noise]
        self._page = compact(
            {"items": [{"metadata": {**pod, "uid": f"u{n}", "name": f"p{n}"}} for n in range(500)]}
        )
        self._bare = compact(
            {
                "items": [
                    {
                        "metadata": {
                            **{key: value for key, value in pod.items() if key != "annotations"},
                            "labels": ASKING, "uid": f"b{n}", "name": f"b{n}",
                            "ownerReferences": [
                                {"apiVersion": "x/v1", "kind": "Step", "name": f"s{n}",
                                 "uid": f"s{n}", "controller": True}
                            ],
                        }
                    }
                    for n in range(500)
                ]
            }
        )  # fmt: skip

    def list(self, resource, *_args, **_kwargs):
        """The one config."""
        items = json.loads(compact([self._config])) if resource is STORAGE_CONFIGS else ()
        return ObjectList(tuple(items), "1")

    def list_page(self, resource, *_args, continue_token="", **_kwargs):
        """A page; one of ten holds pods without a record."""
        if resource is NAMESPACES:
            return ObjectList(({"metadata": {"name": NAMESPACE}},), "1")
        if resource is STORAGE_CONFIGS:
            return self.list(resource)
        page = int(continue_token or 0)
        content = self._bare if page % 10 == 9 else self._page
        last = (page + 1) * 500 >= self.number
        return ObjectList(tuple(json.loads(content)["items"]), "1", "" if last else str(page + 1))

    def get(self, _resource, name, namespace=None, **_):
        """A pod that has been replaced."""
        return {"metadata": {"name": name, "namespace": namespace}, "spec": {"containers": []}}


def peak_bytes(number):
    """Return the peak of a sweep over this many pods."""
    world = World(max_looks=10)
    sweeper = world.sweeper()
    object.__setattr__(sweeper._context, "client", ManyPods(number))
    tracemalloc.start()
    try:
        _, tally = sweeper.sweep()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tally.pods == number
    return peak


def test_memory_does_not_grow_with_the_number_of_pods():
    """One page at a time: four times the pods in less than a quarter more memory."""
    small, large = peak_bytes(2_500), peak_bytes(10_000)

    assert large < small * 1.25
