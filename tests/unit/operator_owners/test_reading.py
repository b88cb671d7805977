"""Which requests a reading takes, and that what was known before hides nothing that is new."""

from __future__ import annotations

import pytest

from bubu_operator.errors import KubeForbiddenError, KubeUnreachableError
from bubu_operator.kube.resources import Resource
from bubu_operator.owners.gather import Gatherer, Traffic
from bubu_operator.owners.kinds import STORY_RUN, OwnerKind
from bubu_operator.owners.reading import places_of, read_again, read_all
from bubu_storage.errors import OwnersUnknownError
from tests.unit.operator_owners.world import STORY_RUNS, Api, fail, ref, story_run

SERVED = {STORY_RUN: Resource(STORY_RUN.group, STORY_RUN.version, STORY_RUNS, STORY_RUN.kind)}


def gatherer(api):
    """Make a gatherer whose clock stands still."""
    return Gatherer(api, deadline=100.0, traffic=Traffic(), monotonic=lambda: 0.0, sleep=lambda _: None)


def changed(api, count, *, of):
    """Change so many of so many story runs between two readings; return the second one and its requests."""
    api.put(STORY_RUNS, *(story_run(f"r{number:05d}") for number in range(of)))
    before = read_all(gatherer(api), SERVED, None)
    api.put(STORY_RUNS, *(story_run(f"r{number:05d}", phase="Failed") for number in range(count)))
    api.requests.clear()
    reading = read_again(gatherer(api), SERVED, None, before)
    return reading[STORY_RUN.key], api.requests


@pytest.mark.parametrize(
    ("count", "of", "is_whole"),
    [(20, 100, False), (21, 100, True), (30, 600, False), (31, 600, True)],
)
def test_few_changes_are_fetched_one_by_one_and_many_by_a_whole_list(count, of, is_whole):
    """Twenty, or one in twenty: more of them cost more than the list. Either way all of them are seen."""
    records, requests = changed(Api(), count, of=of)

    assert sum(not record.live for record in records.values()) == count
    assert len(records) == of
    singles = [request for request in requests if not request.query]
    wholes = [request for request in requests if request.query and not request.metadata_only]
    assert len(singles) == (0 if is_whole else count)
    assert bool(wholes) == is_whole


def test_no_more_than_a_thousand_are_fetched_one_by_one(monkeypatch):
    """However long the list is of which they are a small part."""
    monkeypatch.setattr("bubu_operator.owners.reading.FEW_CHANGES", 5_000)
    for count, is_whole in ((1_000, False), (1_001, True)):
        records, requests = changed(Api(), count, of=1_001)
        assert sum(not record.live for record in records.values()) == count
        assert (len([request for request in requests if not request.query]) == 0) == is_whole


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KubeForbiddenError("no", status=403), r"may not get it\. Grant .* get and list"),
        (KubeUnreachableError("boom", status=503), "boom"),
    ],
)
def test_an_object_that_cannot_be_read_is_not_one_that_is_gone(error, says):
    """Nobody has seen what it names: there is no reading."""
    api = Api()
    api.put(STORY_RUNS, story_run("r1"))
    before = read_all(gatherer(api), SERVED, None)
    api.put(STORY_RUNS, story_run("r2", spec={"inputs": ref("outputs/team-a/r1/a.json")}))
    api.before = fail(error, times=9, when=lambda request: request.path.endswith("/r2"))

    with pytest.raises(OwnersUnknownError, match=f"cannot read storyruns.* team-a/r2: .*{says}") as raised:
        read_again(gatherer(api), SERVED, None, before)
    assert ("may not" in raised.value.message) == isinstance(error, KubeForbiddenError)


def test_what_has_no_version_is_read_anew_each_time():
    """That an object is the same as before shows in its version alone: an end and a reference are seen."""
    api = Api()

    def alter(answer):
        for item in [answer, *answer.get("items", [])]:
            if "name" in item.get("metadata", {}):
                item["metadata"].pop("resourceVersion", None)

    api.alter = alter
    api.put(STORY_RUNS, story_run("ends"), story_run("names"))
    before = read_all(gatherer(api), SERVED, None)
    api.put(STORY_RUNS, story_run("ends", phase="Failed"))
    api.put(STORY_RUNS, story_run("names", spec={"inputs": ref("outputs/team-a/old/a.json")}))

    records = read_again(gatherer(api), SERVED, None, before)[STORY_RUN.key]

    assert not records["team-a/ends"].live
    assert records["team-a/names"].references == ("outputs/team-a/old/a.json",)


@pytest.mark.parametrize(
    ("of_kind", "of_reading", "places"),
    [
        (None, None, (None,)),
        (None, "team-a", ("team-a",)),
        ({"team-b", "team-c"}, "team-a", ("team-a",)),
        ({"team-b", "team-a"}, None, ("team-a", "team-b")),
        ({f"n{number}" for number in range(8)}, None, tuple(f"n{number}" for number in range(8))),
        ({f"n{number}" for number in range(9)}, None, (None,)),
        (set(), None, ()),
    ],
)
def test_where_a_kind_is_listed(of_kind, of_reading, places):
    """A policy of one namespace lists nothing outside it; more than eight lists are one of everything."""
    kind = OwnerKind(
        "x.io", "v1", "Flow", is_borrowed=True, namespaces=None if of_kind is None else frozenset(of_kind)
    )

    assert places_of(kind, of_reading) == places
