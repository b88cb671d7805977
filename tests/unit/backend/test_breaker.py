"""A backend behind a circuit breaker: what counts, what is not touched, who probes, what routers may use."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Self

import pytest

from bubu_storage.backend.breaker import CircuitBreakerBackend, Recovery, can_copy, list_one, usable
from bubu_storage.backend.circuit_events import CircuitState
from bubu_storage.backend.decorator import BackendDecorator, innermost
from bubu_storage.backend.failures import Verdict, is_backend_failure, judge
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.recovery import ExternalRecovery
from bubu_storage.backend.types import BackendCopier, BatchDeleter
from bubu_storage.errors import (
    BackendUnavailableError,
    BatchDeleteNotSupportedError,
    ConfigurationError,
    CopyError,
    CopyNotSupportedError,
    CopyPhase,
    CorruptObjectError,
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, Operation, Timing
from tests.unit.backend.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bubu_storage.backend.types import ObjectBackend

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Rig:
    """A breaker around a backend that fails at will and counts what reaches it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.store = MemoryBackend()
        self.store.put_object("k", b"x" * 4096)
        self.fault = Fault(nth=10**9, times=0)
        self.counting = CountingBackend(FaultBackend(self.store, self.fault))
        self.breaker = CircuitBreakerBackend(
            self.counting, **{"monotonic": self.clock, "rng": lambda: 0.0, **options}
        )

    def break_with(self, make: Callable[[], BaseException], timing: Timing = Timing.BEFORE) -> None:
        """Let everything fail from now on."""
        self.fault.nth, self.fault.error, self.fault.timing = 0, make, timing

    def heal(self) -> None:
        """Let everything work from now on."""
        self.fault.nth = 10**9

    def open(self) -> None:
        """Open the circuit, then heal the store."""
        self.break_with(lambda: UnavailableError("down"))
        while self.breaker.is_healthy:
            with pytest.raises(UnavailableError):
                self.breaker.head_object("k")
        self.heal()
        self.counting.calls.clear()


# ---- what counts


class NotInTheTree(Exception):  # noqa: N818 - the point is that it is no error of ours
    """Something of the caller's."""


HEALTHY = [
    ObjectNotFoundError("no", status=404),
    ObjectNotFoundError("no"),
    PreconditionFailedError("no", status=412),
    PreconditionFailedError("no", status=409),
    RangeNotSatisfiableError("no", status=416),
    StorageError("no", status=400),
    StorageError("no", status=411),
    UnavailableError("operation aborted", status=409),
    UnsupportedOperationError("no", status=501),
    CopyNotSupportedError("no", status=501),
]
NEUTRAL = [
    KeyboardInterrupt(),
    SystemExit(),
    GeneratorExit(),
    CancelledError(),
    NotInTheTree(),
    TypeError("text"),
    InvalidKeyError("no"),
    ConfigurationError("no"),
    LimitExceededError("no"),
    CorruptObjectError("no"),
    CopyNotSupportedError("no"),
    BatchDeleteNotSupportedError("no"),
    CopyError(CopyPhase.READ, UnavailableError("source down")),
    StorageError("wrong length", code="IncompleteBody"),
]
FAILURES = [
    UnavailableError("refused, DNS, reset"),
    UnavailableError("server error", status=500),
    StorageError("odd", status=599),
    UnauthenticatedError("no", status=401),
    PermissionDeniedError("no", status=403),
    UnauthenticatedError("no credentials to be found"),
    ThrottledError("slow down", status=429),
    ThrottledError("slow down", status=503),
    StorageTimeoutError("own time limit"),
    StorageTimeoutError("gateway timeout", status=504),
    StorageError("the answer is not one of an S3 store"),
]


def label(error: BaseException) -> str:
    """Name an error for the test's id."""
    return f"{type(error).__name__}-{getattr(error, 'status', None)}"


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        *((error, Verdict.HEALTHY) for error in HEALTHY),
        *((error, Verdict.NEUTRAL) for error in NEUTRAL),
        *((error, Verdict.FAILURE) for error in FAILURES),
    ],
    ids=lambda value: label(value) if isinstance(value, BaseException) else value.name,
)
def test_verdicts(error: BaseException, verdict: Verdict) -> None:
    """An answer is a sign of life unless it is a server's fault; what never left says nothing."""
    assert verdict is judge(error)
    assert (verdict is Verdict.FAILURE) is is_backend_failure(error)


@pytest.mark.parametrize("error", [*HEALTHY, *NEUTRAL], ids=label)
def test_a_hundred_refusals_open_nothing(error: BaseException) -> None:
    """Missing objects, lost races, odd ranges, cancellations: the store is well (resilience case 11)."""
    rig = Rig(threshold=1)
    rig.break_with(lambda: error)
    for _ in range(100):
        with pytest.raises(type(error)):
            rig.breaker.head_object("k")
    assert (CLOSED, 0, 100) == (rig.breaker.state, rig.breaker.circuit.failures, rig.counting.total)


@pytest.mark.parametrize("error", FAILURES, ids=label)
def test_five_failures_open(error: StorageError) -> None:
    """Server errors, refused credentials, throttling, lost connections, own timeouts (resilience case 11)."""
    rig = Rig()
    rig.break_with(lambda: error)
    for _ in range(4):
        with pytest.raises(type(error)) as caught:
            rig.breaker.head_object("k")
        assert error is caught.value
    assert CLOSED is rig.breaker.state
    with pytest.raises(BackendUnavailableError) as opened:
        rig.breaker.head_object("k")
    assert (OPEN, error) == (rig.breaker.state, opened.value.__cause__)


def test_a_custom_rule_decides() -> None:
    """Except about cancellation, which nobody can make count."""
    rig = Rig(threshold=1, is_failure=lambda _: True)
    rig.break_with(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        rig.breaker.head_object("k")
    assert CLOSED is rig.breaker.state
    rig.break_with(lambda: ObjectNotFoundError("no", status=404))
    with pytest.raises(BackendUnavailableError):
        rig.breaker.head_object("k")
    assert OPEN is rig.breaker.state


@pytest.mark.parametrize(("weight", "needed"), [(1.0, 2), (0.5, 4), (0.25, 8)])
def test_throttling_can_weigh_less(weight: float, needed: int) -> None:
    """A store that asks for fewer requests is not as ill as one that is gone."""
    rig = Rig(threshold=2, throttle_weight=weight)
    rig.break_with(lambda: ThrottledError("slow down", status=503))
    for _ in range(needed - 1):
        with pytest.raises(ThrottledError):
            rig.breaker.head_object("k")
    with pytest.raises(BackendUnavailableError):
        rig.breaker.head_object("k")


def test_throttling_can_weigh_nothing() -> None:
    """Then it is a healthy answer."""
    rig = Rig(threshold=1, throttle_weight=0)
    rig.break_with(lambda: ThrottledError("slow down", status=429))
    for _ in range(100):
        with pytest.raises(ThrottledError):
            rig.breaker.head_object("k")
    assert CLOSED is rig.breaker.state
    rig.open()
    rig.clock.now += 300
    rig.break_with(lambda: ThrottledError("slow down", status=429))
    with pytest.raises(ThrottledError):
        rig.breaker.head_object("k")
    assert (CLOSED, 0) == (rig.breaker.state, rig.breaker.circuit.failures)


@pytest.mark.parametrize(
    "wrong", [{"recovery": "magic"}, {"throttle_weight": -1.0}, {"throttle_weight": 2.0}, {"threshold": 0},
              {"timeout_seconds": 0.0}],
)  # fmt: skip
def test_settings_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    """Before anything is sent (resilience case 10)."""
    with pytest.raises(ConfigurationError):
        CircuitBreakerBackend(MemoryBackend(), **wrong)


# ---- open: nothing is touched


def operations(backend: Any) -> dict[str, Callable[[], object]]:
    """Return every operation of a backend, ready to run."""
    return {
        "put": lambda: backend.put_object("k", b"x"),
        "get": lambda: backend.get_object("k").read(),
        "head": lambda: backend.head_object("k"),
        "delete": lambda: backend.delete_object("k"),
        "delete many": lambda: backend.delete_objects(["k"]),
        "copy": lambda: backend.copy_object("k", "l"),
        "list": lambda: list(backend.list_objects()),
        "time": backend.server_time,
    }


@pytest.mark.parametrize("name", ["put", "get", "head", "delete", "delete many", "copy", "list", "time"])
def test_every_operation_is_guarded(name: str) -> None:
    """Each fails towards the threshold, and none reaches the store while the circuit is open."""
    rig = Rig(threshold=2)
    act = operations(rig.breaker)[name]
    act()
    rig.break_with(lambda: UnavailableError("down"))
    with pytest.raises(UnavailableError):
        act()
    with pytest.raises(BackendUnavailableError):
        act()
    reached = rig.counting.total
    with pytest.raises(BackendUnavailableError, match="memory://"):
        act()
    assert reached == rig.counting.total


def test_an_open_circuit_leaves_the_body_alone() -> None:
    """A generator that was to be stored is not advanced (resilience case 13)."""
    rig = Rig(threshold=1)
    rig.open()
    advanced: list[int] = []

    def body() -> Iterator[bytes]:
        advanced.append(1)
        yield b"x"

    with pytest.raises(BackendUnavailableError):
        rig.breaker.put_object("k", body())
    assert ([], 0) == (advanced, rig.counting.total)


def test_wrong_arguments_of_a_listing_are_said_at_once() -> None:
    """As the wrapped backends do, and without asking the circuit."""
    rig = Rig(threshold=1)
    rig.open()
    with pytest.raises(InvalidKeyError):
        rig.breaker.list_objects("../x")
    with pytest.raises(LimitExceededError):
        rig.breaker.list_objects(page_size=0)


# ---- bodies


def test_a_body_that_breaks_counts() -> None:
    """Headers alone are no proof: 200 and then half a body opens at threshold 1 (resilience case 14)."""
    rig = Rig(threshold=1)
    rig.break_with(lambda: UnavailableError("broke off"), Timing.HALFWAY)
    found = rig.breaker.get_object("k")
    assert 1024 == len(found.read(1024))
    assert CLOSED is rig.breaker.state
    with pytest.raises(BackendUnavailableError, match="broke off"):
        found.read()
    found.close()
    assert OPEN is rig.breaker.state


def test_bodies_that_break_add_up() -> None:
    """The bytes before the break do not reset the count; one body counts once."""
    rig = Rig(threshold=3)
    rig.break_with(lambda: UnavailableError("broke off"), Timing.HALFWAY)
    for count in (1, 2):
        with rig.breaker.get_object("k") as found:
            found.read(100)
            for _ in range(3):
                with pytest.raises(UnavailableError, match="broke off"):
                    found.read()
        assert count == rig.breaker.circuit.failures


@pytest.mark.parametrize(
    "use",
    [
        lambda found: found.read(),
        lambda found: (found.read(4000), found.read(96)),
        list,
        lambda found: found.read(10),
        lambda _: None,
    ],
    ids=["whole", "pieces", "iterated", "closed early", "not read"],
)
def test_a_body_that_holds_is_a_success(use: Callable[[Any], object]) -> None:
    """Also when its reader has had enough: the store did answer."""
    rig = Rig(threshold=2)
    rig.fault.nth, rig.fault.times = 1, 1
    with pytest.raises(UnavailableError):
        rig.breaker.head_object("k")
    with rig.breaker.get_object("k") as found:
        assert 1 == rig.breaker.circuit.failures
        use(found)
    assert 0 == rig.breaker.circuit.failures
    assert 0 == rig.counting.open_bodies


def test_the_last_byte_is_the_success() -> None:
    """It does not wait for the body to be closed, and closing says nothing more."""
    rig = Rig(threshold=2)
    rig.fault.nth, rig.fault.times = 1, 1
    with pytest.raises(UnavailableError):
        rig.breaker.head_object("k")
    found = rig.breaker.get_object("k")
    assert (b"x" * 4096, 0) == (found.read(4096), rig.breaker.circuit.failures)
    rig.fault.nth = rig.fault.seen + 1
    with pytest.raises(UnavailableError):
        rig.breaker.head_object("k")
    found.close()
    assert 1 == rig.breaker.circuit.failures


def test_a_reader_that_is_cancelled_counts_neither_way() -> None:
    """As everywhere."""
    rig = Rig(threshold=2)
    rig.break_with(lambda: UnavailableError("down"))
    with pytest.raises(UnavailableError):
        rig.breaker.head_object("k")
    rig.break_with(KeyboardInterrupt, Timing.HALFWAY)
    with rig.breaker.get_object("k") as found, pytest.raises(KeyboardInterrupt):
        found.read()
    assert 1 == rig.breaker.circuit.failures


def test_the_first_bytes_of_a_probe_close() -> None:
    """A slow reader does not keep the others out; a later break still counts."""
    rig = Rig(threshold=2)
    rig.open()
    rig.clock.now += 300
    rig.break_with(lambda: UnavailableError("broke off"), Timing.HALFWAY)
    found = rig.breaker.get_object("k")
    assert HALF_OPEN is rig.breaker.state
    found.read(10)
    assert CLOSED is rig.breaker.state
    with pytest.raises(UnavailableError):
        found.read()
    found.close()
    assert (CLOSED, 1) == (rig.breaker.state, rig.breaker.circuit.failures)


def test_a_probe_whose_body_breaks_at_once_opens() -> None:
    """Read in one go, as documents are, half a body is a failed probe."""
    rig = Rig(threshold=2)
    rig.open()
    rig.clock.now += 300
    rig.break_with(lambda: UnavailableError("broke off"), Timing.HALFWAY)
    with rig.breaker.get_object("k") as found, pytest.raises(BackendUnavailableError):
        found.read()
    assert OPEN is rig.breaker.state


@pytest.mark.parametrize("wrap", [iter, lambda pieces: io.BufferedReader(Broken(pieces))])
def test_an_error_of_the_callers_own_source_does_not_count(wrap: Callable[[Any], Any]) -> None:
    """The store cannot help it, whatever the source raises, also one of the library's errors."""
    rig = Rig(threshold=1)
    for error in (ValueError("own"), OSError("own"), UnavailableError("own")):

        def pieces(error: Exception = error) -> Iterator[bytes]:
            yield b"x" * 10
            raise error

        with pytest.raises(type(error), match="own") as caught:
            rig.breaker.put_object("new", wrap(pieces()))
        assert error is caught.value
    assert (CLOSED, 0) == (rig.breaker.state, rig.breaker.circuit.failures)


class Broken(io.RawIOBase):
    """A file made of pieces, with whatever they raise."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        piece = next(self._pieces, b"")
        buffer[: len(piece)] = piece
        return len(piece)


def test_a_source_is_found_behind_the_stores_error() -> None:
    """A store may wrap what the source raised; it is the source's still."""

    class Wrapping(BackendDecorator):
        def put_object(self, key: str, body: Any, **more: Any) -> str:
            try:
                return super().put_object(key, body, **more)
            except OSError as error:
                raise UnavailableError("cannot be written") from error

    def body() -> Iterator[bytes]:
        yield b"x"
        raise OSError("disk")

    breaker = CircuitBreakerBackend(Wrapping(MemoryBackend()), threshold=1)
    with pytest.raises(UnavailableError, match="cannot be written"):
        breaker.put_object("k", body())
    assert (CLOSED, 0) == (breaker.state, breaker.circuit.failures)


def test_a_store_that_fails_while_reading_the_body_counts() -> None:
    """An error of the store is the store's, although a source was there."""
    rig = Rig(threshold=1)
    rig.break_with(lambda: UnavailableError("down"), Timing.AFTER)
    with pytest.raises(BackendUnavailableError):
        rig.breaker.put_object("new", iter([b"x"]))


@pytest.mark.parametrize(
    ("failed", "state"),
    [
        ({"a": ThrottledError("slow down"), "b": UnavailableError("down")}, OPEN),
        ({"a": ThrottledError("slow down")}, CLOSED),
        ({"a": ThrottledError("slow down"), "b": PreconditionFailedError("changed")}, CLOSED),
        ({}, CLOSED),
    ],
)
def test_a_batch_of_which_nothing_works_counts(failed: dict[str, StorageError], state: CircuitState) -> None:
    """The request itself was answered, but every key says that the store is ill."""

    class Batch(BackendDecorator):
        def delete_objects(self, *_: object, **__: object) -> dict[str, StorageError]:
            return failed

    breaker = CircuitBreakerBackend(Batch(MemoryBackend()), threshold=1)
    assert failed == breaker.delete_objects(["a", "b", "a"])
    assert state is breaker.state


# ---- listings, time


def test_each_page_is_a_request() -> None:
    """Pages before the failure stay delivered; the failing one counts; the next is refused."""
    rig = Rig(threshold=1)
    for number in range(5):
        rig.store.put_object(f"p{number}", b"")
    pages = rig.breaker.list_objects("p", page_size=2)
    assert 2 == len(next(pages).objects)
    rig.break_with(lambda: UnavailableError("down"))
    with pytest.raises(BackendUnavailableError):
        next(pages)
    others = rig.breaker.list_objects("p")
    with pytest.raises(BackendUnavailableError):
        next(others)


def test_an_empty_listing_is_an_answer() -> None:
    """It closes the circuit as any answer does."""
    rig = Rig(threshold=1)
    rig.open()
    rig.clock.now += 300
    assert [] == list(rig.breaker.list_objects("nothing/"))
    assert CLOSED is rig.breaker.state


def test_the_end_of_a_listing_proves_nothing() -> None:
    """Where the last page said that it was the last, no request is made to find the end."""
    rig = Rig(threshold=2)
    pages = rig.breaker.list_objects()
    next(pages)
    rig.fault.nth, rig.fault.times = rig.fault.seen + 1, 1
    with pytest.raises(UnavailableError):
        rig.breaker.head_object("k")
    assert None is next(pages, None)
    assert 1 == rig.breaker.circuit.failures


def test_the_stores_time_proves_nothing() -> None:
    """It may be told from an earlier answer; it neither heals nor uses the probe up."""
    rig = Rig(threshold=1)
    rig.open()
    rig.clock.now += 300
    rig.breaker.server_time()
    assert (OPEN, True) == (rig.breaker.state, rig.breaker.probe_eligible)


# ---- copies and capabilities


class NoCopy(BackendDecorator):
    """Hides the capability to copy."""

    def __new__(cls, *_: object) -> Self:
        """Skip what the base adds."""
        return object.__new__(cls)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_no_copy_is_said_before_the_breaker_is_asked(layers: int) -> None:
    """Also through several breakers, and also when they are open; nothing is counted (resilience case 16)."""
    fault = Fault(nth=10**9, times=0)
    breakers: list[CircuitBreakerBackend] = []
    backend: ObjectBackend = NoCopy(FaultBackend(MemoryBackend(), fault))
    for _ in range(layers):
        breakers.append(CircuitBreakerBackend(CountingBackend(backend), threshold=1))
        backend = breakers[-1]
    outer = breakers[-1]
    assert not can_copy(outer)
    for _ in range(10):
        with pytest.raises(CopyNotSupportedError):
            outer.copy_object("a", "b")
    assert [0] * layers == [one.circuit.failures for one in breakers]
    fault.nth = 0
    with pytest.raises(BackendUnavailableError):
        outer.head_object("k")
    assert [OPEN] * layers == [one.state for one in breakers]
    failures = [one.circuit.failures for one in breakers]
    with pytest.raises(CopyNotSupportedError):
        outer.copy_object("a", "b")
    assert failures == [one.circuit.failures for one in breakers]


def test_copies_go_through_the_breaker() -> None:
    """Through two as through one."""
    rig = Rig(threshold=1)
    outer = CircuitBreakerBackend(rig.breaker)
    assert can_copy(outer)
    outer.copy_object("k", "l")
    assert b"x" * 4096 == rig.store.get_object("l").read()
    rig.open()
    with pytest.raises(BackendUnavailableError):
        outer.copy_object("k", "m")


def test_a_store_that_learns_that_it_cannot_copy_is_well() -> None:
    """An answer of NotImplemented never counts, through two breakers either."""
    rig = Rig(threshold=1)
    outer = CircuitBreakerBackend(rig.breaker, threshold=1)
    for status in (501, None):
        rig.break_with(lambda status=status: CopyNotSupportedError("no", status=status))
        for _ in range(10):
            with pytest.raises(CopyNotSupportedError):
                outer.copy_object("k", "l")
    assert (CLOSED, CLOSED) == (outer.state, rig.breaker.state)


def test_capabilities_and_layers() -> None:
    """The copy method is always there, the batch only where it works; layers come off one by one."""
    rig = Rig()
    assert isinstance(rig.breaker, BackendCopier)
    assert isinstance(rig.breaker, BatchDeleter)
    assert not isinstance(CircuitBreakerBackend(NoCopy(MemoryBackend())), BatchDeleter)
    assert rig.counting is rig.breaker.unwrap()
    assert rig.store is innermost(rig.breaker)
    assert ("memory://", "memory://") == (rig.breaker.name, rig.breaker.circuit.name)
    assert "own" == CircuitBreakerBackend(MemoryBackend(), "own").circuit.name


# ---- recovery


def test_inline_recovery() -> None:
    """After the time one request finds out, and all pass again."""
    rig = Rig(threshold=1)
    rig.open()
    rig.clock.now += 299
    with pytest.raises(BackendUnavailableError, match="in 1 s"):
        rig.breaker.head_object("k")
    assert (299, False) == (rig.breaker.open_duration_seconds, rig.breaker.probe_eligible)
    rig.clock.now += 1
    assert rig.breaker.probe_eligible
    rig.breaker.head_object("k")
    assert (CLOSED, 0) == (rig.breaker.state, rig.breaker.open_duration_seconds)


def external(**options: Any) -> tuple[Rig, ExternalRecovery, list[float]]:
    """Make a rig whose watchdog is driven by hand, with the times of its probes."""
    rig_box: list[Rig] = []
    probed: list[float] = []

    def probe() -> None:
        probed.append(rig_box[0].clock.now - 1000.0)
        list_one(rig_box[0].counting)

    watchdog = ExternalRecovery(probe, monotonic=lambda: rig_box[0].clock.now, with_thread=False)
    rig = Rig(recovery="external", threshold=1, watchdog=watchdog, **options)
    rig_box.append(rig)
    return rig, watchdog, probed


def run_watchdog(rig: Rig, watchdog: ExternalRecovery, seconds: float) -> None:
    """Let the watchdog live for so long, without waiting."""
    end = rig.clock.now + seconds
    while (pause := watchdog.tick()) is not None and rig.clock.now + pause <= end:
        rig.clock.now += max(pause, 1e-6)
    rig.clock.now = end


def test_external_recovery_keeps_its_schedule() -> None:
    """First after the circuit's time, then in pauses that double up to 5 minutes."""
    rig, watchdog, probed = external(timeout_seconds=15.0)
    rig.open()
    rig.break_with(lambda: UnavailableError("still down"))
    run_watchdog(rig, watchdog, 1200)
    assert [15, 45, 105, 225, 465, 765, 1065] == [round(at) for at in probed]
    assert OPEN is rig.breaker.state


def test_a_long_timeout_is_the_longest_pause() -> None:
    """The pauses are never shorter than the circuit's own time."""
    rig, watchdog, probed = external(timeout_seconds=400.0, rng=lambda: 0.5)
    rig.open()
    rig.break_with(lambda: UnavailableError("still down"))
    run_watchdog(rig, watchdog, 1300)
    assert [450, 850, 1250] == [round(at) for at in probed]


def test_external_recovery_spends_no_request_of_a_user() -> None:
    """All are refused until the watchdog's probe succeeds."""
    rig, watchdog, probed = external()
    rig.open()
    assert not rig.breaker.probe_eligible
    rig.clock.now += 299
    run_watchdog(rig, watchdog, 0)
    with pytest.raises(BackendUnavailableError, match="background"):
        rig.breaker.head_object("k")
    assert ([], OPEN) == (probed, rig.breaker.state)
    run_watchdog(rig, watchdog, 1)
    assert ([300], CLOSED) == (probed, rig.breaker.state)
    assert [Operation.LIST_PAGE] == [call.operation for call in rig.counting.calls]
    assert None is watchdog.tick()
    rig.open()
    run_watchdog(rig, watchdog, 300)
    assert (2, CLOSED) == (len(probed), rig.breaker.state)


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for a condition, at most a minute."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_a_hanging_probe_is_given_up() -> None:
    """After its time it has failed, and no second one is sent while it hangs."""
    clock, go, begun = Clock(), threading.Event(), []

    def probe() -> None:
        begun.append(1)
        assert go.wait(60)

    watchdog = ExternalRecovery(probe, probe_timeout_seconds=0.02, monotonic=clock, with_thread=False)
    store = FaultBackend(MemoryBackend(), Fault())
    breaker = CircuitBreakerBackend(
        store, threshold=1, timeout_seconds=1.0, recovery=Recovery.EXTERNAL, watchdog=watchdog,
        monotonic=clock, rng=lambda: 0.0,
    )  # fmt: skip
    with pytest.raises(BackendUnavailableError):
        breaker.head_object("k")
    watchdog.tick()
    for _ in range(3):
        clock.now += 100
        watchdog.tick()
    eventually(lambda: bool(begun))
    assert ([1], OPEN) == (begun, breaker.state)
    watchdog._probe_timeout_seconds = 60.0
    go.set()

    def probed_again() -> bool:
        clock.now += 1000
        watchdog.tick()
        return breaker.is_healthy

    eventually(probed_again)
    assert [1, 1] == begun


def test_the_watchdog_lives_as_long_as_the_outage() -> None:
    """It begins with it, ends with it, and heals the circuit by itself; the next outage has one again."""
    store = FaultBackend(MemoryBackend(), Fault(times=1), Fault(nth=4, times=1))
    breaker = CircuitBreakerBackend(store, threshold=1, timeout_seconds=0.001, recovery="external")
    watchdog = breaker._watchdog
    assert watchdog is not None
    assert not watchdog.is_watching
    for _ in range(2):
        with pytest.raises(BackendUnavailableError):
            breaker.delete_object("k")
        eventually(lambda: breaker.is_healthy)
        eventually(lambda: not watchdog.is_watching)
        breaker.delete_object("k")
    breaker.close()


FORKED = """
import os, sys, time
from bubu_storage.backend.breaker import CircuitBreakerBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import BackendUnavailableError
from bubu_storage.testing.fakes import Fault, FaultBackend

fault = Fault(times=0)
breaker = CircuitBreakerBackend(
    FaultBackend(MemoryBackend(), fault), threshold=1, timeout_seconds=0.2, recovery="external"
)
try:
    breaker.delete_object("k")
except BackendUnavailableError:
    pass
if (child := os.fork()) == 0:
    fault.nth, fault.times = 10**9, 1
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            breaker.delete_object("k")
        except BackendUnavailableError:
            time.sleep(0.01)
        else:
            os._exit(0)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_a_watchdog_too() -> None:
    """The thread stays behind in the parent; the child's first refused request begins one."""
    assert 0 == subprocess.run([sys.executable, "-c", FORKED], check=False, timeout=120).returncode


def test_a_process_forked_during_a_probe_probes_by_itself() -> None:
    """The parent's probe, and the lock that it held, are not waited for."""
    clock, go, begun = Clock(), threading.Event(), threading.Event()

    def probe() -> None:
        begun.set()
        go.wait()

    watchdog = ExternalRecovery(probe, monotonic=clock, with_thread=False)
    rig = Rig(recovery="external", threshold=1, timeout_seconds=1.0, monotonic=clock, watchdog=watchdog)
    rig.open()
    watchdog.tick()
    clock.now += 2
    ticking = threading.Thread(target=watchdog.tick)
    ticking.start()
    assert begun.wait(30)
    child = os.fork()
    if not child:
        signal.alarm(60)
        go.set()
        watchdog.tick()
        clock.now += 1000
        watchdog.tick()
        os._exit(0 if rig.breaker.is_healthy else 1)
    go.set()
    ticking.join(30)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert rig.breaker.is_healthy


def test_a_probe_that_cannot_begin_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread is to be had now, one may be had at the next look."""
    clock = Clock()
    watchdog = ExternalRecovery(lambda: None, monotonic=clock, with_thread=False)
    rig = Rig(recovery="external", threshold=1, timeout_seconds=1.0, monotonic=clock, watchdog=watchdog)
    rig.open()
    watchdog.tick()
    clock.now += 2
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", raiser(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="new thread"):
            watchdog.tick()
    assert OPEN is rig.breaker.state
    watchdog.tick()
    assert rig.breaker.is_healthy


def raiser(error: Exception) -> Callable[..., Any]:
    """Return what raises an error."""

    def fail(*_: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("request_name", ["head_object", "delete_objects"])
def test_a_rule_that_fails_hands_the_probe_back(request_name: str) -> None:
    """A mistake in ``is_failure`` shows; it does not leave the circuit half-open."""
    mistaken = [False]

    def rule(error: BaseException) -> bool:
        if mistaken[0]:
            raise TypeError("'>=' not supported")
        return isinstance(error, UnavailableError)

    rig = Rig(threshold=1, timeout_seconds=1.0, is_failure=rule)
    rig.open()
    rig.clock.now += 2
    mistaken[0] = True
    if request_name == "head_object":
        rig.break_with(lambda: UnavailableError("down"))
    else:
        rig.store.delete_objects = lambda keys, **_: dict.fromkeys(keys, UnavailableError("down"))  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="not supported"):
        getattr(rig.breaker, request_name)("k")

    assert OPEN is rig.breaker.state
    assert rig.breaker.probe_eligible


def test_the_watchdog_ends_with_close() -> None:
    """Also in the middle of an outage; afterwards it does not come back."""
    store = FaultBackend(MemoryBackend(), Fault(times=0))
    breaker = CircuitBreakerBackend(store, threshold=1, timeout_seconds=1000.0, recovery="external")
    watchdog = breaker._watchdog
    assert watchdog is not None
    with pytest.raises(BackendUnavailableError):
        breaker.head_object("k")
    assert watchdog.is_watching
    breaker.close()
    breaker.close()
    eventually(lambda: not watchdog.is_watching)
    with pytest.raises(BackendUnavailableError):
        breaker.head_object("k")
    assert not watchdog.is_watching


# ---- routing


def test_a_router_lets_the_eligible_through() -> None:
    """Ill backends are left out, but not those that could heal, even when all are ill."""
    rigs = [Rig(threshold=1) for _ in range(3)]
    backends = [CountingBackend(rig.breaker) for rig in rigs]
    plain = MemoryBackend()
    assert [*backends, plain] == usable([*backends, plain])
    rigs[0].open()
    assert [backends[1], backends[2], plain] == usable([*backends, plain])
    rigs[1].open()
    rigs[2].open()
    assert [] == usable(backends)
    rigs[1].clock.now += 300
    assert [backends[1]] == usable(backends)
    usable(backends)[0].head_object("k")
    assert ([CLOSED], [backends[1]]) == ([rigs[1].breaker.state], usable(backends))


def test_a_router_frees_a_lost_probe() -> None:
    """Without a request nobody else would notice that it never reported."""
    rig = Rig(threshold=1)
    rig.open()
    rig.clock.now += 300
    rig.breaker.circuit.acquire()
    assert [] == usable([rig.breaker])
    rig.clock.now += 120
    assert [rig.breaker] == usable([rig.breaker])
    assert not rig.breaker.reset_stale_probe()
