"""The file backend between processes: writers killed in the middle, writers against pruners."""

from __future__ import annotations

import multiprocessing
import random
import time
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
    for _ in range(KILLS):
        steps = processes.Value("q", 0)
        writer = processes.Process(
            target=file_processes.write_for_ever, args=(str(tmp_path), steps), daemon=True
        )
        writer.start()
        kill_at = rng.randrange(1, 4 * file_processes.PIECES)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while steps.value < kill_at and writer.is_alive():
            assert time.monotonic() < deadline
        assert writer.is_alive(), "the writer ended by itself"
        writer.kill()
        writer.join()
        writer.close()
        keys = keys_of(store.list_objects())
        assert set(keys) <= {f"outputs/ns/run-{number}/output.json" for number in range(3)}
        for key in keys:
            with store.get_object(key) as found:
                content = found.read()
            assert file_processes.body(content[0]) == content
        interrupted += any(tmp_path.rglob(".bubu-tmp-*"))
        store.remove_leftovers(older_than_seconds=-1)
        assert [] == list(tmp_path.rglob(".bubu-tmp-*"))
    assert interrupted > KILLS // 4, "the kills were to hit writers at work"
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
