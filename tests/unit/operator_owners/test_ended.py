"""When an owner has ended: where everybody agrees who has a say in its namespace, and nowhere else."""

from __future__ import annotations

import pytest

from bubu_operator.owners.kinds import OwnerKind, PhaseReader, has_ended

PATH = ("status", "phase")
STATE = ("status", "state")
DONE = frozenset({"Done"})


def flow(**status):
    """Make an object with a status."""
    return {"metadata": {"name": "f", "namespace": "team-a"}, "status": status}


def kind(*readers, is_borrowed=False):
    """Make a kind that has ended in the phase Done; a borrowed one has no phases of its own."""
    if is_borrowed:
        return OwnerKind("x.io", "v1", "Flow", readers=readers, is_borrowed=True)
    return OwnerKind("x.io", "v1", "Flow", PATH, DONE, readers)


@pytest.mark.parametrize("where", [None, frozenset({"team-a"}), frozenset({"team-a", "team-b"})])
@pytest.mark.parametrize("is_borrowed", [False, True])
def test_a_reader_that_has_a_say_holds_what_it_takes_for_live(where, is_borrowed):
    """Whatever the policy itself, or another reader, says."""
    readers = (PhaseReader(PATH, DONE), PhaseReader(STATE, DONE, where))

    held = has_ended(flow(phase="Done", state="Busy"), kind(*readers, is_borrowed=is_borrowed), "team-a")
    agreed = has_ended(flow(phase="Done", state="Done"), kind(*readers, is_borrowed=is_borrowed), "team-a")

    assert held is False
    assert agreed is True


def test_a_reader_of_other_namespaces_has_no_say():
    """Neither in a kind of the policy's own, nor in one that is borrowed."""
    stranger = PhaseReader(STATE, DONE, frozenset({"team-b"}))
    obj = flow(phase="Done", state="Busy")

    assert has_ended(obj, kind(stranger), "team-a") is True
    assert has_ended(obj, kind(stranger), "team-b") is False
    assert has_ended(obj, kind(PhaseReader(PATH, DONE), stranger, is_borrowed=True), "team-a") is True


def test_a_borrowed_owner_that_nobody_reads_is_live():
    """Nobody has said how one sees there that it has ended."""
    stranger = PhaseReader(PATH, DONE, frozenset({"team-b"}))

    assert has_ended(flow(phase="Done"), kind(stranger, is_borrowed=True), "team-a") is False
    assert has_ended(flow(phase="Done"), kind(is_borrowed=True), "team-a") is False


def test_neighbours_that_agree_do_not_end_what_the_policy_takes_for_live():
    """Its own way of reading counts besides theirs."""
    reader = PhaseReader(STATE, DONE)

    assert has_ended(flow(phase="Busy", state="Done"), kind(reader), "team-a") is False


@pytest.mark.parametrize("path", [(), PATH])
def test_a_reader_that_finds_no_phase_takes_an_owner_for_live(path):
    """It was not told where to look, or nothing stands there."""
    assert has_ended(flow(state="Done"), kind(PhaseReader(path, DONE), is_borrowed=True), "team-a") is False
