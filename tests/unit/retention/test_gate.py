"""The gate: nothing passes after a stop or out of time, and never faster than asked."""

from __future__ import annotations

import threading
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import ThrottledError
from bubu_storage.retention.gate import MAX_BACKOFFS, Gate, PassStoppedError
from bubu_storage.retention.report import StoppedBy
from tests.unit.retention.world import FakeTime


def gate_of(time: FakeTime, **changes: object) -> Gate:
    """Return a gate over fake time with a minute of budget."""
    options = {
        "monotonic": time.monotonic,
        "sleep": time.sleep,
        "should_stop": lambda: False,
        "budget_seconds": 60.0,
        "requests_per_second": 0.0,
    } | changes
    return Gate(**options)


def test_without_a_cap_nothing_waits():
    """No request rate: turns come at once, and are counted."""
    time = FakeTime()
    gate = gate_of(time)

    for _ in range(100):
        gate.turn()

    assert gate.requests == 100
    assert time.slept == []


@given(rate=st.floats(0.2, 50), work=st.lists(st.floats(0, 0.5), min_size=2, max_size=40))
def test_the_rate_is_never_exceeded(rate, work):
    """Over any stretch of time at most rate * seconds + 1 requests pass."""
    time = FakeTime()
    gate = gate_of(time, requests_per_second=rate, budget_seconds=1e6)
    sent = []

    for seconds in work:
        gate.turn()
        sent.append(time.seconds)
        time.advance(seconds)

    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= (sent[last] - sent[first]) * rate + 1 + 1e-6


def test_a_wait_beyond_the_budget_ends_the_pass_at_once():
    """Waiting for a turn that comes too late would only waste time."""
    time = FakeTime()
    gate = gate_of(time, requests_per_second=0.01, budget_seconds=60)
    gate.turn()

    with pytest.raises(PassStoppedError) as caught:
        gate.turn()

    assert caught.value.reason is StoppedBy.BUDGET_SECONDS
    assert time.slept == []


def test_no_turn_after_the_budget():
    """The request after the time is used up is not sent."""
    time = FakeTime()
    gate = gate_of(time)
    gate.turn()
    time.advance(60)

    with pytest.raises(PassStoppedError, match="60 s is used up") as caught:
        gate.turn()

    assert caught.value.reason is StoppedBy.BUDGET_SECONDS
    assert gate.requests == 1


def test_a_stop_is_heard_before_a_request_and_within_a_wait():
    """The caller is asked before each request, and every half second of waiting."""
    time = FakeTime()
    stopping = False
    gate = gate_of(time, should_stop=lambda: stopping or time.seconds >= 1002, requests_per_second=0.1)
    gate.turn()

    with pytest.raises(PassStoppedError) as caught:
        gate.turn()

    assert caught.value.reason is StoppedBy.STOPPED
    assert time.seconds <= 1002.5
    stopping = True
    with pytest.raises(PassStoppedError):
        gate.turn()


def test_back_off_doubles_and_starts_small_again_after_success():
    """Waits grow while the store keeps asking, and success forgets them."""
    time = FakeTime()
    gate = gate_of(time)

    waits = []
    for _ in range(3):
        before = time.seconds
        gate.back_off(ThrottledError("slow down"))
        waits.append(time.seconds - before)
    gate.succeeded()
    before = time.seconds
    gate.back_off(ThrottledError("slow down"))

    assert waits == [0.5, 1.0, 2.0]
    assert time.seconds - before == 0.5


def test_retry_after_is_honoured_within_bounds():
    """The store's own wish counts, unless it is longer than a pass can wait."""
    time = FakeTime()
    gate = gate_of(time)
    gate.back_off(ThrottledError("slow down", retry_after_seconds=7))

    assert time.seconds == 1007
    with pytest.raises(PassStoppedError, match="asked to wait 31 s") as caught:
        gate.back_off(ThrottledError("slow down", retry_after_seconds=31))
    assert caught.value.reason is StoppedBy.THROTTLED
    assert time.seconds == 1007


def test_back_off_never_exceeds_the_budget():
    """A wait that would run into the end of the budget ends the pass instead."""
    time = FakeTime()
    gate = gate_of(time, budget_seconds=5)

    with pytest.raises(PassStoppedError) as caught:
        gate.back_off(ThrottledError("slow down", retry_after_seconds=6))

    assert caught.value.reason is StoppedBy.THROTTLED
    assert time.slept == []


def test_a_store_that_keeps_throttling_ends_the_pass():
    """After so many waits in a row the pass gives up, and says why."""
    time = FakeTime()
    gate = gate_of(time, budget_seconds=1e6)
    for _ in range(MAX_BACKOFFS):
        gate.back_off(ThrottledError("slow down"))

    with pytest.raises(PassStoppedError, match="6 times in a row") as caught:
        gate.back_off(ThrottledError("slow down"))

    assert caught.value.reason is StoppedBy.THROTTLED


def test_waiting_ends_even_under_a_clock_that_stands_still():
    """Waits are counted in slices, so a frozen clock cannot make one endless."""
    slept = []
    gate = gate_of(FakeTime(), sleep=slept.append, requests_per_second=0.5)
    gate.turn()
    gate.turn()

    assert sum(slept) == pytest.approx(2.0)


def test_throttling_of_several_threads_at_once_is_one_signal():
    """Six listings are throttled together, twice: that is two times in a row, and none of them gives up."""
    together = threading.Barrier(6)
    gate = Gate(
        monotonic=monotonic,
        sleep=lambda _seconds: together.wait(60),
        should_stop=lambda: False,
        budget_seconds=1e6,
        requests_per_second=0,
    )
    stops: list[PassStoppedError] = []

    def twice() -> None:
        for _ in range(2):
            together.wait(60)
            try:
                gate.back_off(ThrottledError("slow down", retry_after_seconds=0.4))
            except PassStoppedError as stop:
                stops.append(stop)
                together.abort()

    threads = [threading.Thread(target=twice) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert stops == []
