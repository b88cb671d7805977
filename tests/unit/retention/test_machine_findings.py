"""What the state machine found, each made small."""

from __future__ import annotations

from bubu_storage.errors import PermissionDeniedError
from bubu_storage.retention.spec import RetentionRule
from tests.unit.retention.test_owned_passes import GRACE, OwnedWorld, orphan_spec
from tests.unit.retention.world import DAY, spec_of


def test_marks_of_a_scope_with_no_runs_left_do_not_use_up_the_only_entry_of_a_pass():
    """The cursor stands at the end of one scope; the pass gets on to the next, however small its limits."""
    world = OwnedWorld()
    for scope in ("outputs/a/", "outputs/b/"):
        world.fill(scope + "r1/", 3, 60)
    spec = spec_of(
        scopes=("outputs/a/", "outputs/b/"),
        rules=(RetentionRule("outputs/a/", 30 * DAY), RetentionRule("outputs/b/", 30 * DAY)),
        max_scan=1,
        max_delete=1,
    )

    world.cycle(spec, most_passes=60)

    assert world.data() == []


def test_the_mark_of_the_run_before_the_cursor_stays():
    """A pass that begins behind a run does not take its mark, which sorts behind the members, for a stray."""
    world = OwnedWorld()
    for run in ("r1", "r2", "r3"):
        world.put(f"outputs/a/{run}/a", 60)
        world.put(f"outputs/a/{run}/e.json", 60)
    spec = orphan_spec(max_scan=3)

    world.cycle(spec)

    assert world.marks() == ["outputs/a/r1/", "outputs/a/r2/", "outputs/a/r3/"]
    world.time.advance(GRACE + 60)
    world.cycle(spec)
    assert world.data() == []


def test_marks_do_not_use_up_the_last_entry_of_a_look_at_a_run_that_is_half_gone():
    """A member that cannot be deleted comes first; the others still go, with two entries a pass."""
    world = OwnedWorld()
    for name in ("a", "m", "z"):
        world.put(f"outputs/a/r1/{name}", 60)
    world.mark("outputs/a/r1/", 20)
    world.backend.refuse = lambda key: PermissionDeniedError("retained") if key.endswith("/a") else None

    world.cycle(orphan_spec(max_scan=2, max_delete=2), most_passes=30)

    assert world.data() == ["outputs/a/r1/a"]
