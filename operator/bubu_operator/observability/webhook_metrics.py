"""Metrics of the webhook: every name, its labels and its meaning in one place.

Invariants: every label has a fixed vocabulary (enums of ours, plurals of resources), never
anything that a tenant or a caller writes, so the number of series is bounded; counting a
review costs a few microseconds, because the children of labelled metrics are bound once.
What can be read off when somebody asks (cache, certificate, requests in flight) is read
then, and costs nothing before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["EventOutcome", "FallbackOutcome", "Result", "WebhookMetrics"]

REVIEW_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Result(StrEnum):
    """How a review ended."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    DENIED = "denied"
    ERROR = "error"


class FallbackOutcome(StrEnum):
    """How a live read of the API server for one review ended."""

    FOUND = "found"
    ABSENT = "absent"
    FAILED = "failed"
    TIMEOUT = "timeout"


class EventOutcome(StrEnum):
    """What became of an event about an owner."""

    POSTED = "posted"
    REPEATED = "repeated"
    DROPPED = "dropped"
    FAILED = "failed"


class WebhookMetrics:
    """The webhook's metrics, in a registry of their own.

    Attributes:
        registry: what ``/metrics`` shows.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.reviews = Counter(
            "bubu_webhook_reviews_total",
            "Admission reviews answered. entry: ignore or strict; result: injected, unchanged (had it "
            "already), skipped (let through without), denied, error (a fault of ours or an unusable body).",
            ("entry", "result", "reason"),
            registry=registry,
        )
        self.review_seconds = Histogram(
            "bubu_webhook_review_duration_seconds",
            "Time from a review's head to its answer, all waiting (body, cache, live read) included.",
            ("entry",),
            buckets=REVIEW_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "bubu_webhook_reviews_in_flight", "Reviews being answered right now.", registry=registry
        )
        self.ready = Gauge(
            "bubu_webhook_ready",
            "1 when this replica may be sent reviews: everything listed, a certificate there, not draining.",
            registry=registry,
        )
        self.cache_objects = Gauge(
            "bubu_webhook_cache_objects", "Objects in the cache.", ("resource",), registry=registry
        )
        self.cache_age_seconds = Gauge(
            "bubu_webhook_cache_age_seconds",
            "Time since the API server was last heard about a resource; it bookmarks about once a minute, "
            "so more than two minutes mean a stale cache. +Inf before the first list.",
            ("resource",),
            registry=registry,
        )
        self.cache_failing = Gauge(
            "bubu_webhook_cache_failing",
            "1 while a resource cannot be followed; the log says why. Reviews go on from what is known.",
            ("resource",),
            registry=registry,
        )
        self.cache_lists = Counter(
            "bubu_webhook_cache_lists_total",
            "Whole lists of a resource; one at the start, further ones after a forgotten version.",
            ("resource",),
            registry=registry,
        )
        self.cache_errors = Counter(
            "bubu_webhook_cache_errors_total",
            "Failed lists and watches. error: forbidden, unauthorized, gone, timeout, unreachable, "
            "throttled, other.",
            ("resource", "error"),
            registry=registry,
        )
        self.fallback_reads = Counter(
            "bubu_webhook_fallback_reads_total",
            "Live reads for reviews that the cache could not decide: found (something to decide with), "
            "absent (the namespace does not exist), failed, timeout (not within the review's time).",
            ("outcome",),
            registry=registry,
        )
        self.events = Counter(
            "bubu_webhook_events_total",
            "Events about owners whose pods got no storage: posted, repeated (the same one was offered "
            "within ten minutes), dropped (the queue was full), failed.",
            ("outcome",),
            registry=registry,
        )
        self.certificate_not_after = Gauge(
            "bubu_webhook_certificate_not_after_timestamp_seconds",
            "End of the serving certificate's validity, Unix time; 0 while there is none.",
            registry=registry,
        )
        self.certificate_trouble = Gauge(
            "bubu_webhook_certificate_trouble",
            "1 while the newest certificate is refused or cannot be had, even though an older one still "
            "serves; the log says why.",
            registry=registry,
        )
        self.certificate_counts = _CertificateCounts()
        registry.register(self.certificate_counts)
        self.loop_lag_seconds = Histogram(
            "bubu_webhook_event_loop_lag_seconds",
            "By how much a timer of the event loop was late; looked at ten times a second.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._reviews: dict[tuple[str, str, str], Callable[[], None]] = {}
        self._seconds: dict[str, Callable[[float], None]] = {}
        for outcome in FallbackOutcome:
            self.fallback_reads.labels(outcome.value)
        for outcome in EventOutcome:
            self.events.labels(outcome.value)

    def count_review(self, entry: str, result: Result, reason: str, seconds: float) -> None:
        """Count one answer; all three words come from fixed vocabularies."""
        key = (entry, result, reason)
        count = self._reviews.get(key)
        if count is None:
            count = self._reviews[key] = self.reviews.labels(entry, result.value, str(reason)).inc
        count()
        observe = self._seconds.get(entry)
        if observe is None:
            observe = self._seconds[entry] = self.review_seconds.labels(entry).observe
        observe(seconds)


class _CertificateCounts(Collector):
    """Counters that somebody else keeps: read when they are asked for; 0 until `follow`."""

    _LOADS: Final = "bubu_webhook_certificate_loads_total", "Serving certificates taken into use."
    _REFUSALS: Final = (
        "bubu_webhook_certificate_refusals_total",
        "Certificates that were refused, or could not be had; the same cause counts once until it changes.",
    )

    def __init__(self) -> None:
        self._loads = self._refusals = _none

    def follow(self, loads: Callable[[], int], refusals: Callable[[], int]) -> None:
        """Show what these functions return."""
        self._loads, self._refusals = loads, refusals

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See `Collector`."""
        yield CounterMetricFamily(*self._LOADS, value=self._loads())
        yield CounterMetricFamily(*self._REFUSALS, value=self._refusals())


def _none() -> int:
    return 0
