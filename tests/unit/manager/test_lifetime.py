"""Managers that are closed, changed, forked or dropped while they work."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from bubu_storage import FileSettings, ManagerSettings, StorageManager
from bubu_storage.backend.decorator import BackendDecorator, Call, innermost
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import StorageError
from bubu_storage.testing.mock import MockStorageManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")


class Gated(BackendDecorator):
    """Lets requests wait until they may go on."""

    def __init__(self, inner: MemoryBackend) -> None:
        super().__init__(inner)
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def _around(self, call: Call, act: Callable[[], T]) -> T:
        del call
        self.entered.set()
        assert self.go_on.wait(60)
        return act()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def running(*actions: Callable[[], Any]) -> Iterator[None]:
    """Run them beside the block, and wait for their end."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_body_may_read_other_objects_of_its_manager() -> None:
    """Even where one worker is all there is: no call waits for itself."""
    with StorageManager(ManagerSettings(timeout_seconds=20), MemoryBackend(), max_workers=1) as storage:
        storage.write_blob("a", b"part ")
        storage.write_blob("b", (storage.read_blob("a") for _ in range(3)))
        storage.write_blob("c", (storage.hydrate([1]) and storage.read_blob("b") for _ in range(2)))

        assert b"part " * 6 == storage.read_blob("c")


def test_calls_on_an_exchanged_store_outlive_close() -> None:
    """What waits for a thread on the old store gets one, also when the manager is closed by then."""
    store = Gated(MemoryBackend())
    settings = ManagerSettings(timeout_seconds=30, max_inline_size_bytes=5)
    storage = StorageManager(settings, store, max_workers=1)
    results: list[Any] = []

    with running(
        lambda: storage.write_blob("busy", b""),
        lambda: results.append(storage.dehydrate({"a": "longer than that"}, run_id="n/r")),
    ):
        assert store.entered.wait(60)
        eventually(lambda: 2 == storage._holder.current.users)
        queue = storage._holder.threads()._desk.tasks  # type: ignore[attr-defined]
        eventually(lambda: 1 == queue.qsize())
        storage.reconfigure(ManagerSettings(timeout_seconds=30, metrics_enabled=False))
        storage.close()
        store.go_on.set()

    assert ["outputs/n/r/a.json"] == [result["a"]["$bubuStorageRef"] for result in results]
    assert store.inner.head_object("outputs/n/r/a.json").size_bytes


def test_the_last_one_to_let_go_may_be_one_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the garbage collector, running there, finds a listing that nobody finished."""
    ignored: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", ignored.append)
    storage = StorageManager(ManagerSettings(), MemoryBackend())
    for name in "ab":
        storage.write_blob(name, b"")
    held = [storage.list_objects(".")]
    next(held[0])
    threads = storage._holder.threads()
    storage.close()

    threads.submit(held.clear).result(30)

    assert [] == ignored
    eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith("bubu-storage")])


def test_a_dropped_manager_leaves_no_threads() -> None:
    """Also when it was never closed."""
    StorageManager(ManagerSettings(), MemoryBackend()).write_blob("x", b"1")
    gc.collect()

    eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith("bubu-storage")])


def test_exchanged_stores_are_forgotten(tmp_path: Path) -> None:
    """Credentials that change every hour do not fill the memory with old clients."""
    with StorageManager(ManagerSettings(backend=FileSettings(str(tmp_path / "0")))) as storage:
        for number in range(1, 5):
            storage.reconfigure(ManagerSettings(backend=FileSettings(str(tmp_path / str(number)))))

        assert storage._holder.current.before is None


def test_exchanged_stores_in_use_are_forgotten_in_any_order() -> None:
    """Also those that were in use when the next one came."""
    with StorageManager(ManagerSettings(), MemoryBackend()) as storage:
        listings: list[Any] = []
        for number in range(1, 9):
            storage.write_blob(str(number), b"")
            listings.append(storage.list_objects("."))
            next(listings[-1])
            storage.reconfigure(ManagerSettings(cache_size_bytes=number << 20))
        first, *others = listings
        for listing in others:
            listing.close()
        current = storage._holder.current

        assert current.before is not None
        assert current.before.before is None
        first.close()
        assert current.before is None


def test_a_closed_manager_takes_no_other_settings(tmp_path: Path) -> None:
    """It would open a store that nobody closes."""
    storage = StorageManager.in_memory()
    storage.close()

    with pytest.raises(StorageError, match="closed; make a new one"):
        storage.reconfigure(ManagerSettings(backend=FileSettings(str(tmp_path / "x"))))

    assert not (tmp_path / "x").exists()
    assert ManagerSettings() == storage.settings


@pytest.mark.parametrize("kind", [MockStorageManager, StorageManager.in_memory])
def test_a_given_store_stays(tmp_path: Path, kind: Callable[[], StorageManager]) -> None:
    """Settings that name another one do not send tests to it."""
    with kind() as storage:
        storage.write_blob("a", b"1")
        storage.reconfigure(ManagerSettings(backend=FileSettings(str(tmp_path / "x")), max_workers=2))

        assert b"1" == storage.read_blob("a")
        assert isinstance(innermost(storage.backend), MemoryBackend)
    assert not (tmp_path / "x").exists()


def in_child(check: Callable[[], bool]) -> bool:
    """Tell what a check says in a forked process; one that hangs says no."""
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_process_has_threads_of_its_own() -> None:
    """Those of the parent are not there; nobody waits for them, not even to close."""
    with StorageManager(ManagerSettings(timeout_seconds=10), MemoryBackend(), max_workers=1) as storage:
        storage.write_blob("a", b"1")

        def check() -> bool:
            good = b"1" == storage.read_blob("a")
            storage.close()
            return good

        assert in_child(check)
        assert b"1" == storage.read_blob("a")


def test_a_forked_process_has_connections_of_its_own(tmp_path: Path) -> None:
    """Two processes on one connection would read each other's answers."""
    with StorageManager(ManagerSettings(backend=FileSettings(str(tmp_path)))) as storage:
        storage.write_blob("a", b"1")
        store = innermost(storage.backend)

        assert in_child(
            lambda: b"1" == storage.read_blob("a") and innermost(storage.backend) is not store,
        )
        assert b"1" == storage.read_blob("a")
        assert innermost(storage.backend) is store
