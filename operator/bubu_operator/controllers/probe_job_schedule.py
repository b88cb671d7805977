"""When the next Job of a config is due, and whether there is a place for it.

What is remembered here is of this process alone, and may be lost: after a restart a good result
counts from the config's status, anything else is tried again at once. Thread-safe.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from bubu_operator.api.v1alpha1.conditions import ConditionType, Reason
from bubu_operator.api.v1alpha1.storage_config import StorageConfig
from bubu_operator.kube.conditions import find_condition, parse_time
from bubu_operator.kube.informer import backoff_seconds
from bubu_operator.kube.resources import JsonObject, ObjectKey, section
from bubu_operator.retention.schedule import RUN_NOW_ANNOTATION

__all__ = [
    "INTERVAL_FACTOR",
    "MAX_JOBS",
    "MAX_JOBS_OF_NAMESPACE",
    "Places",
    "Schedule",
    "key_of_config",
    "ready_condition",
]

MAX_JOBS: Final = 8
MAX_JOBS_OF_NAMESPACE: Final = 3
"""Jobs that cannot start keep their places for minutes: one team's must not keep all others waiting."""

INTERVAL_FACTOR: Final = 10
"""A pod costs more than a request: Jobs run this much more rarely than the controller's own probes."""

FREE_PLACE_SECONDS: Final = 10.0
"""How long who finds no place waits, and as long again by chance: many may wait."""

_Form: TypeAlias = tuple[str, int, str]


def key_of_config(config: StorageConfig) -> ObjectKey:
    """Return the key of a config."""
    return ObjectKey(config.metadata.namespace, config.metadata.name)


def ready_condition(obj: JsonObject, config: StorageConfig) -> JsonObject:
    """Return the Ready condition if it is about this very spec, else nothing."""
    found = find_condition(section(obj, "status").get("conditions"), ConditionType.READY) or {}
    return found if found.get("observedGeneration") == config.metadata.generation else {}


@dataclass(frozen=True, slots=True)
class _Next:
    """When the next Job of a config is due, for which form of it."""

    form: _Form
    due: float
    failures: int


class Schedule:
    """When each config's next Job is due.

    Args:
        probe_interval_seconds: of the controller's own probes.
        monotonic: clock for pauses.
        rng: spreads them.

    Attributes:
        interval_seconds: between two Jobs of a store that works.
    """

    def __init__(
        self, probe_interval_seconds: float, monotonic: Callable[[], float], rng: random.Random
    ) -> None:
        self.interval_seconds = probe_interval_seconds * INTERVAL_FACTOR
        self._base_seconds = probe_interval_seconds
        self._monotonic = monotonic
        self._rng = rng
        self._lock = threading.Lock()
        self._next: dict[ObjectKey, _Next] = {}

    def wait_seconds(self, obj: JsonObject, config: StorageConfig, now: datetime) -> float:
        """Return in how many seconds the next Job is due; 0 for now."""
        with self._lock:
            known = self._next.get(key_of_config(config))
        if known is not None:
            return max(0.0, known.due - self._monotonic()) if known.form == _form(config) else 0.0
        # Another process made the last probe: its status says when, and a good one counts.
        last = parse_time(section(obj, "status").get("lastProbeTime"))
        if last is None or ready_condition(obj, config).get("reason") != Reason.PROBE_SUCCEEDED:
            return 0.0
        passed = (now - last).total_seconds()
        # A clock that was set back must not put it off for ever.
        return self.interval_seconds - passed if 0 <= passed <= self.interval_seconds else 0.0

    def note(self, config: StorageConfig, *, good: bool) -> float:
        """Take down how a Job ended, or that there could be none; return the pause until the next."""
        key = key_of_config(config)
        with self._lock:
            before = self._next.get(key)
            failures = 0 if good else (before.failures if before is not None else 0) + 1
            pause = self.interval_seconds if good else self.backoff(failures)
            self._next[key] = _Next(_form(config), self._monotonic() + pause, failures)
        return pause

    def backoff(self, failures: int) -> float:
        """Return the pause after so many failures in a row."""
        return backoff_seconds(failures, self._rng, base=self._base_seconds, maximum=self.interval_seconds)

    def forget(self, key: ObjectKey) -> None:
        """A config is gone."""
        with self._lock:
            self._next.pop(key, None)


class Places:
    """Which configs have a Job now; at most `MAX_JOBS`, of a namespace `MAX_JOBS_OF_NAMESPACE`.

    Jobs that were found, of a controller before this one, are counted and never refused.

    Args:
        rng: spreads the pauses of those who wait.
        show: told how many there are, after each change.
    """

    def __init__(self, rng: random.Random, show: Callable[[int], None]) -> None:
        self._rng = rng
        self._show = show
        self._lock = threading.Lock()
        self._active: set[ObjectKey] = set()
        self._known: set[ObjectKey] = set()
        self._waiting: set[ObjectKey] = set()

    def enter(self, key: ObjectKey, *, bounded: bool) -> bool:
        """Count a config's Job; False where there is no place for one more."""
        with self._lock:
            if bounded and key not in self._active and self._is_full(key.namespace):
                self._waiting.add(key)
                return False
            self._waiting.discard(key)
            self._active.add(key)
            self._known.add(key)
            self._show(len(self._active))
            return True

    def leave(self, key: ObjectKey) -> None:
        """The Job has ended, or there is none."""
        with self._lock:
            if key in self._active:
                self._active.discard(key)
                self._show(len(self._active))

    def has_to_wait(self, key: ObjectKey) -> bool:
        """Tell whether there is still no place for a config that asked before, at the cost of no request."""
        with self._lock:
            return key in self._waiting and self._is_full(key.namespace)

    def _is_full(self, namespace: str) -> bool:
        theirs = sum(1 for key in self._active if key.namespace == namespace)
        return len(self._active) >= MAX_JOBS or theirs >= MAX_JOBS_OF_NAMESPACE

    def pause_seconds(self) -> float:
        """Return how long to wait for a place."""
        return FREE_PLACE_SECONDS * (1 + self._rng.random())

    def knows(self, key: ObjectKey) -> bool:
        """Tell whether this process has started or found a Job of a config."""
        with self._lock:
            return key in self._known

    def forget(self, key: ObjectKey) -> None:
        """A config is gone, or needs no Job any more."""
        self.leave(key)
        with self._lock:
            self._known.discard(key)
            self._waiting.discard(key)


def _form(config: StorageConfig) -> _Form:
    metadata = config.metadata
    return metadata.uid, metadata.generation, metadata.annotations.get(RUN_NOW_ANNOTATION, "")
