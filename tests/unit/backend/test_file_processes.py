"""The file backend between processes: writers killed in the middle, writers against pruners."""

from __future__ import annotations

import multiprocessing
import random
import signal
from typing import TYPE_CHECKING

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.testing.acceptance import keys_of
from tests.unit.backend import file_processes

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

KILLS = 60
DEADLINE_SECONDS = 60.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Cheap fresh processes that share nothing with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.backend.file_processes"])
    return context


def test_killed_writers_tear_nothing(tmp_path: Path, processes: ForkServerContext) -> None:
    """SIGKILL at any moment: every object stays whole, and what was half-written is never listed."""
    store = FileBackend(tmp_path, fsync=False)
    rng = random.Random(7)
    interrupted = 0
    for number in range(KILLS):
        ours, theirs = processes.Pipe()
        writer = processes.Process(
            target=file_processes.write_for_ever,
            args=(str(tmp_path), theirs, rng.randrange(1, 5 * file_processes.PIECES)),
            kwargs={"stop_there": number % 2 == 0},
            daemon=True,
        )
        writer.start()
        theirs.close()
        assert ours.poll(DEADLINE_SECONDS), "the writer does not write"
        ours.recv()
        writer.kill()
        writer.join()
        assert -signal.SIGKILL == writer.exitcode
        writer.close()
        ours.close()
        keys = keys_of(store.list_objects())
        assert set(keys) <= {f"outputs/ns/run-{number}/output.json" for number in range(3)}
        for key in keys:
            with store.get_object(key) as found:
                content = found.read()
            assert file_processes.body(content[0]) == content
        interrupted += any(tmp_path.rglob(".bubu-tmp-*"))
        store.remove_leftovers(older_than_seconds=-1)
        assert [] == list(tmp_path.rglob(".bubu-tmp-*"))
    assert interrupted >= KILLS // 2, "every other writer was in the middle of an object"
    assert 3 == len(keys_of(store.list_objects()))


def test_writers_survive_pruning_by_others(tmp_path: Path, processes: ForkServerContext) -> None:
    """Directories come and go under writers in other processes; no write fails and none is lost."""
    workers = [
        processes.Process(target=file_processes.churn, args=(str(tmp_path), number, 300), daemon=True)
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    assert [0] * 4 == [worker.exitcode for worker in workers]
    for worker in workers:
        worker.close()
    store = FileBackend(tmp_path, fsync=False)
    assert [f"outputs/ns/run-0/{number}.json" for number in range(4)] == keys_of(store.list_objects())
    assert [] == list(tmp_path.rglob(".bubu-tmp-*"))
