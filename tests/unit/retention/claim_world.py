"""What tests of claims share: stores that lie about conditions, and claimers that take turns as told."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from bubu_storage.backend.decorator import BackendDecorator, Call, Operation
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import ClaimedError, StorageError, UnavailableError, UnsupportedOperationError
from bubu_storage.retention.claim import ClaimSettings, StoreClaim
from bubu_storage.retention.gate import PassStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

TIMEOUT_SECONDS = 5.0
TTL_SECONDS = 30.0


class Lying(BackendDecorator):
    """A store that takes conditional requests and ignores some of the conditions."""

    def __init__(self, inner: Any, *, ignores: tuple[str, ...] = ("if_match", "if_none_match")) -> None:
        super().__init__(inner)
        self.ignores = ignores

    def put_object(self, key: str, body: Any, **facts: Any) -> str:
        """Pass on without what is ignored."""
        return self.inner.put_object(key, body, **{k: v for k, v in facts.items() if k not in self.ignores})

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Pass on, likewise."""
        self.inner.delete_object(key, if_match="" if "if_match" in self.ignores else if_match)


class NoCompare(BackendDecorator):
    """A store that says that it knows no ``if_match``, like a directory of a network file system."""

    def put_object(self, key: str, body: Any, **facts: Any) -> str:
        """Refuse what is not known."""
        if facts.get("if_match"):
            raise UnsupportedOperationError("no locks here")
        return self.inner.put_object(key, body, **facts)

    def delete_object(self, key: str, *, if_match: str = "") -> None:
        """Likewise."""
        if if_match:
            raise UnsupportedOperationError("no locks here")
        self.inner.delete_object(key)


class Failing(BackendDecorator):
    """Raises what is asked for, before or after the effect of calls of some kinds."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.errors: dict[Operation, StorageError] = {}
        self.after = False
        self.calls: list[Call] = []

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        self.calls.append(call)
        error = self.errors.get(call.operation)
        if error is not None and not self.after:
            raise error
        answer = act()
        if error is not None:
            raise error
        return answer


class _EndedError(BaseException):
    """Ends a claimer's thread at the end of a test."""


@dataclass
class Simulation:
    """A store, its clock, and the monotonic clock of the world; nothing moves unless told."""

    lying: bool = False
    seconds: float = 0.0
    store: MemoryBackend = field(init=False)
    start: datetime = datetime(2030, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.store = MemoryBackend(clock=self.store_time)

    def store_time(self) -> datetime:
        """Whole seconds, as stores tell and stamp them."""
        return (self.start + timedelta(seconds=self.seconds)).replace(microsecond=0)


class Claimer:
    """Claims, renews, gives back and claims again for ever, one request at each `step`.

    A request has its effect in one step and its answer in the next, so that anything may happen
    before, in between and after; but a deletion arrives in time or not at all. ``offset`` is how far
    the claimer's own clock is off.
    """

    def __init__(self, world: Simulation, name: str, offset: float) -> None:
        self.world = world
        self.name = name
        self.offset = offset
        self.claim: StoreClaim | None = None
        self.lose_answer = False
        self.give_back = self.gave_back = False
        self.acquired = 0
        self.last_valid = float("-inf")
        self.failure: BaseException | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def step(self) -> None:
        """Let it run to its next request, answer or wait."""
        self._go.release()
        self._wait()

    def end(self) -> None:
        """End the thread."""
        self._ending = True
        self._go.release()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def is_valid(self) -> bool:
        """Tell whether it would delete now."""
        if self.claim is None:
            return False
        try:
            self.claim.check()
        except PassStoppedError:
            return False
        return True

    def _wait(self) -> None:
        assert self._paused.acquire(timeout=60)
        if self.failure is not None:
            raise self.failure

    def pause(self) -> None:
        """Wait for the next step; called by its own thread."""
        if self._ending:
            raise _EndedError
        self._paused.release()
        self._go.acquire()
        if self._ending:
            raise _EndedError

    def monotonic(self) -> float:
        """Its own clock."""
        return self.world.seconds + self.offset

    def sleep(self, seconds: float) -> None:
        """Wait by the world's clock, at least one step."""
        end = self.world.seconds + seconds
        self.pause()
        while self.world.seconds < end:
            self.pause()

    def _run(self) -> None:
        try:
            while True:
                self.pause()
                self._live()
        except _EndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            self.failure = error
            self._paused.release()

    def _live(self) -> None:
        backend: Any = _Stepped(self.world.store, self)
        if self.world.lying:
            backend = Lying(backend)
        claim = StoreClaim(
            backend,
            ClaimSettings(self.name, ttl_seconds=TTL_SECONDS, request_timeout_seconds=TIMEOUT_SECONDS),
            monotonic=self.monotonic,
            sleep=self.sleep,
            in_background=False,
        )
        self.claim = claim
        try:
            claim.acquire()
        except (ClaimedError, UnavailableError):
            self.claim = None
            return
        self.acquired += 1
        while self.is_valid():
            self.pause()
            if self.give_back:
                self.gave_back = True
                claim.release()
                self.claim = None
                return
            try:
                claim.renew()
            except UnavailableError:
                continue


class _Stepped(BackendDecorator):
    """A way to the store that waits for a step before each request and before each answer."""

    def __init__(self, inner: Any, claimer: Claimer) -> None:
        super().__init__(inner)
        self.claimer = claimer

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        if call.operation is Operation.SERVER_TIME:
            return act()
        sent = self.claimer.world.seconds
        self.claimer.pause()
        if call.operation is Operation.DELETE and self.claimer.world.seconds - sent > TIMEOUT_SECONDS:
            raise UnavailableError("the deletion did not arrive in time")
        try:
            answer = act()
        except StorageError:
            self.claimer.pause()
            raise
        self.claimer.pause()
        if self.claimer.lose_answer:
            raise UnavailableError("the answer was lost")
        return answer
