"""Where the mark of a run is, and which keys are marks: what is none is never read, or removed, as one."""

from __future__ import annotations

import pytest

from bubu_storage.retention.mark_keys import MARKS_PREFIX, mark_key, run_of_mark

SCOPE = "outputs/team-a/"
RUN = "outputs/team-a/run-1/"


def test_a_mark_leads_back_to_its_run():
    """And it is where it is documented to be, since other versions look for it there."""
    assert mark_key(RUN) == ".bubu/retention/marks/outputs/team-a/run-1/mark"
    assert run_of_mark(mark_key(RUN), SCOPE) == RUN


@pytest.mark.parametrize(
    "key",
    [
        "x" * len(MARKS_PREFIX) + RUN + "mark",
        MARKS_PREFIX + RUN + "note",
        MARKS_PREFIX + RUN + "xmark",
        MARKS_PREFIX + RUN + "deeper/mark",
        MARKS_PREFIX + SCOPE + "mark",
        MARKS_PREFIX + "outputs/team-b/run-1/mark",
        MARKS_PREFIX + "mark",
        MARKS_PREFIX,
        RUN + "mark",
        "",
    ],
)
def test_other_keys_are_no_marks(key):
    """Other names, other scopes, and what is not of exactly one run directory."""
    assert run_of_mark(key, SCOPE) == ""
