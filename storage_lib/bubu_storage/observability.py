"""What the library tells Prometheus: every metric, its labels and their values, in one place.

`StorageMetrics` owns the collectors. `bubu_storage.backend.metrics.MetricsBackend` feeds the ones
about requests, the manager the one about documents, a circuit breaker the ones about circuits.

Invariants:

* names and labels are those of `METRICS`, and every label has few values: no key and no run is
  ever one of them;
* one registry has one set of collectors, however many `StorageMetrics` are made for it;
* ``prometheus_client`` is imported when the first `StorageMetrics` is made, not before.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from bubu_storage.errors import (
    BackendUnavailableError,
    BucketNotFoundError,
    ConfigurationError,
    InvalidKeyError,
    LimitExceededError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageTimeoutError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

__all__ = [
    "DURATION_BUCKETS_SECONDS",
    "METRICS",
    "PAYLOAD_BUCKETS_BYTES",
    "READ_BODY",
    "Direction",
    "MetricFacts",
    "PayloadOperation",
    "Status",
    "StorageMetrics",
    "status_of",
]

_log = logging.getLogger(__name__)

READ_BODY: Final = "read_body"
"""Operation label of a body that broke off after `get_object` had succeeded."""

DURATION_BUCKETS_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""From a file in the page cache to the default limit of a whole call."""

PAYLOAD_BUCKETS_BYTES: Final = tuple(256 * 4**step for step in range(11))
"""256 B to 256 MiB, each four times the one before."""


class Status(StrEnum):
    """How a request ended: the label ``status``."""

    OK = "ok"
    """It did what it should."""
    PARTIAL = "partial"
    """A batch deletion that left some of its keys."""
    NOT_FOUND = "not_found"
    """There is no such object; often no fault at all."""
    PRECONDITION_FAILED = "precondition_failed"
    """A condition did not hold; often no fault at all."""
    INVALID = "invalid"
    """The caller's mistake: key, range, size or settings."""
    UNSUPPORTED = "unsupported"
    """The store lacks this operation."""
    DENIED = "denied"
    """Credentials are missing, unknown or not allowed to."""
    NO_BUCKET = "no_bucket"
    """The bucket or base directory does not exist."""
    THROTTLED = "throttled"
    """The store asked for fewer requests."""
    TIMEOUT = "timeout"
    """The store did not answer in time."""
    CIRCUIT_OPEN = "circuit_open"
    """Not sent: a circuit breaker holds requests back."""
    UNAVAILABLE = "unavailable"
    """Refused, reset, broken off, or a server error."""
    ERROR = "error"
    """Anything else."""


class Direction(StrEnum):
    """Which way bytes went: the label ``direction``."""

    READ = "read"
    """From the store."""
    WRITE = "write"
    """To the store."""


class PayloadOperation(StrEnum):
    """What was done with a document: the label ``operation`` of ``storage_payload_bytes``."""

    DEHYDRATE = "dehydrate"
    """The document before its large values went to the store."""
    DEHYDRATE_INPUTS = "dehydrate_inputs"
    """The same, of a run's inputs."""
    HYDRATE = "hydrate"
    """The document with all its references resolved."""
    HYDRATE_STORAGE_REFS_ONLY = "hydrate_storage_refs_only"
    """The same, ConfigMap and Secret references left as they are."""


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """One metric as documented.

    Attributes:
        name: as exposed and queried.
        kind: ``counter``, ``histogram``, ``gauge`` or ``untyped``.
        labels: names of its labels.
        meaning: for people.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS: Final = (
    MetricFacts(
        "storage_operations_total",
        "counter",
        ("operation", "status"),
        "Requests to the store, by how they ended; one page of a listing is one request.",
    ),
    MetricFacts(
        "storage_operation_duration_seconds",
        "histogram",
        ("operation",),
        "Time until a request was answered, tries included; of a read, until its body was open.",
    ),
    MetricFacts(
        "storage_bytes_transferred",
        "untyped",
        ("direction",),
        "Bytes of objects that were read from and written to the store; it only grows, as a counter.",
    ),
    MetricFacts(
        "storage_payload_bytes",
        "histogram",
        ("operation",),
        "Length of whole documents that were dehydrated or hydrated, as JSON.",
    ),
    MetricFacts(
        "storage_circuit_state",
        "gauge",
        ("name",),
        "State of a circuit breaker: 0 closed, 1 open, 2 half-open.",
    ),
    MetricFacts(
        "storage_circuit_transitions_total",
        "counter",
        ("name", "from_state", "to_state"),
        "Changes of a circuit breaker's state.",
    ),
)
"""Everything that `StorageMetrics` exposes."""

_STATUSES: Final[tuple[tuple[type[BaseException], Status], ...]] = (
    (ObjectNotFoundError, Status.NOT_FOUND),
    (PreconditionFailedError, Status.PRECONDITION_FAILED),
    (BucketNotFoundError, Status.NO_BUCKET),
    (UnauthenticatedError, Status.DENIED),
    (PermissionDeniedError, Status.DENIED),
    (ThrottledError, Status.THROTTLED),
    (StorageTimeoutError, Status.TIMEOUT),
    (BackendUnavailableError, Status.CIRCUIT_OPEN),
    (UnavailableError, Status.UNAVAILABLE),
    (UnsupportedOperationError, Status.UNSUPPORTED),
    (InvalidKeyError, Status.INVALID),
    (ConfigurationError, Status.INVALID),
    (LimitExceededError, Status.INVALID),
    (RangeNotSatisfiableError, Status.INVALID),
    (TypeError, Status.INVALID),
)


def status_of(error: BaseException) -> Status:
    """Return the label value of a failed request; the first class that fits decides."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return Status.ERROR


class StorageMetrics:
    """The library's collectors on one registry; thread-safe.

    Args:
        registry: where to expose them; None for ``prometheus_client.REGISTRY``.

    Raises:
        ConfigurationError: another library has a metric of one of these names there.
    """

    _default: StorageMetrics | None = None

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._collectors = _collectors_of(registry)
        # Looking a child up by its labels takes a lock and builds a tuple each time.
        self._count: dict[tuple[str, str], Callable[[], None]] = {}
        self._duration: dict[str, Callable[[float], None]] = {}
        self._bytes = {
            direction: self._collectors.transferred.labels(direction.value).inc for direction in Direction
        }
        self._payload = {
            operation: self._collectors.payload.labels(operation.value).observe
            for operation in PayloadOperation
        }

    @classmethod
    def default(cls) -> StorageMetrics:
        """Return the process-wide one, on the default registry; the same each time.

        Where another library already exposes one of the names there, it counts on a registry of
        its own, unseen, and a log line says so: metrics stop nobody's work.
        """
        with _lock:
            if StorageMetrics._default is None:
                try:
                    StorageMetrics._default = StorageMetrics()
                except ConfigurationError as error:
                    from prometheus_client import CollectorRegistry as Registry  # noqa: PLC0415

                    _log.warning("storage metrics are not exposed: %s", error)
                    StorageMetrics._default = StorageMetrics(Registry())
            return StorageMetrics._default

    def observe_operation(self, operation: str, status: str, seconds: float) -> None:
        """Count one request.

        Args:
            operation: a `bubu_storage.backend.decorator.Operation`.
            status: a `Status`.
            seconds: until it was answered.
        """
        self.count_operation(operation, status)
        observe = self._duration.get(operation)
        if observe is None:
            observe = self._duration[operation] = self._collectors.duration.labels(str(operation)).observe
        observe(seconds)

    def count_operation(self, operation: str, status: str) -> None:
        """Count one request whose duration says nothing."""
        count = self._count.get((operation, status))
        if count is None:
            count = self._collectors.operations.labels(str(operation), str(status)).inc
            self._count[operation, status] = count
        count()

    def add_bytes(self, direction: Direction, size_bytes: int) -> None:
        """Add bytes that have passed."""
        self._bytes[direction](size_bytes)

    def observe_payload(self, operation: str, size_bytes: int) -> None:
        """Note the length of a document.

        Args:
            operation: a `PayloadOperation`.
            size_bytes: of the whole document as JSON.

        Raises:
            ValueError: another operation; it would be a new label value.
        """
        self._payload[PayloadOperation(operation)](size_bytes)

    def set_circuit_state(self, name: str, state: int) -> None:
        """Show the state of a circuit breaker.

        Args:
            name: of the breaker; few of them, known beforehand.
            state: 0 closed, 1 open, 2 half-open.
        """
        self._collectors.circuit_state.labels(name).set(state)

    def count_circuit_transition(self, name: str, from_state: str, to_state: str) -> None:
        """Count a change of a circuit breaker's state."""
        self._collectors.circuit_transitions.labels(name, from_state, to_state).inc()


_lock = threading.RLock()


class _Collectors:
    """One set of collectors, registered as a whole or not at all."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415

        (operations, duration, transferred, payload, state, transitions) = (
            (fact.name, fact.meaning, fact.labels) for fact in METRICS
        )
        self.operations = Counter(*operations, registry=None)
        self.duration = Histogram(*duration, buckets=DURATION_BUCKETS_SECONDS, registry=None)
        self.transferred = Counter(*transferred, registry=None)
        self.payload = Histogram(*payload, buckets=PAYLOAD_BUCKETS_BYTES, registry=None)
        self.circuit_state = Gauge(*state, registry=None)
        self.circuit_transitions = Counter(*transitions, registry=None)
        registered: list[Collector] = []
        try:
            for one in (
                self.operations,
                self.duration,
                _AsNamed(self.transferred),
                self.payload,
                self.circuit_state,
                self.circuit_transitions,
            ):
                registry.register(one)
                registered.append(one)
        except ValueError:
            for one in registered:
                registry.unregister(one)
            raise


class _AsNamed:
    """Exposes a counter under its plain name.

    The client appends ``_total`` to every counter, and dashboards made for BubuStack ask for
    ``storage_bytes_transferred``. OpenMetrics knows no counter without that ending, so the type
    is "unknown" (``untyped`` in the older format), of which ``rate()`` takes no notice.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def collect(self) -> Iterator[Metric]:
        """Yield the one metric."""
        from prometheus_client.core import UnknownMetricFamily  # noqa: PLC0415

        for metric in self._counter.collect():
            family = UnknownMetricFamily(metric.name, metric.documentation)
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    family.add_sample(metric.name, sample.labels, sample.value)
            yield family


_by_registry: weakref.WeakKeyDictionary[CollectorRegistry, _Collectors] = weakref.WeakKeyDictionary()


def _collectors_of(registry: CollectorRegistry | None) -> _Collectors:
    from prometheus_client import REGISTRY  # noqa: PLC0415

    where = REGISTRY if registry is None else registry
    with _lock:
        found = _by_registry.get(where)
        if found is None:
            try:
                found = _by_registry[where] = _Collectors(where)
            except ValueError as error:
                raise ConfigurationError(
                    f"storage metrics cannot be registered: {error}; give a registry of their own, as "
                    "StorageMetrics(prometheus_client.CollectorRegistry())"
                ) from error
        return found
