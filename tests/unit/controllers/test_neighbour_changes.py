"""Others who come to keep more while a pass runs end it in good order; others who do not let it go on."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from bubu_operator.controllers import repeated_look
from bubu_operator.controllers.repeated_look import EVERY_SECONDS, MOST_FAILURES, RepeatedLook
from bubu_operator.errors import KubeForbiddenError, KubeTimeoutError
from bubu_operator.kube.resources import (
    CLUSTER_RETENTION_POLICIES,
    RETENTION_POLICIES,
    STORAGE_CONFIGS,
    key_of,
)
from tests.unit.controllers.test_policy_stages import CLUSTER_KEY, KEY, World

MAIN = {"storageRef": {"name": "main"}}


class Passing(World):
    """A world in which a pass is under way."""

    def begin(self, key=KEY):
        """Start the pass, and return what it asks again and again."""
        self.reconciler(key)
        return self.runner.jobs[-1].interrupted

    def tell(self, resource, obj):
        """Store an object, and let the watch hear of it."""
        self.api.put(resource, obj)
        self.context.cache.put(resource, key_of(obj), obj)

    def other(self, **fields):
        """Make another policy of the namespace, and let the watch hear of it."""
        obj = self.put_other(**fields)
        self.context.cache.put(RETENTION_POLICIES, key_of(obj), obj)


@pytest.fixture
def world(tmp_path):
    """A namespaced policy and a cluster-wide one."""
    made = Passing(tmp_path)
    made.put()
    return made


def test_a_policy_that_is_made_meanwhile_and_keeps_more(world):
    """Also a suspended one; the next pass keeps what it keeps."""
    interrupted = world.begin()
    world.other(**MAIN)
    assert interrupted() is None

    world.now += EVERY_SECONDS

    assert interrupted()
    world.begin()
    rules = {(rule.prefix, rule.keep_within_seconds) for rule in world.runner.jobs[-1].plan.spec.rules}
    assert ("outputs/team-a/", 365 * 86400.0) in rules


def test_a_cluster_wide_policy_that_is_made_meanwhile(world):
    """It keeps in every namespace."""
    interrupted = world.begin()
    rules = [{"prefix": "outputs/", "keep": {"within": "90d"}}]
    spec = {"storageRef": {"name": "all"}, "suspend": True, "rules": rules}
    metadata = {"name": "keeper", "generation": 1, "uid": "k"}
    world.tell(CLUSTER_RETENTION_POLICIES, {"metadata": metadata, "spec": spec})
    world.now += EVERY_SECONDS

    assert interrupted()


def test_a_controller_for_some_namespaces_hears_of_no_cluster_wide_policy(world):
    """It does not watch them, so each look reads the lists."""
    world.context = replace(world.context, options=replace(world.context.options, namespaces=("team-a",)))
    world.reconciler = world.make_reconciler()
    interrupted = world.begin()
    world.now += EVERY_SECONDS
    assert interrupted() is None
    rules = [{"prefix": "outputs/", "keep": {"within": "90d"}}]
    world.put_cluster(suspend=True, rules=rules)
    world.now += EVERY_SECONDS

    assert interrupted()


def test_a_policy_of_a_namespace_ends_a_cluster_wide_pass(world):
    """What it keeps holds for that one, too."""
    world.put_cluster()
    interrupted = world.begin(CLUSTER_KEY)
    world.other(**MAIN)
    world.now += EVERY_SECONDS

    assert interrupted()


def test_a_policy_that_is_changed_meanwhile(world):
    """Another generation with other keeps ends the pass; the generation alone, or a new uid, does not."""
    world.other(**MAIN)
    interrupted = world.begin()
    for version in ({"generation": 2}, {"generation": 2, "uid": "again"}):
        world.other(**version, **MAIN)
        world.now += EVERY_SECONDS
        assert interrupted() is None
    rules = [{"prefix": "outputs/", "keep": {"within": "400d"}}]
    world.other(generation=3, uid="again", rules=rules, **MAIN)
    world.now += EVERY_SECONDS

    assert interrupted()


def test_what_is_applied_again_costs_nothing(world):
    """No new generation, as with GitOps and with writes of status: not even a list is read."""
    world.other(**MAIN)
    interrupted = world.begin()
    world.api.lists.clear()
    for _ in range(3):
        world.other(**MAIN)
        world.now += EVERY_SECONDS
        assert interrupted() is None

    assert world.api.lists == []


def test_a_policy_about_another_store_or_one_that_is_gone(world):
    """Neither makes the pass keep more; each is looked at once."""
    elsewhere = {"metadata": {"name": "theirs", "namespace": "team-a", "generation": 1, "uid": "t"}}
    world.api.put(STORAGE_CONFIGS, elsewhere | {"spec": {"file": {"path": "/elsewhere"}}})
    interrupted = world.begin()
    world.other(storageRef={"name": "theirs"})
    world.now += EVERY_SECONDS
    assert interrupted() is None
    world.api.lists.clear()
    world.context.cache.remove(RETENTION_POLICIES, key_of(world.put_other(**MAIN)))
    world.now += EVERY_SECONDS

    assert interrupted() is None
    assert world.api.lists == []


def test_a_policy_that_was_read_before_the_watch_heard_of_it(world):
    """The pass keeps what it keeps already."""
    world.put_other(**MAIN)
    interrupted = world.begin()
    world.other(**MAIN)
    world.now += EVERY_SECONDS

    assert interrupted() is None


def test_a_policy_that_comes_while_the_plan_is_guarded_is_not_missed(world):
    """The watch hears of it after the list was read and before the pass begins."""
    listing = world.api.list
    told = []

    def late(resource, *args, **options):
        found = listing(resource, *args, **options)
        if resource is RETENTION_POLICIES and not told:
            told.append(resource)
            world.other(**MAIN)
        return found

    world.api.list = late
    interrupted = world.begin()
    world.now += EVERY_SECONDS

    assert interrupted()


def test_a_config_that_gets_a_part_of_what_the_pass_cleans(world, tmp_path):
    """Its objects are kept from now on."""
    interrupted = world.begin()
    metadata = {"name": "inner", "namespace": "team-b", "generation": 1, "uid": "i"}
    spec = {"file": {"path": str(tmp_path)}, "outputPrefix": "outputs/team-a/inner", "inputPrefix": "in"}
    cluster = {"metadata": {"name": "inner", "generation": 1, "uid": "i"}, "spec": spec}
    world.api.put(STORAGE_CONFIGS, {"metadata": metadata, "spec": spec})
    world.now += EVERY_SECONDS
    assert interrupted() is None  # of another namespace: its own passes and the next one here mind it
    world.tell(STORAGE_CONFIGS, cluster | {"metadata": metadata | {"name": "mine", "namespace": "team-a"}})
    world.now += EVERY_SECONDS

    assert interrupted()


@pytest.mark.parametrize(
    ("error", "looks"),
    [(KubeForbiddenError("cannot list", status=403), 1), (KubeTimeoutError("slow"), MOST_FAILURES)],
)
def test_lists_that_cannot_be_read_after_a_change(world, error, looks):
    """Nothing is guessed: forbidden ends the pass at once, other failures when they go on."""
    interrupted = world.begin()
    world.other(**MAIN)

    def failing(*_args, **_options):
        raise error

    world.api.list = failing
    for look in range(1, looks + 1):
        world.now += EVERY_SECONDS
        assert (interrupted() is not None) == (look == looks)


def test_an_answer_that_takes_long_holds_nobody_up(monkeypatch):
    """One question at a time; its answer is fetched when it is there."""
    monkeypatch.setattr(repeated_look, "PATIENCE_SECONDS", 0.1)
    now, asked, looks, answer = [0.0], [], threading.Event(), threading.Event()

    def look():
        asked.append(now[0])
        looks.set()
        assert answer.wait(60)
        return "late"

    repeated = RepeatedLook(lambda: now[0], "what others keep", look)
    now[0] = EVERY_SECONDS
    assert repeated() is None
    assert looks.wait(60)
    now[0] = 3 * EVERY_SECONDS
    assert repeated() is None
    answer.set()
    monkeypatch.setattr(repeated_look, "PATIENCE_SECONDS", 60.0)
    found = [repeated() for _ in range(20)]

    assert next(filter(None, found)) == "late"
    assert asked[0] == EVERY_SECONDS
