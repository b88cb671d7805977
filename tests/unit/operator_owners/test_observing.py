"""Every change is seen, failures are shared with those that waited, what is remembered is asked anew."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bubu_operator.errors import KubeForbiddenError
from bubu_operator.owners.census import NO_CENSUS
from bubu_operator.owners.gather import Discovery
from bubu_operator.owners.served import OwnersAnomalyError
from bubu_operator.owners.source import ApiOwnerSource, open_owners
from bubu_storage.errors import OwnersUnknownError
from tests.unit.operator_owners.world import RUNS, STORY_RUNS, Api, fail, ref, story_run

SECONDS = 60
"""The machine may be busy; nothing here takes long."""


@pytest.fixture
def api():
    """An API server with one live story run."""
    made = Api()
    made.put(STORY_RUNS, story_run("r1"))
    return made


def make(api, **options):
    """Make a source whose clock goes on by a second with each look."""
    ticks = itertools.count(1_000)
    source = ApiOwnerSource(
        api, namespace=None, clock=lambda: float(next(ticks)), sleep=lambda _: None, **options
    )
    source.find_kinds()
    return source


def until_somebody_waits(source):
    """Return when a caller waits for the observation of another one."""
    pause = threading.Event()
    assert any(source._turn._waiters or pause.wait(0.01) for _ in range(100 * SECONDS))


def discoveries(api):
    """Return the questions about what is served."""
    return [request.path for request in api.requests if request.path == RUNS]


def test_who_comes_after_a_failure_tries_again(api):
    """It was of somebody else's attempt, however little time has gone by since."""
    source = make(api)
    api.before = fail(KubeForbiddenError("no", status=403), times=1)
    with pytest.raises(OwnersUnknownError):
        source.observe(0.0)

    assert "team-a/r1" in source.observe(0.0).owners


def test_who_waits_for_an_attempt_that_began_too_early_tries_again_when_it_fails(api):
    """The failure says nothing of the time that was asked for."""
    source = make(api)
    reached, go_on = threading.Event(), threading.Event()

    def before(_):
        api.before = lambda _: None
        reached.set()
        assert go_on.wait(SECONDS)
        raise KubeForbiddenError("no", status=403)

    api.before = before
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(source.observe, 0.0)
        assert reached.wait(SECONDS)
        wanted = source._clock()
        late = threads.submit(source.observe, wanted)
        until_somebody_waits(source)
        go_on.set()

        assert isinstance(early.exception(SECONDS), OwnersUnknownError)
        assert late.result(SECONDS).observed_at >= wanted


def test_who_waits_for_an_attempt_learns_what_is_odd_about_its_reading(api):
    """Everybody gets the finding that is to be approved, each in an exception of its own."""
    source = make(api)
    source.observe(0.0)
    api.drop(STORY_RUNS, "team-a/r1")
    wanted = source._clock()
    reached, go_on = threading.Event(), threading.Event()

    def before(_):
        reached.set()
        assert go_on.wait(SECONDS)

    api.before = before
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(source.observe, wanted)
        assert reached.wait(SECONDS)
        late = threads.submit(source.observe, wanted)
        until_somebody_waits(source)
        go_on.set()
        errors = [early.exception(SECONDS), late.exception(SECONDS)]

    assert all(isinstance(error, OwnersAnomalyError) for error in errors)
    assert errors[0] is not errors[1]
    assert errors[0].anomaly == errors[1].anomaly == source.anomaly
    assert str(errors[0]) == str(errors[1])


def test_each_of_several_changes_in_a_row_is_seen(api):
    """What comes is protected at once, what ends is let go by the second reading, and both go on and on."""
    source = make(api)
    for number in range(4):
        name, key = f"x{number}", f"outputs/team-a/x{number}/a.json"
        api.put(STORY_RUNS, story_run(name, spec={"inputs": ref(key)}))
        view = source.observe(source._clock())
        assert view.owners[f"team-a/{name}"].live
        assert key in view.references
    for number in range(4):
        api.put(STORY_RUNS, story_run(f"x{number}", phase="Failed"))
        live = {run for run, facts in source.observe(source._clock()).owners.items() if facts.live}
        assert live == {"team-a/r1", *(f"team-a/x{held}" for held in range(number, 4))}
    view = source.observe(source._clock())

    assert {run for run, facts in view.owners.items() if facts.live} == {"team-a/r1"}
    assert view.references == frozenset()
    assert source.observe(source._clock()).version == view.version


@pytest.mark.parametrize("entries", [None, []])
def test_kinds_that_vanish_before_they_were_ever_read_leave_no_empty_list(api, entries):
    """They were served when the source was opened: that nobody owns runs now is not to be deleted by."""
    source = make(api)
    if entries is None:
        del api.served[RUNS]
    else:
        api.served[RUNS] = entries

    for _ in range(2):
        with pytest.raises(OwnersUnknownError, match="not served any more"):
            source.observe(0.0)

    assert source.census == NO_CENSUS


@pytest.mark.parametrize("believes", [False, True])
def test_what_is_remembered_of_the_server_is_believed_only_where_that_is_said(api, believes):
    """Nobody owned runs a moment ago; whoever asks anew learns that this has changed."""
    discovery, entries = Discovery(lambda: 0.0), api.served.pop(RUNS)
    options = {"believes": True} if believes else {}
    assert open_owners(api, namespace=None, discovery=discovery) is None
    api.served[RUNS] = entries

    found = open_owners(api, namespace=None, discovery=discovery, **options)

    assert (found is None) == believes
    assert make(api).find_kinds(discovery)


def test_what_is_served_is_asked_once_in_a_minute_of_a_pass(api):
    """The opening of the source has just asked, unless it believed what was remembered."""
    discovery = Discovery(lambda: 0.0)
    source = make(api)
    api.requests.clear()
    source.observe(0.0)
    source.observe(1_010.0)
    assert discoveries(api) == []

    source = make(api)
    source.find_kinds(discovery)
    source.find_kinds(discovery, believes=True)
    api.requests.clear()
    source.observe(0.0)
    assert discoveries(api) != []
