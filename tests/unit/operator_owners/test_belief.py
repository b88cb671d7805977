"""Who is watched for vanishing, from the first reading of a pass to its last."""

from __future__ import annotations

from bubu_operator.owners.belief import Belief
from bubu_operator.owners.census import NO_CENSUS, Census, OwnersProblem, compare, missing_kinds
from bubu_operator.owners.extract import OwnerRecord
from bubu_operator.owners.kinds import DEFAULT_KINDS, STEP_RUN, STORY_RUN

NAMES = frozenset(kind.name for kind in DEFAULT_KINDS)


def named(letter, count):
    """Name as many runs."""
    return [f"n/{letter}{number}" for number in range(count)]


def reading(*live, ended=(), steps=()):
    """Make a reading of story runs, and of steps that are live."""
    records = [OwnerRecord(run, "1", live=True) for run in live]
    records += [OwnerRecord(run, "1", live=False) for run in ended]
    return {
        STORY_RUN.key: {record.run: record for record in records},
        STEP_RUN.key: {run: OwnerRecord(run, "1", live=True) for run in steps},
    }


def take(belief, *live, ended=(), steps=()):
    """Let a reading be believed, or not; return what is odd about it."""
    return belief.take(reading(*live, ended=ended, steps=steps), DEFAULT_KINDS)


def test_what_was_believed_is_counted_and_remembered():
    """Of all kinds together; who was live, and no other, is known by name."""
    belief = Belief(NO_CENSUS, "")

    assert take(belief, "n/a", "n/b", ended=["n/c"], steps=["n/a-1"]) is None

    assert belief.census == Census(3, 4, NAMES)
    assert belief.live == {STORY_RUN.key: {"n/a", "n/b"}, STEP_RUN.key: {"n/a-1"}}


def test_the_first_reading_of_all_may_be_empty():
    """Nobody was counted before it, so that nobody is missing."""
    assert Census(0, 0, frozenset()) == NO_CENSUS
    assert take(Belief(NO_CENSUS, "")) is None


def test_an_approval_outlives_an_upgrade():
    """The token of a finding is part of what people have written into their policies."""
    before = Census(10, 12, NAMES)

    assert compare(before, Census(4, 4, NAMES)).token == "c34cc1e99d7bef0e"
    assert missing_kinds(before, [STORY_RUN]).token == "8c897e794b8a3e2a"


def test_what_was_not_believed_changes_nothing():
    """The reading after it is compared with the same owners, and the finding is the same one."""
    belief = Belief(NO_CENSUS, "")
    take(belief, *named("x", 10))

    first, second = take(belief, "n/x0"), take(belief, "n/x0")

    assert first is not None
    assert first == second
    assert first.problem is OwnersProblem.LIVE_DROPPED
    assert belief.census == Census(10, 10, NAMES)
    assert belief.live == {STORY_RUN.key: frozenset(named("x", 10)), STEP_RUN.key: frozenset()}
    assert take(belief, *named("x", 5)) is None


def test_half_of_the_owners_may_vanish_and_no_more():
    """By names, in whatever kinds they are."""
    for left, is_odd in ((2, False), (1, True)):
        belief = Belief(NO_CENSUS, "")
        take(belief, "n/a", "n/b", steps=["n/a-1", "n/b-1"])
        runs = ["n/a", "n/b"][:left]
        assert (take(belief, *runs) is not None) == is_odd


def test_owners_that_came_between_two_passes_are_watched_from_the_first_reading_on():
    """Also if there are fewer of them than were live before: all that is known of them is that they live."""
    first = Belief(NO_CENSUS, "")
    take(first, *named("x", 10))
    second = Belief(first.census, "", first)

    assert take(second, *named("y", 8), ended=named("x", 10)) is None
    anomaly = take(second, ended=named("x", 10))

    assert anomaly is not None
    assert "of 8 live owners 8 are gone" in anomaly.message


def test_owners_that_came_during_a_pass_are_watched_once_there_are_more_of_them():
    """More than there were when it began; those that vanish then are missing."""
    belief = Belief(NO_CENSUS, "")
    take(belief, "n/x0", "n/x1")
    take(belief, "n/x0", "n/x1", *named("y", 10))

    anomaly = take(belief, "n/x0", "n/x1")

    assert anomaly is not None
    assert "of 12 live owners 10 are gone" in anomaly.message


def test_as_many_new_owners_as_have_vanished_do_not_make_those_forgotten():
    """The count is as at the beginning; who is missing stays so."""
    belief = Belief(NO_CENSUS, "")
    take(belief, *named("x", 10))

    assert take(belief, *named("x", 5)) is None
    assert take(belief, *named("x", 5), *named("y", 5)) is None
    assert take(belief, *named("x", 4), *named("y", 5)) is not None


def test_owners_that_were_seen_to_end_may_go_later():
    """One after the other, all of them; the others are watched still."""
    belief = Belief(NO_CENSUS, "")
    take(belief, *named("x", 10))
    assert take(belief, *named("x", 4), ended=["n/x4", "n/x5", "n/x6", "n/x7", "n/x8", "n/x9"]) is None

    assert take(belief, *named("x", 4)) is None
    assert take(belief) is None, "four of the ten that were live are missing"
    assert belief.census.live == 0


def test_a_drop_that_was_approved_is_not_asked_about_again():
    """From then on what is left is what counts."""
    unapproved = Belief(NO_CENSUS, "")
    take(unapproved, *named("x", 10))
    token = take(unapproved, "n/x0").token
    belief = Belief(NO_CENSUS, token)
    take(belief, *named("x", 10))

    assert take(belief, "n/x0") is None
    assert take(belief, "n/x0") is None
    assert belief.census == Census(1, 1, NAMES)
    assert "of 1 live owners 1 are gone" in take(belief).message


def test_only_what_left_this_very_census_is_remembered():
    """Else nobody knows who was live, and the counts have to do."""
    first = Belief(NO_CENSUS, "")
    take(first, *named("x", 10))

    assert Belief(first.census, "", first).live == first.live
    assert Belief(Census(9, 10, NAMES), "", first).live is None
    assert Belief(first.census, "").live is None


def test_a_kind_that_is_not_read_any_more_has_lost_all_its_owners():
    """They are missing like any others; that the kind itself is gone is told elsewhere."""
    belief = Belief(NO_CENSUS, "")
    take(belief, "n/a", steps=["n/a-1", "n/a-2"])

    anomaly = belief.take({STORY_RUN.key: reading("n/a")[STORY_RUN.key]}, [STORY_RUN])

    assert anomaly is not None
    assert "of 3 live owners 2 are gone" in anomaly.message
