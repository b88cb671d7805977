"""Any mixture of faults with many deletions in flight: the limits are exact, and nothing is passed by."""

from __future__ import annotations

import random

import pytest

from bubu_storage.errors import (
    PermissionDeniedError,
    StorageError,
    StorageTimeoutError,
    ThrottledError,
    UnavailableError,
    UnsupportedOperationError,
)
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.owners import OwnerFacts, OwnerView
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import PassReport, StoppedBy
from bubu_storage.retention.runner import boot_seconds
from tests.unit.retention.test_pipeline import Busy, decided_before, no_thread_is_left

__all__ = ["no_thread_is_left"]

FAULTS = (
    StorageError("MalformedXML"),
    UnavailableError("reset"),
    StorageTimeoutError("no answer"),
    ThrottledError("slow down", retry_after_seconds=0.001),
    PermissionDeniedError("not all of them"),
)


class Faulty(Busy):
    """A store that fails at random: before or after it took effect, for whole requests or for single keys."""

    def __init__(self, seed: int, runs: int, members: int) -> None:
        super().__init__(runs, members)
        self.chance = random.Random(seed)
        self.fault_rate = self.chance.choice([0.0, 0.1, 0.3, 0.6])
        self.largest = self.chance.choice([1000, 1000, 400, 90])
        self.has_batches = self.chance.random() < 0.9
        self.worms = {key for key in self.world.all_keys() if self.chance.random() < 0.002}
        self.effects: set[str] = set()
        self.sent: set[str] = set()
        self.refused: set[str] = set()
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Seconds of the pass, which may leap."""
        return boot_seconds() + self.ahead

    def delete_objects(self, keys, *, if_match=None) -> dict[str, StorageError]:
        """Fail as the dice say."""
        del if_match
        with self.lock:
            is_faulty = self.chance.random() < self.fault_rate
            is_late = self.chance.random() < 0.5
            fault = self.chance.choice(FAULTS)
            slow = [key for key in keys if self.chance.random() < 0.02 * (self.fault_rate > 0.2)]
            if self.chance.random() < 0.02:
                self.ahead += self.chance.choice([1.0, 4.0, 7.0, 12.0])
        if len(keys) > 1 and not self.has_batches:
            raise UnsupportedOperationError("no such request")
        if len(keys) > self.largest:
            raise StorageError("too many keys")
        is_throttled = is_faulty and isinstance(fault, ThrottledError)
        if is_faulty and (is_throttled or not is_late):
            if not is_throttled:
                self.note(keys, (), keys[: len(keys) == 1])
            raise fault
        failed: dict[str, StorageError] = {
            key: PermissionDeniedError("worm") for key in keys if key in self.worms
        }
        if len(keys) > 1:
            failed |= dict.fromkeys(slow, ThrottledError("slow down", retry_after_seconds=0.001))
        gone = [key for key in keys if key not in failed]
        answered = [key for key in keys if not isinstance(failed.get(key), ThrottledError)]
        # Where a run is looked at again, a key that is throttled alone is left to the next cycle.
        self.note(answered, gone, failed)
        super().delete_objects(gone)
        if is_faulty:
            raise fault
        return failed

    def note(self, sent, gone, refused) -> None:
        """Keep the books of the store."""
        with self.lock:
            self.sent |= set(sent)
            self.effects |= set(gone)
            self.refused |= set(refused)


class Growing:
    """Owners of whom more and more become live."""

    def __init__(self, store: Faulty) -> None:
        self.store = store
        self.live: dict[str, OwnerFacts] = {}

    def observe(self, not_before: float) -> OwnerView:
        """Each look shows one more live run, if the store has time leaps at all."""
        del not_before
        began = self.store.monotonic()
        if self.store.ahead:
            self.live[f"a/r{self.store.chance.randrange(40):05}"] = OwnerFacts(live=True)
        return OwnerView(len(self.live), began, dict(self.live))


@pytest.mark.parametrize("seed", range(9))
def test_whatever_fails_the_limits_are_exact_and_the_cursor_waits(seed: int):
    """Over several passes, each with another limit; then the store is well, and all that is due goes."""
    store = Faulty(seed, 40, store_members(seed))
    owners = Growing(store)
    cursor = Cursor()
    for _ in range(4):
        store.sent, store.effects = set(), set()
        most = store.chance.choice([37, 700, 2500, 100_000])

        def checkpoint(report: PassReport) -> None:
            with store.lock:
                left = decided_before(store, report.cursor)
                live = tuple(f"outputs/{name}/" for name in owners.live)
                undecided = [key for key in left if key not in store.refused and not key.startswith(live)]
            assert undecided == []

        report = store.run(
            cursor=cursor,
            max_delete=most,
            owners=owners,
            on_checkpoint=checkpoint,
            monotonic=store.monotonic,
            budget_seconds=100_000.0,
            concurrency=6,
        )
        assert store.effects <= store.sent
        assert len(store.sent) <= report.attempted <= most
        assert store.in_flight == 0
        cursor = report.cursor
        if report.complete_cycle:
            cursor = Cursor()
    store.fault_rate, store.worms = 0.0, set()
    for _ in range(2):
        report = store.run(owners=owners, monotonic=store.monotonic, budget_seconds=100_000.0, concurrency=6)
        assert report.stopped_by is StoppedBy.END_OF_CYCLE
    left = {key.removeprefix("outputs/").rsplit("/", 1)[0] for key in store.world.all_keys()}
    assert left <= set(owners.live)
    assert report.by_reason.keys() <= {Reason.KEPT_LIVE}


def store_members(seed: int) -> int:
    """Return how many members the runs have."""
    return (3, 40, 130)[seed % 3]
