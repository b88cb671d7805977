"""The executor of managers and uploads: like the standard pool, but nothing that hangs keeps a process."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait

import pytest

from bubu_storage.daemon_threads import DaemonExecutor
from tests.cluster.processes import wait_until

NAME = "test-daemon"
SECONDS = 60.0

HANGS = """
import threading
from bubu_storage import ManagerSettings, StorageManager, StorageTimeoutError
from bubu_storage.backend.memory import MemoryBackend

class Silent(MemoryBackend):
    def get_object(self, key, **options):
        threading.Event().wait()

with StorageManager(ManagerSettings(timeout_seconds=0.2), Silent()) as storage:
    storage.put("runs/a.json", b"{}")
    try:
        storage.hydrate({"$bubuStorageRef": "runs/a.json"})
    except StorageTimeoutError:
        print("in time")
"""


def ours() -> list[threading.Thread]:
    """Return the executor's threads that there are."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture
def pool() -> Iterator[DaemonExecutor]:
    """Two threads at most; all ended afterwards."""
    made = DaemonExecutor(2, name=NAME)
    yield made
    made.shutdown(cancel_futures=True)
    assert ours() == []


def test_a_store_that_hangs_does_not_keep_a_process_whose_call_ran_out_of_time() -> None:
    """The error is raised in time, and then the process ends, by itself and with its own code."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", HANGS],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "in time\n", "")


def test_answers_and_errors_come_back(pool: DaemonExecutor) -> None:
    """Arguments are handed on; an error is raised as it is, one that is no Exception, too."""

    def fail(error: BaseException) -> None:
        raise error

    assert pool.submit(divmod, 7, 3).result(SECONDS) == (2, 1)
    assert pool.submit(int, "11", base=2).result(SECONDS) == 3
    for error in (ValueError("no"), SystemExit(3)):
        assert pool.submit(fail, error).exception(SECONDS) is error
    assert list(pool.map(str, range(5))) == ["0", "1", "2", "3", "4"]


def test_one_after_the_other_needs_one_thread_and_more_at_once_no_more_than_allowed(
    pool: DaemonExecutor,
) -> None:
    """Threads are started when there is more to do than there are, up to the limit."""
    for number in range(50):
        assert pool.submit(abs, -number).result(SECONDS) == number
    assert len(ours()) == 1

    go_on, both = threading.Event(), threading.Barrier(3)

    def meet() -> None:
        both.wait(SECONDS)
        go_on.wait(SECONDS)

    meeting = [pool.submit(meet) for _ in range(2)]
    later = [pool.submit(abs, -number) for number in range(20)]
    both.wait(SECONDS)
    assert len(ours()) == 2
    assert not any(future.done() for future in later)
    go_on.set()
    wait([*meeting, *later], SECONDS)
    assert [future.result() for future in later] == list(range(20))
    assert len(ours()) == 2


def test_what_nobody_has_begun_can_be_cancelled(pool: DaemonExecutor) -> None:
    """One by one, or all of it at the end; what is under way comes to its end."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> str:
        begun.release()
        go_on.wait(SECONDS)
        return "held"

    held = [pool.submit(hold) for _ in range(2)]
    one, two = pool.submit(hold), pool.submit(hold)
    for _ in held:
        assert begun.acquire(timeout=SECONDS)

    assert one.cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    pool.join(0.01)
    assert len(ours()) == 2, "a wait that has a limit"
    go_on.set()

    assert [future.result(SECONDS) for future in held] == ["held", "held"]
    with pytest.raises(CancelledError):
        two.result(SECONDS)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(hold)


def test_a_cancelled_task_leaves_its_thread_to_others(pool: DaemonExecutor) -> None:
    """Whoever is not done takes no place."""
    go_on = threading.Event()
    held = [pool.submit(go_on.wait, SECONDS) for _ in range(2)]
    cancelled = [pool.submit(abs, 1) for _ in range(5)]
    assert all(future.cancel() for future in cancelled)
    go_on.set()
    wait(held, SECONDS)

    assert pool.submit(abs, -1).result(SECONDS) == 1
    wait_until(lambda: pool._desk.unfinished == 0, SECONDS, "nothing to be left")


def test_let_go_of_it_does_what_it_was_given_and_ends() -> None:
    """As after a change of the number of threads: calls under way still get their answers."""
    go_on = threading.Event()
    pool = DaemonExecutor(1, name=NAME)
    first = pool.submit(go_on.wait, SECONDS)
    second = pool.submit(abs, -2)
    gone = weakref.ref(pool)
    del pool
    gc.collect()

    assert gone() is None
    go_on.set()
    assert (first.result(SECONDS), second.result(SECONDS)) == (True, 2)
    wait_until(lambda: not ours(), SECONDS, "the thread to end")


def test_an_error_keeps_nothing_alive_once_it_is_gone(pool: DaemonExecutor) -> None:
    """What a failed task held is free without the garbage collector."""

    class Large:
        pass

    def fail(_: Large) -> None:
        raise ValueError("no")

    held = Large()
    freed = weakref.ref(held)
    gc.disable()
    try:
        future = pool.submit(fail, held)
        assert isinstance(future.exception(SECONDS), ValueError)
        del held, future
        wait_until(lambda: freed() is None, SECONDS, "the argument to be free")
    finally:
        gc.enable()


def test_threads_are_prepared_once_each() -> None:
    """Before the first task of each."""
    prepared: list[str] = []
    pool = DaemonExecutor(1, name=NAME, initializer=lambda: prepared.append("x"))
    pool.submit(int).result(SECONDS)
    pool.submit(int).result(SECONDS)
    pool.shutdown()

    assert prepared == ["x"]


def test_without_a_thread_to_be_had_those_that_there_are_do_it(
    pool: DaemonExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where there is none at all does the caller hear of it."""
    go_on = threading.Event()
    held = pool.submit(go_on.wait, SECONDS)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        second = pool.submit(abs, -1)
        with pytest.raises(RuntimeError, match="new thread"):
            DaemonExecutor(1, name=NAME).submit(abs, -1)
    go_on.set()

    assert (held.result(SECONDS), second.result(SECONDS)) == (True, 1)
