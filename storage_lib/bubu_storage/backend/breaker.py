"""A backend behind a circuit breaker: an ill store is left alone instead of waited for.

While the circuit is open the wrapped backend is not touched at all, and the body of a put is
not read. What counts as a failure is decided by `bubu_storage.backend.failures`.

What counts when:

* a ``get`` is judged by its body: a read that fails counts once, a body read to its end (or
  closed early: the store did answer) is a success. Where the ``get`` is the probe of an open
  circuit, the first bytes close it, so that a slow reader does not keep the others out;
* each page of a listing is a request of its own;
* a batch of deletions is a failure when every key failed so;
* an error of the caller's own source, while putting, says nothing about the store;
* `CopyNotSupportedError` comes before the breaker is asked, and never counts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import IO, Final, TypeVar, cast

from bubu_storage.backend.bodies import as_view
from bubu_storage.backend.breaker_bodies import GuardedBody, WatchedSource
from bubu_storage.backend.circuit import (
    DEFAULT_OPEN_TIMEOUT_SECONDS,
    DEFAULT_THRESHOLD,
    CircuitBreaker,
    Permit,
)
from bubu_storage.backend.circuit_events import CircuitListener, CircuitState, PrometheusListener
from bubu_storage.backend.decorator import BackendDecorator, Call, Operation
from bubu_storage.backend.failures import Verdict, is_backend_failure
from bubu_storage.backend.recovery import ExternalRecovery
from bubu_storage.backend.types import (
    BackendCopier,
    Body,
    GetObjectResult,
    ListPage,
    ObjectBackend,
    check_page_size,
    check_prefix,
)
from bubu_storage.errors import (
    BackendUnavailableError,
    ConfigurationError,
    CopyNotSupportedError,
    StorageError,
    ThrottledError,
)
from bubu_storage.wire import DEFAULT_BLOB_CONTENT_TYPE

__all__ = ["CircuitBreakerBackend", "Recovery", "can_copy", "list_one", "usable"]

_T = TypeVar("_T")


class Recovery(StrEnum):
    """Who finds out whether a backend is back."""

    INLINE = "inline"
    """One request of a user, when the time is over."""
    EXTERNAL = "external"
    """A watchdog; users' requests are refused until it says so."""


def list_one(backend: ObjectBackend) -> None:
    """Ask for one key of a listing: the cheapest request that every store must answer."""
    next(backend.list_objects(page_size=1), None)


class CircuitBreakerBackend(BackendDecorator):
    """Keeps requests from a backend that failed too often; thread-safe.

    Args:
        inner: the backend that does the work.
        name: of the circuit, for messages and labels; "" = the backend's own name.
        threshold: failures in a row that open the circuit, at least 1.
        timeout_seconds: how long it stays open at least; up to a quarter more is added at random.
        recovery: who probes: a `Recovery` or its text.
        is_failure: which errors count.
        throttle_weight: how much a `ThrottledError` counts; 0 = it is a healthy answer.
        listeners: hear of each transition; None for a `PrometheusListener` on the default
            registry.
        probe: with external recovery, the request that finds out; `list_one` by default. It
            needs the right to do so: give another one where credentials may not list.
        watchdog: replaces the one that external recovery makes, for tests.
        monotonic, rng: clock in seconds, random numbers in [0, 1).

    Attributes:
        circuit: the breaker itself.

    Raises:
        ConfigurationError: threshold, timeout, weight or recovery make no sense.
    """

    def __init__(
        self,
        inner: ObjectBackend,
        name: str = "",
        threshold: int = DEFAULT_THRESHOLD,
        timeout_seconds: float = DEFAULT_OPEN_TIMEOUT_SECONDS,
        *,
        recovery: Recovery | str = Recovery.INLINE,
        is_failure: Callable[[BaseException], bool] = is_backend_failure,
        throttle_weight: float = 1.0,
        listeners: Iterable[CircuitListener] | None = None,
        probe: Callable[[ObjectBackend], object] = list_one,
        watchdog: ExternalRecovery | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        if recovery not in set(Recovery):
            raise ConfigurationError(f"recovery is {recovery!r}; known are 'inline' and 'external'")
        if not 0 <= throttle_weight <= 1:
            raise ConfigurationError(f"throttle weight is {throttle_weight:g}; it must be 0 to 1")
        self._throttle_weight = throttle_weight
        heard_by = (PrometheusListener(),) if listeners is None else tuple(listeners)
        self._watchdog: ExternalRecovery | None = None
        if recovery == Recovery.EXTERNAL:
            self._watchdog = watchdog or ExternalRecovery(lambda: probe(inner), monotonic=monotonic)
        self.circuit: Final = CircuitBreaker(
            name or inner.name,
            threshold,
            timeout_seconds,
            is_failure=is_failure,
            listeners=(*heard_by, *([self._watchdog] if self._watchdog else [])),
            monotonic=monotonic,
            rng=rng,
            probes_inline=self._watchdog is None,
        )
        if self._watchdog is not None:
            self._watchdog.follow(self.circuit)

    @property
    def state(self) -> CircuitState:
        """The circuit's state now."""
        return self.circuit.state

    @property
    def is_healthy(self) -> bool:
        """Whether the circuit is closed."""
        return self.circuit.is_healthy

    @property
    def open_duration_seconds(self) -> float:
        """Time since the outage began; 0 when closed."""
        return self.circuit.open_duration_seconds

    @property
    def probe_eligible(self) -> bool:
        """Whether the next request would be let through as the probe."""
        return self.circuit.probe_eligible

    def reset_stale_probe(self) -> bool:
        """Open the circuit again if its probe has reported nothing for 2 minutes; tell whether."""
        return self.circuit.reset_stale_probe()

    def put_object(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int | None = None,
        content_type: str = DEFAULT_BLOB_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: str = "",
    ) -> str:
        """Pass on `ObjectBackend.put_object`; an error of ``body`` itself does not count.

        Raises:
            BackendUnavailableError: the circuit is open; ``body`` was not read.
        """
        source = WatchedSource(body) if as_view(body) is None else None

        def act() -> str:
            return self.inner.put_object(
                key,
                body if source is None else cast("Body", source),
                size_bytes=size_bytes,
                content_type=content_type,
                metadata=metadata,
                if_match=if_match,
                if_none_match=if_none_match,
            )

        return self._guard(Call(Operation.PUT, key), act, source)

    def list_objects(
        self, prefix: str = "", *, start_after: str = "", page_size: int = 1000
    ) -> Iterator[ListPage]:
        """Pass on `ObjectBackend.list_objects`, each page on its own.

        Raises:
            InvalidKeyError: see `check_prefix`.
            LimitExceededError: ``page_size`` is not 1 to 1,000.
            BackendUnavailableError: while iterating: the circuit is open.
        """
        check_prefix(prefix)
        check_page_size(page_size)
        return self._guarded_pages(
            lambda: self.inner.list_objects(prefix, start_after=start_after, page_size=page_size)
        )

    def copy_object(
        self,
        source_key: str,
        destination_key: str,
        *,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Pass on `BackendCopier.copy_object`.

        The method is there whatever the wrapped backend can, as in the Go package; `can_copy`
        tells beforehand.

        Raises:
            CopyNotSupportedError: the wrapped backend cannot copy; also when the circuit is open.
            BackendUnavailableError: the circuit is open.
        """
        if not can_copy(self.inner):
            raise CopyNotSupportedError(
                f"{self.name} cannot copy by itself; read the object and write it instead", key=source_key
            )
        inner = cast("BackendCopier", self.inner)
        return self._around(
            Call(Operation.COPY, destination_key),
            lambda: inner.copy_object(
                source_key, destination_key, content_type=content_type, metadata=metadata
            ),
        )

    def close(self) -> None:
        """Stop the watchdog and close the wrapped backend."""
        if self._watchdog is not None:
            self._watchdog.close()
        self.inner.close()

    # ---- internals

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        return self._guard(call, act, None)

    def _guard(self, call: Call, act: Callable[[], _T], source: WatchedSource | None) -> _T:
        permit = self._acquire()
        try:
            answer = act()
        except BaseException as error:
            if source is not None and source.has_caused(error):
                self.circuit.release(permit)
                raise
            raised = self._settle(permit, error)
            if raised is error:
                raise
            raise raised from error
        if isinstance(answer, GetObjectResult):
            return cast("_T", self._with_guarded_body(permit, answer))
        if call.operation is Operation.DELETE_MANY and self._all_failed(permit, call.keys, answer):
            # One request with one message for all keys; who asked gets them key by key as always.
            self._settle(permit, next(iter(cast("dict[str, StorageError]", answer).values())))
        elif call.operation is Operation.SERVER_TIME:
            # It may come from an earlier answer: no proof that the store is well now.
            self.circuit.release(permit)
        else:
            self.circuit.succeed(permit)
        return answer

    def _acquire(self) -> Permit:
        try:
            return self.circuit.acquire()
        except BackendUnavailableError:
            if self._watchdog is not None:
                self._watchdog.wake()
            raise

    def _settle(self, permit: Permit, error: BaseException) -> BaseException:
        weight = self._throttle_weight if isinstance(error, ThrottledError) else 1.0
        match self.circuit.judged(permit, error):
            case Verdict.FAILURE if weight > 0:
                return self.circuit.fail(permit, error, weight=weight)
            case Verdict.NEUTRAL:
                self.circuit.release(permit)
            case _:
                self.circuit.succeed(permit)
        return error

    def _all_failed(self, permit: Permit, keys: Sequence[str], answer: object) -> bool:
        failed = cast("dict[str, StorageError]", answer)
        return len(failed) == len(set(keys)) > 0 and all(
            self.circuit.judged(permit, error) is Verdict.FAILURE for error in failed.values()
        )

    def _with_guarded_body(self, permit: Permit, answer: GetObjectResult) -> GetObjectResult:
        body = GuardedBody(answer, permit, self.circuit, self._settle)
        return GetObjectResult(answer.info, cast("IO[bytes]", body), content_range=answer.content_range)

    def _guarded_pages(self, start: Callable[[], Iterator[ListPage]]) -> Iterator[ListPage]:
        pages: Iterator[ListPage] | None = None
        while True:
            permit = self._acquire()
            is_first = pages is None
            try:
                if pages is None:
                    pages = start()
                page = next(pages, None)
            except BaseException as error:
                raised = self._settle(permit, error)
                if raised is error:
                    raise
                raise raised from error
            if page is None and not is_first:
                # The page before may have said that it was the last: no request was made.
                self.circuit.release(permit)
            else:
                self.circuit.succeed(permit)
            if page is None:
                return
            yield page


def can_copy(backend: ObjectBackend) -> bool:
    """Tell whether a backend copies by itself; looks behind breakers, which have the method always."""
    if not isinstance(backend, BackendCopier):
        return False
    is_passing_on = isinstance(backend, CircuitBreakerBackend) or (
        isinstance(backend, BackendDecorator) and isinstance(backend.inner, BackendCopier)
    )
    return can_copy(cast("BackendDecorator", backend).inner) if is_passing_on else True


def usable(backends: Iterable[ObjectBackend]) -> list[ObjectBackend]:
    """Return the backends that a router may use now, in the given order.

    Those with a closed circuit, those without any, and those whose open circuit would let a
    probe through: a router that left these out would never see them heal, least of all when
    all circuits are open. Probes that never reported are given up here, for the same reason.
    Only one request becomes the probe; the next one gets `BackendUnavailableError` and goes
    on to another backend.
    """
    return [backend for backend in backends if all(_lets_through(one) for one in _circuits(backend))]


def _lets_through(circuit: CircuitBreaker) -> bool:
    circuit.reset_stale_probe()
    return circuit.is_healthy or circuit.probe_eligible


def _circuits(backend: ObjectBackend) -> Iterator[CircuitBreaker]:
    while isinstance(backend, BackendDecorator):
        if isinstance(backend, CircuitBreakerBackend):
            yield backend.circuit
        backend = backend.unwrap()
