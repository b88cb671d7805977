"""Random stores with random owners, references and marks: what is planned happens, what must stay stays."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from bubu_storage.retention.cursor import Cursor
from bubu_storage.retention.owners import OwnerFacts
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.spec import PassSpec, RetentionRule
from tests.unit.retention.test_owned_passes import OwnedWorld
from tests.unit.retention.world import DAY, spec_of

NAMES = ("r1", "r1-x", "r2", "r3", "r4", "r5")
GRACE = 2 * DAY


@dataclass(frozen=True)
class Run:
    """One run as it is found."""

    age_days: float
    members: int
    owner: OwnerFacts | None
    mark_days: float | None
    refers_to: tuple[str, ...]


runs = st.builds(
    Run,
    st.sampled_from([0.1, 3.0, 29.0, 31.0, 90.0]),
    st.integers(1, 5),
    st.none()
    | st.builds(OwnerFacts, st.sampled_from([True, False, False]), st.sampled_from([None, 1, 3, 4, 9])),
    st.none() | st.sampled_from([0.5, 2.5, 20.0, 60.0]),
    st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
)
rule_sets = st.sampled_from(
    [
        (RetentionRule("outputs/a/", 30 * DAY),),
        (RetentionRule("outputs/a/", None, 3),),
        (RetentionRule("outputs/a/", None, 3, GRACE),),
        (RetentionRule("outputs/a/", 30 * DAY, 3, GRACE),),
        (RetentionRule("outputs/a/", None, 3, GRACE), RetentionRule("outputs/a/r2/", 60 * DAY)),
        (RetentionRule("outputs/a/", None, 3, GRACE), RetentionRule("outputs/a/r3/", None, 5)),
    ]
)


def world_of(found: dict[str, Run]) -> OwnedWorld:
    """Build the store; live runs refer to their own document, which refers to others."""
    world = OwnedWorld()
    for name, run in found.items():
        prefix = f"outputs/a/{name}/"
        world.fill(prefix, run.members, run.age_days)
        document = [{"$bubuStorageRef": f"outputs/a/{other}/doc.json"} for other in run.refers_to]
        world.store.put_object(
            prefix + "doc.json", json.dumps({"contentType": "json", "data": document}).encode()
        )
        age = world.listed(prefix + "o")[0].last_modified
        world.store.set_last_modified(prefix + "doc.json", age)
        if run.mark_days is not None:
            world.mark(prefix, run.mark_days)
        if run.owner is not None:
            world.owners.owners[f"a/{name}"] = run.owner
            if run.owner.live:
                world.owners.refer_to(prefix + "doc.json")
    return world


def protected(found: dict[str, Run]) -> set[str]:
    """Return live runs and what can be reached from them. Written anew, not with the code under test."""
    reached = {name for name, run in found.items() if run.owner is not None and run.owner.live}
    while True:
        further = {other for name in reached if name in found for other in found[name].refers_to}
        if further <= reached:
            return reached
        reached |= further


def may_go(name: str, run: Run, rules: tuple[RetentionRule, ...]) -> bool:
    """Say whether every rule lets an unprotected run go."""
    for rule in rules:
        if not f"outputs/a/{name}/".startswith(rule.prefix):
            continue
        if rule.keep_within_seconds is not None and run.age_days * DAY <= rule.keep_within_seconds:
            return False
        if rule.keep_last_runs is None:
            continue
        if run.owner is not None:
            if run.owner.rank is None or run.owner.rank <= rule.keep_last_runs:
                return False
        elif rule.orphan_grace_seconds is None or run.mark_days is None:
            return False
        else:
            # A mark counts from the grace on for thirty days, and only if the run is older than it.
            counts = 2 < run.mark_days <= 32 and run.mark_days < run.age_days
            if not counts:
                return False
    return run.age_days > 1


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    found=st.dictionaries(st.sampled_from(NAMES), runs, min_size=1),
    rules=rule_sets,
    max_scan=st.integers(1, 40),
    max_delete=st.integers(1, 12),
    is_shared=st.booleans(),
)
def test_what_goes_is_exactly_what_the_contract_lets_go(found, rules, max_scan, max_delete, is_shared):
    """Planned dry, then enforced, in passes of any size; kept runs stay whole, marks do not outlive use."""
    world = world_of(found)
    spec = spec_of(rules=rules, max_scan=max_scan, max_delete=max_delete)
    orphans_stay = is_shared and any(rule.keep_last_runs for rule in rules)
    kept = protected(found)
    expected = {
        name
        for name, run in found.items()
        if name not in kept and may_go(name, run, rules) and not (orphans_stay and run.owner is None)
    }
    before = world.listed()
    run_cycle(world, replace(spec, dry_run=True), is_shared)
    assert world.listed() == before
    planned = {outcome.prefix for outcome in world.outcomes if outcome.reason is Reason.DUE}
    event(f"due: {len(planned)}")

    run_cycle(world, spec, is_shared)

    left = {key.split("/")[2] for key in world.data()}
    assert {prefix.split("/")[2] for prefix in planned} == expected
    assert set(found) - left == expected
    for name in left:
        assert len(world.all_keys(f"outputs/a/{name}/")) == found[name].members + 1
    for marked in world.marks():
        name = marked.split("/")[2]
        if max_scan >= 40:
            assert name not in expected
            assert name not in found or found[name].owner is None


def run_cycle(world: OwnedWorld, spec: PassSpec, is_shared: bool) -> None:
    """Run passes to the end of a cycle."""
    world.cursor = Cursor()
    for _ in range(200):
        if world.run(spec, shared_store=is_shared).complete_cycle:
            return
    raise AssertionError("the cycle did not end")


def test_what_live_runs_reach_is_told_without_the_code_under_test():
    """The oracle above follows references, also to what does not exist, and from nothing that has ended."""
    ended = OwnerFacts(live=False, rank=9)
    found = {
        "r1": Run(9, 1, OwnerFacts(live=True), None, ("r2", "r9")),
        "r2": Run(9, 1, None, None, ("r3",)),
        "r3": Run(9, 1, None, None, ()),
        "r4": Run(9, 1, ended, None, ("r5",)),
    }

    assert protected(found) == {"r1", "r2", "r3", "r9"}
