"""The work queue: one thread a key, no lost wake-up, no hot loop, no starvation."""

from __future__ import annotations

import random
import threading
import time

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bubu_operator.controllers.scheduler import Lane, StoreSlots
from bubu_operator.errors import KubeTimeoutError
from bubu_operator.kube.resources import ObjectKey

A, B, C = (ObjectKey("n", name) for name in "abc")


class Clock:
    """Time that tests turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def lane(reconcile, clock, workers=1):
    """Make a lane that nobody works on but `run_once`."""
    return Lane("test", reconcile, workers=workers, monotonic=clock, rng=random.Random(1))


def test_a_key_offered_twice_is_looked_at_once():
    """Many events of one object are one look."""
    seen = []
    queue = lane(seen.append, Clock())

    queue.offer(A)
    queue.offer(A)

    assert [queue.run_once(), queue.run_once()] == [A, None]
    assert seen == [A]


def test_a_key_offered_while_it_is_worked_on_is_looked_at_once_more():
    """A change during a look must not be lost, and two changes are still one look."""
    looks = []

    def reconcile(key):
        looks.append(key)
        if len(looks) == 1:
            queue.offer(key)
            queue.offer(key)

    queue = lane(reconcile, Clock())
    queue.offer(A)

    while queue.run_once():
        pass

    assert looks == [A, A]


def test_delays_hold_and_earlier_wishes_win():
    """A key comes back when it asked to, or earlier when something asks for it."""
    clock, seen = Clock(), []

    def reconcile(key):
        seen.append((clock.now, key))
        return 60.0

    queue = lane(reconcile, clock)
    queue.offer(A)
    queue.run_once()
    clock.now = 59.0
    assert queue.run_once() is None
    clock.now = 60.0
    assert queue.run_once() == A
    queue.offer(A)
    assert queue.run_once() == A
    assert [when for when, _ in seen] == [0.0, 60.0, 60.0]
    assert queue.pending() == {A: 60.0}


def test_a_later_wish_does_not_put_off_an_earlier_one():
    """An offer with a delay never moves a key that is due sooner."""
    clock = Clock()
    queue = lane(lambda _: None, clock)

    queue.offer(A, 5.0)
    queue.offer(A, 50.0)

    assert queue.pending() == {A: 5.0}


def test_the_earliest_due_key_goes_first():
    """Order is by due time, not by name or by luck."""
    clock, seen = Clock(), []
    queue = lane(seen.append, clock)
    for key, delay in ((A, 3.0), (B, 1.0), (C, 2.0)):
        queue.offer(key, delay)
    clock.now = 10.0

    while queue.run_once():
        pass

    assert seen == [B, C, A]


def test_failures_back_off_and_success_forgets_them(caplog):
    """A bug in a reconcile function is retried ever more slowly and never ends the lane."""
    clock = Clock()
    broken = [True]

    def reconcile(_):
        if broken[0]:
            raise ValueError("a bug of ours")

    queue = lane(reconcile, clock)
    queue.offer(A)
    pauses = []
    for _ in range(12):
        assert queue.run_once() == A
        pauses.append(queue.pending()[A])
        clock.now += pauses[-1]
    broken[0] = False
    assert queue.run_once() == A

    assert 0.5 <= pauses[0] <= 1.0
    assert pauses[5] > pauses[0] * 8
    assert max(pauses) <= 60.0
    assert queue.pending() == {}
    assert "a bug of ours" in caplog.text


def test_trouble_of_the_api_server_is_one_line(caplog):
    """What is expected to happen now and then is said without a traceback, and tried again."""

    def reconcile(_):
        raise KubeTimeoutError("GET /x: no answer")

    queue = lane(reconcile, Clock())
    queue.offer(A)
    queue.run_once()

    assert [record.exc_info for record in caplog.records] == [None]
    assert "no answer" in caplog.text
    assert A in queue.pending()


def test_workers_never_share_a_key():
    """With many threads and many offers, one key is in at most one hand, and the last offer is seen."""
    inside, overlaps, counts = set(), [], dict.fromkeys((A, B, C), 0)
    lock = threading.Lock()

    def reconcile(key):
        with lock:
            if key in inside:
                overlaps.append(key)
            inside.add(key)
        time.sleep(0.001)
        with lock:
            inside.discard(key)
            counts[key] += 1

    queue = Lane("test", reconcile, workers=4)
    queue.start()
    for _ in range(100):
        for key in (A, B, C):
            queue.offer(key)
        time.sleep(0.0005)
    deadline = time.monotonic() + 60
    while (queue.pending() or inside) and time.monotonic() < deadline:
        time.sleep(0.005)
    queue.stop()

    assert queue.join(60)
    assert overlaps == []
    assert all(count > 0 for count in counts.values())


def test_a_stopped_lane_takes_nothing():
    """After `stop` idle workers end at once, and offers are ignored."""
    queue = Lane("test", lambda _: None, workers=3)
    queue.start()
    queue.stop()

    assert queue.join(60)
    queue.offer(A)
    assert queue.run_once() is None


class Slots(RuleBasedStateMachine):
    """Whatever is asked and given up in whatever order, stores and capacity are respected, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = StoreSlots(2)
        self.holding: dict[ObjectKey, str] = {}
        self.queue: list[tuple[str, ObjectKey]] = []

    def admit(self) -> list[ObjectKey]:
        """Do what the rules say: the longest waiting for whom there is room."""
        admitted = []
        for store, key in list(self.queue):
            if len(self.holding) >= 2:
                break
            if store not in self.holding.values():
                self.holding[key] = store
                self.queue.remove((store, key))
                admitted.append(key)
        return admitted

    @rule(key=st.sampled_from([ObjectKey("n", name) for name in "abcdef"]))
    def acquire(self, key):
        """Each key always asks for the same store."""
        store = f"s{ord(key.name) % 3}"
        if key not in self.holding and (store, key) not in self.queue:
            self.queue.append((store, key))
            self.admit()
        assert self.slots.acquire(store, key) == (key in self.holding)

    @rule(key=st.sampled_from([ObjectKey("n", name) for name in "abcdef"]))
    def release(self, key):
        """Giving up wakes exactly those who may go now."""
        self.holding.pop(key, None)
        self.queue = [waiting for waiting in self.queue if waiting[1] != key]
        assert self.slots.release(key) == self.admit()

    @invariant()
    def one_a_store(self):
        """A store has one holder, and there are at most two holders."""
        for key, store in self.holding.items():
            assert self.slots.holder(store) == key
        assert len(set(self.holding.values())) == len(self.holding) <= 2


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
