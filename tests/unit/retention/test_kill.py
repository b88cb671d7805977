"""kill -9 of a real process in the middle of real passes over a file store, again and again."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.unit.retention import sweeper_process

ROUNDS_KILLED_AT_WORK = 30
MOST_ROUNDS = 120
OLD = 2 * 86_400


def write(base: Path, key: str, age_seconds: float) -> None:
    """Put a file of this age, in one step, as pods do."""
    path = base / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    when = time.time() - age_seconds
    os.utime(path, (when, when))


def fill(base: Path, tag: str) -> set[str]:
    """Add due runs, small and larger than a pass, and runs that must stay; return the latter's keys."""
    kept: set[str] = set()
    for number in range(12):
        for member in range(6):
            write(base, f"outputs/a/{tag}-due{number:02}/o{member}", OLD)
    for member in range(60):
        write(base, f"outputs/a/{tag}-large/o{member:03}", OLD)
    for member in range(40):
        key = f"outputs/a/{tag}-mixed/o{member:03}"
        # The one young member comes last, behind more than a pass may delete.
        write(base, key, OLD if member < 39 else 60)
        kept.add(key)
    for member in range(4):
        key = f"outputs/a/{tag}-young/o{member}"
        write(base, key, 60)
        kept.add(key)
    write(base, f"outputs/a/{tag}-loose", OLD)
    kept.add(f"outputs/a/{tag}-loose")
    return kept


def present(base: Path) -> set[str]:
    """Return the keys of all files below the base."""
    return {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}


def start(base: Path, cursor: Path) -> subprocess.Popen[str]:
    """Start a sweeping process and wait until it begins."""
    process = subprocess.Popen(
        [sys.executable, sweeper_process.__file__, str(base), str(cursor)],
        stdout=subprocess.PIPE,
        text=True,
    )
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "the sweeping process did not start"
    assert process.stdout.readline() == "ready\n"
    return process


def test_nothing_kept_is_lost_to_kill_9_and_everything_due_goes(tmp_path):
    """At least thirty kills during work; after them a last run finishes the job."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    base, cursor = tmp_path / "store", tmp_path / "cursor.json"
    kept: set[str] = set()
    killed_at_work = killed_while_deleting = rounds = 0
    while killed_at_work < ROUNDS_KILLED_AT_WORK:
        assert rounds < MOST_ROUNDS, "the process was always faster than the kill"
        kept |= fill(base, f"t{rounds:03}")
        there = present(base)
        before = len(there)
        # Mostly when a certain object has gone, so that a slow machine is met in the middle, too.
        due = sorted(there - kept)
        awaited = base / chance.choice(due[:60])
        process = start(base, cursor)
        try:
            if chance.random() < 0.25:
                time.sleep(chance.uniform(0, 0.04))  # the moment of death: there is no condition to wait for
            else:
                deadline = time.monotonic() + 60
                while process.poll() is None and awaited.exists():
                    assert time.monotonic() < deadline, f"{awaited} stays"
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        finally:
            process.kill()
            output = process.stdout.read()
            process.stdout.close()
            process.wait(60)
        after = present(base)
        killed_at_work += process.returncode == -signal.SIGKILL and "done" not in output
        killed_while_deleting += process.returncode == -signal.SIGKILL and len(after) < before
        rounds += 1
        assert kept <= after, f"lost after {rounds} rounds (seed {seed}): {sorted(kept - after)[:5]}"

    process = start(base, cursor)
    output, _ = process.communicate(timeout=120)

    assert output == "done\n"
    assert present(base) == kept, f"seed {seed}"
    assert killed_while_deleting > ROUNDS_KILLED_AT_WORK // 4
