"""Two claimers in any interleaving: never do two hold the store at once."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bubu_storage.retention.claim import SETTLE_SECONDS
from tests.unit.retention.claim_world import TIMEOUT_SECONDS, TTL_SECONDS, Claimer, Simulation

BURSTS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(st.integers(1, 4), st.integers(1, 40)),
        st.sampled_from([0.0, 0.1, 0.5]),
        st.sampled_from([0.0, 0.0, 1.0, SETTLE_SECONDS + 0.5, TTL_SECONDS / 2, TTL_SECONDS + 4]),
        st.sampled_from(["answer", "answer", "answer", "answer", "lose", "give back"]),
    ),
    min_size=3,
    max_size=14,
)
"""Who goes on, for how many requests and answers, how long each takes, how long everybody stands still
before, and what becomes of the answers."""
STEPS = BURSTS.map(
    lambda bursts: [
        (who, (pause if number == 0 else 0.0) + seconds, what)
        for who, steps, seconds, pause, what in bursts
        for number in range(steps)
    ]
)
SKEWS = st.sampled_from([-3600.0, 0.0, 1e6])


def run(world: Simulation, steps: list[tuple[int, float, str]], skews: tuple[float, float]) -> list[Claimer]:
    """Let two claimers take these steps and look after each of them who would delete."""
    claimers = [Claimer(world, f"claimer {number}", skew) for number, skew in enumerate(skews)]
    try:
        for index, seconds, what in steps:
            claimer, other = claimers[index], claimers[1 - index]
            world.seconds += seconds
            _note(world, claimers)
            claimer.lose_answer, claimer.give_back = what == "lose", what == "give back"
            was_valid = claimer.is_valid()
            claimer.step()
            is_valid = claimer.is_valid()
            if is_valid:
                claimer.gave_back = False
                assert not other.is_valid(), f"both hold the store at {world.seconds}"
                if not was_valid and not other.gave_back:
                    # What the other sent last has come to its end by now.
                    assert world.seconds - other.last_valid > TIMEOUT_SECONDS
            _note(world, claimers)
    finally:
        for claimer in claimers:
            claimer.end()
    return claimers


def _note(world: Simulation, claimers: list[Claimer]) -> None:
    for claimer in claimers:
        if claimer.is_valid():
            claimer.last_valid = world.seconds


@given(steps=STEPS, skews=st.tuples(SKEWS, SKEWS))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_never_two_at_once_by_conditions(
    steps: list[tuple[int, float, str]], skews: tuple[float, float]
) -> None:
    """Whatever is stopped, late, lost or given back: one holder at a time, and its last request is over."""
    run(Simulation(), steps, skews)


@given(steps=STEPS, skews=st.tuples(SKEWS, SKEWS))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_never_two_at_once_by_times(steps: list[tuple[int, float, str]], skews: tuple[float, float]) -> None:
    """The same where the store ignores every condition, as long as it shows what was written."""
    run(Simulation(lying=True), steps, skews)


def test_both_get_their_turn() -> None:
    """The steps above do lead somewhere: claims are made, lost and taken over."""
    steps = [
        (index, seconds, "answer") for _ in range(6) for index in (0, 1) for seconds in [0.1] * 120 + [90.0]
    ]
    for lying in (False, True):
        claimers = run(Simulation(lying=lying), steps, (0.0, 3600.0))

        assert all(claimer.acquired >= 2 for claimer in claimers)
