"""Who is live, who is newest, what is referred to: against slow and simple answers to the same questions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.owners.extract import OwnerRecord
from bubu_operator.owners.kinds import STEP_RUN, STORY_RUN, KindKey
from bubu_operator.owners.relations import combine, rank_story_runs, relate
from bubu_storage.retention.owners import OwnerFacts

STORY, STEP, OTHER = STORY_RUN.key, STEP_RUN.key, KindKey("x.io", "Flow")


def story(run, *, live=True, created=0, of="n:s", parents=(), references=()):
    """Make a story run."""
    return OwnerRecord(
        run, "1", live, created, of, run, tuple((STORY, p) for p in parents), tuple(references)
    )


def step(run, of, *, live=True, parents=(), references=()):
    """Make a step run."""
    kin = ((STORY, of), *((STORY, p) for p in parents))
    return OwnerRecord(run, "1", live, 0, "", of, kin, tuple(references))


def reading(*, stories=(), steps=(), others=()):
    """Make a reading."""
    return {
        STORY: {record.run: record for record in stories},
        STEP: {record.run: record for record in steps},
        OTHER: {record.run: record for record in others},
    }


def judge(current, before=None):
    """Relate a reading that was read twice alike, unless told otherwise."""
    return relate(current, current if before is None else before)


def test_a_step_of_a_live_story_run_is_live():
    """Whatever its own phase; and it has the rank of its story run."""
    related = judge(reading(stories=[story("n/r")], steps=[step("n/r-a", "n/r", live=False)]))

    assert related.owners["n/r-a"] == OwnerFacts(live=True, rank=1)


def test_children_of_live_runs_are_live_to_any_depth():
    """A story run that was started by one that was started by a live one."""
    runs = [
        story("n/a"),
        story("n/b", live=False, parents=["n/a"]),
        story("n/c", live=False, parents=["n/b"]),
    ]

    related = judge(reading(stories=runs, steps=[step("n/c-1", "n/c", live=False)]))

    assert all(facts.live for facts in related.owners.values())


def test_life_does_not_go_upwards():
    """A live child says nothing of the one that started it."""
    related = judge(reading(stories=[story("n/a", live=False), story("n/b", parents=["n/a"])]))

    assert related.owners["n/a"].live is False


def test_circles_of_parents_end():
    """They are possible to write; they are as live as one of them."""
    circle = [story("n/a", live=False, parents=["n/b"]), story("n/b", live=False, parents=["n/a"])]
    lit = [*circle, step("n/x", "n/x")]

    assert not any(facts.live for facts in judge(reading(stories=circle)).owners.values())
    circle[0] = story("n/a", live=True, parents=["n/b"])
    assert all(facts.live for facts in judge(reading(stories=circle, steps=lit[2:])).owners.values())


def test_references_count_only_while_their_owner_lives():
    """By itself, or by a parent."""
    runs = [story("n/a", references=["x"]), story("n/b", live=False, references=["y"])]
    steps = [
        step("n/a-1", "n/a", live=False, references=["z"]),
        step("n/b-1", "n/b", live=False, references=["w"]),
    ]

    assert judge(reading(stories=runs, steps=steps)).references == {"x", "z"}


def test_ranks_go_by_creation_then_name():
    """Within a story of a namespace; 1 is the newest."""
    runs = {
        r.run: r
        for r in (
            story("n/a", created=5),
            story("n/b", created=9),
            story("n/c", created=5),
            story("n/d", created=1, of="n:t"),
            story("n/e", of=""),
        )
    }

    assert rank_story_runs(runs) == {"n/b": 1, "n/c": 2, "n/a": 3, "n/d": 1}


def test_without_a_story_there_is_no_rank():
    """Nor for a step whose story run is gone; unknown keeps."""
    related = judge(
        reading(stories=[story("n/a", of="", live=False)], steps=[step("n/x-1", "n/x", live=False)])
    )

    assert set(related.owners.values()) == {OwnerFacts(live=False, rank=None)}


def test_a_run_with_two_owners_has_the_best_of_both():
    """Of the same name, of different kinds: live wins, the newer rank wins, an unknown rank wins."""
    old = [story("n/new", created=9, live=False), story("n/r", created=1, live=False)]
    ranked = judge(reading(stories=old, steps=[step("n/r", "n/new", live=False)]))
    unknown = judge(reading(stories=old, others=[OwnerRecord("n/r", "1", live=True)]))

    assert ranked.owners["n/r"] == OwnerFacts(live=False, rank=1)
    assert unknown.owners["n/r"] == OwnerFacts(live=True, rank=None)


def test_nothing_is_let_go_by_one_reading_alone():
    """Ended, changed or gone since the reading before: held until the next one says so, too."""
    before = reading(stories=[story("n/a", references=["x"]), story("n/b", references=["y"])])
    after = reading(stories=[story("n/a", live=False)])

    first, second = relate(after, before), relate(after, after)

    assert first.owners["n/a"].live
    assert first.owners["n/b"] == OwnerFacts(live=True, rank=None)
    assert first.references == {"x", "y"}
    assert second.owners == {"n/a": OwnerFacts(live=False, rank=1)}
    assert second.references == frozenset()


def test_a_reference_that_is_handed_on_between_two_lists_is_never_missed():
    """It went from an owner that ended to one that was made after its kind had been listed."""
    start = reading(stories=[story("n/giver", references=["precious"])])
    mixed = reading(stories=[story("n/giver", live=False)])
    later = reading(
        stories=[story("n/giver", live=False)], steps=[step("n/taker", "n/giver", references=["precious"])]
    )

    assert "precious" in relate(mixed, start).references
    assert "precious" in relate(later, mixed).references


def test_one_that_is_gone_does_not_push_others_down():
    """Its place is taken at once: the next newest counts as the newest."""
    before = reading(stories=[story("n/a", created=1, live=False), story("n/b", created=2, live=False)])
    after = reading(stories=[story("n/a", created=1, live=False)])

    assert relate(after, before).owners == {
        "n/a": OwnerFacts(live=False, rank=1),
        "n/b": OwnerFacts(live=False, rank=None),
    }


def test_combining_equal_readings_costs_nothing():
    """The very same maps are used again."""
    current = reading(stories=[story("n/a")])

    assert all(combine(current, current)[kind] is current[kind] for kind in current)


# -- against an oracle -------------------------------------------------------------------

runs = st.sampled_from([f"n/{letter}" for letter in "abcdef"])
stories = st.builds(
    story,
    runs,
    live=st.booleans(),
    created=st.integers(0, 3),
    of=st.sampled_from(["", "n:s", "n:t"]),
    parents=st.lists(runs, max_size=2),
    references=st.lists(st.sampled_from("uvwxyz"), max_size=2),
)
steps = st.builds(
    step,
    runs,
    runs,
    live=st.booleans(),
    parents=st.lists(runs, max_size=1),
    references=st.lists(st.sampled_from("uvwxyz"), max_size=2),
)
readings = st.builds(reading, stories=st.lists(stories, max_size=6), steps=st.lists(steps, max_size=6))


def oracle_live(world):
    """Say who is live, by applying the rule until nothing changes."""
    live = {(kind, run) for kind in world for run, record in world[kind].items() if record.live}
    while True:
        more = {
            (kind, run)
            for kind in world
            for run, record in world[kind].items()
            if any(parent in live for parent in record.parents)
        } - live
        if not more:
            return live
        live |= more


def oracle_rank(world, record):
    """Count the story runs of the same story that are newer."""
    own = world[STORY].get(record.ranked_as)
    if own is None or not own.story:
        return None
    newer = [
        r
        for r in world[STORY].values()
        if r.story == own.story and (r.created, r.run) > (own.created, own.run)
    ]
    return 1 + len(newer)


@given(readings)
def test_life_ranks_and_references_agree_with_the_oracle(world):
    """For any relations, circles and strangers included."""
    related = judge(world)
    live = oracle_live(world)

    assert related.owners.keys() == {run for kind in world for run in world[kind]}
    for run, facts in related.owners.items():
        mine = [(kind, world[kind][run]) for kind in world if run in world[kind]]
        ranks = [oracle_rank(world, record) for _, record in mine]
        assert facts.live == any((kind, run) in live for kind, _ in mine)
        assert facts.rank == (None if None in ranks else min(ranks))
    assert related.references == {key for kind, run in live for key in world[kind][run].references}


@given(readings, readings)
def test_two_readings_protect_what_either_of_them_does(before, after):
    """For any change at all."""
    both = relate(after, before)

    for world in (before, after):
        alone = judge(world)
        assert alone.references <= both.references
        assert {run for run, facts in alone.owners.items() if facts.live} <= {
            run for run, facts in both.owners.items() if facts.live
        }
        assert alone.owners.keys() <= both.owners.keys()
