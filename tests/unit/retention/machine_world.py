"""A store, the clusters that use it, and its clock, in simulated time: what the state machine moves.

Invariants: no time passes but by requests, waits, freezes and what a plan says; a deletion that was sent
arrives within the request timeout or not at all; the store's clock is that of the world, in whole seconds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.retention.owners import OwnerFacts, OwnerView

if TYPE_CHECKING:
    from tests.unit.retention.machine_oracle import Oracle
    from tests.unit.retention.machine_sweeper import Sweeper

START = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Owner:
    """The owner of a run as a cluster knows it."""

    live: bool
    rank: int | None
    refers_to: tuple[str, ...] = ()


@dataclass
class Cluster:
    """Who owns runs, according to one API server."""

    uid: str
    owners: dict[str, Owner] = field(default_factory=dict)
    version: int = 1

    def view(self, observed_at: float) -> OwnerView:
        """Return what an observation shows now."""
        return OwnerView(
            self.version,
            observed_at,
            {name: OwnerFacts(owner.live, owner.rank) for name, owner in self.owners.items()},
            frozenset(key for owner in self.owners.values() if owner.live for key in owner.refers_to),
        )


class World:
    """The store, the clock, the clusters."""

    def __init__(self, *, batch: bool, latency_seconds: float, ignores: frozenset[str]) -> None:
        self.seconds = 0.0
        self.batch = batch
        self.latency_seconds = latency_seconds
        self.ignores = ignores
        self.store = MemoryBackend(clock=self.now)
        self.written_at: dict[str, float] = {}
        self.refused: frozenset[str] = frozenset()
        self.oracle: Oracle
        self.sweepers: list[Sweeper] = []
        self.said: set[str] = set()
        self.lock = threading.RLock()

    def say(self, what: str) -> None:
        """Note what happened; only the test's own thread may tell Hypothesis."""
        self.said.add(what)

    def now(self) -> datetime:
        """Return the store's time, in whole seconds."""
        return START + timedelta(seconds=int(self.seconds))

    def put(self, key: str, age_seconds: float = 0.0, body: bytes = b"x") -> None:
        """Somebody stores an object; with an age, it turns up with an old date (or a future one)."""
        self.store.put_object(key, body)
        if age_seconds:
            self.store.set_last_modified(key, self.now() - timedelta(seconds=age_seconds))
        self.written_at[key] = self.seconds
        self.oracle.touch()

    def undate(self, key: str) -> None:
        """The store gives no date for an object."""
        self.store.set_last_modified(key, datetime(1970, 1, 1, tzinfo=UTC))

    def write_document(self, key: str, refers_to: Sequence[str], age_seconds: float) -> None:
        """Store a document that refers to objects."""
        body = json.dumps({"contentType": "json", "data": [{"$bubuStorageRef": to} for to in refers_to]})
        self.put(key, age_seconds, body.encode())

    def remove(self, key: str) -> None:
        """Somebody removes an object."""
        self.store.delete_object(key)
        self.oracle.touch()

    def snapshot(self) -> dict[str, tuple[bytes, datetime]]:
        """Return every byte and date in the store."""
        found: dict[str, tuple[bytes, datetime]] = {}
        for page in self.store.list_objects(""):
            for entry in page.objects:
                found[entry.key] = (self.store.get_object(entry.key).read(), entry.last_modified)
        return found

    def dates(self) -> dict[str, datetime]:
        """Return the date of every object."""
        return {
            entry.key: entry.last_modified for page in self.store.list_objects("") for entry in page.objects
        }

    def run_together(self, schedule: Sequence[int]) -> None:
        """Let every started sweeper go on by turns until all have ended.

        Args:
            schedule: for how many points each goes on at a time; then one point each.
        """
        bursts = iter(schedule)
        turn = 0
        for _ in range(200_000):
            running = [sweeper for sweeper in self.sweepers if sweeper.is_running]
            if not running:
                return
            awake = [sweeper for sweeper in running if sweeper.wake_at <= self.seconds]
            if not awake:
                self.seconds = min(sweeper.wake_at for sweeper in running)
                self.oracle.touch()
                continue
            sweeper = awake[turn % len(awake)]
            turn += 1
            for _ in range(next(bursts, 25)):
                sweeper.step()
                if not sweeper.is_running or sweeper.wake_at > self.seconds:
                    break
        raise AssertionError("the passes do not end")
