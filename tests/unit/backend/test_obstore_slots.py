"""The places of the fast engine: never more than there are, and nobody who waits is forgotten."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from bubu_storage.backend.s3_obstore_gate import Slots

PLACES = 3
THREADS = 16
TURNS = 400


def test_never_more_than_there_are() -> None:
    """Under pressure from many threads, and in the end all places are free again."""
    slots = Slots(PLACES)
    lock = threading.Lock()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(TURNS):
            assert slots.take(30)
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            slots.give_back()

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result(60)

    assert 1 <= most <= PLACES
    assert [slots.take(0) for _ in range(PLACES + 1)] == [True] * PLACES + [False]


def test_waiting_ends_with_a_free_place_or_with_the_time() -> None:
    """Each of several waiters gets a place that becomes free; who gets none is told in time."""
    slots = Slots(1)
    assert slots.take(0)
    started = time.monotonic()
    assert not slots.take(0.05)
    assert 0.05 <= time.monotonic() - started < 60

    def visit() -> bool:
        taken = slots.take(30)
        slots.give_back()
        return taken

    with ThreadPoolExecutor(THREADS) as pool:
        waiters = [pool.submit(visit) for _ in range(THREADS)]
        slots.give_back()
        assert all(waiter.result(60) for waiter in waiters)
    assert slots.take(0)
    assert not slots.take(0)
