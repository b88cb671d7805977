"""The source of owners: fresh, complete, shared, cheap when little changes, and never less than was there."""

from __future__ import annotations

import threading

import pytest

from bubu_operator.errors import KubeForbiddenError, KubeUnreachableError
from bubu_operator.owners.census import NO_CENSUS, Census, OwnersProblem
from bubu_operator.owners.kinds import DEFAULT_KINDS, OwnerKind
from bubu_operator.owners.served import OwnersAnomalyError
from bubu_operator.owners.source import REDISCOVER_SECONDS, ApiOwnerSource, open_owners
from bubu_storage.errors import OwnersUnknownError
from bubu_storage.retention.owners import OwnerFacts
from tests.unit.operator_owners.world import (
    RUNS,
    STEP_RUNS,
    STORY_RUNS,
    Api,
    entry,
    fail,
    ref,
    step_run,
    story_run,
)

BOTH = frozenset(kind.name for kind in DEFAULT_KINDS)
JOB = OwnerKind.named("batch", "v1", "Job", "", [])


class Clock:
    """A clock that goes on by a second with each look."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        """Tell the time."""
        self.now += 1
        return self.now


@pytest.fixture
def clock():
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def api():
    """A live story run with a live step, and one that has ended."""
    made = Api()
    made.put(STORY_RUNS, story_run("r1", spec={"inputs": ref("inputs/team-a/r1/in.json")}))
    made.put(
        STORY_RUNS, story_run("r0", phase="Succeeded", metadata={"creationTimestamp": "2025-12-31T00:00:00Z"})
    )
    made.put(
        STEP_RUNS, step_run("r1-a", "r1", "Succeeded", status={"output": ref("outputs/team-a/r1-a/out.json")})
    )
    return made


@pytest.fixture
def source(api, clock):
    """A source of all namespaces."""
    return make(api, clock)


def make(api, clock, **options):
    """Make a source that waits without waiting."""
    made = ApiOwnerSource(api, clock=clock, sleep=lambda _: None, **({"namespace": None} | options))
    made.find_kinds()
    return made


def lists(api, *, metadata_only):
    """Return the lists that were asked for, by plural."""
    return [
        request.path.rsplit("/", 1)[1]
        for request in api.requests
        if request.query and not request.query["continue"] and request.metadata_only == metadata_only
    ]


def test_a_view_tells_owners_and_references(source):
    """All of them, with life and rank."""
    view = source.observe(0.0)

    assert view.owners == {
        "team-a/r1": OwnerFacts(live=True, rank=1),
        "team-a/r0": OwnerFacts(live=False, rank=2),
        "team-a/r1-a": OwnerFacts(live=True, rank=1),
    }
    assert view.references == {"inputs/team-a/r1/in.json", "outputs/team-a/r1-a/out.json"}
    assert source.census == Census(1, 3, BOTH)
    assert source.anomaly is None


def test_a_namespaced_policy_lists_its_namespace_alone(api, clock):
    """It needs no right elsewhere, and learns nothing of others."""
    api.put(STORY_RUNS, story_run("x", metadata={"namespace": "team-b"}))
    view = make(api, clock, namespace="team-a").observe(0.0)

    assert "team-b/x" not in view.owners
    assert all("/namespaces/team-a/" in request.path for request in api.requests if request.query)
    assert "team-b/x" in make(api, clock).observe(0.0).owners


def test_a_view_is_as_fresh_as_asked_for(source, clock, api):
    """One that is fresh enough is given again; the moment that counts is when its reading began."""
    first = source.observe(0.0)
    asked = len(api.requests)
    again = source.observe(first.observed_at)
    assert again is first
    assert len(api.requests) == asked

    wanted = clock.now
    assert source.observe(wanted).observed_at >= wanted


def test_nothing_new_is_cheap_and_says_so(source, clock, api):
    """Metadata alone is listed, and the version is the same."""
    first = source.observe(0.0)
    api.requests.clear()
    second = source.observe(clock.now)

    assert second.version == first.version
    assert second.owners is first.owners
    assert lists(api, metadata_only=True) == [STORY_RUNS, STEP_RUNS]
    assert len(api.requests) == 2


def test_a_new_owner_is_seen_at_once(source, clock, api):
    """And read in full, alone."""
    first = source.observe(0.0)
    api.put(STORY_RUNS, story_run("r2", spec={"inputs": ref("outputs/team-a/r0/old.json")}))
    api.requests.clear()
    second = source.observe(clock.now)

    assert second.version > first.version
    assert second.owners["team-a/r2"].live
    assert "outputs/team-a/r0/old.json" in second.references
    assert [request.path for request in api.requests if not request.query] == [
        RUNS + "/namespaces/team-a/storyruns/r2"
    ]


def test_what_ends_is_let_go_by_the_second_reading(source, clock, api):
    """Also what is deleted; then it is gone."""
    source.observe(0.0)
    api.put(STORY_RUNS, story_run("r1", phase="Succeeded"))
    api.drop(STEP_RUNS, "team-a/r1-a")
    once = source.observe(clock.now)
    twice = source.observe(clock.now)

    assert once.owners["team-a/r1"].live
    assert "outputs/team-a/r1-a/out.json" in once.references
    assert twice.owners == {"team-a/r1": OwnerFacts(False, 1), "team-a/r0": OwnerFacts(False, 2)}
    assert twice.references == frozenset()


def test_many_changes_are_listed_in_full(source, clock, api):
    """One by one they would cost more."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(100)))
    source.observe(0.0)
    api.put(STORY_RUNS, *(story_run(f"x{number}", phase="Failed") for number in range(50)))
    api.requests.clear()
    source.observe(clock.now)
    view = source.observe(clock.now)

    assert lists(api, metadata_only=False) == [STORY_RUNS]
    assert sum(facts.live for run, facts in view.owners.items() if "/x" in run) == 50


def test_an_owner_that_goes_while_it_is_read_counts_once_more(source, clock, api):
    """It was there when the list was made, and nobody has seen its phase."""
    source.observe(0.0)
    api.put(STORY_RUNS, story_run("brief"))

    def before(request):
        if request.path.endswith("/brief"):
            api.drop(STORY_RUNS, "team-a/brief")

    api.before = before
    assert source.observe(clock.now).owners["team-a/brief"].live
    source.observe(clock.now)
    assert "team-a/brief" not in source.observe(clock.now).owners


def test_an_owner_that_changes_while_it_is_read_counts_as_live(source, clock, api):
    """Nobody has seen it as it was when the list was made; it is read again."""
    source.observe(0.0)
    api.put(STORY_RUNS, story_run("quick"))

    def before(request):
        if request.path.endswith("/quick"):
            api.before = lambda _: None
            api.put(STORY_RUNS, story_run("quick", phase="Succeeded"))

    api.before = before
    assert source.observe(clock.now).owners["team-a/quick"].live
    source.observe(clock.now)
    assert not source.observe(clock.now).owners["team-a/quick"].live


def test_a_failed_observation_changes_nothing(source, clock, api):
    """The view before it stands, as old as it is; the next attempt starts from there."""
    first = source.observe(0.0)
    api.before = fail(KubeUnreachableError("boom"), times=9)
    with pytest.raises(OwnersUnknownError, match="boom") as raised:
        source.observe(clock.now)
    assert raised.value.code == OwnersProblem.UNKNOWN.value
    assert source.observe(first.observed_at) is first

    api.before = lambda _: None
    assert source.observe(clock.now).owners == first.owners


def test_a_right_that_is_taken_away_is_told(source, clock, api):
    """In the middle of a pass."""
    source.observe(0.0)
    api.before = fail(
        KubeForbiddenError("no", status=403), times=9, when=lambda r: r.path.endswith(STEP_RUNS)
    )

    with pytest.raises(
        OwnersUnknownError, match=r"may not list it. Grant .* get and list on resource stepruns"
    ):
        source.observe(clock.now)


# -- which kinds -----------------------------------------------------------------------


def test_without_any_kind_nobody_owns_runs(api):
    """The usual kinds are not served and never were: there is no source."""
    api.served = {"/apis/batch/v1": [entry("Job", "jobs")]}
    assert open_owners(api, namespace=None) is None
    api.served[RUNS] = []
    assert open_owners(api, namespace=None) is None


def test_a_named_kind_must_be_served(api):
    """It is an error, not an empty list."""
    with pytest.raises(OwnersUnknownError, match="does not serve batch/v1 Job"):
        open_owners(api, [JOB], namespace=None)
    api.served["/apis/batch/v1"] = [entry("Job", "jobs")]
    assert open_owners(api, [JOB], namespace=None) is not None


def test_a_named_kind_counts_besides_the_usual_ones(api, clock):
    """Which count wherever they are served."""
    api.served["/apis/batch/v1"] = [entry("Job", "jobs")]
    api.put("jobs", {"metadata": {"name": "j", "namespace": "team-a"}})

    view = make(api, clock, kinds=[JOB]).observe(0.0)
    assert view.owners["team-a/j"] == OwnerFacts(live=True, rank=None)
    assert "team-a/r1" in view.owners
    del api.served[RUNS]
    assert make(api, clock, kinds=[JOB]).observe(0.0).owners.keys() == {"team-a/j"}


@pytest.mark.parametrize("kind", ["StoryRun", "StepRun"])
def test_one_of_the_usual_kinds_alone_is_an_error(api, kind):
    """Whatever the other one would say would be missed."""
    api.served[RUNS] = [item for item in api.served[RUNS] if item["kind"] == kind]

    with pytest.raises(OwnersUnknownError, match="install both"):
        open_owners(api, namespace=None)


def test_the_usual_kinds_in_another_version_are_an_error(api):
    """They are there, and nobody has said how to read them."""
    api.served = {"/apis/runs.bubustack.io/v1": api.served[RUNS]}

    with pytest.raises(OwnersUnknownError, match=r"in v1 and not in v1alpha1.*spec\.owners"):
        open_owners(api, namespace=None)


def test_discovery_that_fails_stops_the_pass(api):
    """Nobody knows then whether anybody owns runs."""
    api.before = fail(KubeUnreachableError("down", status=503), times=9)

    with pytest.raises(OwnersUnknownError, match="down"):
        open_owners(api, namespace=None)


def test_a_kind_that_was_there_before_and_is_gone(api):
    """Since the last pass: no source until that is approved, by its own token."""
    api.served = {}
    before = Census(5, 9, BOTH)
    with pytest.raises(OwnersAnomalyError, match=r"StepRun\.v1alpha1\.runs\.bubustack\.io") as raised:
        open_owners(api, namespace=None, before=before)

    anomaly = raised.value.anomaly
    assert raised.value.code == anomaly.problem.value == "OwnerKindVanished"
    with pytest.raises(OwnersAnomalyError):
        open_owners(api, namespace=None, before=before, acknowledged="another")
    assert open_owners(api, namespace=None, before=before, acknowledged=anomaly.token) is None


def test_one_of_two_kinds_that_is_gone_for_good(api):
    """Approved: runs are judged by the other one alone."""
    api.served[RUNS] = api.served[RUNS][:1]
    with pytest.raises(OwnersAnomalyError) as raised:
        open_owners(api, namespace=None, before=Census(1, 3, BOTH))

    token = raised.value.anomaly.token
    source = open_owners(api, namespace=None, before=Census(1, 3, BOTH), acknowledged=token)
    assert source.observe(0.0).owners.keys() == {"team-a/r0", "team-a/r1"}


def test_a_kind_that_goes_during_a_pass(source, clock, api):
    """Its list is not found: discovery is asked, and says that it has vanished."""
    source.observe(0.0)
    api.served[RUNS] = api.served[RUNS][:1]

    with pytest.raises(OwnersAnomalyError, match="StepRun"):
        source.observe(clock.now)

    assert source.anomaly.problem is OwnersProblem.KIND_VANISHED
    assert source.census == Census(1, 3, BOTH)


def test_a_kind_that_comes_during_a_pass(api, clock):
    """Discovery is repeated."""
    api.served["/apis/batch/v1"] = [entry("Job", "jobs")]
    runs = api.served.pop(RUNS)
    source = make(api, clock, kinds=[JOB])
    assert source.observe(0.0).owners == {}
    api.served[RUNS] = runs
    clock.now += REDISCOVER_SECONDS

    assert "team-a/r1" in source.observe(clock.now).owners


# -- what is believed ----------------------------------------------------------------------


def test_live_owners_that_vanish_stop_the_pass(source, clock, api):
    """More than half of them, and nobody saw them end; the census stays as it was."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    view = source.observe(0.0)
    for number in range(6):
        api.drop(STORY_RUNS, f"team-a/x{number}")

    with pytest.raises(OwnersAnomalyError, match="of 10 live owners 6 are gone") as raised:
        source.observe(clock.now)

    assert raised.value.code == "LiveCountDropped"
    assert source.anomaly == raised.value.anomaly
    assert source.census.live == 10
    assert source.observe(view.observed_at) is view


def test_owners_that_end_and_are_removed_are_no_drop(source, clock, api):
    """Each was seen to end before it went."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    source.observe(0.0)
    for number in range(9):
        api.put(STORY_RUNS, story_run(f"x{number}", phase="Failed"))
        source.observe(clock.now)
        api.drop(STORY_RUNS, f"team-a/x{number}")

    assert "team-a/x8" in source.observe(clock.now).owners
    assert source.census.live == 1


def test_new_owners_do_not_make_up_for_those_that_vanish(source, clock, api):
    """The count is as before; the owners are others."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    source.observe(0.0)
    for number in range(9):
        api.drop(STORY_RUNS, f"team-a/x{number}")
    api.put(STORY_RUNS, *(story_run(f"y{number}") for number in range(9)))

    with pytest.raises(OwnersAnomalyError, match="of 10 live owners 9 are gone"):
        source.observe(clock.now)


def test_a_slow_drop_is_a_drop(source, clock, api):
    """Compared with the most that a pass has seen, not with the list right before."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    source.observe(0.0)
    for number in range(5):
        api.drop(STORY_RUNS, f"team-a/x{number}")
        source.observe(clock.now)
    api.drop(STORY_RUNS, "team-a/x5")

    with pytest.raises(OwnersAnomalyError):
        source.observe(clock.now)


def test_owners_that_end_and_stay_are_no_drop(source, clock, api):
    """They have been seen to end."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    source.observe(0.0)
    api.put(STORY_RUNS, *(story_run(f"x{number}", phase="Failed") for number in range(9)))

    source.observe(clock.now)

    assert source.census.live == 1


def test_a_drop_since_the_last_pass(api, clock):
    """By the counts of the status; approved, the new counts are what is compared with from now on."""
    before = Census(100, 100, BOTH)
    source = make(api, clock, before=before)
    with pytest.raises(OwnersAnomalyError) as raised:
        source.observe(0.0)
    assert source.census == before

    approved = make(api, clock, before=before, acknowledged=raised.value.anomaly.token)
    approved.observe(0.0)
    assert (approved.census, approved.anomaly) == (Census(1, 3, BOTH), None)
    api.drop(STORY_RUNS, "team-a/r1")
    with pytest.raises(OwnersAnomalyError):
        approved.observe(clock.now)


def test_owners_that_ended_between_two_passes_are_remembered(api, clock):
    """By counts alone they would be missing: as many that ended long ago were removed meanwhile."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    api.put(STORY_RUNS, *(story_run(f"old{number}", phase="Failed") for number in range(9)))
    first = make(api, clock)
    first.observe(0.0)
    for number in range(9):
        api.put(STORY_RUNS, story_run(f"x{number}", phase="Succeeded"))
        api.drop(STORY_RUNS, f"team-a/old{number}")

    with pytest.raises(OwnersAnomalyError):
        make(api, clock, before=first.census).observe(0.0)
    second = make(api, clock, before=first.census, remembered=first.belief)
    second.observe(0.0)
    assert second.census.live == 1


def test_owners_that_vanished_between_two_passes_are_remembered_too(api, clock):
    """New ones do not make up for them, as they would by counts."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(9)))
    first = make(api, clock)
    first.observe(0.0)
    for number in range(9):
        api.drop(STORY_RUNS, f"team-a/x{number}")
    api.put(STORY_RUNS, *(story_run(f"y{number}") for number in range(9)))
    make(api, clock, before=first.census).observe(0.0)

    later = make(api, clock, before=first.census, remembered=first.belief)
    with pytest.raises(OwnersAnomalyError, match="of 10 live owners 9 are gone") as raised:
        later.observe(0.0)
    token = raised.value.anomaly.token
    assert make(api, clock, before=first.census, remembered=later.belief, acknowledged=token).observe(0.0)


def test_what_is_remembered_is_who_was_live_last(api, clock):
    """Not who was live when most were: of those who came later, none may vanish unseen either."""
    api.put(STORY_RUNS, *(story_run(f"x{number}") for number in range(20)))
    first = make(api, clock)
    first.observe(0.0)
    api.put(STORY_RUNS, *(story_run(f"x{number}", phase="Failed") for number in range(20)))
    api.put(STORY_RUNS, *(story_run(f"y{number}") for number in range(5)))
    first.observe(clock.now)
    for number in range(5):
        api.drop(STORY_RUNS, f"team-a/y{number}")

    later = make(api, clock, before=first.census, remembered=first.belief)
    with pytest.raises(OwnersAnomalyError, match="of 6 live owners 5 are gone"):
        later.observe(0.0)


def test_what_another_census_left_is_not_remembered(api, clock):
    """The status says otherwise: it is what counts."""
    first = make(api, clock)
    first.observe(0.0)
    before = Census(100, 100, BOTH)

    with pytest.raises(OwnersAnomalyError, match="of 100 live owners"):
        make(api, clock, before=before, remembered=first.belief).observe(0.0)


def test_a_list_that_is_credible_again_clears_the_finding(source, clock, api):
    """The owners are back."""
    source.observe(0.0)
    api.drop(STORY_RUNS, "team-a/r1")
    with pytest.raises(OwnersAnomalyError):
        source.observe(clock.now)
    api.put(STORY_RUNS, story_run("r1"))

    assert source.observe(clock.now).owners["team-a/r1"].live
    assert source.anomaly is None


def test_the_first_list_of_all_has_nothing_to_be_compared_with(api, clock):
    """Nothing is odd about few owners."""
    assert make(api, clock, before=NO_CENSUS).observe(0.0)


# -- threads -------------------------------------------------------------------------------


def at_once(source, not_before, count=6):
    """Observe from several threads while the first of them is held; return the results and a release."""
    results = []

    def run():
        try:
            results.append(source.observe(not_before))
        except OwnersUnknownError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def held(api, *, until):
    """Let requests wait for an event; return one that is set when the first waits."""
    reached = threading.Event()

    def before(_):
        reached.set()
        assert until.wait(60)

    api.before = before
    return reached


def test_callers_at_the_same_time_share_one_observation(source, clock, api):
    """However many come."""
    source.observe(0.0)
    api.requests.clear()
    go_on = threading.Event()
    reached = held(api, until=go_on)
    threads, results = at_once(source, clock.now)
    assert reached.wait(60)
    go_on.set()
    for thread in threads:
        thread.join(60)

    assert len(results) == 6
    assert all(result is results[0] for result in results)
    assert len(lists(api, metadata_only=True)) == 2


def test_callers_that_want_it_fresher_wait_for_the_next(source, clock, api):
    """An observation that began too early does not serve them; one more serves them all."""
    source.observe(0.0)
    api.requests.clear()
    go_on = threading.Event()
    reached = held(api, until=go_on)
    early, early_results = at_once(source, clock.now, 1)
    assert reached.wait(60)
    wanted = clock() + 1
    late, late_results = at_once(source, wanted, 4)
    clock.now += 10
    go_on.set()
    for thread in (*early, *late):
        thread.join(60)

    assert early_results[0].observed_at < wanted
    assert all(result.observed_at >= wanted for result in late_results)
    assert len(lists(api, metadata_only=True)) == 4


def test_callers_at_the_same_time_share_a_failure(source, clock, api):
    """One that is down is not asked by each of them."""
    source.observe(0.0)
    api.requests.clear()
    go_on = threading.Event()
    reached = held(api, until=go_on)
    hold = api.before

    def before(request):
        hold(request)
        raise KubeForbiddenError("no", status=403)

    api.before = before
    threads, results = at_once(source, clock.now, 1)
    assert reached.wait(60)
    more, more_results = at_once(source, clock.now - 5, 5)
    deadline = threading.Event()
    while len(source._turn._waiters) < 5:
        deadline.wait(0.01)
    go_on.set()
    for thread in (*threads, *more):
        thread.join(60)

    failures = [*results, *more_results]
    assert len(failures) == 6
    assert all(isinstance(failure, OwnersUnknownError) for failure in failures)
    assert len(api.requests) == 1
