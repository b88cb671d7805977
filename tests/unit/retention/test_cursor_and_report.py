"""Cursors and reports travel as JSON and come back the same; anything else is refused."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bubu_storage.errors import ConfigurationError, UnavailableError
from bubu_storage.retention.cursor import Cursor, Phase, RunProgress
from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.report import ErrorSample, Mode, PassReport, StoppedBy, Tally
from bubu_storage.retention.rules import RunFacts
from tests.unit.retention.world import START

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    """Any cursor."""
    if not draw(st.booleans()):
        return Cursor(draw(texts))
    prefix = draw(texts) + "/"
    phase = draw(st.sampled_from(Phase))
    facts = RunFacts(
        prefix,
        draw(st.integers(0, 10**9)),
        draw(st.integers(0, 10**15)),
        draw(st.none() | st.timedeltas(timedelta(-9999), timedelta(9999)).map(lambda delta: START + delta)),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 9)),
        complete=phase is Phase.SWEEPING,
    )
    return Cursor(draw(texts), RunProgress(facts, phase, draw(st.just("") | texts.map(lambda t: prefix + t))))


@given(cursor=cursors())
def test_a_cursor_survives_json(cursor):
    """What the status holds brings the pass back to exactly where it was."""
    assert Cursor.from_dict(json.loads(json.dumps(cursor.to_dict()))) == cursor


def test_an_empty_mapping_is_the_start_of_a_cycle():
    """Status fields that were never written need no special case."""
    assert Cursor.from_dict({}) == Cursor()
    assert Cursor().is_start
    assert not Cursor("a").is_start
    assert not Cursor("", RunProgress(RunFacts("o/r/"), Phase.SCANNING, "o/r/a")).is_start


def test_a_cursor_in_the_middle_of_a_run_names_it():
    """The run is told with the facts."""
    assert RunProgress(RunFacts("o/r/"), Phase.SCANNING, "o/r/a").prefix == "o/r/"


RUN = {
    "prefix": "o/r/",
    "phase": "Scanning",
    "position": "o/r/a",
    "newest": START.isoformat(),
    "objects": 1,
    "bytes": 1,
    "undated": 0,
    "reserved": 0,
}


@pytest.mark.parametrize(
    "data",
    [
        {"after": 3},
        {"after": None},
        {"run": []},
        {"run": {}},
        {"run": RUN | {"phase": "Dreaming"}},
        {"run": RUN | {"position": "o/other/a"}},
        {"run": RUN | {"prefix": "o/r"}},
        {"run": RUN | {"newest": "yesterday"}},
        {"run": RUN | {"newest": "2030-01-01T00:00:00"}},
        {"run": RUN | {"newest": 5}},
        {"run": RUN | {"objects": -1}},
        {"run": RUN | {"objects": True}},
        {"run": RUN | {"objects": 1.5}},
        {"run": RUN | {"bytes": "1"}},
        {"run": {key: value for key, value in RUN.items() if key != "reserved"}},
    ],
)
def test_a_damaged_cursor_is_refused_with_the_way_out(data):
    """A hand-edited status is an error that names itself, not a crash and not a guess."""
    with pytest.raises(ConfigurationError, match="start again with an empty one"):
        Cursor.from_dict(data)


def report() -> PassReport:
    """Return a report with every field filled."""
    return PassReport(
        mode=Mode.ENFORCE,
        started_at=START,
        finished_at=START + timedelta(seconds=5),
        duration_seconds=5.0,
        server_time=START + timedelta(seconds=1),
        clock_skew_seconds=1.0,
        scanned=30,
        relisted=3,
        requests=9,
        attempted=4,
        runs_scanned=5,
        by_reason={
            Reason.KEPT_WITHIN: Tally(10, 100),
            Reason.KEPT_RUN_TAIL: Tally(1, 1),
            Reason.DELETED: Tally(3, 30),
            Reason.DELETE_FAILED: Tally(1, 10),
            Reason.DUE_DEFERRED: Tally(7, 70),
        },
        oldest_overdue_seconds=60.0,
        oldest_overdue_key="o/r/",
        worst_lag_seconds=90.0,
        cursor=Cursor("o/q/z"),
        stopped_by=StoppedBy.MAX_DELETE,
        message="4 of 4 deletions are used",
        error_count=1,
        errors=(ErrorSample("o/r/a", "UnavailableError", "refused"),),
    )


def test_a_report_survives_json():
    """What a pass process writes is what the controller reads."""
    assert PassReport.from_dict(json.loads(json.dumps(report().to_dict()))) == report()


def test_a_checkpoint_survives_json():
    """Unfinished reports have no end, no store clock and no reason yet."""
    early = PassReport(mode=Mode.DRY_RUN, started_at=START)

    assert PassReport.from_dict(json.loads(json.dumps(early.to_dict()))) == early


def test_sums_follow_from_the_reasons():
    """kept, due, deleted and failed are what their reasons add up to, and are in the JSON."""
    done = report()

    assert done.kept == Tally(11, 101)
    assert done.due == Tally(11, 110)
    assert done.deleted == Tally(3, 30)
    assert done.failed == Tally(1, 10)
    assert done.to_dict()["due"] == {"objects": 11, "bytes": 110}


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "Maybe"},
        {"byReason": {"KeptBecause": {"objects": 1, "bytes": 1}}},
        {"stoppedBy": "Rain"},
        {"startedAt": None},
        {"errors": [{"nope": 1}]},
        {"cursor": {"after": 1}},
    ],
)
def test_a_foreign_mapping_is_no_report(changes):
    """A report of another version or origin is refused."""
    with pytest.raises(ConfigurationError):
        PassReport.from_dict(report().to_dict() | changes)
    with pytest.raises(ConfigurationError, match="no retention report"):
        PassReport.from_dict({})


def test_error_samples_are_short():
    """A store's page-long answer does not end up in a status."""
    sample = ErrorSample.of(UnavailableError("x" * 10_000, key="k"))

    assert (sample.key, sample.error, len(sample.message)) == ("k", "UnavailableError", 500)
