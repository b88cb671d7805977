"""A dry run reads marks and leaves them as they are, also those that an enforcing pass would take away."""

from __future__ import annotations

import pytest

from tests.unit.retention.test_judge import ENDED, LIVE
from tests.unit.retention.test_owned_passes import OwnedWorld, orphan_spec


@pytest.mark.parametrize("owner", [LIVE, ENDED])
def test_the_mark_of_an_owned_run_stays(owner):
    """An enforcing pass would void it, since its owner was seen; a rehearsal only looks."""
    world = OwnedWorld()
    world.put("outputs/a/r1/x", 10)
    world.mark("outputs/a/r1/", 5)
    world.owners.owners = {"a/r1": owner}
    before = world.all_keys()
    report = world.run(orphan_spec(dry_run=True))

    assert report.complete_cycle
    assert before == world.all_keys()
    assert world.requests_of("put", "batch", "delete") == []
    assert world.marks() == ["outputs/a/r1/"]
