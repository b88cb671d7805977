"""One decision at a time: what each case leads to, by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from bubu_operator.certificates.stored import decode
from tests.unit.certificates.world import LIFETIMES, Api, Clock, Crash, Replica, leader_of


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """For replicas."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def api() -> Api:
    """A configured webhook, and no authority."""
    made = Api(Clock())
    made.configure()
    return made


def state_of(api: Api):
    """What the Secret holds."""
    assert api.secret is not None
    return decode(api.secret["data"]).state


def rotating(api: Api):
    """A leader that has just made the next authority known."""
    leader = leader_of(api, api.clock)
    for _ in range(2):
        leader.look()
    api.clock.seconds += LIFETIMES.ca_seconds * 2 / 3 + 1
    for _ in range(2):
        leader.look()
    assert state_of(api).upcoming is not None
    return leader


def test_the_next_authority_signs_only_after_the_propagation_time(api: Api):
    """Seen in every entry, without a change in between, by a clock that nobody sets."""
    leader = rotating(api)
    first = state_of(api).signing

    api.clock.seconds += LIFETIMES.propagation_seconds - 1
    leader.look()
    assert state_of(api).signing == first
    api.clock.seconds += 1
    leader.look()
    assert state_of(api).signing != first
    assert first.certificate in state_of(api).trusted


def test_an_edit_of_the_configuration_starts_the_wait_anew(api: Api):
    """Somebody took the next authority out; it is put back, and its time begins again."""
    leader = rotating(api)
    first = state_of(api).signing
    api.clock.seconds += LIFETIMES.propagation_seconds - 1
    assert api.configuration is not None
    api.configuration["webhooks"][1]["clientConfig"].pop("caBundle")
    api.configuration["metadata"]["generation"] += 1
    leader.look()
    api.clock.seconds += LIFETIMES.propagation_seconds - 1
    leader.look()

    assert state_of(api).signing == first


@pytest.mark.parametrize("after_reads", [1, 2])
def test_a_late_controller_takes_nothing_out_of_the_bundle(api: Api, after_reads: int):
    """It has read one of the two objects, or both, when the other controller begins a rotation."""
    first, second = leader_of(api, api.clock), leader_of(api, api.clock)
    for _ in range(2):
        first.look()
    second.look()
    assert api.configuration is not None
    api.configuration["webhooks"][0]["clientConfig"]["caBundle"] = ""  # both have something to write
    reads = []

    def other_acts(moment: str) -> None:
        if moment == "read done":
            reads.append(moment)
        if len(reads) == after_reads:
            reads.append("acted")
            api.hook = lambda _moment: None
            assert api.secret is not None
            api.secret["metadata"]["annotations"] = {"storage.bubustack.io/rotate-authority": "now"}
            api.edit("nothing", None)
            for _ in range(2):
                first.look()

    api.hook = other_acts
    second.look()

    upcoming = state_of(api).upcoming
    assert upcoming is not None
    assert all(upcoming.certificate.fingerprint in bundle for bundle in api.trusted())


@pytest.mark.parametrize("at", range(8))
def test_a_crash_at_any_request_of_the_first_look_leaves_nothing_half_made(api: Api, at: int):
    """The next controller goes on from what is stored."""
    count = [0]

    def crash(_moment: str) -> None:
        count[0] += 1
        if count[0] == at + 1:
            raise Crash

    api.hook = crash
    with contextlib.suppress(Crash):
        leader_of(api, api.clock).look()
    api.hook = lambda _moment: None
    leader = leader_of(api, api.clock)
    for _ in range(3):
        leader.look()

    names = {item.fingerprint for item in state_of(api).trusted}
    assert len(names) == 1
    assert state_of(api).signing is not None
    assert api.trusted() == [frozenset(names)] * 2


def test_an_authority_of_a_wrong_clock_is_replaced(api: Api):
    """The API server's clock was a year ahead and is put right: what was made then is not valid yet."""
    api.clock.seconds = 365 * 86_400
    leader = leader_of(api, api.clock)
    for _ in range(2):
        leader.look()
    wrong = state_of(api).signing
    api.clock.seconds = 0
    for _ in range(2):
        leader.look()

    signing = state_of(api).signing
    assert signing is not None
    assert signing != wrong
    assert signing.certificate.valid_at(api.clock.now())


def test_a_replica_keeps_what_it_has_while_it_is_cut_off(api: Api, loop: asyncio.AbstractEventLoop):
    """And says why; afterwards it goes on."""
    leader = leader_of(api, api.clock)
    leader.look()
    replica = Replica(api, api.clock, loop)
    replica.look()
    held = replica.issuer
    replica.cut_off = True
    api.clock.seconds += LIFETIMES.leaf_seconds * 3 / 4
    replica.look()

    assert replica.issuer == held
    assert replica.source.problem() == ""
    assert "cut off" in replica.source.last_problem
    assert (replica.source.loads, replica.source.refusals) == (1, 1)
    replica.cut_off = False
    replica.look()
    assert (replica.source.loads, replica.source.last_problem) == (2, "")


def test_a_replica_does_not_trust_an_authority_that_it_never_saw(api: Api, loop: asyncio.AbstractEventLoop):
    """A Secret set back to an older one: caBundle may not know its authority; the leaf in use is good."""
    leader = leader_of(api, api.clock)
    leader.look()
    replica = Replica(api, api.clock, loop)
    replica.look()
    held = replica.issuer
    elsewhere = Api(api.clock)
    leader_of(elsewhere, api.clock).look()
    assert api.secret is not None
    assert elsewhere.secret is not None
    api.secret["data"] = elsewhere.secret["data"]

    replica.look()

    assert replica.issuer == held
    assert "changed" not in replica.source.problem()


def test_a_configuration_that_never_rests_does_not_end_the_authority(api: Api):
    """Edited all the time, no new authority is waited for long enough; the last moment promotes it."""
    leader = rotating(api)
    first = state_of(api).signing
    assert api.configuration is not None
    while api.clock.now() < first.certificate.not_after:
        api.clock.seconds += 20
        api.configuration["metadata"]["generation"] += 1
        if api.clock.seconds % 60 < 20:
            api.configuration["webhooks"][0]["clientConfig"]["caBundle"] = ""
        leader.look()
        leader.look()
        assert len(state_of(api).trusted) <= 2
    second = state_of(api).signing

    assert second != first
    assert second.certificate.valid_at(api.clock.now())
    assert all(second.certificate.fingerprint in trusted for trusted in api.trusted())


def test_a_new_leader_does_not_ask_all_the_time_while_it_waits_to_drop(api: Api):
    """It has to have known a retired authority for a while itself; that wait is no busy one."""
    leader = rotating(api)
    api.clock.seconds += LIFETIMES.propagation_seconds + 1
    for _ in range(2):
        leader.look()
    assert len(state_of(api).trusted) == 2
    api.clock.seconds += LIFETIMES.kept.total_seconds() + 10
    successor = leader_of(api, api.clock)

    looks = 0
    while len(state_of(api).trusted) == 2:
        api.clock.seconds += successor.look()
        looks += 1

    assert looks < 12


@pytest.mark.parametrize("lifetimes_away", [0.2, 0.9, 1.5, 10.0])
def test_everything_asleep_for_long_recovers_at_the_first_look(
    api: Api, loop: asyncio.AbstractEventLoop, lifetimes_away: float
):
    """Leader and replicas down until leaves, the authority or all are past: one round, and it serves."""
    leader_of(api, api.clock).look()
    api.clock.seconds += lifetimes_away * LIFETIMES.ca_seconds
    replica = Replica(api, api.clock, loop)
    leader = leader_of(api, api.clock)

    leader.look()
    replica.look()

    signing = state_of(api).signing
    assert signing is not None
    assert signing.certificate.valid_at(api.clock.now())
    assert replica.issuer == signing.certificate.fingerprint
    assert all(replica.issuer in trusted for trusted in api.trusted())
    assert replica.source.problem() == ""


def test_another_writer_of_the_secret_is_not_answered_without_end(api: Api):
    """Set back again and again: put right at once a few times, then every few seconds."""
    leader = leader_of(api, api.clock)
    for _ in range(2):
        leader.look()
    assert api.secret is not None
    signing = state_of(api).signing
    writes = 0
    for _ in range(600):
        api.edit("signing.key", b"garbage")
        before = api.version
        leader.look()
        writes += api.version - before
        api.clock.seconds += 0.1
    assert 5 <= writes <= 5 + 60 / 5 + 1

    api.clock.seconds += 5
    leader.look()
    assert state_of(api).signing == signing
