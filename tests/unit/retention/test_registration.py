"""Tests for the registrations of clusters in a store."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from bubu_storage.backend.types import EPOCH
from bubu_storage.errors import ConfigurationError, PermissionDeniedError
from bubu_storage.retention.registration import (
    FRESH_SECONDS,
    MOST_LOOKED_AT,
    REFRESH_SECONDS,
    REGISTRATION_PREFIX,
    foreign_clusters,
    list_registrations,
    register,
    unregister,
)
from bubu_storage.testing.fakes import CountingBackend, Operation
from tests.unit.retention.claim_world import Failing
from tests.unit.retention.world import START, World


def names(world: World, own: str) -> list[str]:
    """Return the other clusters."""
    return [one.cluster for one in foreign_clusters(world.store, own)]


def test_it_says_who_and_when(world: World) -> None:
    """People can read it; its key and its date are what counts."""
    assert register(world.store, "uid-1", name="bubu-operator 0.1")
    with world.store.get_object(REGISTRATION_PREFIX + "uid-1.json") as found:
        content = json.loads(found.read())

    assert content == {
        "version": 1,
        "cluster": "uid-1",
        "name": "bubu-operator 0.1",
        "renewedAt": START.isoformat(),
    }


def test_it_is_refreshed_at_most_once_an_hour(world: World) -> None:
    """A pass each two minutes does not write each two minutes."""
    assert register(world.store, "a")
    world.time.advance(REFRESH_SECONDS - 1)
    assert not register(world.store, "a")
    world.time.advance(2)
    assert register(world.store, "a")
    assert not register(world.store, "a")


@pytest.mark.parametrize(("hours", "written"), [(-2, True), (2, True), (0.5, False), (-0.5, False)])
def test_one_of_another_time_is_written_anew(world: World, hours: float, written: bool) -> None:
    """Also one that is dated in the future, as after the store's clock was set back."""
    register(world.store, "a")
    world.store.set_last_modified(REGISTRATION_PREFIX + "a.json", START + timedelta(hours=hours))

    assert register(world.store, "a") is written


def test_others_count_for_seven_days(world: World) -> None:
    """By the store's dates; our own never counts."""
    register(world.store, "old")
    world.time.advance(FRESH_SECONDS - 1)
    register(world.store, "own")

    assert names(world, "own") == ["old"]
    world.time.advance(1)
    assert names(world, "own") == []


def test_one_that_left_counts_no_more(world: World) -> None:
    """Leaving twice is fine."""
    register(world.store, "a")
    unregister(world.store, "a")
    unregister(world.store, "a")

    assert names(world, "b") == []


@pytest.mark.parametrize("key", ["x.json", "x", "deep/x.json", ".json"])
@pytest.mark.parametrize("content", [b"", b"[1, 2", b'{"cluster": "own"}', b"x" * 100_000])
def test_content_decides_nothing(world: World, key: str, content: bytes) -> None:
    """What is forged, damaged or oddly named can only keep data: it counts as another cluster."""
    world.store.put_object(REGISTRATION_PREFIX + key, content)

    assert len(names(world, "own")) == 1
    found, _ = list_registrations(world.store, read_names=True)
    assert found[0].name == ""


def test_one_without_a_date_or_of_the_future_counts(world: World) -> None:
    """Nobody knows how old it is."""
    register(world.store, "a")
    register(world.store, "b")
    world.store.set_last_modified(REGISTRATION_PREFIX + "a.json", EPOCH)
    world.store.set_last_modified(REGISTRATION_PREFIX + "b.json", START + timedelta(days=365))

    assert names(world, "own") == ["a", "b"]


def test_very_many_are_another_cluster_and_cost_one_page(world: World) -> None:
    """A flood of old ones hides nobody: that there are more than are looked at is enough."""
    for number in range(MOST_LOOKED_AT + 50):
        world.put(f"{REGISTRATION_PREFIX}{number:05}.json", age_days=100)
    counting = CountingBackend(world.store)
    found = foreign_clusters(counting, "own")

    assert [one.cluster for one in found] == ["…"]
    assert counting.counts[Operation.LIST_PAGE] == 1


def test_exactly_as_many_as_are_looked_at_are_all_known(world: World) -> None:
    """A hundred old ones are no flood."""
    for number in range(MOST_LOOKED_AT):
        world.put(f"{REGISTRATION_PREFIX}{number:05}.json", age_days=100)

    assert names(world, "own") == []


def test_an_error_is_no_answer(world: World) -> None:
    """Where registrations cannot be listed nobody knows, and that is said."""
    backend = Failing(world.store)
    backend.errors = {Operation.LIST_PAGE: PermissionDeniedError("no")}
    with pytest.raises(PermissionDeniedError):
        foreign_clusters(backend, "own")


@pytest.mark.parametrize("uid", ["", "../claim", "a/b", ".hidden", "x" * 200, "a\n"])
def test_a_uid_must_name_an_object(world: World, uid: str) -> None:
    """Nothing is written elsewhere by an odd uid."""
    with pytest.raises(ConfigurationError, match="cannot name a registration"):
        register(world.store, uid)

    assert world.all_keys() == []


def test_names_of_others_are_made_fit_for_a_terminal(world: World) -> None:
    """Control characters are replaced."""
    world.store.put_object(REGISTRATION_PREFIX + "a.json", json.dumps({"name": "\x1b[2Jx"}).encode())
    found, _ = list_registrations(world.store, read_names=True)

    assert "\x1b" not in found[0].name
    assert found[0].name.endswith("x")
