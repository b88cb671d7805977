"""Who reads which kinds when the owners of neighbours are joined to a policy's own."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_operator.owners.joined import NOTHING_JOINED, NeighbourOwners, join_kinds
from bubu_operator.owners.kinds import DEFAULT_KINDS, STEP_RUN, STORY_RUN, OwnerKind, PhaseReader, has_ended

TEAM_A, TEAM_B = frozenset({"team-a"}), frozenset({"team-b"})
PHASE, STATE = ("status", "phase"), ("status", "state")


def flow(*ended, path=PHASE, kind="Flow"):
    """Make a kind of owners."""
    return OwnerKind("x.io", "v1", kind, path, frozenset(ended))


def neighbour(*kinds, where=None, name="other"):
    """Make a neighbour that names kinds."""
    return NeighbourOwners(name, kinds, where)


def test_without_neighbours_nothing_is_joined():
    """Nor by one that reads what the policy reads, in the same way."""
    assert not NOTHING_JOINED
    assert not join_kinds(DEFAULT_KINDS, [])
    assert not join_kinds(DEFAULT_KINDS, [neighbour()])
    assert not join_kinds([*DEFAULT_KINDS, flow("Done")], [neighbour(flow("Done"))])
    assert join_kinds([flow("Done")], []).read(flow("Done")) == flow("Done")


def test_kinds_of_neighbours_that_the_policy_does_not_list_are_borrowed():
    """Each once, by name; the policy says nothing of how they end."""
    joined = join_kinds(
        DEFAULT_KINDS,
        [neighbour(flow("Done", kind="Late"), flow("Done")), neighbour(flow("Gone", path=STATE))],
    )

    assert joined
    assert not joined.readers
    assert [str(kind.key) for kind in joined.borrowed] == ["Flow.x.io", "Late.x.io"]
    assert all(kind.is_borrowed and kind.namespaces is None for kind in joined.borrowed)
    assert joined.borrowed[0].readers == (
        PhaseReader(PHASE, frozenset({"Done"})),
        PhaseReader(STATE, frozenset({"Gone"})),
    )


def test_a_borrowed_kind_counts_where_those_have_a_say_who_name_it():
    """Together; everywhere as soon as one has its say everywhere, whichever comes first."""
    narrow = [neighbour(flow("Done"), where=TEAM_A), neighbour(flow("Gone"), where=TEAM_B)]
    wide = neighbour(flow("Done"))

    (both,) = join_kinds(DEFAULT_KINDS, narrow).borrowed

    assert both.namespaces == TEAM_A | TEAM_B
    assert [reader.namespaces for reader in both.readers] == [TEAM_A, TEAM_B]
    for order in itertools.permutations([*narrow, wide]):
        (everywhere,) = join_kinds(DEFAULT_KINDS, order).borrowed
        assert everywhere.namespaces is None
        assert {reader.ended_phases: reader.namespaces for reader in everywhere.readers} == {
            frozenset({"Done"}): None,
            frozenset({"Gone"}): TEAM_B,
        }


@pytest.mark.parametrize(
    ("other", "reads"),
    [
        (flow("Done", "Failed"), False),
        (flow("Done", "Failed", "Lost"), False),
        (flow("Done"), True),
        (flow(), True),
        (flow("Done", "Lost"), True),
        (flow("Done", "Failed", path=STATE), True),
        (flow("Done", "Failed", "Lost", path=STATE), True),
    ],
)
def test_a_neighbour_reads_a_kind_of_the_policys_own_where_it_may_hold_more(other, reads):
    """By other phases or another field; one that ends no later adds nothing."""
    own = flow("Done", "Failed")

    joined = join_kinds([*DEFAULT_KINDS, own], [neighbour(other, where=TEAM_A)])

    readers = (PhaseReader(other.phase_path, other.ended_phases, TEAM_A),) if reads else ()
    assert joined.borrowed == ()
    assert joined.readers == ({own.key: readers} if reads else {})
    assert bool(joined) == reads
    assert joined.read(own).readers == readers
    assert joined.read(STORY_RUN) == STORY_RUN


def test_a_neighbour_that_names_nothing_reads_the_usual_kinds_as_usual():
    """Where the policy lists them and reads them otherwise; it makes nobody list them."""
    hasty = OwnerKind(STORY_RUN.group, STORY_RUN.version, STORY_RUN.kind, PHASE, frozenset({"Running"}))

    joined = join_kinds([hasty, STEP_RUN], [neighbour(where=TEAM_A)])

    assert joined.borrowed == ()
    assert joined.readers == {STORY_RUN.key: (PhaseReader(PHASE, STORY_RUN.ended_phases, TEAM_A),)}
    assert not join_kinds([], [neighbour()]), "it counts them only where they are served"


def test_one_of_the_usual_kinds_is_read_by_a_neighbour_together_with_the_other():
    """Who names StoryRuns reads StepRuns as well."""
    story = OwnerKind(STORY_RUN.group, STORY_RUN.version, STORY_RUN.kind, PHASE, frozenset({"Succeeded"}))

    joined = join_kinds([flow()], [neighbour(story)])

    assert [kind.key for kind in joined.borrowed] == [STEP_RUN.key, STORY_RUN.key]


def test_a_borrowed_kind_that_becomes_the_policys_own_is_read_by_its_neighbours_still():
    """It has come to be served since the kinds were joined."""
    joined = join_kinds([flow()], [neighbour(STORY_RUN, where=TEAM_A)])

    read = joined.read(STORY_RUN)

    assert read.readers == (PhaseReader(PHASE, STORY_RUN.ended_phases, TEAM_A),)
    assert not read.is_borrowed
    assert read.namespaces is None


phases = st.frozensets(st.sampled_from(["Done", "Failed", "Lost"]), max_size=3)
kinds = st.builds(lambda ended, path: flow(*ended, path=path), phases, st.sampled_from([(), PHASE, STATE]))
neighbours = st.builds(
    lambda kind, where: neighbour(kind, where=where), kinds, st.sampled_from([None, TEAM_A, TEAM_B])
)


@given(
    st.none() | kinds,
    st.lists(neighbours, min_size=1, max_size=4),
    st.sampled_from(["team-a", "team-b"]),
    st.sampled_from(["Done", "Failed", "Busy"]),
    st.sampled_from(["Done", "Failed", "Busy"]),
)
def test_an_owner_is_let_go_only_where_all_who_have_a_say_let_it_go(own, others, namespace, phase, state):
    """For any policies: joined, they hold exactly what one of them holds alone."""
    obj = {"metadata": {"name": "f", "namespace": namespace}, "status": {"phase": phase, "state": state}}
    joined = join_kinds(DEFAULT_KINDS if own is None else [*DEFAULT_KINDS, own], others)
    having_a_say = [
        one.kinds[0] for one in others if one.namespaces is None or namespace in one.namespaces
    ] + ([] if own is None else [own])

    read = joined.borrowed[0] if own is None else joined.read(own)

    alone = [has_ended(obj, each, namespace) for each in having_a_say]
    assert has_ended(obj, read, namespace) == (bool(alone) and all(alone))
