"""What is remembered of what an API server serves: for half a minute, and not without bounds."""

from __future__ import annotations

import pytest

from bubu_operator.errors import KubeForbiddenError
from bubu_operator.kube.resources import Resource
from bubu_operator.owners.gather import (
    DISCOVERY_SECONDS,
    MOST_ANSWERS,
    Discovery,
    Gatherer,
    NotServedError,
    Traffic,
)
from bubu_operator.owners.kinds import STORY_RUN
from bubu_storage.errors import OwnersUnknownError
from tests.unit.operator_owners.world import GROUP, RUNS, Api, entry, fail, forbid

RESOURCE = Resource(STORY_RUN.group, STORY_RUN.version, "storyruns", STORY_RUN.kind)


@pytest.fixture
def time():
    """A clock that the test sets."""
    return [1_000.0]


@pytest.fixture
def discovery(time):
    """A memory by that clock."""
    return Discovery(lambda: time[0])


def known(discovery, *paths):
    """Return those of some paths to which an answer is known."""
    return [path for path in paths if discovery.get(path) is not None]


def test_an_answer_is_known_for_half_a_minute(discovery, time):
    """Also one that says that there is nothing; another path has none."""
    discovery.put("/a", {"resources": []})
    discovery.put("/b", {})
    time[0] += DISCOVERY_SECONDS - 1

    assert discovery.get("/a") == {"resources": []}
    assert discovery.get("/b") == {}
    assert discovery.get("/c") is None

    time[0] += 1
    assert known(discovery, "/a", "/b") == []


def test_a_later_answer_takes_the_place_of_the_one_before(discovery, time):
    """And is known from then on."""
    discovery.put("/a", {"version": 1})
    time[0] += DISCOVERY_SECONDS - 1
    discovery.put("/a", {"version": 2})
    time[0] += DISCOVERY_SECONDS - 1

    assert discovery.get("/a") == {"version": 2}


def test_no_more_than_so_many_answers_are_held(discovery, time):
    """What comes when there is no room is not remembered; what is known already can still change."""
    first, *others = (f"/{number}" for number in range(MOST_ANSWERS))
    discovery.put(first, {})
    time[0] += 1
    for path in others:
        discovery.put(path, {})

    discovery.put("/more", {})
    discovery.put(first, {"new": True})

    assert known(discovery, "/more", first, others[-1]) == [first, others[-1]]
    assert discovery.get(first) == {"new": True}


def test_what_is_old_makes_room(discovery, time):
    """And what is not old stays."""
    first, *others = (f"/{number}" for number in range(MOST_ANSWERS))
    discovery.put(first, {})
    time[0] += 1
    for path in others:
        discovery.put(path, {})
    time[0] += DISCOVERY_SECONDS - 1

    discovery.put("/more", {})
    discovery.put("/still more", {})

    assert known(discovery, "/more", "/still more", first, *others) == ["/more", *others]


def gatherer(api, **options):
    """Make a gatherer whose clock stands still."""
    usual = {"deadline": 9.0, "traffic": Traffic(), "monotonic": lambda: 0.0, "sleep": lambda _: None}
    return Gatherer(api, **(usual | options))


def test_a_gatherer_learns_always_and_believes_only_where_it_is_told_to():
    """An absence that is remembered is one; whoever asks anew sees what has come since."""
    api, discovery = Api(), Discovery(lambda: 0.0)
    entries = api.served.pop(RUNS)
    asking, believing = gatherer(api, discovery=discovery), gatherer(api, discovery=discovery, believes=True)
    with pytest.raises(NotServedError):
        asking.resource_of(STORY_RUN)
    api.served[RUNS] = entries

    with pytest.raises(NotServedError):
        believing.resource_of(STORY_RUN)
    assert asking.resource_of(STORY_RUN) == RESOURCE
    api.served.pop(RUNS)
    asked = len(api.requests)
    assert believing.resource_of(STORY_RUN) == RESOURCE
    assert len(api.requests) == asked


def test_without_a_memory_there_is_nothing_to_believe():
    """The server is asked each time."""
    api = Api()
    alone = gatherer(api, believes=True)
    for _ in range(2):
        alone.resource_of(STORY_RUN)
        alone.check_list(RESOURCE, None)

    assert len(api.requests) == 4


@pytest.mark.parametrize(
    ("namespace", "path"), [(None, f"{RUNS}/storyruns"), ("team-a", f"{RUNS}/namespaces/team-a/storyruns")]
)
def test_that_a_list_can_be_read_is_tried_by_one_object(namespace, path):
    """By its metadata alone, and not again where that is remembered and believed."""
    api, discovery = Api(), Discovery(lambda: 0.0)
    gatherer(api, discovery=discovery).check_list(RESOURCE, namespace)
    gatherer(api, discovery=discovery).check_list(RESOURCE, namespace)
    gatherer(api, discovery=discovery, believes=True).check_list(RESOURCE, namespace)
    gatherer(api, discovery=discovery, believes=True).check_list(RESOURCE, "elsewhere")

    assert [request.path for request in api.requests[:2]] == [path, path]
    assert [request.path for request in api.requests[2:]] == [f"{RUNS}/namespaces/elsewhere/storyruns"]
    assert all(request.metadata_only and request.query["limit"] == "1" for request in api.requests)


@pytest.mark.parametrize(
    ("namespace", "where"), [(None, "in all namespaces"), ("team-a", "in namespace team-a")]
)
def test_a_list_that_cannot_be_read_says_so_each_time(namespace, where):
    """A failure is not remembered; who reads it knows which right is missing, and where."""
    api, discovery = Api(before=forbid), Discovery(lambda: 0.0)

    for _ in range(2):
        with pytest.raises(OwnersUnknownError, match=rf"{where}: .* may not list it") as raised:
            gatherer(api, discovery=discovery, believes=True).check_list(RESOURCE, namespace)
        assert "runs.bubustack.io" in raised.value.message
    assert len(api.requests) == 2


def test_versions_that_cannot_be_asked_for_are_unknown():
    """It is not as if there were none."""
    api = Api()
    api.before = fail(
        KubeForbiddenError("no", status=403), times=1, when=lambda request: request.path == GROUP
    )

    with pytest.raises(OwnersUnknownError, match=r"in which versions StoryRun.* is served: no"):
        gatherer(api).other_versions(STORY_RUN)


def test_the_versions_in_which_a_kind_is_served_are_found_among_all_of_its_group():
    """However many they are: one that was left out would look as if nobody owned runs."""
    api = Api()
    api.served = {f"{GROUP}/v{number}": [entry("StepRun", "stepruns")] for number in range(30)}
    api.served[f"{GROUP}/v2"] = api.served[f"{GROUP}/v29"] = [entry("StoryRun", "storyruns")]

    assert gatherer(api).other_versions(STORY_RUN) == ["v2", "v29"]
