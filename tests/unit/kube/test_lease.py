"""The Lease: what a record allows, and that no order of events lets two act at once."""

from __future__ import annotations

import copy
import heapq
import itertools
import random
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bubu_operator.errors import (
    KubeConflictError,
    KubeForbiddenError,
    KubeNotFoundError,
    KubeTimeoutError,
    LeadershipLostError,
)
from bubu_operator.kube.lease import (
    Decision,
    LeaseRecord,
    LeaseTimes,
    Observation,
    Step,
    decide,
    held_record,
    lease_record,
    lease_spec,
    observe,
    released_record,
)
from bubu_operator.kube.lease_elector import HUNG_SECONDS, LeaseElector
from bubu_operator.kube.lease_fence import LeadershipFence

TIMES = LeaseTimes()
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HELD = LeaseRecord("other", 10, "a", "b", 3)


class Server:
    """One Lease with versions, as the API server keeps it."""

    def __init__(self):
        self.lease = None
        self.version = 0
        self.fail_with = None
        self.writes = []

    def get(self, _resource, name, namespace, **_):
        """Read it."""
        self._maybe_fail()
        if self.lease is None:
            raise KubeNotFoundError(f"no Lease {namespace}/{name}", status=404)
        return copy.deepcopy(self.lease)

    def create(self, _resource, body, _namespace, **_):
        """Make it unless it is there."""
        self._maybe_fail()
        if self.lease is not None:
            raise KubeConflictError("exists", status=409)
        return self._store(body)

    def replace(self, _resource, body, **_):
        """Put it unless it has changed."""
        self._maybe_fail()
        if self.lease is None:
            raise KubeNotFoundError("gone", status=404)
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubeConflictError("changed", status=409)
        return self._store(body)

    def edit(self, **fields):
        """Change the spec as somebody else."""
        lease = copy.deepcopy(self.lease)
        lease["spec"] |= fields
        self._store(lease)

    def _maybe_fail(self):
        if self.fail_with is not None:
            raise self.fail_with

    def _store(self, body):
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        self.writes.append(self.lease["spec"]["holderIdentity"])
        return copy.deepcopy(self.lease)


class Clock:
    """A clock that tests move."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        """Tell the time."""
        return self.now


class Candidate:
    """An elector whose steps a test makes."""

    def __init__(self, server, clock, name, wall_clock=lambda: NOW):
        self.fence = LeadershipFence(clock)
        self.elector = LeaseElector(
            server,
            namespace="ns",
            name="lease",
            identity=name,
            fence=self.fence,
            wall_clock=wall_clock,
            clock=clock,
            rng=random.Random(1),
        )

    def step(self):
        """Make one."""
        return self.elector.step()

    @property
    def leads(self):
        """Whether it may act."""
        return self.fence.is_open


@pytest.fixture
def server():
    """An empty one."""
    return Server()


@pytest.fixture
def clock():
    """The machine's."""
    return Clock()


# -- the decision ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "age", "expected"),
    [
        (None, 0.0, Decision(Step.CREATE)),
        (LeaseRecord(), 0.0, Decision(Step.TAKE)),
        (LeaseRecord("me", 10), 99.0, Decision(Step.RENEW)),
        (HELD, 0.0, Decision(Step.WAIT, 10.0)),
        (HELD, 9.5, Decision(Step.WAIT, 0.5)),
        (HELD, 10.0, Decision(Step.TAKE)),
        (LeaseRecord("other", 30), 20.0, Decision(Step.WAIT, 10.0)),
        (LeaseRecord("other", 10**9), 60.0, Decision(Step.TAKE)),
        (LeaseRecord("other", 1), 5.0, Decision(Step.WAIT, 5.0)),
        (LeaseRecord("", 1), 0.0, Decision(Step.TAKE)),
        (LeaseRecord("", 10), 0.0, Decision(Step.WAIT, 10.0)),
    ],
)
def test_what_a_record_allows(record, age, expected):
    """By its holder, and by how long it has been seen unchanged; a holder may ask for more patience only."""
    assert decide(Observation(record, 1000.0), "me", TIMES, 1000.0 + age) == expected


def test_times_in_a_record_say_nothing():
    """A renewal far in the past or the future is as fresh as its last change."""
    for renewed in ("1970-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z", "nonsense"):
        record = LeaseRecord("other", 10, renew_time=renewed)
        assert decide(Observation(record, 0.0), "me", TIMES, 1.0).step is Step.WAIT


def test_a_lease_that_vanished_is_waited_for():
    """Its holder may not know yet; one that never was there is made at once."""
    seen = observe(None, HELD, 100.0)
    gone = observe(observe(seen, None, 101.0), None, 105.0)

    assert decide(gone, "me", TIMES, 105.0) == Decision(Step.WAIT, 6.0)
    assert decide(gone, "me", TIMES, 111.0) == Decision(Step.CREATE)
    assert decide(observe(None, None, 0.0), "me", TIMES, 0.0) == Decision(Step.CREATE)


def test_only_a_change_counts_as_a_sign_of_life():
    """Reading the same again does not make it younger."""
    first = observe(None, HELD, 100.0)

    assert observe(first, HELD, 105.0).changed_at == 100.0
    assert observe(first, LeaseRecord("other", 10, "a", "c", 3), 105.0).changed_at == 105.0


def test_every_renewal_is_a_change_even_if_the_wall_clock_stands_still():
    """Those who watch see it; the time of acquisition and the count of holders stay."""
    taken = held_record(HELD, "me", TIMES, NOW)
    renewed = held_record(taken, "me", TIMES, NOW)

    assert (taken.transitions, taken.acquire_time) == (4, "2026-01-02T03:04:05.678901Z")
    assert renewed.renew_time == "2026-01-02T03:04:05.678902Z"
    assert (renewed.transitions, renewed.acquire_time) == (4, taken.acquire_time)
    assert released_record(renewed, NOW).holder == ""


def test_records_survive_the_way_through_the_api():
    """What is written is read back; what somebody else broke counts as empty."""
    record = held_record(None, "me", TIMES, NOW)

    assert lease_record({"spec": lease_spec(record)}) == record
    broken = {"holderIdentity": 5, "leaseDurationSeconds": "x", "renewTime": None, "leaseTransitions": -1}
    assert lease_record({"spec": broken}) == LeaseRecord()
    assert lease_record({}) == LeaseRecord()


@pytest.mark.parametrize("times", [(10, 10, 2), (10, 7, 7), (5, 7, 2), (10, 7, 0)])
def test_times_that_leave_no_room_are_refused(times):
    """A holder has to have stopped before anybody takes over."""
    with pytest.raises(ValueError, match="retry < renew deadline < duration"):
        LeaseTimes(*times)


# -- the fence ---------------------------------------------------------------------------


def test_the_fence_closes_by_the_clock_alone(clock):
    """Nobody has to run in time; a request may not take longer than until a successor could act."""
    fence = LeadershipFence(clock, grace_seconds=1.5)
    with pytest.raises(LeadershipLostError):
        fence.check("PATCH /x")
    fence.extend(1007.0)
    assert fence.check("PATCH /x") == 8.5
    fence.extend(1003.0)
    assert fence.valid_until == 1007.0

    clock.now = 1007.0

    assert not fence.is_open
    with pytest.raises(LeadershipLostError, match="PATCH /x: not sent"):
        fence.check("PATCH /x")


def test_a_revoked_fence_stays_closed(clock):
    """Also for a renewal that comes in late."""
    fence = LeadershipFence(clock)
    fence.extend(2000.0)
    fence.revoke()
    fence.extend(3000.0)

    assert not fence.is_open


# -- the elector -------------------------------------------------------------------------


def test_the_first_one_leads_and_renews(server, clock):
    """It creates the Lease, and each renewal prolongs what is counted from before it was sent."""
    one = Candidate(server, clock, "one")
    one.step()
    assert one.leads
    assert one.fence.valid_until == 1007.0

    clock.now += 2
    one.step()

    assert one.fence.valid_until == 1009.0
    assert server.lease["spec"]["leaseTransitions"] == 0


def test_a_second_one_waits_for_exactly_the_lease_duration(server, clock):
    """Counted from when it saw the last renewal, not from when that was written."""
    one, two = Candidate(server, clock, "one"), Candidate(server, clock, "two")
    one.step()
    clock.now += 1.5
    pause = two.step()
    assert pause <= 2.0
    clock.now += 9.99
    pause = two.step()
    assert not two.leads
    assert pause == pytest.approx(0.01, abs=0.001)

    clock.now += pause
    two.step()

    assert two.leads
    assert not one.leads
    assert server.lease["spec"]["leaseTransitions"] == 1


def test_one_that_was_asleep_writes_nothing_and_has_lost(server, clock):
    """Even if nobody has taken over: its threads may be anywhere."""
    one = Candidate(server, clock, "one")
    one.step()
    writes = len(server.writes)
    clock.now += 60

    one.step()

    assert one.elector.lost.is_set()
    assert "was not renewed for 7 s" in one.elector.why_lost
    assert len(server.writes) == writes


def test_a_failing_renewal_is_tried_again_until_the_deadline(server, clock):
    """An API server that comes back in time finds the same leader, one that does not ends it."""
    one = Candidate(server, clock, "one")
    one.step()
    server.fail_with = KubeTimeoutError("silence")
    for _ in range(3):
        clock.now += 2
        assert one.step() <= 0.5
    assert one.leads
    server.fail_with = None
    one.step()
    assert one.fence.valid_until == clock.now + 7
    server.fail_with = KubeTimeoutError("silence")
    one.step()
    clock.now += 7

    one.step()

    assert one.elector.lost.is_set()
    assert "silence" in one.elector.why_lost


def test_somebody_elses_edit_is_not_a_loss(server, clock):
    """A label on the Lease makes the next write conflict; the holder is still the holder."""
    one = Candidate(server, clock, "one")
    one.step()
    server.lease["metadata"]["labels"] = {"a": "b"}
    server.edit(preferredHolder="x")
    clock.now += 2
    assert one.step() == 0.0
    one.step()

    assert one.fence.valid_until == 1009.0
    assert server.lease["metadata"]["labels"] == {"a": "b"}
    assert server.lease["spec"]["preferredHolder"] == "x"


@pytest.mark.parametrize("change", [{"holderIdentity": "two"}, {"holderIdentity": ""}, None])
def test_a_lease_that_is_taken_away_is_lost_at_the_next_renewal(server, clock, change):
    """Given to another one, emptied, or deleted: the fence closes then, and does not open again."""
    one = Candidate(server, clock, "one")
    one.step()
    if change is None:
        server.lease = None
    else:
        server.edit(**change)
    clock.now += 2
    one.step()
    one.step()

    assert one.elector.lost.is_set()
    assert not one.leads


def test_a_lost_answer_does_not_lose_the_lease(server, clock):
    """A create or take-over that arrived although its answer did not: the identity tells that it is ours."""
    one = Candidate(server, clock, "one")
    server.create(None, {"metadata": {}, "spec": lease_spec(held_record(None, "one", TIMES, NOW))}, "ns")

    one.step()

    assert one.leads
    assert server.lease["spec"]["leaseTransitions"] == 0


def test_wall_clocks_that_jump_have_no_effect(server, clock):
    """Years forward and back at every renewal, and another year on the other machine: nobody takes over."""
    jumps = itertools.cycle([timedelta(days=365), timedelta(days=-3650), timedelta(0)])
    one = Candidate(server, clock, "one", wall_clock=lambda: NOW + next(jumps))
    two = Candidate(server, clock, "two", wall_clock=lambda: NOW + timedelta(days=36500))
    for _ in range(20):
        one.step()
        two.step()
        clock.now += 2

        assert one.leads
        assert not two.leads
    assert set(server.writes) == {"one"}


def test_giving_back_lets_the_next_one_in_at_once(server, clock):
    """The fence closes first; the next look of a waiting one takes the Lease."""
    one, two = Candidate(server, clock, "one"), Candidate(server, clock, "two")
    one.step()
    two.step()

    assert one.elector.release()
    assert not one.leads
    two.step()

    assert two.leads
    assert server.writes == ["one", "", "two"]


def test_one_that_does_not_lead_gives_nothing_back(server, clock):
    """Neither one that waits nor one whose time has passed touches the Lease at its end."""
    one, two = Candidate(server, clock, "one"), Candidate(server, clock, "two")
    one.step()
    two.step()
    clock.now += 8

    assert not two.elector.release()
    assert not one.elector.release()
    assert server.writes == ["one"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KubeForbiddenError("no", status=403), "rights to get, create and update the Lease ns/lease"),
        (KubeTimeoutError("silence"), "cannot be read or written: silence"),
    ],
)
def test_why_it_cannot_take_part_is_said_once(server, clock, caplog, error, words):
    """In the log once, in `problem` as long as it lasts."""
    one = Candidate(server, clock, "one")
    server.fail_with = error
    one.step()
    one.step()

    assert words in one.elector.problem
    assert caplog.text.count(words) == 1
    server.fail_with = None
    one.step()
    assert one.elector.problem == ""


def test_a_missing_namespace_is_named(server, clock, monkeypatch):
    """The Lease cannot be created because its namespace is not there."""

    def refuse(*_, **__):
        raise KubeNotFoundError('namespaces "ns" not found', status=404)

    monkeypatch.setattr(server, "create", refuse)
    one = Candidate(server, clock, "one")
    one.step()

    assert "--operator-namespace" in one.elector.problem


def test_an_election_that_hangs_shows(server, clock, monkeypatch):
    """A request that never returns makes the process unhealthy; a running election does not."""
    one = Candidate(server, clock, "one")
    hold = threading.Event()

    def hang(*_, **__):
        hold.wait(60)
        raise KubeTimeoutError("silence")

    def refuse(*_, **__):
        raise KubeForbiddenError("no watching", status=403)

    monkeypatch.setattr(server, "get", hang)
    monkeypatch.setattr(server, "watch", refuse, raising=False)
    assert one.elector.stuck == ""
    one.elector.start()
    try:
        assert one.elector.stuck == ""
        clock.now += HUNG_SECONDS
        assert "has not moved for 20 s" in one.elector.stuck
    finally:
        one.elector.stop()
        hold.set()
        one.elector.join(60)
    assert one.elector.stuck == ""


def test_a_fault_of_our_own_ends_the_leadership(server, clock, monkeypatch):
    """A bug in the election leaves no leader behind that nobody watches over."""
    one = Candidate(server, clock, "one")
    one.step()
    monkeypatch.setattr(one.elector, "step", lambda: 1 // 0)

    one.elector._run()

    assert one.elector.lost.is_set()
    assert not one.leads


# -- never two ---------------------------------------------------------------------------


class _World:
    """Two processes with clocks that differ in offset and rate, requests with arbitrary delays.

    Only the pure functions and the fence are used, in the order in which the elector does: a
    process reads the clock, sends, the server acts at some moment, the answer arrives at another.
    """

    def __init__(self, delays, rates, offsets):
        self.delays = iter(delays)
        self.true_now = 0.0
        self.record = None
        self.version = 0
        self.clocks = [
            (lambda rate=rate, offset=offset: self.true_now * rate + offset)
            for rate, offset in zip(rates, offsets, strict=True)
        ]
        self.fences = [LeadershipFence(clock) for clock in self.clocks]
        self.seen = [None, None]
        self.versions = [0, 0]
        self.leads = [False, False]
        self.events = []
        self.order = itertools.count()

    def at(self, delay, action):
        """Do something later."""
        heapq.heappush(self.events, (self.true_now + delay, next(self.order), action))

    def run(self, until):
        """Go on to that time; after each event and right before the next one at most one may act."""
        while self.events and self.events[0][0] <= until:
            when, _, action = heapq.heappop(self.events)
            self.check(when)
            self.true_now = when
            action()
            self.check(when)

    def check(self, when):
        """Fail if both fences are open at a moment up to ``when``."""
        before, self.true_now = self.true_now, when
        both = all(fence.is_open for fence in self.fences)
        self.true_now = before
        assert not both, f"both may act at {when}"

    def turn(self, who):
        """One look of one process, its request on the way; the process may be stopped before any of it."""
        identity = f"p{who}"
        if self.leads[who] and not self.fences[who].is_open:
            return  # lost: it would exit; another process with another name comes in
        sent_at = self.clocks[who]()

        def read():
            record, version = self.record, self.version

            def answered():
                self.seen[who] = observe(self.seen[who], record, self.clocks[who]())
                decision = decide(self.seen[who], identity, TIMES, self.clocks[who]())
                if decision.step is Step.WAIT:
                    self.at(self.draw_delay(), lambda: self.turn(who))
                    return
                write_sent_at = sent_at if decision.step is Step.RENEW else self.clocks[who]()
                wanted = held_record(record, identity, TIMES, NOW + timedelta(seconds=self.clocks[who]()))
                self.at(self.draw_delay(), lambda: write(version, wanted, write_sent_at))

            self.at(self.draw_delay(), answered)

        def write(version, wanted, write_sent_at):
            ok = version == self.version
            if ok:
                self.record, self.version = wanted, self.version + 1

            def answered():
                if ok:
                    self.seen[who] = observe(self.seen[who], wanted, self.clocks[who]())
                    self.fences[who].extend(write_sent_at + TIMES.renew_deadline_seconds)
                    self.leads[who] = True
                self.at(self.draw_delay(), lambda: self.turn(who))

            self.at(self.draw_delay(), answered)

        self.at(self.draw_delay(), read)

    def draw_delay(self):
        """How long the next thing takes."""
        return next(self.delays, 0.4)


DELAYS = st.one_of(
    st.floats(0.0, 0.2), st.floats(0.0, 3.0), st.floats(6.9, 7.1), st.floats(9.9, 10.1), st.just(25.0)
)
"""Mostly short, sometimes longer than a Lease is good for."""


@settings(max_examples=300, deadline=None)
@given(
    delays=st.lists(DELAYS, max_size=60),
    rates=st.tuples(st.floats(0.9, 1.1), st.floats(0.9, 1.1)),
    offsets=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
)
def test_whatever_is_delayed_two_never_act_at_once(delays, rates, offsets):
    """Processes are stopped, requests and answers are late, clocks are off and run at other speeds."""
    world = _World(delays, rates, offsets)
    world.at(0.0, lambda: world.turn(0))
    world.at(world.draw_delay(), lambda: world.turn(1))

    world.run(until=60.0)


def test_without_delays_somebody_leads():
    """The model is no empty one: the first one leads, and when it is gone the second one does."""
    world = _World([], (1.0, 1.0), (0.0, 50.0))
    world.at(0.0, lambda: world.turn(0))
    world.at(1.0, lambda: world.turn(1))
    world.run(until=30.0)
    assert [fence.is_open for fence in world.fences] == [True, False]

    world.fences[0].revoke()
    world.run(until=60.0)

    assert [fence.is_open for fence in world.fences] == [False, True]


def test_the_model_finds_two_when_the_rule_is_broken():
    """The check can fail: with a holder that trusts itself longer than others do, both act."""
    world = _World([], (1.0, 1.0), (0.0, 0.0))
    world.fences[0].extend(1000.0)
    world.at(0.0, lambda: world.turn(1))

    with pytest.raises(AssertionError, match="both may act"):
        world.run(until=60.0)
