"""The cache: fewer requests, never an older object than the last own write, nobody stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bubu_storage.backend.cache import CachingBackend
from bubu_storage.backend.decorator import BackendDecorator, Call, Operation
from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.backend.types import BackendCopier, BatchDeleter, ObjectBackend
from bubu_storage.errors import (
    ConfigurationError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)
from bubu_storage.testing.acceptance import BackendAcceptance
from bubu_storage.testing.fakes import CountingBackend, Fault, FaultBackend, SimulatedCrash, Timing
from tests.unit.backend.clock import Clock

_T = TypeVar("_T")

DEADLINE_SECONDS = 60.0
MIB = 1024 * 1024


class TestCachedMemory(BackendAcceptance):
    """A cached backend is a backend like any other."""

    @pytest.fixture
    def backend(self) -> ObjectBackend:
        """An empty one."""
        return CachingBackend(MemoryBackend(), 64 * MIB, 300.0)


class TestCachedFile(BackendAcceptance):
    """On files, with a cache so small that objects come and go."""

    keeps_content_type = False
    keeps_metadata = False

    @pytest.fixture
    def backend(self, tmp_path) -> ObjectBackend:
        """An empty one."""
        return CachingBackend(FileBackend(tmp_path / "store", fsync=False), 20_000, 300.0)


class Bench:
    """A store that counts, with a cache of 80 KB around it."""

    def __init__(self, *faults: Fault, inner: ObjectBackend | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.store = inner if inner is not None else MemoryBackend()
        self.counting = CountingBackend(FaultBackend(self.store, *faults))
        self.cache = CachingBackend(self.counting, 80_000, 300.0, self.clock, **options)

    @property
    def gets(self) -> int:
        """Requests for an object so far."""
        return self.counting.counts[Operation.GET]

    def read(self, key: str) -> bytes:
        """Return an object's bytes through the cache."""
        with self.cache.get_object(key) as found:
            data = found.read()
        assert found.info.size_bytes == len(data)
        return data


@pytest.fixture
def bench() -> Bench:
    """With two objects in it."""
    bench = Bench()
    bench.store.put_object("a", b"one", content_type="text/plain", metadata={"k": "v"})
    bench.store.put_object("b", b"two")
    return bench


# ---- what is cached


def test_a_second_read_asks_nobody(bench):
    """Bytes and facts are those that the store gave."""
    first, second = bench.cache.get_object("a"), bench.cache.get_object("a")

    assert first.read() == second.read() == b"one"
    assert first.info == second.info == bench.store.head_object("a")
    assert (bench.gets, bench.counting.open_bodies) == (1, 0)


def test_objects_age(bench):
    """What others wrote is seen when the time is over, reckoned from the moment of asking."""
    assert bench.read("a") == b"one"
    bench.store.put_object("a", b"other")
    bench.clock.now += 299.9
    assert bench.read("a") == b"one"
    bench.clock.now += 0.1
    assert bench.read("a") == b"other"
    assert bench.gets == 2


def test_missing_objects_and_failures_are_not_remembered():
    """The next one to ask may be luckier."""
    bench = Bench(Fault(nth=2, operations=frozenset({Operation.GET})))
    with pytest.raises(ObjectNotFoundError):
        bench.read("a")
    bench.store.put_object("a", b"one")
    with pytest.raises(UnavailableError):
        bench.read("a")
    assert bench.read("a") == b"one"


def test_a_body_that_breaks_off_is_not_remembered():
    """Half an object is none."""
    bench = Bench(Fault(operations=frozenset({Operation.GET}), timing=Timing.HALFWAY))
    bench.store.put_object("a", b"one")
    with pytest.raises(UnavailableError):
        bench.read("a")
    assert bench.read("a") == b"one"
    assert bench.counting.open_bodies == 0


def test_large_objects_are_streamed(bench):
    """Above an eighth of the cache nothing is kept, nor read before the caller reads."""
    bench.store.put_object("large", b"x" * 10_001)
    bench.store.put_object("fits", b"x" * 10_000)
    for _ in range(2):
        with bench.cache.get_object("large") as found:
            assert bench.counting.open_bodies == 1
            assert len(found.read()) == 10_001
    assert bench.gets == 2
    assert len(bench.read("fits") + bench.read("fits")) == 20_000
    assert bench.gets == 3


def test_memory_is_bounded_and_the_least_recently_used_goes(bench):
    """Names and bookkeeping count as well."""
    for number in range(20):
        bench.store.put_object(f"k{number:02}", b"x" * 9_000)
        bench.read("a")
        bench.read(f"k{number:02}")
        assert bench.cache.size_bytes <= 80_000
    before = bench.gets
    bench.read("a")
    bench.read("k19")
    assert bench.gets == before
    bench.read("k00")
    assert bench.gets == before + 1


def test_many_tiny_objects_are_bounded_too(bench):
    """An empty object costs memory as well."""
    for number in range(500):
        bench.store.put_object(f"k{number:03}", b"")
        bench.read(f"k{number:03}")
    assert len(bench.cache._entries) < 80


def test_parts_and_conditions_go_to_the_store(bench):
    """They are answered for the object as it is now; what they show to be old is forgotten."""
    etag = bench.store.head_object("a").etag
    assert bench.read("a") == b"one"
    with bench.cache.get_object("a", range_header="bytes=1-") as found:
        assert (found.read(), found.content_range) == (b"ne", "bytes 1-2/3")
    with bench.cache.get_object("a", if_match=etag) as found:
        assert found.read() == b"one"
    bench.store.put_object("a", b"other")
    with pytest.raises(PreconditionFailedError):
        bench.cache.get_object("a", if_match=etag)
    assert bench.gets == 4
    assert bench.read("a") == b"other"


class Copying(MemoryBackend):
    """A store that copies by itself."""

    def copy_object(self, source_key, destination_key, *, content_type="", metadata=None):
        """Copy the bytes."""
        with self.get_object(source_key) as found:
            return self.put_object(
                destination_key, found.read(), content_type=content_type, metadata=metadata
            )


CHANGES = {
    "put": lambda backend: backend.put_object("a", b"new"),
    "put of a stream": lambda backend: backend.put_object("a", iter([b"n", b"ew"])),
    "delete": lambda backend: backend.delete_object("a"),
    "batch": lambda backend: backend.delete_objects(["x", "a"]),
    "copy": lambda backend: backend.copy_object("b", "a"),
}


@pytest.mark.parametrize("timing", [None, *Timing])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_own_changes_are_seen_at_once(change, timing):
    """Whether they worked, failed, or failed after they had worked."""
    faults = (
        [] if timing is None else [Fault(operations=frozenset(Operation) - {Operation.GET}, timing=timing)]
    )
    bench = Bench(*faults, inner=Copying())
    bench.store.put_object("a", b"old")
    bench.store.put_object("b", b"of b")
    assert bench.read("a") == b"old"
    if timing is None:
        change(bench.cache)
    else:
        with pytest.raises(UnavailableError):
            change(bench.cache)

    def now(read):
        try:
            with read("a") as found:
                return found.read()
        except ObjectNotFoundError:
            return None

    assert now(bench.cache.get_object) == now(bench.store.get_object)
    assert bench.gets == 2


def test_capabilities_are_those_of_the_store():
    """Neither more nor fewer."""

    class Plain:
        name = "plain://"

    for inner in (MemoryBackend(), Copying(), Plain()):
        cache = CachingBackend(inner, 1000, 1.0)
        assert isinstance(cache, BatchDeleter) == isinstance(inner, BatchDeleter)
        assert isinstance(cache, BackendCopier) == isinstance(inner, BackendCopier)
        assert cache.unwrap() is inner


@pytest.mark.parametrize(("size", "ttl"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_limits_that_make_no_sense(size, ttl):
    """Are refused."""
    with pytest.raises(ConfigurationError, match="above 0"):
        CachingBackend(MemoryBackend(), size, ttl)


def test_closing_forgets(bench):
    """And clearing too."""
    for forget in (bench.cache.clear, bench.cache.close):
        bench.read("a")
        forget()
        assert bench.cache.size_bytes == 0


# ---- several threads


class Gated(BackendDecorator):
    """Holds every get until it is released."""

    def __init__(self, inner):
        super().__init__(inner)
        self.asked = threading.Semaphore(0)
        self.release = threading.Event()
        self.error: Callable[[], BaseException] | None = None

    def _around(self, call, act):
        if call.operation is not Operation.GET:
            return act()
        answer = act()
        self.asked.release()
        assert self.release.wait(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error()
        return answer


class Watched(CachingBackend):
    """Tells when a thread begins to wait for another one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.followers = threading.Semaphore(0)

    def _wait(self, done: threading.Event) -> bool:
        self.followers.release()
        return super()._wait(done)


def together(gated: Gated, cache: Watched, *, readers: int) -> list[Any]:
    """Let several threads ask for one object while the first request is held; return what each got."""

    def read() -> Any:
        try:
            with cache.get_object("a") as found:
                return found.read()
        except BaseException as error:  # noqa: BLE001 - what the test looks at
            return error

    with ThreadPoolExecutor(readers) as pool:
        answers = [pool.submit(read) for _ in range(readers)]
        for _ in range(readers - 1):
            assert cache.followers.acquire(timeout=DEADLINE_SECONDS)
        gated.release.set()
        return [answer.result(DEADLINE_SECONDS) for answer in answers]


@pytest.fixture
def gated() -> Gated:
    """A store with one object, whose gets are held."""
    inner = CountingBackend(MemoryBackend())
    inner.put_object("a", b"one")
    return Gated(inner)


def test_one_request_for_all_who_ask_at_the_same_time(gated):
    """However many."""
    cache = Watched(gated, 80_000, 300.0)
    assert together(gated, cache, readers=16) == [b"one"] * 16
    assert gated.inner.counts[Operation.GET] == 1


def test_a_failure_reaches_all_who_wait(gated):
    """As the same class with the same facts, each an exception of its own; it is not remembered."""
    cause = ValueError("of the SDK")

    def denied():
        error = PermissionDeniedError("no", key="a", status=403, code="AccessDenied")
        error.__cause__ = cause
        error.add_note("a note")
        return error

    gated.error = denied
    cache = Watched(gated, 80_000, 300.0)
    errors = together(gated, cache, readers=4)
    assert len({id(error) for error in errors}) == 4
    for error in errors:
        assert type(error) is PermissionDeniedError
        assert (str(error), error.key, error.status, error.code) == ("no", "a", 403, "AccessDenied")
        assert (error.__cause__, error.__notes__) == (cause, ["a note"])
    gated.error = None
    assert cache.get_object("a").read() == b"one"
    assert gated.inner.counts[Operation.GET] == 2


def test_a_killed_leader_takes_nobody_along(gated):
    """Those who waited ask the store themselves."""
    killed = threading.Event()

    def once():
        gated.error = None
        killed.set()
        return SimulatedCrash("killed")

    gated.error = once
    answers = together(gated, Watched(gated, 80_000, 300.0), readers=4)
    assert killed.is_set()
    assert sorted(map(str, answers)) == sorted([str(b"one")] * 3 + ["killed"])


def test_large_objects_keep_nobody_waiting(gated):
    """Each thread gets a stream of its own."""
    gated.inner.put_object("a", b"x" * 50_000)
    answers = together(gated, Watched(gated, 80_000, 300.0), readers=3)
    assert answers == [b"x" * 50_000] * 3
    assert gated.inner.counts[Operation.GET] == 3


def test_a_leader_that_hangs_is_not_waited_for_for_ever():
    """After a while the others ask the store themselves, and those who come later do so at once."""
    hanging = threading.Event()
    begun = threading.Event()

    class Hanging(MemoryBackend):
        def get_object(self, key, **kwargs):
            """Hang the first time."""
            if not begun.is_set():
                begun.set()
                assert hanging.wait(DEADLINE_SECONDS)
            return super().get_object(key, **kwargs)

    store = Hanging()
    store.put_object("a", b"one")
    cache = CachingBackend(store, 80_000, 300.0, patience_seconds=0.05)
    leader = threading.Thread(target=lambda: cache.get_object("a").close())
    leader.start()
    assert begun.wait(DEADLINE_SECONDS)
    assert cache.get_object("a").read() == b"one"
    assert cache.get_object("a").read() == b"one"
    hanging.set()
    leader.join(DEADLINE_SECONDS)
    assert cache.size_bytes > 0


def test_a_get_that_is_overtaken_by_a_write_fills_nothing(gated):
    """It returns what it found; whoever asks after the write sees the new object."""
    cache = Watched(gated, 80_000, 300.0)
    found: list[bytes] = []
    early = threading.Thread(target=lambda: found.append(cache.get_object("a").read()))
    early.start()
    assert gated.asked.acquire(timeout=DEADLINE_SECONDS)
    cache.put_object("a", b"new")
    late = threading.Thread(target=lambda: found.append(cache.get_object("a").read()))
    late.start()
    assert gated.asked.acquire(timeout=DEADLINE_SECONDS), "the second get does not join the first"
    gated.release.set()
    early.join(DEADLINE_SECONDS)
    late.join(DEADLINE_SECONDS)

    assert sorted(found) == [b"new", b"one"]
    assert cache.get_object("a").read() == b"new"


# ---- every interleaving

KEYS = ("a", "b")
USUALLY_A = ("a", "a", "a", "b")
FAULTS = ("",) * 9 + ("before", "after", "killed")
AT_A_TIME = 3
"""Operations under way; with more of them, few would ever end."""


class Task:
    """One operation in a thread of its own that stops before and after its effect on the store."""

    current = threading.local()

    def __init__(self, schedule: Schedule, act: Callable[[], Any], fault: str) -> None:
        self.schedule = schedule
        self.fault = fault
        self.state = "running"
        self.waits_for = threading.Event()
        self.effects: dict[str, int] = {}
        self.answer: Any = None
        self._act = act
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        Task.current.task = self
        try:
            self.answer = self._act()
        except BaseException as error:  # noqa: BLE001 - what the test looks at
            self.answer = error
        self.to("done")

    def to(self, state: str) -> None:
        """Enter a state."""
        with self.schedule.changed:
            self.state = state
            self.schedule.changed.notify_all()

    def pause(self, state: str) -> None:
        """Enter a state and stay in it until the schedule goes on with this task."""
        with self.schedule.changed:
            self.state = state
            self.schedule.changed.notify_all()
            assert self.schedule.changed.wait_for(lambda: self.state == "running", DEADLINE_SECONDS)

    @property
    def settled(self) -> bool:
        """Whether it does nothing until the schedule, or another task, goes on."""
        if self.state == "waiting":
            return not self.waits_for.is_set()
        return self.state != "running"


class Schedule:
    """Runs tasks one step at a time."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.tasks: list[Task] = []

    def start(self, task: Task) -> None:
        """Begin a task; it runs to its first stop."""
        self.tasks.append(task)
        task.thread.start()
        self.settle()

    def step(self, task: Task) -> None:
        """Let a stopped task run to its next stop."""
        task.to("running")
        self.settle()

    def settle(self) -> None:
        """Wait until all tasks have stopped."""
        with self.changed:
            while not all(task.settled for task in self.tasks):
                self.changed.wait(0.001)

    def stopped(self) -> list[Task]:
        """Return the tasks that can go on."""
        return [task for task in self.tasks if task.state in {"before", "after"}]


class Stepped(BackendDecorator):
    """Stops each request of a task before and after its effect, and keeps a record of all states."""

    def __init__(self, inner: ObjectBackend, clock: Clock) -> None:
        super().__init__(inner)
        self.clock = clock
        self.states: dict[str, list[tuple[float, bytes | None]]] = {key: [(0.0, None)] for key in KEYS}

    def look(self, key: str) -> None:
        """Write down the state of an object when it has changed."""
        try:
            with self.inner.get_object(key) as found:
                state: bytes | None = found.read()
        except ObjectNotFoundError:
            state = None
        self.states[key].append((self.clock.now, state))

    def _around(self, call: Call, act: Callable[[], _T]) -> _T:
        task: Task = Task.current.task
        fault, task.fault = task.fault, ""
        task.pause("before")
        if fault == "before":
            raise UnavailableError("before")
        answer = act()
        if call.operation is not Operation.GET:
            for key in call.keys or (call.key,):
                self.look(key)
                task.effects[key] = len(self.states[key]) - 1
        task.pause("after")
        if fault:
            raise UnavailableError("after") if fault == "after" else SimulatedCrash("killed")
        return answer


class Following(CachingBackend):
    """Tells the schedule which thread waits for which."""

    def _wait(self, done: threading.Event) -> bool:
        task: Task = Task.current.task
        task.waits_for = done
        task.to("waiting")
        assert done.wait(DEADLINE_SECONDS)
        task.to("running")
        return True


class Coherence(RuleBasedStateMachine):
    """Gets, writes, deletions, copies and faults in any order, and others who write to the store too."""

    TTL_SECONDS = 10.0

    @initialize()
    def begin(self) -> None:
        """Make an empty store and a cache that holds about two objects."""
        self.clock = Clock()
        self.schedule = Schedule()
        self.store = Stepped(Copying(), self.clock)
        self.cache = Following(self.store, 3000, self.TTL_SECONDS, self.clock)
        self.floor = dict.fromkeys(KEYS, 0)
        self.pending: list[Task] = []
        self.number = 0

    def run(self, act: Callable[[], Any], fault: str) -> Task:
        """Begin an operation."""
        task = Task(self.schedule, act, fault)
        self.pending.append(task)
        self.schedule.start(task)
        self.collect()
        return task

    def collect(self) -> None:
        """From now on nobody may see anything older than what has been written by then."""
        for task in [task for task in self.pending if task.state == "done"]:
            self.pending.remove(task)
            for key, index in task.effects.items():
                self.floor[key] = max(self.floor[key], index)
            if hasattr(task, "check"):
                task.check()

    def has_room(self) -> bool:
        """Tell whether another operation may begin."""
        return len(self.schedule.stopped()) < AT_A_TIME

    def body(self) -> bytes:
        """Return a body that occurs once."""
        self.number += 1
        return b"%d" % self.number

    @precondition(lambda self: self.has_room())
    @rule(key=st.sampled_from(USUALLY_A), fault=st.sampled_from(FAULTS))
    def get(self, key: str, fault: str) -> None:
        """Begin to read; what comes of it is compared with all states that may be seen."""
        states = self.store.states[key]
        oldest = max(
            index for index, (when, _) in enumerate(states) if when <= self.clock.now - self.TTL_SECONDS
        )
        floor = max(self.floor[key], oldest)

        def read() -> bytes | None:
            try:
                with self.cache.get_object(key) as found:
                    return found.read()
            except ObjectNotFoundError:
                return None

        task = Task(self.schedule, read, fault)

        def check() -> None:
            if isinstance(task.answer, (StorageError, SimulatedCrash)):
                return
            assert not isinstance(task.answer, BaseException), task.answer
            seen = [state for _, state in states[floor:]]
            assert task.answer in seen, f"{key}: {task.answer!r} is older than {seen[0]!r}"

        task.check = check
        self.pending.append(task)
        self.schedule.start(task)
        self.collect()

    @precondition(lambda self: self.has_room())
    @rule(key=st.sampled_from(USUALLY_A), fault=st.sampled_from(FAULTS))
    def put(self, key: str, fault: str) -> None:
        """Begin to write."""
        body = self.body()
        self.run(lambda: self.cache.put_object(key, body), fault)

    @precondition(lambda self: self.has_room())
    @rule(keys=st.sets(st.sampled_from(KEYS), min_size=1), fault=st.sampled_from(FAULTS), batch=st.booleans())
    def delete(self, keys: set[str], fault: str, batch: bool) -> None:
        """Begin to delete."""
        if batch:
            self.run(lambda: self.cache.delete_objects(sorted(keys)), fault)
        else:
            self.run(lambda: self.cache.delete_object(min(keys)), fault)

    @precondition(lambda self: self.has_room())
    @rule(fault=st.sampled_from(FAULTS))
    def copy(self, fault: str) -> None:
        """Begin to copy."""
        self.run(lambda: self.cache.copy_object("a", "b"), fault)

    @precondition(lambda self: self.schedule.stopped())
    @rule(choices=st.lists(st.integers(0, AT_A_TIME - 1), min_size=1, max_size=4))
    def go_on(self, choices: list[int]) -> None:
        """Let some of the operations run to their next stops."""
        for choice in choices:
            stopped = self.schedule.stopped()
            if stopped:
                self.schedule.step(stopped[choice % len(stopped)])
                self.collect()

    @rule(key=st.sampled_from(USUALLY_A), seconds=st.sampled_from([0.0, 0.0, 0.0, 4.0, 10.0]))
    def others(self, key: str, seconds: float) -> None:
        """Somebody else writes to the store, and time passes."""
        self.store.inner.put_object(key, self.body())
        self.store.look(key)
        self.clock.now += seconds

    def teardown(self) -> None:
        """Let everything end: nothing is stuck, and nothing is left behind."""
        while self.schedule.stopped():
            self.go_on_all()
        for task in self.schedule.tasks:
            task.thread.join(DEADLINE_SECONDS)
            assert not task.thread.is_alive()
        assert not self.cache._flights
        assert not self.cache._writing

    def go_on_all(self) -> None:
        """Take one step with each operation that can."""
        for task in self.schedule.stopped():
            self.schedule.step(task)
            self.collect()


TestCoherence = Coherence.TestCase
TestCoherence.settings = settings(
    max_examples=250,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Stepwise(MemoryBackend):
    """A store whose put waits before it stores, and whose get waits after it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.put_waits = False
        self.get_waits = False
        self.put_began, self.put_may_go = threading.Event(), threading.Event()
        self.get_has_read, self.get_may_go = threading.Event(), threading.Event()

    def put_object(self, key, body, **more):
        """Wait, then store."""
        if self.put_waits:
            self.put_began.set()
            assert self.put_may_go.wait(30)
        return super().put_object(key, body, **more)

    def get_object(self, key, **more):
        """Read, then wait."""
        found = super().get_object(key, **more)
        if self.get_waits:
            self.get_has_read.set()
            assert self.get_may_go.wait(30)
        return found


def test_a_get_that_began_during_a_put_does_not_outlive_it():
    """It read the old object while the new one was on its way, and ends after the put has returned."""
    store = Stepwise()
    cache = CachingBackend(store, 1 << 20, 300.0)
    cache.put_object("a", b"old")
    store.put_waits = store.get_waits = True
    with ThreadPoolExecutor(2) as pool:
        put = pool.submit(cache.put_object, "a", b"new")
        assert store.put_began.wait(30)
        get = pool.submit(lambda: cache.get_object("a").read())
        assert store.get_has_read.wait(30)
        store.put_may_go.set()
        put.result(30)
        store.get_waits = False
        store.get_may_go.set()
        assert get.result(30) == b"old"

    assert cache.get_object("a").read() == b"new"
