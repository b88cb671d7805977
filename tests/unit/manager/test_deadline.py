"""One deadline covers a whole call, and a store that hangs cannot hold the caller."""

from __future__ import annotations

import threading
import time

import pytest

from bubu_storage import FileSettings, ManagerSettings, StorageManager
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import StorageTimeoutError, TransientError


class HangingBackend(MemoryBackend):
    """Answers nothing until it is released."""

    name = "slow://store"

    def __init__(self):
        super().__init__()
        self.released = threading.Event()
        self.waiting = threading.Semaphore(0)

    def _hang(self):
        self.waiting.release()
        assert self.released.wait(200)

    def put_object(self, *args, **kwargs):
        """Hang, then store."""
        self._hang()
        return super().put_object(*args, **kwargs)

    def get_object(self, *args, **kwargs):
        """Hang, then read."""
        self._hang()
        return super().get_object(*args, **kwargs)

    def list_objects(self, *args, **kwargs):
        """Hang at the first page."""
        self._hang()
        yield from super().list_objects(*args, **kwargs)


@pytest.fixture
def backend():
    """A store that hangs during the test and lets its threads go afterwards."""
    backend = HangingBackend()
    yield backend
    backend.released.set()


@pytest.fixture
def storage(backend):
    """A manager with little patience."""
    manager = StorageManager(ManagerSettings(timeout_seconds=0.2), backend, max_workers=2)
    yield manager
    manager.close()


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("dehydrate", lambda m: m.dehydrate([f"{i}" + "x" * 1100 for i in range(20)], run_id="r")),
        ("dehydrate_inputs", lambda m: m.dehydrate_inputs("x" * 2000, run_id="r")),
        ("hydrate", lambda m: m.hydrate([{"$bubuStorageRef": "a"}, {"$bubuStorageRef": "b"}])),
        ("hydrate_storage_refs_only", lambda m: m.hydrate_storage_refs_only({"$bubuStorageRef": "a"})),
        ("read_blob", lambda m: m.read_blob("a")),
        ("write_blob", lambda m: m.write_blob("a", b"")),
        ("list_objects", lambda m: list(m.list_objects("a"))),
    ],
)
def test_a_hanging_store(storage, operation, call):
    """The error comes in time and names operation, store, limit and way out; closing does not wait."""
    began = time.monotonic()
    with pytest.raises(StorageTimeoutError) as caught:
        call(storage)
    storage.close()

    assert time.monotonic() - began < 60
    assert str(caught.value).startswith(f"{operation} on slow://store did not finish within 0.2 s")
    assert "BUBU_STORAGE_TIMEOUT" in str(caught.value)
    assert isinstance(caught.value, (TimeoutError, TransientError))


def test_nothing_is_begun_after_the_deadline(storage, backend):
    """Objects that were waiting for a thread are never written."""
    with pytest.raises(StorageTimeoutError):
        storage.dehydrate([f"{i}" + "x" * 1100 for i in range(50)], run_id="r")
    storage.close()
    backend.released.set()
    begun = 0
    while backend.waiting.acquire(timeout=0.3):
        begun += 1

    assert begun <= 2, "one for each thread"


def test_a_finished_call_is_never_late(backend):
    """The deadline is about waiting; what is done is done."""
    backend.released.set()
    with StorageManager(ManagerSettings(timeout_seconds=60), backend) as storage:
        small = storage.dehydrate(["x" * 2000, "y" * 2000], run_id="r")
        assert storage.hydrate(small) == ["x" * 2000, "y" * 2000]


def test_a_local_store_keeps_the_deadline_between_objects(tmp_path):
    """Without threads the clock is looked at before each object."""
    settings = ManagerSettings(backend=FileSettings(str(tmp_path)), timeout_seconds=1e-9)
    with StorageManager(settings) as storage:
        with pytest.raises(StorageTimeoutError):
            storage.dehydrate("x" * 2000, run_id="r")
        with pytest.raises(StorageTimeoutError):
            storage.read_blob("a")
        with pytest.raises(StorageTimeoutError):
            storage.hydrate({"$bubuStorageRef": "a"})
        assert storage.dehydrate({"short": 1}, run_id="r") == {"short": 1}


_REF = b'{"$bubuStorageRef":"%d"}'


def test_the_deadline_holds_where_nothing_is_loaded_any_more():
    """Objects that have been loaded are asked for again and again: that takes time as well."""
    with StorageManager.in_memory() as full:
        for level in range(1, 10):
            full.write_blob(
                f"{level}", b'{"contentType":"json","data":[%s]}' % b",".join([_REF % (level - 1)] * 10)
            )
        full.write_blob("0", b'{"contentType":"json","data":null}')
        with StorageManager(ManagerSettings(timeout_seconds=0.2), full.backend) as storage:
            started = time.monotonic()
            with pytest.raises(
                StorageTimeoutError, match=r"hydrate on memory:// did not finish within 0\.2 s"
            ):
                storage.hydrate({"$bubuStorageRef": "9"})
            assert time.monotonic() - started < 60


def test_a_failed_call_asks_the_store_for_nothing_more():
    """What was only queued when the call failed is never loaded, so the next call gets its turn."""
    failed, asked = threading.Event(), []

    class Slow(MemoryBackend):
        def get_object(self, key, **kwargs):
            """Fail at the first object; hold whatever comes before the caller knows."""
            asked.append(key)
            if key not in {"0", "blob"}:
                assert failed.wait(60)
            return super().get_object(key, **kwargs)

    backend = Slow()
    backend.put_object("blob", b"x")
    with StorageManager(ManagerSettings(), backend, max_workers=1) as storage:
        with pytest.raises(FileNotFoundError, match="'0'"):
            storage.hydrate([{"$bubuStorageRef": f"{number}"} for number in range(100)])
        failed.set()

        assert storage.read_blob("blob") == b"x"
    assert asked in (["0", "blob"], ["0", "1", "blob"])
