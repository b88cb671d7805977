"""What is remembered of what an API server serves: for half a minute, and not without bounds."""

from __future__ import annotations

import pytest

from bubu_operator.owners.gather import (
    DISCOVERY_SECONDS,
    MOST_ANSWERS,
    Discovery,
    Gatherer,
    NotServedError,
    Traffic,
)
from bubu_operator.owners.kinds import STORY_RUN
from tests.unit.operator_owners.world import RUNS, Api


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


@pytest.mark.parametrize("believes", [False, True])
def test_a_gatherer_learns_always_and_believes_only_where_it_is_told_to(believes):
    """An absence that is remembered is one; whoever asks anew sees what has come since."""
    api, discovery = Api(), Discovery(lambda: 0.0)
    entries = api.served.pop(RUNS)

    def look(**options):
        gatherer = Gatherer(
            api, deadline=9.0, traffic=Traffic(), monotonic=lambda: 0.0, discovery=discovery, **options
        )
        return gatherer.resource_of(STORY_RUN)

    with pytest.raises(NotServedError):
        look()
    api.served[RUNS] = entries
    if believes:
        with pytest.raises(NotServedError):
            look(believes=True)
    assert look().plural == "storyruns"
    api.served.pop(RUNS)
    assert look(believes=True).plural == "storyruns"
