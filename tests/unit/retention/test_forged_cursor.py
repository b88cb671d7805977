"""A cursor that somebody wrote by hand: it wastes time at most, and reaches nothing outside the scopes."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from bubu_storage.backend.file import FileBackend
from bubu_storage.backend.memory import MemoryBackend
from bubu_storage.errors import ObjectNotFoundError
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.rules import RunFacts
from bubu_storage.retention.runner import run_pass
from bubu_storage.retention.tally import CycleTally
from tests.unit.retention.world import World, spec_of

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)

FOREIGN = [
    "outputs/b/run-1/",
    "outputs/a/../",
    "outputs/a/../b/",
    "outputs/a/../b/run-1/",
    "outputs/a//run-1/",
    "outputs/",
    "outputs/a/",
    "/",
    "../",
    ".bubu/",
    ".bubu/retention/",
]


def forged(prefix, phase, position=""):
    """Make a cursor that says that a run is old, seen whole and due."""
    facts = RunFacts(prefix, 3, 3, LONG_AGO, complete=phase is Phase.SWEEPING)
    return Cursor("", RunProgress(facts, phase, position), CycleTally(1 << 40))


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("prefix", FOREIGN)
@pytest.mark.parametrize("store", ["memory", "file"])
def test_a_run_that_is_none_of_the_scopes(tmp_path, prefix, phase, store):
    """Whatever path is written there, by whatever detour: nothing of others is touched."""
    theirs, own = ("outputs/b/run-1/x", ".bubu/retention/claim.json"), "outputs/a/run-1/x"
    backend = FileBackend(str(tmp_path)) if store == "file" else MemoryBackend()
    for key in (*theirs, own):
        backend.put_object(key, b"1")
        if isinstance(backend, FileBackend):
            os.utime(tmp_path / key, (1e9, 1e9))
        else:
            backend.set_last_modified(key, LONG_AGO)

    cursor = forged(prefix, phase, f"{prefix}x" if phase is Phase.SCANNING else "")
    report = run_pass(backend, spec_of(), cursor)
    for _ in range(2):
        report = run_pass(backend, spec_of(), report.cursor)

    assert all(backend.head_object(key) for key in theirs)
    with pytest.raises(ObjectNotFoundError):
        backend.head_object(own)


def test_a_young_run_of_the_scopes_that_is_said_to_be_old():
    """What is there is listed before it is deleted: the forged date lets nothing go."""
    world = World()
    world.fill("outputs/a/run-1/", 3, 2)
    world.cursor = forged("outputs/a/run-1/", Phase.SWEEPING)

    report = world.run(spec_of())

    assert report.deleted.objects == 0
    assert len(world.all_keys()) == 3


def test_a_young_member_that_the_cursor_says_was_dealt_with():
    """The run is listed whole before anything of it is deleted."""
    world = World()
    world.put("outputs/a/run-1/a", 0.1)
    world.put("outputs/a/run-1/b", 40)
    facts = RunFacts("outputs/a/run-1/", 1, 1, LONG_AGO, complete=True)
    world.cursor = Cursor("", RunProgress(facts, Phase.SWEEPING, "outputs/a/run-1/a"))

    assert world.run(spec_of()).deleted.objects == 0
    assert len(world.all_keys()) == 2
