"""The circuit breaker's core: states, jitter, the one probe, late results, telemetry, and a model of it."""

from __future__ import annotations

import logging
import random
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from bubu_storage.backend.circuit import STALE_PROBE_SECONDS, CircuitBreaker, Permit
from bubu_storage.backend.circuit_events import (
    CircuitEvent,
    CircuitState,
    CircuitTransition,
    PrometheusListener,
)
from bubu_storage.errors import (
    BackendUnavailableError,
    ConfigurationError,
    ObjectNotFoundError,
    UnavailableError,
)
from tests.unit.backend.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@dataclass
class Recorder:
    """A listener that keeps what it hears."""

    created: list[str] = field(default_factory=list)
    heard: list[CircuitTransition] = field(default_factory=list)

    def circuit_created(self, name: str) -> None:
        """Keep the name."""
        self.created.append(name)

    def circuit_changed(self, transition: CircuitTransition) -> None:
        """Keep the transition."""
        self.heard.append(transition)

    def moves(self) -> list[tuple[str, str]]:
        """Return what changed into what."""
        return [(one.from_state.value, one.to_state.value) for one in self.heard]


class Inner:
    """Something that works or fails as told, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self) -> str:
        """Make one request."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
def clock() -> Clock:
    """A clock in the test's hand."""
    return Clock()


@pytest.fixture
def inner() -> Inner:
    """The thing behind the breaker."""
    return Inner()


@pytest.fixture
def make(clock: Clock) -> Callable[..., CircuitBreaker]:
    """Makes breakers with the test's clock and, unless said, no jitter."""

    def make_one(threshold: int = 3, timeout_seconds: float = 300.0, **more: Any) -> CircuitBreaker:
        return CircuitBreaker(
            "store", threshold, timeout_seconds, **{"monotonic": clock, "rng": lambda: 0.0, **more}
        )

    return make_one


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    """Let requests fail."""
    for _ in range(times):
        with pytest.raises(UnavailableError):
            breaker.call(failing)


def failing() -> None:
    """Fail as an ill backend does."""
    raise UnavailableError("down")


# ---- closed and open


def test_only_failures_in_a_row_open(make: Callable[..., CircuitBreaker], inner: Inner) -> None:
    """A success between failures begins the count anew (resilience case 1)."""
    breaker = make(threshold=3)
    fail(breaker, 2)
    breaker.call(inner)
    fail(breaker, 2)
    assert (CLOSED, True) == (breaker.state, breaker.is_healthy)
    fail(breaker)
    assert (OPEN, False) == (breaker.state, breaker.is_healthy)


def test_an_open_circuit_refuses_until_its_time(
    make: Callable[..., CircuitBreaker], clock: Clock, inner: Inner
) -> None:
    """At 299.9 s nothing is called, at 300 s one request is (resilience case 2)."""
    breaker = make(threshold=1)
    fail(breaker)
    clock.now += 299.9
    assert not breaker.probe_eligible
    with pytest.raises(BackendUnavailableError, match=r"backend unavailable.*store.*down"):
        breaker.call(inner)
    assert 0 == inner.calls
    clock.now += 0.1
    assert breaker.probe_eligible
    assert "answer" == breaker.call(inner)
    assert 1 == inner.calls


def test_one_probe_only(make: Callable[..., CircuitBreaker], clock: Clock) -> None:
    """Of 50 requests at once after the time, one goes through and 49 are refused."""
    breaker = make(threshold=1)
    fail(breaker)
    clock.now += 300
    begun, go = threading.Event(), threading.Event()
    calls: list[int] = []

    def slow() -> None:
        calls.append(1)
        begun.set()
        assert go.wait(30)

    def attempt(_: int) -> bool:
        try:
            breaker.call(slow)
        except BackendUnavailableError:
            return False
        return True

    with ThreadPoolExecutor(50) as pool:
        first = pool.submit(attempt, 0)
        assert begun.wait(30)
        rest = list(pool.map(attempt, range(49)))
        assert HALF_OPEN is breaker.state
        go.set()
        assert first.result(30)
    assert (1, [False] * 49, CLOSED) == (len(calls), rest, breaker.state)


def test_a_probe_that_succeeds_closes(
    make: Callable[..., CircuitBreaker], clock: Clock, inner: Inner
) -> None:
    """After it all requests pass and nothing is degraded (resilience case 4)."""
    breaker = make(threshold=2)
    fail(breaker, 2)
    clock.now += 310
    assert 310 == breaker.open_duration_seconds
    for _ in range(11):
        breaker.call(inner)
    assert (11, CLOSED, 0.0, 0.0) == (
        inner.calls,
        breaker.state,
        breaker.open_duration_seconds,
        breaker.failures,
    )


def test_a_probe_that_fails_opens_for_another_while(
    make: Callable[..., CircuitBreaker], clock: Clock, inner: Inner
) -> None:
    """The next one is 300 s after the probe's failure, the outage goes on counting (resilience case 4)."""
    breaker = make(threshold=3)
    fail(breaker, 3)
    clock.now += 350
    probe = breaker.acquire()
    clock.now += 7
    breaker.fail(probe, UnavailableError("still down"))
    assert (OPEN, 357) == (breaker.state, breaker.open_duration_seconds)
    clock.now += 299.9
    with pytest.raises(BackendUnavailableError, match="still down"):
        breaker.call(inner)
    clock.now += 0.1
    breaker.call(inner)
    assert CLOSED is breaker.state


def test_jitter_is_drawn_anew(make: Callable[..., CircuitBreaker], clock: Clock) -> None:
    """1,000 openings wait 100 s to 125 s, nearly all differently, also re-openings (resilience case 5)."""
    breaker = make(threshold=1, timeout_seconds=100.0, rng=random.Random(5).random)
    fail(breaker)
    delays = []
    for _ in range(1000):
        delays.append(breaker.probe_due_in_seconds)
        clock.now += delays[-1] + 1e-6  # the sum rounds
        fail(breaker)  # the probe; it opens again
    assert all(100 <= delay < 125 for delay in delays)
    assert len({round(delay, 6) for delay in delays}) >= 900
    assert max(delays) > 124
    assert min(delays) < 101


def test_the_opening_failure_is_the_sentinel(make: Callable[..., CircuitBreaker]) -> None:
    """It says that the backend is unavailable and why; those before are their own."""
    breaker = make(threshold=2)
    first, second = UnavailableError("one"), UnavailableError("two", key="k")

    def raising(error: Exception) -> Callable[[], None]:
        def act() -> None:
            raise error

        return act

    with pytest.raises(UnavailableError) as caught:
        breaker.call(raising(first))
    assert first is caught.value
    with pytest.raises(BackendUnavailableError, match="two") as opened:
        breaker.call(raising(second))
    assert (second, "k") == (opened.value.__cause__, opened.value.key)


# ---- probes that vanish, results that come late


@pytest.mark.parametrize("by_watchdog", [False, True])
def test_a_probe_that_never_returns(
    make: Callable[..., CircuitBreaker], clock: Clock, inner: Inner, *, by_watchdog: bool
) -> None:
    """After 2 minutes a request or the watchdog gives it up; a later one probes (resilience case 7)."""
    breaker = make(threshold=1)
    fail(breaker)
    clock.now += 300
    lost = breaker.acquire()
    clock.now += STALE_PROBE_SECONDS - 0.1
    assert not breaker.reset_stale_probe()
    with pytest.raises(BackendUnavailableError, match="finding out"):
        breaker.call(inner)
    assert HALF_OPEN is breaker.state
    clock.now += 0.1
    if by_watchdog:
        assert breaker.reset_stale_probe()
    else:
        with pytest.raises(BackendUnavailableError):
            breaker.call(inner)
    assert (OPEN, 0) == (breaker.state, inner.calls)
    probe = breaker.acquire()
    assert probe.is_probe
    breaker.succeed(lost)
    breaker.fail(lost, UnavailableError("late"))
    breaker.release(lost)
    assert HALF_OPEN is breaker.state
    breaker.succeed(probe)
    assert CLOSED is breaker.state


@pytest.mark.parametrize("succeeds", [True, False])
def test_late_results_do_not_decide(
    make: Callable[..., CircuitBreaker], clock: Clock, *, succeeds: bool
) -> None:
    """A request from before the outage neither heals nor prolongs it (resilience case 8)."""
    breaker = make(threshold=1)
    early, second = breaker.acquire(), breaker.acquire()
    fail(breaker)
    error = UnavailableError("late")

    def end(permit: Permit) -> None:
        if succeeds:
            breaker.succeed(permit)
        else:
            assert error is breaker.fail(permit, error)

    clock.now += 200
    end(early)
    assert OPEN is breaker.state
    clock.now += 100
    assert breaker.probe_eligible
    probe = breaker.acquire()
    end(second)
    assert HALF_OPEN is breaker.state
    breaker.succeed(probe)
    end(second)
    assert (CLOSED, 0) == (breaker.state, breaker.failures)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), CancelledError()])
def test_a_cancelled_probe_is_handed_back(
    make: Callable[..., CircuitBreaker], clock: Clock, inner: Inner, error: BaseException
) -> None:
    """It is not counted, and the next request is the probe."""
    breaker = make(threshold=1)
    fail(breaker)
    clock.now += 300
    inner.error = error
    with pytest.raises(type(error)):
        breaker.call(inner)
    assert (OPEN, 1) == (breaker.state, breaker.failures)
    inner.error = None
    breaker.call(inner)
    assert CLOSED is breaker.state


def test_cancellation_does_not_count(make: Callable[..., CircuitBreaker], inner: Inner) -> None:
    """Neither as a failure nor as a sign of life."""
    breaker = make(threshold=2)
    fail(breaker)
    inner.error = KeyboardInterrupt()
    for _ in range(100):
        with pytest.raises(KeyboardInterrupt):
            breaker.call(inner)
    assert (CLOSED, 1) == (breaker.state, breaker.failures)


def test_a_healthy_refusal_is_a_sign_of_life(make: Callable[..., CircuitBreaker], inner: Inner) -> None:
    """A missing object resets the count as a success does."""
    breaker = make(threshold=2)
    fail(breaker)
    inner.error = ObjectNotFoundError("none", status=404)
    with pytest.raises(ObjectNotFoundError):
        breaker.call(inner)
    assert 0 == breaker.failures


@pytest.mark.parametrize(
    "wrong", [{"timeout_seconds": 0.0}, {"timeout_seconds": -1.0}, {"timeout_seconds": float("nan")},
              {"timeout_seconds": float("inf")}, {"threshold": 0}, {"threshold": -1}],
)  # fmt: skip
def test_settings_without_sense_are_refused(
    make: Callable[..., CircuitBreaker], wrong: dict[str, Any]
) -> None:
    """A timeout or a threshold of 0 is no circuit breaker (resilience case 10)."""
    with pytest.raises(ConfigurationError, match=r"circuit of store: (timeout|threshold)"):
        make(**wrong)


def test_external_probes(make: Callable[..., CircuitBreaker], clock: Clock, inner: Inner) -> None:
    """Where somebody else probes, no request ever is the probe."""
    breaker = make(threshold=1, probes_inline=False)
    with pytest.raises(BackendUnavailableError, match="not open"):
        breaker.acquire_probe()
    fail(breaker)
    clock.now += 10_000
    assert not breaker.probe_eligible
    with pytest.raises(BackendUnavailableError, match="background"):
        breaker.call(inner)
    probe = breaker.acquire_probe()
    with pytest.raises(BackendUnavailableError, match="not open"):
        breaker.acquire_probe()
    breaker.succeed(probe)
    assert (CLOSED, 0) == (breaker.state, inner.calls)


# ---- telemetry


def test_transitions_and_events(make: Callable[..., CircuitBreaker], clock: Clock) -> None:
    """Each transition is told in order; an outage is one opening and one closing (resilience case 17)."""
    recorder = Recorder()
    breaker = make(threshold=2, listeners=[recorder])
    assert (["store"], []) == (recorder.created, recorder.heard)
    fail(breaker, 2)
    clock.now += 300
    fail(breaker)
    clock.now += 300
    breaker.call(lambda: None)
    assert [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ] == recorder.moves()
    events = [(one.event, one.failures, one.threshold, one.degraded_seconds) for one in recorder.heard]
    assert (CircuitEvent.OPENED, 2, 2, 0) == events[0]
    assert [None] * 3 == [event[0] for event in events[1:4]]
    assert (CircuitEvent.CLOSED, 0, 2, 600) == events[4]


def test_prometheus(make: Callable[..., CircuitBreaker], clock: Clock) -> None:
    """The gauge is 0 from the start, then 1 and 2; transitions are counted (resilience case 17)."""
    registry = CollectorRegistry()
    breaker = make(threshold=1, listeners=[PrometheusListener(registry)])

    def gauge() -> float | None:
        return registry.get_sample_value("storage_circuit_state", {"name": "store"})

    def counted(from_state: str, to_state: str) -> float | None:
        labels = {"name": "store", "from_state": from_state, "to_state": to_state}
        return registry.get_sample_value("storage_circuit_transitions_total", labels)

    assert (0, None) == (gauge(), counted("closed", "open"))
    fail(breaker)
    assert (1, 1) == (gauge(), counted("closed", "open"))
    clock.now += 300
    probe = breaker.acquire()
    assert (2, 1) == (gauge(), counted("open", "half-open"))
    breaker.succeed(probe)
    assert (0, 1, 1) == (gauge(), counted("half-open", "closed"), counted("closed", "open"))


def test_log(make: Callable[..., CircuitBreaker], clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Trouble is a warning; recovery is information, with the time it took."""
    caplog.set_level(logging.INFO, logger="bubu_storage")
    breaker = make(threshold=1)
    fail(breaker)
    clock.now += 300
    fail(breaker)
    clock.now += 300
    breaker.call(lambda: None)
    levels = [record.levelname for record in caplog.records]
    assert ["WARNING", "INFO", "WARNING", "INFO", "INFO"] == levels
    assert "opened after 1 failures (threshold 1)" in caplog.messages[0]
    assert "closed, was degraded for 600.0 s" in caplog.messages[-1]


def test_a_listener_that_fails_stops_nobody(
    make: Callable[..., CircuitBreaker], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the others still hear; and a listener may ask the breaker."""

    class Bad(Recorder):
        def circuit_changed(self, transition: CircuitTransition) -> None:  # noqa: ARG002
            raise RuntimeError("listener broke")

    asked: list[tuple[CircuitState, float]] = []

    class Curious(Recorder):
        def circuit_changed(self, transition: CircuitTransition) -> None:  # noqa: ARG002
            asked.append((breaker.state, breaker.open_duration_seconds))

    good = Recorder()
    breaker = make(threshold=1, listeners=[Bad(), Curious(), good])
    fail(breaker)
    assert ([("closed", "open")], [(OPEN, 0.0)]) == (good.moves(), asked)
    assert "a listener of the circuit of store failed" in caplog.text


def test_a_listener_that_makes_requests_is_told_in_order(
    make: Callable[..., CircuitBreaker], clock: Clock
) -> None:
    """What it causes is told after what it was told, not in the middle of it."""
    recorder = Recorder()

    class Eager(Recorder):
        def circuit_changed(self, transition: CircuitTransition) -> None:
            if transition.to_state is OPEN:
                clock.now += 300
                breaker.call(lambda: None)

    breaker = make(threshold=1, listeners=[Eager(), recorder])
    fail(breaker)
    assert [("closed", "open"), ("open", "half-open"), ("half-open", "closed")] == recorder.moves()


def test_many_threads_at_once() -> None:
    """Never two probes at a time, and the transitions told are one unbroken story."""
    recorder = Recorder()
    breaker = CircuitBreaker("busy", 2, 0.0005, listeners=[recorder])
    lock = threading.Lock()
    probing: list[int] = [0]
    most: list[int] = [0]

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(400):
            try:
                permit = breaker.acquire()
            except BackendUnavailableError:
                threading.Event().wait(0.0002)
                continue
            with lock:
                probing[0] += permit.is_probe
                most[0] = max(most[0], probing[0])
            outcome = dice.random()
            with lock:  # before the report: after it, the next probe may begin
                probing[0] -= permit.is_probe
            if outcome < 0.5:
                breaker.succeed(permit)
            elif outcome < 0.9:
                breaker.fail(permit, UnavailableError("down"))
            else:
                breaker.release(permit)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    states = [CLOSED, *(one.to_state for one in recorder.heard)]
    assert states[:-1] == [one.from_state for one in recorder.heard]
    assert (1, states[-1]) == (most[0], breaker.state)
    assert len(states) > 20


# ---- a model


@dataclass
class Model:
    """The specification's table, as plain as can be."""

    threshold: int
    timeout: float
    state: CircuitState = CLOSED
    failures: int = 0
    epoch: int = 0
    last_failure: float = 0.0
    jitter: float = 0.0
    opened_at: float = 0.0
    probe_since: float = 0.0

    def become(self, state: CircuitState) -> None:
        """Change the state: everything that is still out belongs to the past."""
        self.state = state
        self.epoch += 1


class BreakerMachine(RuleBasedStateMachine):
    """Random requests, results, cancellations and pauses: the breaker does what the table says."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.random = random.Random(1)
        self.drawn: list[float] = []
        self.recorder = Recorder()
        self.model = Model(threshold=2, timeout=100.0)
        self.breaker = CircuitBreaker(
            "m", 2, 100.0, monotonic=self.clock, rng=self.draw, listeners=[self.recorder]
        )
        self.out: list[tuple[Permit, int, bool]] = []

    def draw(self) -> float:
        """Draw a random number and remember it."""
        self.drawn.append(self.random.random())
        return self.drawn[-1]

    def open(self) -> None:
        """Open the model with the jitter that the breaker has just drawn."""
        self.model.jitter = self.drawn[-1] * 25
        self.model.become(OPEN)

    @rule(seconds=st.sampled_from([0.5, 30.0, 99.0, 100.0, 119.0, 126.0, 400.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    def expire(self) -> bool:
        """Give up a probe that has been out for too long."""
        model = self.model
        if model.state is HALF_OPEN and self.clock.now - model.probe_since >= 120:
            self.open()
            return True
        return False

    def due(self) -> bool:
        """Tell whether a probe may go out."""
        model = self.model
        return model.state is OPEN and self.clock.now >= model.last_failure + model.timeout + model.jitter

    @rule()
    def ask(self) -> None:
        """Begin a request."""
        was_stale = self.model.state is HALF_OPEN and self.clock.now - self.model.probe_since >= 120
        assert (self.due()) == self.breaker.probe_eligible
        probing = self.due() and not was_stale
        try:
            permit = self.breaker.acquire()
        except BackendUnavailableError:
            permit = None
        if self.model.state is CLOSED:
            assert permit is not None
            assert not permit.is_probe
        elif probing:
            assert permit is not None
            assert permit.is_probe
            self.model.become(HALF_OPEN)
            self.model.probe_since = self.clock.now
        else:
            assert permit is None
            self.expire()
        if permit is not None:
            self.out.append((permit, self.model.epoch, permit.is_probe))

    def take(self, which: int) -> tuple[Permit, bool, bool]:
        """Return one of the requests that are out, and whether its result still counts."""
        permit, epoch, is_probe = self.out.pop(which % len(self.out))
        return permit, epoch == self.model.epoch, is_probe

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 50))
    def succeed(self, which: int) -> None:
        """End a request well."""
        permit, counts, is_probe = self.take(which)
        self.breaker.succeed(permit)
        if counts:
            self.model.failures = 0
            if is_probe:
                self.model.become(CLOSED)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 50))
    def fail(self, which: int) -> None:
        """End a request with a failure."""
        permit, counts, is_probe = self.take(which)
        error = UnavailableError("down")
        raised = self.breaker.fail(permit, error)
        opens = False
        if counts:
            self.model.failures += 1
            opens = is_probe or self.model.failures >= self.model.threshold
            if opens:
                self.model.last_failure = self.clock.now
                if not is_probe:
                    self.model.opened_at = self.clock.now
                self.open()
        assert opens is isinstance(raised, BackendUnavailableError)
        assert raised is error or raised.__cause__ is error

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 50))
    def give_up(self, which: int) -> None:
        """Cancel a request."""
        permit, counts, is_probe = self.take(which)
        self.breaker.release(permit)
        if counts and is_probe:
            self.model.become(OPEN)

    @rule()
    def watchdog(self) -> None:
        """Look after a probe that never returned."""
        assert self.breaker.reset_stale_probe() is self.expire()

    @invariant()
    def same(self) -> None:
        """State, count and duration agree; at most one probe is out; news is gapless."""
        model = self.model
        assert (model.state, model.failures) == (self.breaker.state, self.breaker.failures)
        degraded = 0.0 if model.state is CLOSED else self.clock.now - model.opened_at
        assert degraded == self.breaker.open_duration_seconds
        assert sum(is_probe and epoch == model.epoch for _, epoch, is_probe in self.out) <= 1
        states = [CLOSED, *(one.to_state for one in self.recorder.heard)]
        assert states[:-1] == [one.from_state for one in self.recorder.heard]
        assert states[-1] is self.breaker.state


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("way", ["acquire", "acquire_probe"])
def test_who_is_interrupted_on_the_way_to_a_probe_hands_it_back(way: str) -> None:
    """Ctrl-C while a listener writes its line: nobody else would report the probe."""

    class Interrupted(Recorder):
        def circuit_changed(self, transition: CircuitTransition) -> None:
            """Be interrupted by the probe."""
            super().circuit_changed(transition)
            if transition.to_state is HALF_OPEN:
                raise KeyboardInterrupt

    clock = Clock()
    circuit = CircuitBreaker("x", 1, 1.0, listeners=[Interrupted()], monotonic=clock, rng=lambda: 0.0)
    circuit.fail(circuit.acquire(), UnavailableError("down"))
    clock.now += 2

    with pytest.raises(KeyboardInterrupt):
        getattr(circuit, way)()

    assert OPEN is circuit.state
    assert circuit.probe_eligible


@pytest.mark.parametrize("parts", [3, 7, 10, 49])
def test_parts_of_failures_add_up(parts: int) -> None:
    """Ten that count a tenth are one, whatever floating point makes of them."""
    circuit = CircuitBreaker("x", 2, 1.0)
    for _ in range(2 * parts - 1):
        circuit.fail(circuit.acquire(), UnavailableError("down"), weight=1 / parts)
    assert circuit.is_healthy

    circuit.fail(circuit.acquire(), UnavailableError("down"), weight=1 / parts)

    assert OPEN is circuit.state
