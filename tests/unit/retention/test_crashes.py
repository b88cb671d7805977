"""The process dies at every single request, before, halfway through and after its effect."""

from __future__ import annotations

import pytest

from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.runner import run_pass
from bubu_storage.testing.fakes import CountingBackend, FaultBackend, SimulatedCrash, crash_points
from tests.unit.retention.world import World, spec_of

SPEC = spec_of(max_scan=9, max_delete=4)


def filled() -> World:
    """Runs of all sizes, larger and smaller than the limits of a pass, due and kept."""
    world = World()
    for name, count, age_days in [
        ("r0", 2, 40),
        ("r1", 12, 40),
        ("r2", 3, 1),
        ("r3", 11, 40),
        ("r4", 1, 40),
        ("r5", 4, 40),
        ("r6", 2, 0),
    ]:
        world.fill(f"outputs/a/{name}/", count, age_days)
    world.put("outputs/a/r3/zzz", 2)
    world.put("outputs/a/loose", 99)
    return world


KEPT = sorted(
    [f"outputs/a/r2/o{n:05}" for n in range(3)]
    + [f"outputs/a/r3/o{n:05}" for n in range(11)]
    + [f"outputs/a/r6/o{n:05}" for n in range(2)]
    + ["outputs/a/r3/zzz", "outputs/a/loose"]
)


class NoBatch:
    """Hides the capability to delete in batches."""

    def __init__(self, inner: MemoryBackend) -> None:
        self.name = inner.name
        self.list_objects = inner.list_objects
        self.delete_object = inner.delete_object
        self.server_time = inner.server_time
        self.put_object = inner.put_object
        self.get_object = inner.get_object
        self.head_object = inner.head_object
        self.close = inner.close


def work(world: World, backend, cursor: Cursor, save, concurrency: int = 1) -> None:
    """Run passes to the end of a cycle, saving the cursor at every checkpoint."""
    for _ in range(60):
        report = run_pass(
            backend,
            SPEC,
            cursor,
            monotonic=world.time.monotonic,
            sleep=world.time.sleep,
            wall_clock=world.time.now,
            on_checkpoint=lambda part: save(part.cursor),
            concurrency=concurrency,
        )
        cursor = report.cursor
        save(cursor)
        if report.complete_cycle:
            return
    raise AssertionError("no end of the cycle")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("batch", [True, False])
def test_a_crash_at_any_request_loses_nothing_and_the_next_pass_resumes(batch, concurrency):
    """Afterwards the same objects are there as without a crash; no cursor of a checkpoint leads astray."""
    wrap = (lambda store: store) if batch else NoBatch
    calm = filled()
    counting = CountingBackend(wrap(calm.store))
    work(calm, counting, Cursor(), lambda _cursor: None, concurrency)
    assert calm.all_keys() == KEPT

    points = 0
    for fault in crash_points(counting.total):
        world = filled()
        saved = [Cursor()]
        with pytest.raises(SimulatedCrash):
            work(world, FaultBackend(wrap(world.store), fault), Cursor(), saved.append, concurrency)
        assert set(KEPT) <= set(world.all_keys())

        # JSON is what a status keeps; the store gets its first pass after the crash.
        cursor = Cursor.from_dict(saved[-1].to_dict())
        work(world, wrap(world.store), cursor, lambda _cursor: None, concurrency)
        assert world.all_keys() == KEPT
        points += 1
    assert points == 3 * counting.total > 60


@pytest.mark.parametrize("position", range(0, 40, 3))
def test_resuming_from_an_older_cursor_is_harmless(position):
    """A status that was not written costs time, never data."""
    world = filled()
    saved = [Cursor()]
    work(world, world.backend, Cursor(), saved.append)

    work(world, world.backend, saved[position % len(saved)], lambda _cursor: None)

    assert world.all_keys() == KEPT
